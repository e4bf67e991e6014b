//! One pgoutput message of protocol version 1, borrowed from its bytes: one switch on the first byte.
//!
//! Source: PostgreSQL manual, "Logical Replication Message Formats"; server file `replication/logical/proto.c`.
use crate::cursor::Cursor;
use crate::error::{Reason, Result};
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
}

/// Which old tuple came with an Update or Delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old<'a> {
    /// `K`: the key columns; all others are sent as null and mean "not sent".
    Key(Tuple<'a>),
    /// `O`: the whole old row, under REPLICA IDENTITY FULL.
    Row(Tuple<'a>),
}

/// One message.
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
    Relation(Relation),
    /// A user-defined type.
    Type {
        /// Its OID.
        oid: u32,
        /// The schema's name; empty for `pg_catalog`.
        schema: &'a [u8],
        /// Its name.
        name: &'a [u8],
    },
    /// A new row.
    Insert {
        /// The table's OID.
        relation_oid: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// The table's OID.
        relation_oid: u32,
        /// What was sent of the old row.
        old: Option<Old<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A removed row.
    Delete {
        /// The table's OID.
        relation_oid: u32,
        /// What was sent of the old row.
        old: Old<'a>,
    },
    /// Emptied tables.
    Truncate {
        /// CASCADE was given.
        cascade: bool,
        /// RESTART IDENTITY was given.
        restart_identity: bool,
        /// The tables' OIDs.
        relation_oids: Vec<u32>,
    },
    /// What `pg_logical_emit_message` wrote.
    Message {
        /// Whether it belongs to the transaction around it.
        transactional: bool,
        /// Where it was written.
        lsn: u64,
        /// The prefix.
        prefix: &'a [u8],
        /// The content.
        content: &'a [u8],
    },
}

fn old<'a>(cursor: &mut Cursor<'a>) -> Result<Old<'a>> {
    let start = *cursor;
    match cursor.u8("old tuple kind")? {
        b'K' => Tuple::parse(cursor).map(Old::Key),
        b'O' => Tuple::parse(cursor).map(Old::Row),
        other => Err(start.error(Reason::UnexpectedByte(other), "old tuple kind")),
    }
}

fn new<'a>(cursor: &mut Cursor<'a>) -> Result<Tuple<'a>> {
    let start = *cursor;
    match cursor.u8("new tuple kind")? {
        b'N' => Tuple::parse(cursor),
        other => Err(start.error(Reason::UnexpectedByte(other), "new tuple kind")),
    }
}

fn update<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>> {
    let relation_oid = cursor.u32("relation OID")?;
    let old = match cursor.rest().first() {
        Some(b'K' | b'O') => Some(old(cursor)?),
        _ => None,
    };
    Ok(Message::Update { relation_oid, old, new: new(cursor)? })
}

fn truncate<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>> {
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
    Ok(Message::Truncate { cascade: options & 1 != 0, restart_identity: options & 2 != 0, relation_oids })
}

fn logical_message<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>> {
    let start = *cursor;
    let flags = cursor.u8("message flags")?;
    if flags > 1 {
        return Err(start.error(Reason::UnexpectedByte(flags), "message flags"));
    }
    Ok(Message::Message {
        transactional: flags == 1,
        lsn: cursor.u64("message LSN")?,
        prefix: cursor.string("message prefix")?,
        content: cursor.sized("message content")?,
    })
}

impl<'a> Message<'a> {
    /// Read one whole message.
    ///
    /// # Errors
    /// When the kind is unknown, a field is missing or malformed, or bytes are left over.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut cursor = Cursor::new(bytes);
        let start = cursor;
        let message = match cursor.u8("message kind")? {
            kind::INSERT => Self::Insert { relation_oid: cursor.u32("relation OID")?, new: new(&mut cursor)? },
            kind::UPDATE => update(&mut cursor)?,
            kind::DELETE => Self::Delete { relation_oid: cursor.u32("relation OID")?, old: old(&mut cursor)? },
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
            kind::RELATION => Self::Relation(Relation::parse(&mut cursor)?),
            kind::TRUNCATE => truncate(&mut cursor)?,
            kind::MESSAGE => logical_message(&mut cursor)?,
            kind::TYPE => Self::Type {
                oid: cursor.u32("type OID")?,
                schema: cursor.string("schema name")?,
                name: cursor.string("type name")?,
            },
            kind::ORIGIN => {
                Self::Origin { commit_lsn: cursor.u64("origin commit LSN")?, name: cursor.string("origin name")? }
            }
            other => return Err(start.error(Reason::UnknownKind(other), "message kind")),
        };
        cursor.finish("message")?;
        Ok(message)
    }
}
