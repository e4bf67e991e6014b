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
        let rounds_here =
            |text: &str| text.parse::<f32>().is_ok_and(|near| near.abs().to_bits() == value.abs().to_bits());
        // A text may be closer to a midpoint than a double can tell, and yet not on it.
        let inside = !midpoints.contains(&number) || !is_midpoint(&text, rounds_here);
        (rounds_here(&text) && inside).then_some(number)
    };
    let rounded = |digits: usize| accept(format!("{value:.digits$e}"));
    // At a power of two the interval reaches less far down than up, and the text that is rounded down may be outside.
    let digits = digits.saturating_sub(1);
    rounded(digits).or_else(|| accept(shortest)).or_else(|| (digits..=9).find_map(rounded)).unwrap_or(exact)
}

/// The float4 whose shortest text this is; by way of a double it could be rounded twice.
///
/// # Errors
/// When it is not one.
pub fn float4_text(bytes: &[u8]) -> Result<f32> {
    let number = float(bytes)?;
    match std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<f32>().ok()) {
        Some(value) if value.is_finite() == number.is_finite() => Ok(value),
        _ => Err(Invalid("a number outside its type's range")),
    }
}

/// Write a float4 as PostgreSQL prints it.
///
/// Source: server function `float4out`; server file `common/f2s.c`.
pub fn print_float4(out: &mut Vec<u8>, value: f32) {
    // The double that its shortest text says has that text as its own shortest.
    print_digits(out, &format!("{:e}", float4(value)), 6);
}

/// Write a float8 as PostgreSQL prints it: the fewest digits that lie strictly between the midpoints to the neighbours,
/// which Rust's may lie on (1e23).
///
/// Source: server function `float8out`; server file `common/d2s.c`.
pub fn print_float8(out: &mut Vec<u8>, value: f64) {
    let mut text = format!("{value:e}");
    if value.is_finite() {
        let mut digits = text.bytes().take_while(|&byte| byte != b'e').filter(u8::is_ascii_digit).count();
        let rounds_here = |text: &str| text.parse::<f64>().is_ok_and(|near| near.to_bits() == value.abs().to_bits());
        // Of two texts that are equally close, Rust's is the higher one and PostgreSQL's the even one.
        let even = format!("{value:.*e}", digits.saturating_sub(1));
        if rounds_here(even.trim_start_matches('-')) {
            text = even;
        }
        // Below 2^53 no decimal number of 17 digits is a midpoint.
        while value.abs() >= 9e15 && digits <= 17 && is_midpoint(&text, rounds_here) {
            text = format!("{value:.digits$e}");
            digits = digits.saturating_add(1);
        }
    }
    print_digits(out, &text, 15);
}

/// Whether a number is exactly between a float that it rounds to and a neighbour: then a little more or a little less
/// rounds to the neighbour.
fn is_midpoint(text: &str, rounds_here: impl Fn(&str) -> bool) -> bool {
    // A midpoint of what is printed here and another number of so few digits differ in the first sixty places.
    const NINES: &str = "999999999999999999999999999999999999999999999999999999999999";
    let number = || {
        let (digits, exponent) = significant(text.trim_start_matches('-'))?;
        let digits: u64 = std::str::from_utf8(&digits).ok()?.parse().ok()?;
        Some((digits, exponent.checked_sub(60)?))
    };
    let Some((digits, exponent)) = number() else { return false };
    let more = format!("{digits}{:060}e{exponent}", 1);
    let less = format!("{}{NINES}e{exponent}", digits.saturating_sub(1));
    !(rounds_here(&more) && rounds_here(&less))
}

/// Write a number in Rust's scientific notation as PostgreSQL does: with an exponent below 1e-4 and from `1e<limit>`.
fn print_digits(out: &mut Vec<u8>, text: &str, limit: i32) {
    match text {
        "inf" => return out.extend_from_slice(b"Infinity"),
        "-inf" => return out.extend_from_slice(b"-Infinity"),
        "NaN" => return out.extend_from_slice(b"NaN"),
        _ => {}
    }
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa));
    let mut digits = mantissa.replace('.', "");
    digits.truncate(digits.trim_end_matches('0').len().max(1));
    let places = usize::try_from(exponent.unsigned_abs()).unwrap_or(usize::MAX);
    let written = if !(-4..limit).contains(&exponent) {
        let (first, others) = digits.split_at_checked(1).unwrap_or_default();
        let point = if others.is_empty() { "" } else { "." };
        let direction = if exponent < 0 { '-' } else { '+' };
        format!("{sign}{first}{point}{others}e{direction}{places:02}")
    } else if exponent < 0 {
        format!("{sign}0.{:0<1$}{digits}", "", places.saturating_sub(1))
    } else {
        match digits.split_at_checked(places.saturating_add(1)) {
            Some((whole, "")) => format!("{sign}{whole}"),
            Some((whole, fraction)) => format!("{sign}{whole}.{fraction}"),
            None => format!("{sign}{digits:0<0$}", places.saturating_add(1)),
        }
    };
    out.extend_from_slice(written.as_bytes());
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
