//! `COPY … TO STDOUT (FORMAT binary)` to Insert messages, so that everything after this reads one format.
//!
//! Source: PostgreSQL manual, "COPY", Binary Format.
use std::sync::Arc;

use crate::batch::Builder;
use crate::cursor::Cursor;
use crate::error::{Error, Reason, Result};
use crate::message::kind;
use crate::session::{Place, Shape, Transaction};

pub(crate) const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Bits 16–31 of the flags are critical: a reader that does not know them must refuse (bit 16: OIDs are included).
const CRITICAL_FLAGS: u32 = 0xffff_0000;
/// The index of rows of an initial copy: before the first change of a transaction at the same LSN.
pub const SNAPSHOT_INDEX: i64 = -1;

/// Where in the copy the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    Finished,
}

/// Reads one COPY, cut anywhere.
#[derive(Debug)]
pub struct Reader {
    place: Place,
    relation_oid: u32,
    columns: usize,
    text_columns: Vec<bool>,
    pending: Vec<u8>,
    state: State,
}

/// What to do after trying to read something from the pending bytes.
enum Step {
    Again(usize),
    NeedMore,
}

impl Reader {
    /// Read a copy of a table, taken in a snapshot with this consistent point. Columns flagged in `text_columns` hold the
    /// text form of their type.
    pub fn new(shape: Arc<Shape>, lsn: u64, text_columns: Vec<bool>) -> Self {
        Self {
            relation_oid: shape.relation.oid,
            columns: shape.relation.columns.len(),
            place: Place {
                shape: Some(shape),
                transaction: Some(Transaction {
                    commit_lsn: lsn,
                    commit_time: None,
                    xid: None,
                    previous_end_lsn: None,
                }),
                index: Some(SNAPSHOT_INDEX),
                ..Place::default()
            },
            text_columns,
            pending: Vec::new(),
            state: State::Header,
        }
    }

    /// Whether the trailer was read.
    pub fn finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Take one payload.
    ///
    /// # Errors
    /// When the bytes are not COPY BINARY, or a row has another number of columns than the relation.
    pub fn read(&mut self, bytes: &[u8], builder: &mut Builder) -> Result<()> {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while !rest.is_empty() {
            let step = match self.state {
                State::Header => self.header(rest),
                State::Rows => self.row(rest, builder),
                State::Finished => Cursor::new(rest).finish("COPY trailer").map(|()| Step::NeedMore),
            }?;
            match step {
                Step::Again(used) => rest = rest.get(used..).unwrap_or_default(),
                Step::NeedMore => break,
            }
        }
        self.pending.extend_from_slice(rest);
        Ok(())
    }

    fn header(&mut self, bytes: &[u8]) -> Result<Step> {
        let known = bytes.len().min(SIGNATURE.len());
        if bytes.get(..known) != SIGNATURE.get(..known) {
            return Err(Cursor::new(bytes).error(Reason::NotCopyBinary, "COPY signature"));
        }
        let mut cursor = Cursor::new(bytes);
        let whole = cursor.bytes(SIGNATURE.len(), "COPY signature").and_then(|_| {
            let flags = cursor.u32("COPY flags")?;
            let extension = cursor.sized("COPY header extension")?;
            Ok((flags, extension))
        });
        match whole {
            Ok((flags, _)) if flags & CRITICAL_FLAGS == 0 => {
                self.state = State::Rows;
                Ok(Step::Again(cursor.offset()))
            }
            Ok(_) => Err(Cursor::new(bytes).error(Reason::NotCopyBinary, "COPY flags")),
            Err(error) => need_more(error),
        }
    }

    fn row(&mut self, bytes: &[u8], builder: &mut Builder) -> Result<Step> {
        let start = builder.bytes_mut().len();
        match self.write(bytes, builder.bytes_mut()) {
            Ok((used, true)) => {
                builder.push_written(start, &self.place);
                Ok(Step::Again(used))
            }
            Ok((used, false)) => {
                self.state = State::Finished;
                Ok(Step::Again(used))
            }
            Err(error) => {
                builder.bytes_mut().truncate(start);
                need_more(error)
            }
        }
    }

    /// Write one row as an Insert message; gives how much was read and whether it was a row (else the trailer).
    fn write(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(usize, bool)> {
        let mut cursor = Cursor::new(bytes);
        let start = cursor;
        let count = cursor.i16("number of columns")?;
        if count == -1 {
            return Ok((cursor.offset(), false));
        }
        if usize::try_from(count) != Ok(self.columns) {
            let count = usize::try_from(count).unwrap_or(0);
            return Err(start.error(Reason::ColumnCount(count), "number of columns"));
        }
        out.push(kind::INSERT);
        out.extend_from_slice(&self.relation_oid.to_be_bytes());
        out.push(b'N');
        out.extend_from_slice(&count.to_be_bytes());
        for column in 0..self.columns {
            let field = cursor;
            let length = cursor.i32("column value")?;
            if length == -1 {
                out.push(b'n');
                continue;
            }
            let Ok(size) = usize::try_from(length) else {
                return Err(field.error(Reason::BadLength(i64::from(length)), "column value"));
            };
            let value = cursor.bytes(size, "column value")?;
            out.push(if self.text_columns.get(column) == Some(&true) { b't' } else { b'b' });
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(value);
        }
        Ok((cursor.offset(), true))
    }
}

fn need_more(error: Error) -> Result<Step> {
    if error.reason == Reason::UnexpectedEnd { Ok(Step::NeedMore) } else { Err(error) }
}
