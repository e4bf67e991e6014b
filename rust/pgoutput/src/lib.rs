//! PostgreSQL's logical replication output (pgoutput), from bytes to values.
//!
//! No I/O, no driver, no Python. Everything borrows from the bytes that it is given until a value must be made.
//!
//! | module | from | to |
//! |---|---|---|
//! | [`frame`] | one CopyData payload | XLogData or keepalive; the client's answers |
//! | [`message`] | one XLogData payload | one message, one variant for each kind |
//! | [`relation`] | a Relation message | the shape of a table |
//! | [`tuple`] | a message's TupleData | its columns: null, unchanged, text, binary |
//! | [`oid`], [`catalog`] | a type's OID | what its bytes are |
//! | [`value`] | a column's bytes | one value |
//! | [`session`] | messages in stream order | relations in force, transaction, index of each change |
//! | [`batch`] | frames or messages | a run of raw messages with all of that beside them |
//! | [`versions`] | a relation and a position | the version of its shape that was in force there |
//! | [`assembler`] | messages of protocols 2 to 4 | batches as protocol 1 has them |
//! | [`copy`] | COPY BINARY | Insert messages in a batch |
//! | [`copy_rows`] | a batch | COPY BINARY |
//! | [`encode`] | messages, tuples, frames, COPY rows | their bytes |
//! | [`row`] | a tuple and its role | cells: not sent, NULL, a value |
//! | [`json`] | a batch | lines of JSON |
//! | `arrow` (a feature of that name) | a batch | record batches |
//!
//! Source: PostgreSQL manual, "Logical Replication Message Formats" and "Streaming Replication Protocol".
#![forbid(unsafe_code)]

#[cfg(feature = "arrow")]
pub mod arrow;
pub mod assembler;
pub mod batch;
pub mod catalog;
pub mod copy;
pub mod copy_rows;
pub mod cursor;
pub mod encode;
pub mod error;
pub mod frame;
pub mod json;
pub mod message;
pub mod oid;
mod prepared;
pub mod relation;
pub mod row;
pub mod session;
pub mod tuple;
pub mod value;
pub mod versions;

pub use error::{Error, Reason};
