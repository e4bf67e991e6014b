//! bit, varbit: a number of bits, the first one the highest of the first byte.
//!
//! Source: server functions `bit_out`, `bit_send`.
use super::{Invalid, Result};

/// A bit string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits<'a> {
    /// How many bits there are.
    pub length: u32,
    /// The bits; those of the last byte that are too many are zero.
    pub bytes: &'a [u8],
}

/// What `bit_send` wrote.
///
/// # Errors
/// When the number of bits and the bytes do not fit.
pub fn binary(bytes: &[u8]) -> Result<Bits<'_>> {
    let (length, bytes) = bytes.split_first_chunk().ok_or(Invalid("not a whole bit string"))?;
    let length = u32::try_from(i32::from_be_bytes(*length)).map_err(|_| Invalid("a negative number of bits"))?;
    if usize::try_from(length.div_ceil(8)).ok() != Some(bytes.len()) {
        return Err(Invalid("another number of bits than announced"));
    }
    let beyond = 0xff_u8.checked_shr(length % 8).filter(|_| length % 8 > 0).unwrap_or(0);
    if bytes.last().is_some_and(|last| last & beyond != 0) {
        return Err(Invalid("bits beyond the announced number"));
    }
    Ok(Bits { length, bytes })
}

/// What `bit_out` prints.
///
/// # Errors
/// When there is anything but zeros and ones.
pub fn text<'a>(text: &[u8], out: &'a mut Vec<u8>) -> Result<Bits<'a>> {
    out.clear();
    if !text.iter().all(|byte| matches!(byte, b'0' | b'1')) {
        return Err(Invalid("neither 0 nor 1"));
    }
    for eight in text.chunks(8) {
        let byte = eight.iter().fold(0, |byte, bit| byte << 1 | bit & 1);
        out.push(byte << 8_usize.saturating_sub(eight.len()));
    }
    let length = u32::try_from(text.len()).map_err(|_| Invalid("too many bits"))?;
    Ok(Bits { length, bytes: out })
}

/// Write it as PostgreSQL prints it.
pub fn print(out: &mut Vec<u8>, bits: Bits<'_>) {
    let digits = bits.bytes.iter().flat_map(|byte| (0..8).rev().map(move |place| b'0' | (byte >> place & 1)));
    out.extend(digits.take(usize::try_from(bits.length).unwrap_or(usize::MAX)));
}
