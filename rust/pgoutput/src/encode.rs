//! Messages, tuples, frames and COPY data to bytes: what a server writes, and what a client answers.
//!
//! Written for tests and for whoever plays a server; nothing on the way of a row from the server to a target comes through
//! here. Reading what is written here gives the same again.
//!
//! Source: PostgreSQL manual, "Logical Replication Message Formats", "Streaming Replication Protocol", "COPY" (Binary
//! Format).
use crate::copy::SIGNATURE;
use crate::cursor::LONGEST_NAME;
use crate::error::{Error, Reason, Result};
use crate::frame::{Answer, Frame};
use crate::message::{Message, Old, Prepared, kind};
use crate::relation::Relation;
use crate::tuple::{Datum, Tuple};

/// Writes fields, each with a name for the error message; what is in `out` already stays.
struct Writer<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
}

impl<'o> Writer<'o> {
    fn new(out: &'o mut Vec<u8>) -> Self {
        Self { start: out.len(), out }
    }

    fn error(&self, reason: Reason, field: &'static str) -> Error {
        Error { reason, field, offset: self.out.len().saturating_sub(self.start) }
    }

    /// Nothing is left behind of what could not be written whole.
    fn finish(self, written: Result<()>) -> Result<()> {
        if written.is_err() {
            self.out.truncate(self.start);
        }
        written
    }

    fn u8(&mut self, byte: u8) {
        self.out.push(byte);
    }

    fn flag(&mut self, flag: bool) {
        self.out.push(u8::from(flag));
    }

    fn u32(&mut self, number: u32) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    fn i32(&mut self, number: i32) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    fn i64(&mut self, number: i64) {
        self.out.extend_from_slice(&number.to_be_bytes());
    }

    fn too_long(&self, length: usize, field: &'static str) -> Error {
        self.error(Reason::BadLength(i64::try_from(length).unwrap_or(i64::MAX)), field)
    }

    fn count_of_columns(&mut self, count: usize) -> Result<()> {
        match i16::try_from(count) {
            Ok(count) => self.out.extend_from_slice(&count.to_be_bytes()),
            Err(_) => return Err(self.too_long(count, "number of columns")),
        }
        Ok(())
    }

    fn string(&mut self, text: &[u8], field: &'static str) -> Result<()> {
        if memchr::memchr(0, text).is_some() {
            return Err(self.error(Reason::UnexpectedByte(0), field));
        }
        self.out.extend_from_slice(text);
        self.u8(0);
        Ok(())
    }

    fn name(&mut self, name: &[u8], field: &'static str) -> Result<()> {
        if name.len() > LONGEST_NAME { Err(self.too_long(name.len(), field)) } else { self.string(name, field) }
    }

    fn sized(&mut self, bytes: &[u8], field: &'static str) -> Result<()> {
        match i32::try_from(bytes.len()) {
            Ok(length) => self.i32(length),
            Err(_) => return Err(self.too_long(bytes.len(), field)),
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn kind(&mut self, kind: u8, xid: Option<u32>) {
        self.u8(kind);
        if let Some(xid) = xid {
            self.u32(xid);
        }
    }

    fn relation(&mut self, relation: &Relation) -> Result<()> {
        self.u32(relation.oid);
        self.name(&relation.schema, "schema name")?;
        self.name(&relation.name, "relation name")?;
        self.u8(relation.replica_identity);
        self.count_of_columns(relation.columns.len())?;
        for column in &relation.columns {
            self.flag(column.is_key);
            self.name(&column.name, "column name")?;
            self.u32(column.type_oid);
            self.i32(column.type_modifier);
        }
        Ok(())
    }

    fn datum(&mut self, datum: Datum<'_>) -> Result<()> {
        match datum {
            Datum::Null => self.u8(b'n'),
            Datum::Unchanged => self.u8(b'u'),
            Datum::Text(value) => {
                self.u8(b't');
                self.sized(value, "column value")?;
            }
            Datum::Binary(value) => {
                self.u8(b'b');
                self.sized(value, "column value")?;
            }
        }
        Ok(())
    }

    fn tuple(&mut self, tuple: &Tuple<'_>) -> Result<()> {
        self.count_of_columns(tuple.len())?;
        tuple.columns().try_for_each(|datum| self.datum(datum))
    }

    fn old(&mut self, old: &Old<'_>) -> Result<()> {
        let (kind, tuple) = match old {
            Old::Key(tuple) => (b'K', tuple),
            Old::Row(tuple) => (b'O', tuple),
        };
        self.u8(kind);
        self.tuple(tuple)
    }

    fn new_tuple(&mut self, tuple: &Tuple<'_>) -> Result<()> {
        self.u8(b'N');
        self.tuple(tuple)
    }

    fn prepared(&mut self, kind: u8, of: &Prepared<'_>) -> Result<()> {
        self.u8(kind);
        self.u8(of.flags);
        self.u64(of.prepare_lsn);
        self.u64(of.end_lsn);
        self.i64(of.prepare_time);
        self.u32(of.xid);
        self.string(of.gid, "gid")
    }

    fn message(&mut self, message: &Message<'_>) -> Result<()> {
        match message {
            Message::Begin { final_lsn, commit_time, xid } => {
                self.u8(kind::BEGIN);
                self.u64(*final_lsn);
                self.i64(*commit_time);
                self.u32(*xid);
            }
            Message::Commit { flags, commit_lsn, end_lsn, commit_time } => {
                self.u8(kind::COMMIT);
                self.u8(*flags);
                self.u64(*commit_lsn);
                self.u64(*end_lsn);
                self.i64(*commit_time);
            }
            Message::Origin { commit_lsn, name } => {
                self.u8(kind::ORIGIN);
                self.u64(*commit_lsn);
                self.string(name, "origin name")?;
            }
            Message::Relation { xid, relation } => {
                self.kind(kind::RELATION, *xid);
                self.relation(relation)?;
            }
            Message::Type { xid, oid, schema, name } => {
                self.kind(kind::TYPE, *xid);
                self.u32(*oid);
                self.name(schema, "schema name")?;
                self.name(name, "type name")?;
            }
            Message::Insert { xid, relation_oid, new } => {
                self.kind(kind::INSERT, *xid);
                self.u32(*relation_oid);
                self.new_tuple(new)?;
            }
            Message::Update { xid, relation_oid, old, new } => {
                self.kind(kind::UPDATE, *xid);
                self.u32(*relation_oid);
                old.as_ref().map_or(Ok(()), |old| self.old(old))?;
                self.new_tuple(new)?;
            }
            Message::Delete { xid, relation_oid, old } => {
                self.kind(kind::DELETE, *xid);
                self.u32(*relation_oid);
                self.old(old)?;
            }
            Message::Truncate { xid, cascade, restart_identity, relation_oids } => {
                self.kind(kind::TRUNCATE, *xid);
                match i32::try_from(relation_oids.len()) {
                    Ok(count) => self.i32(count),
                    Err(_) => return Err(self.too_long(relation_oids.len(), "number of relations")),
                }
                self.u8(u8::from(*cascade) | (u8::from(*restart_identity) << 1));
                for &oid in relation_oids {
                    self.u32(oid);
                }
            }
            Message::Message { xid, transactional, lsn, prefix, content } => {
                self.kind(kind::MESSAGE, *xid);
                self.flag(*transactional);
                self.u64(*lsn);
                self.string(prefix, "message prefix")?;
                self.sized(content, "message content")?;
            }
            other => self.of_protocol_2_to_4(other)?,
        }
        Ok(())
    }

    fn of_protocol_2_to_4(&mut self, message: &Message<'_>) -> Result<()> {
        match message {
            Message::StreamStart { xid, first_segment } => {
                self.kind(kind::STREAM_START, Some(*xid));
                self.flag(*first_segment);
            }
            Message::StreamCommit { xid, flags, commit_lsn, end_lsn, commit_time } => {
                self.kind(kind::STREAM_COMMIT, Some(*xid));
                self.u8(*flags);
                self.u64(*commit_lsn);
                self.u64(*end_lsn);
                self.i64(*commit_time);
            }
            Message::StreamAbort { xid, subxid, abort } => {
                self.kind(kind::STREAM_ABORT, Some(*xid));
                self.u32(*subxid);
                if let Some((abort_lsn, abort_time)) = abort {
                    self.u64(*abort_lsn);
                    self.i64(*abort_time);
                }
            }
            Message::BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, gid } => {
                self.u8(kind::BEGIN_PREPARE);
                self.u64(*prepare_lsn);
                self.u64(*end_lsn);
                self.i64(*prepare_time);
                self.u32(*xid);
                self.string(gid, "gid")?;
            }
            Message::Prepare(of) => self.prepared(kind::PREPARE, of)?,
            Message::StreamPrepare(of) => self.prepared(kind::STREAM_PREPARE, of)?,
            Message::CommitPrepared { flags, commit_lsn, end_lsn, commit_time, xid, gid } => {
                self.u8(kind::COMMIT_PREPARED);
                self.u8(*flags);
                self.u64(*commit_lsn);
                self.u64(*end_lsn);
                self.i64(*commit_time);
                self.u32(*xid);
                self.string(gid, "gid")?;
            }
            Message::RollbackPrepared {
                flags,
                prepare_end_lsn,
                rollback_end_lsn,
                prepare_time,
                rollback_time,
                xid,
                gid,
            } => {
                self.u8(kind::ROLLBACK_PREPARED);
                self.u8(*flags);
                self.u64(*prepare_end_lsn);
                self.u64(*rollback_end_lsn);
                self.i64(*prepare_time);
                self.i64(*rollback_time);
                self.u32(*xid);
                self.string(gid, "gid")?;
            }
            // Stream Stop; the others have been written.
            _ => self.u8(kind::STREAM_STOP),
        }
        Ok(())
    }
}

impl Message<'_> {
    /// Append the message to `out`: as it is inside a stream where it has an `xid` that it would have only there.
    ///
    /// # Errors
    /// When a string has a zero byte, or a count or length is more than the format can say; `out` is as before then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let mut writer = Writer::new(out);
        let written = writer.message(self);
        writer.finish(written)
    }
}

/// Append a tuple of these columns to `out`, for [`Tuple::parse`].
///
/// # Errors
/// When there are more columns, or one is longer, than the format can say; `out` is as before then.
pub fn tuple(columns: &[Datum<'_>], out: &mut Vec<u8>) -> Result<()> {
    let mut writer = Writer::new(out);
    let written = writer.count_of_columns(columns.len());
    let written = written.and_then(|()| columns.iter().try_for_each(|&datum| writer.datum(datum)));
    writer.finish(written)
}

impl Frame<'_> {
    /// Append the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match *self {
            Self::XLogData { wal_start, wal_end, send_time, payload } => {
                writer.u8(b'w');
                writer.u64(wal_start);
                writer.u64(wal_end);
                writer.i64(send_time);
                writer.out.extend_from_slice(payload);
            }
            Self::Keepalive { wal_end, send_time, reply_requested } => {
                writer.u8(b'k');
                writer.u64(wal_end);
                writer.i64(send_time);
                writer.flag(reply_requested);
            }
        }
    }
}

impl Answer {
    /// Append the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match *self {
            Self::StatusUpdate { written, flushed, applied, send_time, reply_requested } => {
                writer.u8(b'r');
                writer.u64(written);
                writer.u64(flushed);
                writer.u64(applied);
                writer.i64(send_time);
                writer.flag(reply_requested);
            }
            Self::HotStandbyFeedback { send_time, xmin, xmin_epoch, catalog_xmin, catalog_xmin_epoch } => {
                writer.u8(b'h');
                writer.i64(send_time);
                writer.u32(xmin);
                writer.u32(xmin_epoch);
                writer.u32(catalog_xmin);
                writer.u32(catalog_xmin_epoch);
            }
        }
    }
}

/// Append what COPY BINARY begins with to `out`: no flags, no extension.
pub fn copy_header(out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    let mut writer = Writer::new(out);
    writer.u32(0);
    writer.u32(0);
}

/// Append a row of COPY BINARY to `out`; None is NULL.
///
/// # Errors
/// When there are more columns, or one is longer, than the format can say; `out` is as before then.
pub fn copy_row(fields: &[Option<&[u8]>], out: &mut Vec<u8>) -> Result<()> {
    let mut writer = Writer::new(out);
    let written = writer.count_of_columns(fields.len());
    let written = written.and_then(|()| {
        fields.iter().try_for_each(|field| match field {
            Some(value) => writer.sized(value, "column value"),
            None => {
                writer.i32(-1);
                Ok(())
            }
        })
    });
    writer.finish(written)
}

/// Append what COPY BINARY ends with to `out`.
pub fn copy_trailer(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i16).to_be_bytes());
}
