//! Batches in other formats than events: JSON lines. Made without the interpreter, so that other threads can run.
use std::sync::Mutex;

use pgoutput::batch::{Batch, Builder};
use pgoutput::json::{self, Envelope};
use pgoutput::row::Failed;
use pgoutput::session::Session;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

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

/// All messages of a list or of whatever can be gone through.
pub fn held<'py>(messages: &Bound<'py, PyAny>) -> PyResult<Vec<Held<'py>>> {
    // Each is looked at when it comes: what is no message at all may go on without end.
    let Ok(list) = messages.cast_exact::<PyList>() else {
        return messages.try_iter()?.map(|message| Held::of(message?)).collect();
    };
    // Where messages are not in the processor's cache, it waits for several at once in as short a loop as this.
    let mut held = Vec::with_capacity(list.len());
    for message in list {
        held.push(Held::of(message)?);
    }
    Ok(held)
}

/// Messages that are in hand already, as one batch; with as many LSNs, if any.
pub fn batch_of(
    session: &mut Session,
    messages: &Bound<'_, PyAny>,
    lsns: Option<&Bound<'_, PyAny>>,
) -> PyResult<Batch> {
    // All of them, before the session takes note of the first.
    let messages = held(messages)?;
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

/// The memory that lines are made in before they become `bytes`, kept from one batch to the next: given back each time, it
/// is fetched from the system page by page, which costs more than the lines. One for the process; who comes while it is in
/// use has memory of their own. Nobody waits for the lock: in a process that was forked while it was held, it stays locked.
static KEPT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// How many bytes are kept at most.
const MOST_KEPT: usize = 8 << 20;

/// That memory, for whoever gives it back to `keep`.
pub fn take_kept() -> Vec<u8> {
    KEPT.try_lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default()
}

/// Give it back.
pub fn keep(buffer: Vec<u8>) {
    if let Ok(mut kept) = KEPT.try_lock()
        && (kept.capacity()..=MOST_KEPT).contains(&buffer.capacity())
    {
        *kept = buffer;
    }
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
        Ok(py.detach(|| catalog.read(|catalog| json::lines_in(take_kept(), batch, catalog, envelope))))
    })?;
    match lines {
        Ok(lines) => {
            let bytes = PyBytes::new(py, &lines);
            keep(lines);
            Ok(bytes)
        }
        Err(failed) => Err(refused(py, batch, failed)),
    }
}
