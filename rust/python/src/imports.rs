//! The Python objects that the door uses, imported once.
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::rare::Rare;

/// Python objects, by what they are used for.
pub struct Imports {
    pub unset: Py<PyAny>,
    pub begin: Py<PyAny>,
    pub commit: Py<PyAny>,
    pub origin: Py<PyAny>,
    pub relation: Py<PyAny>,
    pub column: Py<PyAny>,
    pub type_: Py<PyAny>,
    pub insert: Py<PyAny>,
    pub update: Py<PyAny>,
    pub delete: Py<PyAny>,
    pub truncate: Py<PyAny>,
    pub message: Py<PyAny>,
    pub stream_start: Py<PyAny>,
    pub stream_stop: Py<PyAny>,
    pub stream_commit: Py<PyAny>,
    pub stream_abort: Py<PyAny>,
    pub begin_prepare: Py<PyAny>,
    pub prepare: Py<PyAny>,
    pub commit_prepared: Py<PyAny>,
    pub rollback_prepared: Py<PyAny>,
    pub stream_prepare: Py<PyAny>,
    pub position: Py<PyAny>,
    pub uuid: Py<PyType>,
    pub uuid_int: Py<PyAny>,
    pub uuid_is_safe: Py<PyAny>,
    pub uuid_unknown: Py<PyAny>,
    pub decimal: Py<PyAny>,
    pub json: Py<PyAny>,
    pub json_slowly: Py<PyAny>,
    pub raw: Py<PyAny>,
    pub pg_text: Py<PyAny>,
    pub pg_array: Py<PyAny>,
    pub rare: Rare,
    pub checked_types: Py<PyAny>,
    pub row_plan: Py<PyAny>,
    pub decode_error: Py<PyAny>,
    pub unknown_relation: Py<PyAny>,
    pub invalid_value: Py<PyAny>,
    pub config_error: Py<PyAny>,
    pub position_error: Py<PyAny>,
    pub replication_error: Py<PyAny>,
    pub spill_error: Py<PyAny>,
    pub spool_error: Py<PyAny>,
    pub spool_full: Py<PyAny>,
    pub spool_in_use: Py<PyAny>,
    pub assembler_statistics: Py<PyAny>,
    #[cfg(feature = "arrow")]
    pub schema_error: Py<PyAny>,
}

static IMPORTS: PyOnceLock<Imports> = PyOnceLock::new();

/// The objects, imported at first use (`pgcdc.protocol` itself imports this module).
pub fn imports(py: Python<'_>) -> PyResult<&Imports> {
    IMPORTS.get_or_try_init(py, || load(py))
}

fn load(py: Python<'_>) -> PyResult<Imports> {
    let events = py.import("pgcdc.events")?;
    let errors = py.import("pgcdc.errors")?;
    let values = py.import("pgcdc.protocol.values")?;
    let rows = py.import("pgcdc.protocol.rows")?;
    let msgspec = py.import("msgspec")?;
    let uuid = py.import("uuid")?;
    let class = uuid.getattr("UUID")?.cast_into::<PyType>()?;
    let event = |name: &str| events.getattr(name).map(Bound::unbind);
    let error = |name: &str| errors.getattr(name).map(Bound::unbind);
    let value = |name: &str| values.getattr(name).map(Bound::unbind);
    Ok(Imports {
        unset: msgspec.getattr("UNSET")?.unbind(),
        begin: event("Begin")?,
        commit: event("Commit")?,
        origin: event("Origin")?,
        relation: event("Relation")?,
        column: event("Column")?,
        type_: event("Type")?,
        insert: event("Insert")?,
        update: event("Update")?,
        delete: event("Delete")?,
        truncate: event("Truncate")?,
        message: event("Message")?,
        stream_start: event("StreamStart")?,
        stream_stop: event("StreamStop")?,
        stream_commit: event("StreamCommit")?,
        stream_abort: event("StreamAbort")?,
        begin_prepare: event("BeginPrepare")?,
        prepare: event("Prepare")?,
        commit_prepared: event("CommitPrepared")?,
        rollback_prepared: event("RollbackPrepared")?,
        stream_prepare: event("StreamPrepare")?,
        position: py.import("pgcdc.lsn")?.getattr("Position")?.unbind(),
        uuid_int: class.getattr("int")?.unbind(),
        uuid_is_safe: class.getattr("is_safe")?.unbind(),
        uuid_unknown: uuid.getattr("SafeUUID")?.getattr("unknown")?.unbind(),
        uuid: class.unbind(),
        decimal: value("decimal")?,
        json: value("json")?,
        json_slowly: value("json_slowly")?,
        raw: msgspec.getattr("Raw")?.unbind(),
        pg_text: value("PgText")?,
        pg_array: value("PgArray")?,
        rare: Rare::load(py)?,
        checked_types: rows.getattr("checked_types")?.unbind(),
        row_plan: rows.getattr("row_plan")?.unbind(),
        decode_error: error("DecodeError")?,
        unknown_relation: error("UnknownRelation")?,
        invalid_value: error("InvalidValue")?,
        config_error: error("ConfigError")?,
        position_error: error("PositionError")?,
        replication_error: error("ReplicationError")?,
        spill_error: error("SpillError")?,
        spool_error: error("SpoolError")?,
        spool_full: error("SpoolFull")?,
        spool_in_use: error("SpoolInUse")?,
        assembler_statistics: py.import("pgcdc.protocol.assembling")?.getattr("AssemblerStatistics")?.unbind(),
        #[cfg(feature = "arrow")]
        schema_error: error("SchemaError")?,
    })
}
