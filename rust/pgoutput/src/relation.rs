//! The shape of a table, as a Relation message gives it.
//!
//! Source: PostgreSQL manual, "Logical Replication Message Formats", Relation; server function `logicalrep_write_rel`.
use crate::cursor::Cursor;
use crate::error::{Reason, Result};

/// One column. Names are bytes: a database in `SQL_ASCII` sends what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Whether it is part of the replica identity.
    pub is_key: bool,
    /// Its name.
    pub name: Vec<u8>,
    /// The OID of its type.
    pub type_oid: u32,
    /// Its type modifier, -1 when it has none.
    pub type_modifier: i32,
}

/// The shape of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The table's OID.
    pub oid: u32,
    /// The schema's name; `pg_catalog` where the server sends an empty string.
    pub schema: Vec<u8>,
    /// The table's name.
    pub name: Vec<u8>,
    /// `d`, `n`, `f` or `i`.
    pub replica_identity: u8,
    /// The published columns, in the order of the tuples.
    pub columns: Vec<Column>,
}

impl Relation {
    /// Read the fields after the kind byte.
    ///
    /// # Errors
    /// When the message is not whole, or a name is longer than [`crate::cursor::LONGEST_NAME`].
    pub fn parse(cursor: &mut Cursor<'_>) -> Result<Self> {
        let oid = cursor.u32("relation OID")?;
        let schema = cursor.name("schema name")?;
        let name = cursor.name("relation name")?;
        let start = *cursor;
        let replica_identity = cursor.u8("replica identity")?;
        if !b"dnfi".contains(&replica_identity) {
            return Err(start.error(Reason::UnexpectedByte(replica_identity), "replica identity"));
        }
        let start = *cursor;
        let count = cursor.i16("number of columns")?;
        let Ok(count) = usize::try_from(count) else {
            return Err(start.error(Reason::BadLength(i64::from(count)), "number of columns"));
        };
        // Not reserved from the announced count: each column takes at least ten bytes, which must be there first.
        let mut columns = Vec::new();
        for _ in 0..count {
            let start = *cursor;
            let flags = cursor.u8("column flags")?;
            if flags > 1 {
                return Err(start.error(Reason::UnexpectedByte(flags), "column flags"));
            }
            columns.push(Column {
                is_key: flags == 1,
                name: cursor.name("column name")?.to_vec(),
                type_oid: cursor.u32("column type OID")?,
                type_modifier: cursor.i32("column type modifier")?,
            });
        }
        let schema = if schema.is_empty() { b"pg_catalog" } else { schema }.to_vec();
        Ok(Self { oid, schema, name: name.to_vec(), replica_identity, columns })
    }

    /// Whether the columns that make up the replica identity are all of them (`REPLICA IDENTITY FULL`).
    pub fn is_full(&self) -> bool {
        self.replica_identity == b'f'
    }
}
