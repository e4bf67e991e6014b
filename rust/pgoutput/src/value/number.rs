//! Integers and floats. The text of a float4 and its four bytes give the same number: the one that the shortest text says.
use super::{Invalid, Result};

/// A decimal integer.
///
/// # Errors
/// When it is not one, or does not fit 64 bits.
#[inline]
pub fn integer(text: &[u8]) -> Result<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(Invalid("not an integer"));
    }
    let mut value = 0_i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Invalid("not an integer"));
        }
        // Downwards, because the smallest number has no positive counterpart.
        let digit = i64::from(digit.wrapping_sub(b'0'));
        value = value
            .checked_mul(10)
            .and_then(|value| value.checked_sub(digit))
            .ok_or(Invalid("a number outside its type's range"))?;
    }
    if negative { Ok(value) } else { value.checked_neg().ok_or(Invalid("a number outside its type's range")) }
}

/// A float as PostgreSQL prints it.
///
/// # Errors
/// When it is not one.
pub fn float(text: &[u8]) -> Result<f64> {
    match text {
        b"NaN" => Ok(f64::NAN),
        b"Infinity" => Ok(f64::INFINITY),
        b"-Infinity" => Ok(f64::NEG_INFINITY),
        _ if text.iter().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(byte)) => {
            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Invalid("not a number"))
        }
        _ => Err(Invalid("not a number")),
    }
}

/// The number that PostgreSQL's shortest text of a float4 says: of the texts with the fewest digits that lie strictly
/// between the midpoints to the neighbours the one closest to the value, ties to the even digit.
///
/// Rust's shortest text may lie on a midpoint and breaks ties upwards, so it only tells how many digits to begin with.
pub fn float4(value: f32) -> f64 {
    let exact = f64::from(value);
    if !value.is_finite() || value.fract() == 0.0 && value.abs() < 1e6 {
        return exact;
    }
    let midpoints = [value.next_up(), value.next_down()].map(|neighbour| f64::midpoint(exact, f64::from(neighbour)));
    let shortest = format!("{value:e}");
    let digits = shortest.bytes().take_while(|&byte| byte != b'e').filter(u8::is_ascii_digit).count();
    let accept = |text: String| {
        let number: f64 = text.parse().ok()?;
        let same = text.parse::<f32>().ok()?.to_bits() == value.to_bits();
        (same && !midpoints.contains(&number)).then_some(number)
    };
    let rounded = |digits: usize| accept(format!("{value:.digits$e}"));
    // At a power of two the interval reaches less far down than up, and the text that is rounded down may be outside.
    let digits = digits.saturating_sub(1);
    rounded(digits).or_else(|| accept(shortest)).or_else(|| (digits..=9).find_map(rounded)).unwrap_or(exact)
}

/// The float that says exactly what a number in JSON says when it is printed again; None where digits would change.
pub fn exact_float(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
    // Fifteen digits survive the way to a normal double and back, always; and so many characters have no more.
    if text.len() <= 15 && number.is_normal() {
        return Some(number);
    }
    let written = significant(text)?;
    let same = || significant(&format!("{number:e}")).is_some_and(|printed| printed == written);
    (written.0.is_empty() || same()).then_some(number)
}

/// A number's digits without zeros at both ends, and the power of ten of the last one.
fn significant(text: &str) -> Option<(Vec<u8>, i64)> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> =
        whole.bytes().chain(fraction.bytes()).skip_while(|byte| !(b'1'..=b'9').contains(byte)).collect();
    let all = digits.len();
    while digits.last() == Some(&b'0') {
        digits.pop();
    }
    let zeros = i64::try_from(all.saturating_sub(digits.len())).ok()?;
    let exponent =
        exponent.parse::<i64>().ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(zeros)?;
    Some((digits, exponent))
}
