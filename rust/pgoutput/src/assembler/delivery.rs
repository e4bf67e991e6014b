//! A transaction that was committed comes out, a part at a time: Begin, Origin, what was kept and not rolled back, Commit.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::held::{Held, Kept, next};
use super::storage::File;
use super::{Cause, Result, Told};
use crate::batch::Builder;
use crate::cursor::Cursor;
use crate::message::{Message, kind};
use crate::session::{Origin, Place, Transaction};

/// How much is put out at once, in messages.
const PART: usize = 1024;

/// A transaction on its way out.
#[derive(Debug)]
pub(super) struct Delivery<F> {
    held: Held<F>,
    transaction: Transaction,
    origin: Option<Arc<Origin>>,
    commit: Vec<u8>,
    /// The `wal_start` of the message that committed it.
    lsn: u64,
    end_lsn: u64,
    block: Vec<u8>,
    at: usize,
    index: i64,
    /// Relations and types before the first change: a transaction without changes does not come out.
    early: Option<Early>,
}

/// Relations and types before the first change, of each the newest: those before it say nothing of what follows.
#[derive(Debug, Default)]
struct Early {
    told: BTreeMap<u64, (Vec<u8>, u64, Place)>,
    newest: HashMap<(u8, [u8; 4]), u64>,
    next: u64,
}

impl Early {
    fn tell(&mut self, kind: u8, bytes: &[u8], lsn: u64, place: Place) {
        let oid = match bytes {
            [_, a, b, c, d, ..] => [*a, *b, *c, *d],
            _ => [0; 4],
        };
        self.next = self.next.saturating_add(1);
        let next = self.next;
        let at = self.newest.entry((kind, oid)).or_insert(next);
        // A type stays before the relations that use it, a relation behind the types that it uses.
        if kind == kind::RELATION {
            self.told.remove(&std::mem::replace(at, next));
        }
        // The bytes of a relation are the shape's.
        let bytes = if place.shape.is_some() { Vec::new() } else { bytes.to_vec() };
        self.told.insert(*at, (bytes, lsn, place));
    }
}

/// Whether a message alone is no reason for a transaction to come out.
fn is_about_shape(kind: u8) -> bool {
    matches!(kind, kind::RELATION | kind::TYPE)
}

impl<F: File> Delivery<F> {
    pub fn new(held: Held<F>, transaction: Transaction, commit: Vec<u8>, lsn: u64, end_lsn: u64) -> Self {
        let origin = held.origin.as_ref().and_then(|(bytes, _)| match Message::parse(bytes) {
            Ok(Message::Origin { commit_lsn, name }) => Some(Arc::new(Origin { commit_lsn, name: name.to_vec() })),
            _ => None,
        });
        Self {
            held,
            transaction,
            origin,
            commit,
            lsn,
            end_lsn,
            block: Vec::new(),
            at: 0,
            index: 0,
            early: Some(Early::default()),
        }
    }

    pub fn held(&self) -> &Held<F> {
        &self.held
    }

    /// Where it was prepared, if it was.
    pub fn prepare_lsn(&self) -> Option<u64> {
        self.held.prepared.as_ref().map(|(lsn, _)| *lsn)
    }

    pub fn end_lsn(&self) -> u64 {
        self.end_lsn
    }

    /// Put out some more. True when only the Commit is left.
    pub fn some(&mut self, told: &mut Told, out: &mut Builder) -> Result<bool, F::Error> {
        let block = std::mem::take(&mut self.block);
        let mut cursor = Cursor::at(block.get(self.at..).unwrap_or_default(), self.at);
        let enough = out.count().saturating_add(PART);
        while out.count() < enough {
            match next(&mut cursor) {
                Some(Ok(kept)) => {
                    if !self.held.is_lost(&kept) {
                        self.put(&kept, told, out)?;
                    }
                }
                Some(Err(_)) => return Err(Cause::Damaged { xid: self.held.xid }),
                None => {
                    self.at = 0;
                    self.block = block;
                    let more = self.held.next_block(&mut self.block);
                    return more.map(|more| !more).map_err(|cause| Cause::Storage {
                        xid: self.held.xid,
                        stored: self.held.stored(),
                        cause,
                    });
                }
            }
        }
        self.at = cursor.offset();
        self.block = block;
        Ok(false)
    }

    fn place(&self) -> Place {
        Place { transaction: Some(self.transaction), origin: self.origin.clone(), ..Place::default() }
    }

    fn put(&mut self, kept: &Kept<'_>, told: &mut Told, out: &mut Builder) -> Result<(), F::Error> {
        let mut shapes = kept.shapes().map(|number| self.held.shape(number).cloned());
        let kind = kept.bytes.first().copied();
        let mut place = self.place();
        place.malformed = kept.malformed;
        if kind == Some(kind::TRUNCATE) {
            place.truncated = shapes.collect();
        } else {
            place.shape = shapes.next().flatten();
        }
        let shape = place.shape.clone();
        let (kind, bytes) = match (kind, &shape) {
            (None, Some(shape)) => (kind::RELATION, &*shape.bytes),
            (kind, _) => (kind.unwrap_or(0), kept.bytes),
        };
        if is_about_shape(kind) && !kept.malformed {
            if let Some(early) = &mut self.early {
                early.tell(kind, bytes, kept.lsn, place);
                return Ok(());
            }
        } else {
            self.begin(told, out)?;
            if matches!(kind, kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE | kind::MESSAGE) {
                place.index = Some(self.index);
                self.index = self.index.saturating_add(1);
            }
            told.introduce(&place, out);
        }
        if let (kind::RELATION, Some(shape)) = (kind, &shape) {
            told.tell(shape);
        }
        out.push_placed(bytes, kept.lsn, &place);
        Ok(())
    }

    /// What comes before the first change, once there is one.
    fn begin(&mut self, told: &mut Told, out: &mut Builder) -> Result<(), F::Error> {
        let Some(early) = self.early.take() else { return Ok(()) };
        let Transaction { commit_lsn, commit_time, .. } = self.transaction;
        let begin = Message::Begin { final_lsn: commit_lsn, commit_time: commit_time.unwrap_or(0), xid: self.held.xid };
        let mut bytes = Vec::new();
        begin.encode(&mut bytes).map_err(Cause::Malformed)?;
        out.push_placed(&bytes, self.held.lsn, &self.place());
        if let Some((origin, lsn)) = &self.held.origin {
            let malformed = Message::parse(origin).is_err();
            out.push_placed(origin, *lsn, &Place { malformed, ..self.place() });
        }
        for (bytes, lsn, place) in early.told.into_values() {
            if let Some(shape) = &place.shape {
                told.tell(shape);
            }
            out.push_placed(place.shape.as_ref().map_or(&bytes, |shape| &*shape.bytes), lsn, &place);
        }
        Ok(())
    }

    /// The end, unless nothing came out before it. `confirmable` is what may be confirmed once all this is durable.
    pub fn commit(self, told: &mut Told, confirmable: u64, out: &mut Builder) {
        if self.early.is_none() {
            out.push_placed(&self.commit, self.lsn, &Place { end_lsn: Some(confirmable), ..self.place() });
            told.previous_end_lsn = Some(self.end_lsn);
        }
    }
}
