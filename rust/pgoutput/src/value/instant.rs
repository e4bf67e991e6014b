//! Dates, times and instants as plain numbers, from both formats: what columns of numbers are made of.
use super::calendar::Time;
use super::datetime::checked_time;
use super::datetime_text::{clock, day, day_and_time, infinity, instant, linear};
use super::{Format, Invalid, Result};

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
