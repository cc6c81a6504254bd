//! What commands print for people.

use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{CellAlignment, Table};

/// Text for a terminal. Keys, reasons and fields are others' to write: nothing in them is to move its cursor.
pub(crate) fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// A time in milliseconds since the epoch in UTC, as RFC 3339 has it; `-` where it is before that, or beyond the year 9999.
pub(crate) fn moment(time: i64) -> String {
    let since = u64::try_from(time).ok().filter(|time| *time < 253_402_300_800_000);
    let moment = since.and_then(|since| UNIX_EPOCH.checked_add(Duration::from_millis(since)));
    moment.map_or_else(|| "-".to_owned(), |moment| humantime::format_rfc3339_millis(moment).to_string())
}

/// A table as text, with the columns `right` aligned there.
pub(crate) fn drawn(mut table: Table, right: impl IntoIterator<Item = usize>) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let group = |(index, digit): (usize, char)| {
        let separate = index > 0 && (digits.len() - index).is_multiple_of(3);
        [separate.then_some(','), Some(digit)].into_iter().flatten()
    };
    digits.chars().enumerate().flat_map(group).collect()
}

/// A time in its two largest units at most.
pub(crate) fn span(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        1_000_000..60_000_000 => format!("{:.1} s", micros as f64 / 1e6),
        _ => humantime::format_duration(Duration::from_secs(micros / 1_000_000)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_told_apart() {
        let all = [0, 12, 999, 1000, 123_456, 1_234_567].map(thousands);
        assert_eq!(all, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
    }

    #[test]
    fn spans_are_told_in_fitting_units() {
        let all = [0, 999, 1000, 999_949, 1_000_000, 59_900_000, 60_000_000, 93_784_000_000].map(span);
        assert_eq!(all, ["0 µs", "999 µs", "1.0 ms", "999.9 ms", "1.0 s", "59.9 s", "1m", "1day 2h 3m 4s"]);
    }
}
