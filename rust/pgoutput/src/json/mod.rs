//! Changes as lines of JSON, straight from the wire.
//!
//! Each value is written once, from the bytes that came into the bytes that go. What the lines look like is in the
//! documentation of `Batch.to_json` (`_pgoutput.pyi`).
//!
//! Over 400 lines, because a line's parts are written in the order in which they stand.
pub mod debezium;
pub mod fields;
mod name;
mod plain;
pub mod records;
pub mod rows;
mod text;
mod value;

use crate::batch::{Batch, Position, Record};
use crate::catalog::Catalog;
use crate::message::{Message, NewRow, Old};
use crate::oid::Kind;
use crate::relation::Relation;
use crate::row::{Cell, Cells, Failed, NOT_WHOLE, Refused, Role, cells, old_cells};
use crate::session::{Shape, Transaction};
use crate::tuple::Tuple;
use crate::value::digits::integer;
use crate::value::{Format, Invalid};
use crate::versions::{Span, Versions};

use name::Name;
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
    lines_in(Vec::new(), batch, catalog, envelope)
}

/// Likewise, in the memory of a buffer that the caller has from before: what was in it is gone. To fetch memory for large
/// batches from the system each time costs more than to write the lines.
///
/// # Errors
/// The first change that cannot be written.
pub fn lines_in(buffer: Vec<u8>, batch: &Batch, catalog: &Catalog, envelope: Envelope<'_>) -> Result<Vec<u8>, Failed> {
    let write = |buffer, is_utf8_later| match envelope {
        Envelope::Plain => plain_lines(buffer, batch, catalog, is_utf8_later),
        Envelope::Debezium(options) => debezium::lines(buffer, batch, catalog, options, is_utf8_later),
    };
    // All strings are looked at together. Where one is not UTF-8, each is looked at the second time: what is not becomes
    // surrogates.
    match write(buffer, true) {
        Ok(lines) if simdutf8::basic::from_utf8(&lines).is_err() => write(lines, false),
        written => written,
    }
}

fn plain_lines(buffer: Vec<u8>, batch: &Batch, catalog: &Catalog, is_utf8_later: bool) -> Result<Vec<u8>, Failed> {
    let mut writer = Writer::new(buffer, batch, catalog);
    writer.scratch.is_utf8_later = is_utf8_later;
    for (record, change) in batch.records().iter().enumerate().filter(|(_, record)| record.is_change()) {
        writer.change(change).map_err(|refused| Failed { record, refused })?;
    }
    Ok(writer.out)
}

/// The columns of one relation, prepared: rows as objects.
#[derive(Debug)]
pub struct Columns {
    columns: Vec<(Name, Kind)>,
}

impl Columns {
    /// Prepare those of a relation.
    pub fn new(relation: &Relation, catalog: &Catalog) -> Self {
        let column = |column: &crate::relation::Column| (Name::of(&column.name), catalog.kind(column.type_oid));
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
        let start = out.len();
        let mut columns = self.columns.iter();
        let is_whole = cells.each(|number, cell| {
            let Some((name, kind)) = columns.next() else { return Ok(()) };
            match cell {
                Cell::Value(format, bytes) => {
                    name.write(out);
                    if !(format == Format::Binary && plain::write(out, kind, bytes, scratch)) {
                        write_value(out, kind, format, bytes, scratch)
                            .map_err(|invalid| Refused::value(invalid, number, bytes, message))?;
                    }
                }
                Cell::Null => {
                    name.write(out);
                    out.extend_from_slice(b"null");
                }
                Cell::Unset => {}
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

/// What is prepared for one relation.
struct Plan<'a> {
    shape: &'a Shape,
    /// `"schema":"public","table":"orders"`
    table: Vec<u8>,
    /// The beginnings of lines that are an insert, an update, a delete: `{"action":"insert",` and the table.
    heads: [Vec<u8>; 3],
    columns: Columns,
}

struct Writer<'a> {
    batch: &'a Batch,
    plans: Vec<Plan<'a>>,
    out: Vec<u8>,
    scratch: Scratch,
    /// What was written last of a transaction.
    transaction: Option<Written>,
    /// The version that was written last, and of which relation.
    version: Option<(u32, Span)>,
}

/// A buffer with nothing in it and room for so many bytes.
fn emptied(mut buffer: Vec<u8>, room: usize) -> Vec<u8> {
    buffer.clear();
    buffer.reserve(room);
    buffer
}

/// What each line ends with.
const END: &[u8] = b"}\n";

/// `,"position":"`
const POSITION: &[u8] = b",\"position\":\"";

/// Where in `Written::place` the part of the position is that differs: behind that and what `position_head` gives.
const TAIL_AT: usize = POSITION.len().saturating_add(17);

/// The fields that all changes of a transaction have alike, written.
struct Written {
    /// The transaction's number among those of the batch.
    number: usize,
    transaction: Transaction,
    /// From `,"position":"` to the number after `"index":`, with the last position that was written.
    place: Vec<u8>,
    /// `,"commit_time":"…"`
    time: Vec<u8>,
}

/// The three changes of a row.
#[derive(Clone, Copy)]
enum Action {
    Insert,
    Update,
    Delete,
}

fn lsn_text(out: &mut Vec<u8>, lsn: u64) {
    text::upper_hexadecimal(out, lsn >> 32, 1);
    out.push(b'/');
    text::upper_hexadecimal(out, lsn & 0xffff_ffff, 1);
}

/// What all positions of a transaction begin with. As text they compare as positions do.
pub(crate) fn position_head(commit_lsn: u64) -> [u8; 17] {
    let mut text = Vec::with_capacity(17);
    text::upper_hexadecimal(&mut text, commit_lsn, 16);
    let mut head = [b'.'; 17];
    for (place, digit) in head.iter_mut().zip(text) {
        *place = digit;
    }
    head
}

/// And what each ends with: from 0 for rows of an initial copy, whose index is -1. None for the index of a transaction with
/// more changes than eight digits count.
#[inline]
pub(crate) fn position_tail(index: i64) -> Option<[u8; 8]> {
    u32::try_from(index.saturating_add(1).max(0)).ok().map(text::upper_eight)
}

/// A whole position.
pub fn position_text((commit_lsn, index): Position) -> Vec<u8> {
    let mut text = position_head(commit_lsn).to_vec();
    text::upper_hexadecimal(&mut text, u64::try_from(index.saturating_add(1)).unwrap_or(0), 8);
    text
}

fn flag(out: &mut Vec<u8>, name: &[u8], value: bool) {
    out.extend_from_slice(name);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn instant_refused(invalid: Invalid) -> Refused {
    Refused::Value { reason: invalid.0, column: usize::MAX, offset: 0 }
}

impl Written {
    fn new(number: usize, transaction: Transaction, scratch: &mut Scratch) -> Result<Self, Refused> {
        let mut place = POSITION.to_vec();
        place.extend_from_slice(&position_text((transaction.commit_lsn, 0)));
        place.extend_from_slice(b"\",\"commit_lsn\":\"");
        lsn_text(&mut place, transaction.commit_lsn);
        place.extend_from_slice(b"\",\"index\":");
        let mut time = Vec::new();
        if let Some(microseconds) = transaction.commit_time {
            time.extend_from_slice(b",\"commit_time\":");
            value::write_instant(&mut time, microseconds, scratch).map_err(instant_refused)?;
        }
        Ok(Self { number, transaction, place, time })
    }
}

impl<'a> Writer<'a> {
    fn new(buffer: Vec<u8>, batch: &'a Batch, catalog: &Catalog) -> Self {
        let plan = |shape: &'a std::sync::Arc<Shape>| {
            let mut table = b"\"schema\":".to_vec();
            text::string(&mut table, &shape.relation.schema);
            table.extend_from_slice(b",\"table\":");
            text::string(&mut table, &shape.relation.name);
            let heads = ["insert", "update", "delete"]
                .map(|action| [format!("{{\"action\":\"{action}\",").as_bytes(), &table].concat());
            Plan { shape, table, heads, columns: Columns::new(&shape.relation, catalog) }
        };
        let out = emptied(buffer, batch.nbytes().saturating_mul(2));
        let plans = batch.shapes().iter().map(plan).collect();
        Self { batch, plans, out, scratch: Scratch::default(), transaction: None, version: None }
    }

    /// One change. It is read while it is written; where that fails it is read again with all checks, to say what is wrong.
    fn change(&mut self, record: &Record) -> Result<(), Refused> {
        let start = self.out.len();
        let written = match self.batch.new_row_ahead(record) {
            Some(NewRow { is_insert, relation_oid, new }) => {
                let action = if is_insert { Action::Insert } else { Action::Update };
                let written = self.row(record, action, relation_oid, Some(new), None);
                self.out.extend_from_slice(END);
                written
            }
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

    fn write(&mut self, record: &Record, message: Message<'_>) -> Result<(), Refused> {
        match message {
            Message::Insert { relation_oid, new, .. } => {
                self.row(record, Action::Insert, relation_oid, Some(new), None)?;
            }
            Message::Update { relation_oid, old, new, .. } => {
                self.row(record, Action::Update, relation_oid, Some(new), old)?;
            }
            Message::Delete { relation_oid, old, .. } => {
                self.row(record, Action::Delete, relation_oid, None, Some(old))?;
            }
            Message::Truncate { cascade, restart_identity, relation_oids, .. } => {
                self.out.extend_from_slice(b"{\"action\":\"truncate\",\"relations\":[");
                for (number, (plan, oid)) in self.batch.truncated(record).iter().zip(relation_oids).enumerate() {
                    // Count and options come first: five bytes.
                    let offset = number.saturating_mul(4).saturating_add(5).saturating_add(record.fields_at());
                    let plan = plan.and_then(|number| self.plans.get(number));
                    let plan = plan.ok_or(Refused::UnknownRelation { oid, offset })?;
                    self.out.extend_from_slice(if number > 0 { b",{" } else { b"{" });
                    self.out.extend_from_slice(&plan.table);
                    if let Some(versions) = self.batch.versions() {
                        self.version(record, oid, versions);
                    }
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
        self.out.extend_from_slice(END);
        Ok(())
    }

    fn row(
        &mut self,
        record: &Record,
        action: Action,
        oid: u32,
        new: Option<Tuple<'_>>,
        old: Option<Old<'_>>,
    ) -> Result<(), Refused> {
        let bytes = self.batch.bytes(record);
        let number = record.shape.ok_or(Refused::UnknownRelation { oid, offset: record.fields_at() })?;
        if let Some(plan) = self.plans.get(number) {
            let [insert, update, delete] = &plan.heads;
            self.out.extend_from_slice(match action {
                Action::Insert => insert,
                Action::Update => update,
                Action::Delete => delete,
            });
        }
        if let Some(versions) = self.batch.versions() {
            self.version(record, oid, versions);
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

    /// `schema_version`, where it is known.
    fn version(&mut self, record: &Record, oid: u32, versions: &Versions) {
        let Some(position) = self.batch.position(record) else { return };
        if !matches!(&self.version, Some((known, span)) if *known == oid && span.contains(position)) {
            self.version = versions.span(oid, position).map(|span| (oid, span));
        }
        if let Some((_, span)) = &self.version {
            self.out.extend_from_slice(b",\"schema_version\":");
            integer(&mut self.out, i64::from(span.version));
        }
    }

    /// `position`, `commit_lsn`, `index`, `commit_time`, where they are known.
    fn place(&mut self, record: &Record) -> Result<(), Refused> {
        let (Some(number), Some(index)) = (record.transaction, record.index) else { return Ok(()) };
        if self.transaction.as_ref().is_none_or(|written| written.number != number) {
            let Some(transaction) = self.batch.transaction(record) else { return Ok(()) };
            self.transaction = Some(Written::new(number, transaction, &mut self.scratch)?);
        }
        let Some(written) = &mut self.transaction else { return Ok(()) };
        let out = &mut self.out;
        let rest = written.place.get_mut(TAIL_AT..).unwrap_or_default();
        match (position_tail(index), rest.split_first_chunk_mut()) {
            (Some(tail), Some((place, _))) => {
                *place = tail;
                out.extend_from_slice(&written.place);
            }
            // More digits than there is room for.
            (_, rest) => {
                out.extend_from_slice(POSITION);
                out.extend_from_slice(&position_text((written.transaction.commit_lsn, index)));
                out.extend_from_slice(rest.map_or(&[], |(_, rest)| rest));
            }
        }
        integer(out, index);
        out.extend_from_slice(&written.time);
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
