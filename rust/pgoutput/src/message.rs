//! One pgoutput message of protocol versions 1 to 4, borrowed from its bytes: one switch on the first byte.
//!
//! Nothing in the bytes of a Relation, Type, row, Truncate or Message says whether the id of a transaction comes after the
//! kind: it does between Stream Start and Stream Stop, and nowhere else. Who parses says where the message stood
//! ([`crate::session`] knows); all else is told by kinds and lengths, so no protocol version has to be given.
//!
//! Over 400 lines, because each kind is there three times: its letter, its fields, how they are read.
//!
//! Source: PostgreSQL manual, "Logical Replication Message Formats"; server file `replication/logical/proto.c`.
use crate::cursor::Cursor;
use crate::error::{Error, Reason, Result};
use crate::relation::Relation;
use crate::tuple::Tuple;

/// The first bytes of the messages.
pub mod kind {
    /// Begin.
    pub const BEGIN: u8 = b'B';
    /// Commit.
    pub const COMMIT: u8 = b'C';
    /// Origin.
    pub const ORIGIN: u8 = b'O';
    /// Relation.
    pub const RELATION: u8 = b'R';
    /// Type.
    pub const TYPE: u8 = b'Y';
    /// Insert.
    pub const INSERT: u8 = b'I';
    /// Update.
    pub const UPDATE: u8 = b'U';
    /// Delete.
    pub const DELETE: u8 = b'D';
    /// Truncate.
    pub const TRUNCATE: u8 = b'T';
    /// Message (`pg_logical_emit_message`).
    pub const MESSAGE: u8 = b'M';
    /// Stream Start.
    pub const STREAM_START: u8 = b'S';
    /// Stream Stop.
    pub const STREAM_STOP: u8 = b'E';
    /// Stream Commit.
    pub const STREAM_COMMIT: u8 = b'c';
    /// Stream Abort.
    pub const STREAM_ABORT: u8 = b'A';
    /// Begin Prepare.
    pub const BEGIN_PREPARE: u8 = b'b';
    /// Prepare.
    pub const PREPARE: u8 = b'P';
    /// Commit Prepared.
    pub const COMMIT_PREPARED: u8 = b'K';
    /// Rollback Prepared.
    pub const ROLLBACK_PREPARED: u8 = b'r';
    /// Stream Prepare.
    pub const STREAM_PREPARE: u8 = b'p';
}

/// Which old tuple came with an Update or Delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// `K`: the key columns; all others are sent as null and mean "not sent".
    Key(Tuple<'a>),
    /// `O`: the whole old row, under REPLICA IDENTITY FULL.
    Row(Tuple<'a>),
}

/// A transaction that was prepared, as Prepare and Stream Prepare tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared<'a> {
    /// Unused, 0.
    pub flags: u8,
    /// The LSN of the prepare record.
    pub prepare_lsn: u64,
    /// Its end.
    pub end_lsn: u64,
    /// When it was prepared, in microseconds since 2000-01-01 UTC.
    pub prepare_time: i64,
    /// The transaction's id.
    pub xid: u32,
    /// The name that PREPARE TRANSACTION gave it.
    pub gid: &'a [u8],
}

/// One message. `xid` of those that have it as an Option is the (sub-)transaction's id inside a stream, else None.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The beginning of a committed transaction.
    Begin {
        /// The LSN of the commit record.
        final_lsn: u64,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
        /// The transaction's id.
        xid: u32,
    },
    /// The end of a committed transaction.
    Commit {
        /// Unused, 0.
        flags: u8,
        /// The LSN of the commit record.
        commit_lsn: u64,
        /// Its end: what may be confirmed.
        end_lsn: u64,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
    },
    /// Where the transaction came from.
    Origin {
        /// The LSN of the commit on the origin server.
        commit_lsn: u64,
        /// The origin's name.
        name: &'a [u8],
    },
    /// The shape of a table.
    Relation {
        /// Inside a stream, the (sub-)transaction's id.
        xid: Option<u32>,
        /// The shape.
        relation: Relation,
    },
    /// A user-defined type.
    Type {
        /// Inside a stream, the (sub-)transaction's id.
        xid: Option<u32>,
        /// Its OID.
        oid: u32,
        /// The schema's name; empty for `pg_catalog`.
        schema: &'a [u8],
        /// Its name.
        name: &'a [u8],
    },
    /// A new row.
    Insert {
        /// Inside a stream, the (sub-)transaction's id.
        xid: Option<u32>,
        /// The table's OID.
        relation_oid: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// Inside a stream, the (sub-)transaction's id.
        xid: Option<u32>,
        /// The table's OID.
        relation_oid: u32,
        /// What was sent of the old row.
        old: Option<Old<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A removed row.
    Delete {
        /// Inside a stream, the (sub-)transaction's id.
        xid: Option<u32>,
        /// The table's OID.
        relation_oid: u32,
        /// What was sent of the old row.
        old: Old<'a>,
    },
    /// Emptied tables.
    Truncate {
        /// Inside a stream, the (sub-)transaction's id.
        xid: Option<u32>,
        /// CASCADE was given.
        cascade: bool,
        /// RESTART IDENTITY was given.
        restart_identity: bool,
        /// The tables' OIDs.
        relation_oids: Vec<u32>,
    },
    /// What `pg_logical_emit_message` wrote.
    Message {
        /// Inside a stream, the (sub-)transaction's id.
        xid: Option<u32>,
        /// Whether it belongs to the transaction around it.
        transactional: bool,
        /// Where it was written.
        lsn: u64,
        /// The prefix.
        prefix: &'a [u8],
        /// The content.
        content: &'a [u8],
    },
    /// A piece of a transaction that is still in progress begins.
    StreamStart {
        /// The id of the whole (top-level) transaction.
        xid: u32,
        /// Whether it is the transaction's first piece.
        first_segment: bool,
    },
    /// The piece ends.
    StreamStop,
    /// A streamed transaction was committed.
    StreamCommit {
        /// The id of the whole transaction.
        xid: u32,
        /// Unused, 0.
        flags: u8,
        /// The LSN of the commit record.
        commit_lsn: u64,
        /// Its end: what may be confirmed.
        end_lsn: u64,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
    },
    /// A streamed transaction, or a part of it, was rolled back.
    StreamAbort {
        /// The id of the whole transaction.
        xid: u32,
        /// The id of the sub-transaction that was rolled back, with all inside it; the same id when it was the whole.
        subxid: u32,
        /// The LSN of the abort record and when it was written, in microseconds since 2000-01-01 UTC; with
        /// `streaming = parallel` only.
        abort: Option<(u64, i64)>,
    },
    /// The beginning of a transaction that was prepared.
    BeginPrepare {
        /// The LSN of the prepare record.
        prepare_lsn: u64,
        /// Its end.
        end_lsn: u64,
        /// When it was prepared, in microseconds since 2000-01-01 UTC.
        prepare_time: i64,
        /// The transaction's id.
        xid: u32,
        /// The name that PREPARE TRANSACTION gave it.
        gid: &'a [u8],
    },
    /// The end of a transaction that was prepared.
    Prepare(Prepared<'a>),
    /// A prepared transaction was committed.
    CommitPrepared {
        /// Unused, 0.
        flags: u8,
        /// The LSN of the record that committed it.
        commit_lsn: u64,
        /// Its end: what may be confirmed.
        end_lsn: u64,
        /// Microseconds since 2000-01-01 UTC.
        commit_time: i64,
        /// The transaction's id.
        xid: u32,
        /// The name that PREPARE TRANSACTION gave it.
        gid: &'a [u8],
    },
    /// A prepared transaction was rolled back.
    RollbackPrepared {
        /// Unused, 0.
        flags: u8,
        /// The end of the prepare record.
        prepare_end_lsn: u64,
        /// The end of the record that rolled it back: what may be confirmed.
        rollback_end_lsn: u64,
        /// When it was prepared, in microseconds since 2000-01-01 UTC.
        prepare_time: i64,
        /// When it was rolled back, in microseconds since 2000-01-01 UTC.
        rollback_time: i64,
        /// The transaction's id.
        xid: u32,
        /// The name that PREPARE TRANSACTION gave it.
        gid: &'a [u8],
    },
    /// The end of a streamed transaction that was prepared.
    StreamPrepare(Prepared<'a>),
}

/// What most messages are: an Insert, or an Update with nothing of the old row, outside of streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewRow<'a> {
    /// Whether it is an Insert.
    pub is_insert: bool,
    /// The table's OID.
    pub relation_oid: u32,
    /// The row, not walked yet ([`Tuple::ahead`]).
    pub new: Tuple<'a>,
}

impl<'a> NewRow<'a> {
    /// Read one in a single step; None for all other messages and for what is malformed.
    #[inline]
    pub(crate) fn ahead(bytes: &'a [u8]) -> Option<Self> {
        let &[kind @ (kind::INSERT | kind::UPDATE), o0, o1, o2, o3, b'N', ref row @ ..] = bytes else { return None };
        let relation_oid = u32::from_be_bytes([o0, o1, o2, o3]);
        Some(Self { is_insert: kind == kind::INSERT, relation_oid, new: Tuple::ahead_of(row)? })
    }
}

/// Whether inside a stream a transaction's id comes after this kind.
pub fn has_xid(kind: u8) -> bool {
    matches!(
        kind,
        kind::RELATION | kind::TYPE | kind::INSERT | kind::UPDATE | kind::DELETE | kind::TRUNCATE | kind::MESSAGE
    )
}

/// A row; the one that its message ends with may be walked by who reads it.
fn tuple<'a, const WALK: bool>(cursor: &mut Cursor<'a>) -> Result<Tuple<'a>> {
    if WALK { Tuple::parse(cursor) } else { Tuple::ahead(cursor) }
}

fn old<'a, const WALK: bool>(cursor: &mut Cursor<'a>) -> Result<Old<'a>> {
    let start = *cursor;
    match cursor.u8("old tuple kind")? {
        b'K' => tuple::<WALK>(cursor).map(Old::Key),
        b'O' => tuple::<WALK>(cursor).map(Old::Row),
        other => Err(start.error(Reason::UnexpectedByte(other), "old tuple kind")),
    }
}

fn new<'a, const WALK: bool>(cursor: &mut Cursor<'a>) -> Result<Tuple<'a>> {
    let start = *cursor;
    match cursor.u8("new tuple kind")? {
        b'N' => tuple::<WALK>(cursor),
        other => Err(start.error(Reason::UnexpectedByte(other), "new tuple kind")),
    }
}

fn update<'a, const WALK: bool>(cursor: &mut Cursor<'a>, xid: Option<u32>) -> Result<Message<'a>> {
    let relation_oid = cursor.u32("relation OID")?;
    let old = match cursor.rest().first() {
        Some(b'K' | b'O') => Some(old::<true>(cursor)?),
        _ => None,
    };
    Ok(Message::Update { xid, relation_oid, old, new: new::<WALK>(cursor)? })
}

fn truncate<'a>(cursor: &mut Cursor<'a>, xid: Option<u32>) -> Result<Message<'a>> {
    let start = *cursor;
    let count = cursor.i32("number of relations")?;
    let Ok(count) = usize::try_from(count) else {
        return Err(start.error(Reason::BadLength(i64::from(count)), "number of relations"));
    };
    let start = *cursor;
    let options = cursor.u8("truncate options")?;
    if options > 3 {
        return Err(start.error(Reason::UnexpectedByte(options), "truncate options"));
    }
    let mut relation_oids = Vec::new();
    for _ in 0..count {
        relation_oids.push(cursor.u32("relation OID")?);
    }
    Ok(Message::Truncate { xid, cascade: options & 1 != 0, restart_identity: options & 2 != 0, relation_oids })
}

fn logical_message<'a>(cursor: &mut Cursor<'a>, xid: Option<u32>) -> Result<Message<'a>> {
    let start = *cursor;
    let flags = cursor.u8("message flags")?;
    if flags > 1 {
        return Err(start.error(Reason::UnexpectedByte(flags), "message flags"));
    }
    Ok(Message::Message {
        xid,
        transactional: flags == 1,
        lsn: cursor.u64("message LSN")?,
        prefix: cursor.string("message prefix")?,
        content: cursor.sized("message content")?,
    })
}

fn stream_abort<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>> {
    let xid = cursor.u32("xid")?;
    let subxid = cursor.u32("subxid")?;
    // Where and when are there or not, and the length alone says which.
    let abort = match cursor.rest() {
        [] => None,
        _ => Some((cursor.u64("abort LSN")?, cursor.i64("abort time")?)),
    };
    Ok(Message::StreamAbort { xid, subxid, abort })
}

fn prepared<'a>(cursor: &mut Cursor<'a>) -> Result<Prepared<'a>> {
    Ok(Prepared {
        flags: cursor.u8("flags")?,
        prepare_lsn: cursor.u64("prepare LSN")?,
        end_lsn: cursor.u64("end LSN")?,
        prepare_time: cursor.i64("prepare time")?,
        xid: cursor.u32("xid")?,
        gid: cursor.string("gid")?,
    })
}

/// The messages of streamed and prepared transactions, of which there are few.
fn of_protocol_2_to_4<'a>(kind: u8, cursor: &mut Cursor<'a>) -> Result<Message<'a>> {
    Ok(match kind {
        kind::STREAM_START => Message::StreamStart {
            xid: cursor.u32("xid")?,
            first_segment: {
                let start = *cursor;
                match cursor.u8("first segment")? {
                    0 => false,
                    1 => true,
                    other => return Err(start.error(Reason::UnexpectedByte(other), "first segment")),
                }
            },
        },
        kind::STREAM_STOP => Message::StreamStop,
        kind::STREAM_COMMIT => Message::StreamCommit {
            xid: cursor.u32("xid")?,
            flags: cursor.u8("flags")?,
            commit_lsn: cursor.u64("commit LSN")?,
            end_lsn: cursor.u64("end LSN")?,
            commit_time: cursor.i64("commit time")?,
        },
        kind::STREAM_ABORT => stream_abort(cursor)?,
        kind::BEGIN_PREPARE => Message::BeginPrepare {
            prepare_lsn: cursor.u64("prepare LSN")?,
            end_lsn: cursor.u64("end LSN")?,
            prepare_time: cursor.i64("prepare time")?,
            xid: cursor.u32("xid")?,
            gid: cursor.string("gid")?,
        },
        kind::PREPARE => Message::Prepare(prepared(cursor)?),
        kind::STREAM_PREPARE => Message::StreamPrepare(prepared(cursor)?),
        kind::COMMIT_PREPARED => Message::CommitPrepared {
            flags: cursor.u8("flags")?,
            commit_lsn: cursor.u64("commit LSN")?,
            end_lsn: cursor.u64("end LSN")?,
            commit_time: cursor.i64("commit time")?,
            xid: cursor.u32("xid")?,
            gid: cursor.string("gid")?,
        },
        kind::ROLLBACK_PREPARED => Message::RollbackPrepared {
            flags: cursor.u8("flags")?,
            prepare_end_lsn: cursor.u64("prepare end LSN")?,
            rollback_end_lsn: cursor.u64("rollback end LSN")?,
            prepare_time: cursor.i64("prepare time")?,
            rollback_time: cursor.i64("rollback time")?,
            xid: cursor.u32("xid")?,
            gid: cursor.string("gid")?,
        },
        // The kind is the first byte.
        other => return Err(Error { reason: Reason::UnknownKind(other), field: "message kind", offset: 0 }),
    })
}

impl<'a> Message<'a> {
    /// Read one whole message that stood outside streams: ordinary and prepared transactions, and what is between them.
    ///
    /// # Errors
    /// When the kind is unknown, a field is missing or malformed, or bytes are left over.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let kind = cursor.u8("message kind")?;
        Self::parse_rest::<true>(cursor, kind, None)
    }

    /// Read one whole message that stood between Stream Start and Stream Stop: in most kinds a transaction's id comes first.
    ///
    /// # Errors
    /// As [`Message::parse`].
    pub fn parse_streamed(bytes: &'a [u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let kind = cursor.u8("message kind")?;
        let xid = if has_xid(kind) { Some(cursor.u32("xid")?) } else { None };
        Self::parse_rest::<true>(cursor, kind, xid)
    }

    /// Read a message up to the row that it ends with, which is not walked yet ([`Tuple::ahead`]): who reads its columns asks
    /// afterwards whether they were whole, and where they were not reads the message again, to be told what is wrong.
    ///
    /// # Errors
    /// As [`Message::parse`], but for what is wrong in that row.
    #[inline]
    pub fn parse_ahead(bytes: &'a [u8], streamed: bool) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let kind = cursor.u8("message kind")?;
        let xid = if streamed && has_xid(kind) { Some(cursor.u32("xid")?) } else { None };
        Self::parse_rest::<false>(cursor, kind, xid)
    }

    #[inline]
    fn parse_rest<const WALK: bool>(mut cursor: Cursor<'a>, kind: u8, xid: Option<u32>) -> Result<Self> {
        let message = match kind {
            kind::INSERT => {
                Self::Insert { xid, relation_oid: cursor.u32("relation OID")?, new: new::<WALK>(&mut cursor)? }
            }
            kind::UPDATE => update::<WALK>(&mut cursor, xid)?,
            kind::DELETE => {
                Self::Delete { xid, relation_oid: cursor.u32("relation OID")?, old: old::<WALK>(&mut cursor)? }
            }
            kind::BEGIN => Self::Begin {
                final_lsn: cursor.u64("final LSN")?,
                commit_time: cursor.i64("commit time")?,
                xid: cursor.u32("xid")?,
            },
            kind::COMMIT => Self::Commit {
                flags: cursor.u8("flags")?,
                commit_lsn: cursor.u64("commit LSN")?,
                end_lsn: cursor.u64("end LSN")?,
                commit_time: cursor.i64("commit time")?,
            },
            kind::RELATION => Self::Relation { xid, relation: Relation::parse(&mut cursor)? },
            kind::TRUNCATE => truncate(&mut cursor, xid)?,
            kind::MESSAGE => logical_message(&mut cursor, xid)?,
            kind::TYPE => Self::Type {
                xid,
                oid: cursor.u32("type OID")?,
                schema: cursor.name("schema name")?,
                name: cursor.name("type name")?,
            },
            kind::ORIGIN => {
                Self::Origin { commit_lsn: cursor.u64("origin commit LSN")?, name: cursor.string("origin name")? }
            }
            other => of_protocol_2_to_4(other, &mut cursor)?,
        };
        cursor.finish("message")?;
        Ok(message)
    }
}
