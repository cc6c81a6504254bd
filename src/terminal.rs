//! What commands print for people.

use comfy_table::{CellAlignment, Table};

/// Text for a terminal. Keys, reasons and fields are others' to write: nothing in them is to move its cursor.
pub(crate) fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
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
