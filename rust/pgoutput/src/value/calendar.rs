//! The calendar that dates and times are counted in: days and microseconds from 2000-01-01, proleptic Gregorian.
#![allow(
    clippy::arithmetic_side_effects,
    reason = "days come from 32 bits or seven digits, microseconds are divided before anything is multiplied, all in i64"
)]

/// The microseconds of a day.
pub(super) const DAY: i64 = 86_400_000_000;
/// Days from 0000-03-01, where the calendar's 400-year cycles begin, to 2000-01-01.
const EPOCH: i64 = 730_425;

/// The microseconds after 2000-01-01 from the beginning of the year 1 to that of the year 10000.
pub const YEARS_1_TO_9999: std::ops::Range<i64> = -730_119 * DAY..2_921_940 * DAY;

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
    ///
    /// Source: Neri and Schneider, "Euclidean affine functions and their application to calendar algorithms", 2023:
    /// three divisions, by numbers that make them multiplications.
    #[inline]
    pub fn from_days(days: i64) -> Self {
        /// So many cycles of 400 years later everything is positive that 32 bits of days can say.
        const CYCLES: i64 = 15_000;
        let days = u64::try_from(days + EPOCH + CYCLES * 146_097).unwrap_or(0);
        let quarters = 4 * days + 3;
        let (century, day_of_century) = (quarters / 146_097, quarters % 146_097 / 4);
        let scaled = 2_939_745 * (4 * day_of_century + 3);
        let (year_of_century, day_of_year) = (scaled >> 32, (scaled & 0xffff_ffff) / 2_939_745 / 4);
        // Months from March, so that the leap day is the last of the year.
        let scaled = 2141 * day_of_year + 197_913;
        let (month, day) = (scaled >> 16, (scaled & 0xffff) / 2141 + 1);
        let is_next = day_of_year >= 306;
        let year = i64::try_from(100 * century + year_of_century).unwrap_or(0) - CYCLES * 400 + i64::from(is_next);
        let month = if is_next { month - 12 } else { month };
        let small = |value: u64| u8::try_from(value).unwrap_or(0);
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

    pub(super) fn is_real(self) -> bool {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let length = match self.month {
            2 => 28 + u8::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        (1..=length).contains(&self.day)
    }

    pub(super) fn fits(self) -> bool {
        (1..=9999).contains(&self.year)
    }
}

impl Time {
    pub(super) fn from_microseconds(microseconds: i64) -> Self {
        let seconds = microseconds / 1_000_000;
        Self {
            hour: small(seconds / 3600),
            minute: small(seconds / 60 % 60),
            second: small(seconds % 60),
            microsecond: u32::try_from(microseconds % 1_000_000).unwrap_or(0),
        }
    }

    pub(super) fn microseconds(self) -> i64 {
        let seconds = (i64::from(self.hour) * 60 + i64::from(self.minute)) * 60 + i64::from(self.second);
        seconds * 1_000_000 + i64::from(self.microsecond)
    }
}
/// The day and time that are so many microseconds after 2000-01-01.
pub fn civil(microseconds: i64) -> (Date, Time) {
    let date = Date::from_days(microseconds.div_euclid(DAY));
    (date, Time::from_microseconds(microseconds.rem_euclid(DAY)))
}
