//! The same in a directory of the operating system: whose it is, and who may read it.
use std::fs;

use spool::segments::{Error, Limits, Mark, Spool};

const LIMITS: Limits = Limits { max_bytes: 1 << 30, segment_bytes: 50_000 };

#[test]
fn it_comes_back_from_a_directory() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("a/b");
    let rows = b"a row of a table and another one".repeat(50);
    let spool = Spool::open(&path, LIMITS).unwrap();
    let id = spool.id();
    for number in 1..=500 {
        spool.append(&rows, Mark { through_lsn: number, last: None }).unwrap();
    }
    spool.sync().unwrap();
    let stored = spool.stored_bytes();
    assert!(stored * 5 < 500 * rows.len() as u64, "compressed: {stored}");
    drop(spool);
    let spool = Spool::open(&path, LIMITS).unwrap();
    assert_eq!((spool.id(), spool.stored_bytes(), spool.pending()), (id, stored, 500));
    let mut block = Vec::new();
    for number in 1..=500 {
        let entry = spool.read(&mut block).unwrap().unwrap();
        assert_eq!((entry.sequence, entry.mark.through_lsn, &block), (number, number, &rows));
        spool.release(number).unwrap();
    }
    assert!(spool.read(&mut block).unwrap().is_none());
    // The last segment, the id and the lock.
    assert_eq!(fs::read_dir(&path).unwrap().count(), 3);
}

#[test]
fn it_has_one_owner_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path(), LIMITS).unwrap();
    let error = Spool::open(directory.path(), LIMITS).unwrap_err();
    let path = directory.path().display();
    assert_eq!(error.to_string(), format!("the spool in {path} belongs to another process"));
    assert!(matches!(error, Error::Locked { .. }));
    drop(spool);
    Spool::open(directory.path(), LIMITS).unwrap();
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("spool");
    let spool = Spool::open(&path, LIMITS).unwrap();
    spool.append(b"a row", Mark::default()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 3);
    for name in names {
        assert_eq!(fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o600, "{}", name.display());
    }
}

#[test]
fn a_place_where_none_can_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Spool::open(&file.path().join("spool"), LIMITS).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}/spool cannot be opened: ", file.path().display())), "{error}");
}

#[test]
fn one_thread_appends_while_another_one_reads() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path(), LIMITS).unwrap();
    let content = |number: u64| number.to_string().repeat(50).into_bytes();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=2000 {
                spool.append(&content(number), Mark::default()).unwrap();
                if number % 500 == 0 {
                    spool.sync().unwrap();
                }
            }
        });
        let (mut next, mut block) = (1, Vec::new());
        while next <= 2000 {
            match spool.read(&mut block).unwrap() {
                Some(entry) => {
                    assert_eq!((entry.sequence, &block), (next, &content(next)));
                    spool.release(next).unwrap();
                    next += 1;
                }
                None => std::thread::yield_now(),
            }
        }
    });
    assert_eq!(spool.pending(), 0);
}
