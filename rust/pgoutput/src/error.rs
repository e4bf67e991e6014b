//! Why bytes were refused: a reason, the field that was being read, and where it begins.
use std::fmt;

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The bytes end before the field does.
    UnexpectedEnd,
    /// Bytes are left after the last field.
    TrailingBytes(usize),
    /// The first byte is no kind of message that this decoder knows.
    UnknownKind(u8),
    /// A byte that selects between forms has none of the permitted values.
    UnexpectedByte(u8),
    /// A length or count is negative or larger than the format permits.
    BadLength(i64),
    /// A string has no terminating zero byte.
    Unterminated,
    /// The signature or version of a COPY BINARY file is another one.
    NotCopyBinary,
    /// A row has this many columns where the relation has another number.
    ColumnCount(usize),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnexpectedEnd => f.write_str("unexpected end of message"),
            Self::TrailingBytes(count) => write!(f, "{count} bytes left over"),
            Self::UnknownKind(byte) => write!(f, "unknown message kind {:?}", char::from(byte)),
            Self::UnexpectedByte(byte) => write!(f, "unexpected byte 0x{byte:02x}"),
            Self::BadLength(length) => write!(f, "impossible length {length}"),
            Self::Unterminated => f.write_str("string without a terminating zero byte"),
            Self::NotCopyBinary => f.write_str("not the COPY BINARY format"),
            Self::ColumnCount(count) => write!(f, "{count} columns, another number than the relation has"),
        }
    }
}

/// Bytes that are not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// What is wrong.
    pub reason: Reason,
    /// The field that was being read, in the manual's words.
    pub field: &'static str,
    /// Where it begins, in bytes from the start of the message.
    pub offset: usize,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} at byte {}", self.reason, self.field, self.offset)
    }
}

impl std::error::Error for Error {}

/// The result of reading bytes.
pub type Result<T> = std::result::Result<T, Error>;
