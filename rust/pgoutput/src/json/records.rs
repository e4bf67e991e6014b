//! Changes as records of a log such as Kafka's: each with a key of its own, and what a key that is gone leaves behind.
//!
//! The values are the lines of `json::lines`, or each change alone as a batch; here they get their keys. A line is found by
//! where it ends, which no line has within it.
use std::ops::Range;

use super::debezium::{KeyForm, Options};
use super::name::Name;
use super::{Envelope, Scratch, lines_in, text, write_value};
use crate::batch::{Batch, Record};
use crate::catalog::Catalog;
use crate::error::{Error, Reason};
use crate::message::{Message, Old};
use crate::oid::Kind;
use crate::relation::Relation;
use crate::row::{Cell, Cells, Failed, Refused, Role, cells, old_cells};
use crate::tuple::Tuple;

/// What the values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values<'a> {
    /// Lines of JSON.
    Json(Envelope<'a>),
    /// Each change as a batch of its own ([`Batch::encode`]).
    Batches,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A row, under its key.
    Row,
    /// An update that made another row of it, and concerns two keys; the key is that of the new row.
    Key,
    /// One table of a Truncate: all keys of the table.
    Truncate,
    /// A logical message.
    Message,
    /// A key that is gone: no value.
    Tombstone,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The place of its change in the batch.
    pub record: usize,
    /// The number of its relation among the batch's; None for a logical message.
    pub shape: Option<usize>,
    /// What it is.
    pub what: What,
    /// Where its key is in `Records::keys`; None when the table has none, or it was not sent.
    pub key: Option<Range<usize>>,
    /// Where its value is in `Records::values`; None for a tombstone.
    pub value: Option<Range<usize>>,
}

/// The records of a batch.
#[derive(Debug, Default)]
pub struct Records {
    /// The keys, one behind the other.
    pub keys: Vec<u8>,
    /// The values, with what is between them.
    pub values: Vec<u8>,
    /// In order.
    pub items: Vec<Item>,
}

/// How a column of a key is written.
enum Form {
    Plain(Kind),
    Debezium(KeyForm),
}

/// What is prepared for one relation.
struct Plan<'a> {
    relation: &'a Relation,
    key: Option<Vec<(usize, Name, Form)>>,
}

impl<'a> Plan<'a> {
    fn new(relation: &'a Relation, key: Option<&Vec<usize>>, values: Values<'_>, catalog: &Catalog) -> Self {
        let column = |&number: &usize| {
            let column = relation.columns.get(number)?;
            let form = match values {
                Values::Json(Envelope::Debezium(options)) => {
                    Form::Debezium(KeyForm::of(column.type_oid, column.type_modifier, catalog, options)?)
                }
                _ => Form::Plain(catalog.kind(column.type_oid)),
            };
            Some((number, Name::of(&column.name), form))
        };
        Self { relation, key: key.and_then(|key| key.iter().map(column).collect()) }
    }

    /// Write the key of a row. None, with nothing written, when the table has none or it was not sent.
    fn key(
        &self,
        out: &mut Vec<u8>,
        row: &Cells<'_>,
        message: &[u8],
        scratch: &mut Scratch,
    ) -> Result<Option<Range<usize>>, Refused> {
        let Some(key) = &self.key else { return Ok(None) };
        let start = out.len();
        for (number, name, form) in key {
            match row.clone().nth(*number) {
                Some(Cell::Value(format, bytes)) => {
                    name.write(out);
                    match form {
                        Form::Plain(kind) => write_value(out, kind, format, bytes, scratch),
                        Form::Debezium(form) => form.write(out, format, bytes, scratch),
                    }
                    .map_err(|invalid| Refused::value(invalid, *number, bytes, message))?;
                }
                Some(Cell::Null) => {
                    name.write(out);
                    out.extend_from_slice(b"null");
                }
                Some(Cell::Unset) | None => {
                    out.truncate(start);
                    return Ok(None);
                }
            }
        }
        // The first comma is the brace.
        match out.get_mut(start) {
            Some(first) => *first = b'{',
            None => return Ok(None),
        }
        out.push(b'}');
        Ok(Some(start..out.len()))
    }
}

/// All changes of a batch. `keys` has for each of its relations the numbers of the key's columns, None where there is none.
///
/// # Errors
/// The first change that cannot be written.
pub fn records(
    buffer: Vec<u8>,
    batch: &Batch,
    catalog: &Catalog,
    values: Values<'_>,
    keys: &[Option<Vec<usize>>],
    tombstones: bool,
) -> Result<Records, Failed> {
    let mut plans = Vec::with_capacity(batch.shapes().len());
    for (number, shape) in batch.shapes().iter().enumerate() {
        plans.push(Plan::new(&shape.relation, keys.get(number).and_then(Option::as_ref), values, catalog));
    }
    let written = match values {
        // What Debezium takes for another row depends on the key.
        Values::Json(Envelope::Debezium(options)) => {
            let options = Options { key_columns: Some(keys.to_vec()), ..options.clone() };
            lines_in(buffer, batch, catalog, Envelope::Debezium(&options))?
        }
        Values::Json(envelope) => lines_in(buffer, batch, catalog, envelope)?,
        Values::Batches => {
            let mut buffer = buffer;
            buffer.clear();
            buffer
        }
    };
    let mut lister = Lister {
        batch,
        plans,
        values,
        tombstones,
        keys,
        at: 0,
        made: Records { values: written, ..Records::default() },
        scratch: Scratch::default(),
    };
    for (record, change) in batch.records().iter().enumerate().filter(|(_, record)| record.is_change()) {
        lister.change(record, change).map_err(|refused| Failed { record, refused })?;
    }
    Ok(lister.made)
}

struct Lister<'a> {
    batch: &'a Batch,
    plans: Vec<Plan<'a>>,
    values: Values<'a>,
    tombstones: bool,
    keys: &'a [Option<Vec<usize>>],
    /// Where the next line begins.
    at: usize,
    made: Records,
    scratch: Scratch,
}

/// The columns of a key by which Debezium takes an updated row for another one.
fn is_another(key: Option<&Vec<usize>>, old: Old<'_>, new: Tuple<'_>) -> bool {
    let (Old::Key(old) | Old::Row(old)) = old;
    let changed = |&number: &usize| match (old.columns().nth(number), new.columns().nth(number)) {
        (Some(old), Some(new)) => new != crate::tuple::Datum::Unchanged && old != new,
        _ => false,
    };
    key.is_some_and(|key| key.iter().any(changed))
}

impl Lister<'_> {
    fn change(&mut self, at: usize, record: &Record) -> Result<(), Refused> {
        match self.batch.message(record)? {
            Message::Insert { relation_oid, new, .. } => self.new_row(at, record, relation_oid, new, None),
            Message::Update { relation_oid, old, new, .. } => self.new_row(at, record, relation_oid, new, old),
            Message::Delete { relation_oid, old, .. } => {
                let (shape, key) = self.key(record, relation_oid, None, Some(old))?;
                self.row(at, record, Some(shape), What::Row, key.clone())?;
                self.tombstone(at, Some(shape), key);
                Ok(())
            }
            Message::Truncate { relation_oids, .. } => {
                let mut value = None;
                for (number, (shape, oid)) in self.batch.truncated(record).iter().zip(relation_oids).enumerate() {
                    // Count and options come first: five bytes.
                    let offset = number.saturating_mul(4).saturating_add(5).saturating_add(record.fields_at());
                    let shape = shape.ok_or(Refused::UnknownRelation { oid, offset })?;
                    // Debezium has a line for each table, all others one.
                    if value.is_none() || matches!(self.values, Values::Json(Envelope::Debezium(_))) {
                        value = Some(self.value(record)?);
                    }
                    let value = value.clone();
                    self.made.items.push(Item {
                        record: at,
                        shape: Some(shape),
                        what: What::Truncate,
                        key: None,
                        value,
                    });
                }
                Ok(())
            }
            Message::Message { prefix, .. } => {
                let start = self.made.keys.len();
                self.made.keys.extend_from_slice(b"{\"prefix\":");
                text::string(&mut self.made.keys, prefix);
                self.made.keys.push(b'}');
                let key = Some(start..self.made.keys.len());
                self.row(at, record, None, What::Message, key)
            }
            _ => Ok(()),
        }
    }

    fn new_row(
        &mut self,
        at: usize,
        record: &Record,
        oid: u32,
        new: Tuple<'_>,
        old: Option<Old<'_>>,
    ) -> Result<(), Refused> {
        let (shape, key) = self.key(record, oid, Some((new, old)), None)?;
        let is_another = old.is_some_and(|old| is_another(self.keys.get(shape).and_then(Option::as_ref), old, new));
        if !is_another {
            return self.row(at, record, Some(shape), What::Row, key);
        }
        let (_, former) = self.key(record, oid, None, old)?;
        match self.values {
            Values::Json(Envelope::Debezium(_)) => {
                self.row(at, record, Some(shape), What::Row, former.clone())?;
                self.tombstone(at, Some(shape), former);
                self.row(at, record, Some(shape), What::Row, key)
            }
            Values::Json(Envelope::Plain) => {
                self.tombstone(at, Some(shape), former);
                self.row(at, record, Some(shape), What::Row, key)
            }
            Values::Batches => self.row(at, record, Some(shape), What::Key, key),
        }
    }

    /// The number of a row's relation, and its key.
    fn key(
        &mut self,
        record: &Record,
        oid: u32,
        new: Option<(Tuple<'_>, Option<Old<'_>>)>,
        old: Option<Old<'_>>,
    ) -> Result<(usize, Option<Range<usize>>), Refused> {
        let unknown = Refused::UnknownRelation { oid, offset: record.fields_at() };
        let shape = record.shape.ok_or(unknown)?;
        let plan = self.plans.get(shape).ok_or(unknown)?;
        let row = match (new, old) {
            (Some((new, old)), _) => cells(plan.relation, new, Role::New { old })?,
            (None, Some(old)) => old_cells(plan.relation, old)?,
            (None, None) => return Ok((shape, None)),
        };
        let key = plan.key(&mut self.made.keys, &row, self.batch.bytes(record), &mut self.scratch)?;
        Ok((shape, key))
    }

    /// Where the value of the next record is.
    fn value(&mut self, record: &Record) -> Result<Range<usize>, Refused> {
        let start = self.at;
        let end = match self.values {
            Values::Json(_) => {
                let rest = self.made.values.get(start..).unwrap_or_default();
                let length = memchr::memchr(b'\n', rest).ok_or(MISSING)?;
                self.at = start.saturating_add(length).saturating_add(1);
                start.saturating_add(length)
            }
            Values::Batches => {
                self.batch.alone(record).encode(&mut self.made.values)?;
                self.at = self.made.values.len();
                self.at
            }
        };
        Ok(start..end)
    }

    fn row(
        &mut self,
        at: usize,
        record: &Record,
        shape: Option<usize>,
        what: What,
        key: Option<Range<usize>>,
    ) -> Result<(), Refused> {
        let value = Some(self.value(record)?);
        self.made.items.push(Item { record: at, shape, what, key, value });
        Ok(())
    }

    /// What is left of a key, if anything is.
    fn tombstone(&mut self, at: usize, shape: Option<usize>, key: Option<Range<usize>>) {
        let is_asked_for = self.tombstones && self.values != Values::Batches;
        if is_asked_for && key.is_some() {
            self.made.items.push(Item { record: at, shape, what: What::Tombstone, key, value: None });
        }
    }
}

/// There are as many lines as changes, so this does not happen; if it did, no record may get another's value.
const MISSING: Refused = Refused::Message(Error { reason: Reason::UnexpectedEnd, field: "line", offset: 0 });
