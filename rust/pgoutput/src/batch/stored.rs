//! A batch as bytes that can be kept in a file, and back: alone, with all that is known of its messages.
//!
//! Numbers are big-endian, as in the protocol. In this order: `pgb` and the version, the counts of shapes, transactions and
//! records (4 bytes each); the shapes, each the length of its Relation message and that; the transactions; the records; the
//! bytes of all messages, one after the other. A shape or transaction is there when a record refers to it, each once.
//! A record's fields are [`flag`], the length and the LSN of its message, and what differs from the record before it, so that
//! most take 13 bytes. See `docs/decisions/0031-the-spool.md`.
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{Batch, Content, Record};
use crate::cursor::Cursor;
use crate::error::{Error, Reason, Result};
use crate::message::Message;
use crate::session::{Origin, Shape, Transaction};

const SIGNATURE: &[u8; 3] = b"pgb";
const VERSION: u8 = 1;

/// What is said of a record in its first byte.
mod flag {
    /// Shape and transaction are those of the record before, and its index is that one's and one more. What follows is
    /// left out.
    pub const NEXT: u8 = 1;
    pub const STREAMED: u8 = 2;
    pub const MALFORMED: u8 = 4;
    /// The 8 bytes of its index are there.
    pub const INDEX: u8 = 8;
    /// A list of relations is there: their count, and the number of each.
    pub const RELATIONS: u8 = 16;
    /// The 8 bytes of `end_lsn` are there.
    pub const END: u8 = 32;
    pub const ALL: u8 = 63;
}

/// What is said of a transaction in its first byte: which of its fields are there. `commit_lsn` always is.
mod known {
    pub const COMMIT_TIME: u8 = 1;
    pub const XID: u8 = 2;
    pub const PREVIOUS_END: u8 = 4;
    pub const ORIGIN: u8 = 8;
    pub const ALL: u8 = 15;
}

/// The least that a shape, a transaction and a record take, in bytes.
const LEAST: [usize; 3] = [4, 9, 13];

fn too_large(number: usize, field: &'static str) -> Error {
    Error { reason: Reason::BadLength(i64::try_from(number).unwrap_or(i64::MAX)), field, offset: 0 }
}

fn put_count(out: &mut Vec<u8>, count: usize, field: &'static str) -> Result<()> {
    let count = u32::try_from(count).map_err(|_| too_large(count, field))?;
    out.extend_from_slice(&count.to_be_bytes());
    Ok(())
}

fn put_sized(out: &mut Vec<u8>, bytes: &[u8], field: &'static str) -> Result<()> {
    put_count(out, bytes.len(), field)?;
    out.extend_from_slice(bytes);
    Ok(())
}

/// What is referred to, numbered from 1 in the order of first use.
#[derive(Default)]
struct Used {
    numbers: HashMap<usize, u32>,
    order: Vec<usize>,
}

impl Used {
    /// The number of an entry, 0 for none.
    fn number(&mut self, entry: Option<usize>) -> u32 {
        let Some(entry) = entry else { return 0 };
        let next = u32::try_from(self.order.len().saturating_add(1)).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(entry).or_insert(next);
        if number == next {
            self.order.push(entry);
        }
        number
    }
}

fn put_transaction(out: &mut Vec<u8>, transaction: &Transaction, origin: Option<&Arc<Origin>>) -> Result<()> {
    let Transaction { commit_lsn, commit_time, xid, previous_end_lsn } = transaction;
    let mut there = 0;
    for (is_known, flag) in [
        (commit_time.is_some(), known::COMMIT_TIME),
        (xid.is_some(), known::XID),
        (previous_end_lsn.is_some(), known::PREVIOUS_END),
        (origin.is_some(), known::ORIGIN),
    ] {
        there |= if is_known { flag } else { 0 };
    }
    out.push(there);
    out.extend_from_slice(&commit_lsn.to_be_bytes());
    out.extend(commit_time.iter().flat_map(|time| time.to_be_bytes()));
    out.extend(xid.iter().flat_map(|xid| xid.to_be_bytes()));
    out.extend(previous_end_lsn.iter().flat_map(|lsn| lsn.to_be_bytes()));
    if let Some(origin) = origin {
        out.extend_from_slice(&origin.commit_lsn.to_be_bytes());
        put_sized(out, &origin.name, "origin name")?;
    }
    Ok(())
}

/// Whether a record is what is most likely to come after another.
fn is_next(last: Option<&Record>, record: &Record) -> bool {
    last.is_some_and(|last| {
        last.shape == record.shape
            && last.transaction == record.transaction
            && record.relations.is_none()
            && record.index.is_some()
            && last.index.and_then(|index| index.checked_add(1)) == record.index
    })
}

impl Batch {
    /// Write the batch to the end of some bytes.
    ///
    /// # Errors
    /// When it has more than 2³² messages or relations, or one of them is larger than 4 GiB.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let (mut shapes, mut transactions) = (Used::default(), Used::default());
        let mut records = Vec::with_capacity(self.records.len().saturating_mul(16));
        let mut last = None;
        for record in &*self.records {
            self.put_record(&mut records, last, record, &mut shapes, &mut transactions)?;
            last = Some(record);
        }
        out.reserve(records.len().saturating_add(self.nbytes()).saturating_add(1024));
        out.extend_from_slice(SIGNATURE);
        out.push(VERSION);
        put_count(out, shapes.order.len(), "number of shapes")?;
        put_count(out, transactions.order.len(), "number of transactions")?;
        put_count(out, self.records.len(), "number of messages")?;
        for shape in shapes.order.iter().filter_map(|&number| self.content.shapes.get(number)) {
            put_sized(out, &shape.bytes, "Relation message")?;
        }
        for number in transactions.order {
            if let Some(transaction) = self.content.transactions.get(number) {
                put_transaction(out, transaction, self.content.origins.get(number).and_then(Option::as_ref))?;
            }
        }
        out.extend_from_slice(&records);
        self.put_messages(out);
        Ok(())
    }

    fn put_record(
        &self,
        out: &mut Vec<u8>,
        last: Option<&Record>,
        record: &Record,
        shapes: &mut Used,
        transactions: &mut Used,
    ) -> Result<()> {
        let is_next = is_next(last, record);
        let length = u32::try_from(record.bytes.len()).map_err(|_| too_large(record.bytes.len(), "message length"))?;
        let mut flags = 0;
        for (is_set, flag) in [
            (is_next, flag::NEXT),
            (record.streamed, flag::STREAMED),
            (record.malformed, flag::MALFORMED),
            (!is_next && record.index.is_some(), flag::INDEX),
            (record.relations.is_some(), flag::RELATIONS),
            (record.end_lsn.is_some(), flag::END),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        out.push(flags);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&record.lsn.to_be_bytes());
        if !is_next {
            out.extend_from_slice(&shapes.number(record.shape).to_be_bytes());
            out.extend_from_slice(&transactions.number(record.transaction).to_be_bytes());
            out.extend(record.index.iter().flat_map(|index| index.to_be_bytes()));
        }
        if record.relations.is_some() {
            let truncated = self.truncated(record);
            put_count(out, truncated.len(), "number of relations")?;
            out.extend(truncated.iter().flat_map(|&number| shapes.number(number).to_be_bytes()));
        }
        out.extend(record.end_lsn.iter().flat_map(|lsn| lsn.to_be_bytes()));
        Ok(())
    }

    /// Messages that stand beside each other are copied as one.
    fn put_messages(&self, out: &mut Vec<u8>) {
        let mut put = |range: Range<usize>| out.extend_from_slice(self.content.bytes.get(range).unwrap_or_default());
        let mut run = 0..0;
        for Record { bytes, .. } in &*self.records {
            if run.end == bytes.start {
                run.end = bytes.end;
            } else {
                put(std::mem::replace(&mut run, bytes.clone()));
            }
        }
        put(run);
    }

    /// Read what [`Batch::encode`] wrote. Its messages are numbered anew, and of the relations those are there that the
    /// messages refer to.
    ///
    /// # Errors
    /// When these bytes are no batch, or one of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let start = cursor;
        if cursor.bytes(SIGNATURE.len(), "signature of a batch")? != SIGNATURE {
            let first = start.rest().first().copied().unwrap_or(0);
            return Err(start.error(Reason::UnexpectedByte(first), "signature of a batch"));
        }
        let start = cursor;
        let version = cursor.u8("version of a batch")?;
        if version != VERSION {
            return Err(start.error(Reason::UnexpectedByte(version), "version of a batch"));
        }
        let mut counts = [0; 3];
        let fields = ["number of shapes", "number of transactions", "number of messages"];
        for ((count, field), least) in counts.iter_mut().zip(fields).zip(LEAST) {
            let start = cursor;
            let announced = cursor.u32(field)?;
            // Room is made for as many as there can be.
            let most = cursor.rest().len().checked_div(least).unwrap_or(0);
            *count = usize::try_from(announced)
                .ok()
                .filter(|&count| count <= most)
                .ok_or_else(|| start.error(Reason::BadLength(i64::from(announced)), field))?;
        }
        let [shapes, transactions, records] = counts;
        let mut parser = Parser { cursor, content: Content::default(), end: 0 };
        parser.content.shapes = (0..shapes).map(|_| parser.shape()).collect::<Result<_>>()?;
        for _ in 0..transactions {
            parser.transaction()?;
        }
        let mut all = Vec::with_capacity(records);
        for _ in 0..records {
            let record = parser.record(all.last())?;
            all.push(record);
        }
        parser.messages(&mut all)?;
        Ok(Self { content: Arc::new(parser.content), records: Arc::new(all), versions: None })
    }
}

/// Reads a batch.
struct Parser<'a> {
    cursor: Cursor<'a>,
    content: Content,
    /// Where the messages of the records end that were read, counted from the first message.
    end: usize,
}

impl<'a> Parser<'a> {
    fn sized(&mut self, field: &'static str) -> Result<&'a [u8]> {
        let start = self.cursor;
        let length = self.cursor.u32(field)?;
        let count = usize::try_from(length).map_err(|_| start.error(Reason::BadLength(i64::from(length)), field))?;
        self.cursor.bytes(count, field)
    }

    /// A number from 1 to the length of a list, 0 for none.
    fn number(&mut self, length: usize, field: &'static str) -> Result<Option<usize>> {
        let start = self.cursor;
        let number = self.cursor.u32(field)?;
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        if at > length { Err(start.error(Reason::BadLength(i64::from(number)), field)) } else { Ok(at.checked_sub(1)) }
    }

    fn shape(&mut self) -> Result<Arc<Shape>> {
        let start = self.cursor;
        let bytes = self.sized("Relation message")?;
        let offset = start.offset();
        match Message::parse(bytes) {
            Ok(Message::Relation { relation, .. }) => Ok(Arc::new(Shape { relation, bytes: bytes.into() })),
            Ok(_) => Err(Error {
                reason: Reason::UnknownKind(bytes.first().copied().unwrap_or(0)),
                field: "Relation message",
                offset,
            }),
            Err(error) => Err(Error { offset: error.offset.saturating_add(offset).saturating_add(4), ..error }),
        }
    }

    fn transaction(&mut self) -> Result<()> {
        let start = self.cursor;
        let there = self.cursor.u8("transaction flags")?;
        if there & !known::ALL != 0 {
            return Err(start.error(Reason::UnexpectedByte(there), "transaction flags"));
        }
        let cursor = &mut self.cursor;
        let transaction = Transaction {
            commit_lsn: cursor.u64("commit LSN")?,
            commit_time: (there & known::COMMIT_TIME != 0).then(|| cursor.i64("commit time")).transpose()?,
            xid: (there & known::XID != 0).then(|| cursor.u32("xid")).transpose()?,
            previous_end_lsn: (there & known::PREVIOUS_END != 0).then(|| cursor.u64("previous end")).transpose()?,
        };
        let mut origin = None;
        if there & known::ORIGIN != 0 {
            let commit_lsn = self.cursor.u64("origin's commit LSN")?;
            let name = self.sized("origin name")?.to_vec();
            let own = Origin { commit_lsn, name };
            // One server's transactions mostly come from one other.
            let same = self.content.origins.last().and_then(Option::as_ref).filter(|last| ***last == own);
            origin = Some(same.map_or_else(|| Arc::new(own), Arc::clone));
        }
        self.content.transactions.push(transaction);
        self.content.origins.push(origin);
        Ok(())
    }

    /// A record, whose message's bytes are not looked at yet.
    fn record(&mut self, last: Option<&Record>) -> Result<Record> {
        let start = self.cursor;
        let flags = self.cursor.u8("message flags")?;
        let has = |flag: u8| flags & flag != 0;
        let is_wrong = (has(flag::NEXT) && (has(flag::INDEX) || has(flag::RELATIONS))) || has(!flag::ALL);
        let next =
            last.filter(|_| has(flag::NEXT)).map(|last| (last, last.index.and_then(|index| index.checked_add(1))));
        let next = next.map(|(last, index)| (last.shape, last.transaction, index));
        if is_wrong || (has(flag::NEXT) && next.is_none_or(|(_, _, index)| index.is_none())) {
            return Err(start.error(Reason::UnexpectedByte(flags), "message flags"));
        }
        let length_at = self.cursor;
        let length = self.cursor.u32("message length")?;
        let end = usize::try_from(length).ok().and_then(|length| self.end.checked_add(length));
        let end = end.ok_or_else(|| length_at.error(Reason::BadLength(i64::from(length)), "message length"))?;
        let lsn = self.cursor.u64("message LSN")?;
        let (shapes, transactions) = (self.content.shapes.len(), self.content.transactions.len());
        let (shape, transaction, index) = match next {
            Some(next) => next,
            None => (
                self.number(shapes, "shape number")?,
                self.number(transactions, "transaction number")?,
                has(flag::INDEX).then(|| self.cursor.i64("index")).transpose()?,
            ),
        };
        let relations = has(flag::RELATIONS).then(|| self.relations(shapes)).transpose()?;
        let end_lsn = has(flag::END).then(|| self.cursor.u64("end LSN")).transpose()?;
        let bytes = self.end..end;
        self.end = end;
        Ok(Record {
            number: 0,
            bytes,
            lsn,
            kind: 0,
            shape,
            relations,
            transaction,
            index,
            end_lsn,
            streamed: has(flag::STREAMED),
            malformed: has(flag::MALFORMED),
        })
    }

    fn relations(&mut self, shapes: usize) -> Result<usize> {
        let count = self.cursor.u32("number of relations")?;
        let mut numbers = Vec::new();
        for _ in 0..count {
            numbers.push(self.number(shapes, "shape number")?);
        }
        self.content.truncations.push(numbers);
        Ok(self.content.truncations.len().saturating_sub(1))
    }

    /// The bytes of all messages, which are all that is left.
    fn messages(&mut self, records: &mut [Record]) -> Result<()> {
        let bytes = self.cursor.bytes(self.end, "messages")?;
        self.cursor.finish("messages")?;
        self.content.bytes = bytes.to_vec();
        for (number, record) in records.iter_mut().enumerate() {
            record.number = number;
            record.kind = bytes.get(record.bytes.clone()).and_then(<[u8]>::first).copied().unwrap_or(0);
        }
        Ok(())
    }
}
