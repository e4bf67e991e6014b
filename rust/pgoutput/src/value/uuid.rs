//! uuid: sixteen bytes, as text in five groups of hexadecimal digits.
use super::{Invalid, Result};
use crate::value::bytea::nibble;

const INVALID: Invalid = Invalid("not a uuid");

/// Read the form that `uuid_out` prints.
///
/// # Errors
/// When it is another form.
pub fn text(bytes: &[u8]) -> Result<[u8; 16]> {
    let (first, rest) = group::<8>(bytes)?;
    let (second, rest) = group::<4>(dash(rest)?)?;
    let (third, rest) = group::<4>(dash(rest)?)?;
    let (fourth, rest) = group::<4>(dash(rest)?)?;
    let (fifth, rest) = group::<12>(dash(rest)?)?;
    if !rest.is_empty() {
        return Err(INVALID);
    }
    let number = first << 96 | second << 80 | third << 64 | fourth << 48 | fifth;
    Ok(number.to_be_bytes())
}

/// Write the form that `uuid_out` prints.
pub fn print(out: &mut Vec<u8>, bytes: [u8; 16]) {
    let mut rest = bytes.as_slice();
    for (number, length) in [4, 2, 2, 2, 6].into_iter().enumerate() {
        if number > 0 {
            out.push(b'-');
        }
        let (group, after) = rest.split_at(length.min(rest.len()));
        super::bytea::hexadecimal_out(out, group, b"0123456789abcdef");
        rest = after;
    }
}

fn dash(bytes: &[u8]) -> Result<&[u8]> {
    bytes.strip_prefix(b"-").ok_or(INVALID)
}

fn group<const N: usize>(bytes: &[u8]) -> Result<(u128, &[u8])> {
    let (digits, rest) = bytes.split_first_chunk::<N>().ok_or(INVALID)?;
    let (mut number, mut seen) = (0_u64, 0);
    for &digit in digits {
        let value = nibble(digit);
        seen |= value;
        number = number << 4 | u64::from(value);
    }
    if seen < 16 { Ok((number.into(), rest)) } else { Err(INVALID) }
}
