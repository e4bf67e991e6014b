//! pgvector's vectors: numbers of 16 or 32 bits, all of them or those that are not zero.
//!
//! Source: pgvector's functions `vector_send`, `vector_out`, `halfvec_send`, `sparsevec_send`, `sparsevec_out`.
use std::io::Write;

use super::number::{float4_text, print_float4};
use super::{Format, Invalid, Result};
use crate::cursor::Cursor;
use crate::oid::Width;

const MALFORMED: Invalid = Invalid("not a whole vector");

/// Read a `vector` or `halfvec`, handing its numbers over in order.
///
/// # Errors
/// When it is not one; or what `number` returned.
pub fn decode<E: From<Invalid>>(
    width: Width,
    format: Format,
    bytes: &[u8],
    mut number: impl FnMut(f32) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    match format {
        Format::Text => {
            let inner = bytes.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).ok_or(MALFORMED)?;
            inner.split(|&byte| byte == b',').try_for_each(|digits| number(float4_text(digits)?))
        }
        Format::Binary => {
            let (&[high, low, _, _], rest) = bytes.split_first_chunk().ok_or(MALFORMED)?;
            let dimensions = usize::from(u16::from_be_bytes([high, low]));
            match width {
                Width::Single => {
                    let (floats, left) = rest.as_chunks::<4>();
                    if floats.len() != dimensions || !left.is_empty() {
                        return Err(MALFORMED.into());
                    }
                    floats.iter().try_for_each(|&float| number(f32::from_be_bytes(float)))
                }
                Width::Half => {
                    let (floats, left) = rest.as_chunks::<2>();
                    if floats.len() != dimensions || !left.is_empty() {
                        return Err(MALFORMED.into());
                    }
                    floats.iter().try_for_each(|&float| number(half(u16::from_be_bytes(float))))
                }
            }
        }
    }
}

/// A number of 16 bits (IEEE 754 binary16) as one of 32, which holds all of them.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match exponent {
        // Multiples of 2^-24.
        0 => (f32::from(bits & 0x3ff) * f32::from_bits(0x3380_0000)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => exponent.wrapping_add(112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// Write what `sparsevec_send` wrote as pgvector prints it: `{1:0.5,3:2}/5`.
///
/// # Errors
/// When it is not whole.
pub fn sparse(bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let cut = |_| MALFORMED;
    let mut cursor = Cursor::new(bytes);
    let dimensions = cursor.i32("dimensions").map_err(cut)?;
    let count = cursor.u32("number of elements").map_err(cut)?;
    cursor.u32("unused").map_err(cut)?;
    let (numbers, left) = cursor.rest().as_chunks::<4>();
    let (places, values) =
        usize::try_from(count).ok().and_then(|count| numbers.split_at_checked(count)).ok_or(MALFORMED)?;
    if places.len() != values.len() || !left.is_empty() {
        return Err(MALFORMED);
    }
    out.push(b'{');
    for (number, (&place, &value)) in places.iter().zip(values).enumerate() {
        let comma = if number > 0 { "," } else { "" };
        // Counted from 0 on the wire, from 1 in the text. Writing to memory does not fail.
        let _ = write!(out, "{comma}{}:", i64::from(i32::from_be_bytes(place)).saturating_add(1));
        print_float4(out, f32::from_be_bytes(value));
    }
    let _ = write!(out, "}}/{dimensions}");
    Ok(())
}
