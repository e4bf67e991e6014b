//! What Debezium makes of types that few tables have.
//!
//! Source: Debezium's documentation of its connector for PostgreSQL, "Data type mappings".
use super::base64::base64;
use super::decimal::Decimal;
use crate::json::text::string;
use crate::json::{Scratch, write_value};
use crate::oid::{Kind, Scalar, Shape};
use crate::value::print::print;
use crate::value::{Format, Invalid, Result, Value, decode, hstore as pairs};

/// As PostgreSQL prints it, in one or the other form of a string; what nothing is known of as it was sent.
pub fn printed(
    out: &mut Vec<u8>,
    kind: &Kind,
    format: Format,
    bytes: &[u8],
    write: fn(&mut Vec<u8>, &[u8]),
) -> Result<()> {
    if format == Format::Text || *kind == Kind::Opaque {
        write(out, bytes);
        return Ok(());
    }
    let mut text = Vec::new();
    print(&mut text, kind, format, bytes)?;
    write(out, &text);
    Ok(())
}

/// `bytea`.
pub fn bytes(out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    match decode(Scalar::Bytea, format, bytes, &mut scratch.value)? {
        Value::Bytes(bytes) => {
            base64(out, &bytes);
            Ok(())
        }
        _ => Err(Invalid("not a bytea")),
    }
}

/// `money`; in another locale than C as PostgreSQL prints it.
pub fn money(out: &mut Vec<u8>, decimal: Decimal, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    match decode(Scalar::Money, format, bytes, &mut scratch.value)? {
        Value::Numeric(text) => decimal.write_text(out, text),
        Value::PgText(text) => {
            string(out, text.as_bytes());
            Ok(())
        }
        _ => Err(Invalid("not an amount of money")),
    }
}

/// `interval`: its microseconds, a month taken as the twelfth part of 365.25 days; what is infinite in PostgreSQL's words.
pub fn interval(out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    const DAY: i128 = 86_400_000_000;
    const MONTH: i128 = 2_629_800_000_000;
    let Value::Interval(interval) = decode(Scalar::Interval, format, bytes, &mut scratch.value)? else {
        return Err(Invalid("not an interval"));
    };
    match (interval.months, interval.days, interval.microseconds) {
        (i32::MAX, i32::MAX, i64::MAX) => string(out, b"infinity"),
        (i32::MIN, i32::MIN, i64::MIN) => string(out, b"-infinity"),
        (months, days, microseconds) => {
            let months = i128::from(months).saturating_mul(MONTH);
            let days = i128::from(days).saturating_mul(DAY);
            let sum = months.saturating_add(days).saturating_add(microseconds.into());
            out.extend_from_slice(itoa::Buffer::new().format(sum).as_bytes());
        }
    }
    Ok(())
}

/// `bit(1)`.
pub fn bit(out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    match decode(Scalar::Bits, format, bytes, &mut scratch.value)? {
        Value::Bits(bits) if bits.length == 1 => {
            let is_set = bits.bytes.first().is_some_and(|byte| byte >> 7 == 1);
            out.extend_from_slice(if is_set { b"true" } else { b"false" });
            Ok(())
        }
        _ => Err(Invalid("not one bit")),
    }
}

/// `bit`, `varbit`: a number whose highest bit is the first, the lowest byte first, without zeros at the end.
pub fn bits(out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    let Value::Bits(bits) = decode(Scalar::Bits, format, bytes, &mut scratch.value)? else {
        return Err(Invalid("not a bit string"));
    };
    // The last byte is filled up with zeros; here the first is.
    let beyond = bits.length.wrapping_neg() % 8;
    let above = [0].into_iter().chain(bits.bytes.iter().copied());
    let shifted = above.zip(bits.bytes).map(|(above, &byte)| {
        let [_, low] = (u16::from_be_bytes([above, byte]) >> beyond).to_be_bytes();
        low
    });
    let mut number: Vec<u8> = shifted.collect();
    number.reverse();
    let length = number.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1));
    base64(out, number.get(..length).unwrap_or_default());
    Ok(())
}

/// `point`: its coordinates, and the same as WKB.
///
/// Source: OGC Simple Feature Access, "Well-known Binary Representation".
pub fn point(out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    let Value::Geometry(point) = decode(Scalar::Shape(Shape::Point), format, bytes, &mut scratch.value)? else {
        return Err(Invalid("not a point"));
    };
    let &[x, y] = point.numbers.as_slice() else { return Err(Invalid("not a point")) };
    // Little-endian, type 1.
    let mut wkb = vec![1, 1, 0, 0, 0];
    for (name, number) in [(b"{\"x\":", x), (b",\"y\":", y)] {
        out.extend_from_slice(name);
        write_value(out, &Kind::Scalar(Scalar::Float8), Format::Binary, &number.to_be_bytes(), scratch)?;
        wkb.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(b",\"wkb\":");
    base64(out, &wkb);
    out.extend_from_slice(b",\"srid\":null}");
    Ok(())
}

/// `geometry`, `geography`: their EWKB, and the reference system that it names.
///
/// Source: the documentation of `PostGIS`, "EWKB".
pub fn geometry(out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    const HAS_SRID: u32 = 0x2000_0000;
    let Value::Bytes(ewkb) = decode(Scalar::Ewkb, format, bytes, &mut scratch.value)? else {
        return Err(Invalid("not EWKB"));
    };
    let number = |at: usize| {
        let four = *ewkb.get(at..)?.first_chunk::<4>()?;
        Some(if ewkb.first() == Some(&1) { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) })
    };
    let kind = number(1).ok_or(Invalid("not EWKB"))?;
    out.extend_from_slice(b"{\"wkb\":");
    base64(out, &ewkb);
    out.extend_from_slice(b",\"srid\":");
    match number(5).filter(|_| kind & HAS_SRID != 0) {
        Some(srid) => out.extend_from_slice(itoa::Buffer::new().format(srid).as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(())
}

/// `hstore`: a JSON object, as a string.
pub fn hstore(out: &mut Vec<u8>, format: Format, bytes: &[u8]) -> Result<()> {
    let mut object = b"{".to_vec();
    pairs::decode(format, bytes, |key, value| {
        if object.len() > 1 {
            object.push(b',');
        }
        string(&mut object, key);
        object.push(b':');
        match value {
            Some(value) => string(&mut object, value),
            None => object.extend_from_slice(b"null"),
        }
        Ok::<(), Invalid>(())
    })?;
    object.push(b'}');
    string(out, &object);
    Ok(())
}
