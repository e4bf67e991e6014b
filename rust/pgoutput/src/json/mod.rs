//! Changes as lines of JSON, straight from the wire.
//!
//! Each value is written once, from the bytes that came into the bytes that go. What the lines look like is in the
//! documentation of `Batch.to_json` (`_pgoutput.pyi`).
pub mod debezium;
mod text;
mod value;

use crate::batch::{Batch, Position, Record};
use crate::catalog::Catalog;
use crate::message::{Message, Old};
use crate::oid::Kind;
use crate::relation::Relation;
use crate::row::{Cell, Cells, Failed, Refused, Role, cells, old_cells};
use crate::session::{Shape, Transaction};
use crate::tuple::Tuple;
use crate::value::Invalid;

pub use value::{Scratch, write as write_value};

/// What is around the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Envelope<'a> {
    /// The fields of the events, one object for each change.
    #[default]
    Plain,
    /// Debezium's.
    Debezium(&'a debezium::Options),
}

/// Write all changes of a batch, a line each.
///
/// # Errors
/// The first change that cannot be written.
pub fn lines(batch: &Batch, catalog: &Catalog, envelope: Envelope<'_>) -> Result<Vec<u8>, Failed> {
    if let Envelope::Debezium(options) = envelope {
        return debezium::lines(batch, catalog, options);
    }
    let mut writer = Writer::new(batch, catalog);
    for (record, change) in batch.records().iter().enumerate().filter(|(_, record)| record.is_change()) {
        writer.change(change).map_err(|refused| Failed { record, refused })?;
    }
    Ok(writer.out)
}

/// The columns of one relation, prepared: rows as objects.
#[derive(Debug)]
pub struct Columns {
    /// `"name":` and what its bytes are.
    columns: Vec<(Vec<u8>, Kind)>,
}

impl Columns {
    /// Prepare those of a relation.
    pub fn new(relation: &Relation, catalog: &Catalog) -> Self {
        let column = |column: &crate::relation::Column| {
            let mut name = Vec::new();
            text::string(&mut name, &column.name);
            name.push(b':');
            (name, catalog.kind(column.type_oid))
        };
        Self { columns: relation.columns.iter().map(column).collect() }
    }

    /// Write a row; columns that were not sent are left out.
    ///
    /// # Errors
    /// When a column's bytes are not a value of its type.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        cells: Cells<'_>,
        message: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), Refused> {
        out.push(b'{');
        let mut separate = false;
        for (number, (cell, (name, kind))) in cells.zip(&self.columns).enumerate() {
            if cell == Cell::Unset {
                continue;
            }
            if std::mem::replace(&mut separate, true) {
                out.push(b',');
            }
            out.extend_from_slice(name);
            match cell {
                Cell::Value(format, bytes) => write_value(out, *kind, format, bytes, scratch)
                    .map_err(|invalid| Refused::value(invalid, number, bytes, message))?,
                Cell::Null | Cell::Unset => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// What is prepared for one relation.
struct Plan<'a> {
    shape: &'a Shape,
    /// `"schema":"public","table":"orders"`
    table: Vec<u8>,
    columns: Columns,
}

struct Writer<'a> {
    batch: &'a Batch,
    plans: Vec<Plan<'a>>,
    out: Vec<u8>,
    scratch: Scratch,
    /// The transaction that was written last, and its `commit_time` field.
    transaction: Option<(Transaction, Vec<u8>)>,
}

fn lsn_text(out: &mut Vec<u8>, lsn: u64) {
    text::upper_hexadecimal(out, lsn >> 32, 1);
    out.push(b'/');
    text::upper_hexadecimal(out, lsn & 0xffff_ffff, 1);
}

/// A position as text, which compares as positions do.
pub(crate) fn position_text(out: &mut Vec<u8>, (commit_lsn, index): Position) {
    text::upper_hexadecimal(out, commit_lsn, 16);
    out.push(b'.');
    // From 0 for rows of an initial copy, whose index is -1.
    text::upper_hexadecimal(out, u64::try_from(index.saturating_add(1)).unwrap_or(0), 8);
}

fn number(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn flag(out: &mut Vec<u8>, name: &[u8], value: bool) {
    out.extend_from_slice(name);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn instant_refused(invalid: Invalid) -> Refused {
    Refused::Value { reason: invalid.0, column: usize::MAX, offset: 0 }
}

impl<'a> Writer<'a> {
    fn new(batch: &'a Batch, catalog: &Catalog) -> Self {
        let plan = |shape: &'a std::sync::Arc<Shape>| {
            let mut table = b"\"schema\":".to_vec();
            text::string(&mut table, &shape.relation.schema);
            table.extend_from_slice(b",\"table\":");
            text::string(&mut table, &shape.relation.name);
            Plan { shape, table, columns: Columns::new(&shape.relation, catalog) }
        };
        let out = Vec::with_capacity(batch.nbytes().saturating_mul(2));
        let plans = batch.shapes().iter().map(plan).collect();
        Self { batch, plans, out, scratch: Scratch::default(), transaction: None }
    }

    fn change(&mut self, record: &Record) -> Result<(), Refused> {
        match self.batch.message(record)? {
            Message::Insert { relation_oid, new, .. } => self.row(record, b"insert", relation_oid, Some(new), None)?,
            Message::Update { relation_oid, old, new, .. } => {
                self.row(record, b"update", relation_oid, Some(new), old)?;
            }
            Message::Delete { relation_oid, old, .. } => self.row(record, b"delete", relation_oid, None, Some(old))?,
            Message::Truncate { cascade, restart_identity, relation_oids, .. } => {
                self.out.extend_from_slice(b"{\"action\":\"truncate\",\"relations\":[");
                for (number, (plan, oid)) in self.batch.truncated(record).iter().zip(relation_oids).enumerate() {
                    // Count and options come first: five bytes.
                    let offset = number.saturating_mul(4).saturating_add(5).saturating_add(record.fields_at());
                    let plan = plan.and_then(|number| self.plans.get(number));
                    let plan = plan.ok_or(Refused::UnknownRelation { oid, offset })?;
                    self.out.extend_from_slice(if number > 0 { b",{" } else { b"{" });
                    self.out.extend_from_slice(&plan.table);
                    self.out.push(b'}');
                }
                self.out.push(b']');
                flag(&mut self.out, b",\"cascade\":", cascade);
                flag(&mut self.out, b",\"restart_identity\":", restart_identity);
                self.place(record)?;
                self.lsn(record.lsn);
            }
            Message::Message { transactional, lsn, prefix, content, .. } => {
                flag(&mut self.out, b"{\"action\":\"message\",\"transactional\":", transactional);
                self.place(record)?;
                self.lsn(lsn);
                self.out.extend_from_slice(b",\"prefix\":");
                text::string(&mut self.out, prefix);
                self.out.extend_from_slice(b",\"content\":");
                text::bytea(&mut self.out, content);
            }
            _ => {}
        }
        self.out.extend_from_slice(b"}\n");
        Ok(())
    }

    fn row(
        &mut self,
        record: &Record,
        action: &[u8],
        oid: u32,
        new: Option<Tuple<'_>>,
        old: Option<Old<'_>>,
    ) -> Result<(), Refused> {
        let bytes = self.batch.bytes(record);
        self.out.extend_from_slice(b"{\"action\":\"");
        self.out.extend_from_slice(action);
        self.out.extend_from_slice(b"\",");
        let number = record.shape.ok_or(Refused::UnknownRelation { oid, offset: record.fields_at() })?;
        if let Some(plan) = self.plans.get(number) {
            self.out.extend_from_slice(&plan.table);
        }
        self.place(record)?;
        self.lsn(record.lsn);
        let Some(plan) = self.plans.get(number) else { return Ok(()) };
        if let Some(new) = new {
            self.out.extend_from_slice(b",\"new\":");
            let cells = cells(&plan.shape.relation, new, Role::New { old })?;
            plan.columns.write(&mut self.out, cells, bytes, &mut self.scratch)?;
        }
        if let Some(old) = old {
            self.out.extend_from_slice(b",\"old\":");
            let cells = old_cells(&plan.shape.relation, old)?;
            plan.columns.write(&mut self.out, cells, bytes, &mut self.scratch)?;
        }
        Ok(())
    }

    /// `position`, `commit_lsn`, `index`, `commit_time`, where they are known.
    fn place(&mut self, record: &Record) -> Result<(), Refused> {
        let (Some(transaction), Some(index)) = (self.batch.transaction(record), record.index) else { return Ok(()) };
        if self.transaction.as_ref().is_none_or(|(known, ..)| *known != transaction) {
            let mut time = Vec::new();
            if let Some(microseconds) = transaction.commit_time {
                time.extend_from_slice(b",\"commit_time\":");
                value::write_instant(&mut time, microseconds, &mut self.scratch).map_err(instant_refused)?;
            }
            self.transaction = Some((transaction, time));
        }
        let Some((_, time)) = &self.transaction else { return Ok(()) };
        let out = &mut self.out;
        out.extend_from_slice(b",\"position\":\"");
        position_text(out, (transaction.commit_lsn, index));
        out.extend_from_slice(b"\",\"commit_lsn\":\"");
        lsn_text(out, transaction.commit_lsn);
        out.extend_from_slice(b"\",\"index\":");
        number(out, index);
        out.extend_from_slice(time);
        Ok(())
    }

    fn lsn(&mut self, lsn: u64) {
        if lsn != 0 {
            self.out.extend_from_slice(b",\"lsn\":\"");
            lsn_text(&mut self.out, lsn);
            self.out.push(b'"');
        }
    }
}
