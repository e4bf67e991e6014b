//! `ArrowTable`: the changes of one table for whoever speaks Arrow, through the `PyCapsule` interface.
//!
//! The capsules hold the structures of Arrow's C interface, which arrow-rs fills and frees; nothing here is unsafe.
//!
//! Source: Arrow documentation, "The Arrow `PyCapsule` Interface" and "The Arrow C Data Interface".
use std::collections::{BTreeSet, HashMap};

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{Array, RecordBatch, RecordBatchIterator, StructArray};
use arrow_schema::ArrowError;
use pgoutput::arrow::{self, NotMade, Part};
use pgoutput::batch::Batch;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyString};

use crate::catalog::TypeCatalog;
use crate::error::{config_error, schema_error};
use crate::formats::refused;

/// The changes of one table: record batches, each of one shape.
#[pyclass(frozen, module = "pgcdc._pgoutput")]
pub struct ArrowTable {
    table: String,
    parts: Vec<RecordBatch>,
}

fn defect(error: &ArrowError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// All changes as Arrow tables, by the tables' names.
pub fn to_arrow<'py>(
    py: Python<'py>,
    batch: &Batch,
    text: Option<&Bound<'py, PyAny>>,
    catalog: Option<&TypeCatalog>,
) -> PyResult<Bound<'py, PyDict>> {
    let mut columns = BTreeSet::new();
    if let Some(text) = text {
        if text.is_instance_of::<PyString>() {
            return Err(config_error(py, "text= takes a list of columns, each as \"schema.table.column\""));
        }
        for column in text.try_iter()? {
            columns.insert(column?.extract::<String>()?);
        }
    }
    let none = TypeCatalog::default();
    let catalog = catalog.unwrap_or(&none);
    let parts = py.detach(|| catalog.read(|catalog| arrow::parts(batch, catalog, &columns)));
    let parts = parts.map_err(|error| match error {
        NotMade::Failed(failed) => refused(py, batch, failed),
        NotMade::Arrow(error) => defect(&error),
    })?;
    let mut tables: Vec<ArrowTable> = Vec::new();
    let mut places = HashMap::new();
    for Part { table, rows } in parts {
        let place = *places.entry(table.clone()).or_insert(tables.len());
        match tables.get_mut(place) {
            Some(known) => known.parts.push(rows),
            None => tables.push(ArrowTable { table, parts: vec![rows] }),
        }
    }
    let dict = PyDict::new(py);
    for table in tables {
        dict.set_item(table.table.clone(), Py::new(py, table)?)?;
    }
    Ok(dict)
}

impl ArrowTable {
    /// The only part.
    fn part(&self, py: Python<'_>) -> PyResult<&RecordBatch> {
        match self.parts.as_slice() {
            [part] => Ok(part),
            parts => Err(schema_error(
                py,
                &format!("these changes of {} have {} shapes, and a stream has one", self.table, parts.len()),
                "take .parts, each of which is of one shape",
                &self.table,
            )),
        }
    }

    fn schema_capsule<'py>(py: Python<'py>, part: &RecordBatch) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(part.schema().as_ref()).map_err(|error| defect(&error))?;
        PyCapsule::new_with_value(py, schema, c"arrow_schema")
    }
}

#[pymethods]
impl ArrowTable {
    #[getter]
    fn parts(&self) -> Vec<Self> {
        self.parts.iter().map(|part| Self { table: self.table.clone(), parts: vec![part.clone()] }).collect()
    }

    #[getter]
    fn table(&self) -> &str {
        &self.table
    }

    #[getter]
    fn num_rows(&self) -> usize {
        self.parts.iter().map(RecordBatch::num_rows).sum()
    }

    fn __repr__(&self) -> String {
        let shapes = if self.parts.len() == 1 { String::new() } else { format!(" in {} shapes", self.parts.len()) };
        format!("<ArrowTable of {} changes of {}{shapes}>", self.num_rows(), self.table)
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        Self::schema_capsule(py, self.part(py)?)
    }

    /// A requested schema is a wish that a producer may leave unfulfilled; consumers cast.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        let _ = requested_schema;
        let part = self.part(py)?;
        let array = FFI_ArrowArray::new(&StructArray::from(part.clone()).into_data());
        Ok((Self::schema_capsule(py, part)?, PyCapsule::new_with_value(py, array, c"arrow_array")?))
    }

    /// Likewise.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let part = self.part(py)?;
        let batches = RecordBatchIterator::new([Ok(part.clone())], part.schema());
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(Box::new(batches)), c"arrow_array_stream")
    }
}
