//! `Assembler`: streamed and prepared transactions to batches as protocol 1 has them.
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use pgoutput::assembler;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use spool::spill::Spill;

use crate::batch::Batch;
use crate::bytes::Bytes;
use crate::error::{assembly_error, config_error_with_hint};
use crate::exclusive::{changing, reading};
use crate::format::RowFormat;
use crate::formats::lsns_of;
use crate::imports::imports;

/// So many messages are looked at in one go, without the interpreter.
const AT_ONCE: usize = 8192;

/// Puts the transactions of one connection together.
#[pyclass(module = "pgcdc._pgoutput")]
pub struct Assembler {
    inner: assembler::Assembler<Spill>,
    format: Option<Arc<Py<RowFormat>>>,
    /// What was given and not yet looked at, with the `wal_start` of each.
    input: VecDeque<(Py<PyBytes>, u64)>,
    failed: Option<PyErr>,
}

impl Assembler {
    fn next(&mut self, py: Python<'_>) -> PyResult<Option<Batch>> {
        loop {
            if let Some(failed) = &self.failed {
                return Err(failed.clone_ref(py));
            }
            let Self { inner, input, .. } = self;
            let count = if inner.is_delivering() { 0 } else { AT_ONCE };
            let messages: Vec<_> = input.iter().take(count).map(|(bytes, lsn)| (bytes.as_bytes(py), *lsn)).collect();
            let mut messages = messages.into_iter();
            let given = messages.len();
            let batch = py.detach(|| inner.next_batch(&mut messages));
            let used = given.saturating_sub(messages.len());
            input.drain(..used);
            match batch {
                Ok(Some(batch)) => return Ok(Some(Batch::new(batch, self.format.clone()))),
                Ok(None) if self.input.is_empty() && !self.inner.is_delivering() => return Ok(None),
                Ok(None) => {}
                Err(error) => {
                    self.input.clear();
                    self.failed = Some(assembly_error(py, &error));
                }
            }
        }
    }
}

#[pymethods]
impl Assembler {
    #[new]
    #[pyo3(signature = (
        *, max_memory=33_554_432, spill_directory=None, max_spill=Some(17_179_869_184), format=None
    ), text_signature = "(*, max_memory=33554432, spill_directory=None, max_spill=17179869184, format=None)")]
    fn new(
        py: Python<'_>,
        max_memory: usize,
        spill_directory: Option<PathBuf>,
        max_spill: Option<u64>,
        format: Option<Py<RowFormat>>,
    ) -> PyResult<Self> {
        if let Some(directory) = spill_directory.as_ref().filter(|directory| !directory.is_dir()) {
            let text = format!("spill_directory {} is not a directory", directory.display());
            let hint = "make it, or leave spill_directory out: then files are where the system has temporary ones";
            return Err(config_error_with_hint(py, &text, hint));
        }
        let spill = Spill::new(spill_directory, max_spill.unwrap_or(u64::MAX));
        let inner = assembler::Assembler::new(spill, max_memory);
        Ok(Self { inner, format: format.map(Arc::new), input: VecDeque::new(), failed: None })
    }

    #[pyo3(signature = (messages, lsns=None))]
    fn read<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        lsns: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Assembled> {
        let bytes = |message: PyResult<Bound<'py, PyAny>>| {
            let message = message?;
            match message.cast::<PyBytes>() {
                Ok(bytes) => Ok(bytes.clone().unbind()),
                Err(_) => Ok(PyBytes::new(py, Bytes::of(&message)?.as_slice()).unbind()),
            }
        };
        // All of them, before the assembler takes the first.
        let messages = messages.try_iter()?.map(bytes).collect::<PyResult<Vec<_>>>()?;
        let mut lsns = lsns_of(lsns, messages.len())?.into_iter();
        let messages = messages.into_iter().map(|message| (message, lsns.next().unwrap_or(0)));
        changing(slf)?.input.extend(messages);
        Ok(Assembled { assembler: slf.clone().unbind() })
    }

    #[getter]
    fn hold_lsn(slf: &Bound<'_, Self>) -> PyResult<Option<u64>> {
        Ok(reading(slf)?.inner.hold_lsn())
    }

    #[getter]
    fn confirmable_lsn(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Ok(reading(slf)?.inner.confirmable_lsn())
    }

    fn take_spans(slf: &Bound<'_, Self>) -> PyResult<Vec<(u64, u64)>> {
        Ok(changing(slf)?.inner.take_spans())
    }

    #[getter]
    fn idle(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let own = reading(slf)?;
        Ok(own.inner.is_idle() && own.input.is_empty())
    }

    fn statistics<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let of = reading(slf)?.inner.statistics();
        let class = imports(slf.py())?.assembler_statistics.bind(slf.py());
        class.call1((of.streamed, of.prepared, of.memory_bytes, of.stored_bytes))
    }
}

/// The batches that come out, made as they are asked for.
#[pyclass(frozen, module = "pgcdc._pgoutput")]
pub struct Assembled {
    assembler: Py<Assembler>,
}

#[pymethods]
impl Assembled {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        changing(self.assembler.bind(py))?.next(py)
    }
}
