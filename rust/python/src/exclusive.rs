//! Objects with the state of one stream belong to one call at a time: any other gets an error that says so.
//!
//! Not a lock that waits: who waits inside of a call that waits for him (a row class may call anything) never wakes up, and
//! two threads that take turns at one stream would get its messages mixed up.
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::False;
use pyo3::{PyClass, PyRef, PyRefMut};

fn in_use<T: PyClass>(py: Python<'_>) -> PyErr {
    let class = T::type_object(py);
    let name = class.name().map_or_else(|_| "object".to_owned(), |name| name.to_string());
    PyRuntimeError::new_err(format!(
        "this {name} is in use by another call: it follows one stream, so its calls come one after the other"
    ))
}

/// The object, for a call that moves its state.
pub fn changing<'py, T: PyClass<Frozen = False>>(object: &Bound<'py, T>) -> PyResult<PyRefMut<'py, T>> {
    object.try_borrow_mut().map_err(|_| in_use::<T>(object.py()))
}

/// The object, for a call that looks at its state.
pub fn reading<'py, T: PyClass>(object: &Bound<'py, T>) -> PyResult<PyRef<'py, T>> {
    object.try_borrow().map_err(|_| in_use::<T>(object.py()))
}
