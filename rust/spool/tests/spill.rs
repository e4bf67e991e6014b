//! What is written to spill files comes back, or an error says that it does not; nothing is left in the directory.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::indexing_slicing)]
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
#[cfg(unix)]
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use pgoutput::assembler::storage::{File as _, Storage as _};
use proptest::prelude::*;
use spool::spill::{Error, File, Spill};

fn spill() -> Spill {
    Spill::new(None, u64::MAX)
}

fn read_all(file: &mut File) -> Result<Vec<Vec<u8>>, Error> {
    file.rewind()?;
    let (mut blocks, mut block) = (Vec::new(), Vec::new());
    while file.read(&mut block)? {
        blocks.push(block.clone());
    }
    Ok(blocks)
}

/// The file as the operating system has it, under the only name by which it can be reached.
fn open_again(directory: &std::path::Path) -> fs::File {
    let directory = directory.canonicalize().unwrap();
    let links = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let path = links.filter(|link| fs::read_link(link).is_ok_and(|target| target.starts_with(&directory))).last();
    fs::File::options().read(true).write(true).open(path.unwrap()).unwrap()
}

/// What of the process is in memory and in no file.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn files_take_no_memory() {
    let block = vec![b'x'; 8 << 20];
    let mut spill = spill();
    let mut files: Vec<File> = Vec::new();
    let before = resident();
    for _ in 0..20 {
        let mut file = spill.create().unwrap();
        file.append(&block).unwrap();
        files.push(file);
    }
    // Other tests run at the same time; a buffer for each file would be 160 MiB.
    assert!(resident() < before + (80 << 20), "{} files take {}", files.len(), resident() - before);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_comes_back(blocks in prop::collection::vec((any::<u8>(), 0..5000_usize, any::<bool>()), 0..20)) {
        let mut spill = spill();
        let mut file = spill.create().unwrap();
        let block = |(byte, length, is_even): (u8, usize, bool)| -> Vec<u8> {
            (0..length).map(|at| if is_even { byte } else { byte.wrapping_mul(u8::try_from(at % 251).unwrap()) }).collect()
        };
        let blocks: Vec<Vec<u8>> = blocks.into_iter().map(block).collect();
        for block in &blocks {
            file.append(block).unwrap();
        }
        prop_assert_eq!(read_all(&mut file).unwrap(), blocks);
        prop_assert_eq!(spill.stored_bytes(), file.stored_bytes());
        drop(file);
        prop_assert_eq!(spill.stored_bytes(), 0);
    }
}

#[test]
fn rows_that_are_alike_take_less_room() {
    let mut file = spill().create().unwrap();
    let rows: Vec<u8> = (0..10_000).flat_map(|number| format!("row {number} of a table\0").into_bytes()).collect();
    file.append(&rows).unwrap();
    assert!(file.stored_bytes() * 2 < rows.len() as u64);
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_has_no_name_and_no_other_reader() {
    let directory = tempfile::tempdir().unwrap();
    let mut spill = Spill::new(Some(directory.path().into()), u64::MAX);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let mut file = spill.create().unwrap();
    file.append(b"a row").unwrap();
    // A process that is killed here leaves nothing.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let metadata = open_again(directory.path()).metadata().unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.nlink()), (0o600, 0));
}

#[test]
fn no_more_is_written_than_all_may_take() {
    let mut spill = Spill::new(None, 100);
    let (mut one, mut other) = (spill.create().unwrap(), spill.create().unwrap());
    one.append(&[7; 30]).unwrap();
    let noise: Vec<u8> = (0..90_u8).map(|number| number.wrapping_mul(97)).collect();
    let error = other.append(&noise).unwrap_err();
    let stored = one.stored_bytes();
    assert!(matches!(error, Error::Full { limit: 100, stored: now } if now == stored));
    assert_eq!(error.to_string(), format!("spill files take {stored} bytes and may take no more than 100"));
    assert_eq!(spill.stored_bytes(), stored);
    drop(one);
    other.append(&noise[..60]).unwrap();
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let mut spill = Spill::new(Some(PathBuf::from("/nowhere/at all")), u64::MAX);
    let error = spill.create().unwrap_err().to_string();
    assert!(error.starts_with("a spill file in /nowhere/at all cannot be made: No such file"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn every_bit_that_changed_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut spill = Spill::new(Some(directory.path().into()), u64::MAX);
    let mut file = spill.create().unwrap();
    let blocks = vec![b"one row, one row, one row".repeat(3), b"another".to_vec()];
    for block in &blocks {
        file.append(block).unwrap();
    }
    let mut bytes = Vec::new();
    let mut under = open_again(directory.path());
    under.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, file.stored_bytes());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            under.seek(SeekFrom::Start(0)).unwrap();
            under.write_all(&changed).unwrap();
            let error = read_all(&mut file).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. } | Error::Io { .. }), "byte {at}, bit {bit}");
        }
    }
    under.seek(SeekFrom::Start(0)).unwrap();
    under.write_all(&bytes).unwrap();
    assert_eq!(read_all(&mut file).unwrap(), blocks);
    under.set_len(bytes.len() as u64 - 1).unwrap();
    assert!(matches!(read_all(&mut file), Err(Error::Io { doing: "read", .. })));
}
