//! `Spool`: what one consumer has not taken yet, in files.
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use pgoutput::batch;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use spool::disk::Directory;
use spool::segments::{Entry, Limits, Mark, Spool as Segments};

use crate::batch::Batch;
use crate::error::{batch_error, config_error, spool_error};
use crate::format::RowFormat;
use crate::imports::imports;

/// A durable queue of batches. All calls that touch files do so without the interpreter.
#[pyclass(frozen, module = "pgcdc._pgoutput")]
pub struct Spool {
    inner: RwLock<Option<Segments<Directory>>>,
    format: Option<Arc<Py<RowFormat>>>,
    directory: PathBuf,
}

/// Why a call came to nothing.
enum Cause {
    Closed,
    Spool(spool::segments::Error),
    Batch(pgoutput::Error),
}

impl From<spool::segments::Error> for Cause {
    fn from(error: spool::segments::Error) -> Self {
        Self::Spool(error)
    }
}

impl From<pgoutput::Error> for Cause {
    fn from(error: pgoutput::Error) -> Self {
        Self::Batch(error)
    }
}

impl Spool {
    /// Do something with the files, without the interpreter.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Segments<Directory>) -> Result<T, Cause> + Send,
    ) -> PyResult<T> {
        let done = py.detach(|| {
            let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
            inner.as_ref().map_or(Err(Cause::Closed), call)
        });
        done.map_err(|cause| match cause {
            Cause::Closed => PyValueError::new_err("this spool is closed"),
            Cause::Spool(error) => spool_error(py, &error),
            Cause::Batch(error) => batch_error(py, error),
        })
    }
}

#[pymethods]
impl Spool {
    #[new]
    #[pyo3(signature = (
        directory, *, max_bytes=17_179_869_184, segment_bytes=67_108_864, format=None
    ), text_signature = "(directory, *, max_bytes=17179869184, segment_bytes=67108864, format=None)")]
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        max_bytes: u64,
        segment_bytes: u64,
        format: Option<Py<RowFormat>>,
    ) -> PyResult<Self> {
        if segment_bytes == 0 || max_bytes < segment_bytes {
            return Err(config_error(py, "segment_bytes is not from 1 to max_bytes"));
        }
        let opened = py.detach(|| Segments::open(&directory, Limits { max_bytes, segment_bytes }));
        let inner = RwLock::new(Some(opened.map_err(|error| spool_error(py, &error))?));
        Ok(Self { inner, format: format.map(Arc::new), directory })
    }

    #[getter]
    fn id(&self, py: Python<'_>) -> PyResult<String> {
        let id = self.with(py, |inner| Ok(inner.id()))?;
        Ok(format!("{:032x}", u128::from_be_bytes(id)))
    }

    #[pyo3(signature = (batch, through_lsn=0))]
    fn append(&self, py: Python<'_>, batch: &Bound<'_, Batch>, through_lsn: u64) -> PyResult<u64> {
        let batch = batch.get();
        self.with(py, |inner| {
            let mut bytes = Vec::new();
            batch.inner().encode(&mut bytes)?;
            // Each block says it, for a later one without changes may be all that is left of a segment.
            let last = batch.last().or_else(|| inner.mark()?.last);
            Ok(inner.append(&bytes, Mark { through_lsn, last })?)
        })
    }

    fn sync(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |inner| Ok(inner.sync()?))
    }

    fn read(&self, py: Python<'_>) -> PyResult<Option<(u64, Batch, u64)>> {
        let read = self.with(py, |inner| {
            let mut bytes = Vec::new();
            let Some(Entry { sequence, mark }) = inner.read(&mut bytes)? else { return Ok(None) };
            // Nobody goes past what cannot be read: it is the same error again.
            let batch = batch::Batch::parse(&bytes).inspect_err(|_| inner.back())?;
            Ok(Some((sequence, batch, mark.through_lsn)))
        })?;
        Ok(read.map(|(sequence, batch, through)| (sequence, Batch::new(batch, self.format.clone()), through)))
    }

    fn release(&self, py: Python<'_>, sequence: u64) -> PyResult<()> {
        self.with(py, |inner| Ok(inner.release(sequence)?))
    }

    #[getter]
    fn through_lsn(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |inner| Ok(inner.mark().map_or(0, |mark| mark.through_lsn)))
    }

    #[getter]
    fn last_position<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let last = self.with(py, |inner| Ok(inner.mark().and_then(|mark| mark.last)))?;
        last.map(|position| imports(py)?.position.bind(py).call1(position)).transpose()
    }

    #[getter]
    fn last_sequence(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |inner| Ok(inner.last_sequence()))
    }

    #[getter]
    fn pending(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |inner| Ok(inner.pending()))
    }

    #[getter]
    fn stored_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |inner| Ok(inner.stored_bytes()))
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| drop(self.inner.write().unwrap_or_else(PoisonError::into_inner).take()));
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyAny>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        format!("<Spool in {}>", self.directory.display())
    }
}
