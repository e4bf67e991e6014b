//! date, time, timetz, timestamp, timestamptz in both formats. Text is read in the ISO style that pgcdc pins; the finite
//! instants outside the years 1 to 9999, the infinities and 24:00:00 come as the text that PostgreSQL prints.
//!
//! Source: server functions `date_out`, `timestamp_out`, `timestamptz_out`, `time_out`, `timetz_out` and their `…send`.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "days come from 32 bits or seven digits, microseconds are divided before anything is multiplied, all in i64"
)]
use std::io::Write;

use super::{Format, Invalid, Result, Value};
use crate::cursor::Cursor;

const DAY: i64 = 86_400_000_000;
/// Days from 0000-03-01, where the calendar's 400-year cycles begin, to 2000-01-01.
const EPOCH: i64 = 730_425;

/// A day of the proleptic Gregorian calendar; the year 0 is 1 BC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// The year.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

/// A time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// 0 to 23 (24 in `24:00:00`, which never leaves this module).
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999,999.
    pub microsecond: u32,
}

fn small(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

impl Date {
    /// The day that is so many days after 2000-01-01.
    pub fn from_days(days: i64) -> Self {
        let days = days + EPOCH;
        let (cycle, day_of_cycle) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
        let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        // Months from March, so that the leap day is the last of the year.
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
        Self { year: i32::try_from(year).unwrap_or(i32::MAX), month: small(month), day: small(day) }
    }

    /// How many days after 2000-01-01 this is.
    pub fn days(self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let (cycle, year_of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
        let month = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * month + 2) / 5 + day - 1;
        cycle * 146_097 + year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year - EPOCH
    }

    fn is_real(self) -> bool {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let length = match self.month {
            2 => 28 + u8::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        (1..=length).contains(&self.day)
    }

    fn fits(self) -> bool {
        (1..=9999).contains(&self.year)
    }
}

impl Time {
    fn from_microseconds(microseconds: i64) -> Self {
        let seconds = microseconds / 1_000_000;
        Self {
            hour: small(seconds / 3600),
            minute: small(seconds / 60 % 60),
            second: small(seconds % 60),
            microsecond: u32::try_from(microseconds % 1_000_000).unwrap_or(0),
        }
    }

    fn microseconds(self) -> i64 {
        let seconds = (i64::from(self.hour) * 60 + i64::from(self.minute)) * 60 + i64::from(self.second);
        seconds * 1_000_000 + i64::from(self.microsecond)
    }
}

/// Writes what PostgreSQL prints. Writing to memory does not fail.
struct Printer<'a>(&'a mut Vec<u8>);

impl<'a> Printer<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        out.clear();
        Self(out)
    }

    fn date(self, date: Date) -> Self {
        let year = if date.year > 0 { i64::from(date.year) } else { 1 - i64::from(date.year) };
        let _ = write!(self.0, "{year:04}-{:02}-{:02}", date.month, date.day);
        self
    }

    fn time(self, time: Time) -> Self {
        let _ = write!(self.0, "{:02}:{:02}:{:02}", time.hour, time.minute, time.second);
        if time.microsecond != 0 {
            let _ = write!(self.0, ".{:06}", time.microsecond);
            while self.0.last() == Some(&b'0') {
                self.0.pop();
            }
        }
        self
    }

    fn zone(self, east: i32) -> Self {
        let sign = if east < 0 { '-' } else { '+' };
        let seconds = east.unsigned_abs();
        let _ = write!(self.0, "{sign}{:02}", seconds / 3600);
        if !seconds.is_multiple_of(3600) {
            let _ = write!(self.0, ":{:02}", seconds / 60 % 60);
        }
        if !seconds.is_multiple_of(60) {
            let _ = write!(self.0, ":{:02}", seconds % 60);
        }
        self
    }

    fn text(self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn finish(self) -> Result<Value<'a>> {
        std::str::from_utf8(self.0).map(Value::PgText).map_err(|_| Invalid("not text"))
    }
}

fn era(date: Date) -> &'static str {
    if date.year > 0 { "" } else { " BC" }
}

/// What `date_send` wrote: days since 2000-01-01.
///
/// # Errors
/// Never; for the same shape as the others.
pub fn date_binary(bytes: [u8; 4], scratch: &mut Vec<u8>) -> Result<Value<'_>> {
    match i32::from_be_bytes(bytes) {
        i32::MAX => Ok(Value::PgText("infinity")),
        i32::MIN => Ok(Value::PgText("-infinity")),
        days => match Date::from_days(days.into()) {
            date if date.fits() => Ok(Value::Date(date)),
            date => Printer::new(scratch).date(date).text(era(date)).finish(),
        },
    }
}

/// What `timestamp_send` or `timestamptz_send` wrote: microseconds since 2000-01-01 (UTC).
///
/// # Errors
/// Never; for the same shape as the others.
#[inline]
pub fn timestamp_binary(bytes: [u8; 8], zoned: bool, scratch: &mut Vec<u8>) -> Result<Value<'_>> {
    match i64::from_be_bytes(bytes) {
        i64::MAX => Ok(Value::PgText("infinity")),
        i64::MIN => Ok(Value::PgText("-infinity")),
        microseconds => timestamp(microseconds, zoned, scratch),
    }
}

#[inline]
fn timestamp(microseconds: i64, zoned: bool, scratch: &mut Vec<u8>) -> Result<Value<'_>> {
    let (date, time) = civil(microseconds);
    match (date.fits(), zoned) {
        (true, true) => Ok(Value::TimestampTz(date, time)),
        (true, false) => Ok(Value::Timestamp(date, time)),
        (false, _) => {
            let zone = if zoned { "+00" } else { "" };
            Printer::new(scratch).date(date).text(" ").time(time).text(zone).text(era(date)).finish()
        }
    }
}

/// The day and time that are so many microseconds after 2000-01-01.
pub fn civil(microseconds: i64) -> (Date, Time) {
    let date = Date::from_days(microseconds.div_euclid(DAY));
    (date, Time::from_microseconds(microseconds.rem_euclid(DAY)))
}

fn checked_time(microseconds: i64) -> Result<Time> {
    if (0..=DAY).contains(&microseconds) {
        Ok(Time::from_microseconds(microseconds))
    } else {
        Err(Invalid("a time outside the day"))
    }
}

/// What `time_send` wrote: microseconds since midnight.
///
/// # Errors
/// When they are more than a day.
pub fn time_binary(bytes: [u8; 8], scratch: &mut Vec<u8>) -> Result<Value<'_>> {
    let time = checked_time(i64::from_be_bytes(bytes))?;
    if time.hour < 24 { Ok(Value::Time(time)) } else { Printer::new(scratch).time(time).finish() }
}

/// What `timetz_send` wrote: microseconds since midnight, and the seconds that the zone is *west* of UTC.
///
/// # Errors
/// When they are more than a day.
pub fn timetz_binary(bytes: [u8; 12], scratch: &mut Vec<u8>) -> Result<Value<'_>> {
    let mut cursor = Cursor::new(&bytes);
    let cut = |_| Invalid("a value of another size than its type");
    let time = checked_time(cursor.i64("time").map_err(cut)?)?;
    let west = cursor.i32("zone").map_err(cut)?;
    let east = west.checked_neg().filter(|east| east.abs() < 86_400).ok_or(Invalid("a zone more than a day away"))?;
    if time.hour < 24 { Ok(Value::TimeTz(time, east)) } else { Printer::new(scratch).time(time).zone(east).finish() }
}

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

fn infinity(bytes: &[u8]) -> Option<Value<'_>> {
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

fn day(bytes: &[u8]) -> Result<Date> {
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

fn day_and_time(bytes: &[u8]) -> Result<(Date, Time)> {
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
fn instant(bytes: &[u8]) -> Result<i64> {
    let mut parts = Parts(bytes);
    let date = parts.date()?;
    parts.expect(b" ")?;
    let time = parts.time()?;
    let east = parts.zone()?;
    let date = parts.finish(date)?;
    linear(date, time)?.checked_sub(i64::from(east) * 1_000_000).ok_or(OUTSIDE)
}

fn linear(date: Date, time: Time) -> Result<i64> {
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

fn clock(bytes: &[u8]) -> Result<Time> {
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

fn binary<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| Invalid("a value of another size than its type"))
}

/// A `date` as days after 2000-01-01; None when it is infinite.
///
/// # Errors
/// When it is not a date.
pub fn days(format: Format, bytes: &[u8]) -> Result<Option<i32>> {
    match format {
        Format::Binary => {
            let days = binary(bytes).map(i32::from_be_bytes)?;
            Ok(Some(days).filter(|days| !matches!(*days, i32::MIN | i32::MAX)))
        }
        Format::Text if infinity(bytes).is_some() => Ok(None),
        Format::Text => {
            i32::try_from(day(bytes)?.days()).map(Some).map_err(|_| Invalid("a day outside the type's range"))
        }
    }
}

/// A `timestamp` or (`zoned`) `timestamptz` as microseconds after 2000-01-01 (UTC); None when it is infinite.
///
/// # Errors
/// When it is not an instant.
#[inline]
pub fn microseconds(format: Format, zoned: bool, bytes: &[u8]) -> Result<Option<i64>> {
    match format {
        Format::Binary => {
            let microseconds = binary(bytes).map(i64::from_be_bytes)?;
            Ok(Some(microseconds).filter(|microseconds| !matches!(*microseconds, i64::MIN | i64::MAX)))
        }
        Format::Text if infinity(bytes).is_some() => Ok(None),
        Format::Text if zoned => instant(bytes).map(Some),
        Format::Text => day_and_time(bytes).and_then(|(date, time)| linear(date, time)).map(Some),
    }
}

/// A `time` as microseconds since midnight, 24:00:00 included.
///
/// # Errors
/// When it is not a time.
pub fn microseconds_of_day(format: Format, bytes: &[u8]) -> Result<i64> {
    match format {
        Format::Binary => {
            let microseconds = binary(bytes).map(i64::from_be_bytes)?;
            checked_time(microseconds).map(|_| microseconds)
        }
        Format::Text => clock(bytes).map(Time::microseconds),
    }
}
