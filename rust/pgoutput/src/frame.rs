//! The payloads of CopyData in streaming replication: XLogData and keepalive in, the client's answers out.
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

/// What the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// How far it is. The server may throw away what is below `flushed`.
    StatusUpdate {
        /// How far the WAL was received.
        written: u64,
        /// How far it is durable.
        flushed: u64,
        /// How far it is applied.
        applied: u64,
        /// When it was sent, in microseconds since 2000-01-01 UTC.
        send_time: i64,
        /// Whether the client wants a keepalive now.
        reply_requested: bool,
    },
    /// Which transactions a standby's queries still see; 0 for none. A client of logical decoding has no use for it.
    HotStandbyFeedback {
        /// When it was sent, in microseconds since 2000-01-01 UTC.
        send_time: i64,
        /// The oldest transaction that is seen.
        xmin: u32,
        /// How often ids had wrapped around at that one.
        xmin_epoch: u32,
        /// The oldest transaction that the standby's slots need in the catalogs.
        catalog_xmin: u32,
        /// How often ids had wrapped around at that one.
        catalog_xmin_epoch: u32,
    },
}

impl Answer {
    /// Read one payload.
    ///
    /// # Errors
    /// When it is neither of the two, or not whole.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let start = cursor;
        let answer = match cursor.u8("CopyData kind")? {
            b'r' => Self::StatusUpdate {
                written: cursor.u64("written")?,
                flushed: cursor.u64("flushed")?,
                applied: cursor.u64("applied")?,
                send_time: cursor.i64("send_time")?,
                reply_requested: cursor.u8("reply_requested")? != 0,
            },
            b'h' => Self::HotStandbyFeedback {
                send_time: cursor.i64("send_time")?,
                xmin: cursor.u32("xmin")?,
                xmin_epoch: cursor.u32("xmin epoch")?,
                catalog_xmin: cursor.u32("catalog_xmin")?,
                catalog_xmin_epoch: cursor.u32("catalog_xmin epoch")?,
            },
            other => return Err(start.error(Reason::UnknownKind(other), "CopyData kind")),
        };
        cursor.finish("answer")?;
        Ok(answer)
    }
}
