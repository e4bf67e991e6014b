//! `encode_message`: an event back to the message that says it, for whoever plays a server.
use pgoutput::encode;
use pgoutput::message::{Message, Old, Prepared};
use pgoutput::tuple::{Datum, Tuple};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::batch::{shape_of, text_bytes};
use crate::error::config_error;
use crate::imports::{Imports, imports};

/// The fields of one event.
struct Fields<'a, 'py> {
    event: &'a Bound<'py, PyAny>,
    imports: &'a Imports,
}

/// One column as it is to be sent; the bytes are kept here while a `Datum` borrows them.
enum Cell {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

impl Cell {
    fn datum(&self) -> Datum<'_> {
        match self {
            Self::Null => Datum::Null,
            Self::Unchanged => Datum::Unchanged,
            Self::Text(bytes) => Datum::Text(bytes),
            Self::Binary(bytes) => Datum::Binary(bytes),
        }
    }
}

fn refused(py: Python<'_>, error: pgoutput::Error) -> PyErr {
    config_error(py, &format!("no message can say this: {error}"))
}

impl<'py> Fields<'_, 'py> {
    fn py(&self) -> Python<'py> {
        self.event.py()
    }

    fn get<T>(&self, name: &str) -> PyResult<T>
    where
        T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
    {
        self.event.getattr(name)?.extract()
    }

    fn text(&self, name: &str) -> PyResult<Vec<u8>> {
        text_bytes(&self.event.getattr(name)?.cast_into::<PyString>()?)
    }

    fn is_unset(&self, object: &Bound<'py, PyAny>) -> bool {
        object.is(&self.imports.unset)
    }

    /// None where the field is UNSET.
    fn known(&self, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let value = self.event.getattr(name)?;
        Ok(Some(value).filter(|value| !self.is_unset(value)))
    }

    /// A time, in microseconds since 2000-01-01 UTC.
    fn time(&self, name: &str) -> PyResult<i64> {
        let datetime = self.py().import("datetime")?;
        let utc = datetime.getattr("UTC")?;
        let epoch = datetime.getattr("datetime")?.call1((2000, 1, 1, 0, 0, 0, 0, utc))?;
        let since = self.event.getattr(name)?.sub(epoch)?;
        since.floor_div(datetime.getattr("timedelta")?.call1((0, 0, 1))?)?.extract()
    }

    /// A row's tuple, as TupleData; of an old key the columns outside it are sent as null.
    fn tuple(&self, row: &str, is_key: bool) -> PyResult<Vec<u8>> {
        let columns = self.event.getattr("relation")?.getattr("columns")?;
        let row = self.event.getattr(row)?;
        let Ok(row) = row.cast_into::<PyTuple>() else {
            return Err(PyTypeError::new_err("a row to be encoded is a tuple of None, UNSET, str and bytes"));
        };
        if row.len() != columns.len()? {
            return Err(config_error(self.py(), "the row has another number of columns than its relation"));
        }
        let mut cells = Vec::with_capacity(row.len());
        for (value, column) in row.iter().zip(columns.try_iter()?) {
            cells.push(if value.is_none() {
                Cell::Null
            } else if self.is_unset(&value) {
                let sent = !is_key || column?.getattr("is_key")?.is_truthy()?;
                if sent { Cell::Unchanged } else { Cell::Null }
            } else if let Ok(text) = value.cast::<PyString>() {
                Cell::Text(text_bytes(text)?)
            } else if let Ok(bytes) = value.cast::<PyBytes>() {
                Cell::Binary(bytes.as_bytes().to_vec())
            } else {
                return Err(PyTypeError::new_err("a row to be encoded is a tuple of None, UNSET, str and bytes"));
            });
        }
        let mut out = Vec::new();
        let datums: Vec<_> = cells.iter().map(Cell::datum).collect();
        encode::tuple(&datums, &mut out).map_err(|error| refused(self.py(), error))?;
        Ok(out)
    }

    /// Whether the table's old rows are sent whole (REPLICA IDENTITY FULL), else only their keys.
    fn is_full(&self) -> PyResult<bool> {
        self.event.getattr("relation")?.getattr("replica_identity")?.eq("f")
    }

    fn write(&self, message: &Message<'_>) -> PyResult<Vec<u8>> {
        let mut out = Vec::new();
        message.encode(&mut out).map_err(|error| refused(self.py(), error))?;
        Ok(out)
    }

    fn tuple_of<'b>(&self, bytes: &'b [u8]) -> PyResult<Tuple<'b>> {
        Tuple::parse(&mut pgoutput::cursor::Cursor::new(bytes)).map_err(|error| refused(self.py(), error))
    }

    fn change(&self, xid: Option<u32>) -> PyResult<Vec<u8>> {
        let imports = self.imports;
        let relation_oid = self.event.getattr("relation")?.getattr("oid")?.extract()?;
        let is_full = self.is_full()?;
        let new = if self.known("new")?.is_some() { Some(self.tuple("new", false)?) } else { None };
        let old = if self.known("old")?.is_some() { Some(self.tuple("old", !is_full)?) } else { None };
        let new = new.as_deref().map(|bytes| self.tuple_of(bytes)).transpose()?;
        let old = old.as_deref().map(|bytes| self.tuple_of(bytes)).transpose()?;
        let old = old.map(|tuple| if is_full { Old::Row(tuple) } else { Old::Key(tuple) });
        let class = self.event.get_type();
        match (new, old) {
            (Some(new), None) if class.is(&imports.insert) => self.write(&Message::Insert { xid, relation_oid, new }),
            (Some(new), old) if class.is(&imports.update) => {
                self.write(&Message::Update { xid, relation_oid, old, new })
            }
            (None, Some(old)) if class.is(&imports.delete) => self.write(&Message::Delete { xid, relation_oid, old }),
            _ => Err(config_error(self.py(), "an Insert has new, an Update new and maybe old, a Delete old")),
        }
    }

    fn prepared(&self, streamed: bool) -> PyResult<Vec<u8>> {
        let gid = self.text("gid")?;
        let of = Prepared {
            flags: self.get("flags")?,
            prepare_lsn: self.get("prepare_lsn")?,
            end_lsn: self.get("end_lsn")?,
            prepare_time: self.time("prepare_time")?,
            xid: self.get("xid")?,
            gid: &gid,
        };
        self.write(&if streamed { Message::StreamPrepare(of) } else { Message::Prepare(of) })
    }

    /// The kinds that have an xid inside a stream.
    fn inside(&self, xid: Option<u32>) -> PyResult<Option<Vec<u8>>> {
        let (class, imports) = (self.event.get_type(), self.imports);
        Ok(Some(if class.is(&imports.relation) {
            let shape = shape_of(self.py(), self.event)?;
            self.write(&Message::Relation { xid, relation: shape.relation.clone() })?
        } else if class.is(&imports.type_) {
            let (schema, name) = (self.text("schema")?, self.text("name")?);
            self.write(&Message::Type { xid, oid: self.get("oid")?, schema: &schema, name: &name })?
        } else if class.is(&imports.insert) || class.is(&imports.update) || class.is(&imports.delete) {
            self.change(xid)?
        } else if class.is(&imports.truncate) {
            let relations = self.event.getattr("relations")?.try_iter()?;
            let relation_oids = relations.map(|one| one?.getattr("oid")?.extract()).collect::<PyResult<Vec<u32>>>()?;
            let (cascade, restart_identity) = (self.get("cascade")?, self.get("restart_identity")?);
            self.write(&Message::Truncate { xid, cascade, restart_identity, relation_oids })?
        } else if class.is(&imports.message) {
            let (prefix, content): (_, Vec<u8>) = (self.text("prefix")?, self.get("content")?);
            let (transactional, lsn) = (self.get("transactional")?, self.get("lsn")?);
            self.write(&Message::Message { xid, transactional, lsn, prefix: &prefix, content: &content })?
        } else {
            return Ok(None);
        }))
    }

    /// All others.
    fn outside(&self) -> PyResult<Vec<u8>> {
        let (class, imports) = (self.event.get_type(), self.imports);
        if class.is(&imports.begin) {
            let (final_lsn, xid) = (self.get("final_lsn")?, self.get("xid")?);
            self.write(&Message::Begin { final_lsn, commit_time: self.time("commit_time")?, xid })
        } else if class.is(&imports.commit) {
            let (commit_lsn, end_lsn) = (self.get("commit_lsn")?, self.get("end_lsn")?);
            let (flags, commit_time) = (self.get("flags")?, self.time("commit_time")?);
            self.write(&Message::Commit { flags, commit_lsn, end_lsn, commit_time })
        } else if class.is(&imports.origin) {
            let name = self.text("name")?;
            self.write(&Message::Origin { commit_lsn: self.get("commit_lsn")?, name: &name })
        } else if class.is(&imports.stream_start) {
            self.write(&Message::StreamStart { xid: self.get("xid")?, first_segment: self.get("first_segment")? })
        } else if class.is(&imports.stream_stop) {
            self.write(&Message::StreamStop)
        } else if class.is(&imports.stream_commit) {
            let (commit_lsn, end_lsn) = (self.get("commit_lsn")?, self.get("end_lsn")?);
            let (flags, commit_time) = (self.get("flags")?, self.time("commit_time")?);
            self.write(&Message::StreamCommit { xid: self.get("xid")?, flags, commit_lsn, end_lsn, commit_time })
        } else if class.is(&imports.stream_abort) {
            let abort = match self.known("abort_lsn")? {
                Some(lsn) => Some((lsn.extract()?, self.time("abort_time")?)),
                None => None,
            };
            self.write(&Message::StreamAbort { xid: self.get("xid")?, subxid: self.get("subxid")?, abort })
        } else if class.is(&imports.prepare) {
            self.prepared(false)
        } else if class.is(&imports.stream_prepare) {
            self.prepared(true)
        } else {
            self.of_prepared()
        }
    }

    fn of_prepared(&self) -> PyResult<Vec<u8>> {
        let (class, imports) = (self.event.get_type(), self.imports);
        if class.is(&imports.begin_prepare) {
            let gid = self.text("gid")?;
            let (prepare_lsn, end_lsn) = (self.get("prepare_lsn")?, self.get("end_lsn")?);
            let (prepare_time, xid) = (self.time("prepare_time")?, self.get("xid")?);
            self.write(&Message::BeginPrepare { prepare_lsn, end_lsn, prepare_time, xid, gid: &gid })
        } else if class.is(&imports.commit_prepared) {
            let gid = self.text("gid")?;
            let (commit_lsn, end_lsn) = (self.get("commit_lsn")?, self.get("end_lsn")?);
            let (flags, commit_time, xid) = (self.get("flags")?, self.time("commit_time")?, self.get("xid")?);
            self.write(&Message::CommitPrepared { flags, commit_lsn, end_lsn, commit_time, xid, gid: &gid })
        } else if class.is(&imports.rollback_prepared) {
            let gid = self.text("gid")?;
            self.write(&Message::RollbackPrepared {
                flags: self.get("flags")?,
                prepare_end_lsn: self.get("prepare_end_lsn")?,
                rollback_end_lsn: self.get("rollback_end_lsn")?,
                prepare_time: self.time("prepare_time")?,
                rollback_time: self.time("rollback_time")?,
                xid: self.get("xid")?,
                gid: &gid,
            })
        } else {
            Err(PyTypeError::new_err(format!("{} is no event", class.name()?)))
        }
    }
}

/// The message that an event is read from.
#[pyfunction]
#[pyo3(signature = (event, *, xid=None))]
pub fn encode_message<'py>(
    py: Python<'py>,
    event: &Bound<'py, PyAny>,
    xid: Option<u32>,
) -> PyResult<Bound<'py, PyBytes>> {
    let fields = Fields { event, imports: imports(py)? };
    // A Relation and a Type do not know in which transaction they were sent.
    let own = match event.getattr_opt("xid")? {
        Some(own) if xid.is_none() && !fields.is_unset(&own) => Some(own.extract()?),
        _ => xid,
    };
    let message = match fields.inside(own)? {
        Some(message) => message,
        None => fields.outside()?,
    };
    Ok(PyBytes::new(py, &message))
}
