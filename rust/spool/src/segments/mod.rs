//! A durable log of blocks for one consumer: what it has not taken yet, in files that stay.
//!
//! Blocks are appended, made durable by `sync`, read in order, and released when they are not needed any more; a segment of
//! which all blocks were released is removed. After a crash at any time what was synced is there, each block whole or an
//! error; what was appended after that may be there or not, from the first to some block, and is durable if it is.
//! Blocks that were released may come again after the spool was opened again, because only whole segments are removed.
//!
//! One thread may append and sync while another one reads and releases. See `docs/decisions/0031-the-spool.md`.
mod error;
mod format;
mod reading;
mod recovery;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::disk::{Directory, Disk, File};

pub use error::Error;
use format::{Header, SEGMENT_LENGTH};
use reading::Reader;

/// What tells one spool from another: random, made when its directory was.
pub type Id = [u8; 16];

/// The result of reading or writing.
pub type Result<T> = std::result::Result<T, Error>;

/// What is known of a block beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// How far the WAL is done once this block is.
    pub through_lsn: u64,
    /// The position of its last change, where it has one.
    pub last: Option<(u64, i64)>,
}

/// What a spool may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All files together, in bytes.
    pub max_bytes: u64,
    /// A segment is closed when the next block would make it larger than this, in bytes.
    pub segment_bytes: u64,
}

/// A block that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number: that of the block before and one more. The first has 1.
    pub sequence: u64,
    /// What was said of it.
    pub mark: Mark,
}

/// One file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// The number of its first block, and of the first that comes after it.
    first: u64,
    next: u64,
    length: u64,
}

/// What there is.
#[derive(Debug)]
struct State {
    /// In order; blocks are appended to the last one.
    segments: VecDeque<Segment>,
    stored: u64,
    released: u64,
    next: u64,
    mark: Option<Mark>,
    /// A file was removed, and that is not durable.
    removed: bool,
}

/// The end that blocks are appended to.
#[derive(Debug)]
struct Writer<F> {
    /// The last segment; None before the first.
    file: Option<F>,
    /// What of the last segment is durable: its length, the first block that is not there, what is known by then.
    durable: u64,
    durable_next: u64,
    durable_mark: Option<Mark>,
    failed: bool,
    /// For the block that is being written.
    room: Vec<u8>,
}

/// Not kept from one block to the next if it is more, in bytes.
const ROOM: usize = 4 << 20;

/// A spool that is open.
#[derive(Debug)]
pub struct Spool<D: Disk> {
    disk: D,
    id: Id,
    limits: Limits,
    // Whoever needs more than one of them takes them in this order.
    writer: Mutex<Writer<D::File>>,
    reader: Mutex<Reader<D::File>>,
    state: Mutex<State>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io_error(disk: &impl Disk, name: &str, doing: &'static str, source: io::Error) -> Error {
    Error::Io { path: disk.path().join(name), doing, source }
}

fn damaged(disk: &impl Disk, name: &str, offset: u64, reason: &'static str) -> Error {
    Error::Damaged { path: disk.path().join(name), offset, reason }
}

impl Spool<Directory> {
    /// Open the spool in a directory, and make it where there is none.
    ///
    /// # Errors
    /// When somebody else has it, the operating system refuses, or what is there is damaged.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self> {
        let disk = Directory::open(directory).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => Error::Locked { directory: directory.to_path_buf() },
            _ => Error::Io { path: directory.to_path_buf(), doing: "opened", source },
        })?;
        Self::on(disk, limits)
    }
}

impl<D: Disk> Spool<D> {
    /// Its id, which stays as long as its files do.
    pub fn id(&self) -> Id {
        self.id
    }

    /// What all segments take, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        lock(&self.state).stored
    }

    /// How many blocks there are that were not released.
    pub fn pending(&self) -> u64 {
        let state = lock(&self.state);
        state.next.saturating_sub(1).saturating_sub(state.released)
    }

    /// The number of the last block, whether it was released or not; 0 when there was none.
    pub fn last_sequence(&self) -> u64 {
        lock(&self.state).next.saturating_sub(1)
    }

    /// What is known of all that is in it: how far the WAL is done, and the position of the last change. None when it has
    /// no blocks.
    pub fn mark(&self) -> Option<Mark> {
        lock(&self.state).mark
    }

    fn failed(&self) -> Error {
        Error::Failed { directory: self.disk.path().to_path_buf() }
    }

    /// Write one more block, and give its number. It is durable after the next `sync`.
    ///
    /// # Errors
    /// When there is no room, the operating system refuses, or an earlier call has failed. The block is not in the spool
    /// then.
    pub fn append(&self, block: &[u8], mark: Mark) -> Result<u64> {
        let mut writer = lock(&self.writer);
        if writer.failed {
            return Err(self.failed());
        }
        let mut room = std::mem::take(&mut writer.room);
        let appended = self.append_packed(&mut writer, block, mark, &mut room);
        if room.capacity() <= ROOM {
            writer.room = room;
        }
        appended
    }

    fn append_packed(&self, writer: &mut Writer<D::File>, block: &[u8], mark: Mark, room: &mut Vec<u8>) -> Result<u64> {
        let limit = self.limits.max_bytes;
        let too_large = || Error::TooLarge { directory: self.disk.path().to_path_buf(), limit, size: block.len() };
        let (whole, packed, sum) = format::pack(block, room).ok_or_else(too_large)?;
        let size = room.len() as u64;
        if size.saturating_add(SEGMENT_LENGTH as u64) > limit {
            return Err(too_large());
        }
        self.make_room(writer, size)?;
        let (offset, sequence) = {
            let state = lock(&self.state);
            (state.segments.back().map_or(0, |segment| segment.length), state.next)
        };
        let header = Header { whole, packed, sum, sequence, durable: writer.durable, mark };
        for (place, byte) in room.iter_mut().zip(header.encode(self.id, offset)) {
            *place = byte;
        }
        let Some(file) = &mut writer.file else { return Err(self.failed()) };
        if let Err(source) = file.write(offset, room) {
            // What was written of it must not stand where the next one will.
            writer.failed = file.truncate(offset).is_err();
            let first = lock(&self.state).segments.back().map_or(0, |segment| segment.first);
            return Err(io_error(&self.disk, &format::name(first), "written", source));
        }
        let mut state = lock(&self.state);
        state.next = sequence.saturating_add(1);
        state.stored = state.stored.saturating_add(size);
        let last = state.mark.and_then(|mark| mark.last);
        state.mark = Some(Mark { last: mark.last.or(last), ..mark });
        if let Some(segment) = state.segments.back_mut() {
            segment.next = sequence.saturating_add(1);
            segment.length = offset.saturating_add(size);
        }
        Ok(sequence)
    }

    /// Make sure that there is a segment, and room in it and in all, for so many bytes.
    fn make_room(&self, writer: &mut Writer<D::File>, size: u64) -> Result<()> {
        let Limits { max_bytes, segment_bytes } = self.limits;
        let begin = SEGMENT_LENGTH as u64;
        let (mut needs_new, is_drained, stored) = {
            let state = lock(&self.state);
            let length = state.segments.back().map_or(0, |segment| segment.length);
            let is_over = length > begin && length.saturating_add(size) > segment_bytes;
            let is_drained = length > begin && state.released.saturating_add(1) == state.next;
            (writer.file.is_none() || is_over, is_drained, state.stored)
        };
        let needed = if needs_new { size.saturating_add(begin) } else { size };
        if stored.saturating_add(needed) > max_bytes {
            if !is_drained {
                return Err(Error::Full { directory: self.disk.path().to_path_buf(), limit: max_bytes, stored });
            }
            // Nothing is needed of the last segment either.
            needs_new = true;
        }
        if needs_new {
            self.begin_segment(writer)?;
            if is_drained {
                self.remove_released(&mut lock(&self.state))?;
            }
        }
        Ok(())
    }

    /// Begin a new segment: durable before anything is written to it, and after all that is in the one before.
    fn begin_segment(&self, writer: &mut Writer<D::File>) -> Result<()> {
        self.sync_writer(writer)?;
        let first = lock(&self.state).next;
        let name = format::name(first);
        let begin = format::segment(self.id, first);
        let made = self.disk.create(&name).and_then(|mut file| {
            file.write(0, &begin)?;
            file.sync()?;
            self.disk.sync()?;
            Ok(file)
        });
        let file = made.map_err(|source| {
            // It would be taken for the last one.
            let is_left = self.disk.remove(&name).is_err_and(|error| error.kind() != io::ErrorKind::NotFound);
            writer.failed |= is_left;
            io_error(&self.disk, &name, "made", source)
        })?;
        writer.file = Some(file);
        writer.durable = begin.len() as u64;
        let mut state = lock(&self.state);
        state.stored = state.stored.saturating_add(begin.len() as u64);
        state.segments.push_back(Segment { first, next: first, length: begin.len() as u64 });
        Ok(())
    }

    /// Make all blocks durable that were appended.
    ///
    /// # Errors
    /// When the operating system refuses, or an earlier call has failed. What was appended since the last time is not in
    /// the spool then, as far as it can be taken out again, and nothing can be appended before the spool was opened again.
    pub fn sync(&self) -> Result<()> {
        let mut writer = lock(&self.writer);
        if writer.failed { Err(self.failed()) } else { self.sync_writer(&mut writer) }
    }

    fn sync_writer(&self, writer: &mut Writer<D::File>) -> Result<()> {
        let (last, next, mark) = {
            let state = lock(&self.state);
            (state.segments.back().copied(), state.next, state.mark)
        };
        let (Some(file), Some(last)) = (&mut writer.file, last) else { return Ok(()) };
        if writer.durable == last.length {
            return Ok(());
        }
        if let Err(source) = file.sync() {
            writer.failed = true;
            if file.truncate(writer.durable).is_ok() {
                let mut state = lock(&self.state);
                state.next = writer.durable_next;
                state.mark = writer.durable_mark;
                state.stored = state.stored.saturating_sub(last.length).saturating_add(writer.durable);
                if let Some(segment) = state.segments.back_mut() {
                    segment.next = writer.durable_next.max(segment.first);
                    segment.length = writer.durable;
                }
            }
            return Err(io_error(&self.disk, &format::name(last.first), "synced", source));
        }
        writer.durable = last.length;
        writer.durable_next = next;
        writer.durable_mark = mark;
        Ok(())
    }

    /// Say that a block and all before it are not needed any more: what they led to is durable elsewhere.
    ///
    /// # Errors
    /// When a segment could not be removed. The next call tries again.
    pub fn release(&self, sequence: u64) -> Result<()> {
        let mut state = lock(&self.state);
        state.released = state.released.max(sequence.min(state.next.saturating_sub(1)));
        self.remove_released(&mut state)
    }

    /// Remove segments, the oldest first, each only when it is durable that the one before is gone: no gap is left
    /// whenever the power fails. The last one stays, for it says how far the spool came.
    fn remove_released(&self, state: &mut State) -> Result<()> {
        loop {
            if state.removed {
                self.disk.sync().map_err(|source| io_error(&self.disk, "", "synced", source))?;
                state.removed = false;
            }
            let Some(&first) = state.segments.front() else { return Ok(()) };
            if state.segments.len() < 2 || first.next > state.released.saturating_add(1) {
                return Ok(());
            }
            let name = format::name(first.first);
            match self.disk.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error(&self.disk, &name, "removed", error));
                }
                _ => {}
            }
            state.segments.pop_front();
            state.stored = state.stored.saturating_sub(first.length);
            state.removed = true;
        }
    }
}
