//! `Batch.folded` and `to_copy`: what a batch is for a target that keeps a copy of a table.
use std::collections::{HashMap, HashSet};

use pgoutput::batch::Batch;
use pgoutput::copy_rows::{Counts, Form, Part, parts};
use pgoutput::relation::Relation;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::batch::text_bytes;
use crate::catalog::TypeCatalog;
use crate::format::RowFormat;
use crate::formats::refused;

/// A batch of so many records is read with the interpreter's lock.
const FEW_RECORDS: usize = 64;

/// What is known of tables that come together, and is the same for each batch of them.
#[pyclass(frozen, module = "pgcdc._pgoutput")]
pub struct RowPlan {
    keys: HashMap<u32, Vec<Vec<u8>>>,
    text: HashMap<u32, HashSet<usize>>,
}

#[pymethods]
impl RowPlan {
    #[new]
    #[allow(clippy::needless_pass_by_value, reason = "what Python hands over")]
    fn new(keys: HashMap<u32, Vec<Bound<'_, PyString>>>, text: HashMap<u32, HashSet<usize>>) -> PyResult<Self> {
        Ok(Self { keys: key_names(&keys)?, text })
    }
}

/// The OID of a table, which of its columns are text, how many rows there are of each kind, and their values.
pub type PlannedRows<'py> = (u32, Bound<'py, PyTuple>, (usize, usize, usize, usize), Vec<Values<'py>>);

/// The values of a row.
pub type Values<'py> = Vec<Option<Bound<'py, PyBytes>>>;

impl RowPlan {
    /// How many changes are left when the batch is folded, and the rows of these.
    pub fn rows<'py>(
        &self,
        py: Python<'py>,
        batch: &Batch,
        catalog: Option<&TypeCatalog>,
    ) -> PyResult<(usize, Vec<PlannedRows<'py>>)> {
        let left = batch.folded(|shape| self.keys.get(&shape.relation.oid).map(Vec::as_slice));
        let left = left.map_err(|failed| refused(py, batch, failed))?;
        let none = TypeCatalog::default();
        let catalog = catalog.unwrap_or(&none);
        let mut as_text = |one: &Relation, at: usize| self.text.get(&one.oid).is_some_and(|some| some.contains(&at));
        let made = catalog.read(|catalog| parts(&left, catalog, Form::Marked, &mut as_text));
        let mut tables = Vec::new();
        for Part { shape, text, counts, bytes } in made.map_err(|failed| refused(py, &left, failed))? {
            let Some(shape) = left.shapes().get(shape) else { continue };
            let Counts { gone, rows, unset, moved } = counts;
            let values = copied_values(py, &bytes)?;
            tables.push((shape.relation.oid, PyTuple::new(py, text)?, (gone, rows, unset, moved), values));
        }
        Ok((left.records().iter().filter(|record| record.is_change()).count(), tables))
    }
}

fn key_names(keys: &HashMap<u32, Vec<Bound<'_, PyString>>>) -> PyResult<HashMap<u32, Vec<Vec<u8>>>> {
    let mut names = HashMap::new();
    for (oid, columns) in keys {
        names.insert(*oid, columns.iter().map(text_bytes).collect::<PyResult<_>>()?);
    }
    Ok(names)
}

/// The last state of each row. `keys` by the OIDs of tables.
pub fn folded(py: Python<'_>, batch: &Batch, keys: &HashMap<u32, Vec<Bound<'_, PyString>>>) -> PyResult<Batch> {
    let names = key_names(keys)?;
    let made = apart(py, batch, || batch.folded(|shape| names.get(&shape.relation.oid).map(Vec::as_slice)));
    made.map_err(|failed| refused(py, batch, failed))
}

/// Without the interpreter's lock, where that is worth it: to get it back takes longer than a few rows do, and whoever
/// has so few is waited for.
fn apart<T: Send>(py: Python<'_>, batch: &Batch, work: impl FnOnce() -> T + Send) -> T {
    if batch.records().len() > FEW_RECORDS { py.detach(work) } else { work() }
}

/// A relation, which of its columns are text, how many rows there are of each kind, and their bytes.
pub type CopyRows<'py> = (Bound<'py, PyAny>, Bound<'py, PyTuple>, (usize, usize, usize, usize), Bound<'py, PyBytes>);

/// The rows for COPY. `text` says which columns are to be text, by the OIDs of tables.
pub fn to_copy<'py>(
    py: Python<'py>,
    batch: &Batch,
    marked: bool,
    text: &HashMap<u32, HashSet<usize>>,
    catalog: Option<&TypeCatalog>,
) -> PyResult<Vec<CopyRows<'py>>> {
    let none = TypeCatalog::default();
    let catalog = catalog.unwrap_or(&none);
    let form = if marked { Form::Marked } else { Form::Plain };
    let mut as_text = |relation: &Relation, at: usize| text.get(&relation.oid).is_some_and(|some| some.contains(&at));
    let made = apart(py, batch, || catalog.read(|catalog| parts(batch, catalog, form, &mut as_text)));
    let made = made.map_err(|failed| refused(py, batch, failed))?;
    let format = RowFormat::default(py)?.get();
    let mut rows = Vec::new();
    for Part { shape, text, counts, bytes } in made {
        let Some(shape) = batch.shapes().get(shape) else { continue };
        let Counts { gone, rows: present, unset, moved } = counts;
        let relation = format.plan(py, shape)?.relation.bind(py).clone();
        rows.push((relation, PyTuple::new(py, text)?, (gone, present, unset, moved), PyBytes::new(py, &bytes)));
    }
    Ok(rows)
}

/// Bytes in front of the first row: a signature, flags, and the length of an extension, which is 0.
const HEADER: usize = 19;

/// What is in front, and the rest.
fn cut<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}

/// The values of each row that `to_copy` has written: a few rows are sent as parameters.
#[pyfunction]
pub fn copied_values<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Vec<Values<'py>>> {
    let mut rows = Vec::new();
    let mut rest = data.get(HEADER..).unwrap_or_default();
    // The end is a count of -1.
    while let Some(count) = cut(&mut rest).map(|bytes| i16::from_be_bytes(*bytes)) {
        let Ok(count) = usize::try_from(count) else { return Ok(rows) };
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            let length = cut(&mut rest).map(|bytes| i32::from_be_bytes(*bytes)).ok_or_else(incomplete)?;
            values.push(match usize::try_from(length) {
                Ok(length) => {
                    let (value, behind) = rest.split_at_checked(length).ok_or_else(incomplete)?;
                    rest = behind;
                    Some(PyBytes::new(py, value))
                }
                Err(_) => None,
            });
        }
        rows.push(values);
    }
    Err(incomplete())
}

fn incomplete() -> PyErr {
    PyValueError::new_err("these are not the rows of a COPY in binary, whole")
}
