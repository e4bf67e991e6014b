//! Changes of rows one by one: the key as text, the new row as JSON, and which columns of it were not sent. For targets
//! that keep a row under its key.
use std::ops::Range;

use super::{Columns, Scratch};
use crate::batch::{Batch, Record};
use crate::catalog::Catalog;
use crate::message::{Message, kind};
use crate::oid::Kind;
use crate::relation::Relation;
use crate::row::{Cell, Cells, Failed, Refused, Role, cells, old_cells};
use crate::value::print::print;

/// The values of the key's columns as PostgreSQL prints them, None where one is NULL.
pub type Key = Vec<Option<Vec<u8>>>;

/// One change, or one table of a Truncate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The place of its record in the batch.
    pub record: usize,
    /// Its number among the changes of the batch; the tables of one Truncate have the same.
    pub number: usize,
    /// The number of its relation among the batch's; None for a logical message.
    pub shape: Option<usize>,
    /// The key of the new row, of a delete that of the old one; None when it is not known.
    pub key: Option<Key>,
    /// The key of the row before, where it was another.
    pub old_key: Option<Key>,
    /// Where the new row is in the bytes that were written.
    pub new: Option<Range<usize>>,
    /// The numbers of the columns of the new row that were not sent.
    pub unsent: Vec<usize>,
}

/// What is prepared for one relation.
struct Plan<'a> {
    relation: &'a Relation,
    columns: Columns,
    /// The key's columns and their kinds.
    key: Option<Vec<(usize, Kind)>>,
}

impl Plan<'_> {
    fn key(&self, cells: &Cells<'_>, message: &[u8]) -> Result<Option<Key>, Refused> {
        let Some(columns) = &self.key else { return Ok(None) };
        let mut key = Key::with_capacity(columns.len());
        for (number, kind) in columns {
            match cells.clone().nth(*number) {
                Some(Cell::Value(format, bytes)) => {
                    let mut text = Vec::new();
                    print(&mut text, kind, format, bytes)
                        .map_err(|invalid| Refused::value(invalid, *number, bytes, message))?;
                    key.push(Some(text));
                }
                Some(Cell::Null) => key.push(None),
                Some(Cell::Unset) | None => return Ok(None),
            }
        }
        Ok(Some(key))
    }
}

/// All changes of a batch. `keys` has for each of its relations the numbers of the key's columns, None where there is no key.
///
/// # Errors
/// The first change that cannot be written.
pub fn rows(batch: &Batch, catalog: &Catalog, keys: &[Option<Vec<usize>>]) -> Result<(Vec<u8>, Vec<Row>), Failed> {
    // All strings are looked at together; see `lines_in`.
    match written(batch, catalog, keys, true) {
        Ok((bytes, _)) if simdutf8::basic::from_utf8(&bytes).is_err() => written(batch, catalog, keys, false),
        written => written,
    }
}

fn written(
    batch: &Batch,
    catalog: &Catalog,
    keys: &[Option<Vec<usize>>],
    is_utf8_later: bool,
) -> Result<(Vec<u8>, Vec<Row>), Failed> {
    let key = |number: usize, relation: &Relation| {
        let kind = |&column: &usize| Some((column, catalog.kind(relation.columns.get(column)?.type_oid)));
        keys.get(number)?.as_ref()?.iter().map(kind).collect()
    };
    let mut plans = Vec::with_capacity(batch.shapes().len());
    for (number, shape) in batch.shapes().iter().enumerate() {
        let relation = &shape.relation;
        plans.push(Plan { relation, columns: Columns::new(relation, catalog), key: key(number, relation) });
    }
    let mut out = Vec::with_capacity(batch.nbytes().saturating_mul(2));
    let mut scratch = Scratch::default();
    scratch.is_utf8_later = is_utf8_later;
    let mut rows = Vec::with_capacity(batch.records().len());
    let changes = batch.records().iter().enumerate().filter(|(_, record)| record.is_change());
    for (number, (at, record)) in changes.enumerate() {
        one(batch, (at, number), record, &plans, &mut out, &mut scratch, &mut rows)
            .map_err(|refused| Failed { record: at, refused })?;
    }
    Ok((out, rows))
}

fn one(
    batch: &Batch,
    (at, number): (usize, usize),
    record: &Record,
    plans: &[Plan<'_>],
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
    rows: &mut Vec<Row>,
) -> Result<(), Refused> {
    let empty = |shape| Row { record: at, number, shape, key: None, old_key: None, new: None, unsent: Vec::new() };
    let message = batch.message(record)?;
    let (oid, new, old) = match message {
        Message::Insert { relation_oid, new, .. } => (relation_oid, Some(new), None),
        Message::Update { relation_oid, new, old, .. } => (relation_oid, Some(new), old),
        Message::Delete { relation_oid, old, .. } => (relation_oid, None, Some(old)),
        Message::Truncate { relation_oids, .. } => {
            for (number, (shape, oid)) in batch.truncated(record).iter().zip(relation_oids).enumerate() {
                // Count and options come first: five bytes.
                let offset = number.saturating_mul(4).saturating_add(5).saturating_add(record.fields_at());
                let shape = shape.ok_or(Refused::UnknownRelation { oid, offset })?;
                rows.push(empty(Some(shape)));
            }
            return Ok(());
        }
        _ => {
            rows.push(empty(None));
            return Ok(());
        }
    };
    let bytes = batch.bytes(record);
    let unknown = Refused::UnknownRelation { oid, offset: record.fields_at() };
    let shape = record.shape.ok_or(unknown)?;
    let plan = plans.get(shape).ok_or(unknown)?;
    let mut row = empty(Some(shape));
    let former = match old {
        Some(old) => plan.key(&old_cells(plan.relation, old)?, bytes)?,
        None => None,
    };
    match new {
        Some(new) => {
            let cells = cells(plan.relation, new, Role::New { old })?;
            row.key = plan.key(&cells, bytes)?;
            if former != row.key {
                row.old_key = former;
            }
            if record.kind == kind::UPDATE {
                let unsent = cells.clone().enumerate().filter(|(_, cell)| *cell == Cell::Unset);
                row.unsent = unsent.map(|(number, _)| number).collect();
            }
            let start = out.len();
            plan.columns.write(out, cells, bytes, scratch)?;
            row.new = Some(start..out.len());
        }
        None => row.key = former,
    }
    rows.push(row);
    Ok(())
}
