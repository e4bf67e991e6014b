//! One value as JSON, the same from its text and its binary form.
use super::text::{bytea, embed, lower_eight, string, string_of};
use crate::oid::{Array, Kind, Scalar};
use crate::value::array::{self, Dimension};
use crate::value::calendar::{Date, Time};
use crate::value::digits::{append_first, eight, integer, natural};
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
    /// Whether strings and jsonb are written without a look at whether they are UTF-8: who set this looks at all that was
    /// written, at once.
    pub(super) is_utf8_later: bool,
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
                integer(out, number);
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
        Value::Int(number) => integer(out, number),
        Value::Text(text) => string_of(out, text, scratch.is_utf8_later),
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
        Value::Json(json) => embed(out, json, &mut scratch.stack, scratch.is_utf8_later)?,
        Value::Bytes(bytes) if scalar != Scalar::Ewkb => bytea(out, &bytes),
        Value::Natural(number) => natural(out, number),
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

/// Three numbers as one, of two digits each but for the first.
#[inline]
pub(super) fn three(first: u32, second: u8, third: u8) -> u32 {
    first.wrapping_mul(10_000).wrapping_add(u32::from(second).wrapping_mul(100)).wrapping_add(third.into())
}

/// `2024-02-29`
#[inline]
fn date_text(date: Date) -> [u8; 10] {
    // A date that is no PgText has a year from 1 to 9999.
    let year = u32::try_from(date.year).unwrap_or(0);
    let [y1, y2, y3, y4, m1, m2, d1, d2] = eight(three(year, date.month, date.day));
    [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2]
}

/// `12:30:00.500000`, of which the first eight count where there is no fraction.
#[inline]
fn time_text(time: Time) -> ([u8; 15], usize) {
    let [_, _, h1, h2, m1, m2, s1, s2] = eight(three(time.hour.into(), time.minute, time.second));
    let [_, _, f1, f2, f3, f4, f5, f6] = eight(time.microsecond);
    let text = [h1, h2, b':', m1, m2, b':', s1, s2, b'.', f1, f2, f3, f4, f5, f6];
    (text, if time.microsecond == 0 { 8 } else { 15 })
}

fn date(out: &mut Vec<u8>, date: Date) {
    out.extend_from_slice(&date_text(date));
}

fn time(out: &mut Vec<u8>, time: Time) {
    let (text, length) = time_text(time);
    append_first(out, &text, length);
}

#[inline]
pub(super) fn instant(out: &mut Vec<u8>, day: Date, clock: Time) {
    let [y1, y2, y3, y4, d1, m1, m2, d2, t1, t2] = date_text(day);
    out.extend_from_slice(&[y1, y2, y3, y4, d1, m1, m2, d2, t1, t2, b'T']);
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
#[inline]
pub(super) fn uuid(out: &mut Vec<u8>, bytes: [u8; 16]) {
    let [first, second, third, fourth] = bytes.as_chunks::<4>().0 else { return };
    let eight = |chunk: &[u8; 4]| lower_eight(u32::from_be_bytes(*chunk));
    let [a0, a1, a2, a3, a4, a5, a6, a7] = eight(first);
    let [b0, b1, b2, b3, b4, b5, b6, b7] = eight(second);
    let [c0, c1, c2, c3, c4, c5, c6, c7] = eight(third);
    let [d0, d1, d2, d3, d4, d5, d6, d7] = eight(fourth);
    out.extend_from_slice(&[
        a0, a1, a2, a3, a4, a5, a6, a7, b'-', b0, b1, b2, b3, b'-', b4, b5, b6, b7, b'-', c0, c1, c2, c3, b'-', c4, c5,
        c6, c7, d0, d1, d2, d3, d4, d5, d6, d7,
    ]);
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
                integer(out, dimension.lower_bound.into());
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
