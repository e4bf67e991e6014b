//! The payloads of CopyData in streaming replication: XLogData and keepalive in, standby status update out.
//!
//! Source: PostgreSQL manual, "Streaming Replication Protocol".
use crate::cursor::Cursor;
use crate::error::{Reason, Result};

/// What the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A piece of the stream; with logical decoding one whole message.
    XLogData {
        /// Where the message stands in the WAL. Goes backwards, and is 0/0 for some messages: never a position.
        wal_start: u64,
        /// The server's current end of WAL.
        wal_end: u64,
        /// When it was sent, in microseconds since 2000-01-01 UTC.
        send_time: i64,
        /// The message.
        payload: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// How far the server has decoded the WAL.
        wal_end: u64,
        /// When it was sent, in microseconds since 2000-01-01 UTC.
        send_time: i64,
        /// Whether the server wants an answer now.
        reply_requested: bool,
    },
}

impl<'a> Frame<'a> {
    /// Read one payload.
    ///
    /// # Errors
    /// When it is neither of the two, or not whole.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let start = cursor;
        match cursor.u8("CopyData kind")? {
            b'w' => Ok(Self::XLogData {
                wal_start: cursor.u64("wal_start")?,
                wal_end: cursor.u64("wal_end")?,
                send_time: cursor.i64("send_time")?,
                payload: cursor.rest(),
            }),
            b'k' => {
                let wal_end = cursor.u64("wal_end")?;
                let send_time = cursor.i64("send_time")?;
                let reply_requested = cursor.u8("reply_requested")? != 0;
                cursor.finish("keepalive")?;
                Ok(Self::Keepalive { wal_end, send_time, reply_requested })
            }
            other => Err(start.error(Reason::UnknownKind(other), "CopyData kind")),
        }
    }
}

/// The client's report of how far it is. The server may throw away what is below `flushed`.
///
/// `now` is in microseconds since 2000-01-01 UTC.
pub fn status_update(written: u64, flushed: u64, applied: u64, now: i64, reply_requested: bool) -> [u8; 34] {
    let mut out = [0; 34];
    let fields =
        [[b'r'].as_slice(), &written.to_be_bytes(), &flushed.to_be_bytes(), &applied.to_be_bytes(), &now.to_be_bytes()];
    let bytes = fields.into_iter().flatten().copied().chain([u8::from(reply_requested)]);
    for (slot, byte) in out.iter_mut().zip(bytes) {
        *slot = byte;
    }
    out
}
