//! Points in time as manifests write them. Owns [`Moment`].

use std::time::{SystemTime, UNIX_EPOCH};

use toml::value::{Date, Datetime, Offset, Time};

/// A second of universal time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(u64);

impl Moment {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_secs()))
    }

    /// So many seconds after the start of 1970.
    #[must_use]
    pub fn at(seconds: u64) -> Self {
        Self(seconds)
    }
}

impl From<Moment> for Datetime {
    fn from(Moment(seconds): Moment) -> Self {
        let (year, month, day) = civil(seconds / 86_400);
        let part = |value: u64| u8::try_from(value).unwrap_or(0);
        let time = Time {
            hour: part(seconds / 3600 % 24),
            minute: part(seconds / 60 % 60),
            second: Some(part(seconds % 60)),
            nanosecond: None,
        };
        let year = u16::try_from(year).unwrap_or(u16::MAX);
        let date = Date { year, month: part(month), day: part(day) };
        Self { date: Some(date), time: Some(time), offset: Some(Offset::Z) }
    }
}

/// Year, month and day of a number of days since the start of 1970. Years are counted from March, so that the leap day
/// is a year's last, and in cycles of 400 years, which all have the same number of days.
fn civil(days: u64) -> (u64, u64, u64) {
    const CYCLE: u64 = 146_097;
    // From 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (cycle, day) = (days / CYCLE, days % CYCLE);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + later, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Datetime::from(Moment::at(seconds)).to_string(), text);
        }
    }
}
