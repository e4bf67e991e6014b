//! What a run of messages means: the relations in force, the transaction around a message, and the index of each change.
//!
//! The state moves by what a message says that it is. One that cannot be read moves it as its kind alone can tell (after
//! a Begin a transaction is open, whichever it is) and takes its number with it, so one bad message spoils no other.
//!
//! Relations of streamed transactions are kept for each of them, as the server keeps book of what it has sent: they are in
//! force for the others only from the commit on, never if the transaction is rolled back.
//!
//! Over 400 lines because each kind of message moves the same state.
//!
//! Source: server file `replication/pgoutput/pgoutput.c` (`maybe_send_schema`, `cleanup_rel_sync_cache`).
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::cursor::Cursor;
use crate::error::Result;
use crate::message::{Message, has_xid, kind};
use crate::prepared::PreparedTransactions;
use crate::relation::Relation;

/// A relation together with the bytes of its message, by which a repeated one is recognised.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The relation.
    pub relation: Relation,
    /// Its Relation message, without the transaction's id that it has in a stream.
    pub bytes: Box<[u8]>,
}

/// A committed transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The LSN of its commit record; for rows of an initial copy the consistent point.
    pub commit_lsn: u64,
    /// When it committed, in microseconds since 2000-01-01 UTC; None for rows of an initial copy.
    pub commit_time: Option<i64>,
    /// Its id; None for rows of an initial copy.
    pub xid: Option<u32>,
    /// The end of what came before it in the stream: of another transaction, or of a logical message outside of any. None
    /// for the first, and for rows of an initial copy.
    pub previous_end_lsn: Option<u64>,
}

/// Where a transaction was made, when that is another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The LSN of its commit there.
    pub commit_lsn: u64,
    /// The origin's name.
    pub name: Vec<u8>,
}

/// What one message is in its stream.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The relation that a Relation message or a row is about; None for one that was not seen.
    pub shape: Option<Arc<Shape>>,
    /// The relations that a Truncate is about; None for one that was not seen.
    pub truncated: Vec<Option<Arc<Shape>>>,
    /// The transaction that it belongs to, when known. Of a streamed or prepared one it is not: nobody knows yet whether
    /// and where it will commit, and sub-transactions that are rolled back shift the index.
    pub transaction: Option<Transaction>,
    /// Where that transaction was made, when its Origin message was seen.
    pub origin: Option<Arc<Origin>>,
    /// The number of the change among those of its transaction, when it is a change.
    pub index: Option<i64>,
    /// For what ends a transaction (Commit, Stream Commit, Prepare, Stream Prepare, Commit Prepared, Rollback Prepared)
    /// the end of its record in the WAL.
    pub end_lsn: Option<u64>,
    /// Whether it stood in a stream, so that in most kinds a transaction's id comes after the kind.
    pub streamed: bool,
    /// Whether this is no message that can be read; of a row change and a Message only the kind and the table were looked at.
    pub malformed: bool,
}

/// What the last messages have begun and not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Block {
    #[default]
    Outside,
    /// Between Begin and Commit; None when the Begin could not be read.
    Transaction(Option<Transaction>),
    /// Between Begin Prepare and Prepare.
    Prepared,
    /// Between Stream Start and Stream Stop; the id of the whole transaction, None when the Start could not be read.
    Stream(Option<u32>),
}

/// The relations in force by OID, each with the number of its Relation message in the stream.
type Shapes = HashMap<u32, (u64, Arc<Shape>)>;

/// The state of one stream of messages.
#[derive(Debug, Default)]
pub struct Session {
    shapes: Shapes,
    /// Those of each streamed transaction that has not ended, by the id of the whole transaction.
    streams: HashMap<u32, Shapes>,
    /// Those that were prepared and have not ended.
    prepared: PreparedTransactions,
    last: Option<Arc<Shape>>,
    block: Block,
    next_index: i64,
    relations_seen: u64,
    previous_end_lsn: Option<u64>,
    origin: Option<Arc<Origin>>,
}

/// Stands for the id of a streamed transaction whose Stream Start could not be read: no transaction has it. What it says of
/// relations is forgotten when the piece ends.
const UNKNOWN: u32 = 0;

/// A message by where it stood.
pub(crate) fn parse(bytes: &[u8], streamed: bool) -> Result<Message<'_>> {
    if streamed { Message::parse_streamed(bytes) } else { Message::parse(bytes) }
}

/// Where the fields begin: after the kind, in a stream after the transaction's id.
pub(crate) fn fields_at(kind: u8, streamed: bool) -> usize {
    if streamed && has_xid(kind) { 5 } else { 1 }
}

fn oid_at(bytes: &[u8], at: usize) -> Option<u32> {
    Cursor::new(bytes.get(at..).unwrap_or_default()).u32("relation OID").ok()
}

impl Session {
    /// Whether a transaction, a prepared one or a piece of a stream has begun and not ended.
    pub fn in_transaction(&self) -> bool {
        self.block != Block::Outside
    }

    /// Whether the next message stands in a stream.
    pub fn in_stream(&self) -> bool {
        matches!(self.block, Block::Stream(_))
    }

    /// Whether the next message stands between Begin Prepare and Prepare.
    pub fn in_prepared(&self) -> bool {
        self.block == Block::Prepared
    }

    /// Whether streamed transactions have begun and not ended.
    pub fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// The lowest LSN of a prepare record whose transaction has not ended. After a restart at a higher one the server sends
    /// only its end, not its changes.
    pub fn oldest_prepared(&self) -> Option<u64> {
        self.prepared.oldest()
    }

    /// Take note of the next message and say what it is. A malformed one is given its place all the same; who asks for
    /// its content will get the error.
    pub fn observe(&mut self, bytes: &[u8]) -> Place {
        match bytes.first() {
            Some(&(kind::INSERT | kind::UPDATE | kind::DELETE)) => self.row(bytes),
            Some(&kind::BEGIN) => self.begin(bytes),
            Some(&kind::COMMIT) => self.commit(bytes),
            Some(&kind::RELATION) => self.relation(bytes),
            Some(&kind::TRUNCATE) => self.truncate(bytes),
            Some(&kind::MESSAGE) => self.message(bytes),
            Some(&kind::ORIGIN) => self.origin(bytes),
            Some(
                &(kind::STREAM_START
                | kind::STREAM_STOP
                | kind::STREAM_COMMIT
                | kind::STREAM_ABORT
                | kind::STREAM_PREPARE
                | kind::BEGIN_PREPARE
                | kind::PREPARE
                | kind::COMMIT_PREPARED
                | kind::ROLLBACK_PREPARED),
            ) => self.of_protocol_2_to_4(bytes),
            _ => Place { malformed: parse(bytes, self.in_stream()).is_err(), ..self.place() },
        }
    }

    /// Where a message stands that is no change.
    fn place(&self) -> Place {
        let transaction = if let Block::Transaction(transaction) = self.block { transaction } else { None };
        let origin = transaction.and_then(|_| self.origin.clone());
        Place { transaction, origin, streamed: self.in_stream(), ..Place::default() }
    }

    fn origin(&mut self, bytes: &[u8]) -> Place {
        let message = Message::parse(bytes);
        if let Ok(Message::Origin { commit_lsn, name }) = &message {
            self.origin = Some(Arc::new(Origin { commit_lsn: *commit_lsn, name: name.to_vec() }));
        }
        Place { malformed: message.is_err(), ..self.place() }
    }

    /// The relation and the transaction of a row, where there is nothing else to be said of it: no stream, no origin, and
    /// the relation is the one that came last. Takes note of nothing; `take_index` does.
    #[inline]
    pub(crate) fn next_row(&self, bytes: &[u8]) -> Option<(&Arc<Shape>, &Transaction)> {
        let (Block::Transaction(Some(transaction)), None, Some(last)) = (&self.block, &self.origin, &self.last) else {
            return None;
        };
        let &[kind::INSERT | kind::UPDATE | kind::DELETE, o0, o1, o2, o3, ..] = bytes else { return None };
        (last.relation.oid == u32::from_be_bytes([o0, o1, o2, o3])).then_some((last, transaction))
    }

    /// Count a change, and give its number among those of its transaction.
    #[inline]
    pub(crate) fn take_index(&mut self) -> i64 {
        let index = self.next_index;
        self.next_index = index.saturating_add(1);
        index
    }

    fn change(&mut self, shape: Option<Arc<Shape>>, truncated: Vec<Option<Arc<Shape>>>) -> Place {
        let place = self.place();
        let number = self.take_index();
        let index = place.transaction.map(|_| number);
        Place { shape, truncated, index, ..place }
    }

    fn row(&mut self, bytes: &[u8]) -> Place {
        let at = if self.in_stream() { 5 } else { 1 };
        let shape = oid_at(bytes, at).and_then(|oid| self.shape(oid));
        self.change(shape, Vec::new())
    }

    fn message(&mut self, bytes: &[u8]) -> Place {
        let at = fields_at(kind::MESSAGE, self.in_stream());
        // The flags byte: 1 is transactional. Others are written at once, outside any transaction.
        if bytes.get(at) == Some(&1) {
            self.change(None, Vec::new())
        } else {
            if let Ok(Message::Message { lsn, .. }) = parse(bytes, self.in_stream()) {
                self.previous_end_lsn = Some(lsn);
            }
            Place { streamed: self.in_stream(), ..Place::default() }
        }
    }

    /// The relations that rows are read with here: in a stream the transaction's own and no others, because the server
    /// sends them once more in each.
    fn shapes(&mut self) -> &mut Shapes {
        match self.block {
            Block::Stream(xid) => self.streams.entry(xid.unwrap_or(UNKNOWN)).or_default(),
            _ => &mut self.shapes,
        }
    }

    fn shape(&mut self, oid: u32) -> Option<Arc<Shape>> {
        if let Some(last) = &self.last
            && last.relation.oid == oid
        {
            return Some(Arc::clone(last));
        }
        self.last = self.shapes().get(&oid).map(|(_, shape)| Arc::clone(shape));
        self.last.clone()
    }

    /// Keep this object for the relation's shape instead of another that says the same.
    pub(crate) fn adopt(&mut self, shape: Arc<Shape>) {
        if let Some((_, known)) = self.shapes().get_mut(&shape.relation.oid)
            && known.bytes == shape.bytes
        {
            *known = shape;
            self.last = None;
        }
    }

    fn enter(&mut self, block: Block) {
        if self.block == Block::Stream(None) {
            self.streams.remove(&UNKNOWN);
        }
        if self.in_stream() || matches!(block, Block::Stream(_)) {
            self.last = None;
        }
        self.block = block;
    }

    fn begin(&mut self, bytes: &[u8]) -> Place {
        let transaction = match Message::parse(bytes) {
            Ok(Message::Begin { final_lsn, commit_time, xid }) => Some(Transaction {
                commit_lsn: final_lsn,
                commit_time: Some(commit_time),
                xid: Some(xid),
                previous_end_lsn: self.previous_end_lsn,
            }),
            _ => None,
        };
        self.origin = None;
        self.next_index = 0;
        self.enter(Block::Transaction(transaction));
        Place { malformed: transaction.is_none(), ..self.place() }
    }

    fn commit(&mut self, bytes: &[u8]) -> Place {
        let place = self.place();
        self.enter(Block::Outside);
        let end_lsn = match Message::parse(bytes) {
            Ok(Message::Commit { end_lsn, .. }) => Some(end_lsn),
            _ => None,
        };
        self.previous_end_lsn = end_lsn.or(self.previous_end_lsn);
        Place { end_lsn, malformed: end_lsn.is_none(), ..place }
    }

    fn relation(&mut self, bytes: &[u8]) -> Place {
        self.last = None;
        let streamed = self.in_stream();
        let at = fields_at(kind::RELATION, streamed);
        let shape = match parse(bytes, streamed) {
            Ok(Message::Relation { relation, .. }) => {
                let said = match bytes.get(at..) {
                    Some(fields) if streamed => Cow::Owned([&[kind::RELATION], fields].concat()),
                    _ => Cow::Borrowed(bytes),
                };
                let oid = relation.oid;
                // One that a streamed transaction repeats of the others is the same object, too.
                let known = [self.shapes().get(&oid).cloned(), self.shapes.get(&oid).cloned()];
                let known = known.into_iter().flatten().map(|(_, shape)| shape).find(|known| *known.bytes == *said);
                let shape = known.unwrap_or_else(|| Arc::new(Shape { bytes: said.into(), relation }));
                self.relations_seen = self.relations_seen.saturating_add(1);
                let number = self.relations_seen;
                self.shapes().insert(oid, (number, Arc::clone(&shape)));
                Some(shape)
            }
            // A shape that could not be read: rows must not be decoded with the one before it.
            _ => {
                match oid_at(bytes, at) {
                    Some(oid) => drop(self.shapes().remove(&oid)),
                    None => self.shapes().clear(),
                }
                None
            }
        };
        Place { malformed: shape.is_none(), shape, ..self.place() }
    }

    fn truncate(&mut self, bytes: &[u8]) -> Place {
        match parse(bytes, self.in_stream()) {
            Ok(Message::Truncate { relation_oids, .. }) => {
                let truncated = relation_oids.into_iter().map(|oid| self.shape(oid)).collect();
                self.change(None, truncated)
            }
            _ => Place { malformed: true, ..self.change(None, Vec::new()) },
        }
    }

    fn of_protocol_2_to_4(&mut self, bytes: &[u8]) -> Place {
        let message = Message::parse(bytes);
        let place = self.place();
        let mut end = None;
        match &message {
            Ok(Message::StreamStart { xid, .. }) => {
                self.streams.entry(*xid).or_default();
                self.enter(Block::Stream(Some(*xid)));
            }
            Ok(Message::StreamCommit { xid, end_lsn, .. }) => {
                end = Some(*end_lsn);
                self.promote(*xid);
            }
            Ok(Message::StreamAbort { xid, subxid, .. }) => self.abort(*xid, *subxid),
            Ok(Message::StreamPrepare(of)) => {
                end = Some(of.end_lsn);
                // The server takes none of its relations as known to others, neither now nor at the commit.
                self.streams.remove(&of.xid);
                self.prepared.insert(of.xid, of.prepare_lsn);
            }
            Ok(Message::BeginPrepare { prepare_lsn, xid, .. }) => {
                self.prepared.insert(*xid, *prepare_lsn);
                self.enter(Block::Prepared);
            }
            Ok(Message::Prepare(of)) => {
                end = Some(of.end_lsn);
                self.prepared.insert(of.xid, of.prepare_lsn);
                self.enter(Block::Outside);
            }
            Ok(Message::CommitPrepared { xid, end_lsn, .. }) => {
                end = Some(*end_lsn);
                self.prepared.remove(*xid);
            }
            Ok(Message::RollbackPrepared { xid, rollback_end_lsn, .. }) => {
                end = Some(*rollback_end_lsn);
                self.prepared.remove(*xid);
            }
            // Stream Stop, and what could not be read.
            _ => match bytes.first() {
                Some(&kind::STREAM_START) => self.enter(Block::Stream(None)),
                Some(&kind::BEGIN_PREPARE) => self.enter(Block::Prepared),
                Some(&kind::STREAM_STOP) if self.in_stream() => self.enter(Block::Outside),
                Some(&kind::PREPARE) if self.block == Block::Prepared => self.enter(Block::Outside),
                _ => {}
            },
        }
        self.previous_end_lsn = end.or(self.previous_end_lsn);
        Place { end_lsn: end, malformed: message.is_err(), ..place }
    }

    /// A streamed transaction was committed: its relations are in force for all, except where a newer one came meanwhile.
    fn promote(&mut self, xid: u32) {
        self.last = None;
        for (oid, (number, shape)) in self.streams.remove(&xid).unwrap_or_default() {
            if self.shapes.get(&oid).is_none_or(|&(known, _)| known < number) {
                self.shapes.insert(oid, (number, shape));
            }
        }
    }

    /// A streamed transaction or a part of it was rolled back. In both cases the server takes no relation as known any more.
    fn abort(&mut self, xid: u32, subxid: u32) {
        self.last = None;
        if xid == subxid {
            self.streams.remove(&xid);
        } else if let Some(shapes) = self.streams.get_mut(&xid) {
            shapes.clear();
        }
    }
}
