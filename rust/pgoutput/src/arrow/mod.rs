//! Changes as Arrow record batches, straight from the wire: one for each table and shape.
//!
//! What the columns are is in the documentation of `Batch.to_arrow` (`_pgoutput.pyi`).
mod column;
mod place;
mod plan;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, StructArray};
use arrow_buffer::NullBufferBuilder;
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};

use crate::batch::{Batch, Record};
use crate::catalog::Catalog;
use crate::json::Scratch;
use crate::message::{Message, Old};
use crate::relation::Relation;
use crate::row::{Cell, Cells, Failed, Refused, Role, cells, old_cells};
use crate::tuple::Tuple;
use crate::value::Invalid;
use column::Column;
use place::Place;
use plan::Plan;

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

/// `schema.table`; a name with a full stop or quote in it is quoted, so that no two tables are called the same.
fn table_name(relation: &Relation) -> String {
    [&relation.schema, &relation.name].map(|name| quoted(name)).join(".")
}

fn quoted(name: &[u8]) -> String {
    let name = readable(name);
    if name.contains(['.', '"']) { format!("\"{}\"", name.replace('"', "\"\"")) } else { name }
}

/// A name as Arrow wants it: bytes that are not UTF-8 are written out as `\xf6`.
fn readable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// Write all changes of a batch. Columns named in `text` (`schema.table.column`) are strings whatever their type is.
///
/// # Errors
/// The first change that cannot be written.
pub fn parts(batch: &Batch, catalog: &Catalog, text: &BTreeSet<String>) -> Result<Vec<Part>, NotMade> {
    let mut writer = Writer {
        batch,
        catalog,
        text,
        tables: Vec::new(),
        by_shape: vec![None; batch.shapes().len()],
        current: HashMap::new(),
        messages: None,
        scratch: Scratch::default(),
    };
    for (record, change) in batch.records().iter().enumerate().filter(|(_, record)| record.is_change()) {
        writer.change(change).map_err(|refused| NotMade::Failed(Failed { record, refused }))?;
    }
    let tables = writer.tables.into_iter().map(Rows::finish);
    let messages = writer.messages.map(Messages::finish);
    Ok(tables.chain(messages).collect::<Result<_, ArrowError>>()?)
}

/// The name of a column of ours: with underscores in front until the table has none of that name.
fn own(name: &str, relation: &Relation) -> String {
    let mut name = name.to_owned();
    while relation.columns.iter().any(|column| column.name == name.as_bytes()) {
        name.insert(0, '_');
    }
    name
}

/// Rows of one table in one shape, being filled.
struct Rows {
    table: String,
    fields: Vec<Field>,
    /// The names as they go into `_unset`.
    names: Vec<String>,
    plans: Vec<Plan>,
    /// The numbers of the columns that `_old` has.
    keys: Vec<usize>,
    action: Column,
    place: Place,
    unset: Column,
    old: Vec<Column>,
    has_old: NullBufferBuilder,
    columns: Vec<Column>,
}

impl Rows {
    fn new(relation: &Relation, catalog: &Catalog, text: &BTreeSet<String>) -> Self {
        let table = table_name(relation);
        let names: Vec<String> = relation.columns.iter().map(|column| readable(&column.name)).collect();
        let plan = |(column, name): (&crate::relation::Column, &String)| {
            let as_text = !text.is_empty() && text.contains(&format!("{table}.{}", quoted(&column.name)));
            Plan::new(name, catalog.kind(column.type_oid), column.type_modifier, as_text)
        };
        let plans: Vec<Plan> = relation.columns.iter().zip(&names).map(plan).collect();
        let keys: Vec<usize> = relation
            .columns
            .iter()
            .enumerate()
            .filter_map(|(number, column)| column.is_key.then_some(number))
            .collect();
        let names_type = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
        let mut fields = vec![Field::new(own("_action", relation), DataType::Utf8, false)];
        fields.extend(Place::types().map(|(name, data_type)| Field::new(own(name, relation), data_type, true)));
        fields.push(Field::new(own("_unset", relation), names_type.clone(), false));
        let old: Vec<&Plan> = keys.iter().filter_map(|&number| plans.get(number)).collect();
        if !old.is_empty() {
            let key_fields: Fields = old.iter().map(|plan| plan.field.clone()).collect();
            fields.push(Field::new(own("_old", relation), DataType::Struct(key_fields), true));
        }
        fields.extend(plans.iter().map(|plan| plan.field.clone()));
        let column = |plan: &Plan| Column::new(plan.field.data_type());
        Self {
            table,
            fields,
            names,
            action: Column::new(&DataType::Utf8),
            place: Place::new(),
            unset: Column::new(&names_type),
            old: old.into_iter().map(column).collect(),
            has_old: NullBufferBuilder::new(0),
            columns: plans.iter().map(column).collect(),
            plans,
            keys,
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.fields == other.fields && self.plans == other.plans && self.keys == other.keys
    }

    /// The columns of the table, and the names of those that were not sent; without cells none was.
    fn push(&mut self, cells: Option<Cells<'_>>, message: &[u8], scratch: &mut Scratch) -> Result<(), Refused> {
        let Self { names, plans, columns, unset, .. } = self;
        let mut cells = cells;
        let mut failed = Ok(());
        let pushed = unset.push_list(|items| {
            for (number, (name, (plan, column))) in names.iter().zip(plans.iter().zip(columns)).enumerate() {
                match cells.as_mut().map_or(Some(Cell::Unset), Iterator::next).unwrap_or(Cell::Unset) {
                    Cell::Value(format, bytes) => {
                        if let Err(invalid) = column.push(plan, format, bytes, scratch) {
                            failed = Err(Refused::value(invalid, number, bytes, message));
                            return Ok(());
                        }
                    }
                    Cell::Null => column.push_null(),
                    Cell::Unset => {
                        column.push_null();
                        items.push_bytes(name.as_bytes())?;
                    }
                }
            }
            Ok(())
        });
        failed.and(pushed.map_err(|invalid| Refused::Value { reason: invalid.0, column: usize::MAX, offset: 0 }))
    }

    fn push_old(&mut self, cells: Option<Cells<'_>>, message: &[u8], scratch: &mut Scratch) -> Result<(), Refused> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let Some(cells) = cells else {
            self.has_old.append_null();
            self.old.iter_mut().for_each(Column::push_null);
            return Ok(());
        };
        self.has_old.append_non_null();
        let mut wanted = self.keys.iter().zip(&mut self.old).peekable();
        for (number, (cell, plan)) in cells.zip(&self.plans).enumerate() {
            let Some((_, column)) = wanted.next_if(|(key, _)| **key == number) else { continue };
            match cell {
                Cell::Value(format, bytes) => column
                    .push(plan, format, bytes, scratch)
                    .map_err(|invalid| Refused::value(invalid, number, bytes, message))?,
                Cell::Null | Cell::Unset => column.push_null(),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Part, ArrowError> {
        let rows = self.action.len();
        let mut arrays = vec![self.action.finish()?];
        arrays.extend(self.place.finish()?);
        arrays.push(self.unset.finish()?);
        if !self.keys.is_empty() {
            let fields: Fields =
                self.keys.iter().filter_map(|&number| self.plans.get(number)).map(|plan| plan.field.clone()).collect();
            let old = self.old.into_iter().map(Column::finish).collect::<Result<_, _>>()?;
            arrays.push(Arc::new(StructArray::try_new(fields, old, { self.has_old }.finish())?));
        }
        for column in self.columns {
            arrays.push(column.finish()?);
        }
        record_batch(self.table, self.fields, arrays, rows)
    }
}

fn record_batch(table: String, fields: Vec<Field>, arrays: Vec<ArrayRef>, rows: usize) -> Result<Part, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
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

    fn new() -> Self {
        let [lsn, transactional, prefix, content] = Self::types().map(|(_, data_type)| Column::new(&data_type));
        Self { place: Place::new(), lsn, transactional, prefix, content }
    }

    fn finish(self) -> Result<Part, ArrowError> {
        let rows = self.lsn.len();
        let mut fields: Vec<Field> =
            Place::types().map(|(name, data_type)| Field::new(name, data_type, true)).into_iter().collect();
        fields.extend(Self::types().map(|(name, data_type)| Field::new(name, data_type, false)));
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
    tables: Vec<Rows>,
    /// Which of the tables each of the batch's shapes goes to.
    by_shape: Vec<Option<usize>>,
    /// Which of the tables the next row of a name goes to, if its shape is the same.
    current: HashMap<String, usize>,
    messages: Option<Messages>,
    scratch: Scratch,
}

impl<'a> Writer<'a> {
    /// The relation and the rows that are being filled for it.
    fn rows(&mut self, shape: Option<usize>, oid: u32, offset: usize) -> Result<(&'a Relation, usize), Refused> {
        let unknown = Refused::UnknownRelation { oid, offset };
        let number = shape.ok_or(unknown)?;
        let batch = self.batch;
        let relation = &batch.shapes().get(number).ok_or(unknown)?.relation;
        let known = self.by_shape.get(number).copied().flatten();
        if let Some(place) = known {
            return Ok((relation, place));
        }
        let rows = Rows::new(relation, self.catalog, self.text);
        let current = self.current.get(&rows.table).copied();
        let same = current.filter(|&place| self.tables.get(place).is_some_and(|table| table.is_like(&rows)));
        let place = same.unwrap_or_else(|| {
            // What came before of this table is complete: the same shape, coming again, begins a new part.
            for by_shape in &mut self.by_shape {
                if *by_shape == current {
                    *by_shape = None;
                }
            }
            self.current.insert(rows.table.clone(), self.tables.len());
            self.tables.push(rows);
            self.tables.len().saturating_sub(1)
        });
        if let Some(by_shape) = self.by_shape.get_mut(number) {
            *by_shape = Some(place);
        }
        Ok((relation, place))
    }

    fn change(&mut self, record: &Record) -> Result<(), Refused> {
        match self.batch.message(record)? {
            Message::Insert { relation_oid, new, .. } => self.row(record, "insert", relation_oid, Some(new), None),
            Message::Update { relation_oid, old, new, .. } => self.row(record, "update", relation_oid, Some(new), old),
            Message::Delete { relation_oid, old, .. } => self.row(record, "delete", relation_oid, None, Some(old)),
            Message::Truncate { relation_oids, .. } => {
                let batch = self.batch;
                for (number, (shape, oid)) in batch.truncated(record).iter().zip(relation_oids).enumerate() {
                    // Count and options come first: five bytes.
                    let offset = number.saturating_mul(4).saturating_add(5).saturating_add(record.fields_at());
                    let (_, place) = self.rows(*shape, oid, offset)?;
                    self.begin(record, "truncate", place)?;
                    let Some(rows) = self.tables.get_mut(place) else { continue };
                    rows.push(None, &[], &mut self.scratch)?;
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
                let messages = self.messages.get_or_insert_with(Messages::new);
                messages.place.push(self.batch, record, &mut self.scratch)?;
                messages.lsn.push_u64(lsn);
                messages.transactional.push_bool(transactional);
                messages.prefix.push_bytes(prefix).map_err(refused)?;
                messages.content.push_bytes(content).map_err(refused)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, record: &Record, action: &str, place: usize) -> Result<(), Refused> {
        let refused = |invalid: Invalid| Refused::Value { reason: invalid.0, column: usize::MAX, offset: 0 };
        let Some(rows) = self.tables.get_mut(place) else { return Ok(()) };
        rows.action.push_bytes(action.as_bytes()).map_err(refused)?;
        rows.place.push(self.batch, record, &mut self.scratch)
    }

    fn row(
        &mut self,
        record: &Record,
        action: &str,
        oid: u32,
        new: Option<Tuple<'_>>,
        old: Option<Old<'_>>,
    ) -> Result<(), Refused> {
        let message = self.batch.bytes(record);
        let (relation, place) = self.rows(record.shape, oid, record.fields_at())?;
        self.begin(record, action, place)?;
        let Some(rows) = self.tables.get_mut(place) else { return Ok(()) };
        let before = old.map(|old| old_cells(relation, old)).transpose()?;
        match new {
            Some(new) => {
                rows.push(Some(cells(relation, new, Role::New { old })?), message, &mut self.scratch)?;
                rows.push_old(before, message, &mut self.scratch)
            }
            None => {
                rows.push(before, message, &mut self.scratch)?;
                rows.push_old(None, message, &mut self.scratch)
            }
        }
    }
}
