//! interval: months, days and microseconds, which nothing converts into each other.
//!
//! Source: server functions `interval_out` (`IntervalStyle = postgres`), `interval_send`.
use std::io::Write;

use super::{Invalid, Result};
use crate::cursor::Cursor;

/// An interval. The infinite ones of PostgreSQL 17 have all three numbers at their highest or lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Months.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub microseconds: i64,
}

const INFINITY: Interval = Interval { months: i32::MAX, days: i32::MAX, microseconds: i64::MAX };
const NEGATIVE_INFINITY: Interval = Interval { months: i32::MIN, days: i32::MIN, microseconds: i64::MIN };
const MALFORMED: Invalid = Invalid("not an interval in the style postgres");
const LARGE: Invalid = Invalid("a number outside its type's range");

/// What `interval_send` wrote.
///
/// # Errors
/// When it is of another size.
pub fn binary(bytes: &[u8]) -> Result<Interval> {
    let cut = |_| Invalid("a value of another size than its type");
    let mut cursor = Cursor::new(bytes);
    let microseconds = cursor.i64("microseconds").map_err(cut)?;
    let days = cursor.i32("days").map_err(cut)?;
    let months = cursor.i32("months").map_err(cut)?;
    cursor.finish("interval").map_err(cut)?;
    Ok(Interval { months, days, microseconds })
}

/// What `interval_out` prints.
///
/// # Errors
/// When it is another style.
pub fn text(bytes: &[u8]) -> Result<Interval> {
    match bytes {
        b"infinity" => return Ok(INFINITY),
        b"-infinity" => return Ok(NEGATIVE_INFINITY),
        _ => {}
    }
    let mut words = bytes.split(|&byte| byte == b' ').peekable();
    let (mut months, mut days, mut microseconds) = (0_i64, 0, 0);
    let mut last = 0;
    while let Some(word) = words.next() {
        if word.contains(&b':') {
            microseconds = clock(word)?;
            return match words.next() {
                None => finish(months, days, microseconds),
                Some(_) => Err(MALFORMED),
            };
        }
        let number = super::number::integer(word.strip_prefix(b"+").unwrap_or(word)).map_err(|_| MALFORMED)?;
        let place = match words.next() {
            Some(b"year" | b"years") => 1,
            Some(b"mon" | b"mons") => 2,
            Some(b"day" | b"days") => 3,
            _ => return Err(MALFORMED),
        };
        // Each unit once, the largest first.
        if place <= std::mem::replace(&mut last, place) {
            return Err(MALFORMED);
        }
        match place {
            1 => months = number.checked_mul(12).ok_or(LARGE)?,
            2 => months = months.checked_add(number).ok_or(LARGE)?,
            _ => days = number,
        }
    }
    finish(months, days, microseconds)
}

fn finish(months: i64, days: i64, microseconds: i64) -> Result<Interval> {
    let small = |number| i32::try_from(number).map_err(|_| LARGE);
    Ok(Interval { months: small(months)?, days: small(days)?, microseconds })
}

/// `-04:05:06.789`, with any number of hours.
fn clock(word: &[u8]) -> Result<i64> {
    let (negative, digits) = match word {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let mut parts = digits.split(|&byte| byte == b':');
    let (Some(hours), Some(minutes), Some(seconds), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(MALFORMED);
    };
    let (seconds, fraction) = match seconds.iter().position(|&byte| byte == b'.') {
        Some(point) => (seconds.get(..point).unwrap_or_default(), seconds.get(point.saturating_add(1)..)),
        None => (seconds, None),
    };
    let number = |digits: &[u8], least: usize, most: usize| {
        let plain = digits.iter().all(u8::is_ascii_digit) && (least..=most).contains(&digits.len());
        if plain { super::number::integer(digits).map(i128::from) } else { Err(MALFORMED) }
    };
    let (hours, minutes, seconds) = (number(hours, 2, 18)?, number(minutes, 2, 2)?, number(seconds, 2, 2)?);
    let mut micros = 0;
    if let Some(fraction) = fraction {
        micros = number(fraction, 1, 6)?;
        for _ in fraction.len()..6 {
            micros = micros.saturating_mul(10);
        }
    }
    if minutes > 59 || seconds > 59 {
        return Err(MALFORMED);
    }
    let seconds = hours.saturating_mul(3600).saturating_add(minutes.saturating_mul(60)).saturating_add(seconds);
    let total = seconds.saturating_mul(1_000_000).saturating_add(micros);
    i64::try_from(if negative { total.saturating_neg() } else { total }).map_err(|_| LARGE)
}

/// Write it as PostgreSQL prints it.
pub fn print(out: &mut Vec<u8>, interval: Interval) {
    match interval {
        INFINITY => return out.extend_from_slice(b"infinity"),
        NEGATIVE_INFINITY => return out.extend_from_slice(b"-infinity"),
        _ => {}
    }
    let start = out.len();
    let Interval { months, days, microseconds } = interval;
    let mut after_minus = false;
    let [years, months] = [months / 12, months % 12];
    for (number, unit) in [(years, "year"), (months, "mon"), (days, "day")] {
        if number == 0 {
            continue;
        }
        let space = if out.len() > start { " " } else { "" };
        let plus = if after_minus && number > 0 { "+" } else { "" };
        let plural = if number == 1 { "" } else { "s" };
        // Writing to memory does not fail.
        let _ = write!(out, "{space}{plus}{number} {unit}{plural}");
        after_minus = number < 0;
    }
    if microseconds == 0 && out.len() > start {
        return;
    }
    let space = if out.len() > start { " " } else { "" };
    let sign = match (microseconds < 0, after_minus) {
        (true, _) => "-",
        (false, true) => "+",
        (false, false) => "",
    };
    let all = microseconds.unsigned_abs();
    let (seconds, micros) = (all / 1_000_000, all % 1_000_000);
    let _ = write!(out, "{space}{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    super::datetime::fraction(out, micros);
}
