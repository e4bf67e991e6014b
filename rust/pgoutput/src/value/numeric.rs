//! numeric: an arbitrary number of decimal digits; in binary base 10,000.
//!
//! Source: server functions `numeric_send` and `numeric_out`.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "operands come from 16-bit fields and are computed in i32, or are checked in i128"
)]
use super::{Format, Invalid, Result, Value, digits};
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

/// The fields of the binary form.
struct Parts<'a> {
    digits: &'a [[u8; 2]],
    weight: i32,
    sign: u16,
    scale: usize,
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
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
        if !matches!(sign, 0 | NEGATIVE | NAN | INFINITY | NEGATIVE_INFINITY) {
            return Err(Invalid("an unknown sign"));
        }
        if matches!(sign, 0 | NEGATIVE) && scale > 0x3fff {
            return Err(Invalid("a display scale above 16383"));
        }
        if digits.iter().any(|&digit| u16::from_be_bytes(digit) > 9999) {
            return Err(Invalid("a digit above 9999"));
        }
        Ok(Self { digits, weight, sign, scale })
    }
}

/// What `numeric_send` wrote, as `numeric_out` would print it.
///
/// # Errors
/// When it is cut short or a digit is above 9,999.
pub fn binary<'a>(bytes: &[u8], out: &'a mut Vec<u8>) -> Result<Value<'a>> {
    let Parts { digits, weight, sign, scale } = Parts::read(bytes)?;
    match sign {
        NAN => return Ok(Value::Numeric("NaN")),
        INFINITY => return Ok(Value::Numeric("Infinity")),
        NEGATIVE_INFINITY => return Ok(Value::Numeric("-Infinity")),
        _ => {}
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

/// A number as a whole number of units of `10^-scale`; None for NaN and the infinities.
///
/// # Errors
/// When it is not a number, has digits after that place, or does not fit.
pub fn scaled(format: Format, bytes: &[u8], scale: u8) -> Result<Option<i128>> {
    let parts = match format {
        Format::Text => scaled_text(bytes)?,
        Format::Binary => match scaled_binary(bytes) {
            // The last group of four digits has up to three zeros more than the number itself.
            Err(LARGE) => match binary(bytes, &mut Vec::new())? {
                Value::Numeric(text) => scaled_text(text.as_bytes())?,
                _ => None,
            },
            parts => parts?,
        },
    };
    let Some((units, exponent)) = parts else {
        return Ok(None);
    };
    let power = |exponent: i64| u32::try_from(exponent).ok().and_then(|exponent| 10_i128.checked_pow(exponent));
    let shift = exponent + i64::from(scale);
    let scaled = if units == 0 {
        Some(0)
    } else if shift >= 0 {
        power(shift).and_then(|power| units.checked_mul(power))
    } else {
        // A power too large to be had is larger than all digits that are left.
        power(-shift).filter(|power| units % power == 0).map(|power| units / power)
    };
    scaled.map(Some).ok_or(LARGE)
}

/// The powers of ten that a number of at most 16 digits can be shifted by.
pub const POWERS: [i64; 17] = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
    100_000_000_000,
    1_000_000_000_000,
    10_000_000_000_000,
    100_000_000_000_000,
    1_000_000_000_000_000,
    10_000_000_000_000_000,
];

/// Likewise for the numbers that most are: in binary, of at most four groups of digits. None for all others, for what is
/// malformed, and for digits after that place; `scaled` says which.
#[inline]
pub fn scaled_small(bytes: &[u8], scale: u8) -> Option<i64> {
    let (&[c0, c1, w0, w1, s0, s1, d0, d1], groups) = bytes.split_first_chunk::<8>()?;
    let (groups, left) = groups.as_chunks::<2>();
    let (sign, display) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    let whole = usize::from(u16::from_be_bytes([c0, c1])) == groups.len() && left.is_empty() && display <= 0x3fff;
    if !whole || groups.len() > 4 || !matches!(sign, 0 | NEGATIVE) {
        return None;
    }
    let (mut units, mut largest) = (0_i64, 0);
    for &group in groups {
        let group = u16::from_be_bytes(group);
        largest = largest.max(group);
        units = units * 10_000 + i64::from(group);
    }
    if largest > 9999 {
        return None;
    }
    let below = i32::try_from(groups.len()).ok()? - 1;
    let shift = 4 * (i32::from(i16::from_be_bytes([w0, w1])) - below) + i32::from(scale);
    let power = *POWERS.get(usize::try_from(shift.unsigned_abs()).ok()?)?;
    let units = match shift {
        0.. => units.checked_mul(power)?,
        _ if units % power == 0 => units / power,
        _ => return None,
    };
    Some(if sign == NEGATIVE { -units } else { units })
}

/// Write the numbers that most are as `numeric_out` prints them: in binary, below `10^16` and with at most eight digits
/// behind the point. False, with nothing written, for all others and for what is malformed, which `binary` writes or
/// refuses.
#[inline]
pub fn write_small(out: &mut Vec<u8>, bytes: &[u8]) -> bool {
    let Some((&[c0, c1, w0, w1, s0, s1, 0, scale @ 0..=8], groups)) = bytes.split_first_chunk::<8>() else {
        return false;
    };
    let (groups, left) = groups.as_chunks::<2>();
    let sign = u16::from_be_bytes([s0, s1]);
    // The groups of the powers 3 to -2 of 10,000; what is not sent is zero.
    let mut places = [0_u16; 6];
    let first = usize::try_from(3 - i32::from(i16::from_be_bytes([w0, w1])));
    let Some(places_sent) = first.ok().and_then(|first| places.get_mut(first..)) else { return false };
    let whole = usize::from(u16::from_be_bytes([c0, c1])) == groups.len() && left.is_empty();
    if !whole || groups.len() > places_sent.len() || !matches!(sign, 0 | NEGATIVE) {
        return false;
    }
    for (place, group) in places_sent.iter_mut().zip(groups) {
        *place = u16::from_be_bytes(*group);
    }
    if places.iter().any(|&group| group > 9999) {
        return false;
    }
    let (whole, fraction) = places.split_at(4);
    let together = |groups: &[u16]| groups.iter().fold(0, |number: u64, &group| number * 10_000 + u64::from(group));
    let natural = together(whole);
    let fraction = digits::lanes(u32::try_from(together(fraction)).unwrap_or(0));
    // Digits behind the display scale; and a negative zero, which there is none of.
    let surplus = fraction.checked_shr(u32::from(scale) * 8).unwrap_or(0);
    if surplus != 0 || sign != 0 && natural == 0 && fraction == 0 {
        return false;
    }
    if sign != 0 {
        out.push(b'-');
    }
    digits::natural(out, natural);
    if scale > 0 {
        let [d1, d2, d3, d4, d5, d6, d7, d8] = fraction.to_le_bytes().map(|digit| digit | b'0');
        digits::append_first(out, &[b'.', d1, d2, d3, d4, d5, d6, d7, d8], 1 + usize::from(scale));
    }
    true
}

const LARGE: Invalid = Invalid("a number with more digits than its column has");

/// The digits as one number, and the power of ten that it counts.
fn scaled_text(bytes: &[u8]) -> Result<Option<(i128, i64)>> {
    let text = text(bytes)?.as_bytes();
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
    if !digits.first().is_some_and(u8::is_ascii_digit) {
        return Ok(None);
    }
    let (mut units, mut exponent, mut fraction) = (0_i128, 0_i64, false);
    for &byte in digits {
        if byte == b'.' {
            fraction = true;
            continue;
        }
        let digit = i128::from(byte.wrapping_sub(b'0'));
        units = units.checked_mul(10).and_then(|units| units.checked_add(digit)).ok_or(LARGE)?;
        exponent -= i64::from(fraction);
    }
    Ok(Some((if negative { -units } else { units }, exponent)))
}

fn scaled_binary(bytes: &[u8]) -> Result<Option<(i128, i64)>> {
    let Parts { digits, weight, sign, .. } = Parts::read(bytes)?;
    match sign {
        0 | NEGATIVE => {}
        _ => return Ok(None),
    }
    let mut units = 0_i128;
    for &digit in digits {
        let digit = i128::from(u16::from_be_bytes(digit));
        units = units.checked_mul(10_000).and_then(|units| units.checked_add(digit)).ok_or(LARGE)?;
    }
    let below = i64::try_from(digits.len()).map_err(|_| LARGE)? - 1;
    Ok(Some((if sign == NEGATIVE { -units } else { units }, 4 * (i64::from(weight) - below))))
}
