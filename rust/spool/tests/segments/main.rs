//! What was synced is there after any crash, whatever call fails; what is not as it was written is an error.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod directory;
mod memory;
mod model;

use memory::{Dice, Memory};
use spool::segments::{Entry, Error, Limits, Mark, Spool};

const LIMITS: Limits = Limits { max_bytes: u64::MAX, segment_bytes: 400 };

fn mark(number: u64) -> Mark {
    Mark { through_lsn: number * 10, last: Some((number * 10, 1)) }
}

/// A block that LZ4 does not make shorter.
fn block(number: u64) -> Vec<u8> {
    noise(number, 20 + number % 60)
}

fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    (0..length).map(|_| u8::try_from(dice.roll(256)).unwrap()).collect()
}

fn append(spool: &Spool<Memory>, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        assert_eq!(spool.append(&block(number), mark(number)).unwrap(), number);
    }
}

fn read_all(spool: &Spool<Memory>) -> Result<Vec<u64>, Error> {
    let (mut numbers, mut bytes) = (Vec::new(), Vec::new());
    while let Some(Entry { sequence, mark: said }) = spool.read(&mut bytes)? {
        assert_eq!((&bytes, said), (&block(sequence), mark(sequence)));
        numbers.push(sequence);
    }
    Ok(numbers)
}

fn open(disk: &Memory) -> Result<Spool<Memory>, Error> {
    Spool::on(disk.clone(), LIMITS)
}

fn segments(disk: &Memory) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(".segment")).collect()
}

#[test]
fn blocks_come_back_in_order_and_segments_go_when_all_of_them_were_released() {
    let disk = Memory::default();
    let spool = open(&disk).unwrap();
    assert_eq!((spool.pending(), spool.mark(), spool.stored_bytes()), (0, None, 0));
    append(&spool, 1..=30);
    spool.sync().unwrap();
    assert_eq!((spool.pending(), spool.mark()), (30, Some(mark(30))));
    assert!(segments(&disk).len() > 5);
    assert_eq!(read_all(&spool).unwrap(), (1..=30).collect::<Vec<_>>());
    assert_eq!(read_all(&spool).unwrap(), [0_u64; 0]);
    append(&spool, 31..=31);
    assert_eq!(read_all(&spool).unwrap(), [31]);
    spool.release(15).unwrap();
    assert_eq!(spool.pending(), 16);
    drop(spool);
    let spool = open(&disk).unwrap();
    let again = read_all(&spool).unwrap();
    assert!(again[0] <= 16 && again[0] > 1 && *again.last().unwrap() == 31, "{again:?}");
    assert_eq!(spool.mark(), Some(mark(31)));
    spool.release(u64::MAX).unwrap();
    assert_eq!((segments(&disk).len(), spool.pending()), (1, 0));
    let bytes: usize = segments(&disk).iter().map(|name| disk.bytes(name).len()).sum();
    assert_eq!(spool.stored_bytes(), bytes as u64);
    append(&spool, 32..=33);
    assert_eq!(read_all(&spool).unwrap(), [32, 33]);
}

#[test]
fn what_was_released_before_it_was_read_is_not_read() {
    let disk = Memory::default();
    let spool = open(&disk).unwrap();
    append(&spool, 1..=20);
    spool.release(2).unwrap();
    spool.release(1).unwrap();
    let mut bytes = Vec::new();
    assert_eq!(spool.read(&mut bytes).unwrap().unwrap().sequence, 3);
    spool.release(12).unwrap();
    assert_eq!(read_all(&spool).unwrap(), (13..=20).collect::<Vec<_>>());
}

#[test]
fn what_was_read_is_read_once_more_when_asked() {
    let disk = Memory::default();
    let spool = open(&disk).unwrap();
    spool.back();
    append(&spool, 1..=20);
    let mut bytes = Vec::new();
    for number in 1..=20 {
        for _ in 0..2 {
            let entry = spool.read(&mut bytes).unwrap().unwrap();
            assert_eq!((entry.sequence, &bytes), (number, &block(number)));
            spool.back();
            // There is one step back only.
            spool.back();
        }
        assert_eq!(spool.read(&mut bytes).unwrap().unwrap().sequence, number);
    }
}

#[test]
fn an_empty_spool_in_the_place_of_a_lost_one_has_another_id() {
    let (disk, other) = (Memory::default(), Memory::default());
    let id = open(&disk).unwrap().id();
    assert_eq!(open(&disk).unwrap().id(), id);
    assert_ne!(open(&other).unwrap().id(), id);
    append(&open(&disk).unwrap(), 1..=1);
    disk.take_away("spool");
    let error = open(&disk).unwrap_err().to_string();
    assert_eq!(
        error,
        "disk/spool does not hold what was written to it: at byte 0 nothing is there, but there are segments"
    );
    // A segment of another spool is not taken for one's own.
    let name = &segments(&disk)[0];
    append(&open(&other).unwrap(), 1..=1);
    other.put(name, disk.bytes(name));
    assert!(matches!(open(&other).unwrap_err(), Error::Damaged { offset: 0, .. }));
}

#[test]
fn no_more_is_written_than_it_may_take() {
    let disk = Memory::default();
    let spool = Spool::on(disk.clone(), Limits { max_bytes: 1000, segment_bytes: 400 }).unwrap();
    let mut count = 0;
    let error = loop {
        match spool.append(&block(count + 1), mark(count + 1)) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    let stored = spool.stored_bytes();
    assert_eq!(error.to_string(), format!("the spool in disk takes {stored} bytes and may take no more than 1000"));
    assert!(stored <= 1000 && stored > 800 && count > 4, "{stored}");
    // It is as it was, and goes on when there is room: when all is released, what is in the last segment goes as well.
    assert_eq!(read_all(&spool).unwrap(), (1..=count).collect::<Vec<_>>());
    spool.release(count).unwrap();
    append(&spool, count + 1..=count + 5);
    assert!(spool.stored_bytes() <= 1000);
    assert_eq!(read_all(&spool).unwrap(), (count + 1..=count + 5).collect::<Vec<_>>());
    let error = spool.append(&noise(1, 1100), mark(1)).unwrap_err();
    assert!(matches!(error, Error::TooLarge { size: 1100, .. }), "{error}");
}

#[test]
fn a_disk_that_is_full_is_no_end() {
    let disk = Memory::default();
    let spool = open(&disk).unwrap();
    append(&spool, 1..=3);
    spool.sync().unwrap();
    for room in 0..800 {
        disk.set_room(Some(room));
        match spool.append(&block(4), mark(4)) {
            Ok(sequence) => {
                assert_eq!(sequence, 4);
                break;
            }
            Err(Error::Io { doing: "written" | "made", .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    disk.set_room(None);
    append(&spool, 5..=9);
    spool.sync().unwrap();
    drop(spool);
    assert_eq!(read_all(&open(&disk).unwrap()).unwrap(), (1..=9).collect::<Vec<_>>());
}

#[test]
fn after_a_sync_that_failed_nothing_is_taken_before_it_was_opened_again() {
    for for_ever in [false, true] {
        let disk = Memory::default();
        let spool = open(&disk).unwrap();
        append(&spool, 1..=2);
        spool.sync().unwrap();
        append(&spool, 3..=3);
        disk.fail_at(Some(1), for_ever);
        assert!(matches!(spool.sync().unwrap_err(), Error::Io { doing: "synced", .. }));
        disk.fail_at(None, false);
        let error = spool.append(&block(4), mark(4)).unwrap_err();
        let expected = "the spool in disk could not be written before, and must be opened again";
        assert_eq!((error.to_string(), spool.sync().unwrap_err().to_string()), (expected.into(), expected.into()));
        // What was not synced is gone where it can be taken away.
        let left = if for_ever { 3 } else { 2 };
        assert_eq!((spool.pending(), spool.mark()), (left, Some(mark(left))));
        drop(spool);
        let spool = open(&disk).unwrap();
        assert_eq!(read_all(&spool).unwrap(), (1..=left).collect::<Vec<_>>());
        append(&spool, left + 1..=left + 1);
        spool.sync().unwrap();
    }
}

/// A spool whose last segment has synced blocks up to one, and others that are not synced.
fn half_synced() -> (Memory, String, u64) {
    let disk = Memory::default();
    let spool = Spool::on(disk.clone(), Limits { segment_bytes: 100_000, ..LIMITS }).unwrap();
    append(&spool, 1..=4);
    spool.sync().unwrap();
    append(&spool, 5..=9);
    let name = segments(&disk).pop().unwrap();
    (disk, name, 4)
}

#[test]
fn cut_at_every_byte_what_was_synced_is_there() {
    let (disk, name, synced) = half_synced();
    let bytes = disk.bytes(&name);
    let ends: Vec<usize> = (1..=9).map(|number| 36 + (1..=number).map(|one| 61 + packed(one)).sum::<usize>()).collect();
    assert_eq!(ends[8], bytes.len());
    for end in 37..bytes.len() {
        let torn = disk.copy();
        torn.put(&name, bytes[..end].to_vec());
        let spool = open(&torn).unwrap();
        let whole = ends.iter().filter(|&&one| one <= end).count() as u64;
        assert_eq!(read_all(&spool).unwrap(), (1..=whole).collect::<Vec<_>>(), "{end}");
        assert!(end < ends[3] || whole >= synced);
        append(&spool, whole + 1..=whole + 2);
        assert_eq!(read_all(&spool).unwrap(), [whole + 1, whole + 2]);
    }
    // Not even begun.
    for end in 0..=36 {
        let torn = disk.copy();
        torn.put(&name, bytes[..end].to_vec());
        append(&open(&torn).unwrap(), 1..=2);
    }
}

#[test]
fn what_was_cut_off_does_not_come_back_behind_what_was_appended() {
    let (disk, name, _) = half_synced();
    let mut bytes = disk.bytes(&name);
    let of_fifth = 36 + (1..=4).map(|one| 61 + packed(one)).sum::<usize>();
    bytes[of_fifth + 70] ^= 1;
    disk.put(&name, bytes);
    let spool = open(&disk).unwrap();
    assert_eq!(read_all(&spool).unwrap(), [1, 2, 3, 4]);
    // As long as the one that was torn, so that the one behind it stands where the next is looked for.
    append(&spool, 5..=5);
    drop(spool);
    assert_eq!(read_all(&open(&disk).unwrap()).unwrap(), [1, 2, 3, 4, 5]);
}

/// The length of a block as LZ4 writes what it cannot make shorter.
fn packed(number: u64) -> usize {
    let length = block(number).len();
    length + 1 + usize::from(length >= 15) + length.saturating_sub(15) / 255
}

#[test]
fn every_byte_that_changed_is_noticed_or_was_not_synced() {
    let (disk, name, _) = half_synced();
    let bytes = disk.bytes(&name);
    let synced = 36 + (1..=4).map(|one| 61 + packed(one)).sum::<usize>();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let disk = disk.copy();
        disk.put(&name, changed);
        match open(&disk) {
            // A block that was not synced may be torn, and ends the spool.
            Ok(spool) => {
                assert!(at >= synced, "byte {at} of {synced} that were synced");
                assert!(read_all(&spool).unwrap().len() >= 4);
            }
            Err(error @ Error::Damaged { .. }) => {
                assert!(at < synced, "{at}");
                let text = error.to_string();
                let end = (1..=4).map(|number| 36 + (1..number).map(|one| 61 + packed(one)).sum::<usize>());
                let offset = if at < 36 { 0 } else { end.filter(|&start| start <= at).max().unwrap() };
                let expected = format!("disk/{name} does not hold what was written to it: at byte {offset} ");
                assert!(text.starts_with(&expected), "{text}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn damage_in_an_older_segment_is_found_when_it_is_read() {
    let disk = Memory::default();
    append(&open(&disk).unwrap(), 1..=30);
    let names = segments(&disk);
    let (name, bytes) = (&names[1], disk.bytes(&names[1]));
    for at in 36..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        let copy = disk.copy();
        copy.put(name, changed);
        let spool = open(&copy).unwrap();
        let (mut numbers, mut block) = (0, Vec::new());
        let error = loop {
            match spool.read(&mut block) {
                Ok(Some(_)) => numbers += 1,
                Ok(None) => panic!("{at}"),
                Err(error) => break error,
            }
        };
        assert!(numbers > 2 && matches!(error, Error::Damaged { .. }) && error.to_string().contains(name.as_str()));
        // And again, instead of going past it.
        assert_eq!(spool.read(&mut block).unwrap_err().to_string(), error.to_string());
    }
    for end in 36..bytes.len() {
        let copy = disk.copy();
        copy.put(name, bytes[..end].to_vec());
        assert!(matches!(read_all(&open(&copy).unwrap()).unwrap_err(), Error::Damaged { .. }), "{end}");
    }
    let copy = disk.copy();
    copy.take_away(name);
    assert!(matches!(read_all(&open(&copy).unwrap()).unwrap_err(), Error::Damaged { .. }));
}

/// Work that appends, syncs, reads, releases and opens again; what it did until something failed.
#[derive(Default)]
struct Work {
    tried: u64,
    synced: u64,
    released: u64,
}

fn work(disk: &Memory, work: &mut Work) -> Result<(), Error> {
    for round in 0..4_u64 {
        let spool = open(disk)?;
        let mut bytes = Vec::new();
        for _ in 0..6 {
            let number = spool.mark().map_or(work.tried, |mark| mark.through_lsn / 10) + 1;
            work.tried = work.tried.max(number);
            spool.append(&block(number), mark(number))?;
            if number % 3 == 0 {
                spool.sync()?;
                work.synced = work.synced.max(number);
            }
        }
        while let Some(Entry { sequence, .. }) = spool.read(&mut bytes)? {
            assert_eq!(bytes, block(sequence));
            if sequence + 3 < round * 6 {
                work.released = work.released.max(sequence);
                spool.release(sequence)?;
            }
        }
    }
    Ok(())
}

fn holds(disk: &Memory, done: &Work) {
    let spool = open(disk).unwrap();
    let numbers = read_all(&spool).unwrap();
    let first = numbers.first().copied().unwrap_or(done.synced + 1);
    let last = numbers.last().copied().unwrap_or(0);
    assert!(first <= done.released + 1, "{first} comes first, and {} was released", done.released);
    assert!(last >= done.synced && last <= done.tried, "{last} comes last, and {} was synced", done.synced);
    let next = spool.mark().map_or(0, |mark| mark.through_lsn / 10) + 1;
    append(&spool, next..=next + 1);
    spool.sync().unwrap();
}

#[test]
fn each_call_fails_once_or_for_ever_and_nothing_that_was_synced_is_lost() {
    let mut count = 0;
    for for_ever in [false, true] {
        for call in 1.. {
            let disk = Memory::default();
            disk.fail_at(Some(call), for_ever);
            let mut done = Work::default();
            let failed = work(&disk, &mut done).is_err();
            let was_called = disk.calls() >= call;
            disk.fail_at(None, false);
            for seed in 0..4 {
                let disk = disk.copy();
                if seed > 0 {
                    disk.lose_power(&mut Dice(call as u64 * 31 + seed));
                }
                holds(&disk, &done);
                // What came back is durable.
                let kept =
                    Work { synced: done.synced.max(open(&disk).unwrap().mark().unwrap().through_lsn / 10), ..done };
                disk.lose_power(&mut Dice(seed));
                holds(&disk, &Work { tried: kept.synced + 2, ..kept });
            }
            count += usize::from(failed);
            if !was_called {
                break;
            }
        }
    }
    assert!(count > 200, "{count} calls were there to fail");
}
