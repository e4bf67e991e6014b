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

/// The first column and what follows it; None where it is not whole. Every column of every row comes through here, so it
/// keeps no offset (`error` finds out what is wrong), and each kind has a way of its own to whoever takes the column.
#[inline]
fn split(bytes: &[u8]) -> Option<(Datum<'_>, &[u8])> {
    match bytes {
        [b'b', l0, l1, l2, l3, rest @ ..] => {
            let (value, rest) = sized([*l0, *l1, *l2, *l3], rest)?;
            Some((Datum::Binary(value), rest))
        }
        [b't', l0, l1, l2, l3, rest @ ..] => {
            let (value, rest) = sized([*l0, *l1, *l2, *l3], rest)?;
            Some((Datum::Text(value), rest))
        }
        [b'n', rest @ ..] => Some((Datum::Null, rest)),
        [b'u', rest @ ..] => Some((Datum::Unchanged, rest)),
        _ => None,
    }
}

#[inline]
fn sized(length: [u8; 4], rest: &[u8]) -> Option<(&[u8], &[u8])> {
    // A negative length is more than there is.
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(length)).ok()?).filter(|_| i32::from_be_bytes(length) >= 0)
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

    /// The TupleData that a message ends with, not walked yet: there may be more or fewer columns than are announced, or
    /// other bytes than columns. For who reads all of them and then asks whether there were as many and nothing is left
    /// ([`Columns::is_at_end`]); it spares walking twice.
    ///
    /// # Errors
    /// When the number of columns is not there.
    pub fn ahead(cursor: &mut Cursor<'a>) -> Result<Self> {
        let start = *cursor;
        let count = cursor.i16("number of columns")?;
        let Ok(count) = usize::try_from(count) else {
            return Err(start.error(Reason::BadLength(i64::from(count)), "number of columns"));
        };
        let bytes = cursor.bytes(cursor.rest().len(), "tuple")?;
        Ok(Self { count, bytes })
    }

    /// Likewise of the bytes that it begins with; None when the number of columns is not there or negative.
    #[inline]
    pub(crate) fn ahead_of(bytes: &'a [u8]) -> Option<Self> {
        let (count, bytes) = bytes.split_first_chunk()?;
        let count = usize::try_from(i16::from_be_bytes(*count)).ok()?;
        Some(Self { count, bytes })
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

impl Columns<'_> {
    /// Whether all bytes were read.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> Iterator for Columns<'a> {
    type Item = Datum<'a>;

    #[inline]
    fn next(&mut self) -> Option<Datum<'a>> {
        // Where the tuple was walked when it was parsed, None here is the end.
        let (datum, rest) = split(self.rest)?;
        self.rest = rest;
        Some(datum)
    }
}
