//! Blocks are read in order, each once.
use super::format::{self, HEADER_LENGTH, Header, SEGMENT_LENGTH};
use super::{Entry, ROOM, Result, Segment, Spool, damaged, io_error, lock};
use crate::disk::{Disk, File};

/// The end that blocks are read from.
#[derive(Debug)]
pub(super) struct Reader<F> {
    /// The segment that is open, by its first block.
    file: Option<(u64, F)>,
    offset: u64,
    /// The number of the block at the offset.
    next: u64,
    /// The offset of the block before, which was read last; None before the first of a segment.
    before: Option<u64>,
    packed: Vec<u8>,
}

impl<F> Reader<F> {
    /// One that begins with a block.
    pub(super) fn at(next: u64) -> Self {
        Self { file: None, offset: 0, next, before: None, packed: Vec::new() }
    }
}

impl<D: Disk> Spool<D> {
    /// Read the next block in place of what is in `block`; None when there is none yet.
    ///
    /// # Errors
    /// When it is not there as it was written, or the operating system refuses. The next call tries again.
    pub fn read(&self, block: &mut Vec<u8>) -> Result<Option<Entry>> {
        let mut reader = lock(&self.reader);
        loop {
            let (segment, released) = {
                let state = lock(&self.state);
                if reader.next >= state.next || state.released.saturating_add(1) >= state.next {
                    return Ok(None);
                }
                // What was released need not be read; what was removed cannot be.
                let next = reader.next.max(state.released.saturating_add(1));
                let after = state.segments.partition_point(|segment| segment.first <= next);
                let Some(&segment) = after.checked_sub(1).and_then(|at| state.segments.get(at)) else {
                    return Ok(None);
                };
                (segment, state.released)
            };
            let header = self.read_block(&mut reader, &segment, released, block)?;
            if header.sequence > released {
                return Ok(Some(Entry { sequence: header.sequence, mark: header.mark }));
            }
        }
    }

    /// Let the next `read` give once more what the last one gave.
    pub fn back(&self) {
        let mut reader = lock(&self.reader);
        if let Some(before) = reader.before.take() {
            reader.offset = before;
            reader.next = reader.next.saturating_sub(1);
        }
    }

    /// Read the block at the reader's place, but of one that was released only the header.
    fn read_block(
        &self,
        reader: &mut Reader<D::File>,
        segment: &Segment,
        released: u64,
        block: &mut Vec<u8>,
    ) -> Result<Header> {
        let name = format::name(segment.first);
        let failed = |source| io_error(&self.disk, &name, "read", source);
        let Reader { file, offset, next, before, packed } = reader;
        if file.as_ref().is_none_or(|(first, _)| *first != segment.first) {
            let opened = self.disk.open(&name).map_err(failed)?;
            *file = Some((segment.first, opened));
            (*offset, *next, *before) = (SEGMENT_LENGTH as u64, segment.first, None);
        }
        let Some((_, file)) = file else { return Err(self.failed()) };
        let damaged = |reason| damaged(&self.disk, &name, *offset, reason);
        let left = segment.length.saturating_sub(*offset);
        if left < HEADER_LENGTH as u64 {
            return Err(damaged("it ends before the next block"));
        }
        let mut header = [0; HEADER_LENGTH];
        file.read(*offset, &mut header).map_err(failed)?;
        let header = Header::parse(&header, self.id, *offset).filter(|header| header.sequence == *next);
        let header = header.ok_or_else(|| damaged("the next block does not begin"))?;
        if header.size() > left {
            return Err(damaged("the block is cut short"));
        }
        if header.sequence > released {
            packed.resize(usize::try_from(header.packed).unwrap_or(usize::MAX), 0);
            file.read(offset.saturating_add(HEADER_LENGTH as u64), packed).map_err(failed)?;
            if crc32fast::hash(packed) != header.sum || !header.unpack(packed, block) {
                return Err(damaged("the block is another one"));
            }
            if packed.capacity() > ROOM {
                *packed = Vec::new();
            }
        }
        *before = Some(*offset);
        *offset = offset.saturating_add(header.size());
        *next = header.sequence.saturating_add(1);
        Ok(header)
    }
}
