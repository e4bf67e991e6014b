//! The values that most columns hold, from their binary form, without a step in between.
//!
//! What is written is what `value::write` writes, which the tests compare; it has the words for all that is refused here.
use super::text::{embed, string_of};
use super::value::{Scratch, instant, uuid};
use crate::oid::{Kind, Scalar};
use crate::value::calendar::{YEARS_1_TO_9999, civil};
use crate::value::digits::integer;
use crate::value::list::List;
use crate::value::numeric;

/// Write a value; false, with nothing written, where it is another type or has to be looked at more closely.
#[allow(clippy::inline_always, reason = "for most columns a call costs as much as the value")]
#[inline(always)]
pub fn write(out: &mut Vec<u8>, kind: &Kind, bytes: &[u8], scratch: &mut Scratch) -> bool {
    match kind {
        Kind::Scalar(scalar) => write_scalar(out, *scalar, bytes, scratch),
        Kind::Array(array) => match array.element {
            Kind::Scalar(scalar) => write_list(out, scalar, bytes, scratch),
            _ => false,
        },
        _ => false,
    }
}

#[allow(clippy::inline_always, reason = "likewise")]
#[inline(always)]
fn write_scalar(out: &mut Vec<u8>, scalar: Scalar, bytes: &[u8], scratch: &mut Scratch) -> bool {
    match scalar {
        Scalar::Text => string_of(out, bytes, scratch.is_utf8_later),
        Scalar::Int4 => {
            let Ok(bytes) = bytes.try_into() else { return false };
            integer(out, i32::from_be_bytes(bytes).into());
        }
        Scalar::Int8 => {
            let Ok(bytes) = bytes.try_into() else { return false };
            integer(out, i64::from_be_bytes(bytes));
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
        Scalar::Numeric => {
            out.push(b'"');
            if !numeric::write_small(out, bytes) {
                out.pop();
                return false;
            }
            out.push(b'"');
        }
        Scalar::TimestampTz | Scalar::Timestamp => {
            let Ok(bytes) = bytes.try_into() else { return false };
            let microseconds = i64::from_be_bytes(bytes);
            if !YEARS_1_TO_9999.contains(&microseconds) {
                return false;
            }
            let (day, clock) = civil(microseconds);
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
            return embed(out, json, &mut scratch.stack, scratch.is_utf8_later).is_ok();
        }
        _ => return false,
    }
    true
}

/// An array of one dimension that begins at 1, or an empty one.
#[inline(never)]
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
