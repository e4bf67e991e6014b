//! `Bytes`: what Python hands over, as a slice.
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Some bytes that Python has: borrowed from `bytes`, copied from anything else with a buffer.
pub enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Copied(Vec<u8>),
}

impl<'a> Bytes<'a> {
    pub fn of(object: &'a Bound<'_, PyAny>) -> PyResult<Self> {
        match object.cast::<PyBytes>() {
            Ok(bytes) => Ok(Self::Borrowed(bytes.as_bytes())),
            Err(_) => PyBuffer::<u8>::get(object)?.to_vec(object.py()).map(Self::Copied),
        }
    }

    /// Whether an object has bytes.
    pub fn check(object: &Bound<'_, PyAny>) -> PyResult<()> {
        if object.is_instance_of::<PyBytes>() { Ok(()) } else { PyBuffer::<u8>::get(object).map(drop) }
    }

    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}
