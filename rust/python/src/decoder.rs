//! `Decoder`: messages to events, with the state of one stream.
use std::sync::Arc;

use pgoutput::session::{Session, Shape};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::arrow;
use crate::bytes::Bytes;
use crate::catalog::TypeCatalog;
use crate::construct::CollectorPause;
use crate::debezium::Asked;
use crate::event::{Events, Item};
use crate::exclusive::{changing, reading};
use crate::format::{Plan, RowFormat};
use crate::formats::{self, lsns_of};

/// pgoutput messages to events; no connection, no driver.
#[pyclass(generic, module = "pgcdc._pgoutput")]
pub struct Decoder {
    format: Py<RowFormat>,
    session: Session,
    plan: Option<(Arc<Shape>, Arc<Plan>)>,
}

fn one<'py>(
    events: &mut Events<'py, '_>,
    session: &mut Session,
    bytes: &[u8],
    lsn: u64,
) -> PyResult<Result<Bound<'py, PyAny>, PyErr>> {
    let place = session.observe(bytes);
    events.event_or_error(&Item {
        bytes,
        lsn,
        shape: place.shape.as_ref(),
        truncated: place.truncated.iter().map(Option::as_ref).collect(),
        streamed: place.streamed,
        transaction: place.transaction,
        index: place.index,
        versions: None,
    })
}

#[pymethods]
impl Decoder {
    #[new]
    #[pyo3(signature = (rows="struct", *, types=None, json="decode", out_of_range="pgtext", catalog=None))]
    fn new(
        py: Python<'_>,
        rows: &str,
        types: Option<Bound<'_, PyAny>>,
        json: &str,
        out_of_range: &str,
        catalog: Option<Py<TypeCatalog>>,
    ) -> PyResult<Self> {
        let format = Py::new(py, RowFormat::new(py, rows, types, json, out_of_range, catalog)?)?;
        Ok(Self { format, session: Session::default(), plan: None })
    }

    #[getter]
    fn catalog(slf: &Bound<'_, Self>) -> PyResult<Py<TypeCatalog>> {
        Ok(reading(slf)?.format.get().catalog(slf.py()))
    }

    #[pyo3(signature = (message, lsn=None))]
    fn decode<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        message: &Bound<'py, PyAny>,
        lsn: Option<u64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let this = &mut *changing(slf)?;
        let bytes = Bytes::of(message)?;
        let mut events = Events::new(py, this.format.get(), this.plan.take())?;
        let event = one(&mut events, &mut this.session, bytes.as_slice(), lsn.unwrap_or(0));
        this.plan = events.into_plan();
        event?
    }

    #[pyo3(signature = (messages, lsns=None))]
    fn decode_many<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        lsns: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let this = &mut *changing(slf)?;
        let length = messages.len()?;
        let mut lsns = lsns_of(lsns, length)?.into_iter();
        let _pause = CollectorPause::new(py);
        let mut events = Events::new(py, this.format.get(), this.plan.take())?;
        let mut made = Vec::new();
        for message in messages.try_iter()? {
            let message = message?;
            let bytes = Bytes::of(&message)?;
            let lsn = lsns.next().unwrap_or(0);
            made.push(match one(&mut events, &mut this.session, bytes.as_slice(), lsn)? {
                Ok(event) => event,
                Err(error) => error.into_value(py).into_bound(py).into_any(),
            });
        }
        this.plan = events.into_plan();
        PyList::new(py, made)
    }

    #[pyo3(
        signature = (messages, lsns=None, *, envelope=Asked::plain()),
        text_signature = "($self, messages, lsns=None, *, envelope='plain')"
    )]
    #[allow(clippy::needless_pass_by_value, reason = "pyo3 makes it for this call")]
    fn to_json<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        lsns: Option<&Bound<'py, PyAny>>,
        envelope: Asked<'py>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let this = &mut *changing(slf)?;
        let catalog = this.format.get().catalog(py);
        let batch = formats::batch_of(&mut this.session, messages, lsns)?;
        formats::to_json(py, &batch, &envelope, Some(catalog.get()))
    }

    #[pyo3(signature = (messages, lsns=None, *, text=None))]
    fn to_arrow<'py>(
        slf: &Bound<'py, Self>,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        lsns: Option<&Bound<'py, PyAny>>,
        text: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let this = &mut *changing(slf)?;
        let catalog = this.format.get().catalog(py);
        let batch = formats::batch_of(&mut this.session, messages, lsns)?;
        arrow::to_arrow(py, &batch, text, Some(catalog.get()))
    }
}
