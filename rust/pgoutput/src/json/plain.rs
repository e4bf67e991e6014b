//! The values that most columns hold, from their binary form, without a step in between.
//!
//! What is written is what `value::write` writes, which the tests compare; it has the words for all that is refused here.
use super::text::{embed, string};
use super::value::{Scratch, instant, uuid};
use crate::oid::{Kind, Scalar};
use crate::value::calendar::{Date, civil};
use crate::value::list::List;
use crate::value::numeric;

/// Microseconds after 2000-01-01 at which the years 1 and 10000 begin: what is in between has no other form.
const YEARS_1_TO_9999: std::ops::Range<i64> = {
    const DAY: i64 = 86_400_000_000;
    -730_119 * DAY..2_921_940 * DAY
};

/// Write a value; false, with nothing written, where it is another type or has to be looked at more closely.
#[inline]
pub fn write(out: &mut Vec<u8>, kind: Kind, bytes: &[u8], scratch: &mut Scratch) -> bool {
    match kind {
        Kind::Scalar(scalar) => write_scalar(out, scalar, bytes, scratch),
        Kind::Array(scalar) => write_list(out, scalar, bytes, scratch),
        Kind::Opaque => false,
    }
}

#[inline]
fn write_scalar(out: &mut Vec<u8>, scalar: Scalar, bytes: &[u8], scratch: &mut Scratch) -> bool {
    match scalar {
        Scalar::Text => string(out, bytes),
        Scalar::Int4 => {
            let Ok(bytes) = bytes.try_into() else { return false };
            out.extend_from_slice(itoa::Buffer::new().format(i32::from_be_bytes(bytes)).as_bytes());
        }
        Scalar::Int8 => {
            let Ok(bytes) = bytes.try_into() else { return false };
            out.extend_from_slice(itoa::Buffer::new().format(i64::from_be_bytes(bytes)).as_bytes());
        }
        Scalar::Bool => match bytes {
            [0] => out.extend_from_slice(b"false"),
            [1] => out.extend_from_slice(b"true"),
            _ => return false,
        },
        Scalar::Float8 => {
            let Ok(bytes) = bytes.try_into() else { return false };
            let number = f64::from_be_bytes(bytes);
            if !number.is_finite() {
                return false;
            }
            out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
        }
        Scalar::Numeric => return write_numeric(out, bytes),
        Scalar::TimestampTz | Scalar::Timestamp => {
            let Ok(bytes) = bytes.try_into() else { return false };
            let microseconds = i64::from_be_bytes(bytes);
            if !YEARS_1_TO_9999.contains(&microseconds) {
                return false;
            }
            let (day, clock): (Date, _) = civil(microseconds);
            out.push(b'"');
            instant(out, day, clock);
            out.extend_from_slice(if scalar == Scalar::TimestampTz { b"Z\"" } else { b"\"" });
        }
        Scalar::Uuid => {
            let Ok(bytes) = bytes.try_into() else { return false };
            out.push(b'"');
            uuid(out, bytes);
            out.push(b'"');
        }
        Scalar::Jsonb => {
            let Some((1, json)) = bytes.split_first() else { return false };
            return embed(out, json, &mut scratch.stack).is_ok();
        }
        _ => return false,
    }
    true
}

/// A numeric of few digits: its units, and the point where its display scale has it.
fn write_numeric(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let Some(&[.., s0, _, _, scale]) = bytes.first_chunk::<8>() else { return false };
    let Some(units) = numeric::scaled_small(bytes, scale) else { return false };
    // A display scale that takes two bytes would have been taken for another.
    if bytes.get(6) != Some(&0) || (units == 0 && s0 != 0) {
        return false;
    }
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(units.unsigned_abs()).as_bytes();
    let scale = usize::from(scale);
    out.extend_from_slice(if units < 0 { b"\"-" } else { b"\"" });
    match digits.split_at_checked(digits.len().wrapping_sub(scale)) {
        Some((whole, fraction)) if !whole.is_empty() => {
            out.extend_from_slice(whole);
            if scale > 0 {
                out.push(b'.');
                out.extend_from_slice(fraction);
            }
        }
        _ => {
            out.extend_from_slice(b"0.");
            let end = out.len().saturating_add(scale.saturating_sub(digits.len()));
            out.resize(end, b'0');
            out.extend_from_slice(digits);
        }
    }
    out.push(b'"');
    true
}

/// An array of one dimension that begins at 1, or an empty one.
fn write_list(out: &mut Vec<u8>, scalar: Scalar, bytes: &[u8], scratch: &mut Scratch) -> bool {
    let start = out.len();
    let written = write_elements(out, scalar, bytes, scratch).is_some();
    if !written {
        out.truncate(start);
    }
    written
}

fn write_elements(out: &mut Vec<u8>, scalar: Scalar, bytes: &[u8], scratch: &mut Scratch) -> Option<()> {
    let mut opening = b'[';
    for element in List::parse(bytes)? {
        out.push(opening);
        opening = b',';
        match element.ok()? {
            Some(bytes) => write_scalar(out, scalar, bytes, scratch).then_some(())?,
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b']');
    Some(())
}
