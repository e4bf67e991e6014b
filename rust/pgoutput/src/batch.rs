//! A run of raw messages with what is known of each: relation, transaction, index, LSN. Nothing is decoded here.
//!
//! Over 400 lines because a batch, what builds it and what reads a stream into it share what nobody else is to see.
mod fold;
mod stored;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::frame::Frame;
use crate::message::{Message, NewRow, kind};
use crate::session::{Origin, Place, Session, Shape, Transaction, fields_at, parse};
use crate::versions::Versions;

pub mod reshape;

/// `(commit_lsn, index)`: the place of a change in the order of all changes.
pub type Position = (u64, i64);

/// What is known of one message of a batch.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number in the batch as it was read, which it keeps when the batch is cut down.
    pub number: usize,
    /// Where its bytes are.
    bytes: Range<usize>,
    /// The `wal_start` of its XLogData; 0 when not known.
    pub lsn: u64,
    /// Its first byte; 0 for an empty message.
    pub kind: u8,
    /// The number of its relation among the batch's, for a row or a Relation.
    pub shape: Option<usize>,
    /// The number of its relations among the batch's lists, for a Truncate.
    relations: Option<usize>,
    /// The number of its transaction among the batch's.
    pub transaction: Option<usize>,
    /// Its index in the transaction, when it is a change whose transaction is known.
    pub index: Option<i64>,
    /// For what ends a transaction, the end of its record in the WAL.
    end_lsn: Option<u64>,
    /// Whether it stood in a stream, so that in most kinds a transaction's id comes after the kind.
    pub streamed: bool,
    /// Whether it is no message that can be read.
    malformed: bool,
}

impl Record {
    /// Whether it is a row change, a truncate or a logical message; or something unreadable that could have been one, so
    /// that nobody who asks for changes goes past it unknowingly.
    pub fn is_change(&self) -> bool {
        self.malformed
            || matches!(self.kind, kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE | kind::MESSAGE)
    }

    /// Whether it is part of a streamed or prepared transaction, whose changes count only when a later message says so.
    ///
    /// A Stream Abort alone is nothing of the kind: PostgreSQL 18 sends one also to a client that streams nothing, when a
    /// large transaction with a savepoint was rolled back, and of that transaction nothing else (server functions
    /// `ReorderBufferCheckAndTruncateAbortedTXN`, `ReorderBufferAbort`).
    pub fn is_in_progress(&self) -> bool {
        let of_protocol_2_to_4 = matches!(
            self.kind,
            kind::STREAM_START
                | kind::STREAM_STOP
                | kind::STREAM_COMMIT
                | kind::STREAM_PREPARE
                | kind::BEGIN_PREPARE
                | kind::PREPARE
                | kind::COMMIT_PREPARED
                | kind::ROLLBACK_PREPARED
        );
        self.streamed || (of_protocol_2_to_4 && !self.malformed)
    }

    /// Where the fields begin: after the kind, in a stream after the transaction's id.
    pub fn fields_at(&self) -> usize {
        fields_at(self.kind, self.streamed)
    }
}

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    shapes: Vec<Arc<Shape>>,
    truncations: Vec<Vec<Option<usize>>>,
    transactions: Vec<Transaction>,
    /// As long as `transactions`.
    origins: Vec<Option<Arc<Origin>>>,
}

/// A run of messages. Cutting it down shares the bytes, copying it everything.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    content: Arc<Content>,
    records: Arc<Vec<Record>>,
    versions: Option<Arc<Versions>>,
}

impl Batch {
    /// The messages.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The bytes of one message.
    pub fn bytes(&self, record: &Record) -> &[u8] {
        self.content.bytes.get(record.bytes.clone()).unwrap_or_default()
    }

    /// One message, read.
    ///
    /// # Errors
    /// When it is malformed.
    #[inline]
    pub fn message(&self, record: &Record) -> Result<Message<'_>> {
        parse(self.bytes(record), record.streamed)
    }

    /// One message, read up to the row that it ends with ([`Message::parse_ahead`]).
    #[inline]
    pub(crate) fn message_ahead(&self, record: &Record) -> Result<Message<'_>> {
        Message::parse_ahead(self.bytes(record), record.streamed)
    }

    /// A message in a single step, where it is one of those that most are.
    #[inline]
    pub(crate) fn new_row_ahead(&self, record: &Record) -> Option<NewRow<'_>> {
        if record.streamed { None } else { NewRow::ahead(self.bytes(record)) }
    }

    /// The size of all messages in bytes.
    pub fn nbytes(&self) -> usize {
        self.records.iter().map(|record| record.bytes.len()).sum()
    }

    /// All relations; `Record::shape` is a number in this list.
    pub fn shapes(&self) -> &[Arc<Shape>] {
        &self.content.shapes
    }

    /// The relations of a Truncate; None for one that was not seen.
    pub fn truncated(&self, record: &Record) -> &[Option<usize>] {
        record.relations.and_then(|number| self.content.truncations.get(number)).map_or(&[], Vec::as_slice)
    }

    /// The transaction of a message, when known.
    pub fn transaction(&self, record: &Record) -> Option<Transaction> {
        record.transaction.and_then(|number| self.content.transactions.get(number)).copied()
    }

    /// Where the transaction of a message was made, when that is another server and its Origin message was seen.
    pub fn origin(&self, record: &Record) -> Option<&Arc<Origin>> {
        record.transaction.and_then(|number| self.content.origins.get(number))?.as_ref()
    }

    /// The position of a message, when it is a change whose transaction is known.
    pub fn position(&self, record: &Record) -> Option<Position> {
        Some((self.transaction(record)?.commit_lsn, record.index?))
    }

    /// The end in the WAL of the last transaction that ends here: by Commit, Stream Commit, Prepare, Stream Prepare, Commit
    /// Prepared or Rollback Prepared.
    pub fn end_lsn(&self) -> Option<u64> {
        self.records.iter().rev().find_map(|record| record.end_lsn)
    }

    /// The end in the WAL of the last transaction whose Commit is here, as that says itself.
    pub fn commit_end_lsn(&self) -> Option<u64> {
        let commits = self.records.iter().rev().filter(|record| record.kind == kind::COMMIT && !record.streamed);
        commits.map(|record| Message::parse(self.bytes(record))).find_map(|message| match message {
            Ok(Message::Commit { end_lsn, .. }) => Some(end_lsn),
            _ => None,
        })
    }

    /// Where the last logical message outside of transactions ends.
    pub fn message_lsn(&self) -> Option<u64> {
        let messages = self.records.iter().rev().filter(|record| record.kind == kind::MESSAGE && !record.malformed);
        messages.map(|record| self.message(record)).find_map(|message| match message {
            Ok(Message::Message { transactional: false, lsn, .. }) => Some(lsn),
            _ => None,
        })
    }

    /// What is known of a message, for whoever puts it into another batch.
    fn place(&self, record: &Record) -> Place {
        let shape = |number: usize| self.content.shapes.get(number).cloned();
        Place {
            shape: record.shape.and_then(shape),
            truncated: self.truncated(record).iter().map(|number| number.and_then(shape)).collect(),
            transaction: self.transaction(record),
            origin: self.origin(record).cloned(),
            index: record.index,
            end_lsn: record.end_lsn,
            streamed: record.streamed,
            malformed: record.malformed,
        }
    }

    fn keep(&self, mut test: impl FnMut(&Record) -> bool) -> Self {
        let records = self.records.iter().filter(|record| test(record)).cloned().collect();
        self.part(records)
    }

    fn part(&self, records: Vec<Record>) -> Self {
        Self { content: Arc::clone(&self.content), records: Arc::new(records), versions: self.versions.clone() }
    }

    /// One of its messages as a batch of its own.
    #[must_use]
    pub fn alone(&self, record: &Record) -> Self {
        self.part(vec![record.clone()])
    }

    /// The same, which knows the versions of its relations.
    #[must_use]
    pub fn with_versions(self, versions: Arc<Versions>) -> Self {
        Self { versions: Some(versions), ..self }
    }

    /// The versions of its relations, where they are known.
    pub fn versions(&self) -> Option<&Arc<Versions>> {
        self.versions.as_ref()
    }

    /// The messages before one of them, and it with those that follow.
    #[must_use]
    pub fn split_at(&self, at: usize) -> (Self, Self) {
        let (before, rest) = self.records.split_at(at.min(self.records.len()));
        (self.part(before.to_vec()), self.part(rest.to_vec()))
    }

    /// The changes that are the first of their relation, or have another shape than those of the same relation before:
    /// the place of each among the messages, and the number of its shape.
    pub fn shape_runs(&self) -> Vec<(usize, usize)> {
        let mut runs = Vec::new();
        let mut in_force = vec![false; self.shapes().len()];
        for (at, record) in self.records.iter().enumerate().filter(|(_, record)| record.is_change()) {
            for number in record.shape.into_iter().chain(self.truncated(record).iter().copied().flatten()) {
                if in_force.get(number) != Some(&false) {
                    continue;
                }
                let oid = self.shapes().get(number).map(|shape| shape.relation.oid);
                for (other, shape) in in_force.iter_mut().zip(self.shapes()) {
                    *other &= Some(shape.relation.oid) != oid;
                }
                if let Some(now) = in_force.get_mut(number) {
                    *now = true;
                }
                runs.push((at, number));
            }
        }
        runs
    }

    /// The changes of some tables (pairs of schema and name) and kinds only; None for all. A Truncate is kept when one of
    /// its tables is; a logical message belongs to no table; what cannot be read is kept in any case.
    pub fn select(&self, tables: Option<&HashSet<(Vec<u8>, Vec<u8>)>>, kinds: Option<&[u8]>) -> Self {
        let wanted = |shape: &Arc<Shape>| {
            tables.is_none_or(|tables| tables.contains(&(shape.relation.schema.clone(), shape.relation.name.clone())))
        };
        let wanted: Vec<bool> = self.content.shapes.iter().map(wanted).collect();
        let is_wanted =
            |number: Option<usize>| number.and_then(|number| wanted.get(number)).is_none_or(|&wanted| wanted);
        self.keep(|record| {
            if record.malformed {
                return true;
            }
            let of_table = match record.kind {
                kind::MESSAGE => tables.is_none(),
                // A row or truncate of an unknown relation is kept: whoever decodes it gets the error.
                kind::TRUNCATE => {
                    let of = self.truncated(record);
                    of.is_empty() || of.iter().any(|&number| is_wanted(number))
                }
                _ => is_wanted(record.shape),
            };
            record.is_change() && of_table && kinds.is_none_or(|kinds| kinds.contains(&record.kind))
        })
    }

    /// Only what comes after a position: changes above it, and other messages of transactions that did not commit below.
    pub fn after(&self, position: Position) -> Self {
        self.keep(|record| self.is_after(record, position))
    }

    /// What `after` leaves out.
    pub fn up_to(&self, position: Position) -> Self {
        self.keep(|record| !self.is_after(record, position))
    }

    fn is_after(&self, record: &Record, position: Position) -> bool {
        match (self.position(record), self.transaction(record)) {
            (Some(own), _) => own > position,
            (None, Some(transaction)) => transaction.commit_lsn >= position.0,
            // A logical message outside transactions stands in the stream where it was written, and its LSN is the end
            // of its record: where the next may begin. Where a streamed or prepared one will stand is not known yet.
            (None, None) => match self.message(record) {
                Ok(Message::Message { transactional: false, lsn, .. }) => lsn > position.0,
                _ => true,
            },
        }
    }
}

/// Puts a batch together, message by message.
#[derive(Debug, Default)]
pub struct Builder {
    content: Content,
    records: Vec<Record>,
    /// The numbers of `content.shapes` by their addresses, which stay theirs because the list holds them.
    shape_numbers: HashMap<usize, usize>,
    alike: Option<Alike>,
    versions: Option<Arc<Versions>>,
}

/// What makes one shape of those that say the same.
#[derive(Debug, Default)]
struct Alike {
    /// Their numbers by their messages.
    numbers: HashMap<Box<[u8]>, usize>,
    /// Those that have the number of another one, held so that their addresses stay theirs.
    others: Vec<Arc<Shape>>,
}

impl Builder {
    /// For batches of which each says anew what shapes there are: those that say the same are one.
    ///
    /// Between two of them the table must not have had another shape, which would have a version of its own.
    pub fn of_alike() -> Self {
        Self { alike: Some(Alike::default()), ..Self::default() }
    }

    /// For messages that are in hand already: so many, of so many bytes together.
    pub fn with_capacity(messages: usize, bytes: usize) -> Self {
        let content = Content { bytes: Vec::with_capacity(bytes), ..Content::default() };
        Self { content, records: Vec::with_capacity(messages), ..Self::default() }
    }

    /// Add the next message of a stream.
    #[inline]
    pub fn push(&mut self, session: &mut Session, bytes: &[u8], lsn: u64) {
        if !self.push_next_row(session, bytes, lsn) {
            self.push_observed(session, bytes, lsn);
        }
    }

    /// Add a row of the relation and the transaction that the one before it was of; false, with nothing done, for all else.
    #[inline]
    fn push_next_row(&mut self, session: &mut Session, bytes: &[u8], lsn: u64) -> bool {
        let Content { shapes, transactions, .. } = &self.content;
        let (Some(&kind), Some((shape, transaction))) = (bytes.first(), session.next_row(bytes)) else { return false };
        let (Some(last), Some(number)) = (shapes.last(), shapes.len().checked_sub(1)) else { return false };
        if !Arc::ptr_eq(last, shape) || transactions.last() != Some(transaction) {
            return false;
        }
        let transaction = transactions.len().checked_sub(1);
        let start = self.content.bytes.len();
        self.content.bytes.extend_from_slice(bytes);
        self.records.push(Record {
            number: self.records.len(),
            bytes: start..self.content.bytes.len(),
            lsn,
            kind,
            shape: Some(number),
            relations: None,
            transaction,
            index: Some(session.take_index()),
            end_lsn: None,
            streamed: false,
            malformed: false,
        });
        true
    }

    fn push_observed(&mut self, session: &mut Session, bytes: &[u8], lsn: u64) {
        let place = session.observe(bytes);
        self.push_placed(bytes, lsn, &place);
    }

    /// Add a message whose place was found already.
    pub(crate) fn push_placed(&mut self, bytes: &[u8], lsn: u64, place: &Place) {
        let start = self.content.bytes.len();
        self.content.bytes.extend_from_slice(bytes);
        self.record(start, lsn, place);
    }

    /// How many messages there are.
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// Add what was appended to `bytes_mut` since `start` as one message.
    pub fn push_written(&mut self, start: usize, place: &Place) {
        self.record(start, 0, place);
    }

    /// Add what is left of a batch, as it is.
    pub fn push_batch(&mut self, batch: &Batch) {
        // Later ones know what the earlier ones knew, and more.
        self.versions = batch.versions.clone().or_else(|| self.versions.take());
        for record in &*batch.records {
            self.push_placed(batch.bytes(record), record.lsn, &batch.place(record));
        }
    }

    /// The bytes of all messages, for a writer that appends the next one.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.content.bytes
    }

    fn record(&mut self, start: usize, lsn: u64, place: &Place) {
        let kind = self.content.bytes.get(start).copied().unwrap_or(0);
        let shape = place.shape.as_ref().map(|shape| self.shape_number(shape));
        let relations = (kind == kind::TRUNCATE).then(|| {
            let numbers = place.truncated.iter().map(|one| one.as_ref().map(|one| self.shape_number(one))).collect();
            self.content.truncations.push(numbers);
            self.content.truncations.len().saturating_sub(1)
        });
        let transaction = place.transaction.map(|transaction| self.transaction_number(transaction, place));
        self.records.push(Record {
            number: self.records.len(),
            bytes: start..self.content.bytes.len(),
            lsn,
            kind,
            shape,
            relations,
            transaction,
            index: place.index,
            end_lsn: place.end_lsn,
            streamed: place.streamed,
            malformed: place.malformed,
        });
    }

    fn shape_number(&mut self, shape: &Arc<Shape>) -> usize {
        let address = Arc::as_ptr(shape).addr();
        if let Some(&number) = self.shape_numbers.get(&address) {
            return number;
        }
        let next = self.content.shapes.len();
        let number = match &mut self.alike {
            Some(Alike { numbers, .. }) => *numbers.entry(shape.bytes.clone()).or_insert(next),
            None => next,
        };
        let list = match &mut self.alike {
            Some(Alike { others, .. }) if number != next => others,
            _ => &mut self.content.shapes,
        };
        list.push(Arc::clone(shape));
        self.shape_numbers.insert(address, number);
        number
    }

    fn transaction_number(&mut self, transaction: Transaction, place: &Place) -> usize {
        if self.content.transactions.last() != Some(&transaction) {
            self.content.transactions.push(transaction);
            self.content.origins.push(None);
        }
        // The Origin message comes after the Begin.
        if let (Some(known @ None), Some(origin)) = (self.content.origins.last_mut(), &place.origin) {
            *known = Some(Arc::clone(origin));
        }
        self.content.transactions.len().saturating_sub(1)
    }

    /// The batch.
    pub fn finish(self) -> Batch {
        Batch { content: Arc::new(self.content), records: Arc::new(self.records), versions: self.versions }
    }
}

/// Reads the CopyData payloads of one replication stream.
#[derive(Debug, Default)]
pub struct Reader {
    session: Session,
    received_lsn: u64,
    /// The end of the last transaction that ended, or a keepalive's place when nothing was in flight.
    done_lsn: u64,
    idle_lsn: u64,
    reply_requested: bool,
}

impl Reader {
    /// Take one payload.
    ///
    /// # Errors
    /// When it is neither XLogData nor keepalive, or not whole.
    pub fn read(&mut self, bytes: &[u8], builder: &mut Builder) -> Result<()> {
        match Frame::parse(bytes)? {
            // wal_end is where the server is, not what it has sent.
            Frame::XLogData { wal_start, payload, .. } => {
                self.received_lsn = self.received_lsn.max(wal_start);
                builder.push(&mut self.session, payload, wal_start);
                if let Some(end_lsn) = builder.records.last().and_then(|record| record.end_lsn) {
                    self.received_lsn = self.received_lsn.max(end_lsn);
                    self.done(end_lsn);
                }
            }
            Frame::Keepalive { wal_end, reply_requested, .. } => {
                self.received_lsn = self.received_lsn.max(wal_end);
                self.reply_requested |= reply_requested;
                if !self.session.in_transaction() && !self.session.has_streams() {
                    self.done(wal_end);
                }
            }
        }
        Ok(())
    }

    /// A transaction that was prepared and has not ended holds `idle_lsn` where it was prepared: after a restart beyond
    /// that the server sends that it was committed, and its changes not again.
    fn done(&mut self, lsn: u64) {
        self.done_lsn = self.done_lsn.max(lsn);
        let safe = self.session.oldest_prepared().map_or(self.done_lsn, |prepared| self.done_lsn.min(prepared));
        self.idle_lsn = self.idle_lsn.max(safe);
    }

    /// The highest WAL position in any payload.
    pub fn received_lsn(&self) -> u64 {
        self.received_lsn
    }

    /// Everything up to here was received whole, and would not be needed again after a restart from here.
    pub fn idle_lsn(&self) -> u64 {
        self.idle_lsn
    }

    /// Whether a transaction, a prepared one or a piece of a stream has begun and not ended.
    pub fn in_transaction(&self) -> bool {
        self.session.in_transaction()
    }

    /// Whether a keepalive asked for an answer since this was last called.
    pub fn take_reply_request(&mut self) -> bool {
        std::mem::take(&mut self.reply_requested)
    }
}
