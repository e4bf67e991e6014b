//! Batches in other formats than events: JSON lines. Made without the interpreter, so that other threads can run.
use pgoutput::batch::{Batch, Builder};
use pgoutput::json::{self, Envelope};
use pgoutput::row::Failed;
use pgoutput::session::Session;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::bytes::Held;
use crate::catalog::TypeCatalog;
use crate::debezium::Asked;
use crate::error::{About, exception};

/// One LSN for each of so many messages, if any. Looked at one by one: a length that Python states need not be true.
pub fn lsns_of(lsns: Option<&Bound<'_, PyAny>>, length: usize) -> PyResult<Vec<u64>> {
    let Some(lsns) = lsns else { return Ok(Vec::new()) };
    if lsns.len()? != length {
        return Err(PyValueError::new_err("lsns must be as long as messages"));
    }
    lsns.try_iter()?.map(|lsn| lsn?.extract()).collect()
}

/// Messages that are in hand already, as one batch; with as many LSNs, if any.
pub fn batch_of(
    session: &mut Session,
    messages: &Bound<'_, PyAny>,
    lsns: Option<&Bound<'_, PyAny>>,
) -> PyResult<Batch> {
    // All of them, before the session takes note of the first. Each is looked at when it comes: what is no message at all
    // may go on without end.
    let messages = messages.try_iter()?.map(|message| Held::of(message?)).collect::<PyResult<Vec<_>>>()?;
    let mut lsns = lsns_of(lsns, messages.len())?.into_iter();
    let size = messages.iter().map(|message| message.as_slice().len()).sum();
    let mut builder = Builder::with_capacity(messages.len(), size);
    for message in &messages {
        builder.push(session, message.as_slice(), lsns.next().unwrap_or(0));
    }
    Ok(builder.finish())
}

/// The exception for the first change that was refused.
pub fn refused(py: Python<'_>, batch: &Batch, failed: Failed) -> PyErr {
    let Some(record) = batch.records().get(failed.record) else {
        return PyValueError::new_err("no such record");
    };
    let about = About {
        bytes: batch.bytes(record),
        shape: record.shape.and_then(|number| batch.shapes().get(number)).map(AsRef::as_ref),
        lsn: record.lsn,
        position: batch.position(record),
    };
    exception(py, failed.refused.into(), &about).unwrap_or_else(|error| error)
}

/// All changes as lines of JSON.
pub fn to_json<'py>(
    py: Python<'py>,
    batch: &Batch,
    envelope: &Asked<'_>,
    catalog: Option<&TypeCatalog>,
) -> PyResult<Bound<'py, PyBytes>> {
    let none = TypeCatalog::default();
    let catalog = catalog.unwrap_or(&none);
    let lines = envelope.with(py, |envelope: Envelope<'_>| {
        Ok(py.detach(|| catalog.read(|catalog| json::lines(batch, catalog, envelope))))
    })?;
    match lines {
        Ok(lines) => Ok(PyBytes::new(py, &lines)),
        Err(failed) => Err(refused(py, batch, failed)),
    }
}
