//! Streamed and prepared transactions to what protocol 1 would have sent: whole ones, in the order of their commits.
//!
//! Ordinary transactions pass through. The pieces of a streamed one are kept until its Stream Commit, a prepared one until
//! its Commit Prepared, both in memory or, when that is full, in the files of a [`storage::Storage`], the largest first.
//! Changes of sub-transactions that were rolled back are left out; so changes are numbered when they come out.
//!
//! Each message's relation is found when it arrives and kept by number: so the relations that a transaction tells itself do
//! not mix with those of others. When a row comes out whose relation is not the one that was told last, that one's Relation
//! message is put before it: who reads what comes out as a stream of its own gets the same shapes.
//!
//! A logical message in a stream carries the id of the whole transaction, so whether a rollback to a savepoint took it with
//! it has to be concluded from what stands around it. Where that cannot be, the transaction is an error when it commits.
//!
//! An error is for ever. The server sends everything again that was not confirmed, so nothing is lost by starting anew; going
//! on could lose a transaction without a word.
//!
//! Over 400 lines, because what each kind of message does to open transactions is one thing.
//!
//! Source: server files `replication/pgoutput/pgoutput.c`, `replication/logical/reorderbuffer.c`,
//! `replication/logical/worker.c` (what PostgreSQL's own subscriber does with the same messages).
mod delivery;
mod held;
mod shapes;
pub mod storage;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::batch::{Batch, Builder};
use crate::error::{Error as Malformed, Result as Parsed};
use crate::message::{Message, kind};
use crate::session::{Place, Session, Shape, Transaction};
use delivery::Delivery;
use held::Held;
use storage::Storage;

/// A batch is full at so many bytes of messages, or so many messages.
const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_MESSAGES: usize = 8192;
/// What is in no file may take so much however little memory there is for all, in bytes.
const FIXED: usize = 1024 * 1024;

/// So many prepared transactions that came out are known one by one; what is true of several as one holds back more.
const MOST_SPANS: usize = 1024;

/// Why no more can be assembled.
#[derive(Debug)]
pub enum Cause<E> {
    /// A message that begins or ends something cannot be read.
    Malformed(Malformed),
    /// A message stands where its kind cannot, so others are missing.
    Misplaced,
    /// A piece or the end of a streamed transaction whose beginning was not sent.
    UnknownStream {
        /// The transaction's id.
        xid: u32,
    },
    /// The commit of a prepared transaction whose changes were not sent.
    UnknownPrepared {
        /// The transaction's id.
        xid: u32,
        /// Its name.
        gid: Box<[u8]>,
    },
    /// A logical message in a stream that stood either in a sub-transaction that was rolled back or before it: the server
    /// does not say which.
    DoubtfulMessage {
        /// The transaction's id.
        xid: u32,
        /// The LSN of the message.
        lsn: u64,
    },
    /// What of open transactions can be in no file takes too much memory: the shapes of their tables, and what is known of
    /// their roll-backs.
    Fixed {
        /// The id of the transaction that came last.
        xid: u32,
        /// What that of all open transactions takes, in bytes.
        memory: usize,
    },
    /// A file could not be written or read.
    Storage {
        /// The id of the transaction that it is for.
        xid: u32,
        /// What of it was in the file already, in bytes.
        stored: u64,
        /// Why.
        cause: E,
    },
    /// A file gave back other bytes than were written.
    Damaged {
        /// The id of the transaction that it is for.
        xid: u32,
    },
    /// There was an error before.
    Stopped,
}

/// Why no more can be assembled, and at which message.
#[derive(Debug)]
pub struct Error<E> {
    /// Why.
    pub cause: Cause<E>,
    /// The message; empty where the error is not about one.
    pub message: Box<[u8]>,
    /// The `wal_start` of its XLogData; 0 when not known.
    pub lsn: u64,
}

impl<E: fmt::Display> fmt::Display for Cause<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::Misplaced => f.write_str("a message of this kind cannot stand here: others are missing before it"),
            Self::UnknownStream { xid } => write!(f, "the beginning of the streamed transaction {xid} is missing"),
            Self::UnknownPrepared { xid, gid } => write!(
                f,
                "the changes of the prepared transaction {xid} ({}) were not sent, only its commit",
                String::from_utf8_lossy(gid)
            ),
            Self::DoubtfulMessage { xid, lsn } => write!(
                f,
                "the streamed transaction {xid} has a logical message at {:X}/{:X}, and the server does not say whether it \
                 was rolled back with a savepoint",
                lsn >> 32,
                lsn & 0xffff_ffff
            ),
            Self::Fixed { xid, memory } => write!(
                f,
                "the open transaction {xid} cannot be kept: with it the shapes of tables and what is known of roll-backs \
                 take {memory} bytes, and they are not written to files"
            ),
            Self::Storage { xid, stored, cause } => {
                write!(f, "the open transaction {xid}, of which {stored} bytes are in a file, cannot be kept: {cause}")
            }
            Self::Damaged { xid } => {
                write!(f, "the file of transaction {xid} gave back other bytes than were written to it")
            }
            Self::Stopped => f.write_str("this assembler has stopped at an earlier error"),
        }
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for Error<E> {}

type Result<T, E> = std::result::Result<T, Cause<E>>;

/// What is open and what it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Streamed transactions that have neither been committed nor rolled back nor prepared.
    pub streamed: usize,
    /// Prepared transactions that have neither been committed nor rolled back.
    pub prepared: usize,
    /// What of all of them, and of the one that is coming out, is in memory, in bytes: messages, the shapes of their tables,
    /// and the ids of what was rolled back.
    pub memory_bytes: usize,
    /// What is in files, in bytes.
    pub stored_bytes: u64,
}

/// What the next message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    /// An ordinary transaction or none.
    Passing,
    /// A piece of the streamed transaction with this id.
    Stream(u32),
    /// Between Begin Prepare and Prepare, the transaction with this id.
    Prepared(u32),
}

/// What was put out last, which decides what has to be said before the next message.
#[derive(Debug, Default)]
struct Told {
    shapes: HashMap<u32, Arc<Shape>>,
    last: Option<Arc<Shape>>,
    /// The end of the last transaction or of the last logical message outside of any.
    previous_end_lsn: Option<u64>,
}

impl Told {
    /// A Relation message came out.
    fn tell(&mut self, shape: &Arc<Shape>) {
        self.shapes.insert(shape.relation.oid, Arc::clone(shape));
        self.last = Some(Arc::clone(shape));
    }

    /// Before a row or a Truncate comes out: the Relation messages that its reader needs and does not have.
    fn introduce(&mut self, place: &Place, out: &mut Builder) {
        for shape in place.shape.iter().chain(place.truncated.iter().flatten()) {
            if self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, shape)) {
                continue;
            }
            let is_news = |told: &Arc<Shape>| !Arc::ptr_eq(told, shape) && told.bytes != shape.bytes;
            if self.shapes.get(&shape.relation.oid).is_none_or(is_news) {
                let place = Place {
                    shape: Some(Arc::clone(shape)),
                    transaction: place.transaction,
                    origin: place.origin.clone(),
                    ..Place::default()
                };
                out.push_placed(&shape.bytes, 0, &place);
            }
            self.tell(shape);
        }
    }
}

/// Puts transactions together. One for each connection: a server that is asked again sends all that is open again.
#[derive(Debug)]
pub struct Assembler<S: Storage> {
    storage: S,
    max_memory: usize,
    session: Session,
    inside: Inside,
    streams: HashMap<u32, Held<S::File>>,
    prepared: HashMap<u32, Held<S::File>>,
    /// What the open transactions take that could be written to files, in bytes.
    spillable: usize,
    /// What of them cannot be written to files takes, in bytes.
    fixed: usize,
    /// Where the prepared ones were prepared, and their ids.
    holds: BTreeSet<(u64, u32)>,
    /// From where to where no slot may stand, because of prepared transactions that came out: it would be sent the end of
    /// one without its changes. In order, none touches the next.
    spans: Vec<(u64, u64)>,
    /// Those that nobody has asked for yet.
    ended: Vec<(u64, u64)>,
    delivery: Option<Delivery<S::File>>,
    told: Told,
    /// Of the ordinary transaction that is passing.
    passing: Option<Transaction>,
    done_lsn: u64,
    failed: Option<Error<S::Error>>,
    stopped: bool,
}

impl<S: Storage> Assembler<S> {
    /// Begin with the first message of a connection. Open transactions take up to `max_memory` bytes before they are written
    /// to files. Half of it, but a mebibyte in any case, is for the shapes of their tables and what is known of roll-backs,
    /// which are not.
    pub fn new(storage: S, max_memory: usize) -> Self {
        Self {
            storage,
            max_memory,
            session: Session::default(),
            inside: Inside::Passing,
            streams: HashMap::new(),
            prepared: HashMap::new(),
            spillable: 0,
            fixed: 0,
            holds: BTreeSet::new(),
            spans: Vec::new(),
            ended: Vec::new(),
            delivery: None,
            told: Told::default(),
            passing: None,
            done_lsn: 0,
            failed: None,
            stopped: false,
        }
    }

    /// The lowest LSN of a prepare record whose transaction has not come out whole and was not rolled back. Nothing may be
    /// confirmed past it: the server would send that it was committed, and its changes not again. Streamed transactions hold
    /// nothing: their commits are still to come, and they come again from their beginning.
    pub fn hold_lsn(&self) -> Option<u64> {
        let delivered = self.delivery.as_ref().and_then(Delivery::prepare_lsn);
        self.holds.first().map(|&(lsn, _)| lsn).into_iter().chain(delivered).min()
    }

    /// What may be confirmed once all that came out is durable: the end of the last transaction that has ended, but nothing
    /// past `hold_lsn`, nor between the PREPARE and the COMMIT PREPARED of a transaction that came out; 0 at the beginning.
    pub fn confirmable_lsn(&self) -> u64 {
        self.confirmable(self.done_lsn)
    }

    /// How much of what ends here may be confirmed.
    fn confirmable(&self, end_lsn: u64) -> u64 {
        let lsn = self.hold_lsn().map_or(end_lsn, |hold| end_lsn.min(hold));
        let span = self.spans.get(self.spans.partition_point(|&(_, ended)| ended <= lsn));
        span.map_or(lsn, |&(prepared, _)| prepared.min(lsn))
    }

    /// Of the prepared transactions that came out since this was last asked: from where to where no slot may stand.
    pub fn take_spans(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.ended)
    }

    /// A prepared transaction came out whole.
    fn came_out(&mut self, prepared: u64, ended: u64) {
        self.ended.push((prepared, ended));
        if self.ended.len() > MOST_SPANS {
            // Nobody asks. One from the first to the last is true of all of them, too.
            let first = self.ended.iter().map(|&(prepared, _)| prepared).min();
            self.ended = vec![(first.unwrap_or(prepared), ended)];
        }
        let mut span = (prepared, ended);
        while let Some((before, end)) = self.spans.pop_if(|&mut (_, end)| end > span.0) {
            span = (span.0.min(before), span.1.max(end));
        }
        self.spans.push(span);
        let confirmable = self.confirmable_lsn();
        self.spans.drain(..self.spans.partition_point(|&(_, end)| end <= confirmable));
        if self.spans.len() > MOST_SPANS
            && let [first, second, ..] = self.spans.as_mut_slice()
        {
            second.0 = first.0;
            self.spans.remove(0);
        }
    }

    /// Whether a transaction is on its way out, so that the next batch needs no further message.
    pub fn is_delivering(&self) -> bool {
        self.delivery.is_some()
    }

    /// Whether nothing is open, neither received nor on its way out, so that a keepalive's place counts.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty() && self.prepared.is_empty() && self.delivery.is_none() && !self.session.in_transaction()
    }

    /// What is open and what it takes.
    pub fn statistics(&self) -> Statistics {
        let held = || {
            let delivered = self.delivery.as_ref().map(Delivery::held);
            self.streams.values().chain(self.prepared.values()).chain(delivered)
        };
        Statistics {
            streamed: self.streams.len(),
            prepared: self.prepared.len(),
            memory_bytes: held().map(Held::memory).sum(),
            stored_bytes: held().map(Held::stored).sum(),
        }
    }

    /// The next batch, bounded, from as many further messages (with the `wal_start` of each) as it takes. None when the
    /// messages are used up and nothing is to come out.
    ///
    /// # Errors
    /// When a message or a file makes it impossible to go on; then always. What came out before that is good.
    pub fn next_batch<B: AsRef<[u8]>>(
        &mut self,
        messages: &mut impl Iterator<Item = (B, u64)>,
    ) -> std::result::Result<Option<Batch>, Error<S::Error>> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        if self.stopped {
            return Err(Error { cause: Cause::Stopped, message: Box::default(), lsn: 0 });
        }
        let mut out = Builder::default();
        while out.count() < BATCH_MESSAGES && out.bytes_mut().len() < BATCH_BYTES {
            let failed = if self.delivery.is_some() {
                self.deliver(&mut out).map_err(|cause| Error { cause, message: Box::default(), lsn: 0 })
            } else if let Some((bytes, lsn)) = messages.next() {
                let bytes = bytes.as_ref();
                self.push(bytes, lsn, &mut out).map_err(|cause| Error { cause, message: bytes.into(), lsn })
            } else {
                break;
            };
            if let Err(failed) = failed {
                self.stopped = true;
                if out.count() == 0 {
                    return Err(failed);
                }
                // What is whole comes first.
                self.failed = Some(failed);
                break;
            }
        }
        Ok((out.count() > 0).then(|| out.finish()))
    }

    fn push(&mut self, bytes: &[u8], lsn: u64, out: &mut Builder) -> Result<(), S::Error> {
        let kind = bytes.first().copied().unwrap_or(0);
        if self.is_misplaced(kind) {
            return Err(Cause::Misplaced);
        }
        match kind {
            kind::STREAM_START
            | kind::STREAM_STOP
            | kind::STREAM_COMMIT
            | kind::STREAM_ABORT
            | kind::STREAM_PREPARE
            | kind::BEGIN_PREPARE
            | kind::PREPARE
            | kind::COMMIT_PREPARED
            | kind::ROLLBACK_PREPARED => self.control(bytes, lsn),
            kind => {
                let place = self.session.observe(bytes);
                if kind == kind::MESSAGE && place.transaction.is_none() && !is_transactional(bytes, &place) {
                    self.alone(bytes, lsn, place, out);
                    return Ok(());
                }
                match self.inside {
                    Inside::Passing => self.pass(bytes, lsn, place, out),
                    Inside::Stream(xid) => self.keep(xid, false, bytes, lsn, &place),
                    Inside::Prepared(xid) => self.keep(xid, true, bytes, lsn, &place),
                }
            }
        }
    }

    /// Whether a message of this kind cannot come next.
    fn is_misplaced(&self, kind: u8) -> bool {
        match kind {
            kind::COMMIT => self.inside != Inside::Passing || !self.session.in_transaction(),
            kind::STREAM_STOP => !self.session.in_stream(),
            kind::PREPARE => !self.session.in_prepared(),
            kind::BEGIN
            | kind::BEGIN_PREPARE
            | kind::STREAM_START
            | kind::STREAM_COMMIT
            | kind::STREAM_ABORT
            | kind::STREAM_PREPARE
            | kind::COMMIT_PREPARED
            | kind::ROLLBACK_PREPARED => self.session.in_transaction(),
            kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE => !self.session.in_transaction(),
            _ => false,
        }
    }

    /// A logical message that belongs to no transaction.
    fn alone(&mut self, bytes: &[u8], lsn: u64, mut place: Place, out: &mut Builder) {
        let streamed = std::mem::take(&mut place.streamed);
        let fields = bytes.get(if streamed { 5 } else { 1 }..).unwrap_or_default();
        let bytes = [&[kind::MESSAGE], fields].concat();
        if let Ok(Message::Message { lsn, .. }) = Message::parse(&bytes) {
            self.told.previous_end_lsn = Some(lsn);
        }
        out.push_placed(&bytes, lsn, &place);
    }

    /// A message of an ordinary transaction, or of none.
    fn pass(&mut self, bytes: &[u8], lsn: u64, mut place: Place, out: &mut Builder) -> Result<(), S::Error> {
        let kind = bytes.first().copied().unwrap_or(0);
        if kind == kind::BEGIN {
            // In between there may have been ends that do not come out.
            let previous_end_lsn = self.told.previous_end_lsn;
            self.passing = place.transaction.map(|of| Transaction { previous_end_lsn, ..of });
        }
        if kind == kind::MESSAGE && !self.session.in_transaction() {
            return Err(Cause::Misplaced);
        }
        if place.transaction.is_some() {
            place.transaction = self.passing;
        }
        match kind {
            kind::RELATION => place.shape.iter().for_each(|shape| self.told.tell(shape)),
            _ => self.told.introduce(&place, out),
        }
        if let Some(end_lsn) = place.end_lsn {
            self.told.previous_end_lsn = Some(end_lsn);
            self.done_lsn = self.done_lsn.max(end_lsn);
            place.end_lsn = Some(self.confirmable(end_lsn));
        }
        out.push_placed(bytes, lsn, &place);
        Ok(())
    }

    fn keep(&mut self, xid: u32, prepared: bool, bytes: &[u8], lsn: u64, place: &Place) -> Result<(), S::Error> {
        let held = if prepared { self.prepared.get_mut(&xid) } else { self.streams.get_mut(&xid) };
        let Some(held) = held else { return Err(Cause::UnknownStream { xid }) };
        if bytes.first() == Some(&kind::ORIGIN) {
            held.origin.get_or_insert_with(|| (bytes.into(), lsn));
            return Ok(());
        }
        let (before, fixed_before) = (held.spillable(), held.fixed_memory());
        if bytes.first() == Some(&kind::RELATION)
            && let Some(shape) = &place.shape
        {
            self.session.adopt(held.same_shape(shape));
        }
        held.keep(bytes, lsn, place);
        let (after, fixed_after) = (held.spillable(), held.fixed_memory());
        self.spillable = self.spillable.saturating_sub(before).saturating_add(after);
        self.fixed = self.fixed.saturating_sub(fixed_before).saturating_add(fixed_after);
        self.check_fixed(xid)?;
        self.make_room()
    }

    /// Keep what is in no file within its part of the memory.
    fn check_fixed(&mut self, xid: u32) -> Result<(), S::Error> {
        let most = (self.max_memory / 2).max(FIXED);
        if self.fixed > most {
            // What was rolled back need not be known any more once it is left out.
            self.spill()?;
        }
        let memory = self.fixed;
        if memory > most { Err(Cause::Fixed { xid, memory }) } else { Ok(()) }
    }

    /// Keep to `max_memory`.
    fn make_room(&mut self) -> Result<(), S::Error> {
        let half = self.max_memory / 2;
        while self.spillable > self.max_memory.saturating_sub(self.fixed.min(half)) {
            self.spill()?;
        }
        Ok(())
    }

    /// Make room in memory by what takes most of it.
    fn spill(&mut self) -> Result<(), S::Error> {
        let held = self.streams.values_mut().chain(self.prepared.values_mut());
        let Some(held) = held.max_by_key(|held| (held.spillable(), held.xid)) else { return Ok(()) };
        let (before, fixed_before) = (held.spillable(), held.fixed_memory());
        held.shrink(&mut self.storage).map_err(|cause| Cause::Storage {
            xid: held.xid,
            stored: held.stored(),
            cause,
        })?;
        self.spillable = self.spillable.saturating_sub(before).saturating_add(held.spillable());
        self.fixed = self.fixed.saturating_sub(fixed_before).saturating_add(held.fixed_memory());
        Ok(())
    }

    /// What begins or ends streamed and prepared transactions and their pieces.
    fn control(&mut self, bytes: &[u8], lsn: u64) -> Result<(), S::Error> {
        let message: Parsed<Message<'_>> = Message::parse(bytes);
        let message = message.map_err(Cause::Malformed)?;
        self.session.observe(bytes);
        match message {
            Message::StreamStart { xid, first_segment: true } => {
                self.open(false, Held::new(xid, lsn));
                self.inside = Inside::Stream(xid);
            }
            Message::StreamStart { xid, .. } if self.streams.contains_key(&xid) => self.inside = Inside::Stream(xid),
            Message::StreamStart { xid, .. } => return Err(Cause::UnknownStream { xid }),
            Message::StreamStop => self.inside = Inside::Passing,
            Message::StreamAbort { xid, subxid, .. } => {
                // Of one that was not streamed nothing is kept, and nothing is lost.
                if xid == subxid {
                    drop(self.close(false, xid));
                } else if let Some(held) = self.streams.get_mut(&xid) {
                    let (before, fixed_before) = (held.spillable(), held.fixed_memory());
                    held.abort(subxid);
                    self.spillable = self.spillable.saturating_sub(before).saturating_add(held.spillable());
                    self.fixed = self.fixed.saturating_sub(fixed_before).saturating_add(held.fixed_memory());
                    self.make_room()?;
                    self.check_fixed(xid)?;
                }
            }
            Message::StreamCommit { xid, flags, commit_lsn, end_lsn, commit_time } => {
                let held = self.close(false, xid).ok_or(Cause::UnknownStream { xid })?;
                self.begin_delivery(held, lsn, flags, [commit_lsn, end_lsn], commit_time)?;
            }
            Message::StreamPrepare(of) => {
                let mut held = self.close(false, of.xid).ok_or(Cause::UnknownStream { xid: of.xid })?;
                held.prepared = Some((of.prepare_lsn, of.gid.into()));
                self.open(true, held);
                self.done_lsn = self.done_lsn.max(of.end_lsn);
            }
            Message::BeginPrepare { prepare_lsn, xid, gid, .. } => {
                let mut held = Held::new(xid, lsn);
                held.prepared = Some((prepare_lsn, gid.into()));
                self.open(true, held);
                self.inside = Inside::Prepared(xid);
            }
            Message::Prepare(of) => {
                self.inside = Inside::Passing;
                self.done_lsn = self.done_lsn.max(of.end_lsn);
            }
            Message::CommitPrepared { flags, commit_lsn, end_lsn, commit_time, xid, gid } => {
                let held = self.close_prepared(xid, gid);
                let held = held.ok_or_else(|| Cause::UnknownPrepared { xid, gid: gid.into() })?;
                self.begin_delivery(held, lsn, flags, [commit_lsn, end_lsn], commit_time)?;
            }
            // One that was prepared before this stream began is rolled back: it would not have come out anyway.
            Message::RollbackPrepared { rollback_end_lsn, xid, gid, .. } => {
                drop(self.close_prepared(xid, gid));
                self.done_lsn = self.done_lsn.max(rollback_end_lsn);
            }
            _ => return Err(Cause::Misplaced),
        }
        Ok(())
    }

    /// Begin to keep a transaction. One of the same id is the same, sent again after the connection was lost.
    fn open(&mut self, prepared: bool, held: Held<S::File>) {
        drop(self.close(prepared, held.xid));
        self.spillable = self.spillable.saturating_add(held.spillable());
        self.fixed = self.fixed.saturating_add(held.fixed_memory());
        if let Some((lsn, _)) = &held.prepared {
            self.holds.insert((*lsn, held.xid));
        }
        let open = if prepared { &mut self.prepared } else { &mut self.streams };
        open.insert(held.xid, held);
    }

    fn close(&mut self, prepared: bool, xid: u32) -> Option<Held<S::File>> {
        let open = if prepared { &mut self.prepared } else { &mut self.streams };
        let held = open.remove(&xid)?;
        self.spillable = self.spillable.saturating_sub(held.spillable());
        self.fixed = self.fixed.saturating_sub(held.fixed_memory());
        if let Some((lsn, _)) = &held.prepared {
            self.holds.remove(&(*lsn, xid));
        }
        Some(held)
    }

    fn close_prepared(&mut self, xid: u32, gid: &[u8]) -> Option<Held<S::File>> {
        let known = self.prepared.get(&xid)?.prepared.as_ref();
        if known.is_some_and(|(_, known)| **known == *gid) { self.close(true, xid) } else { None }
    }

    fn begin_delivery(
        &mut self,
        mut held: Held<S::File>,
        lsn: u64,
        flags: u8,
        [commit_lsn, end_lsn]: [u64; 2],
        commit_time: i64,
    ) -> Result<(), S::Error> {
        if let Some(lsn) = held.doubtful() {
            return Err(Cause::DoubtfulMessage { xid: held.xid, lsn });
        }
        held.rewind().map_err(|cause| Cause::Storage { xid: held.xid, stored: held.stored(), cause })?;
        let transaction = Transaction {
            commit_lsn,
            commit_time: Some(commit_time),
            xid: Some(held.xid),
            previous_end_lsn: self.told.previous_end_lsn,
        };
        let commit = Message::Commit { flags, commit_lsn, end_lsn, commit_time };
        let mut bytes = Vec::new();
        commit.encode(&mut bytes).map_err(Cause::Malformed)?;
        self.delivery = Some(Delivery::new(held, transaction, bytes, lsn, end_lsn));
        Ok(())
    }

    /// Put out more of the transaction that is coming out.
    fn deliver(&mut self, out: &mut Builder) -> Result<(), S::Error> {
        let Some(delivery) = &mut self.delivery else { return Ok(()) };
        if !delivery.some(&mut self.told, out)? {
            return Ok(());
        }
        let Some(delivery) = self.delivery.take() else { return Ok(()) };
        let end_lsn = delivery.end_lsn();
        self.done_lsn = self.done_lsn.max(end_lsn);
        if let Some(prepare_lsn) = delivery.prepare_lsn() {
            self.came_out(prepare_lsn, end_lsn);
        }
        let confirmable = self.confirmable(end_lsn);
        delivery.commit(&mut self.told, confirmable, out);
        Ok(())
    }
}

fn is_transactional(bytes: &[u8], place: &Place) -> bool {
    let at = if place.streamed { 5 } else { 1 };
    bytes.get(at) == Some(&1)
}
