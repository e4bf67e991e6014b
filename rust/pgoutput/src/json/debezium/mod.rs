//! Changes in the envelope that Debezium's connector for PostgreSQL gives them (schemas off), straight from the wire.
//!
//! What does not change from row to row is written once for each relation and once for each transaction. What the lines look
//! like, and where they say more than Debezium does, is in the documentation of `DebeziumEnvelope` (`_pgoutput.pyi`).
//!
//! Source: Debezium's documentation of its connector for PostgreSQL, "Data change events".
mod around;
mod base64;
mod decimal;
mod form;
mod moment;
mod rare;

use std::collections::HashMap;

use super::name::Name;
use super::{Scratch, emptied, text};
use crate::batch::{Batch, Record};
use crate::catalog::Catalog;
use crate::copy::SNAPSHOT_INDEX;
use crate::message::{Message, NewRow, Old};
use crate::relation;
use crate::row::{Cell, Cells, Failed, NOT_WHOLE, Refused, Role, cells, old_cells};
use crate::session::Shape;
use crate::tuple::Tuple;

use around::{Around, Of};
use base64::base64;
pub(super) use form::Form as KeyForm;
use form::Form;

/// `decimal.handling.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decimals {
    /// `precise`: whole numbers in Base64.
    #[default]
    Precise,
    /// `string`: as PostgreSQL prints them.
    Text,
}

/// `time.precision.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// `adaptive`: numbers whose unit is that of the column.
    #[default]
    Adaptive,
    /// `isostring`: text.
    IsoText,
}

/// What the bytes do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `source.version`.
    pub version: String,
    /// `source.name`: the prefix of the topics.
    pub name: String,
    /// `source.db`.
    pub db: String,
    /// How `numeric` and `money` are written.
    pub decimals: Decimals,
    /// How dates and times without a zone are written.
    pub times: Times,
    /// Whether columns of types that Debezium does not know are written.
    pub unknown: bool,
    /// The primary keys of tables where the replica identity is another, by `schema.table` or `table`.
    pub keys: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    /// The numbers of the key's columns in each relation of the batch, where somebody has found them out: then `keys` and the
    /// replica identity do not count.
    pub key_columns: Option<Vec<Option<Vec<usize>>>>,
    /// When the lines are made, in nanoseconds since 1970; None for the time of the commit.
    pub now: Option<i64>,
}

/// Write all changes of a batch, in the memory of a buffer.
///
/// # Errors
/// The first change that cannot be written.
pub(super) fn lines(
    buffer: Vec<u8>,
    batch: &Batch,
    catalog: &Catalog,
    options: &Options,
    is_utf8_later: bool,
) -> Result<Vec<u8>, Failed> {
    let mut writer = Writer::new(buffer, batch, catalog, options);
    writer.scratch.is_utf8_later = is_utf8_later;
    for (record, change) in batch.records().iter().enumerate().filter(|(_, record)| record.is_change()) {
        writer.change(change).map_err(|refused| Failed { record, refused })?;
    }
    Ok(writer.out)
}

/// What is prepared for one column that is written.
struct Column {
    name: Name,
    /// None when it is left out.
    form: Option<Form>,
    /// Whether it is part of the key by which a changed row is another row.
    is_key: bool,
}

/// What is prepared for one relation.
struct Plan<'a> {
    shape: &'a Shape,
    /// `"schema":"public","table":"orders"`
    table: Vec<u8>,
    columns: Vec<Column>,
    /// How many bytes the above are in a line.
    fixed: usize,
}

/// About so many bytes are around a row, its table and its columns' names.
const AROUND: usize = 450;

impl<'a> Plan<'a> {
    fn new(number: usize, shape: &'a Shape, catalog: &Catalog, options: &Options) -> Self {
        let relation = &shape.relation;
        let mut table = b"\"schema\":".to_vec();
        text::string(&mut table, &relation.schema);
        table.extend_from_slice(b",\"table\":");
        text::string(&mut table, &relation.name);
        let qualified = [relation.schema.as_slice(), &relation.name].join(b".".as_slice());
        let key = options.keys.get(&qualified).or_else(|| options.keys.get(&relation.name));
        let columns = options.key_columns.as_ref().map(|all| all.get(number).and_then(Option::as_ref));
        let column = |(number, column): (usize, &relation::Column)| {
            // Under REPLICA IDENTITY FULL every column is marked.
            let marked = column.is_key && !relation.is_full();
            Column {
                name: Name::of(&column.name),
                form: Form::of(column.type_oid, column.type_modifier, catalog, options),
                is_key: match columns {
                    Some(columns) => columns.is_some_and(|columns| columns.contains(&number)),
                    None => key.map_or(marked, |key| key.contains(&column.name)),
                },
            }
        };
        let columns: Vec<Column> = relation.columns.iter().enumerate().map(column).collect();
        let names: usize = columns.iter().map(|column| column.name.len()).sum();
        let fixed = names.saturating_add(table.len());
        Self { shape, table, columns, fixed }
    }

    /// Whether an update made another row of it, which Debezium tells as a delete and an insert.
    fn is_another(&self, old: Old<'_>, new: Tuple<'_>) -> bool {
        let (Old::Key(old) | Old::Row(old)) = old;
        let changed = |((column, old), new)| {
            let column: &Column = column;
            column.is_key && new != crate::tuple::Datum::Unchanged && old != new
        };
        self.columns.iter().zip(old.columns()).zip(new.columns()).any(changed)
    }

    fn row(
        &self,
        out: &mut Vec<u8>,
        cells: Cells<'_>,
        is_new: bool,
        message: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        let start = out.len();
        let mut columns = self.columns.iter();
        let is_whole = cells.each(|number, cell| {
            let Some(column) = columns.next() else { return Ok(()) };
            let Some(form) = &column.form else { return Ok(()) };
            column.name.write(out);
            match cell {
                Cell::Value(format, bytes) => form
                    .write(out, format, bytes, scratch)
                    .map_err(|invalid| Refused::value(invalid, number, bytes, message))?,
                Cell::Unset if is_new => form.write_unavailable(out),
                Cell::Null | Cell::Unset => out.extend_from_slice(b"null"),
            }
            Ok::<(), Refused>(())
        })?;
        if !is_whole {
            return Err(NOT_WHOLE);
        }
        // The first comma is the brace.
        match out.get_mut(start) {
            Some(first) => *first = b'{',
            None => out.push(b'{'),
        }
        out.push(b'}');
        Ok(())
    }
}

struct Writer<'a> {
    batch: &'a Batch,
    options: &'a Options,
    plans: Vec<Plan<'a>>,
    out: Vec<u8>,
    scratch: Scratch,
    around: Around,
    /// When the transaction before committed, for what stands outside of transactions.
    commit_time: Option<i64>,
}

fn plan(record: &Record, oid: u32) -> Result<usize, Refused> {
    record.shape.ok_or(Refused::UnknownRelation { oid, offset: record.fields_at() })
}

impl<'a> Writer<'a> {
    fn new(buffer: Vec<u8>, batch: &'a Batch, catalog: &Catalog, options: &'a Options) -> Self {
        let plan = |(number, shape)| Plan::new(number, shape, catalog, options);
        let plans: Vec<_> = batch.shapes().iter().map(AsRef::as_ref).enumerate().map(plan).collect();
        // Most of a line is what is around its values.
        let fixed = |record: &Record| {
            let plan = record.shape.and_then(|number| plans.get(number));
            plan.map_or(0, |plan| plan.fixed).saturating_add(AROUND)
        };
        let fixed: usize = batch.records().iter().filter(|record| record.is_change()).map(fixed).sum();
        let out = emptied(buffer, batch.nbytes().saturating_add(fixed));
        let (scratch, around) = Default::default();
        Self { batch, options, plans, out, scratch, around, commit_time: None }
    }

    /// One change. It is read while it is written; where that fails it is read again with all checks, to say what is wrong.
    fn change(&mut self, record: &Record) -> Result<(), Refused> {
        let start = self.out.len();
        let written = match self.batch.new_row_ahead(record) {
            Some(row) => self.new_row(record, row),
            None => match self.batch.message_ahead(record) {
                Ok(message) => self.write(record, message),
                Err(error) => Err(error.into()),
            },
        };
        if written.is_err() {
            self.out.truncate(start);
            let message = self.batch.message(record)?;
            return self.write(record, message);
        }
        Ok(())
    }

    /// Most rows: nothing of the old one beside them.
    fn new_row(&mut self, record: &Record, NewRow { is_insert, relation_oid, new }: NewRow<'_>) -> Result<(), Refused> {
        let plan = plan(record, relation_oid)?;
        let after = cells(&self.shape(plan)?.relation, new, Role::New { old: None })?;
        let op = match is_insert {
            true if record.index == Some(SNAPSHOT_INDEX) => b'r',
            true => b'c',
            false => b'u',
        };
        self.row(record, plan, op, None, Some(after))
    }

    fn write(&mut self, record: &Record, message: Message<'_>) -> Result<(), Refused> {
        match message {
            Message::Insert { relation_oid, new, .. } => {
                let plan = plan(record, relation_oid)?;
                let after = cells(&self.shape(plan)?.relation, new, Role::New { old: None })?;
                let op = if record.index == Some(SNAPSHOT_INDEX) { b'r' } else { b'c' };
                self.row(record, plan, op, None, Some(after))
            }
            Message::Update { relation_oid, old, new, .. } => {
                let plan = plan(record, relation_oid)?;
                let relation = &self.shape(plan)?.relation;
                let after = cells(relation, new, Role::New { old })?;
                let before = old.map(|old| old_cells(relation, old)).transpose()?;
                match old {
                    Some(old) if self.plans.get(plan).is_some_and(|plan| plan.is_another(old, new)) => {
                        self.row(record, plan, b'd', before, None)?;
                        self.row(record, plan, b'c', None, Some(after))
                    }
                    _ => self.row(record, plan, b'u', before, Some(after)),
                }
            }
            Message::Delete { relation_oid, old, .. } => {
                let plan = plan(record, relation_oid)?;
                let before = old_cells(&self.shape(plan)?.relation, old)?;
                self.row(record, plan, b'd', Some(before), None)
            }
            Message::Truncate { relation_oids, .. } => {
                for (number, (plan, oid)) in self.batch.truncated(record).iter().zip(relation_oids).enumerate() {
                    // Count and options come first: five bytes.
                    let offset = number.saturating_mul(4).saturating_add(5).saturating_add(record.fields_at());
                    let plan = plan.ok_or(Refused::UnknownRelation { oid, offset })?;
                    self.row(record, plan, b't', None, None)?;
                }
                Ok(())
            }
            Message::Message { transactional, lsn, prefix, content, .. } => {
                self.message(record, transactional, lsn, prefix, content);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn shape(&self, plan: usize) -> Result<&'a Shape, Refused> {
        let shape = self.plans.get(plan).map(|plan| plan.shape);
        shape.ok_or(Refused::UnknownRelation { oid: 0, offset: 1 })
    }

    fn row(
        &mut self,
        record: &Record,
        plan: usize,
        op: u8,
        before: Option<Cells<'_>>,
        after: Option<Cells<'_>>,
    ) -> Result<(), Refused> {
        self.prepare(record);
        let Some(plan) = self.plans.get(plan) else { return Ok(()) };
        let (out, scratch, around) = (&mut self.out, &mut self.scratch, &self.around);
        let bytes = self.batch.bytes(record);
        for (name, cells, is_new) in [(b"{\"before\":".as_slice(), before, false), (b",\"after\":", after, true)] {
            out.extend_from_slice(name);
            match cells {
                Some(cells) => plan.row(out, cells, is_new, bytes, scratch)?,
                None => out.extend_from_slice(b"null"),
            }
        }
        let copied = Some(record).filter(|record| record.index == Some(SNAPSHOT_INDEX));
        let copied_by = copied.and_then(|record| self.batch.transaction(record));
        let lsn = copied_by.map_or(record.lsn, |transaction| transaction.commit_lsn);
        out.push(b',');
        around.source(out, lsn, &plan.table);
        out.extend_from_slice(b",\"op\":\"");
        out.push(op);
        out.extend_from_slice(&around.end);
        Ok(())
    }

    fn message(&mut self, record: &Record, transactional: bool, lsn: u64, prefix: &[u8], content: &[u8]) {
        if transactional {
            self.prepare(record);
        } else {
            self.around = Around::outside(self.commit_time, lsn, self.options);
        }
        let (out, around) = (&mut self.out, &self.around);
        out.extend_from_slice(b"{\"op\":\"m\",");
        out.extend_from_slice(&around.ts_ms);
        out.push(b',');
        around.source(out, lsn, b"\"schema\":\"\",\"table\":\"\"");
        out.extend_from_slice(b",\"message\":{\"prefix\":");
        text::string(out, prefix);
        out.extend_from_slice(b",\"content\":");
        base64(out, content);
        out.extend_from_slice(b"}}\n");
    }

    /// Prepare what is around the rows of a transaction.
    fn prepare(&mut self, record: &Record) {
        let of = Of { transaction: record.transaction, is_copied: record.index == Some(SNAPSHOT_INDEX) };
        if self.around.of == Some(of) {
            return;
        }
        let transaction = self.batch.transaction(record);
        self.commit_time = transaction.and_then(|transaction| transaction.commit_time).or(self.commit_time);
        self.around = Around::of(of, transaction, self.batch.origin(record).map(AsRef::as_ref), self.options);
    }
}
