//! TupleData: the columns of one row, still bytes.
//!
//! Source: PostgreSQL manual, "Logical Replication Message Formats", TupleData; server function `logicalrep_write_tuple`.
use crate::cursor::Cursor;
use crate::error::{Error, Reason, Result};

/// One column as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// SQL NULL; in a key tuple also "outside the key, not sent".
    Null,
    /// An unchanged TOAST value, which was not sent.
    Unchanged,
    /// What the type's output function wrote.
    Text(&'a [u8]),
    /// What the type's send function wrote.
    Binary(&'a [u8]),
}

/// The columns of one row, walked once when it was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: usize,
    bytes: &'a [u8],
}

/// The first column and what follows it; None where it is not whole. Every column of every row comes through here twice,
/// so it keeps no offset: `error` finds out what is wrong.
#[inline]
fn split(bytes: &[u8]) -> Option<(Datum<'_>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    match kind {
        b'n' => return Some((Datum::Null, rest)),
        b'u' => return Some((Datum::Unchanged, rest)),
        b't' | b'b' => {}
        _ => return None,
    }
    let (length, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).ok()?)?;
    Some((if kind == b't' { Datum::Text(value) } else { Datum::Binary(value) }, rest))
}

/// Why there is no column at a place where `split` found none.
#[cold]
fn error(mut cursor: Cursor<'_>) -> Error {
    let start = cursor;
    match cursor.u8("column kind") {
        Ok(b't' | b'b') => {
            let value = cursor.sized("column value");
            value.err().unwrap_or_else(|| start.error(Reason::UnexpectedEnd, "column value"))
        }
        Ok(other) => start.error(Reason::UnexpectedByte(other), "column kind"),
        Err(error) => error,
    }
}

impl<'a> Tuple<'a> {
    /// Walk over one TupleData, checking every length.
    ///
    /// # Errors
    /// When it is not whole or a column's kind is unknown.
    pub fn parse(cursor: &mut Cursor<'a>) -> Result<Self> {
        let start = *cursor;
        let count = cursor.i16("number of columns")?;
        let Ok(count) = usize::try_from(count) else {
            return Err(start.error(Reason::BadLength(i64::from(count)), "number of columns"));
        };
        let mut rest = cursor.rest();
        for _ in 0..count {
            match split(rest) {
                Some((_, after)) => rest = after,
                None => {
                    let read = cursor.rest().len().saturating_sub(rest.len());
                    return Err(error(Cursor::at(rest, cursor.offset().saturating_add(read))));
                }
            }
        }
        let bytes = cursor.bytes(cursor.rest().len().saturating_sub(rest.len()), "tuple")?;
        Ok(Self { count, bytes })
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no columns.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The columns, in order.
    pub fn columns(&self) -> Columns<'a> {
        Columns { rest: self.bytes }
    }
}

/// The columns of a tuple, one after the other.
#[derive(Clone, Debug)]
pub struct Columns<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Columns<'a> {
    type Item = Datum<'a>;

    #[inline]
    fn next(&mut self) -> Option<Datum<'a>> {
        // The tuple was walked when it was parsed, so None here is the end.
        let (datum, rest) = split(self.rest)?;
        self.rest = rest;
        Some(datum)
    }
}
