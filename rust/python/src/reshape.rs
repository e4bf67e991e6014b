//! `Batch.reshaped`, `rewritten` and `keys`: what a pipeline makes of a batch before a consumer sees it.
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use pgoutput::batch::Batch;
use pgoutput::batch::reshape::{Cell, Keys, Reshape, RowChange, Source, Wrong};
use pgoutput::message::kind;
use pgoutput::session::Shape;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use crate::batch::{shape_of, text_bytes};
use crate::catalog::TypeCatalog;
use crate::error::config_error;
use crate::format::RowFormat;
use crate::formats::refused;
use crate::imports::imports;

/// Where a column comes from, as Python says it; functions are put into `functions`.
fn source(item: &Bound<'_, PyAny>, functions: &mut Vec<Py<PyAny>>) -> PyResult<Source> {
    let Ok(pair) = item.cast::<PyTuple>() else { return Ok(Source::Column(item.extract()?)) };
    let (column, what): (usize, Bound<'_, PyAny>) = pair.extract()?;
    if what.is_none() {
        return Ok(Source::Constant(column, None));
    }
    if let Ok(text) = what.cast::<PyString>() {
        return Ok(Source::Constant(column, Some(text_bytes(text)?)));
    }
    functions.push(what.unbind());
    Ok(Source::Digest(column, functions.len().saturating_sub(1)))
}

/// What `plan` says of each relation of the batch.
pub fn reshaped(
    py: Python<'_>,
    batch: &Batch,
    plan: &Bound<'_, PyAny>,
    catalog: Option<&TypeCatalog>,
) -> PyResult<Batch> {
    let none = TypeCatalog::default();
    let catalog = catalog.unwrap_or(&none);
    let format = RowFormat::default(py)?.get();
    let mut functions = Vec::new();
    let mut reshapes = Vec::new();
    for shape in batch.shapes() {
        let known = format.plan(py, shape)?;
        let planned = plan.call1((known.relation.bind(py),))?;
        if planned.is_none() {
            reshapes.push(None);
            continue;
        }
        let (relation, sources): (Bound<'_, PyAny>, Bound<'_, PyAny>) = planned.extract()?;
        let sources = sources.try_iter()?.map(|one| source(&one?, &mut functions)).collect::<PyResult<Vec<_>>>()?;
        let to = shape_of(py, &relation)?;
        match catalog.read(|catalog| Reshape::new(shape, to, sources, catalog)) {
            Some(reshape) => reshapes.push(Some(reshape)),
            None => return Err(config_error(py, "a reshaped row has as many sources as columns, each of the old row")),
        }
    }
    // The first error of a function; the batch is refused at that change.
    let raised = RefCell::new(None);
    let mut digest = |number: usize, value: &[u8]| {
        let made = functions.get(number).map(|function| -> PyResult<Vec<u8>> {
            text_bytes(&function.bind(py).call1((PyBytes::new(py, value),))?.cast_into::<PyString>()?)
        });
        match made {
            Some(Ok(text)) => Some(text),
            Some(Err(error)) => {
                *raised.borrow_mut() = Some(error);
                None
            }
            None => None,
        }
    };
    let made = batch.reshaped(&reshapes, &mut digest);
    match (made, raised.into_inner()) {
        (_, Some(error)) => Err(error),
        (Ok(made), None) => Ok(made),
        (Err(failed), None) => Err(refused(py, batch, failed)),
    }
}

fn wrong(py: Python<'_>, wrong: Wrong) -> PyErr {
    let said = match wrong {
        Wrong::Number => "there is no change of this number, or a later one was written before".to_owned(),
        Wrong::Copied => "a column is copied from a row that is not there or has no such column".to_owned(),
        Wrong::Cells => "a row has another number of columns than its relation".to_owned(),
        Wrong::Rows => {
            "an insert has a new row, an update a new one and maybe an old one, a delete an old one".to_owned()
        }
        Wrong::Message(error) => format!("no message can say this: {error}"),
    };
    config_error(py, &said)
}

/// Shapes of relations, each made once.
struct Shapes<'py> {
    /// By the address of the object, which is kept, so that it stays that one's.
    known: HashMap<usize, (Bound<'py, PyAny>, Arc<Shape>)>,
}

impl<'py> Shapes<'py> {
    fn of(&mut self, relation: &Bound<'py, PyAny>) -> PyResult<Arc<Shape>> {
        let address = relation.as_ptr().addr();
        if let Some((_, shape)) = self.known.get(&address) {
            return Ok(Arc::clone(shape));
        }
        let shape = shape_of(relation.py(), relation)?;
        self.known.insert(address, (relation.clone(), Arc::clone(&shape)));
        Ok(shape)
    }
}

fn cells(row: &Bound<'_, PyAny>) -> PyResult<Option<Vec<Cell>>> {
    if row.is_none() {
        return Ok(None);
    }
    let unset = &imports(row.py())?.unset;
    let mut cells = Vec::new();
    for value in row.try_iter()? {
        let value = value?;
        cells.push(if value.is_none() {
            Cell::Null
        } else if value.is(unset) {
            Cell::Unset
        } else if let Ok(text) = value.cast::<PyString>() {
            Cell::Text(text_bytes(text)?)
        } else if let Ok(bytes) = value.cast::<PyBytes>() {
            Cell::Binary(bytes.as_bytes().to_vec())
        } else {
            Cell::Copied(value.extract()?)
        });
    }
    Ok(Some(cells))
}

/// The changes written anew.
pub fn rewritten<'py>(py: Python<'py>, batch: &Batch, changes: &Bound<'py, PyAny>) -> PyResult<Batch> {
    let mut shapes = Shapes { known: HashMap::new() };
    let mut rewriter = batch.rewriter();
    for item in changes.try_iter()? {
        let item = item?;
        let Ok(item) = item.cast::<PyTuple>() else {
            rewriter.keep(item.extract()?).map_err(|error| wrong(py, error))?;
            continue;
        };
        let (number, action, what, first, second): (
            usize,
            String,
            Bound<'py, PyAny>,
            Bound<'py, PyAny>,
            Bound<'py, PyAny>,
        ) = item.extract()?;
        let written = match action.as_str() {
            "message" => {
                let prefix = text_bytes(what.cast::<PyString>()?)?;
                rewriter.message(number, &prefix, first.cast::<PyBytes>()?.as_bytes())
            }
            "truncate" => {
                let shapes = what.try_iter()?.map(|one| shapes.of(&one?)).collect::<PyResult<Vec<_>>>()?;
                rewriter.truncate(number, &shapes, first.extract()?, second.extract()?)
            }
            "insert" | "update" | "delete" => {
                let kind = match action.as_str() {
                    "insert" => kind::INSERT,
                    "update" => kind::UPDATE,
                    _ => kind::DELETE,
                };
                let change = RowChange { kind, shape: shapes.of(&what)?, new: cells(&first)?, old: cells(&second)? };
                rewriter.row(number, &change)
            }
            other => return Err(PyTypeError::new_err(format!("{other:?} is no action"))),
        };
        written.map_err(|error| wrong(py, error))?;
    }
    Ok(rewriter.finish())
}

/// The keys of each change: a tuple of one or two, None where it is in order with all.
pub fn keys<'py>(
    py: Python<'py>,
    batch: &Batch,
    columns: &HashMap<u32, Vec<Bound<'py, PyString>>>,
    by_table: bool,
) -> PyResult<Bound<'py, PyList>> {
    let mut names: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
    for (oid, columns) in columns {
        names.insert(*oid, columns.iter().map(text_bytes).collect::<PyResult<_>>()?);
    }
    let keys = batch.keys(|shape| names.get(&shape.relation.oid).map(Vec::as_slice), by_table);
    let list = PyList::empty(py);
    for keys in keys {
        match keys {
            Keys::All => list.append(py.None())?,
            Keys::One(key) => list.append(PyTuple::new(py, [PyBytes::new(py, &key)])?)?,
            Keys::Two(former, now) => {
                list.append(PyTuple::new(py, [PyBytes::new(py, &former), PyBytes::new(py, &now)])?)?;
            }
        }
    }
    Ok(list)
}
