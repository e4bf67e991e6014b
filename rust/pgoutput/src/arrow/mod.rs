//! Changes as Arrow record batches, straight from the wire: one for each table and shape.
//!
//! What the columns are is in the documentation of `Batch.to_arrow` (`_pgoutput.pyi`).
mod column;
mod place;
mod plan;
mod rows;
mod run;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema};

use crate::batch::{Batch, Record};
use crate::catalog::Catalog;
use crate::json::Scratch;
use crate::message::{Message, NewRow, Old};
use crate::relation::Relation;
use crate::row::{Cells, Failed, Refused, Role, cells, old_cells};
use crate::tuple::Tuple;
use crate::value::Invalid;
use column::Column;
use place::Place;
use rows::Rows;

/// The changes of one table, as long as its columns are the same.
#[derive(Clone, Debug)]
pub struct Part {
    /// `schema.table`; `messages` for logical messages.
    pub table: String,
    /// The changes.
    pub rows: RecordBatch,
}

/// Why there are no record batches.
#[derive(Debug)]
pub enum NotMade {
    /// A change cannot be written.
    Failed(Failed),
    /// A defect: the columns did not make a record batch.
    Arrow(ArrowError),
}

impl From<ArrowError> for NotMade {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error)
    }
}

/// Where logical messages are: no table's key is without a full stop.
const MESSAGES: &str = "messages";

/// Write all changes of a batch. Columns named in `text` (`schema.table.column`) are strings whatever their type is.
///
/// # Errors
/// The first change that cannot be written.
pub fn parts(batch: &Batch, catalog: &Catalog, text: &BTreeSet<String>) -> Result<Vec<Part>, NotMade> {
    // Once without looking at each string: all of a column are checked together. Where that or anything else fails, the
    // second time each change is read with all its checks, and the first that cannot be written is found.
    match write(batch, catalog, text, false) {
        Err(_) => write(batch, catalog, text, true),
        parts => parts,
    }
}

fn write(batch: &Batch, catalog: &Catalog, text: &BTreeSet<String>, checked: bool) -> Result<Vec<Part>, NotMade> {
    let mut counts = vec![0_usize; batch.shapes().len()];
    for record in batch.records() {
        if let Some(count) = record.shape.and_then(|number| counts.get_mut(number)) {
            *count = count.saturating_add(1);
        }
    }
    let mut writer = Writer {
        batch,
        catalog,
        text,
        checked,
        counts,
        tables: Vec::new(),
        by_shape: vec![None; batch.shapes().len()],
        current: HashMap::new(),
        messages: None,
        scratch: Scratch::default(),
    };
    for (record, change) in batch.records().iter().enumerate().filter(|(_, record)| record.is_change()) {
        writer.change(change).map_err(|refused| NotMade::Failed(Failed { record, refused }))?;
    }
    for rows in &mut writer.tables {
        // Which change it is that has a value that is refused here, is found the second time.
        rows.flush(&mut writer.scratch).map_err(|refused| NotMade::Failed(Failed { record: usize::MAX, refused }))?;
    }
    let tables = writer.tables.into_iter().map(Rows::finish);
    let messages = writer.messages.map(Messages::finish);
    Ok(tables.chain(messages).collect::<Result<_, ArrowError>>()?)
}

fn record_batch(table: String, fields: Vec<FieldRef>, arrays: Vec<ArrayRef>, rows: usize) -> Result<Part, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(Fields::from(fields))), arrays, &options)?;
    Ok(Part { table, rows })
}

/// Logical messages, being filled.
struct Messages {
    place: Place,
    lsn: Column,
    transactional: Column,
    prefix: Column,
    content: Column,
}

impl Messages {
    fn types() -> [(&'static str, DataType); 4] {
        [
            ("lsn", DataType::UInt64),
            ("transactional", DataType::Boolean),
            ("prefix", DataType::Utf8),
            ("content", DataType::Binary),
        ]
    }

    fn new(checked: bool) -> Self {
        let [lsn, transactional, prefix, content] =
            Self::types().map(|(_, data_type)| Column::new(&data_type, 0, checked));
        Self { place: Place::new(0), lsn, transactional, prefix, content }
    }

    fn finish(self) -> Result<Part, ArrowError> {
        let rows = self.lsn.len();
        let mut fields: Vec<FieldRef> =
            Place::types().map(|(name, data_type)| Arc::new(Field::new(name, data_type, true))).into_iter().collect();
        fields.extend(Self::types().map(|(name, data_type)| Arc::new(Field::new(name, data_type, false))));
        let mut arrays = Vec::from(self.place.finish()?);
        for column in [self.lsn, self.transactional, self.prefix, self.content] {
            arrays.push(column.finish()?);
        }
        record_batch(MESSAGES.to_owned(), fields, arrays, rows)
    }
}

struct Writer<'a> {
    batch: &'a Batch,
    catalog: &'a Catalog,
    text: &'a BTreeSet<String>,
    /// Whether each string is looked at.
    checked: bool,
    /// How many messages there are of each of the batch's shapes; 0 once room was made for them.
    counts: Vec<usize>,
    tables: Vec<Rows<'a>>,
    /// Which of the tables each of the batch's shapes goes to.
    by_shape: Vec<Option<usize>>,
    /// Which of the tables the next row of a name goes to, if its shape is the same, and which shapes go there.
    current: HashMap<String, (usize, Vec<usize>)>,
    messages: Option<Messages>,
    scratch: Scratch,
}

impl<'a> Writer<'a> {
    /// The relation and the rows that are being filled for it.
    #[inline]
    fn rows(&mut self, shape: Option<usize>, oid: u32, offset: usize) -> Result<(&'a Relation, usize), Refused> {
        let unknown = Refused::UnknownRelation { oid, offset };
        let number = shape.ok_or(unknown)?;
        let batch = self.batch;
        let relation = &batch.shapes().get(number).ok_or(unknown)?.relation;
        let place = match self.by_shape.get(number) {
            Some(&Some(place)) => place,
            _ => self.begin_rows(relation, number),
        };
        Ok((relation, place))
    }

    /// Which of the tables the rows of a shape go to that had none before.
    #[cold]
    fn begin_rows(&mut self, relation: &'a Relation, number: usize) -> usize {
        let room = self.counts.get_mut(number).map_or(0, std::mem::take);
        let rows = Rows::new(relation, self.catalog, self.text, room, self.checked);
        let (place, shapes) = self.current.entry(rows.table.clone()).or_insert((self.tables.len(), Vec::new()));
        if self.tables.get(*place).is_none_or(|table| !table.is_like(&rows)) {
            // What came before of this table is complete: the same shape, coming again, begins a new part.
            for shape in shapes.drain(..) {
                if let Some(by_shape) = self.by_shape.get_mut(shape) {
                    *by_shape = None;
                }
            }
            *place = self.tables.len();
            self.tables.push(rows);
        }
        shapes.push(number);
        let place = *place;
        if let Some(by_shape) = self.by_shape.get_mut(number) {
            *by_shape = Some(place);
        }
        place
    }

    fn change(&mut self, record: &Record) -> Result<(), Refused> {
        let batch = self.batch;
        if !self.checked
            && let Some(row) = batch.new_row_ahead(record)
        {
            return self.new_row(record, row);
        }
        let message = if self.checked { batch.message(record)? } else { batch.message_ahead(record)? };
        match message {
            Message::Insert { relation_oid, new, .. } => self.row(record, *b"insert", relation_oid, Some(new), None),
            Message::Update { relation_oid, old, new, .. } => {
                self.row(record, *b"update", relation_oid, Some(new), old)
            }
            Message::Delete { relation_oid, old, .. } => self.row(record, *b"delete", relation_oid, None, Some(old)),
            Message::Truncate { relation_oids, .. } => {
                for (number, (shape, oid)) in batch.truncated(record).iter().zip(relation_oids).enumerate() {
                    // Count and options come first: five bytes.
                    let offset = number.saturating_mul(4).saturating_add(5).saturating_add(record.fields_at());
                    let (_, place) = self.rows(*shape, oid, offset)?;
                    self.begin(record, *b"truncate", place)?;
                    let Some(rows) = self.tables.get_mut(place) else { continue };
                    Self::push(rows, None, &[], &mut self.scratch, self.checked)?;
                    rows.push_old(None, &[], &mut self.scratch)?;
                }
                Ok(())
            }
            Message::Message { transactional, lsn, prefix, content, .. } => {
                let refused = |invalid: Invalid| Refused::Value {
                    reason: invalid.0,
                    column: usize::MAX,
                    offset: record.fields_at().saturating_add(9),
                };
                let messages = self.messages.get_or_insert_with(|| Messages::new(self.checked));
                messages.place.push(self.batch, record)?;
                messages.lsn.push_u64(lsn, 1);
                messages.transactional.push_bool(transactional);
                messages.prefix.push_bytes(prefix).map_err(refused)?;
                messages.content.push_bytes(content).map_err(refused)
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn push(
        rows: &mut Rows<'a>,
        cells: Option<Cells<'a>>,
        message: &[u8],
        scratch: &mut Scratch,
        checked: bool,
    ) -> Result<(), Refused> {
        if checked { rows.push_checked(cells, message, scratch) } else { rows.push(cells, scratch) }
    }

    #[inline]
    fn begin<const N: usize>(&mut self, record: &Record, action: [u8; N], place: usize) -> Result<(), Refused> {
        let refused = |invalid: Invalid| Refused::Value { reason: invalid.0, column: usize::MAX, offset: 0 };
        let Some(rows) = self.tables.get_mut(place) else { return Ok(()) };
        rows.action.push_ascii(&action).map_err(refused)?;
        rows.place.push(self.batch, record)
    }

    /// Most rows: nothing of the old one beside them.
    #[inline]
    fn new_row(&mut self, record: &Record, row: NewRow<'a>) -> Result<(), Refused> {
        let (_, place) = self.rows(record.shape, row.relation_oid, record.fields_at())?;
        self.begin(record, if row.is_insert { *b"insert" } else { *b"update" }, place)?;
        let Some(rows) = self.tables.get_mut(place) else { return Ok(()) };
        rows.push_new(row.new, &mut self.scratch)
    }

    fn row(
        &mut self,
        record: &Record,
        action: [u8; 6],
        oid: u32,
        new: Option<Tuple<'a>>,
        old: Option<Old<'a>>,
    ) -> Result<(), Refused> {
        let message = self.batch.bytes(record);
        let (relation, place) = self.rows(record.shape, oid, record.fields_at())?;
        self.begin(record, action, place)?;
        let Some(rows) = self.tables.get_mut(place) else { return Ok(()) };
        let before = old.map(|old| old_cells(relation, old)).transpose()?;
        match new {
            Some(new) => {
                let cells = cells(relation, new, Role::New { old })?;
                Self::push(rows, Some(cells), message, &mut self.scratch, self.checked)?;
                rows.push_old(before, message, &mut self.scratch)
            }
            None => {
                Self::push(rows, before, message, &mut self.scratch, self.checked)?;
                rows.push_old(None, message, &mut self.scratch)
            }
        }
    }
}

#[cfg(test)]
mod tests;
