//! The columns of a changed row as they are meant: what a null or an unchanged value says depends on the tuple around it.
use std::slice::Iter;

use crate::error::{Error, Reason};
use crate::message::Old;
use crate::relation::{Column, Relation};
use crate::tuple::{Columns, Datum, Tuple};
use crate::value::{Format, Invalid};

/// What a tuple is of its change.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    /// The row after the change; what was sent of the old one holds the unchanged TOAST values, if anything does.
    New {
        /// What was sent of the old row.
        old: Option<Old<'a>>,
    },
    /// The old key: columns outside it were not sent.
    Key,
    /// The whole old row.
    OldRow,
}

/// One column of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// Not sent.
    Unset,
    /// SQL NULL.
    Null,
    /// What was sent.
    Value(Format, &'a [u8]),
}

/// What is said of a tuple that turned out not to be whole, until the message is read again with all checks.
pub(crate) const NOT_WHOLE: Refused =
    Refused::Message(Error { reason: Reason::UnexpectedEnd, field: "tuple", offset: 0 });

/// Why a change could not be written in another format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The message is malformed.
    Message(Error),
    /// A relation was not seen.
    UnknownRelation {
        /// Its OID.
        oid: u32,
        /// Where the OID is in the message.
        offset: usize,
    },
    /// A column's bytes are not a value of its type, or not one that the format can hold.
    Value {
        /// What is wrong.
        reason: &'static str,
        /// The column's number.
        column: usize,
        /// Where its bytes begin in the message.
        offset: usize,
    },
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Message(error)
    }
}

impl Refused {
    /// What is wrong with one column, whose bytes are a part of the message.
    #[cold]
    pub fn value(invalid: Invalid, column: usize, bytes: &[u8], message: &[u8]) -> Self {
        let offset = bytes.as_ptr().addr().saturating_sub(message.as_ptr().addr());
        Self::Value { reason: invalid.0, column, offset }
    }
}

/// The first change of a batch that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The place of its record in the batch.
    pub record: usize,
    /// Why.
    pub refused: Refused,
}

/// The columns of one row, in the relation's order.
#[derive(Clone, Debug)]
pub struct Cells<'a> {
    relation: Iter<'a, Column>,
    columns: Columns<'a>,
    is_key: bool,
    /// The old tuple, and whether it is a key.
    old: Option<(Columns<'a>, bool)>,
}

/// Read a tuple as a row of a relation.
///
/// # Errors
/// When it has another number of columns.
pub fn cells<'a>(relation: &'a Relation, tuple: Tuple<'a>, role: Role<'a>) -> Result<Cells<'a>, Error> {
    if tuple.len() != relation.columns.len() {
        return Err(Error { reason: Reason::ColumnCount(tuple.len()), field: "number of columns", offset: 0 });
    }
    let old = match role {
        Role::New { old: Some(Old::Row(old)) } => Some((old.columns(), false)),
        Role::New { old: Some(Old::Key(old)) } => Some((old.columns(), true)),
        _ => None,
    };
    let is_key = matches!(role, Role::Key);
    Ok(Cells { relation: relation.columns.iter(), columns: tuple.columns(), is_key, old })
}

/// What was sent of the old row, as a row.
///
/// # Errors
/// When it has another number of columns.
pub fn old_cells<'a>(relation: &'a Relation, old: Old<'a>) -> Result<Cells<'a>, Error> {
    match old {
        Old::Key(tuple) => cells(relation, tuple, Role::Key),
        Old::Row(tuple) => cells(relation, tuple, Role::OldRow),
    }
}

impl<'a> Cells<'a> {
    /// Hand over each cell with its column's number. Whether the tuple was whole, which is not known before when it was not
    /// walked.
    ///
    /// # Errors
    /// What `take` returned, which ends it.
    #[inline]
    pub fn each<E>(self, mut take: impl FnMut(usize, Cell<'a>) -> Result<(), E>) -> Result<bool, E> {
        let Self { relation, mut columns, is_key, old } = self;
        // One call of `take`, so that it is compiled into this loop: for most columns a call costs as much as the value.
        for (number, column) in relation.enumerate() {
            let cell = match columns.next() {
                Some(Datum::Binary(bytes)) => Cell::Value(Format::Binary, bytes),
                Some(Datum::Text(bytes)) => Cell::Value(Format::Text, bytes),
                Some(datum) => {
                    // Few columns are unchanged, so the old ones are counted up to it only then.
                    let beside = old.as_ref().filter(|_| datum == Datum::Unchanged);
                    absent(
                        datum,
                        is_key,
                        beside.and_then(|(old, is_key)| Some((old.clone().nth(number)?, *is_key))),
                        column,
                    )
                }
                None => return Ok(false),
            };
            take(number, cell)?;
        }
        Ok(columns.is_at_end())
    }
}

/// What a column says that has no value of its own; `beside` is the old one and whether that is of a key.
fn absent<'a>(datum: Datum<'a>, is_key: bool, beside: Option<(Datum<'a>, bool)>, column: &Column) -> Cell<'a> {
    match (datum, beside) {
        (Datum::Unchanged, Some((old, is_key))) => cell(old, is_key, column),
        (datum, _) => cell(datum, is_key, column),
    }
}

fn cell<'a>(datum: Datum<'a>, tuple_is_key: bool, column: &Column) -> Cell<'a> {
    match datum {
        Datum::Text(bytes) => Cell::Value(Format::Text, bytes),
        Datum::Binary(bytes) => Cell::Value(Format::Binary, bytes),
        // In a key tuple the server writes null for every column outside the key.
        Datum::Null if tuple_is_key && !column.is_key => Cell::Unset,
        Datum::Null => Cell::Null,
        Datum::Unchanged => Cell::Unset,
    }
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    #[inline]
    fn next(&mut self) -> Option<Cell<'a>> {
        let column = self.relation.next()?;
        let datum = self.columns.next()?;
        let old = self.old.as_mut().and_then(|(columns, is_key)| Some((columns.next()?, *is_key)));
        Some(absent(datum, self.is_key, old, column))
    }
}
