//! The last state of each row: what is left of a batch for a target that keeps a copy of a table.
use std::collections::HashMap;
use std::sync::Arc;

use super::reshape::{key, tuples};
use super::{Batch, Builder, Record};
use crate::encode;
use crate::error::{Error, Reason};
use crate::message::{Message, Old, kind};
use crate::relation::Relation;
use crate::row::{Cell, Failed, Refused, Role, cells};
use crate::session::Shape;
use crate::tuple::{Datum, Tuple};
use crate::value::Format;

/// What the key of a change was not sent for: nobody could say which row it is of.
const NO_KEY: Refused = Refused::Value { reason: "a row whose key was not sent", column: usize::MAX, offset: 0 };

/// The state of one key.
#[derive(Debug)]
struct Last<'a> {
    record: &'a Record,
    /// When it came, among all.
    number: usize,
    state: State<'a>,
}

#[derive(Debug)]
enum State<'a> {
    /// The message says it: an insert, or an update that changed no key and follows no other change of the row.
    Same(Tuple<'a>),
    /// A row that has to be written; and the key whose row has what is still unset in it, where that is another.
    Row(Vec<Datum<'a>>, Option<Vec<Datum<'a>>>),
    /// There is none; the key, with null outside it.
    Gone(Vec<Datum<'a>>),
}

/// What came of one shape since the last barrier.
#[derive(Debug, Default)]
struct Rows<'a> {
    by_key: HashMap<Vec<u8>, Last<'a>>,
}

struct Folder<'a> {
    batch: &'a Batch,
    /// The numbers of the key's columns, for each shape; None where rows have none.
    keys: Vec<Option<Vec<usize>>>,
    /// By the number of the shape.
    rows: HashMap<usize, Rows<'a>>,
    builder: Builder,
}

/// The columns that a row is found by: those that are named, else the replica identity; none where that is the whole row.
fn key_columns(relation: &Relation, named: Option<&[Vec<u8>]>) -> Option<Vec<usize>> {
    let all = &relation.columns;
    if let Some(named) = named {
        return named.iter().map(|name| all.iter().position(|column| column.name == *name)).collect();
    }
    if relation.is_full() {
        return None;
    }
    let keys: Vec<usize> = (all.iter().enumerate()).filter(|(_, column)| column.is_key).map(|(at, _)| at).collect();
    (!keys.is_empty()).then_some(keys)
}

impl Batch {
    /// What is left when of all changes of a key only the last state counts: first a delete for each key that has no row
    /// any more, then the rows, in the order of their last changes. `columns` says which columns are a table's key; None
    /// for the replica identity. Changes of a table whose rows have no key stay as they are, as do logical messages.
    ///
    /// A row is an insert, or an update without an old key. What is unset in it (unchanged TOAST) is as the target's row
    /// of the same key has it; where the update has an old key, as the row of that had it before all of this.
    ///
    /// Nothing is folded across a TRUNCATE, or a change of a table's shape.
    ///
    /// # Errors
    /// For the first change that cannot be read, or whose key was not sent.
    pub fn folded<'k>(&self, mut columns: impl FnMut(&Shape) -> Option<&'k [Vec<u8>]>) -> Result<Self, Failed> {
        let keys = self.shapes().iter().map(|shape| key_columns(&shape.relation, columns(shape))).collect();
        let builder = Builder::with_capacity(self.records.len(), self.nbytes());
        let mut folder = Folder { batch: self, keys, rows: HashMap::new(), builder };
        for (number, record) in self.records.iter().enumerate().filter(|(_, record)| record.is_change()) {
            folder.change(number, record).map_err(|refused| Failed { record: number, refused })?;
        }
        folder.flush().map_err(|refused| Failed { record: self.records.len().saturating_sub(1), refused })?;
        Ok(folder.builder.finish())
    }
}

/// The values of a row, an unchanged one taken from what was sent of the old row.
fn datums<'a>(relation: &'a Relation, new: Tuple<'a>, old: Option<Old<'a>>) -> Result<Vec<Datum<'a>>, Refused> {
    let cells = cells(relation, new, Role::New { old })?;
    Ok(cells
        .map(|cell| match cell {
            Cell::Value(Format::Text, bytes) => Datum::Text(bytes),
            Cell::Value(Format::Binary, bytes) => Datum::Binary(bytes),
            Cell::Null => Datum::Null,
            Cell::Unset => Datum::Unchanged,
        })
        .collect())
}

/// The key alone of a row, with null outside it.
fn only<'a>(columns: &[usize], row: Tuple<'a>) -> Vec<Datum<'a>> {
    let keep = |(at, datum)| if columns.contains(&at) { datum } else { Datum::Null };
    row.columns().enumerate().map(keep).collect()
}

impl<'a> Folder<'a> {
    fn change(&mut self, number: usize, record: &'a Record) -> Result<(), Refused> {
        let batch = self.batch;
        let message = batch.message(record)?;
        match message {
            Message::Truncate { .. } => {
                self.flush()?;
                self.keep(record);
                Ok(())
            }
            Message::Insert { relation_oid: oid, .. }
            | Message::Update { relation_oid: oid, .. }
            | Message::Delete { relation_oid: oid, .. } => {
                let unknown = Refused::UnknownRelation { oid, offset: record.fields_at() };
                let shape = record.shape.ok_or(unknown)?;
                let relation = &batch.shapes().get(shape).ok_or(unknown)?.relation;
                let (old, new) = tuples(&message);
                for tuple in old.map(|(_, tuple)| tuple).into_iter().chain(new) {
                    if tuple.len() != relation.columns.len() {
                        let reason = Reason::ColumnCount(tuple.len());
                        return Err(Error { reason, field: "number of columns", offset: 0 }.into());
                    }
                }
                if !self.rows.contains_key(&shape) {
                    self.begin(shape, relation.oid)?;
                }
                match self.keys.get(shape).cloned().flatten() {
                    None => {
                        self.keep(record);
                        Ok(())
                    }
                    Some(columns) => self.row(number, record, shape, &columns, &message),
                }
            }
            _ => {
                self.keep(record);
                Ok(())
            }
        }
    }

    /// The first change of a shape: what came before of the same table in another shape is complete.
    #[cold]
    fn begin(&mut self, shape: usize, oid: u32) -> Result<(), Refused> {
        let shapes = self.batch.shapes();
        if self.rows.keys().any(|&other| shapes.get(other).is_some_and(|other| other.relation.oid == oid)) {
            self.flush()?;
        }
        self.rows.insert(shape, Rows::default());
        Ok(())
    }

    fn keep(&mut self, record: &Record) {
        self.builder.push_placed(self.batch.bytes(record), record.lsn, &self.batch.place(record));
    }

    fn row(
        &mut self,
        number: usize,
        record: &'a Record,
        shape: usize,
        columns: &[usize],
        message: &Message<'a>,
    ) -> Result<(), Refused> {
        let batch = self.batch;
        let Some(known) = batch.shapes().get(shape) else { return Err(NO_KEY) };
        let Some(rows) = self.rows.get_mut(&shape) else { return Err(NO_KEY) };
        let is_sent = |&at: &usize| known.relation.columns.get(at).is_some_and(|column| column.is_key);
        if record.kind != kind::INSERT && !columns.iter().all(is_sent) {
            return Err(NO_KEY); // of an old row it is not sent, and a new one may have another
        }
        let key_of = |tuple: Tuple<'_>, beside: Option<Tuple<'_>>| key(known, columns, tuple, beside, None);
        let (old, new) = tuples(message);
        let old_tuple = old.map(|(_, tuple)| tuple);
        let Some(new) = new else {
            let old = old_tuple.ok_or(NO_KEY)?;
            let state = State::Gone(only(columns, old));
            rows.by_key.insert(key_of(old, None).ok_or(NO_KEY)?, Last { record, number, state });
            return Ok(());
        };
        let now = key_of(new, old_tuple).ok_or(NO_KEY)?;
        let former = match old_tuple {
            Some(old) => Some(key_of(old, None).ok_or(NO_KEY)?).filter(|former| *former != now),
            None => None,
        };
        let is_insert = record.kind == kind::INSERT;
        if old_tuple.is_none() && (is_insert || !rows.by_key.contains_key(&now)) {
            rows.by_key.insert(now, Last { record, number, state: State::Same(new) });
            return Ok(());
        }
        let sent = match *message {
            Message::Update { old, .. } => old,
            _ => None,
        };
        let mut row = datums(&known.relation, new, sent)?;
        let mut origin = None;
        if row.contains(&Datum::Unchanged) {
            let before = rows.by_key.get(former.as_ref().unwrap_or(&now));
            match before.map(|before| &before.state) {
                Some(State::Same(tuple)) => fill(&mut row, tuple.columns()),
                Some(State::Row(known, from)) => {
                    fill(&mut row, known.iter().copied());
                    origin.clone_from(from);
                }
                Some(State::Gone(_)) | None => {}
            }
            match (row.contains(&Datum::Unchanged), &former, old_tuple) {
                (false, ..) => origin = None,
                (true, Some(_), Some(old)) if origin.is_none() => origin = Some(only(columns, old)),
                _ => {}
            }
        }
        if let (Some(former), Some(old)) = (former, old_tuple) {
            let state = State::Gone(only(columns, old));
            rows.by_key.insert(former, Last { record, number, state });
        }
        rows.by_key.insert(now, Last { record, number, state: State::Row(row, origin) });
        Ok(())
    }

    /// Write what came so far.
    fn flush(&mut self) -> Result<(), Refused> {
        let mut all: Vec<(usize, Last<'a>)> = Vec::new();
        for (shape, rows) in self.rows.drain() {
            all.extend(rows.by_key.into_values().map(|last| (shape, last)));
        }
        // A change of key ends one row and makes another at the same place: the delete comes first in any case.
        all.sort_unstable_by_key(|(_, last)| (!matches!(last.state, State::Gone(_)), last.number));
        for (shape, last) in all {
            let batch = self.batch;
            let Some(shape) = batch.shapes().get(shape) else { continue };
            match &last.state {
                State::Same(_) => self.keep(last.record),
                State::Gone(key) => self.write(shape, &last, kind::DELETE, Some(key), None)?,
                State::Row(row, origin) => {
                    let is_whole = !row.contains(&Datum::Unchanged);
                    let kind = if is_whole { kind::INSERT } else { kind::UPDATE };
                    self.write(shape, &last, kind, origin.as_deref(), Some(row))?;
                }
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        shape: &Arc<Shape>,
        last: &Last<'_>,
        kind: u8,
        old: Option<&[Datum<'_>]>,
        new: Option<&[Datum<'_>]>,
    ) -> Result<(), Refused> {
        let record = last.record;
        let xid = record.streamed.then(|| self.batch.bytes(record).get(1..5)).flatten();
        let start = self.builder.content.bytes.len();
        let out = &mut self.builder.content.bytes;
        out.push(kind);
        out.extend_from_slice(xid.unwrap_or_default());
        out.extend_from_slice(&shape.relation.oid.to_be_bytes());
        for (role, row) in [(b'K', old), (b'N', new)] {
            if let Some(row) = row {
                out.push(role);
                encode::tuple(row, out)?;
            }
        }
        self.builder.record(start, record.lsn, &self.batch.place(record));
        Ok(())
    }
}

/// Put what an earlier state of the row has in the place of what was not sent.
fn fill<'a>(row: &mut [Datum<'a>], before: impl Iterator<Item = Datum<'a>>) {
    for (datum, before) in row.iter_mut().zip(before) {
        if *datum == Datum::Unchanged {
            *datum = before;
        }
    }
}
