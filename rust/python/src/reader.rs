//! `BatchReader` and `CopyReader`: what a connection receives to batches; and the status update that goes back.
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use pgoutput::batch::{self, Builder};
use pgoutput::copy;
use pgoutput::frame::Answer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::batch::{Batch, shape_of};
use crate::bytes::Bytes;
use crate::error::{config_error, frame_error};
use crate::exclusive::{changing, reading};
use crate::format::RowFormat;
use crate::frames::Frames;

/// Read some payloads, one after the other, into one batch.
fn read(
    py: Python<'_>,
    frames: &Bound<'_, PyAny>,
    format: Option<&Arc<Py<RowFormat>>>,
    mut one: impl FnMut(&[u8], &mut Builder) -> pgoutput::error::Result<()>,
) -> PyResult<Batch> {
    if let Ok(frames) = frames.cast::<Frames>() {
        let frames = reading(frames)?;
        let mut builder = Builder::with_capacity(frames.count(), frames.size());
        for frame in frames.iter() {
            one(frame, &mut builder).map_err(|error| frame_error(py, error, frame))?;
        }
        return Ok(Batch::new(builder.finish(), format.cloned()));
    }
    let mut builder = Builder::default();
    for frame in frames.try_iter()? {
        let frame = frame?;
        let bytes = Bytes::of(&frame)?;
        one(bytes.as_slice(), &mut builder).map_err(|error| frame_error(py, error, bytes.as_slice()))?;
    }
    Ok(Batch::new(builder.finish(), format.cloned()))
}

/// CopyData frames of one replication stream to batches.
#[pyclass(module = "pgcdc._pgoutput")]
pub struct BatchReader {
    inner: batch::Reader,
    format: Option<Arc<Py<RowFormat>>>,
}

#[pymethods]
impl BatchReader {
    #[new]
    #[pyo3(signature = (format=None))]
    fn new(format: Option<Py<RowFormat>>) -> Self {
        Self { inner: batch::Reader::default(), format: format.map(Arc::new) }
    }

    fn read<'py>(slf: &Bound<'py, Self>, py: Python<'py>, frames: &Bound<'py, PyAny>) -> PyResult<Batch> {
        let Self { inner, format } = &mut *changing(slf)?;
        read(py, frames, format.as_ref(), |bytes, builder| inner.read(bytes, builder))
    }

    #[getter]
    fn received_lsn(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Ok(reading(slf)?.inner.received_lsn())
    }

    #[getter]
    fn idle_lsn(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Ok(reading(slf)?.inner.idle_lsn())
    }

    #[getter]
    fn in_transaction(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(reading(slf)?.inner.in_transaction())
    }

    fn take_reply_request(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(changing(slf)?.inner.take_reply_request())
    }
}

/// `COPY … TO STDOUT (FORMAT binary)` to batches of Inserts.
#[pyclass(module = "pgcdc._pgoutput")]
pub struct CopyReader {
    inner: copy::Reader,
    format: Option<Arc<Py<RowFormat>>>,
}

#[pymethods]
impl CopyReader {
    #[new]
    #[pyo3(signature = (relation, lsn, text_columns=None, format=None))]
    fn new(
        py: Python<'_>,
        relation: &Bound<'_, PyAny>,
        lsn: u64,
        text_columns: Option<Vec<bool>>,
        format: Option<Py<RowFormat>>,
    ) -> PyResult<Self> {
        let shape = shape_of(py, relation)?;
        let text_columns = text_columns.unwrap_or_default();
        if !text_columns.is_empty() && text_columns.len() != shape.relation.columns.len() {
            return Err(config_error(py, "text_columns must say something of every column"));
        }
        Ok(Self { inner: copy::Reader::new(shape, lsn, text_columns), format: format.map(Arc::new) })
    }

    fn read<'py>(slf: &Bound<'py, Self>, py: Python<'py>, frames: &Bound<'py, PyAny>) -> PyResult<Batch> {
        let Self { inner, format } = &mut *changing(slf)?;
        read(py, frames, format.as_ref(), |bytes, builder| inner.read(bytes, builder))
    }

    #[getter]
    fn finished(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(reading(slf)?.inner.finished())
    }
}

/// Seconds from 1970 to 2000.
const EPOCH: u64 = 946_684_800;

/// A Standby status update, to be sent as one CopyData.
#[pyfunction]
#[pyo3(signature = (written, flushed, applied, reply_requested=false))]
pub fn encode_status_update(
    py: Python<'_>,
    written: u64,
    flushed: u64,
    applied: u64,
    reply_requested: bool,
) -> Bound<'_, PyBytes> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = now.as_micros().saturating_sub(u128::from(EPOCH).saturating_mul(1_000_000));
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let mut out = Vec::new();
    Answer::StatusUpdate { written, flushed, applied, send_time: now, reply_requested }.encode(&mut out);
    PyBytes::new(py, &out)
}
