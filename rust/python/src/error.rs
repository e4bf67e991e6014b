//! The one place where exceptions are made. No message holds a cell's value.
use std::io;

use pgoutput::assembler::{self, Cause};
use pgoutput::batch::Position;
use pgoutput::message::kind;
use pgoutput::row::Refused;
use pgoutput::session::Shape;
use pyo3::exceptions::{PyException, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use spool::{segments, spill};

use crate::imports::imports;

/// Why one message gave no event.
pub enum Failure {
    /// The message is malformed.
    Message(pgoutput::Error),
    /// A relation was not seen.
    UnknownRelation {
        /// Its OID.
        oid: u32,
        /// Where the OID is in the message.
        offset: usize,
    },
    /// A column's bytes are not a value of its type.
    Value {
        /// What is wrong.
        reason: &'static str,
        /// The column's number.
        column: usize,
        /// Where its bytes begin in the message.
        offset: usize,
        /// What Python said.
        cause: Option<PyErr>,
    },
    /// A user's class refused a whole row.
    Row {
        /// The class's name.
        class: String,
        /// What it said.
        cause: PyErr,
    },
    /// Python failed in a way that is not about the bytes.
    Python(PyErr),
}

impl Failure {
    /// A row that is read while it is made turned out not to be whole; what is wrong is found by reading the message again.
    pub const NOT_WHOLE: Self =
        Self::Message(pgoutput::Error { reason: pgoutput::Reason::UnexpectedEnd, field: "tuple", offset: 0 });
}

impl From<pgoutput::Error> for Failure {
    fn from(error: pgoutput::Error) -> Self {
        Self::Message(error)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Message(error) => Self::Message(error),
            Refused::UnknownRelation { oid, offset } => Self::UnknownRelation { oid, offset },
            Refused::Value { reason, column, offset } => Self::Value { reason, column, offset, cause: None },
        }
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

/// What a message was, for the error about it.
pub struct About<'a> {
    pub bytes: &'a [u8],
    pub shape: Option<&'a Shape>,
    pub lsn: u64,
    pub position: Option<Position>,
}

fn what(kind: Option<&u8>) -> &'static str {
    match kind {
        Some(&kind::BEGIN) => "Begin",
        Some(&kind::COMMIT) => "Commit",
        Some(&kind::ORIGIN) => "Origin",
        Some(&kind::RELATION) => "Relation",
        Some(&kind::TYPE) => "Type",
        Some(&kind::INSERT) => "Insert",
        Some(&kind::UPDATE) => "Update",
        Some(&kind::DELETE) => "Delete",
        Some(&kind::TRUNCATE) => "Truncate",
        Some(&kind::MESSAGE) => "Message",
        Some(&kind::STREAM_START) => "Stream Start",
        Some(&kind::STREAM_STOP) => "Stream Stop",
        Some(&kind::STREAM_COMMIT) => "Stream Commit",
        Some(&kind::STREAM_ABORT) => "Stream Abort",
        Some(&kind::BEGIN_PREPARE) => "Begin Prepare",
        Some(&kind::PREPARE) => "Prepare",
        Some(&kind::COMMIT_PREPARED) => "Commit Prepared",
        Some(&kind::ROLLBACK_PREPARED) => "Rollback Prepared",
        Some(&kind::STREAM_PREPARE) => "Stream Prepare",
        _ => "message",
    }
}

fn table(shape: &Shape) -> String {
    let relation = &shape.relation;
    format!("{}.{}", String::from_utf8_lossy(&relation.schema), String::from_utf8_lossy(&relation.name))
}

/// The `DecodeError` for a failure; a Python error that is not about the bytes is given back as it is.
pub fn exception(py: Python<'_>, failure: Failure, about: &About<'_>) -> PyResult<PyErr> {
    let imports = imports(py)?;
    let mut name = what(about.bytes.first()).to_owned();
    if let Some(shape) = about.shape {
        name = format!("{name} of {}", table(shape));
    }
    let at =
        if about.lsn == 0 { String::new() } else { format!(" at {:X}/{:X}", about.lsn >> 32, about.lsn & 0xffff_ffff) };
    let facts = PyDict::new(py);
    let mut cause = None;
    let (class, message) = match failure {
        Failure::Python(error) => return Ok(error),
        Failure::Message(error) => {
            facts.set_item("reason", error.reason.to_string())?;
            facts.set_item("field", error.field)?;
            facts.set_item("offset", error.offset)?;
            if let pgoutput::Reason::UnknownKind(b'w' | b'k') = error.reason {
                let hint = "this looks like a CopyData frame; the message in one that begins with w is what follows its \
                            first 25 bytes";
                facts.set_item("hint", hint)?;
            }
            (&imports.decode_error, format!("{name}{at}: {error}"))
        }
        Failure::UnknownRelation { oid, offset } => {
            facts.set_item("reason", "its Relation message was not seen")?;
            facts.set_item("field", "relation OID")?;
            facts.set_item("offset", offset)?;
            facts.set_item(
                "hint",
                "a decoder must see the stream from its beginning; use one decoder for each stream",
            )?;
            (&imports.unknown_relation, format!("{name} of relation {oid}{at}: its Relation message was not seen"))
        }
        Failure::Value { reason, column, offset, cause: python } => {
            let column = about.shape.and_then(|shape| shape.relation.columns.get(column));
            let field = column.map_or_else(|| "column value".into(), |column| String::from_utf8_lossy(&column.name));
            let type_oid = column.map_or(0, |column| column.type_oid);
            facts.set_item("reason", reason)?;
            facts.set_item("field", &*field)?;
            facts.set_item("offset", offset)?;
            cause = python;
            let place = format!("column {field} (type {type_oid}) at byte {offset}");
            (&imports.invalid_value, format!("{name}{at}: {reason} in {place}"))
        }
        Failure::Row { class, cause: python } => {
            let reason = format!("the row's class {class} refused it");
            facts.set_item("reason", &reason)?;
            facts.set_item("hint", "the class said why: see the error's __cause__")?;
            cause = Some(python);
            (&imports.invalid_value, format!("{name}{at}: {reason}"))
        }
    };
    facts.set_item("raw", PyBytes::new(py, about.bytes))?;
    facts
        .set_item("position", about.position.map(|position| imports.position.bind(py).call1(position)).transpose()?)?;
    facts.set_item("table", about.shape.map(table))?;
    facts.set_item("lsn", Some(about.lsn).filter(|&lsn| lsn != 0))?;
    let error = PyErr::from_value(class.bind(py).call((message,), Some(&facts))?);
    error.set_cause(py, cause);
    Ok(error)
}

/// Whether a Python error says that these bytes cannot be had as an object, and nothing worse.
pub fn is_about_value(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyException>(py) && !error.is_instance_of::<PyMemoryError>(py)
}

/// A `ConfigError`.
pub fn config_error(py: Python<'_>, message: &str) -> PyErr {
    config_exception(py, message, None)
}

/// A `ConfigError` that says what to do.
pub fn config_error_with_hint(py: Python<'_>, message: &str, hint: &str) -> PyErr {
    config_exception(py, message, Some(hint))
}

fn config_exception(py: Python<'_>, message: &str, hint: Option<&str>) -> PyErr {
    let raised = || {
        let facts = PyDict::new(py);
        facts.set_item("hint", hint)?;
        imports(py)?.config_error.bind(py).call((message,), Some(&facts))
    };
    raised().map_or_else(|error| error, PyErr::from_value)
}

/// A `DecodeError` about bytes that are not a message (a frame, a COPY).
pub fn frame_error(py: Python<'_>, error: pgoutput::Error, bytes: &[u8]) -> PyErr {
    let about = About { bytes: &[], shape: None, lsn: 0, position: None };
    exception(py, Failure::Message(error), &about).unwrap_or_else(|error| error).tap_raw(py, bytes)
}

trait TapRaw {
    fn tap_raw(self, py: Python<'_>, bytes: &[u8]) -> PyErr;
}

impl TapRaw for PyErr {
    /// The raw bytes of what could not be read, on the exception.
    fn tap_raw(self, py: Python<'_>, bytes: &[u8]) -> PyErr {
        match self.value(py).setattr("raw", PyBytes::new(py, bytes)) {
            Ok(()) => self,
            Err(error) => error,
        }
    }
}

/// A `SchemaError` about one table.
#[cfg(feature = "arrow")]
pub fn schema_error(py: Python<'_>, message: &str, hint: &str, table: &str) -> PyErr {
    let raised = || {
        let facts = PyDict::new(py);
        facts.set_item("hint", hint)?;
        facts.set_item("table", table)?;
        imports(py)?.schema_error.bind(py).call((message,), Some(&facts))
    };
    raised().map_or_else(|error| error, PyErr::from_value)
}

/// Bytes that are no batch.
pub fn batch_error(py: Python<'_>, error: pgoutput::Error) -> PyErr {
    let raised = || {
        let facts = PyDict::new(py);
        facts.set_item("reason", error.reason.to_string())?;
        facts.set_item("field", error.field)?;
        facts.set_item("offset", error.offset)?;
        facts.set_item("hint", "give from_bytes() what to_bytes() of the same version of pgcdc gave")?;
        imports(py)?.decode_error.bind(py).call((format!("these bytes are no batch: {error}"),), Some(&facts))
    };
    raised().map_or_else(|error| error, PyErr::from_value)
}

fn has_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why a spool cannot be written or read.
pub fn spool_error(py: Python<'_>, error: &segments::Error) -> PyErr {
    let raised = || {
        let imports = imports(py)?;
        let (class, hint) = match error {
            segments::Error::Full { .. } => {
                (&imports.spool_full, "wait until something of it was released, or raise max_bytes")
            }
            segments::Error::TooLarge { .. } => (&imports.spool_full, "raise max_bytes"),
            segments::Error::Io { doing: "written" | "made", source, .. } if has_no_room(source) => {
                (&imports.spool_full, "make room there")
            }
            segments::Error::Locked { .. } => {
                (&imports.spool_in_use, "stop that process, or give each consumer a directory of its own")
            }
            segments::Error::Io { .. } => {
                (&imports.spool_error, "make room there, or see to that disk, and open the spool again")
            }
            segments::Error::Failed { .. } => {
                (&imports.spool_error, "close it and open it again: what it has then is durable")
            }
            segments::Error::Damaged { .. } => (
                &imports.spool_error,
                "look after that disk; what the spool held is lost for its consumer unless the slot still has it: put the \
                 directory aside, and let the consumer take a new initial copy",
            ),
        };
        let facts = PyDict::new(py);
        facts.set_item("hint", hint)?;
        class.bind(py).call((error.to_string(),), Some(&facts))
    };
    raised().map_or_else(|error| error, PyErr::from_value)
}

/// Why an assembler cannot go on.
pub fn assembly_error(py: Python<'_>, error: &assembler::Error<spill::Error>) -> PyErr {
    assembly_exception(py, error).map_or_else(|error| error, PyErr::from_value)
}

fn assembly_exception<'py>(py: Python<'py>, error: &assembler::Error<spill::Error>) -> PyResult<Bound<'py, PyAny>> {
    let imports = imports(py)?;
    let facts = PyDict::new(py);
    let about = About { bytes: &error.message, shape: None, lsn: error.lsn, position: None };
    let at =
        if error.lsn == 0 { String::new() } else { format!(" at {:X}/{:X}", error.lsn >> 32, error.lsn & 0xffff_ffff) };
    let name = what(error.message.first());
    let class = match &error.cause {
        Cause::Malformed(cause) => {
            let failure = exception(py, Failure::Message(*cause), &about)?;
            return Ok(failure.into_value(py).into_bound(py).into_any());
        }
        Cause::Storage { xid, stored, cause } => {
            facts.set_item("xid", xid)?;
            facts.set_item("spilled_bytes", stored)?;
            let hint = match cause {
                spill::Error::Full { .. } => {
                    "raise max_spill; nothing of it was confirmed, so a new assembler gets it again from the slot"
                }
                spill::Error::Io { .. } => {
                    "make room there or name another spill_directory; nothing of it was confirmed, so a new assembler gets \
                     it again from the slot"
                }
                spill::Error::Damaged { .. } => {
                    "look after that disk; nothing of it was confirmed, so a new assembler gets it again from the slot"
                }
            };
            facts.set_item("hint", hint)?;
            return imports
                .spill_error
                .bind(py)
                .call((format!("transaction {xid} cannot be kept until it ends: {cause}"),), Some(&facts));
        }
        Cause::Fixed { xid, memory } => {
            facts.set_item("xid", xid)?;
            facts.set_item(
                "hint",
                "raise max_memory, of which that may take half; nothing of it was confirmed, so a new assembler gets it again \
                 from the slot",
            )?;
            let text = format!(
                "transaction {xid} cannot be kept until it ends: with it the shapes of tables and what is known of roll-backs \
                 take {memory} bytes of memory, and they are not written to files"
            );
            return imports.spill_error.bind(py).call((text,), Some(&facts));
        }
        Cause::UnknownPrepared { .. } => {
            facts.set_item(
                "hint",
                "the slot was confirmed past its PREPARE TRANSACTION, so the server does not send them again: take them from \
                 the tables; who confirms what an Assembler gave takes Batch.end_lsn or its confirmable_lsn",
            )?;
            facts.set_item("lsn", Some(error.lsn).filter(|&lsn| lsn != 0))?;
            &imports.position_error
        }
        Cause::DoubtfulMessage { lsn, .. } => {
            facts.set_item(
                "hint",
                "stream with streaming off, or without messages; or write a row before the message",
            )?;
            facts.set_item("lsn", lsn)?;
            &imports.replication_error
        }
        Cause::Misplaced | Cause::UnknownStream { .. } | Cause::Damaged { .. } | Cause::Stopped => {
            facts.set_item("reason", error.cause.to_string())?;
            facts.set_item("field", "message kind")?;
            facts.set_item("raw", PyBytes::new(py, &error.message))?;
            facts.set_item("lsn", Some(error.lsn).filter(|&lsn| lsn != 0))?;
            facts.set_item(
                "hint",
                "an assembler must see the stream from its beginning, without gaps; use one for each connection",
            )?;
            &imports.decode_error
        }
    };
    class.bind(py).call((format!("{name}{at}: {}", error.cause),), Some(&facts))
}
