//! Dates and times as Debezium writes them: numbers from 1970 on, or text as Java prints it.
//!
//! Source: Debezium's documentation of its connector for PostgreSQL, "Temporal types"; `java.time.format.DateTimeFormatter`.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "days come from 32 bits; what 64 bits of microseconds cannot hold is checked; times are within a day"
)]
use crate::json::Scratch;
use crate::json::text::string;
use crate::json::value::three;
use crate::oid::Scalar;
use crate::value::calendar::{Date, civil};
use crate::value::digits::eight;
use crate::value::{Format, Invalid, Result, Value, decode, instant};

/// Days from 1970-01-01 to 2000-01-01, from where PostgreSQL counts.
const EPOCH: i64 = 10_957;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// The same in microseconds.
pub const EPOCH_MICROSECONDS: i64 = EPOCH * DAY;

/// What is written of a date or time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// `date`: days.
    Days,
    /// `date`: `2024-02-29Z`.
    DateText,
    /// `time`: milliseconds, for up to three digits of a fraction.
    TimeMilliseconds,
    /// `time`: microseconds.
    TimeMicroseconds,
    /// `time`: `12:30:00.5Z`.
    TimeText,
    /// `timestamp`: milliseconds, for up to three digits of a fraction.
    Milliseconds,
    /// `timestamp`: microseconds.
    Microseconds,
    /// `timestamp`: `2024-02-29T12:30:00.5Z`.
    TimestampText,
    /// `timestamptz`: `2024-02-29T12:30:00.500000Z`, with so many digits of a fraction.
    TimestampTz(usize),
    /// `timetz`: `12:30:00.5Z`, in UTC.
    TimeTz,
}

impl Moment {
    /// Write a value. What is infinite is written in PostgreSQL's words.
    ///
    /// # Errors
    /// When it is not one of the type.
    pub fn write(self, out: &mut Vec<u8>, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
        match self {
            Self::Days | Self::DateText => {
                let Some(days) = instant::days(format, bytes)? else {
                    return infinite(out, Scalar::Date, format, bytes, scratch);
                };
                let days = i64::from(days);
                if self == Self::Days {
                    number(out, days + EPOCH);
                } else {
                    quoted(out, |out| date(out, Date::from_days(days)));
                }
            }
            Self::TimeMilliseconds | Self::TimeMicroseconds | Self::TimeText => {
                let microseconds = instant::microseconds_of_day(format, bytes)?;
                match self {
                    Self::TimeMilliseconds => number(out, microseconds / 1000),
                    Self::TimeMicroseconds => number(out, microseconds),
                    _ => quoted(out, |out| time(out, microseconds, None)),
                }
            }
            Self::Milliseconds | Self::Microseconds | Self::TimestampText | Self::TimestampTz(_) => {
                let zoned = matches!(self, Self::TimestampTz(_));
                let Some(microseconds) = instant::microseconds(format, zoned, bytes)? else {
                    let scalar = if zoned { Scalar::TimestampTz } else { Scalar::Timestamp };
                    return infinite(out, scalar, format, bytes, scratch);
                };
                match self {
                    // Beyond 64 bits there are no milliseconds that PostgreSQL knows, but microseconds.
                    Self::Milliseconds => number(out, microseconds.div_euclid(1000) + EPOCH_MICROSECONDS / 1000),
                    Self::Microseconds => match microseconds.checked_add(EPOCH_MICROSECONDS) {
                        Some(since_1970) => number(out, since_1970),
                        None => number(out, i128::from(microseconds) + i128::from(EPOCH_MICROSECONDS)),
                    },
                    Self::TimestampTz(digits) => text(out, microseconds, Some(digits)),
                    _ => text(out, microseconds, None),
                }
            }
            Self::TimeTz => {
                let (microseconds, east) = match decode(Scalar::TimeTz, format, bytes, &mut scratch.value)? {
                    Value::TimeTz(clock, east) => {
                        let seconds =
                            (i64::from(clock.hour) * 60 + i64::from(clock.minute)) * 60 + i64::from(clock.second);
                        (seconds * SECOND + i64::from(clock.microsecond), east)
                    }
                    // 24:00:00, which is the beginning of a day.
                    Value::PgText(text) => (0, zone(text).ok_or(Invalid("not a time"))?),
                    _ => return Err(Invalid("not a time")),
                };
                let utc = (microseconds - i64::from(east) * SECOND).rem_euclid(DAY);
                quoted(out, |out| time(out, utc, None));
            }
        }
        Ok(())
    }
}

fn infinite(out: &mut Vec<u8>, scalar: Scalar, format: Format, bytes: &[u8], scratch: &mut Scratch) -> Result<()> {
    match decode(scalar, format, bytes, &mut scratch.value)? {
        // `infinity` or `-infinity`.
        Value::PgText(text) => {
            string(out, text.as_bytes());
            Ok(())
        }
        _ => Err(Invalid("not a moment")),
    }
}

/// What `24:00:00-15:59:59` says of its zone, in seconds east of UTC.
fn zone(text: &str) -> Option<i32> {
    let zone = text.get(8..)?;
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let mut parts =
        zone.get(1..)?.split(':').map(|part| part.parse::<i32>().ok().filter(|part| (0..60).contains(part)));
    let (hours, minutes, seconds) =
        (parts.next()??, parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?);
    Some(sign * ((hours * 60 + minutes) * 60 + seconds))
}

fn number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.extend_from_slice(b"Z\"");
}

fn text(out: &mut Vec<u8>, microseconds: i64, digits: Option<usize>) {
    let (day, clock) = civil(microseconds);
    if let (0..=9999, Some(6)) = (day.year, digits) {
        let [y1, y2, y3, y4, m1, m2, d1, d2] = eight(three(day.year.unsigned_abs(), day.month, day.day));
        let [_, _, h1, h2, n1, n2, s1, s2] = eight(three(clock.hour.into(), clock.minute, clock.second));
        let [_, _, f1, f2, f3, f4, f5, f6] = eight(clock.microsecond);
        out.extend_from_slice(&[
            b'"', y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'.', f1, f2,
            f3, f4, f5, f6, b'Z', b'"',
        ]);
        return;
    }
    quoted(out, |out| {
        date(out, day);
        out.push(b'T');
        time(out, microseconds.rem_euclid(DAY), digits);
    });
}

/// The last two digits.
#[inline]
fn pair(number: u32) -> [u8; 2] {
    let [.., high] = (number / 10 % 10).to_be_bytes();
    let [.., low] = (number % 10).to_be_bytes();
    [b'0' | high, b'0' | low]
}

/// `2024-02-29`; the year before 1 is 0000, and one of more than four digits has a sign.
fn date(out: &mut Vec<u8>, date: Date) {
    let year = date.year.unsigned_abs();
    match date.year {
        ..0 => out.push(b'-'),
        10_000.. => out.push(b'+'),
        _ => {}
    }
    if year > 9999 {
        out.extend_from_slice(itoa::Buffer::new().format(year / 10_000).as_bytes());
    }
    let ([y1, y2], [y3, y4]) = (pair(year / 100), pair(year));
    let ([m1, m2], [d1, d2]) = (pair(date.month.into()), pair(date.day.into()));
    out.extend_from_slice(&[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2]);
}

/// `12:30:00`, with so many digits of a fraction, or as many as say it.
fn time(out: &mut Vec<u8>, microseconds: i64, digits: Option<usize>) {
    let seconds = u32::try_from(microseconds / SECOND).unwrap_or(0);
    let fraction = u32::try_from(microseconds % SECOND).unwrap_or(0);
    let ([h1, h2], [m1, m2], [s1, s2]) = (pair(seconds / 3600), pair(seconds / 60 % 60), pair(seconds % 60));
    out.extend_from_slice(&[h1, h2, b':', m1, m2, b':', s1, s2]);
    let ([f1, f2], [f3, f4], [f5, f6]) = (pair(fraction / 10_000), pair(fraction / 100), pair(fraction));
    let all = [b'.', f1, f2, f3, f4, f5, f6];
    // Never fewer than what there is.
    let said = all.iter().rposition(|digit| (b'1'..=b'9').contains(digit)).unwrap_or(0);
    let shown = said.max(digits.unwrap_or(0)).min(6);
    if shown > 0 {
        out.extend_from_slice(all.get(..=shown).unwrap_or_default());
    }
}
