//! Any value, from either form, as PostgreSQL prints it: what one value is inside the text of another.
//!
//! A value that came as text is read and printed again, so that whoever forgot to pin `IntervalStyle` finds out.
//!
//! Source: the `…_out` functions in the server's `utils/adt`.
use super::array::{self, Dimension};
use super::{Format, Invalid, Result, Value};
use super::{
    bits, bytea, composite, datetime, geometry, hstore, interval, network, number, quoted, range, uuid, vector,
};
use crate::oid::{Array, Composite, Kind, Scalar};

/// Write one value.
///
/// # Errors
/// When the bytes are not a value of the type. Something may have been written then.
pub fn print(out: &mut Vec<u8>, kind: &Kind, format: Format, bytes: &[u8]) -> Result<()> {
    match kind {
        Kind::Scalar(scalar) => print_scalar(out, *scalar, format, bytes),
        Kind::Array(array) => print_array(out, array, format, bytes),
        Kind::Numbers(scalar) => {
            let mut separate = false;
            decode_numbers(*scalar, format, bytes, |number| {
                if std::mem::replace(&mut separate, true) {
                    out.push(b' ');
                }
                out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
                Ok(())
            })
        }
        Kind::Floats(width) => {
            out.push(b'[');
            let mut separate = false;
            vector::decode(*width, format, bytes, |float| {
                if std::mem::replace(&mut separate, true) {
                    out.push(b',');
                }
                number::print_float4(out, float);
                Ok::<(), Invalid>(())
            })?;
            out.push(b']');
            Ok(())
        }
        Kind::Range(subtype) => print_range(out, subtype, format, range::decode(format, bytes)?),
        Kind::Multirange(subtype) => {
            out.push(b'{');
            let mut separate = false;
            range::decode_multirange(format, bytes, |range| {
                if std::mem::replace(&mut separate, true) {
                    out.push(b',');
                }
                print_range(out, subtype, format, range)
            })?;
            out.push(b'}');
            Ok(())
        }
        Kind::Composite(composite) => print_composite(out, composite, format, bytes),
        Kind::Hstore => {
            let mut separate = false;
            hstore::decode(format, bytes, |key, value| {
                if std::mem::replace(&mut separate, true) {
                    out.extend_from_slice(b", ");
                }
                hstore::print(out, key, value);
                Ok::<(), Invalid>(())
            })
        }
        Kind::Opaque => {
            match format {
                Format::Text => out.extend_from_slice(bytes),
                Format::Binary => bytea::print(out, bytes),
            }
            Ok(())
        }
    }
}

/// Read an `int2vector` or `oidvector`, handing its numbers over in order.
///
/// # Errors
/// When it is not one; or what `number` returned.
pub fn decode_numbers<E: From<Invalid>>(
    scalar: Scalar,
    format: Format,
    bytes: &[u8],
    mut number: impl FnMut(i64) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let mut scratch = Vec::new();
    let mut one = |bytes: &[u8]| match super::decode(scalar, format, bytes, &mut scratch)? {
        Value::Int(value) => number(value),
        _ => Err(Invalid("not a number").into()),
    };
    match format {
        Format::Text if bytes.is_empty() => Ok(()),
        Format::Text => bytes.split(|&byte| byte == b' ').try_for_each(one),
        Format::Binary => {
            let dimensions = array::decode(b',', format, bytes, |element| match element {
                Some(bytes) => one(bytes),
                None => Err(Invalid("a vector with NULL in it").into()),
            })?;
            if dimensions.as_slice().len() <= 1 {
                Ok(())
            } else {
                Err(Invalid("a vector of several dimensions").into())
            }
        }
    }
}

fn print_scalar(out: &mut Vec<u8>, scalar: Scalar, format: Format, bytes: &[u8]) -> Result<()> {
    if scalar == Scalar::Float4 {
        let value = match format {
            Format::Text => number::float4_text(bytes)?,
            Format::Binary => f32::from_be_bytes(super::fixed(bytes)?),
        };
        number::print_float4(out, value);
        return Ok(());
    }
    let mut scratch = Vec::new();
    match super::decode(scalar, format, bytes, &mut scratch)? {
        Value::Bool(value) => out.push(if value { b't' } else { b'f' }),
        Value::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Value::Natural(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Value::Float(number) => number::print_float8(out, number),
        Value::Numeric(text) if scalar == Scalar::Money => super::system::print_money(out, text),
        Value::Numeric(text) | Value::PgText(text) => out.extend_from_slice(text.as_bytes()),
        Value::Text(text) | Value::Json(text) => out.extend_from_slice(text),
        Value::Bytes(bytes) if scalar == Scalar::Ewkb => bytea::print_upper(out, &bytes),
        Value::Bytes(bytes) => bytea::print(out, &bytes),
        Value::Date(date) => datetime::print_date(out, date),
        Value::Time(time) => datetime::print_time(out, time, None),
        Value::TimeTz(time, east) => datetime::print_time(out, time, Some(east)),
        Value::Timestamp(date, time) => datetime::print_timestamp(out, date, time, false),
        Value::TimestampTz(date, time) => datetime::print_timestamp(out, date, time, true),
        Value::Interval(interval) => interval::print(out, interval),
        Value::Uuid(bytes) => uuid::print(out, bytes),
        Value::Lsn(lsn) => super::system::print_lsn(out, lsn),
        Value::Tid(block, offset) => super::system::print_tid(out, block, offset),
        Value::Network(network) => network::print(out, network),
        Value::Bits(bits) => bits::print(out, bits),
        Value::Geometry(geometry) => geometry::print(out, &geometry),
    }
    Ok(())
}

fn print_range(out: &mut Vec<u8>, subtype: &Kind, format: Format, range: Option<range::Range<'_>>) -> Result<()> {
    let Some(range) = range else {
        out.extend_from_slice(b"empty");
        return Ok(());
    };
    let mut written = Vec::new();
    let mut bound = |out: &mut Vec<u8>, bound: Option<&[u8]>| {
        let Some(bytes) = bound else { return Ok(()) };
        written.clear();
        print(&mut written, subtype, format, bytes)?;
        quoted::print(out, &written, b"\"\\()[],");
        Ok(())
    };
    out.push(range.open);
    bound(out, range.lower.as_deref())?;
    out.push(b',');
    bound(out, range.upper.as_deref())?;
    out.push(range.close);
    Ok(())
}

fn print_composite(out: &mut Vec<u8>, composite: &Composite, format: Format, bytes: &[u8]) -> Result<()> {
    let mut written = Vec::new();
    let mut separate = false;
    out.push(b'(');
    composite::decode(composite, format, bytes, |field, bytes| {
        if std::mem::replace(&mut separate, true) {
            out.push(b',');
        }
        if let Some(bytes) = bytes {
            written.clear();
            print(&mut written, &field.kind, format, bytes)?;
            quoted::print(out, &written, b"\"\\(),");
        }
        Ok::<(), Invalid>(())
    })?;
    out.push(b')');
    Ok(())
}

fn print_array(out: &mut Vec<u8>, array: &Array, format: Format, bytes: &[u8]) -> Result<()> {
    let (mut flat, mut ends, mut written) = (Vec::new(), Vec::new(), Vec::new());
    let dimensions = array::decode(array.delimiter, format, bytes, |element| {
        match element {
            None => flat.extend_from_slice(b"NULL"),
            Some(bytes) => {
                written.clear();
                print(&mut written, &array.element, format, bytes)?;
                print_element(&mut flat, &written, array.delimiter);
            }
        }
        ends.push(flat.len());
        Ok::<(), Invalid>(())
    })?;
    let dimensions = dimensions.as_slice();
    if dimensions.is_empty() {
        out.extend_from_slice(b"{}");
        return Ok(());
    }
    if dimensions.iter().any(|dimension| dimension.lower_bound != 1) {
        for &Dimension { length, lower_bound } in dimensions {
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            let upper = i64::from(lower_bound).saturating_add(length).saturating_sub(1);
            out.extend_from_slice(format!("[{lower_bound}:{upper}]").as_bytes());
        }
        out.push(b'=');
    }
    let mut start = 0;
    let mut elements = ends.into_iter().map(|end| {
        let element = flat.get(start..end).unwrap_or_default();
        start = end;
        element
    });
    nest(out, dimensions, array.delimiter, &mut elements);
    Ok(())
}

/// An element, in quotes where it needs them.
fn print_element(out: &mut Vec<u8>, element: &[u8], delimiter: u8) {
    let special = |byte: u8| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b' ' | 0x09..=0x0d) || byte == delimiter;
    if !element.is_empty() && !element.eq_ignore_ascii_case(b"NULL") && !element.iter().any(|&byte| special(byte)) {
        out.extend_from_slice(element);
        return;
    }
    out.push(b'"');
    for &byte in element {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

fn nest<'a>(out: &mut Vec<u8>, dimensions: &[Dimension], delimiter: u8, elements: &mut impl Iterator<Item = &'a [u8]>) {
    let Some((dimension, inner)) = dimensions.split_first() else {
        out.extend_from_slice(elements.next().unwrap_or_default());
        return;
    };
    out.push(b'{');
    for number in 0..dimension.length {
        if number > 0 {
            out.push(delimiter);
        }
        nest(out, inner, delimiter, elements);
    }
    out.push(b'}');
}
