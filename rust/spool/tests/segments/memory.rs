//! A disk in memory that can lose its power and fail at any call.
//!
//! It is as bad as real ones are: of what was not synced, any piece may be there after a loss of power, new or old or zeros,
//! and any change of names; after a sync that failed the operating system believes that all is durable.
use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use spool::disk::{Disk, File};

/// What is lost at once, in bytes: less than a block's header.
const SECTOR: usize = 16;

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Which bytes the next sync will make durable.
    dirty: Vec<bool>,
    durable: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<u64, Content>,
    next: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    calls: usize,
    fail_at: Option<usize>,
    /// All calls from then on fail, as on a disk that is gone.
    for_ever: bool,
    room: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Inner>>);

#[derive(Debug)]
pub struct Opened(Arc<Mutex<Inner>>, u64);

/// Numbers that look random and are the same every time.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn refused() -> io::Error {
    io::Error::other("no more")
}

impl Inner {
    /// Count a call that changes or reads something, and let it fail when it is its turn.
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        let is_due = self.fail_at.is_some_and(|at| self.calls == at || (self.for_ever && self.calls > at));
        if is_due { Err(refused()) } else { Ok(()) }
    }

    fn used(&self) -> usize {
        self.names.values().map(|file| self.files[file].bytes.len()).sum()
    }
}

impl Memory {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn fail_at(&self, call: Option<usize>, for_ever: bool) {
        let mut inner = self.inner();
        (inner.calls, inner.fail_at, inner.for_ever) = (0, call, for_ever);
    }

    pub fn calls(&self) -> usize {
        self.inner().calls
    }

    /// So many bytes and no more.
    pub fn set_room(&self, bytes: Option<usize>) {
        self.inner().room = bytes;
    }

    pub fn names(&self) -> Vec<String> {
        self.inner().names.keys().cloned().collect()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let inner = self.inner();
        inner.files[&inner.names[name]].bytes.clone()
    }

    /// Put other bytes in a file's place, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.inner();
        let file = inner.names[name];
        inner.files.insert(file, Content { dirty: vec![false; bytes.len()], durable: bytes.clone(), bytes });
    }

    pub fn take_away(&self, name: &str) {
        let mut inner = self.inner();
        inner.names.remove(name);
        inner.durable_names.remove(name);
    }

    /// A disk that holds the same.
    pub fn copy(&self) -> Self {
        let inner = self.inner();
        let copy = Inner {
            files: inner.files.clone(),
            next: inner.next,
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            ..Inner::default()
        };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// The power fails and comes back.
    pub fn lose_power(&self, dice: &mut Dice) {
        let mut inner = self.inner();
        let Inner { names, durable_names, files, .. } = &mut *inner;
        let all: Vec<String> = names.keys().chain(durable_names.keys()).cloned().collect();
        for name in all {
            if dice.roll(2) == 0 {
                match names.get(&name) {
                    Some(&file) => drop(durable_names.insert(name, file)),
                    None => drop(durable_names.remove(&name)),
                }
            }
        }
        names.clone_from(durable_names);
        let mut order: Vec<u64> = files.keys().copied().collect();
        order.sort_unstable();
        for file in order {
            let content = files.get_mut(&file).unwrap();
            let (old, new) = (content.durable.clone(), &content.bytes);
            let (shorter, longer) = (old.len().min(new.len()), old.len().max(new.len()));
            let length = if dice.roll(2) == 0 {
                new.len()
            } else {
                shorter + usize::try_from(dice.roll((longer - shorter) as u64 + 1)).unwrap()
            };
            let mut bytes = vec![0; length];
            for start in (0..length).step_by(SECTOR) {
                let choice = dice.roll(4);
                for (at, byte) in bytes.iter_mut().enumerate().take(start + SECTOR).skip(start) {
                    let before = old.get(at).copied().unwrap_or(0);
                    // A byte that nobody has written since it was made durable is as it was.
                    let is_dirty = content.dirty.get(at).copied().unwrap_or(false);
                    let written = new.get(at).copied().filter(|_| is_dirty);
                    *byte = match (choice, written) {
                        (0, Some(_)) => before,
                        (1, Some(_)) if at >= old.len() => 0,
                        (_, written) => written.unwrap_or(before),
                    };
                }
            }
            *content = Content { dirty: vec![false; length], durable: bytes.clone(), bytes };
        }
    }
}

impl Disk for Memory {
    type File = Opened;

    fn path(&self) -> &Path {
        Path::new("disk")
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner().call()?;
        Ok(self.names())
    }

    fn create(&self, name: &str) -> io::Result<Opened> {
        let mut inner = self.inner();
        inner.call()?;
        let file = match inner.names.get(name) {
            Some(&file) => file,
            None => {
                inner.next += 1;
                let file = inner.next;
                inner.names.insert(name.to_owned(), file);
                file
            }
        };
        let content = inner.files.entry(file).or_default();
        (content.bytes, content.dirty) = (Vec::new(), Vec::new());
        Ok(Opened(Arc::clone(&self.0), file))
    }

    fn open(&self, name: &str) -> io::Result<Opened> {
        let mut inner = self.inner();
        inner.call()?;
        let file = inner.names.get(name).copied().ok_or(ErrorKind::NotFound)?;
        Ok(Opened(Arc::clone(&self.0), file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.call()?;
        let file = inner.names.remove(from).ok_or(ErrorKind::NotFound)?;
        inner.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.call()?;
        inner.names.remove(name).map(drop).ok_or(ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.inner();
        inner.call()?;
        inner.durable_names = inner.names.clone();
        Ok(())
    }
}

impl File for Opened {
    fn length(&self) -> io::Result<u64> {
        let mut inner = self.0.lock().unwrap();
        inner.call()?;
        Ok(inner.files[&self.1].bytes.len() as u64)
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.call()?;
        let offset = usize::try_from(offset).unwrap();
        let there = inner.files[&self.1].bytes.get(offset..offset + bytes.len()).ok_or(ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(there);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        let mut outcome = inner.call();
        let offset = usize::try_from(offset).unwrap();
        let used = inner.used();
        let left = inner.room.map(|room| room.saturating_sub(used));
        let content = inner.files.get_mut(&self.1).unwrap();
        let grown = (offset + bytes.len()).saturating_sub(content.bytes.len());
        // What fails may have written some.
        let mut written = if outcome.is_err() { bytes.len() / 2 } else { bytes.len() };
        if let Some(left) = left.filter(|left| grown > *left) {
            written = (bytes.len() - grown + left).min(written);
            outcome = Err(ErrorKind::StorageFull.into());
        }
        let end = offset + written;
        if content.bytes.len() < end {
            content.bytes.resize(end, 0);
            content.dirty.resize(end, true);
        }
        content.bytes[offset..end].copy_from_slice(&bytes[..written]);
        content.dirty[offset..end].fill(true);
        outcome
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.call()?;
        let content = inner.files.get_mut(&self.1).unwrap();
        content.bytes.truncate(usize::try_from(length).unwrap());
        content.dirty.truncate(content.bytes.len());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        let outcome = inner.call();
        let content = inner.files.get_mut(&self.1).unwrap();
        if outcome.is_ok() {
            content.durable.resize(content.bytes.len(), 0);
            for at in 0..content.bytes.len() {
                if content.dirty[at] {
                    content.durable[at] = content.bytes[at];
                }
            }
        }
        content.dirty.fill(false);
        outcome
    }
}
