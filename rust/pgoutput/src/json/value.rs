//! One value as JSON, the same from its text and its binary form.
use super::text::{bytea, embed, lower_eight, string};
use crate::oid::{Array, Kind, Scalar};
use crate::value::array::{self, Dimension};
use crate::value::calendar::{Date, Time};
use crate::value::print::{decode_numbers, print};
use crate::value::{Format, Invalid, Result, Value, composite, decode, hstore, number, vector};

/// What is used again for each value.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) value: Vec<u8>,
    /// For `arrow`.
    #[cfg(feature = "arrow")]
    pub(crate) text: Vec<u8>,
    pub(super) stack: Vec<u8>,
    ends: Vec<usize>,
}

/// Write one value.
///
/// # Errors
/// When the bytes are not a value of the type. Something may have been written then.
#[inline]
pub fn write(out: &mut Vec<u8>, kind: &Kind, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    match kind {
        Kind::Scalar(scalar) => write_scalar(out, *scalar, format, bytes, scratch),
        Kind::Array(array) => write_array(out, array, format, bytes, scratch),
        rare => write_rare(out, rare, format, bytes, scratch),
    }
}

/// Out of the way of the types that every table has.
#[inline(never)]
fn write_rare(out: &mut Vec<u8>, kind: &Kind, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    match kind {
        Kind::Scalar(_) | Kind::Array(_) => write(out, kind, format, bytes, scratch),
        Kind::Range(_) | Kind::Multirange(_) => {
            let mut text = Vec::new();
            print(&mut text, kind, format, bytes)?;
            string(out, &text);
            Ok(())
        }
        Kind::Numbers(scalar) => {
            let mut separator = b'[';
            let written = decode_numbers(*scalar, format, bytes, |number| {
                out.push(std::mem::replace(&mut separator, b','));
                out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
                Ok::<(), Invalid>(())
            });
            end(out, separator, b"[", b']');
            written
        }
        Kind::Floats(width) => {
            let mut separator = b'[';
            let written = vector::decode(*width, format, bytes, |float| {
                out.push(std::mem::replace(&mut separator, b','));
                write_float(out, number::float4(float));
                Ok::<(), Invalid>(())
            });
            end(out, separator, b"[", b']');
            written
        }
        Kind::Composite(composite) => {
            let mut separator = b'{';
            let written = composite::decode(composite, format, bytes, |field, bytes| {
                out.push(std::mem::replace(&mut separator, b','));
                string(out, &field.name);
                out.push(b':');
                match bytes {
                    Some(bytes) => write(out, &field.kind, format, bytes, scratch),
                    None => {
                        out.extend_from_slice(b"null");
                        Ok(())
                    }
                }
            });
            end(out, separator, b"{", b'}');
            written
        }
        Kind::Hstore => {
            let mut separator = b'{';
            let written = hstore::decode(format, bytes, |key, value| {
                out.push(std::mem::replace(&mut separator, b','));
                string(out, key);
                out.push(b':');
                match value {
                    Some(value) => string(out, value),
                    None => out.extend_from_slice(b"null"),
                }
                Ok::<(), Invalid>(())
            });
            end(out, separator, b"{", b'}');
            written
        }
        Kind::Opaque => {
            match format {
                Format::Text => string(out, bytes),
                Format::Binary => bytea(out, bytes),
            }
            Ok(())
        }
    }
}

/// Close what was opened by its first part, or open and close it where there was none.
fn end(out: &mut Vec<u8>, separator: u8, open: &[u8], close: u8) {
    if separator != b',' {
        out.extend_from_slice(open);
    }
    out.push(close);
}

fn write_float(out: &mut Vec<u8>, number: f64) {
    match number {
        _ if number.is_finite() => out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes()),
        f64::INFINITY => out.extend_from_slice(b"\"Infinity\""),
        f64::NEG_INFINITY => out.extend_from_slice(b"\"-Infinity\""),
        _ => out.extend_from_slice(b"\"NaN\""),
    }
}

fn write_scalar(out: &mut Vec<u8>, scalar: Scalar, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    match decode(scalar, format, bytes, &mut scratch.value)? {
        Value::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Value::Text(text) => string(out, text),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Float(number) => write_float(out, number),
        // Digits, signs, letters, colons: nothing that JSON would escape.
        Value::Numeric(text) => quoted(out, |out| out.extend_from_slice(text.as_bytes())),
        Value::PgText(text) => string(out, text.as_bytes()),
        Value::Date(day) => quoted(out, |out| date(out, day)),
        Value::Time(clock) => quoted(out, |out| time(out, clock)),
        Value::TimeTz(clock, east) => quoted(out, |out| {
            time(out, clock);
            zone(out, east);
        }),
        Value::Timestamp(day, clock) => quoted(out, |out| instant(out, day, clock)),
        Value::TimestampTz(day, clock) => quoted(out, |out| {
            instant(out, day, clock);
            out.push(b'Z');
        }),
        Value::Uuid(bytes) => quoted(out, |out| uuid(out, bytes)),
        Value::Json(json) => embed(out, json, &mut scratch.stack)?,
        Value::Bytes(bytes) if scalar != Scalar::Ewkb => bytea(out, &bytes),
        Value::Natural(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        // As PostgreSQL prints them, in which there is nothing that JSON would escape either.
        Value::Lsn(_)
        | Value::Interval(_)
        | Value::Network(_)
        | Value::Bits(_)
        | Value::Geometry(_)
        | Value::Tid(..)
        | Value::Bytes(_) => write_printed(out, scalar, format, bytes)?,
    }
    Ok(())
}

/// Out of the way of the types that every table has.
#[inline(never)]
fn write_printed(out: &mut Vec<u8>, scalar: Scalar, format: Format, bytes: &[u8]) -> Result<()> {
    out.push(b'"');
    print(out, &Kind::Scalar(scalar), format, bytes)?;
    out.push(b'"');
    Ok(())
}

#[inline]
fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Two digits.
#[inline]
fn pair(value: u32) -> [u8; 2] {
    let [.., high] = (value / 10 % 10).to_be_bytes();
    let [.., low] = (value % 10).to_be_bytes();
    [b'0' | high, b'0' | low]
}

/// `2024-02-29`
fn date(out: &mut Vec<u8>, date: Date) {
    // A date that is no PgText has a year from 1 to 9999.
    let year = u32::try_from(date.year).unwrap_or(0);
    let ([y1, y2], [y3, y4]) = (pair(year / 100), pair(year));
    let ([m1, m2], [d1, d2]) = (pair(date.month.into()), pair(date.day.into()));
    out.extend_from_slice(&[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2]);
}

/// `12:30:00`, or `12:30:00.500000` where there is a fraction.
fn time(out: &mut Vec<u8>, time: Time) {
    let [h1, h2] = pair(time.hour.into());
    let ([m1, m2], [s1, s2]) = (pair(time.minute.into()), pair(time.second.into()));
    out.extend_from_slice(&[h1, h2, b':', m1, m2, b':', s1, s2]);
    let fraction = time.microsecond;
    if fraction != 0 {
        let ([f1, f2], [f3, f4], [f5, f6]) = (pair(fraction / 10_000), pair(fraction / 100), pair(fraction));
        out.extend_from_slice(&[b'.', f1, f2, f3, f4, f5, f6]);
    }
}

pub(super) fn instant(out: &mut Vec<u8>, day: Date, clock: Time) {
    date(out, day);
    out.push(b'T');
    time(out, clock);
}

/// `Z`, `+05:30`, `-15:59:59`
fn zone(out: &mut Vec<u8>, east: i32) {
    if east == 0 {
        out.push(b'Z');
        return;
    }
    let seconds = east.unsigned_abs();
    let part = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&pair(value % 60));
    out.push(if east < 0 { b'-' } else { b'+' });
    part(out, seconds / 3600);
    out.push(b':');
    part(out, seconds / 60);
    if !seconds.is_multiple_of(60) {
        out.push(b':');
        part(out, seconds);
    }
}

/// Five groups of hexadecimal digits.
pub(super) fn uuid(out: &mut Vec<u8>, bytes: [u8; 16]) {
    let [first, second, third, fourth] = bytes.as_chunks::<4>().0 else { return };
    let eight = |chunk: &[u8; 4]| lower_eight(u32::from_be_bytes(*chunk));
    out.extend_from_slice(&eight(first));
    for chunk in [second, third] {
        let [a, b, c, d, rest @ ..] = eight(chunk);
        out.extend_from_slice(&[b'-', a, b, c, d, b'-']);
        out.extend_from_slice(&rest);
    }
    out.extend_from_slice(&eight(fourth));
}

/// The text of an instant in microseconds since 2000-01-01 UTC, with its quotes.
pub fn write_instant(out: &mut Vec<u8>, microseconds: i64, scratch: &mut Scratch) -> Result<()> {
    write_scalar(out, Scalar::TimestampTz, Format::Binary, &microseconds.to_be_bytes(), scratch)
}

/// Arrays nested as their dimensions are; one whose lower bounds are not all 1 as an object that says them.
fn write_array(out: &mut Vec<u8>, array: &Array, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    let mut ends = std::mem::take(&mut scratch.ends);
    ends.clear();
    let start = out.len();
    out.push(b'[');
    let dimensions = array::decode(array.delimiter, format, bytes, |element| {
        if !ends.is_empty() {
            out.push(b',');
        }
        match element {
            Some(bytes) => write(out, &array.element, format, bytes, scratch)?,
            None => out.extend_from_slice(b"null"),
        }
        ends.push(out.len());
        Ok::<(), Invalid>(())
    })?;
    let dimensions = dimensions.as_slice();
    let plain = dimensions.iter().all(|dimension| dimension.lower_bound == 1);
    if plain && dimensions.len() <= 1 {
        out.push(b']');
    } else {
        let flat = out.split_off(start);
        let mut rest = flat.as_slice();
        let mut before = start;
        let mut elements = ends.iter().map(|&end| {
            // Each element has a bracket or comma in front of it.
            let (element, after) = rest.split_at(end.saturating_sub(before).min(rest.len()));
            (rest, before) = (after, end);
            element.get(1..).unwrap_or_default()
        });
        if plain {
            nest(out, dimensions, &mut elements);
        } else {
            out.extend_from_slice(b"{\"lower_bounds\":[");
            for (number, dimension) in dimensions.iter().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(itoa::Buffer::new().format(dimension.lower_bound).as_bytes());
            }
            out.extend_from_slice(b"],\"elements\":");
            nest(out, dimensions, &mut elements);
            out.push(b'}');
        }
    }
    scratch.ends = ends;
    Ok(())
}

fn nest<'a>(out: &mut Vec<u8>, dimensions: &[Dimension], elements: &mut impl Iterator<Item = &'a [u8]>) {
    let Some((dimension, inner)) = dimensions.split_first() else {
        out.extend_from_slice(elements.next().unwrap_or_default());
        return;
    };
    out.push(b'[');
    for number in 0..dimension.length {
        if number > 0 {
            out.push(b',');
        }
        nest(out, inner, elements);
    }
    out.push(b']');
}
