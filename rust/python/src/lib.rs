//! The door: `pgcdc._pgoutput`, a thin layer between the `pgoutput` crate and Python.
//!
//! | file | what |
//! |---|---|
//! | `decoder` | `Decoder`: messages to events |
//! | `batch` | `Batch`: a run of raw messages |
//! | `assembler` | `Assembler`: streamed and prepared transactions to batches as protocol 1 has them |
//! | `versions` | `SchemaVersions`: which version of a table's shape was in force where |
//! | `reader` | `BatchReader`, `CopyReader`: what a connection receives to batches |
//! | `spool` | `Spool`: what one consumer has not taken yet, in files |
//! | `frames` | `Frames`: what was received and is not read yet; taken from libpq (unsafe code) |
//! | `format` | `RowFormat`: how rows are given; what is prepared for each relation |
//! | `formats` | batches as JSON lines, without Python objects |
//! | `json_rows` | `JsonRow`: changes one by one, with key and row, for targets that keep rows, and a row's fields |
//! | `records` | changes with keys, for logs such as Kafka's |
//! | `debezium` | `DebeziumEnvelope`: what the bytes do not say of Debezium's lines |
//! | `arrow` | the same as Arrow tables |
//! | `fold` | the last state of each row, and rows for another PostgreSQL |
//! | `catalog` | `TypeCatalog`: user-defined types |
//! | `event` | one message to one event |
//! | `encode` | one event to one message |
//! | `row` | one tuple to one row, one value to one object |
//! | `plain` | the same for the values that most columns hold |
//! | `rare` | the same for values that few tables have, and those that are made of others |
//! | `construct` | unsafe code: calls that the safe API makes slowly or not at all |
//! | `exclusive` | objects that belong to one call at a time |
//! | `bytes` | what Python hands over, as a slice |
//! | `imports` | the Python objects that all of these use |
//! | `error` | the one place where exceptions are made |
#![deny(unsafe_code)]

#[cfg_attr(not(feature = "arrow"), path = "arrow_missing.rs")]
mod arrow;
mod assembler;
mod batch;
mod bytes;
mod catalog;
mod construct;
mod debezium;
mod decoder;
mod encode;
mod error;
mod event;
mod exclusive;
mod fold;
mod format;
mod formats;
mod frames;
mod imports;
mod json_rows;
mod plain;
mod rare;
mod reader;
mod records;
mod reshape;
mod row;
mod spool;
mod versions;

/// The Rust half of pgcdc; import it through `pgcdc.protocol`.
// State that calls can change is behind a mutex, or belongs to one call at a time (`exclusive`), so nothing here should
// need the global lock. But nobody has run it without: until a free-threaded build is among those that are tested, such a
// build is told to keep the lock on.
#[pyo3::pymodule(gil_used = true)]
mod _pgoutput {
    #[pymodule_export]
    use crate::arrow::ArrowTable;
    #[pymodule_export]
    use crate::assembler::Assembler;
    #[pymodule_export]
    use crate::batch::Batch;
    #[pymodule_export]
    use crate::catalog::TypeCatalog;
    #[pymodule_export]
    use crate::debezium::DebeziumEnvelope;
    #[pymodule_export]
    use crate::decoder::Decoder;
    #[pymodule_export]
    use crate::encode::encode_message;
    #[pymodule_export]
    use crate::fold::{RowPlan, copied_values};
    #[pymodule_export]
    use crate::format::RowFormat;
    #[pymodule_export]
    use crate::frames::{Frames, Libpq};
    #[pymodule_export]
    use crate::json_rows::{JsonRow, json_fields, json_items, json_members};
    #[pymodule_export]
    use crate::reader::{BatchReader, CopyReader, encode_status_update};
    #[pymodule_export]
    use crate::row::json_number;
    #[pymodule_export]
    use crate::spool::Spool;
    #[pymodule_export]
    use crate::versions::SchemaVersions;

    use pyo3::prelude::*;

    /// Classes and imported objects are made once for the process, so one interpreter only can have them.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::construct::claim_interpreter(module.py())
    }
}
