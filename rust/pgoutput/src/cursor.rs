//! Reading big-endian fields, each with a name for the error message; nothing is read that is not there.
use crate::error::{Error, Reason, Result};

/// The most bytes that the name of a schema, table, column or type may have. PostgreSQL's have 63; how many is fixed when a
/// server is compiled, so there is room for those that were given more. Without an end, a name that is sent once and written
/// with each row would make many times of a message what it is.
pub const LONGEST_NAME: usize = 1024;

/// A place in some bytes.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    /// Begin at the first of some bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// Begin at the first of some bytes that are themselves part of a message.
    pub fn at(bytes: &'a [u8], offset: usize) -> Self {
        Self { rest: bytes, offset }
    }

    /// How many bytes were read.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error about the field that begins here.
    pub fn error(&self, reason: Reason, field: &'static str) -> Error {
        Error { reason, field, offset: self.offset }
    }

    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                self.offset = self.offset.saturating_add(N);
                Ok(*head)
            }
            None => Err(self.error(Reason::UnexpectedEnd, field)),
        }
    }

    /// One byte.
    ///
    /// # Errors
    /// When nothing is left.
    #[inline]
    pub fn u8(&mut self, field: &'static str) -> Result<u8> {
        self.take::<1>(field).map(|[byte]| byte)
    }

    /// A 16-bit integer.
    ///
    /// # Errors
    /// When fewer than 2 bytes are left.
    #[inline]
    pub fn i16(&mut self, field: &'static str) -> Result<i16> {
        self.take(field).map(i16::from_be_bytes)
    }

    /// A 16-bit unsigned integer.
    ///
    /// # Errors
    /// When fewer than 2 bytes are left.
    #[inline]
    pub fn u16(&mut self, field: &'static str) -> Result<u16> {
        self.take(field).map(u16::from_be_bytes)
    }

    /// A 32-bit unsigned integer (an OID, an xid).
    ///
    /// # Errors
    /// When fewer than 4 bytes are left.
    #[inline]
    pub fn u32(&mut self, field: &'static str) -> Result<u32> {
        self.take(field).map(u32::from_be_bytes)
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// When fewer than 4 bytes are left.
    #[inline]
    pub fn i32(&mut self, field: &'static str) -> Result<i32> {
        self.take(field).map(i32::from_be_bytes)
    }

    /// A 64-bit unsigned integer (an LSN).
    ///
    /// # Errors
    /// When fewer than 8 bytes are left.
    #[inline]
    pub fn u64(&mut self, field: &'static str) -> Result<u64> {
        self.take(field).map(u64::from_be_bytes)
    }

    /// A 64-bit integer (microseconds since 2000-01-01 UTC).
    ///
    /// # Errors
    /// When fewer than 8 bytes are left.
    #[inline]
    pub fn i64(&mut self, field: &'static str) -> Result<i64> {
        self.take(field).map(i64::from_be_bytes)
    }

    /// So many bytes.
    ///
    /// # Errors
    /// When fewer are left.
    #[inline]
    pub fn bytes(&mut self, count: usize, field: &'static str) -> Result<&'a [u8]> {
        match self.rest.split_at_checked(count) {
            Some((head, rest)) => {
                self.rest = rest;
                self.offset = self.offset.saturating_add(count);
                Ok(head)
            }
            None => Err(self.error(Reason::UnexpectedEnd, field)),
        }
    }

    /// A 32-bit length and so many bytes.
    ///
    /// # Errors
    /// When the length is negative or more than what is left.
    #[inline]
    pub fn sized(&mut self, field: &'static str) -> Result<&'a [u8]> {
        let start = *self;
        let length = self.i32(field)?;
        match usize::try_from(length) {
            Ok(count) => self.bytes(count, field),
            Err(_) => Err(start.error(Reason::BadLength(i64::from(length)), field)),
        }
    }

    /// A zero-terminated string, without the zero.
    ///
    /// # Errors
    /// When there is no zero byte.
    pub fn string(&mut self, field: &'static str) -> Result<&'a [u8]> {
        match memchr::memchr(0, self.rest) {
            Some(length) => {
                let text = self.bytes(length, field)?;
                self.u8(field)?;
                Ok(text)
            }
            None => Err(self.error(Reason::Unterminated, field)),
        }
    }

    /// A zero-terminated name of a schema, table, column or type, without the zero.
    ///
    /// # Errors
    /// When there is no zero byte, or more than [`LONGEST_NAME`] bytes before it.
    pub fn name(&mut self, field: &'static str) -> Result<&'a [u8]> {
        let start = *self;
        let name = self.string(field)?;
        if name.len() > LONGEST_NAME {
            return Err(start.error(Reason::BadLength(i64::try_from(name.len()).unwrap_or(i64::MAX)), field));
        }
        Ok(name)
    }

    /// Make sure that everything was read.
    ///
    /// # Errors
    /// When bytes are left over.
    pub fn finish(&self, field: &'static str) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(Reason::TrailingBytes(self.rest.len()), field)) }
    }
}
