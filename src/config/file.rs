//! The middle layer: a TOML file, each value with its line.

use std::{ops::Range, path::Path};

use toml::{
    Spanned, Value,
    de::{DeTable, DeValue},
};

use super::{
    nearest, text,
    tree::{Key, Leaf, Node, Origin, Part, Table, Tree, fit, in_order, plain},
};
use crate::error::Misconfigured;

/// Lays the TOML `text` of the file `path` over what `tree` holds.
pub(super) fn lay(tree: &mut Tree, path: &Path, text: &str) -> Result<(), Misconfigured> {
    let lines = Lines::new(text);
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = lines.place(text, error.span().map_or(text.len(), |span| span.start));
        let path = text::escaped(&path.display().to_string());
        Misconfigured(format!("{path}:{line}:{column}: {}", text::escaped(error.message())))
    })?;
    let file = File { path, text, lines, keys: tree.keys() };
    file.lay(tree.root_mut(), table.into_inner(), &mut Vec::new())
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
    lines: Lines,
    keys: Vec<Key>,
}

impl File<'_> {
    /// Lays `from` over `table`, which is at `path`.
    fn lay(&self, table: &mut Table, from: DeTable<'_>, path: &mut Vec<String>) -> Result<(), Misconfigured> {
        if table.is_free() {
            return self.lay_free(table, from, path, "");
        }
        for (name, value) in in_order(from) {
            let origin = self.origin(&name.span());
            let name = name.into_inner().into_owned();
            path.push(name.clone());
            let wrong = |what| Misconfigured(format!("{origin}: {} {what}", text::dotted(path)));
            match table.node_mut(|found| found == name) {
                Some((_, Node::Leaf(leaf))) => {
                    let mut parts = Vec::new();
                    if let DeValue::Array(items) = value.get_ref() {
                        self.parts(items, &mut parts);
                    }
                    let value = plain(value).and_then(|value| fit(value, &leaf.value, &name)).map_err(wrong)?;
                    *leaf = Leaf { value, origin, parts };
                }
                Some((_, Node::Table(below))) => match value.into_inner() {
                    DeValue::Table(from) => self.lay(below, from, path)?,
                    value => {
                        let value = plain(Spanned::new(0..0, value)).map_err(wrong)?;
                        return Err(wrong(format!("is {}, must be a table", text::shown(&name, &value))));
                    }
                },
                None => {
                    let (key, near) = (text::dotted(path), nearest::key(path, &self.keys));
                    return Err(Misconfigured(format!("{origin}: unknown key `{key}`; did you mean `{near}`?")));
                }
            }
            path.pop();
        }
        Ok(())
    }

    /// Lays `from` over the free table at `path`; what is in it has names that begin with `prefix`.
    fn lay_free(
        &self,
        table: &mut Table,
        from: DeTable<'_>,
        path: &[String],
        prefix: &str,
    ) -> Result<(), Misconfigured> {
        for (name, value) in in_order(from) {
            let origin = self.origin(&name.span());
            let name = format!("{prefix}{}", name.into_inner());
            let wrong = |what: String| {
                Misconfigured(format!("{origin}: {}.{} {what}", text::dotted(path), text::name_text(&name)))
            };
            let value = match value.into_inner() {
                DeValue::Table(from) => {
                    self.lay_free(table, from, path, &format!("{name}."))?;
                    continue;
                }
                value => plain(Spanned::new(0..0, value)).map_err(wrong)?,
            };
            if let Some(Origin::File(_, line)) = table.leaf(&name).map(|leaf| &leaf.origin) {
                return Err(wrong(format!("is set twice, first in line {line}")));
            }
            let text = match value {
                Value::String(text) => text,
                Value::Integer(_) | Value::Boolean(_) => value.to_string(),
                other => {
                    let shown = text::shown(&name, &other);
                    return Err(wrong(format!("is {shown}, must be a string, an integer, true or false")));
                }
            };
            table.set(name, Leaf::new(text.into(), origin));
        }
        Ok(())
    }

    /// Where the keys of the tables in a list are.
    fn parts(&self, items: &[Spanned<DeValue<'_>>], parts: &mut Vec<Part>) {
        for (index, item) in items.iter().enumerate() {
            if let DeValue::Table(table) = item.get_ref() {
                let path = format!("[{index}]");
                parts.push(self.part(path.clone(), &item.span(), &item.span()));
                self.parts_of(table, &path, parts);
            }
        }
    }

    fn parts_of(&self, table: &DeTable<'_>, path: &str, parts: &mut Vec<Part>) {
        for (name, value) in table {
            let path = format!("{path}.{}", text::name_text(name.get_ref()));
            parts.push(self.part(path.clone(), &name.span(), &value.span()));
            if let DeValue::Table(below) = value.get_ref() {
                self.parts_of(below, &path, parts);
            }
        }
    }

    fn part(&self, path: String, key: &Range<usize>, value: &Range<usize>) -> Part {
        let written = self.text.get(value.clone()).unwrap_or_default();
        let quotes = ["'''", "\"\"\""].iter().find_map(|quotes| written.strip_prefix(quotes));
        // A line break behind the quotes is no part of the text
        let skipped = usize::from(quotes.is_some_and(|text| text.starts_with(['\n', '\r'])));
        Part { path, origin: self.origin(key), text: self.lines.line(value.start) + skipped }
    }

    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin::File(self.path.to_owned(), self.lines.line(span.start))
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The line of the byte `at`, from 1.
    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at)
    }

    /// The line and the column, in characters, both from 1.
    fn place(&self, text: &str, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let column = text.get(self.0[line - 1]..at).map_or(1, |before| before.chars().count() + 1);
        (line, column)
    }
}
