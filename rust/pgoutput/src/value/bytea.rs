//! bytea: in binary as it is; as text in hexadecimal or, with `bytea_output = escape`, with backslashes.
//!
//! Source: server functions `byteaout` and `byteain`.
use super::{Invalid, Result};

/// The value of one hexadecimal digit, above 15 for anything else. No branches: which digit comes next nobody can predict,
/// and a wrong guess costs more than all the rest. Callers look once at all results together.
#[inline]
pub fn nibble(digit: u8) -> u8 {
    let number = digit.wrapping_sub(b'0');
    let letter = (digit | 0x20).wrapping_sub(b'a');
    let of_letter = if letter < 6 { letter.wrapping_add(10) } else { 0xff };
    if number < 10 { number } else { of_letter }
}

/// Write the hexadecimal text form.
pub fn print(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(b"\\x");
    hexadecimal_out(out, bytes, b"0123456789abcdef");
}

/// Write upper-case hexadecimal digits and nothing else, as the extension postgis does.
pub fn print_upper(out: &mut Vec<u8>, bytes: &[u8]) {
    hexadecimal_out(out, bytes, b"0123456789ABCDEF");
}

pub(super) fn hexadecimal_out(out: &mut Vec<u8>, bytes: &[u8], digits: &[u8; 16]) {
    let digit = |nibble: u8| digits.get(usize::from(nibble & 15)).copied().unwrap_or(b'0');
    out.extend(bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]));
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

/// Read hexadecimal digits.
///
/// # Errors
/// When there is anything else, or an odd number of them.
pub fn hexadecimal(digits: &[u8]) -> Result<Vec<u8>> {
    let (pairs, left) = digits.as_chunks::<2>();
    if !left.is_empty() {
        return Err(Invalid("an odd number of hexadecimal digits"));
    }
    let mut seen = 0;
    let pair = |&[high, low]: &[u8; 2]| {
        let (high, low) = (nibble(high), nibble(low));
        seen |= high | low;
        high << 4 | low
    };
    let bytes = pairs.iter().map(pair).collect();
    if seen < 16 { Ok(bytes) } else { Err(Invalid("not a hexadecimal digit")) }
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
