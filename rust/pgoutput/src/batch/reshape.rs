//! A batch's changes with other columns, names or rows: for targets that are to see less than the source sent, or more.
//!
//! Position, LSN and transaction of each change stay as they were. What cannot be read is refused and never passed on:
//! nobody could say that what was to be left out of it is.
//!
//! Over 400 lines, because the four ways to reshape a change write the same messages.
use std::collections::HashSet;
use std::sync::Arc;

use super::{Batch, Builder, Record};
use crate::catalog::Catalog;
use crate::encode;
use crate::error::{Error, Reason};
use crate::message::{Message, Old, kind};
use crate::oid::Kind;
use crate::row::{Failed, Refused};
use crate::session::{Place, Shape};
use crate::tuple::{Datum, Tuple};
use crate::value::Format;
use crate::value::print::print;

/// Where a column of a row that is given another shape comes from. A value that was not sent (unchanged TOAST, outside the
/// key) stays so in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The column of this number, as it is.
    Column(usize),
    /// These characters, or NULL, instead of any value of the column of this number.
    Constant(usize, Option<Vec<u8>>),
    /// What the function of this number makes of the value of the column of this number; NULL stays NULL.
    Digest(usize, usize),
}

/// What a function, by its number, makes of a value as PostgreSQL prints it; None when it could not.
pub type Digest<'f> = dyn FnMut(usize, &[u8]) -> Option<Vec<u8>> + 'f;

impl Source {
    fn column(&self) -> usize {
        match *self {
            Self::Column(number) | Self::Constant(number, _) | Self::Digest(number, _) => number,
        }
    }
}

/// How the rows of one shape become those of another.
#[derive(Clone, Debug)]
pub struct Reshape {
    shape: Arc<Shape>,
    sources: Vec<Source>,
    kinds: Vec<Kind>,
    /// Whether all columns stay as they are, so that the rows' bytes do.
    is_same: bool,
}

impl Reshape {
    /// The rows of `from` as those of `shape`; None when a source is no column of the one, or there are not as many as
    /// columns in the other.
    pub fn new(from: &Shape, shape: Arc<Shape>, sources: Vec<Source>, catalog: &Catalog) -> Option<Self> {
        let columns = &from.relation.columns;
        if sources.len() != shape.relation.columns.len() || sources.iter().any(|one| one.column() >= columns.len()) {
            return None;
        }
        let kinds = columns.iter().map(|column| catalog.kind(column.type_oid)).collect();
        let is_same =
            sources.len() == columns.len() && sources.iter().enumerate().all(|(at, one)| *one == Source::Column(at));
        Some(Self { shape, sources, kinds, is_same })
    }
}

/// A column of a row that is written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// That of the row that was, by its number.
    Copied(usize),
    /// SQL NULL; in a key also a column outside it.
    Null,
    /// Not sent.
    Unset,
    /// What the type's output function would write.
    Text(Vec<u8>),
    /// What its send function would.
    Binary(Vec<u8>),
}

/// A row change that takes the place of another.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// `I`, `U` or `D`.
    pub kind: u8,
    /// The shape of its rows.
    pub shape: Arc<Shape>,
    /// The new row.
    pub new: Option<Vec<Cell>>,
    /// The old row or key.
    pub old: Option<Vec<Cell>>,
}

/// What changes a change is in order with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Those of this key.
    One(Vec<u8>),
    /// Those of the old key and those of the new one.
    Two(Vec<u8>, Vec<u8>),
    /// All: it is no row, or its key is not known.
    All,
}

impl Batch {
    fn changes(&self) -> impl Iterator<Item = (usize, &Record)> {
        self.records.iter().enumerate().filter(|(_, record)| record.is_change())
    }

    /// Only some of the changes, by their numbers among the changes, in the order in which they are.
    pub fn take(&self, numbers: &HashSet<usize>) -> Self {
        let mut number = 0_usize;
        self.keep(|record| {
            if !record.is_change() {
                return false;
            }
            let wanted = numbers.contains(&number);
            number = number.saturating_add(1);
            wanted
        })
    }

    /// The changes in pieces of so many and so many bytes at most, each of one change at least; where `whole`, no piece
    /// ends within a transaction, so that a large one makes a larger piece.
    pub fn pieces(&self, max_changes: usize, max_bytes: usize, whole: bool) -> Vec<Self> {
        let mut pieces: Vec<Self> = Vec::new();
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0_usize;
        for (_, record) in self.changes() {
            let size = record.bytes.len();
            let is_full = records.len() >= max_changes || bytes.saturating_add(size) > max_bytes;
            let is_inside = whole
                && record.transaction.is_some()
                && records.last().is_some_and(|last| self.transaction(last) == self.transaction(record));
            if is_full && !is_inside && !records.is_empty() {
                let records = std::mem::take(&mut records);
                pieces.push(self.part(records));
                bytes = 0;
            }
            bytes = bytes.saturating_add(size);
            records.push(record.clone());
        }
        if !records.is_empty() {
            pieces.push(self.part(records));
        }
        pieces
    }

    /// As [`Batch::select`], and beside that the transactional logical messages of some prefixes.
    pub fn select_with_messages(
        &self,
        tables: Option<&HashSet<(Vec<u8>, Vec<u8>)>>,
        kinds: Option<&[u8]>,
        prefixes: &HashSet<Vec<u8>>,
    ) -> Self {
        let selected = self.select(tables, kinds);
        let mut rest = selected.records.iter().peekable();
        self.keep(|record| {
            let is_selected = rest.next_if(|next| next.number == record.number).is_some();
            is_selected
                || (record.kind == kind::MESSAGE
                    && matches!(self.message(record), Ok(Message::Message { transactional: true, prefix, .. })
                        if prefixes.contains(prefix)))
        })
    }

    /// The changes with rows of other shapes: those of each relation of the batch for which there is a [`Reshape`] at its
    /// number. A `digest` gets what PostgreSQL prints for a value, from text and from binary alike.
    ///
    /// # Errors
    /// For the first change that cannot be read, or whose digest could not be made.
    pub fn reshaped(&self, reshapes: &[Option<Reshape>], digest: &mut Digest<'_>) -> Result<Self, Failed> {
        let mut builder = Builder::with_capacity(self.records.len(), self.nbytes());
        for (number, record) in self.changes() {
            let failed = |refused: Refused| Failed { record: number, refused };
            let mut place = self.place(record);
            let reshape =
                |number: Option<usize>| number.and_then(|number| reshapes.get(number)).and_then(Option::as_ref);
            for (truncated, &number) in place.truncated.iter_mut().zip(self.truncated(record)) {
                if let Some(reshape) = reshape(number) {
                    *truncated = Some(Arc::clone(&reshape.shape));
                }
            }
            let message = self.message(record).map_err(|error| failed(error.into()))?;
            let bytes = self.bytes(record);
            let start = builder.content.bytes.len();
            match message {
                Message::Insert { relation_oid: oid, .. }
                | Message::Update { relation_oid: oid, .. }
                | Message::Delete { relation_oid: oid, .. } => {
                    let Some(shape) = &place.shape else {
                        return Err(failed(Refused::UnknownRelation { oid, offset: record.fields_at() }));
                    };
                    let columns = shape.relation.columns.len();
                    let (old, new) = tuples(&message);
                    for tuple in old.map(|(_, tuple)| tuple).into_iter().chain(new) {
                        if tuple.len() != columns {
                            let reason = Reason::ColumnCount(tuple.len());
                            return Err(failed(Error { reason, field: "number of columns", offset: 0 }.into()));
                        }
                    }
                    match reshape(record.shape) {
                        Some(reshape) if !reshape.is_same => {
                            let out = &mut builder.content.bytes;
                            // The kind, in a stream the transaction's id, and the relation's.
                            out.extend_from_slice(
                                bytes.get(..record.fields_at().saturating_add(4)).unwrap_or_default(),
                            );
                            if let Some((role, tuple)) = old {
                                out.push(role);
                                let row = Row { bytes, from: shape, is_key: role == b'K', reshape };
                                row.write(tuple, digest, out).map_err(failed)?;
                            }
                            if let Some(tuple) = new {
                                out.push(b'N');
                                let row = Row { bytes, from: shape, is_key: false, reshape };
                                row.write(tuple, digest, out).map_err(failed)?;
                            }
                            place.shape = Some(Arc::clone(&reshape.shape));
                        }
                        reshape => {
                            if let Some(reshape) = reshape {
                                place.shape = Some(Arc::clone(&reshape.shape));
                            }
                            builder.content.bytes.extend_from_slice(bytes);
                        }
                    }
                }
                _ => builder.content.bytes.extend_from_slice(bytes),
            }
            builder.record(start, record.lsn, &place);
        }
        Ok(builder.finish())
    }

    /// Of each change, which changes it is in order with. `columns` says which columns are a table's key; where one of them
    /// was not sent, or could be another in an old row that was not, the change is in order with all.
    pub fn keys<'a>(&self, mut columns: impl FnMut(&Shape) -> Option<&'a [Vec<u8>]>, by_table: bool) -> Vec<Keys> {
        // The numbers of the key's columns in each shape, and whether the replica identity holds all of them.
        let numbers: Vec<Option<(Vec<usize>, bool)>> = (self.content.shapes.iter())
            .map(|shape| {
                let all = &shape.relation.columns;
                let named = |name: &Vec<u8>| all.iter().position(|column| column.name == *name);
                let numbers = columns(shape)?.iter().map(named).collect::<Option<Vec<_>>>()?;
                let is_identity = numbers.iter().all(|&number| all.get(number).is_some_and(|column| column.is_key));
                Some((numbers, is_identity))
            })
            .collect();
        self.changes().map(|(_, record)| self.keys_of(record, &numbers, by_table).unwrap_or(Keys::All)).collect()
    }

    fn keys_of(&self, record: &Record, numbers: &[Option<(Vec<usize>, bool)>], by_table: bool) -> Option<Keys> {
        let number = record.shape?;
        let (columns, is_identity) = numbers.get(number)?.as_ref()?;
        let shape = self.content.shapes.get(number)?;
        let message = self.message(record).ok()?;
        let (old, new) = tuples(&message);
        let table = by_table.then_some(shape.relation.oid);
        let key = |tuple: Tuple<'_>, beside: Option<Tuple<'_>>| key(shape, columns, tuple, beside, table);
        match (old, new) {
            (None, Some(new)) if record.kind == kind::INSERT => Some(Keys::One(key(new, None)?)),
            // Without an old key the identity stayed as it was.
            (None, Some(new)) if *is_identity => Some(Keys::One(key(new, None)?)),
            (Some((_, old)), None) if *is_identity => Some(Keys::One(key(old, None)?)),
            (Some((_, old)), Some(new)) if *is_identity => {
                let (former, now) = (key(old, None)?, key(new, Some(old))?);
                Some(if former == now { Keys::One(now) } else { Keys::Two(former, now) })
            }
            _ => None,
        }
    }

    /// Begin to write the changes anew.
    pub fn rewriter(&self) -> Rewriter<'_> {
        let changes = self.changes().map(|(at, _)| at).collect();
        Rewriter { batch: self, changes, builder: Builder::with_capacity(self.records.len(), self.nbytes()), last: 0 }
    }
}

/// The old tuple, with what marks it, and the new one.
pub(super) fn tuples<'a>(message: &Message<'a>) -> (Option<(u8, Tuple<'a>)>, Option<Tuple<'a>>) {
    let marked = |old: &Old<'a>| match *old {
        Old::Key(tuple) => (b'K', tuple),
        Old::Row(tuple) => (b'O', tuple),
    };
    match message {
        Message::Insert { new, .. } => (None, Some(*new)),
        Message::Update { old, new, .. } => (old.as_ref().map(marked), Some(*new)),
        Message::Delete { old, .. } => (Some(marked(old)), None),
        _ => (None, None),
    }
}

/// `numeric`, whose values can be equal and not the same: 1.0 and 1.00.
const NUMERIC: u32 = 1700;

/// The values of some columns as bytes that are equal where the values are; None where one was not sent. Of a new row, an
/// unchanged value is that of the old one `beside` it.
pub(super) fn key(
    shape: &Shape,
    columns: &[usize],
    tuple: Tuple<'_>,
    beside: Option<Tuple<'_>>,
    table: Option<u32>,
) -> Option<Vec<u8>> {
    if tuple.len() != shape.relation.columns.len() {
        return None;
    }
    let mut out = table.map(|oid| oid.to_be_bytes().to_vec()).unwrap_or_default();
    for &number in columns {
        let datum = match tuple.columns().nth(number)? {
            Datum::Unchanged => beside?.columns().nth(number)?,
            datum => datum,
        };
        let is_numeric = shape.relation.columns.get(number).is_some_and(|column| column.type_oid == NUMERIC);
        match datum {
            Datum::Null => out.push(b'n'),
            Datum::Unchanged => return None,
            Datum::Text(value) => {
                let mut value = value;
                if is_numeric && value.contains(&b'.') {
                    while let [rest @ .., b'0'] = value {
                        value = rest;
                    }
                    value = value.strip_suffix(b".").unwrap_or(value);
                }
                sized(&mut out, b't', value);
            }
            // Number of digits, weight and sign say which number it is; what comes then is how many digits are shown.
            Datum::Binary(value) => match (is_numeric, value.get(..6), value.get(8..)) {
                (true, Some(head), Some(digits)) => sized(&mut out, b'b', &[head, digits].concat()),
                _ => sized(&mut out, b'b', value),
            },
        }
    }
    Some(out)
}

fn sized(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&value.len().to_be_bytes());
    out.extend_from_slice(value);
}

/// One row that is given another shape.
struct Row<'a> {
    /// Its whole message.
    bytes: &'a [u8],
    from: &'a Shape,
    is_key: bool,
    reshape: &'a Reshape,
}

impl Row<'_> {
    fn write(&self, tuple: Tuple<'_>, digest: &mut Digest<'_>, out: &mut Vec<u8>) -> Result<(), Refused> {
        let datums: Vec<Datum<'_>> = tuple.columns().collect();
        let mut made: Vec<Vec<u8>> = Vec::new();
        for source in &self.reshape.sources {
            made.push(match source {
                Source::Digest(column, function) => match datums.get(*column) {
                    Some(&Datum::Text(value)) => self.digest(*column, *function, Format::Text, value, digest)?,
                    Some(&Datum::Binary(value)) => self.digest(*column, *function, Format::Binary, value, digest)?,
                    _ => Vec::new(),
                },
                _ => Vec::new(),
            });
        }
        let written: Vec<Datum<'_>> = (self.reshape.sources.iter().zip(&made))
            .map(|(source, made)| {
                let column = source.column();
                let was = datums.get(column).copied().unwrap_or(Datum::Null);
                let is_outside = self.is_key && !self.from.relation.columns.get(column).is_some_and(|one| one.is_key);
                match (source, was) {
                    (Source::Column(_), was) => was,
                    (_, Datum::Unchanged) => Datum::Unchanged,
                    _ if is_outside => Datum::Null,
                    (Source::Constant(_, Some(text)), _) => Datum::Text(text),
                    (Source::Constant(_, None), _) | (Source::Digest(..), Datum::Null) => Datum::Null,
                    (Source::Digest(..), _) => Datum::Text(made),
                }
            })
            .collect();
        encode::tuple(&written, out).map_err(Refused::from)
    }

    fn digest(
        &self,
        column: usize,
        function: usize,
        format: Format,
        value: &[u8],
        digest: &mut Digest<'_>,
    ) -> Result<Vec<u8>, Refused> {
        let kind = self.reshape.kinds.get(column).unwrap_or(&Kind::Opaque);
        let mut text = Vec::new();
        print(&mut text, kind, format, value).map_err(|invalid| Refused::value(invalid, column, value, self.bytes))?;
        let offset = value.as_ptr().addr().saturating_sub(self.bytes.as_ptr().addr());
        digest(function, &text).ok_or(Refused::Value { reason: "no digest could be made of it", column, offset })
    }
}

/// What can go wrong when changes are written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// There is no change of this number, or one behind it was written already.
    Number,
    /// A cell is copied from a row that is not there, or of a column that it has not.
    Copied,
    /// There are not as many cells as columns.
    Cells,
    /// An insert has a new row, an update a new one and maybe an old one, a delete an old one.
    Rows,
    /// No message can say it.
    Message(Error),
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        Self::Message(error)
    }
}

/// Writes the changes of a batch anew: some are left out, some become others, one may become several. All keep the place
/// of the change that they come from.
#[derive(Debug)]
pub struct Rewriter<'b> {
    batch: &'b Batch,
    changes: Vec<usize>,
    builder: Builder,
    last: usize,
}

impl Rewriter<'_> {
    fn record(&mut self, number: usize) -> Result<Record, Wrong> {
        if number < self.last {
            return Err(Wrong::Number);
        }
        self.last = number;
        let at = self.changes.get(number).ok_or(Wrong::Number)?;
        self.batch.records.get(*at).cloned().ok_or(Wrong::Number)
    }

    /// A change as it is.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn keep(&mut self, number: usize) -> Result<(), Wrong> {
        let record = self.record(number)?;
        self.builder.push_placed(self.batch.bytes(&record), record.lsn, &self.batch.place(&record));
        Ok(())
    }

    /// A row change instead of a change.
    ///
    /// # Errors
    /// When it cannot be said.
    pub fn row(&mut self, number: usize, change: &RowChange) -> Result<(), Wrong> {
        let record = self.record(number)?;
        let message = self.batch.message(&record)?;
        let (was_old, was_new) = tuples(&message);
        let mut old = Vec::new();
        if let Some(cells) = &change.old {
            cells_written(cells, was_old.map(|(_, tuple)| tuple), None, &change.shape, &mut old)?;
        }
        let mut new = Vec::new();
        if let Some(cells) = &change.new {
            // What was unchanged is what the old row has, whatever becomes of that one.
            let beside = was_old.filter(|&(role, _)| role == b'O').map(|(_, tuple)| tuple);
            cells_written(cells, was_new, beside, &change.shape, &mut new)?;
        }
        let start = self.builder.content.bytes.len();
        let out = &mut self.builder.content.bytes;
        let mut place = self.batch.place(&record);
        out.push(change.kind);
        if record.streamed {
            // What it stands in says whose it is.
            out.extend_from_slice(self.batch.bytes(&record).get(1..5).unwrap_or_default());
        }
        out.extend_from_slice(&change.shape.relation.oid.to_be_bytes());
        let marked = |out: &mut Vec<u8>| {
            if change.old.is_some() {
                out.push(if change.shape.relation.is_full() { b'O' } else { b'K' });
                out.extend_from_slice(&old);
            }
        };
        match (change.kind, &change.new, &change.old) {
            (kind::INSERT, Some(_), None) => {}
            (kind::UPDATE, Some(_), _) | (kind::DELETE, None, Some(_)) => marked(out),
            _ => {
                out.truncate(start);
                return Err(Wrong::Rows);
            }
        }
        if change.new.is_some() {
            out.push(b'N');
            out.extend_from_slice(&new);
        }
        place.shape = Some(Arc::clone(&change.shape));
        place.truncated = Vec::new();
        self.builder.record(start, record.lsn, &place);
        Ok(())
    }

    /// A logical message instead of a change.
    ///
    /// # Errors
    /// When it cannot be said.
    pub fn message(&mut self, number: usize, prefix: &[u8], content: &[u8]) -> Result<(), Wrong> {
        let record = self.record(number)?;
        let mut place = self.batch.place(&record);
        (place.shape, place.truncated) = (None, Vec::new());
        let written = Message::Message { xid: None, transactional: true, lsn: record.lsn, prefix, content };
        self.other(&record, place, &written)
    }

    /// A TRUNCATE instead of a change.
    ///
    /// # Errors
    /// When it cannot be said.
    pub fn truncate(
        &mut self,
        number: usize,
        shapes: &[Arc<Shape>],
        cascade: bool,
        restart_identity: bool,
    ) -> Result<(), Wrong> {
        let record = self.record(number)?;
        let mut place = self.batch.place(&record);
        place.shape = None;
        place.truncated = shapes.iter().map(|shape| Some(Arc::clone(shape))).collect();
        let relation_oids = shapes.iter().map(|shape| shape.relation.oid).collect();
        let written = Message::Truncate { xid: None, cascade, restart_identity, relation_oids };
        self.other(&record, place, &written)
    }

    fn other(&mut self, record: &Record, mut place: Place, message: &Message<'_>) -> Result<(), Wrong> {
        let start = self.builder.content.bytes.len();
        message.encode(&mut self.builder.content.bytes)?;
        place.streamed = false;
        self.builder.record(start, record.lsn, &place);
        Ok(())
    }

    /// What was written.
    pub fn finish(self) -> Batch {
        self.builder.finish()
    }
}

fn cells_written(
    cells: &[Cell],
    was: Option<Tuple<'_>>,
    beside: Option<Tuple<'_>>,
    shape: &Shape,
    out: &mut Vec<u8>,
) -> Result<(), Wrong> {
    if cells.len() != shape.relation.columns.len() {
        return Err(Wrong::Cells);
    }
    let was: Vec<Datum<'_>> = was.map(|tuple| tuple.columns().collect()).unwrap_or_default();
    let beside: Vec<Datum<'_>> = beside.map(|tuple| tuple.columns().collect()).unwrap_or_default();
    let datums = cells.iter().map(|cell| {
        Ok(match cell {
            Cell::Copied(number) => match *was.get(*number).ok_or(Wrong::Copied)? {
                Datum::Unchanged => beside.get(*number).copied().unwrap_or(Datum::Unchanged),
                datum => datum,
            },
            Cell::Null => Datum::Null,
            Cell::Unset => Datum::Unchanged,
            Cell::Text(text) => Datum::Text(text),
            Cell::Binary(bytes) => Datum::Binary(bytes),
        })
    });
    encode::tuple(&datums.collect::<Result<Vec<_>, Wrong>>()?, out)?;
    Ok(())
}
