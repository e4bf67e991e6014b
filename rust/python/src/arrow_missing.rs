//! What stands in the place of `arrow` in a build without that feature: the same names, and a sentence.
use pgoutput::batch::Batch;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::catalog::TypeCatalog;
use crate::error::config_error;

/// No build without the feature makes one.
#[pyclass(frozen, module = "pgcdc._pgoutput")]
pub struct ArrowTable;

/// Says what is missing.
pub fn to_arrow<'py>(
    py: Python<'py>,
    _batch: &Batch,
    _text: Option<&Bound<'py, PyAny>>,
    _catalog: Option<&TypeCatalog>,
) -> PyResult<Bound<'py, PyDict>> {
    Err(config_error(py, "this build of pgcdc has no Arrow: it was made without the Cargo feature \"arrow\""))
}
