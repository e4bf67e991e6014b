//! What is found when a spool is opened: whole, or as a crash has left it, or damaged.
//!
//! A crash can leave anything behind what was synced: nothing, half a block, or a later block without the one before. So
//! what does not fit is cut off, with all that follows it, unless a later header says that it was durable when that was
//! written: then it was whole once, and is damaged.
use std::collections::VecDeque;
use std::sync::Mutex;

use super::format::{self, BLOCK, HEADER_LENGTH, Header, SEGMENT_LENGTH, SPOOL_LENGTH};
use super::reading::Reader;
use super::{Id, Limits, Mark, Result, Segment, Spool, State, Writer, damaged, io_error};
use crate::disk::{Disk, File};

/// The file with the spool's id, and its name while it is made.
const SPOOL: &str = "spool";
const SPOOL_NEW: &str = "spool.new";
/// How much is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// The whole blocks of the last segment.
struct Whole {
    segment: Segment,
    mark: Option<Mark>,
    /// So much is known to have been durable before: its beginning, when there is a block.
    durable: u64,
}

impl<D: Disk> Spool<D> {
    /// Open the spool on a disk, and make it where there is none.
    ///
    /// # Errors
    /// When the disk refuses, or what is there is damaged.
    pub fn on(disk: D, limits: Limits) -> Result<Self> {
        let names = disk.list().map_err(|source| io_error(&disk, "", "listed", source))?;
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| format::first_of(name)).collect();
        firsts.sort_unstable();
        let id = if names.iter().any(|name| name == SPOOL) {
            read_id(&disk)?
        } else if firsts.is_empty() {
            make_id(&disk)?
        } else {
            return Err(damaged(&disk, SPOOL, 0, "nothing is there, but there are segments"));
        };
        let mut next = 1;
        let mut last = None;
        while let Some(&first) = firsts.last() {
            next = first;
            last = recover(&disk, id, first)?;
            // One without blocks is there because a crash came before the first; the one before is where to go on.
            let is_empty = last.as_ref().is_none_or(|(whole, _)| whole.segment.next == first);
            if !is_empty || (firsts.len() == 1 && last.is_some()) {
                break;
            }
            last = None;
            let name = format::name(first);
            disk.remove(&name).map_err(|source| io_error(&disk, &name, "removed", source))?;
            firsts.pop();
        }
        let mut segments = older(&disk, id, &firsts)?;
        // Names, too: what was removed above must not come back behind what will be appended.
        disk.sync().map_err(|source| io_error(&disk, "", "synced", source))?;
        let (mut file, mut mark, mut durable) = (None, None, 0);
        if let Some((whole, opened)) = last {
            (file, mark, durable) = (Some(opened), whole.mark, whole.segment.length);
            next = whole.segment.next;
            segments.push_back(whole.segment);
        }
        let first = segments.front().map_or(next, |segment| segment.first);
        let stored = segments.iter().map(|segment| segment.length).sum();
        let state = State { segments, stored, released: first.saturating_sub(1), next, mark, removed: false };
        let writer = Writer { file, durable, durable_next: next, durable_mark: mark, failed: false, room: Vec::new() };
        let reader = Reader::at(first);
        let (writer, reader, state) = (Mutex::new(writer), Mutex::new(reader), Mutex::new(state));
        Ok(Self { disk, id, limits, writer, reader, state })
    }
}

fn read_id(disk: &impl Disk) -> Result<Id> {
    let failed = |source| io_error(disk, SPOOL, "read", source);
    let mut file = disk.open(SPOOL).map_err(failed)?;
    let length = file.length().map_err(failed)?;
    let mut bytes = vec![0; usize::try_from(length.min(SPOOL_LENGTH as u64)).unwrap_or(0)];
    file.read(0, &mut bytes).map_err(failed)?;
    format::parse_spool(&bytes).map_err(|reason| damaged(disk, SPOOL, 0, reason))
}

/// A new id: under its name only when it is durable.
fn make_id(disk: &impl Disk) -> Result<Id> {
    let mut id = Id::default();
    let random = getrandom::fill(&mut id).map_err(std::io::Error::other);
    let made = random.and_then(|()| {
        let mut file = disk.create(SPOOL_NEW)?;
        file.write(0, &format::spool(id))?;
        file.sync()?;
        disk.rename(SPOOL_NEW, SPOOL)?;
        disk.sync()
    });
    made.map_err(|source| io_error(disk, SPOOL, "made", source))?;
    Ok(id)
}

/// Read what a segment begins with; None when that is not there.
fn begins<F: File>(disk: &impl Disk<File = F>, file: &mut F, id: Id, first: u64) -> Result<Option<u64>> {
    let name = format::name(first);
    let failed = |source| io_error(disk, &name, "read", source);
    let length = file.length().map_err(failed)?;
    let mut begin = [0; SEGMENT_LENGTH];
    if length >= begin.len() as u64 {
        file.read(0, &mut begin).map_err(failed)?;
    }
    if begin == *format::segment(id, first) {
        return Ok(Some(length));
    }
    // Nothing is written to a segment before this is durable.
    if length <= begin.len() as u64 {
        return Ok(None);
    }
    Err(damaged(disk, &name, 0, "it does not begin as a segment of this spool"))
}

/// All segments but the last: of those every byte was synced before the next was made. They are read when their blocks are.
fn older(disk: &impl Disk, id: Id, firsts: &[u64]) -> Result<VecDeque<Segment>> {
    let mut segments = VecDeque::new();
    for pair in firsts.windows(2) {
        let &[first, next] = pair else { continue };
        let name = format::name(first);
        let mut file = disk.open(&name).map_err(|source| io_error(disk, &name, "read", source))?;
        let length = begins(disk, &mut file, id, first)?;
        let length = length.ok_or_else(|| damaged(disk, &name, 0, "it does not begin as a segment of this spool"))?;
        segments.push_back(Segment { first, next, length });
    }
    Ok(segments)
}

/// Cut the last segment to its whole blocks, and make them durable; None when it has not begun.
fn recover<D: Disk>(disk: &D, id: Id, first: u64) -> Result<Option<(Whole, D::File)>> {
    let name = format::name(first);
    let mut file = disk.open(&name).map_err(|source| io_error(disk, &name, "read", source))?;
    let Some(length) = begins(disk, &mut file, id, first)? else { return Ok(None) };
    let failed = |source| io_error(disk, &name, "read", source);
    let whole = whole(&mut file, id, first, length).map_err(failed)?;
    let end = whole.segment.length;
    if end < length {
        if is_known_durable(&mut file, id, end, length).map_err(failed)? {
            return Err(damaged(disk, &name, end, "a block was durable, and is another one"));
        }
        file.truncate(end).map_err(|source| io_error(disk, &name, "cut", source))?;
    }
    // Where a sync failed, the operating system takes for durable what is not: it is written once more.
    let again = write_again(&mut file, whole.durable, end).and_then(|()| file.sync());
    again.map_err(|source| io_error(disk, &name, "synced", source))?;
    Ok(Some((whole, file)))
}

/// Find the blocks up to the first that is not whole.
fn whole<F: File>(file: &mut F, id: Id, first: u64, length: u64) -> std::io::Result<Whole> {
    let begin = SEGMENT_LENGTH as u64;
    let mut whole = Whole { segment: Segment { first, next: first, length: begin }, mark: None, durable: 0 };
    let mut packed = Vec::new();
    let mut header = [0; HEADER_LENGTH];
    loop {
        let Segment { next, length: offset, .. } = whole.segment;
        let left = length.saturating_sub(offset);
        if left < HEADER_LENGTH as u64 {
            return Ok(whole);
        }
        file.read(offset, &mut header)?;
        let of_next = |header: &Header| header.sequence == next && header.size() <= left;
        let Some(header) = Header::parse(&header, id, offset).filter(of_next) else { return Ok(whole) };
        packed.resize(usize::try_from(header.packed).unwrap_or(usize::MAX), 0);
        file.read(offset.saturating_add(HEADER_LENGTH as u64), &mut packed)?;
        if crc32fast::hash(&packed) != header.sum {
            return Ok(whole);
        }
        whole.segment.next = next.saturating_add(1);
        whole.segment.length = offset.saturating_add(header.size());
        whole.durable = whole.durable.max(header.durable.min(whole.segment.length));
        let last = header.mark.last.or(whole.mark.and_then(|mark| mark.last));
        whole.mark = Some(Mark { last, ..header.mark });
    }
}

/// Whether a header behind a place says that it was durable.
fn is_known_durable<F: File>(file: &mut F, id: Id, place: u64, length: u64) -> std::io::Result<bool> {
    let mut chunk = Vec::new();
    let mut start = place;
    while length.saturating_sub(start) >= HEADER_LENGTH as u64 {
        let left = usize::try_from(length.saturating_sub(start)).unwrap_or(usize::MAX);
        chunk.resize(left.min(CHUNK), 0);
        file.read(start, &mut chunk)?;
        for at in memchr::memmem::find_iter(&chunk, BLOCK) {
            let offset = start.saturating_add(at as u64);
            let header = chunk.get(at..).and_then(|rest| rest.get(..HEADER_LENGTH));
            if header.and_then(|header| Header::parse(header, id, offset)).is_some_and(|header| header.durable > place)
            {
                return Ok(true);
            }
        }
        if chunk.len() == left {
            break;
        }
        // A header may stand across two pieces.
        start = start.saturating_add((chunk.len().saturating_sub(HEADER_LENGTH)) as u64);
    }
    Ok(false)
}

fn write_again<F: File>(file: &mut F, from: u64, to: u64) -> std::io::Result<()> {
    let mut chunk = Vec::new();
    let mut at = from;
    while at < to {
        chunk.resize(usize::try_from(to.saturating_sub(at)).unwrap_or(usize::MAX).min(CHUNK), 0);
        file.read(at, &mut chunk)?;
        file.write(at, &chunk)?;
        at = at.saturating_add(chunk.len() as u64);
    }
    Ok(())
}
