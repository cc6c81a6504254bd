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
