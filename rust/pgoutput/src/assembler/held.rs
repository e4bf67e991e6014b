//! One transaction that is not delivered yet: its changes in memory and, before these, in a file.
//!
//! Over 400 lines, because what is kept, what is held back and what was rolled back is one state.
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use super::shapes::Shapes;
use super::storage::{File, Storage};
use crate::cursor::Cursor;
use crate::error::Result;
use crate::message::{Message, has_xid, kind};
use crate::session::{Place, Shape};

/// Changes are kept in blocks of about this size, in bytes: what is written to a file, and read from it, at once.
const BLOCK: usize = 256 * 1024;
/// The rows of a WAL record are held back if they take no more than this, in bytes.
const LATEST: usize = 8 * 1024;
/// What comes before a message's relations and bytes, in bytes.
const HEADER: usize = 21;
/// What a sub-transaction that was rolled back costs in memory, in bytes.
const ABORTED: usize = 16;
/// What a row of logical messages that went with it costs.
const LOST: usize = 40;

/// A message as it was kept.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    /// The id of the (sub-)transaction.
    pub xid: u32,
    /// The `wal_start` of its XLogData.
    pub lsn: u64,
    /// Whether this is no message that can be read.
    pub malformed: bool,
    /// Its relations' numbers among the transaction's, from 1; 0 for one that was not seen.
    shapes: &'a [u8],
    /// As protocol 1 has it, without the transaction's id; empty for a Relation, whose bytes are the shape's.
    pub bytes: &'a [u8],
}

impl<'a> Kept<'a> {
    fn parse(cursor: &mut Cursor<'a>) -> Result<Self> {
        let xid = cursor.u32("xid")?;
        let lsn = cursor.u64("LSN")?;
        let malformed = cursor.u8("malformed")? != 0;
        let shapes = cursor.sized("relations")?;
        let bytes = cursor.sized("message")?;
        Ok(Self { xid, lsn, malformed, shapes, bytes })
    }

    /// The numbers of its relations.
    pub fn shapes(&self) -> impl Iterator<Item = u32> + '_ {
        self.shapes.chunks_exact(4).filter_map(|number| number.try_into().ok().map(u32::from_be_bytes))
    }
}

fn write(out: &mut Vec<u8>, xid: u32, lsn: u64, malformed: bool, shapes: &[u32], bytes: &[&[u8]]) {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&xid.to_be_bytes());
    out.extend_from_slice(&lsn.to_be_bytes());
    out.push(u8::from(malformed));
    out.extend_from_slice(&length(shapes.len().saturating_mul(4)));
    for number in shapes {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&length(bytes.iter().map(|part| part.len()).sum()));
    for part in bytes {
        out.extend_from_slice(part);
    }
}

/// Write a message to the last block, or to a new one if that would become too large. Gives by how much memory grew.
fn append(blocks: &mut VecDeque<Vec<u8>>, size: usize, write: impl FnOnce(&mut Vec<u8>)) -> usize {
    let mut block = match blocks.pop_back() {
        Some(last) if last.len().saturating_add(size).saturating_add(HEADER) <= BLOCK => last,
        Some(last) => {
            blocks.push_back(last);
            Vec::new()
        }
        None => Vec::new(),
    };
    let before = block.capacity();
    write(&mut block);
    let grown = block.capacity().saturating_sub(before);
    blocks.push_back(block);
    grown
}

/// Logical messages in a stream of which it is not known yet whether they were rolled back: they carry the id of the whole
/// transaction, whatever sub-transaction wrote them (server function `pgoutput_message`). Neighbours of which the same is
/// known are one.
#[derive(Debug, PartialEq)]
struct Mark {
    /// The LSNs of the first and the last of them.
    lsns: (u64, u64),
    /// How many messages before them stand for certain: of another one than theirs, and there is one between.
    certain: u32,
    /// The highest id of which a change stands before it for certain.
    before: u32,
    /// The highest id of which a change may stand before it.
    seen: u32,
    /// The id of the change that came after it.
    after: Option<u32>,
    in_doubt: bool,
}

/// The last changes that came, while it may turn out that a logical message stands before them.
///
/// The server sorts what sub-transactions did by LSN, and that of a logical message is the end of its WAL record: mostly
/// where the next record begins, which is the LSN of the changes in that one. So it may come behind those, if another
/// sub-transaction made them (server functions `logicalmsg_decode`, `ReorderBufferIterCompare`).
#[derive(Debug)]
struct Latest {
    /// Of all of them; 0 where that is not known.
    lsn: u64,
    /// The id of the (sub-)transaction that made them; None when there are none.
    xid: Option<u32>,
    /// The highest id that was seen before them.
    before: u32,
    /// Themselves as they are kept, if their LSN is known and they are not too large.
    bytes: Vec<u8>,
    is_large: bool,
}

/// The LSN that a logical message says of itself, by which it is known.
fn message_lsn(message: &[u8]) -> Option<u64> {
    match Message::parse(message) {
        Ok(Message::Message { lsn, .. }) => Some(lsn),
        _ => None,
    }
}

/// Whether one transaction id was given out before another; they begin anew after 2^32.
fn is_older(one: u32, other: u32) -> bool {
    other.wrapping_sub(one).wrapping_sub(1) < 1 << 31
}

/// One transaction.
#[derive(Debug)]
pub(super) struct Held<F> {
    /// The id of the whole transaction.
    pub xid: u32,
    /// The `wal_start` of what began it.
    pub lsn: u64,
    /// Its Origin message and that one's `wal_start`.
    pub origin: Option<(Box<[u8]>, u64)>,
    /// The LSN of its prepare record and its name, once it is prepared.
    pub prepared: Option<(u64, Box<[u8]>)>,
    blocks: VecDeque<Vec<u8>>,
    file: Option<F>,
    memory: usize,
    shapes: Shapes,
    aborted: HashSet<u32>,
    /// The highest id of a sub-transaction that a change was seen of.
    seen: u32,
    latest: Latest,
    marks: Vec<Mark>,
    /// How many logical messages stand for certain, as far as it tells neighbours from each other.
    certain: u32,
    /// The logical messages that were rolled back: to the LSN of the first of a row of them that of the last.
    lost: BTreeMap<u64, u64>,
    /// Whether what is in memory may hold changes that were rolled back.
    has_waste: bool,
}

impl<F: File> Held<F> {
    pub fn new(xid: u32, lsn: u64) -> Self {
        Self {
            xid,
            lsn,
            origin: None,
            prepared: None,
            blocks: VecDeque::new(),
            file: None,
            memory: 0,
            shapes: Shapes::default(),
            aborted: HashSet::new(),
            seen: xid,
            latest: Latest { lsn: 0, xid: None, before: xid, bytes: Vec::new(), is_large: false },
            marks: Vec::new(),
            certain: 0,
            lost: BTreeMap::new(),
            has_waste: false,
        }
    }

    /// What of it is in memory, in bytes.
    pub fn memory(&self) -> usize {
        self.memory.saturating_add(self.latest.bytes.capacity()).saturating_add(self.fixed_memory())
    }

    /// What of it could be written to a file, in bytes.
    pub fn spillable(&self) -> usize {
        self.memory
    }

    /// What of it is in a file, in bytes.
    pub fn stored(&self) -> u64 {
        self.file.as_ref().map_or(0, File::stored_bytes)
    }

    pub fn shape(&self, number: u32) -> Option<&Arc<Shape>> {
        self.shapes.get(number)
    }

    /// What cannot be written to a file takes in memory, in bytes: the shapes of its tables, to which rows refer, and what is
    /// known of roll-backs.
    pub fn fixed_memory(&self) -> usize {
        let aborted = self.aborted.len().saturating_mul(ABORTED);
        let lost = self.lost.len().saturating_mul(LOST);
        let marks = self.marks.capacity().saturating_mul(size_of::<Mark>());
        [aborted, lost, marks].into_iter().fold(self.shapes.memory(), usize::saturating_add)
    }

    /// The shape that is kept for one that says the same.
    pub fn same_shape(&mut self, shape: &Arc<Shape>) -> Arc<Shape> {
        self.shapes.same(shape)
    }

    /// Keep a message of this transaction.
    pub fn keep(&mut self, bytes: &[u8], lsn: u64, place: &Place) {
        let kind = bytes.first().copied().unwrap_or(0);
        let (xid, parts): (_, [&[u8]; 2]) = match bytes {
            [kind, a, b, c, d, fields @ ..] if place.streamed && has_xid(*kind) => {
                (u32::from_be_bytes([*a, *b, *c, *d]), [bytes.get(..1).unwrap_or_default(), fields])
            }
            // A change that ends before its xid does is not known to have been rolled back.
            _ => (self.xid, [bytes, &[]]),
        };
        let is_change = place.streamed && matches!(kind, kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE);
        let is_early = place.streamed && kind == kind::MESSAGE && xid == self.xid && self.mark(&parts.concat());
        let is_told = place.streamed && matches!(kind, kind::RELATION | kind::TYPE);
        if is_change {
            self.change(xid, lsn);
        } else if !is_early && !is_told {
            self.settle();
        }
        let parts = if kind == kind::RELATION && place.shape.is_some() { [&[][..]; 2] } else { parts };
        let mut numbers = Vec::new();
        numbers.extend(place.shape.as_ref().map(|shape| self.shapes.number(Some(shape))));
        numbers.extend(place.truncated.iter().map(|shape| self.shapes.number(shape.as_ref())));
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let size = length.saturating_add(numbers.len().saturating_mul(4));
        // A Relation among them stays in its place.
        if (is_change && lsn != 0 && !self.latest.is_large) || (is_told && !self.latest.bytes.is_empty()) {
            if self.latest.bytes.len().saturating_add(size).saturating_add(HEADER) <= LATEST {
                return write(&mut self.latest.bytes, xid, lsn, place.malformed, &numbers, &parts);
            }
            self.put_latest();
            self.latest.is_large = true;
        }
        let grown = append(&mut self.blocks, size, |block| write(block, xid, lsn, place.malformed, &numbers, &parts));
        self.memory = self.memory.saturating_add(grown);
    }

    /// A logical message came in a stream. True when it stands before the latest changes.
    fn mark(&mut self, message: &[u8]) -> bool {
        let Some(lsn) = message_lsn(message) else { return false };
        let Latest { lsn: latest_lsn, xid, before, .. } = self.latest;
        let is_early = xid.is_some() && latest_lsn != 0 && latest_lsn == lsn;
        let (before, seen, after) = match xid {
            Some(xid) if is_early && xid == self.xid => {
                self.certain = self.certain.wrapping_add(1);
                return true;
            }
            Some(xid) if is_early => (before, before, Some(xid)),
            Some(_) if latest_lsn == 0 => (before, self.seen, None),
            _ => (self.seen, self.seen, None),
        };
        // By an eighth, not by as much again: they are in memory for as long as the transaction is open.
        if self.marks.len() == self.marks.capacity() {
            self.marks.reserve_exact((self.marks.len() / 8).max(16));
        }
        self.marks.push(Mark { lsns: (lsn, lsn), certain: self.certain, before, seen, after, in_doubt: false });
        self.join_marks();
        is_early
    }

    /// Make one of the last marks as long as they say the same.
    fn join_marks(&mut self) {
        while let [.., one, last] = self.marks.as_mut_slice()
            && one.lsns.1 <= last.lsns.0
            && *one == (Mark { lsns: one.lsns, ..*last })
        {
            one.lsns.1 = last.lsns.1;
            self.marks.pop();
        }
    }

    /// A change came in a stream: what it tells of the logical messages before it.
    fn change(&mut self, xid: u32, lsn: u64) {
        if self.latest.xid != Some(xid) || self.latest.lsn != lsn {
            self.settle();
            (self.latest.xid, self.latest.lsn, self.latest.before) = (Some(xid), lsn, self.seen);
        }
        // Followed by a change of the whole transaction it stood in no sub-transaction that is still open.
        let is_settled = |mark: &mut Mark| mark.after.is_none() && !mark.in_doubt && xid == self.xid;
        while self.marks.pop_if(is_settled).is_some() {
            self.certain = self.certain.wrapping_add(1);
        }
        for mark in self.marks.iter_mut().rev().take_while(|mark| mark.after.is_none()) {
            mark.after = Some(xid);
        }
        self.join_marks();
        if is_older(self.seen, xid) {
            self.seen = xid;
        }
    }

    /// No logical message that is still to come stands before the latest changes.
    fn settle(&mut self) {
        (self.latest.xid, self.latest.is_large) = (None, false);
        self.put_latest();
    }

    fn put_latest(&mut self) {
        let latest = std::mem::take(&mut self.latest.bytes);
        if !latest.is_empty() {
            let grown = append(&mut self.blocks, latest.len(), |block| block.extend_from_slice(&latest));
            self.memory = self.memory.saturating_add(grown);
            self.latest.bytes = latest;
            self.latest.bytes.clear();
        }
    }

    /// A sub-transaction was rolled back, and with it what came since it began. Of that the server says nothing, but ids are
    /// given out in order: one not above those whose changes came before a logical message began before it. (Changes only:
    /// a roll-back is sent at once, and may overtake what the server still keeps.) One of which nothing was seen may have
    /// begun on either side, unless a change between the two is still there.
    pub fn abort(&mut self, subxid: u32) {
        self.settle();
        self.has_waste |= self.aborted.insert(subxid);
        // What was seen only grows, so these are the last ones; and those before them that nothing else followed.
        let mut lost: Option<Mark> = None;
        while let Some(mut mark) = self.marks.pop_if(|mark| !is_older(mark.before, subxid)) {
            self.has_waste = true;
            // Between two that are lost together there are only lost ones, unless one stood for certain.
            match lost.take() {
                Some(next) if next.certain == mark.certain && mark.lsns.1 <= next.lsns.0 => mark.lsns.1 = next.lsns.1,
                Some(next) => self.lose(next.lsns),
                None => {}
            }
            lost = Some(mark);
        }
        if let Some(mark) = lost {
            self.lose(mark.lsns);
            self.marks.shrink_to(self.marks.len().saturating_add(self.marks.len() / 8));
        }
        let is_doubtful =
            |mark: &&mut Mark| !is_older(mark.seen, subxid) || mark.after.is_none_or(|after| after == subxid);
        for mark in self.marks.iter_mut().rev().take_while(is_doubtful) {
            mark.in_doubt = true;
        }
    }

    /// A row of logical messages was rolled back.
    fn lose(&mut self, (mut first, mut last): (u64, u64)) {
        // Of an honest server none overlaps another.
        while let Some((&from, &to)) = self.lost.range(..=last).next_back()
            && first <= to
        {
            (first, last) = (first.min(from), last.max(to));
            self.lost.remove(&from);
        }
        self.lost.insert(first, last);
    }

    /// A logical message of which nobody can say whether it was rolled back.
    pub fn doubtful(&self) -> Option<u64> {
        self.marks.iter().find(|mark| mark.in_doubt).map(|mark| mark.lsns.0)
    }

    /// Whether a message was rolled back.
    pub fn is_lost(&self, kept: &Kept<'_>) -> bool {
        let is_among_lost = |lsn: u64| self.lost.range(..=lsn).next_back().is_some_and(|(_, &last)| lsn <= last);
        (!self.aborted.is_empty() && self.aborted.contains(&kept.xid))
            || (!self.lost.is_empty()
                && kept.bytes.first() == Some(&kind::MESSAGE)
                && kept.xid == self.xid
                && message_lsn(kept.bytes).is_some_and(is_among_lost))
    }

    /// Make room in memory: by leaving out what was rolled back, and if that is not much, by writing to a file.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn shrink<S: Storage<File = F, Error = F::Error>>(
        &mut self,
        storage: &mut S,
    ) -> std::result::Result<(), F::Error> {
        if std::mem::take(&mut self.has_waste) {
            let before = self.memory;
            self.leave_out_waste();
            if self.memory <= before / 2 {
                return Ok(());
            }
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(storage.create()?),
        };
        while let Some(block) = self.blocks.front() {
            file.append(block)?;
            self.blocks.pop_front();
        }
        self.memory = 0;
        Ok(())
    }

    fn leave_out_waste(&mut self) {
        let mut left: VecDeque<Vec<u8>> = VecDeque::new();
        for block in std::mem::take(&mut self.blocks) {
            let mut cursor = Cursor::new(&block);
            while let Some(Ok(kept)) = next(&mut cursor) {
                if !self.is_lost(&kept) {
                    let numbers: Vec<u32> = kept.shapes().collect();
                    let size = kept.shapes.len().saturating_add(kept.bytes.len());
                    append(&mut left, size, |block| {
                        write(block, kept.xid, kept.lsn, kept.malformed, &numbers, &[kept.bytes]);
                    });
                }
            }
        }
        self.blocks = left;
        self.memory = self.blocks.iter().map(Vec::capacity).sum();
        // No transaction id comes again, so what is nowhere any more need not be remembered.
        if self.file.is_none() {
            self.aborted.clear();
            self.lost.clear();
        }
    }

    /// Begin to read what was kept.
    ///
    /// # Errors
    /// When the file cannot be read again.
    pub fn rewind(&mut self) -> std::result::Result<(), F::Error> {
        self.settle();
        self.file.as_mut().map_or(Ok(()), File::rewind)
    }

    /// The next block: from the file, then from memory. False after the last one.
    ///
    /// # Errors
    /// When the file does not give back what was written.
    pub fn next_block(&mut self, block: &mut Vec<u8>) -> std::result::Result<bool, F::Error> {
        if let Some(file) = &mut self.file {
            if file.read(block)? {
                return Ok(true);
            }
            self.file = None;
        }
        match self.blocks.pop_front() {
            Some(next) => {
                self.memory = self.memory.saturating_sub(next.capacity());
                *block = next;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// The next message of a block; None at its end.
pub(super) fn next<'a>(cursor: &mut Cursor<'a>) -> Option<Result<Kept<'a>>> {
    (!cursor.rest().is_empty()).then(|| Kept::parse(cursor))
}

#[cfg(test)]
mod tests {
    use super::is_older;

    #[test]
    fn transaction_ids_begin_anew() {
        for (one, other) in [(700, 701), (u32::MAX, 3), (u32::MAX - 5, u32::MAX), (u32::MAX, 1 << 30)] {
            assert!(is_older(one, other) && !is_older(other, one) && !is_older(one, one), "{one} {other}");
        }
    }
}
