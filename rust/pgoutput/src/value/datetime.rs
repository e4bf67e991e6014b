//! date, time, timetz, timestamp, timestamptz in binary. The finite instants outside the years 1 to 9999, the infinities and 24:00:00 come as the text that PostgreSQL prints.
//!
//! Source: server functions `date_send`, `timestamp_send`, `timestamptz_send`, `time_send`, `timetz_send`.
use std::io::Write;

use super::calendar::{DAY, Date, Time, civil};
use super::{Invalid, Result, Value};
use crate::cursor::Cursor;

/// Writes what PostgreSQL prints. Writing to memory does not fail.
struct Printer<'a>(&'a mut Vec<u8>);

impl<'a> Printer<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        out.clear();
        Self(out)
    }

    fn date(self, date: Date) -> Self {
        let year = if date.year > 0 { i64::from(date.year) } else { 1_i64.saturating_sub(date.year.into()) };
        let _ = write!(self.0, "{year:04}-{:02}-{:02}", date.month, date.day);
        self
    }

    fn time(self, time: Time) -> Self {
        let _ = write!(self.0, "{:02}:{:02}:{:02}", time.hour, time.minute, time.second);
        fraction(self.0, time.microsecond.into());
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

/// `.5`: the microseconds without zeros at the end; nothing where there are none.
pub(super) fn fraction(out: &mut Vec<u8>, microseconds: u64) {
    if microseconds != 0 {
        let _ = write!(out, ".{microseconds:06}");
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// Write a day as PostgreSQL prints it.
pub(super) fn print_date(out: &mut Vec<u8>, date: Date) {
    Printer(out).date(date).text(era(date));
}

/// Write a time of day, with its zone where it has one.
pub(super) fn print_time(out: &mut Vec<u8>, time: Time, east: Option<i32>) {
    let printer = Printer(out).time(time);
    if let Some(east) = east {
        printer.zone(east);
    }
}

/// Write an instant; `zoned` in UTC.
pub(super) fn print_timestamp(out: &mut Vec<u8>, date: Date, time: Time, zoned: bool) {
    let zone = if zoned { "+00" } else { "" };
    Printer(out).date(date).text(" ").time(time).text(zone).text(era(date));
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

/// An instant in microseconds after 2000-01-01 (UTC).
#[inline]
pub(super) fn timestamp(microseconds: i64, zoned: bool, scratch: &mut Vec<u8>) -> Result<Value<'_>> {
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
pub(super) fn checked_time(microseconds: i64) -> Result<Time> {
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
