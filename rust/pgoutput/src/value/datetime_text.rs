//! date, time, timetz, timestamp, timestamptz as text, read in the ISO style that pgcdc pins.
//!
//! Source: server functions `date_out`, `timestamp_out`, `timestamptz_out`, `time_out`, `timetz_out`.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "days come from 32 bits or seven digits, microseconds are divided before anything is multiplied, all in i64"
)]
use super::calendar::{DAY, Date, Time};
use super::datetime::timestamp;
use super::{Invalid, Result, Value};

/// Reads the parts of a date or time as text.
struct Parts<'a>(&'a [u8]);

const MALFORMED: Invalid = Invalid("not in the ISO style");

impl Parts<'_> {
    fn digits(&mut self, least: usize, most: usize) -> Result<u32> {
        let mut value = 0_u32;
        let mut count = 0_usize;
        while let Some((digit, rest)) = self.0.split_first().filter(|(digit, _)| digit.is_ascii_digit() && count < most)
        {
            value = value * 10 + u32::from(digit.wrapping_sub(b'0')); // at most seven digits
            count += 1;
            self.0 = rest;
        }
        if count >= least { Ok(value) } else { Err(MALFORMED) }
    }

    fn two(&mut self) -> Result<u8> {
        self.digits(2, 2).and_then(|value| u8::try_from(value).map_err(|_| MALFORMED))
    }

    fn eat(&mut self, prefix: &[u8]) -> bool {
        let rest = self.0.strip_prefix(prefix);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn expect(&mut self, prefix: &[u8]) -> Result<()> {
        if self.eat(prefix) { Ok(()) } else { Err(MALFORMED) }
    }

    /// A date whose era is not known yet: it is written last.
    fn date(&mut self) -> Result<Date> {
        let year = self.digits(4, 7)?;
        self.expect(b"-")?;
        let month = self.two()?;
        self.expect(b"-")?;
        let day = self.two()?;
        Ok(Date { year: i32::try_from(year).map_err(|_| MALFORMED)?, month, day })
    }

    fn time(&mut self) -> Result<Time> {
        let hour = self.two()?;
        self.expect(b":")?;
        let minute = self.two()?;
        self.expect(b":")?;
        let second = self.two()?;
        let mut microsecond = 0;
        if self.eat(b".") {
            let before = self.0.len();
            microsecond = self.digits(1, 6)?;
            for _ in before.saturating_sub(self.0.len())..6 {
                microsecond *= 10;
            }
        }
        let time = Time { hour, minute, second, microsecond };
        if minute < 60 && second < 60 && time.microseconds() <= DAY {
            Ok(time)
        } else {
            Err(Invalid("a time outside the day"))
        }
    }

    /// Seconds east of UTC.
    fn zone(&mut self) -> Result<i32> {
        let west = match self.0.split_first() {
            Some((b'+', rest)) => {
                self.0 = rest;
                false
            }
            Some((b'-', rest)) => {
                self.0 = rest;
                true
            }
            _ => return Err(MALFORMED),
        };
        let mut seconds = i32::from(self.two()?) * 3600;
        if self.eat(b":") {
            seconds += i32::from(self.two()?) * 60;
        }
        if self.eat(b":") {
            seconds += i32::from(self.two()?);
        }
        if seconds >= 86_400 {
            return Err(Invalid("a zone more than a day away"));
        }
        Ok(if west { -seconds } else { seconds })
    }

    /// The era, which ends the text.
    fn finish(&mut self, date: Date) -> Result<Date> {
        // There is no year 0: 1 BC comes before AD 1.
        let is_year = date.year > 0;
        let date = if self.eat(b" BC") { Date { year: 1 - date.year, ..date } } else { date };
        if is_year && date.is_real() && self.0.is_empty() { Ok(date) } else { Err(MALFORMED) }
    }
}

pub(super) fn infinity(bytes: &[u8]) -> Option<Value<'_>> {
    match bytes {
        b"infinity" => Some(Value::PgText("infinity")),
        b"-infinity" => Some(Value::PgText("-infinity")),
        _ => None,
    }
}

/// A value that PostgreSQL printed and Python's types cannot hold: as it is.
fn as_printed(bytes: &[u8]) -> Result<Value<'_>> {
    std::str::from_utf8(bytes).map(Value::PgText).map_err(|_| MALFORMED)
}

/// What `date_out` prints.
///
/// # Errors
/// When it is another style or not a day.
pub fn date_text(bytes: &[u8]) -> Result<Value<'_>> {
    if let Some(value) = infinity(bytes) {
        return Ok(value);
    }
    let date = day(bytes)?;
    if date.fits() { Ok(Value::Date(date)) } else { as_printed(bytes) }
}

pub(super) fn day(bytes: &[u8]) -> Result<Date> {
    let mut parts = Parts(bytes);
    let date = parts.date()?;
    parts.finish(date)
}

/// The shape that nearly every instant has, `2024-02-29 12:34:56.789` with a year of four digits, in one look; and what
/// follows it. None for anything else, which the slower way reads or refuses.
#[inline]
fn usual(bytes: &[u8]) -> Option<(Date, Time, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<19>()?;
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b' ', h1, h2, b':', i1, i2, b':', s1, s2] = head else {
        return None;
    };
    let digits = [y1, y2, y3, y4, m1, m2, d1, d2, h1, h2, i1, i2, s1, s2].map(|byte| byte.wrapping_sub(b'0'));
    if digits.iter().any(|&digit| digit > 9) {
        return None;
    }
    let [y1, y2, y3, y4, m1, m2, d1, d2, h1, h2, i1, i2, s1, s2] = digits;
    let year = i32::from(y1 * 10 + y2) * 100 + i32::from(y3 * 10 + y4);
    let date = Date { year, month: m1 * 10 + m2, day: d1 * 10 + d2 };
    let (microsecond, rest) = match rest.split_first() {
        Some((b'.', rest)) => fraction(rest)?,
        _ => (0, rest),
    };
    let time = Time { hour: h1 * 10 + h2, minute: i1 * 10 + i2, second: s1 * 10 + s2, microsecond };
    let fits = date.fits() && date.is_real() && time.hour < 24 && time.minute < 60 && time.second < 60;
    fits.then_some((date, time, rest))
}

/// One to six digits as microseconds.
#[inline]
fn fraction(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut microsecond = 0;
    let mut place = 100_000;
    let mut rest = bytes;
    while let Some((digit, after)) = rest.split_first().filter(|(digit, _)| digit.is_ascii_digit() && place > 0) {
        microsecond += u32::from(digit.wrapping_sub(b'0')) * place;
        place /= 10;
        rest = after;
    }
    (rest.len() < bytes.len()).then_some((microsecond, rest))
}

/// What `timestamp_out` prints.
///
/// # Errors
/// When it is another style or not an instant.
pub fn timestamp_text(bytes: &[u8]) -> Result<Value<'_>> {
    if let Some((date, time, b"")) = usual(bytes) {
        return Ok(Value::Timestamp(date, time));
    }
    if let Some(value) = infinity(bytes) {
        return Ok(value);
    }
    let (date, time) = day_and_time(bytes)?;
    if date.fits() && time.hour < 24 { Ok(Value::Timestamp(date, time)) } else { as_printed(bytes) }
}

pub(super) fn day_and_time(bytes: &[u8]) -> Result<(Date, Time)> {
    let mut parts = Parts(bytes);
    let date = parts.date()?;
    parts.expect(b" ")?;
    let time = parts.time()?;
    Ok((parts.finish(date)?, time))
}

/// What `timestamptz_out` prints, in any zone.
///
/// # Errors
/// When it is another style or not an instant.
pub fn timestamptz_text<'a>(bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Value<'a>> {
    if let Some((date, time, b"+00")) = usual(bytes) {
        return Ok(Value::TimestampTz(date, time));
    }
    if let Some(value) = infinity(bytes) {
        return Ok(value);
    }
    timestamp(instant(bytes)?, true, scratch)
}

const OUTSIDE: Invalid = Invalid("an instant outside the type's range");

/// Microseconds from 2000-01-01 UTC.
pub(super) fn instant(bytes: &[u8]) -> Result<i64> {
    let mut parts = Parts(bytes);
    let date = parts.date()?;
    parts.expect(b" ")?;
    let time = parts.time()?;
    let east = parts.zone()?;
    let date = parts.finish(date)?;
    linear(date, time)?.checked_sub(i64::from(east) * 1_000_000).ok_or(OUTSIDE)
}

pub(super) fn linear(date: Date, time: Time) -> Result<i64> {
    let days = date.days().checked_mul(DAY);
    days.and_then(|days| days.checked_add(time.microseconds())).ok_or(OUTSIDE)
}

/// What `time_out` prints.
///
/// # Errors
/// When it is not a time.
pub fn time_text(bytes: &[u8]) -> Result<Value<'_>> {
    let time = clock(bytes)?;
    if time.hour < 24 { Ok(Value::Time(time)) } else { as_printed(bytes) }
}

pub(super) fn clock(bytes: &[u8]) -> Result<Time> {
    let mut parts = Parts(bytes);
    let time = parts.time()?;
    if parts.0.is_empty() { Ok(time) } else { Err(MALFORMED) }
}

/// What `timetz_out` prints.
///
/// # Errors
/// When it is not a time with a zone.
pub fn timetz_text(bytes: &[u8]) -> Result<Value<'_>> {
    let mut parts = Parts(bytes);
    let time = parts.time()?;
    let east = parts.zone()?;
    match (parts.0.is_empty(), time.hour < 24) {
        (true, true) => Ok(Value::TimeTz(time, east)),
        (true, false) => as_printed(bytes),
        (false, _) => Err(MALFORMED),
    }
}
