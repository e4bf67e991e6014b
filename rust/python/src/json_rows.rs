//! `JsonRow`: one change for a target that keeps rows as JSON under their keys; its fields; and which columns a batch's
//! keys have.
use std::collections::HashSet;
use std::sync::Arc;

use pgoutput::batch::Batch;
use pgoutput::json::fields::{fields, items, members};
use pgoutput::json::position_text;
use pgoutput::json::rows::{self, Key};
use pgoutput::message::kind;
use pgoutput::session::Shape;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::batch::text_bytes;
use crate::catalog::TypeCatalog;
use crate::construct;
use crate::format::RowFormat;
use crate::formats::refused;
use crate::imports::imports;

/// One change of a row, one table of a Truncate, or a logical message.
#[pyclass(frozen, module = "pgcdc._pgoutput")]
pub struct JsonRow {
    kind: u8,
    position: Option<(u64, i64)>,
    #[pyo3(get)]
    number: usize,
    #[pyo3(get)]
    relation: Option<Py<PyAny>>,
    #[pyo3(get)]
    key: Option<Py<PyTuple>>,
    #[pyo3(get)]
    old_key: Option<Py<PyTuple>>,
    #[pyo3(get)]
    new: Option<Py<PyBytes>>,
    #[pyo3(get)]
    unsent: Py<PyTuple>,
}

#[pymethods]
impl JsonRow {
    #[getter]
    fn action<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        match self.kind {
            kind::INSERT => intern!(py, "insert"),
            kind::UPDATE => intern!(py, "update"),
            kind::DELETE => intern!(py, "delete"),
            kind::TRUNCATE => intern!(py, "truncate"),
            _ => intern!(py, "message"),
        }
    }

    #[getter]
    fn position<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.position.map(|position| imports(py)?.position.bind(py).call1(position)).transpose()
    }

    #[getter]
    fn position_text<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.position.map(|position| construct::text(py, &position_text(position))).transpose()
    }

    #[getter]
    fn commit_lsn(&self) -> Option<u64> {
        self.position.map(|(commit_lsn, _)| commit_lsn)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let action = self.action(py);
        let Some(relation) = &self.relation else { return Ok(format!("<JsonRow: {action}>")) };
        let (schema, name) = (relation.getattr(py, "schema")?, relation.getattr(py, "name")?);
        Ok(format!("<JsonRow: {action} of {schema}.{name}>"))
    }
}

fn no_object() -> PyErr {
    PyValueError::new_err("this is no JSON object")
}

/// The members of an object, each as it stands there.
#[pyfunction]
pub fn json_members<'py>(py: Python<'py>, object: &[u8]) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    for (name, value) in members(object).ok_or_else(no_object)? {
        found.set_item(construct::text(py, &name)?, PyBytes::new(py, value))?;
    }
    Ok(found)
}

/// The items of an array, each as it stands there.
#[pyfunction]
pub fn json_items<'py>(py: Python<'py>, array: &[u8]) -> PyResult<Bound<'py, PyList>> {
    let found = items(array).ok_or_else(|| PyValueError::new_err("this is no JSON array"))?;
    PyList::new(py, found.into_iter().map(|item| PyBytes::new(py, item)).collect::<Vec<_>>())
}

/// Names and values of a row, one after the other; without those that are NULL.
#[pyfunction]
pub fn json_fields<'py>(py: Python<'py>, row: &[u8]) -> PyResult<Bound<'py, PyList>> {
    let fields = fields(row).ok_or_else(no_object)?;
    let words = fields.iter().filter_map(|(name, value)| Some([name, value.as_ref()?])).flatten();
    PyList::new(py, words.map(|word| PyBytes::new(py, word)).collect::<Vec<_>>())
}

/// The columns of a relation by which its rows are known; none where that cannot be said.
///
/// `primary_keys` is what the pipeline knows from the catalog, by OID. The replica identity's columns are flagged and follow
/// every ALTER; under FULL and NOTHING the flags say nothing of keys.
pub fn key_columns<'py>(
    py: Python<'py>,
    shape: &Shape,
    primary_keys: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let columns = &shape.relation.columns;
    let flagged = || columns.iter().filter(|column| column.is_key).map(|column| construct::text(py, &column.name));
    let known = match primary_keys {
        Some(keys) => keys.call_method1(intern!(py, "get"), (shape.relation.oid,))?,
        None => py.None().into_bound(py),
    };
    let known: Vec<Bound<'py, PyString>> = if known.is_none() { Vec::new() } else { known.extract()? };
    let names = known.iter().map(text_bytes).collect::<PyResult<Vec<_>>>()?;
    let is_there = |name: &Vec<u8>, must_be_flagged: bool| {
        columns.iter().any(|column| column.name == *name && (column.is_key || !must_be_flagged))
    };
    let is_said_by_flags = !matches!(shape.relation.replica_identity, b'f' | b'n');
    let count = columns.iter().filter(|column| column.is_key).count();
    // The same columns, in the primary key's order.
    let is_same = !known.is_empty()
        && names.iter().all(|name| is_there(name, is_said_by_flags))
        && (!is_said_by_flags || names.len() == count);
    match (is_same, is_said_by_flags) {
        (true, _) => PyTuple::new(py, known),
        (false, true) => PyTuple::new(py, flagged().collect::<PyResult<Vec<_>>>()?),
        (false, false) => Ok(PyTuple::empty(py)),
    }
}

/// The numbers of the key's columns in each relation of a batch; `ask` says their names, if somebody wants others.
pub fn numbers<'py>(
    py: Python<'py>,
    batch: &Batch,
    primary_keys: Option<&Bound<'py, PyAny>>,
    ask: Option<&Bound<'py, PyAny>>,
) -> PyResult<Vec<Option<Vec<usize>>>> {
    let format = RowFormat::default(py)?.get();
    let used: HashSet<usize> = batch.records().iter().filter_map(|record| record.shape).collect();
    let of = |(number, shape): (usize, &Arc<Shape>)| {
        if !used.contains(&number) {
            return Ok(None);
        }
        let names = match ask {
            Some(ask) => ask.call1((format.plan(py, shape)?.relation.bind(py),))?,
            None => key_columns(py, shape, primary_keys)?.into_any(),
        };
        let mut numbers = Vec::new();
        for name in names.try_iter()? {
            let name = text_bytes(name?.cast::<PyString>()?)?;
            let Some(number) = shape.relation.columns.iter().position(|column| column.name == name) else {
                return Ok(None);
            };
            numbers.push(number);
        }
        Ok((!numbers.is_empty()).then_some(numbers))
    };
    batch.shapes().iter().enumerate().map(of).collect()
}

fn key_object(py: Python<'_>, key: Key) -> PyResult<Bound<'_, PyTuple>> {
    let values = key.into_iter().map(|value| match value {
        Some(text) => construct::text(py, &text),
        None => Ok(py.None().into_bound(py)),
    });
    PyTuple::new(py, values.collect::<PyResult<Vec<_>>>()?)
}

/// All changes of a batch.
pub fn json_rows<'py>(
    py: Python<'py>,
    batch: &Batch,
    primary_keys: Option<&Bound<'py, PyAny>>,
    ask: Option<&Bound<'py, PyAny>>,
    catalog: Option<&TypeCatalog>,
) -> PyResult<Bound<'py, PyList>> {
    let keys = numbers(py, batch, primary_keys, ask)?;
    let none = TypeCatalog::default();
    let catalog = catalog.unwrap_or(&none);
    let made = py.detach(|| catalog.read(|catalog| rows::rows(batch, catalog, &keys)));
    let (bytes, made) = made.map_err(|failed| refused(py, batch, failed))?;
    let format = RowFormat::default(py)?.get();
    let plans = batch.shapes().iter().map(|shape| format.plan(py, shape)).collect::<PyResult<Vec<_>>>()?;
    let empty = PyTuple::empty(py).unbind();
    let list = PyList::empty(py);
    let _pause = construct::CollectorPause::new(py);
    for row in made {
        let Some(record) = batch.records().get(row.record) else { continue };
        let shape = row.shape.and_then(|number| Some((batch.shapes().get(number)?, plans.get(number)?)));
        let unsent = match shape {
            Some((shape, _)) if !row.unsent.is_empty() => {
                let names = row.unsent.iter().filter_map(|&number| shape.relation.columns.get(number));
                let names = names.map(|column| construct::text(py, &column.name)).collect::<PyResult<Vec<_>>>()?;
                PyTuple::new(py, names)?.unbind()
            }
            _ => empty.clone_ref(py),
        };
        let key = |key: Option<Key>| key.map(|key| key_object(py, key).map(Bound::unbind)).transpose();
        let new = row.new.and_then(|range| bytes.get(range));
        let made = JsonRow {
            kind: record.kind,
            position: batch.position(record),
            number: row.number,
            relation: shape.map(|(_, plan)| plan.relation.clone_ref(py)),
            key: key(row.key)?,
            old_key: key(row.old_key)?,
            new: new.map(|bytes| PyBytes::new(py, bytes).unbind()),
            unsent,
        };
        list.append(Py::new(py, made)?)?;
    }
    Ok(list)
}
