//! bytea: in binary as it is; as text in hexadecimal or, with `bytea_output = escape`, with backslashes.
//!
//! Source: server functions `byteaout` and `byteain`.
use super::{Invalid, Result};

/// The value of one hexadecimal digit.
#[inline]
pub fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(digit.wrapping_sub(b'a').wrapping_add(10)),
        b'A'..=b'F' => Some(digit.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    }
}

/// Read either text form.
///
/// # Errors
/// When it is neither.
pub fn text(bytes: &[u8]) -> Result<Vec<u8>> {
    match bytes.strip_prefix(b"\\x") {
        Some(digits) => hexadecimal(digits),
        None => escape(bytes),
    }
}

fn hexadecimal(digits: &[u8]) -> Result<Vec<u8>> {
    let (pairs, left) = digits.as_chunks::<2>();
    if !left.is_empty() {
        return Err(Invalid("an odd number of hexadecimal digits"));
    }
    pairs
        .iter()
        .map(|&[high, low]| Some(nibble(high)? << 4 | nibble(low)?))
        .collect::<Option<_>>()
        .ok_or(Invalid("not a hexadecimal digit"))
}

fn escape(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                out.push(b'\\');
                after
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a & 7) << 6 | (b & 7) << 3 | c & 7);
                after
            }
            (b'\\', _) => return Err(Invalid("a backslash that escapes nothing")),
            _ => {
                out.push(first);
                after
            }
        };
    }
    Ok(out)
}
