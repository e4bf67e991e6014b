//! numeric: an arbitrary number of decimal digits; in binary base 10,000.
//!
//! Source: server functions `numeric_send` and `numeric_out`.
#![allow(clippy::arithmetic_side_effects, reason = "all operands come from 16-bit fields and are computed in i32")]
use super::{Invalid, Result, Value};
use crate::cursor::Cursor;

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;

/// What `numeric_out` prints, checked to be a number.
///
/// # Errors
/// When it is not one.
#[inline]
pub fn text(bytes: &[u8]) -> Result<&str> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let mut points = 0_usize;
    let mut plain = digits.first().is_some_and(u8::is_ascii_digit);
    for &byte in digits {
        points = points.saturating_add(usize::from(byte == b'.'));
        plain &= byte.is_ascii_digit() || byte == b'.';
    }
    if plain && points <= 1 || WORDS.contains(&bytes) {
        return std::str::from_utf8(bytes).map_err(|_| Invalid("not a number"));
    }
    Err(Invalid("not a number"))
}

/// Four decimal digits with leading zeros.
fn group(digit: u16) -> [u8; 4] {
    [digit / 1000, digit / 100 % 10, digit / 10 % 10, digit % 10]
        .map(|digit| b'0'.wrapping_add(u8::try_from(digit).unwrap_or(0)))
}

/// What `numeric_send` wrote, as `numeric_out` would print it.
///
/// # Errors
/// When it is cut short or a digit is above 9,999.
pub fn binary<'a>(bytes: &[u8], out: &'a mut Vec<u8>) -> Result<Value<'a>> {
    let cut = |_| Invalid("not a whole numeric");
    let mut cursor = Cursor::new(bytes);
    // Unsigned on the wire: the largest numeric has 32,768 digits in front of the decimal point alone.
    let count = cursor.u16("ndigits").map_err(cut)?;
    let weight = i32::from(cursor.i16("weight").map_err(cut)?);
    let sign = cursor.u16("sign").map_err(cut)?;
    let scale = usize::from(cursor.u16("dscale").map_err(cut)?);
    let (digits, left) = cursor.rest().as_chunks::<2>();
    if usize::from(count) != digits.len() || !left.is_empty() {
        return Err(Invalid("not a whole numeric"));
    }
    match sign {
        0 | NEGATIVE => {}
        NAN => return Ok(Value::Numeric("NaN")),
        INFINITY => return Ok(Value::Numeric("Infinity")),
        NEGATIVE_INFINITY => return Ok(Value::Numeric("-Infinity")),
        _ => return Err(Invalid("an unknown sign")),
    }
    if scale > 0x3fff {
        return Err(Invalid("a display scale above 16383"));
    }
    if digits.iter().any(|&digit| u16::from_be_bytes(digit) > 9999) {
        return Err(Invalid("a digit above 9999"));
    }
    // The digit with the weight 10,000^power; zeros at both ends are not stored.
    let digit = |power: i32| {
        let place = usize::try_from(weight - power).ok().and_then(|place| digits.get(place));
        place.map_or(0, |&digit| u16::from_be_bytes(digit))
    };
    out.clear();
    if sign == NEGATIVE {
        out.push(b'-');
    }
    // The first digit that is not zero stands without leading zeros, those after it with all four places.
    let mut powers = (0..=weight).rev();
    let first = powers.by_ref().map(digit).find(|&digit| digit != 0).unwrap_or(0);
    out.extend_from_slice(itoa::Buffer::new().format(first).as_bytes());
    for power in powers {
        out.extend_from_slice(&group(digit(power)));
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len().saturating_add(scale);
        let mut power = -1;
        while out.len() < end {
            out.extend_from_slice(&group(digit(power)));
            power -= 1;
        }
        out.truncate(end);
    }
    std::str::from_utf8(out).map(Value::Numeric).map_err(|_| Invalid("not a number"))
}
