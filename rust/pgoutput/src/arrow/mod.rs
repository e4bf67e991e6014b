//! Changes as Arrow record batches, straight from the wire: one for each table and shape.
//!
//! What the columns are is in the documentation of `Batch.to_arrow` (`_pgoutput.pyi`).
mod column;
mod place;
mod plan;
mod run;

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
use crate::row::{Cell, Cells, Failed, NOT_WHOLE, Refused, Role, cells, old_cells};
use crate::tuple::Tuple;
use crate::value::Invalid;
use column::Column;
use place::Place;
use plan::Plan;
use run::Run;

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

/// The name of a column of ours: with underscores in front until the table has none of that name.
fn own(name: &str, relation: &Relation) -> String {
    let mut name = name.to_owned();
    while relation.columns.iter().any(|column| column.name == name.as_bytes()) {
        name.insert(0, '_');
    }
    name
}

/// How many cells wait for their columns: they stay in the processor's second cache.
const MOST_CELLS: usize = 4096;

/// Rows of one table in one shape, being filled.
struct Rows<'a> {
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
    /// How many rows at the end have all their columns, which is not written into `unset` yet.
    complete: usize,
    old: Vec<Column>,
    has_old: NullBufferBuilder,
    /// How many rows at the end have no old key, which is not written into `old` yet.
    without_old: usize,
    columns: Vec<Column>,
    /// Row by row the cells that are not in `columns` yet: they go there column by column, each in a loop of its own.
    waiting: Vec<Cell<'a>>,
}

impl<'a> Rows<'a> {
    /// None so far, with room for so many.
    fn new(relation: &Relation, catalog: &Catalog, text: &BTreeSet<String>, room: usize, checked: bool) -> Self {
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
        let column = |plan: &Plan| Column::new(plan.field.data_type(), room, checked);
        Self {
            table,
            fields,
            names,
            action: Column::new(&DataType::Utf8, room, false),
            place: Place::new(room),
            unset: Column::new(&names_type, room, false),
            complete: 0,
            old: old.into_iter().map(column).collect(),
            has_old: NullBufferBuilder::new(room),
            without_old: 0,
            columns: plans.iter().map(column).collect(),
            waiting: Vec::new(),
            plans,
            keys,
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        self.fields == other.fields && self.plans == other.plans && self.keys == other.keys
    }

    /// The columns of the table, and the names of those that were not sent; without cells none was.
    #[inline]
    fn push(&mut self, cells: Option<Cells<'a>>, scratch: &mut Scratch) -> Result<(), Refused> {
        let width = self.plans.len();
        if self.waiting.len().saturating_add(width) > MOST_CELLS {
            self.flush(scratch)?;
        }
        let Some(cells) = cells else {
            self.waiting.resize(self.waiting.len().saturating_add(width), Cell::Unset);
            return self.push_unset(|_| true);
        };
        let again = cells.clone();
        let mut missing = false;
        let waiting = &mut self.waiting;
        waiting.reserve(width);
        let is_whole = cells.each(|_, cell| {
            missing |= matches!(cell, Cell::Unset);
            waiting.push(cell);
            Ok::<(), Refused>(())
        })?;
        if !is_whole {
            return Err(NOT_WHOLE);
        }
        if !missing {
            self.complete = self.complete.saturating_add(1);
            return Ok(());
        }
        let mut cells = again;
        self.push_unset(|_| cells.next() == Some(Cell::Unset))
    }

    /// Put the cells that wait into their columns.
    fn flush(&mut self, scratch: &mut Scratch) -> Result<(), Refused> {
        let width = self.plans.len();
        for (number, (plan, column)) in self.plans.iter().zip(&mut self.columns).enumerate() {
            let refused = |invalid: Invalid| Refused::Value { reason: invalid.0, column: number, offset: 0 };
            column.push_all(plan, Run::new(&self.waiting, number, width), scratch).map_err(refused)?;
        }
        self.waiting.clear();
        Ok(())
    }

    /// Likewise, but cell by cell, so that an error is the first that there is.
    fn push_checked(&mut self, cells: Option<Cells<'a>>, message: &[u8], scratch: &mut Scratch) -> Result<(), Refused> {
        let mut seen = cells.clone();
        for (number, (plan, column)) in self.plans.iter().zip(&mut self.columns).enumerate() {
            match seen.as_mut().and_then(Iterator::next) {
                Some(Cell::Value(format, bytes)) => column
                    .push(plan, format, bytes, scratch)
                    .map_err(|invalid| Refused::value(invalid, number, bytes, message))?,
                _ => column.push_null(),
            }
        }
        let mut cells = cells;
        self.push_unset(|_| cells.as_mut().map_or(Some(Cell::Unset), Iterator::next) == Some(Cell::Unset))
    }

    /// The names of the columns that a row does not have.
    fn push_unset(&mut self, mut is_unset: impl FnMut(usize) -> bool) -> Result<(), Refused> {
        self.flush_unset();
        let Self { names, unset, .. } = self;
        let pushed = unset.push_list(|items| {
            for (number, name) in names.iter().enumerate() {
                if is_unset(number) {
                    items.push_bytes(name.as_bytes())?;
                }
            }
            Ok(())
        });
        pushed.map_err(|invalid| Refused::Value { reason: invalid.0, column: usize::MAX, offset: 0 })
    }

    fn flush_unset(&mut self) {
        self.unset.push_empty_lists(std::mem::take(&mut self.complete));
    }

    #[inline]
    fn push_old(&mut self, cells: Option<Cells<'_>>, message: &[u8], scratch: &mut Scratch) -> Result<(), Refused> {
        let Some(cells) = cells else {
            self.without_old = self.without_old.saturating_add(1);
            return Ok(());
        };
        if self.keys.is_empty() {
            return Ok(());
        }
        self.flush_old();
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

    fn flush_old(&mut self) {
        let count = std::mem::take(&mut self.without_old);
        if count > 0 {
            self.has_old.append_n_nulls(count);
            self.old.iter_mut().for_each(|column| column.push_nulls(count));
        }
    }

    fn finish(mut self) -> Result<Part, ArrowError> {
        debug_assert!(self.waiting.is_empty(), "the cells that waited are in their columns");
        self.flush_unset();
        self.flush_old();
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

    fn new(checked: bool) -> Self {
        let [lsn, transactional, prefix, content] =
            Self::types().map(|(_, data_type)| Column::new(&data_type, 0, checked));
        Self { place: Place::new(0), lsn, transactional, prefix, content }
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
    /// Whether each string is looked at.
    checked: bool,
    /// How many messages there are of each of the batch's shapes.
    counts: Vec<usize>,
    tables: Vec<Rows<'a>>,
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
        let room = self.counts.get(number).copied().unwrap_or(0);
        let rows = Rows::new(relation, self.catalog, self.text, room, self.checked);
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
        let batch = self.batch;
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
        rows.action.push_ascii(action, []).map_err(refused)?;
        rows.place.push(self.batch, record)
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
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::write;
    use crate::batch::{Batch, Builder};
    use crate::catalog::Catalog;
    use crate::session::Session;

    const TYPES: [u32; 14] = [16, 17, 20, 21, 23, 25, 700, 701, 1009, 1082, 1184, 1700, 2950, 3802];

    fn batch(rows: &[Vec<(u8, Vec<u8>)>]) -> Batch {
        let mut relation = b"R\0\0\0\x01s\0t\0d\0\x0e".to_vec();
        for (number, oid) in TYPES.iter().enumerate() {
            relation.extend(format!("\x01c{number}\0").bytes());
            relation.extend(oid.to_be_bytes());
            relation.extend((12_i32 << 16 | 6).to_be_bytes());
        }
        let (mut session, mut builder) = (Session::default(), Builder::default());
        builder.push(&mut session, &relation, 0);
        for row in rows {
            let mut message = b"I\0\0\0\x01N\0\x0e".to_vec();
            for (kind, bytes) in row {
                message.push(*kind);
                if *kind == b'b' {
                    message.extend(u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
                    message.extend(bytes);
                }
            }
            builder.push(&mut session, &message, 0);
        }
        builder.finish()
    }

    /// What a server might send of a type, from any bytes: mostly of its size.
    fn plausible(oid: u32, mut bytes: Vec<u8>) -> Vec<u8> {
        let text = |bytes: Vec<u8>| bytes.into_iter().map(|byte| (byte % 96).saturating_add(32)).collect();
        match oid {
            16 => vec![bytes.first().copied().unwrap_or(0) % 2],
            25 => text(bytes),
            3802 => [vec![1], text(bytes)].concat(),
            1700 => [[0, 1, 0, 0, 0, 0, 0, 2, 0].as_slice(), bytes.get(..1).unwrap_or(&[3])].concat(),
            1009 => {
                let element = text(bytes);
                let size = u8::try_from(element.len()).unwrap_or(0);
                let head = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, size];
                [head.as_slice(), &element].concat()
            }
            _ => {
                let size = match oid {
                    21 => 2,
                    23 | 700 | 1082 => 4,
                    20 | 701 | 1184 => 8,
                    2950 => 16,
                    _ => bytes.len(),
                };
                bytes.resize(size, 7);
                bytes
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn column_by_column_is_cell_by_cell(
            rows in prop::collection::vec(
                prop::collection::vec(
                    (prop::sample::select(b"bbbbbbnu".to_vec()), prop::collection::vec(any::<u8>(), 0..20), 0..200),
                    TYPES.len(),
                ),
                0..6,
            )
        ) {
            let value = |((kind, bytes, luck), oid): ((u8, Vec<u8>, i32), u32)| {
                (kind, if luck == 0 { bytes } else { plausible(oid, bytes) })
            };
            let rows: Vec<Vec<_>> = rows.into_iter().map(|row| row.into_iter().zip(TYPES).map(value).collect()).collect();
            let (batch, catalog) = (batch(&rows), Catalog::default());
            let by_column = write(&batch, &catalog, &BTreeSet::new(), false);
            let by_cell = write(&batch, &catalog, &BTreeSet::new(), true);
            match (by_column, by_cell) {
                (Ok(one), Ok(other)) => {
                    prop_assert_eq!(one.len(), other.len());
                    for (one, other) in one.iter().zip(&other) {
                        prop_assert_eq!(&one.rows, &other.rows);
                    }
                }
                (one, other) => prop_assert_eq!(one.is_ok(), other.is_ok()),
            }
        }
    }
}
