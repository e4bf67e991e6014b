//! What a run of messages means: the relations in force, the transaction around a message, and the index of each change.
use std::collections::HashMap;
use std::sync::Arc;

use crate::cursor::Cursor;
use crate::message::{Message, kind};
use crate::relation::Relation;

/// A relation together with the bytes of its message, by which a repeated one is recognised.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The relation.
    pub relation: Relation,
    /// Its Relation message.
    pub bytes: Box<[u8]>,
}

/// A committed transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The LSN of its commit record; for rows of an initial copy the consistent point.
    pub commit_lsn: u64,
    /// When it committed, in microseconds since 2000-01-01 UTC; None for rows of an initial copy.
    pub commit_time: Option<i64>,
}

/// What one message is in its stream.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The relation that a Relation message or a row is about; None for one that was not seen.
    pub shape: Option<Arc<Shape>>,
    /// The relations that a Truncate is about; None for one that was not seen.
    pub truncated: Vec<Option<Arc<Shape>>>,
    /// The transaction that it belongs to, when known.
    pub transaction: Option<Transaction>,
    /// The number of the change among those of its transaction, when it is a change.
    pub index: Option<i64>,
    /// For a Commit, its `end_lsn`.
    pub end_lsn: Option<u64>,
    /// Whether this is no message that can be read; of a row change and a Message only the kind and the table were looked at.
    pub malformed: bool,
}

/// The state of one stream of messages.
#[derive(Debug, Default)]
pub struct Session {
    shapes: HashMap<u32, Arc<Shape>>,
    last: Option<Arc<Shape>>,
    transaction: Option<Transaction>,
    open: bool,
    next_index: i64,
}

impl Session {
    /// Whether a transaction has begun and not ended.
    pub fn in_transaction(&self) -> bool {
        self.open
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
            // The flags byte: 1 is transactional. Others are written at once, outside any transaction.
            Some(&kind::MESSAGE) if bytes.get(1) == Some(&1) => self.change(None, Vec::new()),
            Some(&kind::MESSAGE) => Place::default(),
            _ => Place { transaction: self.transaction, malformed: Message::parse(bytes).is_err(), ..Place::default() },
        }
    }

    fn change(&mut self, shape: Option<Arc<Shape>>, truncated: Vec<Option<Arc<Shape>>>) -> Place {
        let index = self.transaction.map(|_| self.next_index);
        self.next_index = self.next_index.saturating_add(1);
        Place { shape, truncated, transaction: self.transaction, index, ..Place::default() }
    }

    fn row(&mut self, bytes: &[u8]) -> Place {
        let shape =
            Cursor::new(bytes.get(1..).unwrap_or_default()).u32("relation OID").ok().and_then(|oid| self.shape(oid));
        self.change(shape, Vec::new())
    }

    fn shape(&mut self, oid: u32) -> Option<Arc<Shape>> {
        if let Some(last) = &self.last
            && last.relation.oid == oid
        {
            return Some(Arc::clone(last));
        }
        self.last = self.shapes.get(&oid).cloned();
        self.last.clone()
    }

    fn begin(&mut self, bytes: &[u8]) -> Place {
        self.open = true;
        self.next_index = 0;
        self.transaction = match Message::parse(bytes) {
            Ok(Message::Begin { final_lsn, commit_time, .. }) => {
                Some(Transaction { commit_lsn: final_lsn, commit_time: Some(commit_time) })
            }
            _ => None,
        };
        Place { transaction: self.transaction, malformed: self.transaction.is_none(), ..Place::default() }
    }

    fn commit(&mut self, bytes: &[u8]) -> Place {
        self.open = false;
        let transaction = self.transaction.take();
        let end_lsn = match Message::parse(bytes) {
            Ok(Message::Commit { end_lsn, .. }) => Some(end_lsn),
            _ => None,
        };
        Place { transaction, end_lsn, malformed: end_lsn.is_none(), ..Place::default() }
    }

    fn relation(&mut self, bytes: &[u8]) -> Place {
        self.last = None;
        let shape = match Message::parse(bytes) {
            Ok(Message::Relation(relation)) => {
                let known = self.shapes.get(&relation.oid).filter(|known| *known.bytes == *bytes).cloned();
                let shape = known.unwrap_or_else(|| Arc::new(Shape { bytes: bytes.into(), relation }));
                self.shapes.insert(shape.relation.oid, Arc::clone(&shape));
                Some(shape)
            }
            // A shape that could not be read: rows must not be decoded with the one before it.
            _ => {
                match Cursor::new(bytes.get(1..).unwrap_or_default()).u32("relation OID") {
                    Ok(oid) => drop(self.shapes.remove(&oid)),
                    Err(_) => self.shapes.clear(),
                }
                None
            }
        };
        Place { malformed: shape.is_none(), shape, transaction: self.transaction, ..Place::default() }
    }

    fn truncate(&mut self, bytes: &[u8]) -> Place {
        match Message::parse(bytes) {
            Ok(Message::Truncate { relation_oids, .. }) => {
                let truncated = relation_oids.into_iter().map(|oid| self.shape(oid)).collect();
                self.change(None, truncated)
            }
            _ => Place { malformed: true, ..self.change(None, Vec::new()) },
        }
    }
}
