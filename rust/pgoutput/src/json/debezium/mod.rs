//! Changes in the envelope that Debezium's connector for PostgreSQL gives them (schemas off), straight from the wire.
//!
//! What does not change from row to row is written once for each relation and once for each transaction. What the lines look
//! like, and where they say more than Debezium does, is in the documentation of `DebeziumEnvelope` (`_pgoutput.pyi`).
//!
//! Source: Debezium's documentation of its connector for PostgreSQL, "Data change events".
mod base64;
mod decimal;
mod form;
mod moment;

use std::collections::HashMap;

use super::{Scratch, number, text};
use crate::batch::{Batch, Record};
use crate::catalog::Catalog;
use crate::copy::SNAPSHOT_INDEX;
use crate::message::{Message, Old};
use crate::row::{Cell, Cells, Failed, Refused, Role, cells, old_cells};
use crate::session::{Shape, Transaction};
use crate::tuple::Tuple;

use base64::base64;
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
    /// When the lines are made, in nanoseconds since 1970; None for the time of the commit.
    pub now: Option<i64>,
}

/// Write all changes of a batch.
///
/// # Errors
/// The first change that cannot be written.
pub fn lines(batch: &Batch, catalog: &Catalog, options: &Options) -> Result<Vec<u8>, Failed> {
    let mut writer = Writer::new(batch, catalog, options);
    for (record, change) in batch.records().iter().enumerate().filter(|(_, record)| record.is_change()) {
        writer.change(change).map_err(|refused| Failed { record, refused })?;
    }
    Ok(writer.out)
}

/// What is prepared for one column that is written.
struct Column {
    /// `"name":`
    name: Vec<u8>,
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
}

impl<'a> Plan<'a> {
    fn new(shape: &'a Shape, catalog: &Catalog, options: &Options) -> Self {
        let relation = &shape.relation;
        let mut table = b"\"schema\":".to_vec();
        text::string(&mut table, &relation.schema);
        table.extend_from_slice(b",\"table\":");
        text::string(&mut table, &relation.name);
        let qualified = [relation.schema.as_slice(), &relation.name].join(b".".as_slice());
        let key = options.keys.get(&qualified).or_else(|| options.keys.get(&relation.name));
        let columns = relation.columns.iter().map(|column| {
            let mut name = Vec::new();
            text::string(&mut name, &column.name);
            name.push(b':');
            // Under REPLICA IDENTITY FULL every column is marked.
            let marked = column.is_key && !relation.is_full();
            Column {
                name,
                form: Form::of(column.type_oid, column.type_modifier, catalog, options),
                is_key: key.map_or(marked, |key| key.contains(&column.name)),
            }
        });
        Self { shape, table, columns: columns.collect() }
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
        out.push(b'{');
        let mut separate = false;
        for (number, (cell, column)) in cells.zip(&self.columns).enumerate() {
            let Some(form) = &column.form else { continue };
            if std::mem::replace(&mut separate, true) {
                out.push(b',');
            }
            out.extend_from_slice(&column.name);
            match cell {
                Cell::Value(format, bytes) => form
                    .write(out, format, bytes, scratch)
                    .map_err(|invalid| Refused::value(invalid, number, bytes, message))?,
                Cell::Unset if is_new => form.write_unavailable(out),
                Cell::Null | Cell::Unset => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// What is prepared for one transaction: the source around the change's LSN and table, and the end of the line.
#[derive(Default)]
struct Around {
    of: Option<(Option<Transaction>, bool)>,
    /// From `"source":{` to the first LSN of `sequence`.
    to_sequence: Vec<u8>,
    /// From after the second LSN of `sequence` to the schema.
    to_schema: Vec<u8>,
    /// From after the table to the LSN.
    to_lsn: Vec<u8>,
    /// From after the operation to the end of a row's line.
    end: Vec<u8>,
    /// `"ts_ms":…` of a logical message.
    ts_ms: Vec<u8>,
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

/// `"ts_ms":…,"ts_us":…,"ts_ns":…`
struct Instant {
    nanoseconds: i128,
}

impl Instant {
    fn of_commit(microseconds: i64) -> Self {
        let microseconds = i128::from(microseconds).saturating_add(i128::from(moment::EPOCH_MICROSECONDS));
        Self { nanoseconds: microseconds.saturating_mul(1000) }
    }

    fn field(&self, out: &mut Vec<u8>, name: &[u8], unit: i128) {
        out.extend_from_slice(name);
        out.extend_from_slice(itoa::Buffer::new().format(self.nanoseconds.div_euclid(unit)).as_bytes());
    }

    fn milliseconds(&self, out: &mut Vec<u8>) {
        self.field(out, b"\"ts_ms\":", 1_000_000);
    }

    fn others(&self, out: &mut Vec<u8>) {
        self.field(out, b",\"ts_us\":", 1000);
        self.field(out, b",\"ts_ns\":", 1);
    }
}

fn lsn_or_null(out: &mut Vec<u8>, lsn: u64) {
    match lsn {
        0 => out.extend_from_slice(b"null"),
        lsn => out.extend_from_slice(itoa::Buffer::new().format(lsn).as_bytes()),
    }
}

fn plan(record: &Record, oid: u32) -> Result<usize, Refused> {
    record.shape.ok_or(Refused::UnknownRelation { oid, offset: record.fields_at() })
}

impl<'a> Writer<'a> {
    fn new(batch: &'a Batch, catalog: &Catalog, options: &'a Options) -> Self {
        let plans: Vec<_> = batch.shapes().iter().map(|shape| Plan::new(shape, catalog, options)).collect();
        // What is around the rows and the columns' names; more is reserved as it is needed.
        let out = Vec::with_capacity(batch.nbytes().saturating_mul(2));
        let (scratch, around) = Default::default();
        Self { batch, options, plans, out, scratch, around, commit_time: None }
    }

    fn change(&mut self, record: &Record) -> Result<(), Refused> {
        match self.batch.message(record)? {
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
        let transaction = self.batch.transaction(record);
        let is_copied = record.index == Some(SNAPSHOT_INDEX);
        self.prepare(transaction, is_copied);
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
        let lsn = match transaction {
            Some(transaction) if is_copied => transaction.commit_lsn,
            _ => record.lsn,
        };
        out.push(b',');
        around.source(out, lsn, &plan.table);
        out.extend_from_slice(b",\"transaction\":null,\"op\":\"");
        out.push(op);
        out.extend_from_slice(&around.end);
        Ok(())
    }

    fn message(&mut self, record: &Record, transactional: bool, lsn: u64, prefix: &[u8], content: &[u8]) {
        if transactional {
            self.prepare(self.batch.transaction(record), false);
        } else {
            self.prepare_outside(lsn);
        }
        let (out, around) = (&mut self.out, &self.around);
        out.extend_from_slice(b"{\"op\":\"m\",");
        out.extend_from_slice(&around.ts_ms);
        out.push(b',');
        around.source(out, lsn, b"\"schema\":\"\",\"table\":\"\"");
        out.extend_from_slice(b",\"transaction\":null,\"message\":{\"prefix\":");
        text::string(out, prefix);
        out.extend_from_slice(b",\"content\":");
        base64(out, content);
        out.extend_from_slice(b"}}\n");
    }

    /// Prepare what is around the rows of a transaction.
    fn prepare(&mut self, transaction: Option<Transaction>, is_copied: bool) {
        if self.around.of == Some((transaction, is_copied)) {
            return;
        }
        let commit_time = transaction.and_then(|transaction| transaction.commit_time);
        self.commit_time = commit_time.or(self.commit_time);
        let previous = transaction.and_then(|transaction| transaction.previous_end_lsn);
        let xid = transaction.and_then(|transaction| transaction.xid);
        self.around = Around::new(self.options, commit_time, previous, xid, is_copied);
        self.around.of = Some((transaction, is_copied));
    }

    /// For a message outside of transactions: after it nothing is open that was not before, so it counts as a commit.
    fn prepare_outside(&mut self, lsn: u64) {
        self.around = Around::new(self.options, self.commit_time, Some(lsn), None, false);
    }
}

impl Around {
    fn new(
        options: &Options,
        commit_time: Option<i64>,
        previous_end_lsn: Option<u64>,
        xid: Option<u32>,
        is_copied: bool,
    ) -> Self {
        let now = options.now.map(|nanoseconds| Instant { nanoseconds: nanoseconds.into() });
        let committed = commit_time.map(Instant::of_commit);
        let unknown = Instant { nanoseconds: 0 };
        let at = committed.as_ref().or(now.as_ref()).unwrap_or(&unknown);
        let now = now.as_ref().unwrap_or(at);
        let mut around = Self::default();
        let out = &mut around.to_sequence;
        out.extend_from_slice(b"\"source\":{\"version\":");
        text::string(out, options.version.as_bytes());
        out.extend_from_slice(b",\"connector\":\"postgresql\",\"name\":");
        text::string(out, options.name.as_bytes());
        out.push(b',');
        at.milliseconds(out);
        out.extend_from_slice(if is_copied { b",\"snapshot\":\"true\"" } else { b",\"snapshot\":\"false\"" });
        out.extend_from_slice(b",\"db\":");
        text::string(out, options.db.as_bytes());
        out.extend_from_slice(b",\"sequence\":\"[");
        match previous_end_lsn {
            None => out.extend_from_slice(b"null,"),
            Some(lsn) => {
                out.extend_from_slice(b"\\\"");
                out.extend_from_slice(itoa::Buffer::new().format(lsn).as_bytes());
                out.extend_from_slice(b"\\\",");
            }
        }
        let out = &mut around.to_schema;
        out.extend_from_slice(b"]\"");
        at.others(out);
        out.push(b',');
        let out = &mut around.to_lsn;
        out.extend_from_slice(b",\"txId\":");
        match xid {
            Some(xid) => number(out, xid.into()),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"lsn\":");
        let out = &mut around.end;
        out.extend_from_slice(b"\",");
        now.milliseconds(out);
        now.others(out);
        out.extend_from_slice(b"}\n");
        now.milliseconds(&mut around.ts_ms);
        around
    }

    fn source(&self, out: &mut Vec<u8>, lsn: u64, table: &[u8]) {
        out.extend_from_slice(&self.to_sequence);
        if lsn == 0 {
            out.extend_from_slice(b"null");
        } else {
            out.extend_from_slice(b"\\\"");
            lsn_or_null(out, lsn);
            out.extend_from_slice(b"\\\"");
        }
        out.extend_from_slice(&self.to_schema);
        out.extend_from_slice(table);
        out.extend_from_slice(&self.to_lsn);
        lsn_or_null(out, lsn);
        out.extend_from_slice(b",\"xmin\":null,\"origin\":null,\"origin_lsn\":null}");
    }
}
