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

    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

/// Likewise, but kept: `bytes` as it is, a copy of anything else with a buffer.
pub enum Held<'py> {
    Bytes(Bound<'py, PyBytes>),
    Copied(Vec<u8>),
}

impl<'py> Held<'py> {
    pub fn of(object: Bound<'py, PyAny>) -> PyResult<Self> {
        match object.cast_into::<PyBytes>() {
            Ok(bytes) => Ok(Self::Bytes(bytes)),
            Err(error) => {
                let object = error.into_inner();
                PyBuffer::<u8>::get(&object)?.to_vec(object.py()).map(Self::Copied)
            }
        }
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.as_bytes(),
            Self::Copied(bytes) => bytes,
        }
    }
}
