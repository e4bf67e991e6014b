//! One column's bytes to one value. What Python's types cannot hold comes as text in PostgreSQL's own words.
//!
//! Source: the `…recv`/`…send` and `…in`/`…out` functions in the server's `utils/adt`.
use std::borrow::Cow;

use crate::oid::Scalar;

pub mod array;
pub mod bits;
pub mod bytea;
pub mod calendar;
pub mod composite;
pub mod datetime;
pub mod datetime_text;
pub(crate) mod digits;
pub mod geometry;
pub mod hstore;
pub mod instant;
pub mod interval;
pub mod list;
pub mod network;
pub mod number;
pub mod numeric;
pub mod print;
mod quoted;
pub mod range;
mod search;
mod system;
pub mod uuid;
pub mod vector;

use bits::Bits;
use calendar::{Date, Time};
use geometry::Geometry;
use interval::Interval;
use network::Network;

/// Which of the two forms some bytes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// What the type's output function wrote.
    Text,
    /// What the type's send function wrote.
    Binary,
}

/// Why some bytes are not a value of their type. Never holds the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid(pub &'static str);

/// The result of reading a value.
pub type Result<T> = std::result::Result<T, Invalid>;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `bool`
    Bool(bool),
    /// `int2`, `int4`, `int8`, `oid`, `xid`, `cid`
    Int(i64),
    /// `xid8`
    Natural(u64),
    /// `pg_lsn`
    Lsn(u64),
    /// `float4`, `float8`; a `float4` is the number that its shortest text says
    Float(f64),
    /// `numeric`, as PostgreSQL prints it, NaN and the infinities included; `money` with two digits
    Numeric(&'a str),
    /// Text in the stream's encoding; types that are given as PostgreSQL prints them
    Text(&'a [u8]),
    /// `bytea`; the EWKB of the extension postgis
    Bytes(Cow<'a, [u8]>),
    /// `date`, years 1 to 9999
    Date(Date),
    /// `time` before 24:00:00
    Time(Time),
    /// `timetz` before 24:00:00, and the seconds that its zone is east of UTC
    TimeTz(Time, i32),
    /// `timestamp`, years 1 to 9999
    Timestamp(Date, Time),
    /// `timestamptz` in UTC, years 1 to 9999
    TimestampTz(Date, Time),
    /// `uuid`
    Uuid([u8; 16]),
    /// `json`, `jsonb`: JSON text
    Json(&'a [u8]),
    /// `interval`
    Interval(Interval),
    /// `inet`, `cidr`
    Network(Network),
    /// `bit`, `varbit`
    Bits(Bits<'a>),
    /// `point` and so on; in a box, because all values are as large as the largest
    Geometry(Box<Geometry>),
    /// `tid`: block and offset
    Tid(u32, u16),
    /// A value of one of the types above that those forms cannot hold, in PostgreSQL's own words
    PgText(&'a str),
}

/// Read one value.
///
/// `scratch` is overwritten where a value has to be written out; the value borrows from it.
///
/// # Errors
/// When the bytes are not a value of the type in that format.
#[inline]
pub fn decode<'a>(scalar: Scalar, format: Format, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Value<'a>> {
    match format {
        Format::Binary => binary(scalar, bytes, scratch),
        Format::Text => text(scalar, bytes, scratch),
    }
}

fn binary<'a>(scalar: Scalar, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Value<'a>> {
    match scalar {
        Scalar::Text => Ok(Value::Text(bytes)),
        Scalar::Int4 => fixed(bytes).map(|bytes| Value::Int(i32::from_be_bytes(bytes).into())),
        Scalar::Int8 => fixed(bytes).map(|bytes| Value::Int(i64::from_be_bytes(bytes))),
        Scalar::Int2 => fixed(bytes).map(|bytes| Value::Int(i16::from_be_bytes(bytes).into())),
        Scalar::Oid => fixed(bytes).map(|bytes| Value::Int(u32::from_be_bytes(bytes).into())),
        Scalar::Bool => match bytes {
            [0] => Ok(Value::Bool(false)),
            [1] => Ok(Value::Bool(true)),
            _ => Err(Invalid("neither 0 nor 1")),
        },
        Scalar::Float8 => fixed(bytes).map(|bytes| Value::Float(f64::from_be_bytes(bytes))),
        Scalar::Float4 => fixed(bytes).map(|bytes| Value::Float(number::float4(f32::from_be_bytes(bytes)))),
        Scalar::Numeric => numeric::binary(bytes, scratch),
        Scalar::TimestampTz => datetime::timestamp_binary(fixed(bytes)?, true, scratch),
        Scalar::Timestamp => datetime::timestamp_binary(fixed(bytes)?, false, scratch),
        Scalar::Date => datetime::date_binary(fixed(bytes)?, scratch),
        Scalar::Time => datetime::time_binary(fixed(bytes)?, scratch),
        Scalar::TimeTz => datetime::timetz_binary(fixed(bytes)?, scratch),
        Scalar::Uuid => fixed(bytes).map(Value::Uuid),
        Scalar::Json => Ok(Value::Json(bytes)),
        Scalar::Jsonb => match bytes.split_first() {
            Some((1, json)) => Ok(Value::Json(json)),
            _ => Err(Invalid("another jsonb version than 1")),
        },
        Scalar::Bytea => Ok(Value::Bytes(Cow::Borrowed(bytes))),
        Scalar::Char => char_value(bytes, scratch),
        rare => rare_binary(rare, bytes, scratch),
    }
}

/// Out of the way of the types that every table has.
#[inline(never)]
fn rare_binary<'a>(scalar: Scalar, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Value<'a>> {
    match scalar {
        Scalar::Versioned => match bytes.split_first() {
            Some((1, text)) => Ok(Value::Text(text)),
            _ => Err(Invalid("another version of its type's form than 1")),
        },
        Scalar::Xid8 => fixed(bytes).map(|bytes| Value::Natural(u64::from_be_bytes(bytes))),
        Scalar::Lsn => fixed(bytes).map(|bytes| Value::Lsn(u64::from_be_bytes(bytes))),
        Scalar::Money => system::money_binary(fixed(bytes)?, scratch),
        Scalar::Interval => interval::binary(bytes).map(Value::Interval),
        Scalar::Inet => network::binary(bytes, false).map(Value::Network),
        Scalar::Cidr => network::binary(bytes, true).map(Value::Network),
        Scalar::Bits => bits::binary(bytes).map(Value::Bits),
        Scalar::Shape(shape) => {
            geometry::decode(shape, Format::Binary, bytes).map(|geometry| Value::Geometry(Box::new(geometry)))
        }
        Scalar::Tid => system::tid_binary(bytes).map(|(block, offset)| Value::Tid(block, offset)),
        Scalar::MacAddr => printed(scratch, |out| network::mac_binary(bytes, 6, out)),
        Scalar::MacAddr8 => printed(scratch, |out| network::mac_binary(bytes, 8, out)),
        Scalar::Cube => printed(scratch, |out| geometry::print_cube(bytes, out)),
        Scalar::Snapshot => printed(scratch, |out| system::snapshot(bytes, out)),
        Scalar::TsVector => printed(scratch, |out| search::vector(bytes, out)),
        Scalar::TsQuery => printed(scratch, |out| search::query(bytes, out)),
        Scalar::SparseVector => printed(scratch, |out| vector::sparse(bytes, out)),
        _ => Ok(Value::Bytes(Cow::Borrowed(bytes))), // Ewkb
    }
}

/// A type that is given as PostgreSQL prints it.
fn printed(scratch: &mut Vec<u8>, print: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Value<'_>> {
    scratch.clear();
    print(scratch)?;
    Ok(Value::Text(scratch))
}

fn text<'a>(scalar: Scalar, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Value<'a>> {
    match scalar {
        Scalar::Text => Ok(Value::Text(bytes)),
        Scalar::Int8 => number::integer(bytes).map(Value::Int),
        Scalar::Int4 => number::integer(bytes).and_then(|value| within(value, i32::try_from(value).is_ok())),
        Scalar::Int2 => number::integer(bytes).and_then(|value| within(value, i16::try_from(value).is_ok())),
        Scalar::Oid => number::integer(bytes).and_then(|value| within(value, u32::try_from(value).is_ok())),
        Scalar::Bool => match bytes {
            b"f" => Ok(Value::Bool(false)),
            b"t" => Ok(Value::Bool(true)),
            _ => Err(Invalid("neither t nor f")),
        },
        Scalar::Float8 | Scalar::Float4 => number::float(bytes).map(Value::Float),
        Scalar::Numeric => numeric::text(bytes).map(Value::Numeric),
        Scalar::TimestampTz => datetime_text::timestamptz_text(bytes, scratch),
        Scalar::Timestamp => datetime_text::timestamp_text(bytes),
        Scalar::Date => datetime_text::date_text(bytes),
        Scalar::Time => datetime_text::time_text(bytes),
        Scalar::TimeTz => datetime_text::timetz_text(bytes),
        Scalar::Uuid => uuid::text(bytes).map(Value::Uuid),
        Scalar::Json | Scalar::Jsonb => Ok(Value::Json(bytes)),
        Scalar::Bytea => bytea::text(bytes).map(|bytes| Value::Bytes(Cow::Owned(bytes))),
        Scalar::Char => char_value(bytes, scratch),
        rare => rare_text(rare, bytes, scratch),
    }
}

#[inline(never)]
fn rare_text<'a>(scalar: Scalar, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Value<'a>> {
    match scalar {
        Scalar::Xid8 => system::xid8_text(bytes).map(Value::Natural),
        Scalar::Lsn => system::lsn_text(bytes).map(Value::Lsn),
        Scalar::Money => system::money_text(bytes, scratch),
        Scalar::Interval => interval::text(bytes).map(Value::Interval),
        Scalar::Inet => network::text(bytes, false).map(Value::Network),
        Scalar::Cidr => network::text(bytes, true).map(Value::Network),
        Scalar::Bits => bits::text(bytes, scratch).map(Value::Bits),
        Scalar::Shape(shape) => {
            geometry::decode(shape, Format::Text, bytes).map(|geometry| Value::Geometry(Box::new(geometry)))
        }
        Scalar::Tid => system::tid_text(bytes).map(|(block, offset)| Value::Tid(block, offset)),
        Scalar::MacAddr => network::mac_text(bytes, 6).map(Value::Text),
        Scalar::MacAddr8 => network::mac_text(bytes, 8).map(Value::Text),
        Scalar::Ewkb => bytea::hexadecimal(bytes).map(|bytes| Value::Bytes(Cow::Owned(bytes))),
        // Versioned, Cube, Snapshot, TsVector, TsQuery, SparseVector: as PostgreSQL prints them.
        _ => Ok(Value::Text(bytes)),
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| Invalid("a value of another size than its type"))
}

fn within<'a>(value: i64, fits: bool) -> Result<Value<'a>> {
    if fits { Ok(Value::Int(value)) } else { Err(Invalid("a number outside its type's range")) }
}

/// `"char"`: the zero byte is the empty string, and a byte above ASCII prints as `\ooo` since 16 (before, as itself).
fn char_value<'a>(bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Value<'a>> {
    match *bytes {
        [] | [0] => Ok(Value::Text(&[])),
        [byte] if byte.is_ascii() => Ok(Value::Text(bytes)),
        [byte] => {
            scratch.clear();
            scratch.extend_from_slice(format!("\\{byte:03o}").as_bytes());
            Ok(Value::Text(scratch))
        }
        [b'\\', _, _, _] => Ok(Value::Text(bytes)),
        _ => Err(Invalid("more than one byte")),
    }
}
