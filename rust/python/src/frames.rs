//! `Frames`: CopyData payloads in one piece of memory; and how they are taken from the libpq that the driver has loaded.
//!
//! The other file with unsafe code. psycopg makes an object of each payload, which costs more than what is done with it
//! afterwards; here a burst of them is copied into one buffer, and Python sees the buffer. Which functions of libpq are
//! called, and with which connection, psycopg knows; here they are numbers, so whoever hands over wrong ones crashes the
//! process: `python/pgcdc/replication/libpq.py` is the only one to do so.
#![allow(unsafe_code, reason = "each block says why it is sound")]
use std::ffi::{c_char, c_int, c_void};

use pgoutput::frame::Frame;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyList};

use crate::bytes::Bytes;
use crate::error::frame_error;
use crate::exclusive::{changing, reading};

/// `int PQgetCopyData(PGconn *conn, char **buffer, int async)`
type GetCopyData = unsafe extern "C" fn(*mut c_void, *mut *mut c_char, c_int) -> c_int;
/// `void PQfreemem(void *ptr)`
type FreeMemory = unsafe extern "C" fn(*mut c_void);

/// Two functions of a libpq that stays loaded.
#[pyclass(frozen, module = "pgcdc._pgoutput")]
pub struct Libpq {
    get_copy_data: GetCopyData,
    free_memory: FreeMemory,
}

#[pymethods]
impl Libpq {
    #[new]
    fn new(get_copy_data: usize, free_memory: usize) -> PyResult<Self> {
        if get_copy_data == 0 || free_memory == 0 {
            return Err(PyValueError::new_err("no address of a function"));
        }
        // SAFETY: the numbers are addresses of these two functions, which is for the caller to see to, and neither is 0;
        // function pointers are as large as `usize` on every system that Python's own ctypes supports.
        unsafe {
            Ok(Self {
                get_copy_data: std::mem::transmute::<usize, GetCopyData>(get_copy_data),
                free_memory: std::mem::transmute::<usize, FreeMemory>(free_memory),
            })
        }
    }
}

impl Libpq {
    /// The next payload that a connection holds, put behind `bytes`; what `PQgetCopyData` says: its length, 0 when none is
    /// whole, -1 when the COPY has ended, -2 when something is wrong.
    ///
    /// # Safety
    /// `connection` is a `PGconn` of the same libpq that nobody else uses or closes meanwhile.
    unsafe fn next(&self, connection: *mut c_void, bytes: &mut Vec<u8>) -> c_int {
        let mut payload: *mut c_char = std::ptr::null_mut();
        // SAFETY: the connection is one, and `payload` is where a pointer can be put. With 1 for `async` it never waits.
        let length = unsafe { (self.get_copy_data)(connection, &raw mut payload, 1) };
        if let (Ok(size @ 1..), false) = (usize::try_from(length), payload.is_null()) {
            // SAFETY: libpq has allocated and written so many bytes; they are ours until they are given back, once.
            unsafe {
                bytes.extend_from_slice(std::slice::from_raw_parts(payload.cast::<u8>(), size));
                (self.free_memory)(payload.cast());
            }
        }
        length
    }
}

/// Payloads one behind the other.
#[pyclass(sequence, module = "pgcdc._pgoutput")]
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Frames {
    /// The payloads in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        (0..self.ends.len()).filter_map(|number| self.get(number))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// How many bytes they have together.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn get(&self, number: usize) -> Option<&[u8]> {
        let start = number.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.bytes.get(start..*self.ends.get(number)?)
    }
}

#[pymethods]
impl Frames {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn append(slf: &Bound<'_, Self>, frame: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = Bytes::of(frame)?;
        let this = &mut *changing(slf)?;
        this.bytes.extend_from_slice(bytes.as_slice());
        this.ends.push(this.bytes.len());
        Ok(())
    }

    // The interpreter's lock is kept, although libpq does not need it: nothing here waits, and as long as it is kept no
    // other thread can close the connection.
    fn take(
        slf: &Bound<'_, Self>,
        libpq: &Libpq,
        connection: usize,
        max_bytes: usize,
        max_frames: usize,
    ) -> PyResult<i32> {
        if connection == 0 {
            return Err(PyValueError::new_err("the connection is closed"));
        }
        let this = &mut *changing(slf)?;
        while this.bytes.len() < max_bytes && this.ends.len() < max_frames {
            // SAFETY: the caller has the number from psycopg, for a connection that is open; that nobody else uses it is
            // told in `_pgoutput.pyi`, and seen to by whoever calls (generators.py holds a lock).
            let length = unsafe { libpq.next(connection as *mut c_void, &mut this.bytes) };
            if length <= 0 {
                return Ok(length);
            }
            this.ends.push(this.bytes.len());
        }
        Ok(1)
    }

    #[getter]
    fn nbytes(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Ok(reading(slf)?.size())
    }

    fn messages<'py>(slf: &Bound<'py, Self>, py: Python<'py>) -> PyResult<(Vec<Bound<'py, PyBytes>>, Vec<u64>)> {
        let message = |frame| match Frame::parse(frame) {
            Ok(Frame::XLogData { wal_start, payload, .. }) => Some(Ok((PyBytes::new(py, payload), wal_start))),
            Ok(Frame::Keepalive { .. }) => None,
            Err(error) => Some(Err(frame_error(py, error, frame))),
        };
        reading(slf)?.iter().filter_map(message).collect()
    }

    fn __len__(slf: &Bound<'_, Self>) -> PyResult<usize> {
        Ok(reading(slf)?.ends.len())
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        let frames: Vec<_> = reading(slf)?.iter().map(|frame| PyBytes::new(py, frame)).collect();
        PyList::new(py, frames)?.try_iter()
    }

    fn __getitem__<'py>(slf: &Bound<'py, Self>, py: Python<'py>, index: usize) -> PyResult<Bound<'py, PyBytes>> {
        let this = reading(slf)?;
        this.get(index).map(|frame| PyBytes::new(py, frame)).ok_or_else(|| PyIndexError::new_err("no such frame"))
    }
}
