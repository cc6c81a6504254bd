//! Points in time and spans of it, as text: RFC 3339, and numbers with units as in Go.

/// Nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i128);

/// Nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub i128);

const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 86_400 * SECOND;

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999999Z, the range that CEL gives to timestamps.
const RANGE: (i128, i128) = (-62_135_596_800 * SECOND, 253_402_300_800 * SECOND - 1);

/// A span is no longer than that, either way: the whole of the range above.
const LONGEST: i128 = RANGE.1 - RANGE.0;

/// The parts of a timestamp in UTC, as people count them.
pub struct Parts {
    pub year: i64,
    /// From 1.
    pub month: i64,
    /// From 1.
    pub day: i64,
    /// From 0.
    pub day_of_year: i64,
    /// From 0, a Sunday.
    pub weekday: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
    pub nanosecond: i64,
}

impl Timestamp {
    /// `None` out of the years 1 to 9999.
    pub fn new(nanoseconds: i128) -> Option<Self> {
        (RANGE.0..=RANGE.1).contains(&nanoseconds).then_some(Self(nanoseconds))
    }

    pub fn from_ms(milliseconds: i64) -> Option<Self> {
        Self::new(i128::from(milliseconds) * 1_000_000)
    }

    /// Reads `2026-01-31T12:00:00.5Z` or with an offset, `+01:00`.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<i64> {
            let digits = bytes.get(from..to)?;
            let value = |sum, digit: &u8| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0'));
            digits.iter().try_fold(0, value)
        };
        let is = |at: usize, byte: u8| bytes.get(at).is_some_and(|found| found.eq_ignore_ascii_case(&byte));
        if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let legal = (1..=12).contains(&month) && (1..=days_of(year, month)).contains(&day);
        if !legal || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (mut at, mut fraction) = (19, 0);
        if is(at, b'.') {
            let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return None;
            }
            fraction = number(at + 1, at + 1 + digits)? * 10_i64.pow(9 - digits as u32);
            at += 1 + digits;
        }
        let offset = if is(at, b'Z') && bytes.len() == at + 1 {
            0
        } else {
            let sign = if is(at, b'+') { 1 } else { -1 };
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if !(is(at, b'+') || is(at, b'-'))
                || !is(at + 3, b':')
                || bytes.len() != at + 6
                || hours > 23
                || minutes > 59
            {
                return None;
            }
            sign * (hours * 60 + minutes) * 60
        };
        let seconds = days_before(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        Self::new(i128::from(seconds) * SECOND + i128::from(fraction))
    }

    pub fn parts(self) -> Parts {
        let (days, rest) = (self.0.div_euclid(DAY) as i64, self.0.rem_euclid(DAY));
        let seconds = (rest / SECOND) as i64;
        let (year, month, day) = date_of(days);
        Parts {
            year,
            month,
            day,
            day_of_year: days - days_before(year, 1, 1),
            // 1970-01-01 was a Thursday
            weekday: (days + 4).rem_euclid(7),
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            nanosecond: (rest % SECOND) as i64,
        }
    }

    pub fn plus(self, span: Span) -> Option<Self> {
        Self::new(self.0 + span.0)
    }

    pub fn minus(self, span: Span) -> Option<Self> {
        Self::new(self.0 - span.0)
    }

    pub fn since(self, other: Self) -> Span {
        Span(self.0 - other.0)
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Parts { year, month, day, hour, minute, second, nanosecond, .. } = self.parts();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{}Z", Fraction(nanosecond))
    }
}

impl Span {
    pub fn new(nanoseconds: i128) -> Option<Self> {
        (nanoseconds.abs() <= LONGEST).then_some(Self(nanoseconds))
    }

    /// Reads `90s`, `1h30m`, `-1.5s`, `250ms`: units h, m, s, ms, us, ns.
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Some(Self(0));
        }
        let (mut sum, mut any) = (0_i128, false);
        while !rest.is_empty() {
            let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, unit) = rest.split_at(split);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if whole.len() > 18 || fraction.len() > 18 || (whole.is_empty() && fraction.is_empty()) {
                return None;
            }
            let (length, nanoseconds) =
                [("ns", 1), ("us", 1000), ("µs", 1000), ("ms", 1_000_000), ("h", 3600 * SECOND)]
                    .into_iter()
                    .chain([("m", 60 * SECOND), ("s", SECOND)])
                    .find_map(|(name, size)| unit.starts_with(name).then_some((name.len(), size)))?;
            let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
            sum += digits(whole)? * nanoseconds;
            sum += digits(fraction)? * nanoseconds / 10_i128.pow(fraction.len() as u32);
            (rest, any) = (&unit[length..], true);
        }
        any.then_some(sign * sum).and_then(Self::new)
    }

    pub fn plus(self, other: Self) -> Option<Self> {
        Self::new(self.0 + other.0)
    }

    pub fn minus(self, other: Self) -> Option<Self> {
        Self::new(self.0 - other.0)
    }

    pub fn milliseconds(self) -> i64 {
        (self.0 / 1_000_000) as i64
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, size) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        let second = SECOND.unsigned_abs();
        write!(f, "{sign}{}{}s", size / second, Fraction((size % second) as i64))
    }
}

/// Nanoseconds as the digits behind a point, without zeros at their end.
struct Fraction(i64);

impl std::fmt::Display for Fraction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == 0 {
            return Ok(());
        }
        write!(f, ".{}", format!("{:09}", self.0).trim_end_matches('0'))
    }
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let of_years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    of_years + (1..month).map(|month| days_of(year, month)).sum::<i64>() + day - 1
}

/// Year, month and day of a number of days from 1970-01-01.
fn date_of(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + (days as f64 / 365.2425).floor() as i64;
    while days < days_before(year, 1, 1) {
        year -= 1;
    }
    while days >= days_before(year + 1, 1, 1) {
        year += 1;
    }
    let (mut month, mut left) = (1, days - days_before(year, 1, 1));
    while left >= days_of(year, month) {
        left -= days_of(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timestamps_are_rfc_3339() {
        for (text, seconds, shown) in [
            ("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00Z"),
            ("2000-02-29T12:30:15Z", 951_827_415, "2000-02-29T12:30:15Z"),
            ("2026-01-31T00:00:00+01:30", 1_769_812_200, "2026-01-30T22:30:00Z"),
            ("1969-12-31t23:59:59z", -1, "1969-12-31T23:59:59Z"),
            ("0001-01-01T00:00:00Z", -62_135_596_800, "0001-01-01T00:00:00Z"),
        ] {
            let parsed = Timestamp::parse(text).expect(text);
            assert_eq!((parsed.0, parsed.to_string().as_str()), (seconds * SECOND, shown));
        }
        assert_eq!(Timestamp::parse("2026-01-01T00:00:00.25Z").unwrap().to_string(), "2026-01-01T00:00:00.25Z");
        for text in [
            "",
            "2026",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1:00",
            "2026-01-01T00:00:00Z ",
            "0000-01-01T00:00:00Z",
            "9999-12-31T23:59:59-01:00",
            "é026-01-01T00:00:00Z",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn spans_have_units() {
        for (text, nanoseconds, shown) in [
            ("90s", 90 * SECOND, "90s"),
            ("1h30m", 5400 * SECOND, "5400s"),
            ("-1.5s", -SECOND * 3 / 2, "-1.5s"),
            ("250ms", SECOND / 4, "0.25s"),
            ("0", 0, "0s"),
        ] {
            let parsed = Span::parse(text).expect(text);
            assert_eq!((parsed.0, parsed.to_string().as_str()), (nanoseconds, shown));
        }
        for text in ["", "s", "1", "1x", "1.s.", "-", "1h-1m", "99999999999999999h", "1 s"] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nanoseconds in RANGE.0..=RANGE.1, span in -LONGEST..=LONGEST) {
            let (timestamp, span) = (Timestamp(nanoseconds), Span(span));
            prop_assert_eq!(Timestamp::parse(&timestamp.to_string()), Some(timestamp));
            prop_assert_eq!(Span::parse(&span.to_string()), Some(span));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9TZ:.hmsnµé]{0,30}") {
            let _ = (Timestamp::parse(&text), Span::parse(&text));
        }
    }
}
