//! All keys in one tree, each value with where it came from.
//!
//! The tree starts as the defaults, which say what keys there are and of which type. A layer above only replaces
//! values. A table that is empty in the defaults is free: it takes any key, and tables in it become keys with dots.

use std::{fmt, fmt::Display, path::PathBuf};

use serde::Deserialize;
use toml::{
    Spanned, Value,
    de::{DeString, DeTable, DeValue, ValueDeserializer},
};

use super::text;
use crate::error::Misconfigured;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing else was said.
    Default,
    /// A TOML file and the line in it, from 1.
    File(PathBuf, usize),
    /// A variable of the environment, by its name.
    Environment(String),
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", text::escaped(&path.display().to_string())),
            Self::Environment(name) => f.write_str(&text::escaped(name)),
        }
    }
}

/// A value and where it came from.
#[derive(Clone)]
pub(super) struct Leaf {
    pub value: Value,
    pub origin: Origin,
    /// Of a list of tables, where its parts came from.
    pub parts: Vec<Part>,
}

impl Leaf {
    pub fn new(value: Value, origin: Origin) -> Self {
        Self { value, origin, parts: Vec::new() }
    }
}

/// A part of a value in a file.
#[derive(Clone)]
pub(super) struct Part {
    /// How it goes on behind the key, as `[1].when` does.
    pub path: String,
    pub origin: Origin,
    /// Of text, the line in which it begins, which in TOML may be the one after its quotes.
    pub text: usize,
}

#[derive(Clone)]
pub(super) enum Node {
    Table(Table),
    Leaf(Leaf),
}

/// Nodes by name, in the order of the defaults.
#[derive(Clone, Default)]
pub(super) struct Table {
    nodes: Vec<(String, Node)>,
    free: bool,
}

impl Table {
    fn new(defaults: DeTable<'_>) -> Self {
        let node = |value| match value {
            DeValue::Table(table) => Node::Table(Self::new(table)),
            value => {
                let value = plain(Spanned::new(0..0, value)).expect("a default is a value");
                Node::Leaf(Leaf::new(value, Origin::Default))
            }
        };
        let nodes: Vec<_> = in_order(defaults)
            .into_iter()
            .map(|(name, value)| (name.into_inner().into_owned(), node(value.into_inner())))
            .collect();
        Self { free: nodes.is_empty(), nodes }
    }

    pub fn nodes(&self) -> &[(String, Node)] {
        &self.nodes
    }

    /// Whether it takes any key.
    pub fn is_free(&self) -> bool {
        self.free
    }

    pub fn leaf(&self, name: &str) -> Option<&Leaf> {
        self.nodes.iter().find_map(|(found, node)| match node {
            Node::Leaf(leaf) if found == name => Some(leaf),
            _ => None,
        })
    }

    /// The first node whose name `is` the one, and that name.
    pub fn node_mut(&mut self, is: impl Fn(&str) -> bool) -> Option<(&str, &mut Node)> {
        self.nodes.iter_mut().find(|(name, _)| is(name)).map(|(name, node)| (name.as_str(), node))
    }

    /// Sets a key of a free table.
    pub fn set(&mut self, name: String, leaf: Leaf) {
        match self.nodes.iter_mut().find(|(found, _)| *found == name) {
            Some((_, node)) => *node = Node::Leaf(leaf),
            None => self.nodes.push((name, Node::Leaf(leaf))),
        }
    }
}

/// A key that the defaults know.
pub(super) struct Key {
    pub path: Vec<String>,
    pub table: bool,
    pub free: bool,
}

/// All keys and their values.
#[derive(Clone, Default)]
pub(super) struct Tree {
    root: Table,
}

impl Tree {
    /// The lowest layer. Panics where `text` is no TOML: it is part of the program.
    pub fn new(defaults: &str) -> Self {
        Self { root: Table::new(DeTable::parse(defaults).expect("the defaults are TOML").into_inner()) }
    }

    pub fn root_mut(&mut self) -> &mut Table {
        &mut self.root
    }

    /// The section `name`, "" being the whole.
    pub fn section(&self, name: &str) -> Option<&Table> {
        if name.is_empty() {
            return Some(&self.root);
        }
        self.sections().find(|(found, _)| *found == name).map(|(_, table)| table)
    }

    pub fn sections(&self) -> impl Iterator<Item = (&str, &Table)> {
        self.root.nodes.iter().filter_map(|(name, node)| match node {
            Node::Table(table) => Some((name.as_str(), table)),
            Node::Leaf(_) => None,
        })
    }

    /// Every value with its path, in the order of the defaults.
    pub fn leaves(&self) -> Vec<(Vec<&str>, &Leaf)> {
        let leaves = self.walk().into_iter().filter_map(|(path, node)| match node {
            Node::Leaf(leaf) => Some((path, leaf)),
            Node::Table(_) => None,
        });
        leaves.collect()
    }

    /// Sections that have a table `name` as there is one at the top: what nobody has set in theirs is as it is there,
    /// and from where it is from there.
    pub fn inherit(&mut self, name: &str) {
        let Some(common) = self.section(name).cloned() else { return };
        for (_, node) in &mut self.root.nodes {
            let Node::Table(section) = node else { continue };
            let Some((_, Node::Table(own))) = section.node_mut(|found| found == name) else { continue };
            for (key, node) in &mut own.nodes {
                if let (Node::Leaf(leaf), Some(of_all)) = (node, common.leaf(key))
                    && leaf.origin == Origin::Default
                {
                    leaf.clone_from(of_all);
                }
            }
        }
    }

    /// What may be written in a layer above, but for the keys in free tables.
    pub fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<Key> = Vec::new();
        for (path, node) in self.walk() {
            let path: Vec<String> = path.into_iter().map(str::to_owned).collect();
            if !keys.iter().any(|key| key.free && path.starts_with(&key.path)) {
                let free = matches!(node, Node::Table(table) if table.free);
                keys.push(Key { path, table: matches!(node, Node::Table(_)), free });
            }
        }
        keys
    }

    fn walk(&self) -> Vec<(Vec<&str>, &Node)> {
        fn walk<'a>(table: &'a Table, path: &[&'a str], out: &mut Vec<(Vec<&'a str>, &'a Node)>) {
            for (name, node) in &table.nodes {
                let path = [path, &[name]].concat();
                out.push((path.clone(), node));
                if let Node::Table(table) = node {
                    walk(table, &path, out);
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.root, &[], &mut out);
        out
    }

    /// The value of `key`, written as in TOML.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.leaves().into_iter().find(|(path, _)| text::dotted(path) == key).map(|(_, leaf)| &leaf.value)
    }

    /// Where the value of `key` came from; `key` may also be a part of the value, as `route[1]` is.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        let (leaf, part) = self.place(key)?;
        Some(part.map_or(&leaf.origin, |part| &part.origin))
    }

    /// The line of the file in which the text begins that is the value of `key`.
    pub fn text_line(&self, key: &str) -> Option<usize> {
        let (_, part) = self.place(key)?;
        part.map(|part| part.text)
    }

    /// The leaf that holds `key`, and the least part of it that does.
    fn place(&self, key: &str) -> Option<(&Leaf, Option<&Part>)> {
        let is_part = |rest: &str| rest.is_empty() || rest.starts_with(['[', '.']);
        self.leaves().into_iter().find_map(|(path, leaf)| {
            let rest = key.strip_prefix(&text::dotted(&path)).filter(|rest| is_part(rest))?;
            let holding = leaf.parts.iter().filter(|part| rest.strip_prefix(&part.path).is_some_and(is_part));
            Some((leaf, holding.max_by_key(|part| part.path.len())))
        })
    }

    /// The error that is a sentence with `key` as its subject.
    pub fn says(&self, key: &str, predicate: impl Display) -> Misconfigured {
        Misconfigured(match self.origin(key) {
            Some(Origin::Default) => format!("default of {key} {predicate}"),
            Some(origin) => format!("{origin}: {key} {predicate}"),
            None => format!("{key} {predicate}"),
        })
    }

    /// The error `message` about the value of `key`.
    pub fn error(&self, key: &str, message: impl Display) -> Misconfigured {
        Misconfigured(match self.origin(key) {
            Some(Origin::Default) => format!("default of {key}: {message}"),
            Some(origin @ Origin::Environment(_)) => format!("{origin}: {message}"),
            Some(origin) => format!("{origin}: {key}: {message}"),
            None => format!("{key}: {message}"),
        })
    }
}

/// The entries of `table` as they follow each other in the text.
pub(super) fn in_order<'i>(table: DeTable<'i>) -> Vec<(Spanned<DeString<'i>>, Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// `value` without its place in the text. Fails, with a predicate, for a number that is too large.
pub(super) fn plain(value: Spanned<DeValue<'_>>) -> Result<Value, String> {
    Value::deserialize(ValueDeserializer::from(value)).map_err(|_| "is too large a number".into())
}

/// `value` if it is of the type of `default`, else a predicate that says what the key `name` must be.
pub(super) fn fit(value: Value, default: &Value, name: &str) -> Result<Value, String> {
    if default.same_type(&value) {
        return Ok(value);
    }
    if let (Value::Float(_), Value::Integer(whole)) = (default, &value) {
        return Ok(Value::Float(*whole as f64));
    }
    let expected = match default {
        Value::String(example) if humantime::parse_duration(example).is_ok() => {
            &format!("a duration with its unit, as in \"{example}\"")
        }
        Value::String(_) => "a string",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    };
    Err(format!("is {}, must be {expected}", text::shown(name, &value)))
}
