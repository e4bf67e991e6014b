//! Unsafe code, as in frames.rs and nowhere else: a few things that CPython's C API does and pyo3's safe API does slowly or not at all.
#![allow(unsafe_code, reason = "each block says why it is sound")]
use std::sync::atomic::{AtomicI64, Ordering};

use pyo3::exceptions::{PyImportError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::imports::Imports;

/// Call with positional arguments and, for the last `names.len()` of them, keywords: no tuple, no dict.
#[inline]
pub fn call<'py>(
    callable: &Bound<'py, PyAny>,
    arguments: &[Bound<'py, PyAny>],
    names: Option<&Bound<'py, PyTuple>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = callable.py();
    let keywords = names.map_or(0, PyTupleMethods::len);
    let Some(positional) = arguments.len().checked_sub(keywords) else {
        return Err(PyTypeError::new_err("more keyword names than arguments"));
    };
    // SAFETY: `Bound` is a transparent wrapper of a non-null `*mut PyObject`, so the slice is an array of such pointers;
    // it, the callable and the names are borrowed for the whole call. The result is a new reference or null with an
    // exception set, which is what `from_owned_ptr_or_err` takes.
    unsafe {
        let result = ffi::PyObject_Vectorcall(
            callable.as_ptr(),
            arguments.as_ptr().cast(),
            positional,
            names.map_or(std::ptr::null_mut(), Bound::as_ptr),
        );
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// Text that is UTF-8, or (from a database in `SQL_ASCII`) not quite: what is not goes into surrogates, losslessly.
#[inline]
pub fn text<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let length = ffi::Py_ssize_t::try_from(bytes.len())?;
    // CPython has strings of one character or none already.
    if length > 1 && bytes.is_ascii() {
        // SAFETY: `PyUnicode_New` gives a new string or null with an exception; for the highest character 127 it has room
        // for one byte a character and a zero, which it has written. Nobody else knows the string yet, and the bytes that
        // are copied are ASCII, as it was told.
        unsafe {
            let result = ffi::PyUnicode_New(length, 127);
            let string = Bound::from_owned_ptr_or_err(py, result)?;
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), ffi::PyUnicode_DATA(result).cast::<u8>(), bytes.len());
            return Ok(string);
        }
    }
    // SAFETY: the pointer and length are those of a slice, the error handler is a C string; new reference or null.
    unsafe {
        let result = ffi::PyUnicode_DecodeUTF8(bytes.as_ptr().cast(), length, c"surrogateescape".as_ptr());
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// A `uuid.UUID`, made by filling its two slots: twenty times as fast as calling the class, which checks six ways to say
/// a uuid. The class forbids assignment in `__setattr__`, so the slots' own descriptors are used.
pub fn uuid<'py>(py: Python<'py>, imports: &Imports, bytes: [u8; 16]) -> PyResult<Bound<'py, PyAny>> {
    let number = u128::from_be_bytes(bytes).into_pyobject(py)?.into_any();
    // SAFETY: `PyType_GenericAlloc` on a heap type without arguments gives a new, zeroed object or null with an exception.
    let object = unsafe {
        let class = imports.uuid.as_ptr().cast::<ffi::PyTypeObject>();
        Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class, 0))?
    };
    set_slot(&object, imports.uuid_int.bind(py), &number)?;
    set_slot(&object, imports.uuid_is_safe.bind(py), imports.uuid_unknown.bind(py))?;
    Ok(object)
}

fn set_slot(object: &Bound<'_, PyAny>, slot: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: reads the type of a live object and calls its `tp_descr_set`, which checks the type of `object` itself and
    // takes its own reference to `value`.
    unsafe {
        match (*ffi::Py_TYPE(slot.as_ptr())).tp_descr_set {
            Some(set) if set(slot.as_ptr(), object.as_ptr(), value.as_ptr()) == 0 => Ok(()),
            Some(_) => Err(PyErr::fetch(object.py())),
            None => Err(PyTypeError::new_err("not a data descriptor")),
        }
    }
}

/// Keeps the cyclic garbage collector from running: it would look through thousands of new rows that cannot be garbage.
pub struct CollectorPause {
    was_enabled: bool,
}

impl CollectorPause {
    /// Pause until this is dropped. Needs the interpreter, hence the token.
    pub fn new(_py: Python<'_>) -> Self {
        // SAFETY: the caller is attached to the interpreter.
        Self { was_enabled: unsafe { ffi::PyGC_Disable() } == 1 }
    }
}

impl Drop for CollectorPause {
    fn drop(&mut self) {
        if self.was_enabled {
            // SAFETY: made and dropped inside one call from Python, so still attached.
            unsafe {
                ffi::PyGC_Enable();
            }
        }
    }
}

/// Refuse to be imported in a second interpreter of the process.
///
/// pyo3 keeps classes, and this crate keeps imported objects, in statics. CPython refuses isolated interpreters by itself;
/// others (as web servers make) would get objects that belong to the first one, and those may go away with it.
pub fn claim_interpreter(py: Python<'_>) -> PyResult<()> {
    static OWNER: AtomicI64 = AtomicI64::new(-1);
    // SAFETY: the caller is attached to an interpreter, which is the current one and has a number.
    let current = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if current == -1 {
        return Err(PyErr::fetch(py));
    }
    match OWNER.compare_exchange(-1, current, Ordering::Relaxed, Ordering::Relaxed) {
        Err(owner) if owner != current => Err(PyImportError::new_err(
            "pgcdc can be imported in one interpreter of a process only, and another one has it: subinterpreters are not supported",
        )),
        _ => Ok(()),
    }
}
