//! The rows of a batch as COPY BINARY, for a PostgreSQL that is to have them: what came in binary is passed through.
//!
//! Source: PostgreSQL manual, "COPY", "Binary Format".
use std::collections::HashMap;

use crate::batch::{Batch, Record};
use crate::catalog::Catalog;
use crate::encode::{copy_header, copy_row, copy_trailer};
use crate::message::{Message, Old};
use crate::oid::Kind;
use crate::relation::Relation;
use crate::row::{Cell, Cells, Failed, Refused, Role, cells, old_cells};
use crate::value::Format;
use crate::value::print::print;

/// The first OID that PostgreSQL's own catalog does not give: another database has other types there.
const FIRST_OWN: u32 = 10_000;

/// What there is besides the rows' columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Nothing: inserts alone, for the table itself.
    Plain,
    /// In front of them the number of the row (int4), what it is ("char", see [`Part`]) and, where something of it was not
    /// sent, which columns (bytea, a bit for each, the lowest of the first byte for the first).
    Marked,
}

/// How many rows of each mark there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `d`: a row that is to be gone: its key, or the whole old row.
    pub gone: usize,
    /// `u`: a row as it is to be.
    pub rows: usize,
    /// Of these, those of which something was not sent.
    pub unset: usize,
    /// `m`: a row as it is to be of which something was not sent, that is in the row of another key; its row is the one
    /// before it, marked `o`.
    pub moved: usize,
}

/// The rows of one shape.
#[derive(Clone, Debug)]
pub struct Part {
    /// The number of the shape in the batch.
    pub shape: usize,
    /// Whether each column is as PostgreSQL prints it, instead of as its type sends it.
    pub text: Vec<bool>,
    /// How many there are.
    pub counts: Counts,
    /// What COPY … (FORMAT binary) takes.
    pub bytes: Vec<u8>,
}

/// Write all row changes of a batch; shape by shape, in the order in which they come. Columns are given as text whose type
/// is no type of PostgreSQL's own, of which a value came as text, and which `as_text` says, by shape and column.
///
/// # Errors
/// For the first change that cannot be written; in the plain form any but an insert.
pub fn parts(
    batch: &Batch,
    catalog: &Catalog,
    form: Form,
    as_text: &mut dyn FnMut(&Relation, usize) -> bool,
) -> Result<Vec<Part>, Failed> {
    let mut writers: Vec<Writer<'_>> = Vec::new();
    let mut places: HashMap<usize, usize> = HashMap::new();
    let failed = |record: usize| move |refused: Refused| Failed { record, refused };
    let changes = || batch.records().iter().enumerate().filter(|(_, record)| record.is_change());
    // First which columns came as text, at any row.
    for (number, record) in changes() {
        let Some((shape, relation, rows)) = rows(batch, record).map_err(failed(number))? else { continue };
        let place = *places.entry(shape).or_insert_with(|| {
            writers.push(Writer::new(shape, relation, catalog, as_text));
            writers.len().saturating_sub(1)
        });
        let Some(writer) = writers.get_mut(place) else { continue };
        for cells in rows.into_iter().flatten() {
            writer.look(cells.1);
        }
    }
    for (number, record) in changes() {
        let Some((shape, _, rows)) = rows(batch, record).map_err(failed(number))? else { continue };
        let Some(writer) = places.get(&shape).and_then(|&place| writers.get_mut(place)) else { continue };
        writer.write(batch.bytes(record), form, rows).map_err(failed(number))?;
    }
    Ok(writers.into_iter().map(Writer::finish).collect())
}

/// What a row is: the old one, the key of one, or the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Old,
    Key,
    New,
}

type Rows<'a> = [Option<(What, Cells<'a>)>; 2];

/// The number of a change's shape, its relation, and its rows; None of what is no row.
fn rows<'a>(batch: &'a Batch, record: &'a Record) -> Result<Option<(usize, &'a Relation, Rows<'a>)>, Refused> {
    let (oid, old, new) = match batch.message(record)? {
        Message::Insert { relation_oid, new, .. } => (relation_oid, None, Some(new)),
        Message::Update { relation_oid, old, new, .. } => (relation_oid, old, Some(new)),
        Message::Delete { relation_oid, old, .. } => (relation_oid, Some(old), None),
        _ => return Ok(None),
    };
    let unknown = Refused::UnknownRelation { oid, offset: record.fields_at() };
    let shape = record.shape.ok_or(unknown)?;
    let relation = &batch.shapes().get(shape).ok_or(unknown)?.relation;
    let what = if matches!(old, Some(Old::Key(_))) { What::Key } else { What::Old };
    let before = old.map(|old| old_cells(relation, old)).transpose()?;
    let after = new.map(|new| cells(relation, new, Role::New { old })).transpose()?;
    Ok(Some((shape, relation, [before.map(|cells| (what, cells)), after.map(|cells| (What::New, cells))])))
}

struct Writer<'a> {
    part: Part,
    kinds: Vec<Kind>,
    /// The row being written: what is copied, and where what was printed is.
    printed: Vec<u8>,
    fields: Vec<Field<'a>>,
    /// Which columns of it were not sent.
    unset: Vec<u8>,
    number: u32,
}

#[derive(Clone, Copy)]
enum Field<'a> {
    Null,
    Sent(&'a [u8]),
    Printed(usize, usize),
}

impl<'a> Writer<'a> {
    fn new(
        shape: usize,
        relation: &Relation,
        catalog: &Catalog,
        as_text: &mut dyn FnMut(&Relation, usize) -> bool,
    ) -> Self {
        let columns = &relation.columns;
        let text = (columns.iter().enumerate())
            .map(|(at, column)| column.type_oid >= FIRST_OWN || as_text(relation, at))
            .collect();
        let mut bytes = Vec::new();
        copy_header(&mut bytes);
        Self {
            part: Part { shape, text, counts: Counts::default(), bytes },
            kinds: columns.iter().map(|column| catalog.kind(column.type_oid)).collect(),
            printed: Vec::new(),
            fields: Vec::with_capacity(columns.len()),
            unset: Vec::new(),
            number: 0,
        }
    }

    fn look(&mut self, cells: Cells<'_>) {
        for (cell, text) in cells.zip(&mut self.part.text) {
            *text |= matches!(cell, Cell::Value(Format::Text, _));
        }
    }

    fn write(&mut self, message: &[u8], form: Form, rows: Rows<'a>) -> Result<(), Refused> {
        let [before, after] = rows;
        if form == Form::Plain {
            if before.is_some() {
                return Err(Refused::Value { reason: "a change that is no insert", column: usize::MAX, offset: 0 });
            }
            if let Some((_, cells)) = after {
                self.fill(message, cells)?;
                self.put(&[])?;
                self.part.counts.rows = self.part.counts.rows.saturating_add(1);
            }
            return Ok(());
        }
        let is_moved = matches!(before, Some((What::Key, _))) && after.is_some();
        if let Some((_, cells)) = before {
            self.fill(message, cells)?;
            self.mark(if is_moved { b'o' } else { b'd' }, false)?;
            if !is_moved {
                self.part.counts.gone = self.part.counts.gone.saturating_add(1);
            }
        }
        if let Some((_, cells)) = after {
            let is_unset = self.fill(message, cells)?;
            self.mark(if is_moved { b'm' } else { b'u' }, is_unset)?;
            let counts = &mut self.part.counts;
            counts.rows = counts.rows.saturating_add(1);
            counts.unset = counts.unset.saturating_add(usize::from(is_unset));
            counts.moved = counts.moved.saturating_add(usize::from(is_moved));
        }
        Ok(())
    }

    /// Take the columns of a row; whether one of them was not sent.
    fn fill(&mut self, message: &[u8], cells: Cells<'a>) -> Result<bool, Refused> {
        self.fields.clear();
        self.printed.clear();
        self.unset.clear();
        self.unset.resize(self.kinds.len().div_ceil(8), 0);
        let mut is_unset = false;
        let columns = self.kinds.iter().zip(&self.part.text).enumerate();
        for (cell, (at, (kind, &text))) in cells.zip(columns) {
            self.fields.push(match cell {
                Cell::Value(Format::Binary, bytes) if !text => Field::Sent(bytes),
                // What came as text is what PostgreSQL prints.
                Cell::Value(Format::Text, bytes) => Field::Sent(bytes),
                Cell::Value(format, bytes) => {
                    let start = self.printed.len();
                    print(&mut self.printed, kind, format, bytes)
                        .map_err(|invalid| Refused::value(invalid, at, bytes, message))?;
                    Field::Printed(start, self.printed.len())
                }
                Cell::Null => Field::Null,
                Cell::Unset => {
                    is_unset = true;
                    if let Some(byte) = self.unset.get_mut(at / 8) {
                        *byte |= 1 << (at % 8);
                    }
                    Field::Null
                }
            });
        }
        Ok(is_unset)
    }

    fn mark(&mut self, mark: u8, is_unset: bool) -> Result<(), Refused> {
        let number = self.number.to_be_bytes();
        self.number = self.number.wrapping_add(1);
        let unset = std::mem::take(&mut self.unset);
        let put = self.put(&[Some(&number), Some(&[mark]), is_unset.then_some(unset.as_slice())]);
        self.unset = unset;
        put
    }

    fn put(&mut self, front: &[Option<&[u8]>]) -> Result<(), Refused> {
        let mut fields: Vec<Option<&[u8]>> = Vec::with_capacity(front.len().saturating_add(self.fields.len()));
        fields.extend_from_slice(front);
        fields.extend(self.fields.iter().map(|field| match *field {
            Field::Null => None,
            Field::Sent(bytes) => Some(bytes),
            Field::Printed(start, end) => self.printed.get(start..end),
        }));
        copy_row(&fields, &mut self.part.bytes).map_err(Refused::from)
    }

    fn finish(mut self) -> Part {
        copy_trailer(&mut self.part.bytes);
        self.part
    }
}
