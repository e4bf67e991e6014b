//! TupleData: the columns of one row, still bytes.
//!
//! Source: PostgreSQL manual, "Logical Replication Message Formats", TupleData; server function `logicalrep_write_tuple`.
use crate::cursor::Cursor;
use crate::error::{Reason, Result};

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

#[inline]
fn datum<'a>(cursor: &mut Cursor<'a>) -> Result<Datum<'a>> {
    let start = *cursor;
    match cursor.u8("column kind")? {
        b't' => cursor.sized("column value").map(Datum::Text),
        b'b' => cursor.sized("column value").map(Datum::Binary),
        b'n' => Ok(Datum::Null),
        b'u' => Ok(Datum::Unchanged),
        other => Err(start.error(Reason::UnexpectedByte(other), "column kind")),
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
        let whole = cursor.rest();
        for _ in 0..count {
            datum(cursor)?;
        }
        let length = whole.len().saturating_sub(cursor.rest().len());
        let (bytes, _) = whole.split_at(length.min(whole.len()));
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
        Columns { cursor: Cursor::new(self.bytes) }
    }
}

/// The columns of a tuple, one after the other.
#[derive(Clone, Debug)]
pub struct Columns<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Datum<'a>;

    #[inline]
    fn next(&mut self) -> Option<Datum<'a>> {
        // The tuple was walked when it was parsed, so an error here can only be the end.
        datum(&mut self.cursor).ok()
    }
}
