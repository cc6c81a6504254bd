//! The uppermost layer: variables like `METROBUS__KAFKA__BROKERS`.
//!
//! A name is `METROBUS`, then the names of the key in upper case, `__` between them. In a free table the rest of the
//! name is lower case and `_` a dot: `METROBUS__KAFKA__PROPERTIES__SASL_PASSWORD` is `sasl.password`. Other variables,
//! such as `METROBUS_CONFIG`, are passed over.
//!
//! Below them lie three variables by the names that switch gave them, so that who comes from there has nothing to rewrite. As there,
//! one that is empty says nothing.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use toml::{Value, de::DeValue};

use super::{
    nearest, text,
    tree::{Leaf, Node, Origin, Table, Tree, fit, plain},
};
use crate::error::Misconfigured;

const PREFIX: &str = "METROBUS__";

/// Variables of switch, and the keys that they set, as behind the prefix.
const OF_SWITCH: [(&str, &str); 3] = [
    ("SWITCH_DB_NAME", "DELIVER__SUBSCRIBERS"),
    ("SWITCH_JWT_SECRET", "GATEWAY__SWITCH__SECRET"),
    ("SWITCH_SERVER_PORT", "GATEWAY__LISTEN"),
];

/// The variable that sets the key `path`.
pub(super) fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_uppercase())
}

/// Whether a variable of that name is for the configuration.
pub(super) fn is_ours(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) || of_switch(name).is_some()
}

/// The key that a variable of switch sets.
fn of_switch(name: &OsStr) -> Option<&'static str> {
    OF_SWITCH.iter().find(|(known, _)| name == *known).map(|(_, key)| *key)
}

/// Lays `variables` over what `tree` holds.
pub(super) fn lay(tree: &mut Tree, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<(), Misconfigured> {
    // In order of their names, so that of several errors it is always the same that is reported.
    let variables: BTreeMap<_, _> = variables.collect();
    let below = variables.iter().filter(|(_, value)| !value.is_empty());
    let below = below.filter_map(|(name, value)| Some((name, of_switch(name)?.to_owned(), value)));
    let own = variables.iter().filter_map(|(name, value)| {
        let key = name.to_string_lossy().strip_prefix(PREFIX)?.to_owned();
        Some((name, key, value))
    });
    for (name, key, value) in below.chain(own) {
        let name = name.to_string_lossy();
        let wrong = |what: String| Misconfigured(format!("{}: {what}", text::escaped(&name)));
        let value = value.to_str().ok_or_else(|| wrong("the value is not UTF-8".into()))?;
        set(tree, &key, value, Origin::Environment(name.to_string())).map_err(wrong)?;
    }
    Ok(())
}

/// Sets `key`, the variable's name after the prefix. Fails with what is wrong.
fn set(tree: &mut Tree, key: &str, value: &str, origin: Origin) -> Result<(), String> {
    let names: Vec<&str> = key.split("__").collect();
    let unknown = match find(tree.root_mut(), &names, Vec::new()) {
        Found::Leaf(path, leaf) => {
            let name = path.last().map_or("", |name| name);
            let value = fit(from_text(value, &leaf.value), &leaf.value, name)
                .map_err(|what| format!("{} {what}", text::dotted(&path)))?;
            *leaf = Leaf::new(value, origin);
            return Ok(());
        }
        Found::Free(table, name) => {
            table.set(name.to_lowercase().replace('_', "."), Leaf::new(value.into(), origin));
            return Ok(());
        }
        Found::Table(path) => {
            let below = tree.keys().into_iter().find(|key| key.path.len() > path.len() && key.path.starts_with(&path));
            let example = below.map_or_else(|| [&path[..], &["security_protocol".into()]].concat(), |key| key.path);
            let (key, example) = (text::dotted(&path), variable(&example));
            return Err(format!("{key} is a table; set one of its keys, as in {example}"));
        }
        Found::Nothing => names.iter().map(|name| name.to_lowercase()).collect::<Vec<_>>(),
    };
    let near = nearest::variable(&unknown, &tree.keys());
    Err(format!("unknown key `{}`; did you mean {near}?", text::dotted(&unknown)))
}

/// What the names of a variable lead to.
enum Found<'a> {
    Leaf(Vec<String>, &'a mut Leaf),
    /// A free table and a name in it.
    Free(&'a mut Table, &'a str),
    Table(Vec<String>),
    Nothing,
}

fn find<'a>(table: &'a mut Table, names: &'a [&str], mut path: Vec<String>) -> Found<'a> {
    let Some((name, rest)) = names.split_first() else {
        return Found::Table(path);
    };
    if table.is_free() {
        let legal = rest.is_empty() && !name.is_empty() && !name.contains(char::REPLACEMENT_CHARACTER);
        return if legal { Found::Free(table, name) } else { Found::Nothing };
    }
    let Some((found, node)) = table.node_mut(|found| found.to_uppercase() == **name) else {
        return Found::Nothing;
    };
    path.push(found.to_owned());
    match node {
        Node::Table(table) => find(table, rest, path),
        Node::Leaf(leaf) if rest.is_empty() => Found::Leaf(path, leaf),
        Node::Leaf(_) => Found::Nothing,
    }
}

/// The value of a variable: a string as it is, other types as TOML, lists also with commas. What does not parse stays
/// text, for [`fit`] to complain of.
fn from_text(text: &str, default: &Value) -> Value {
    let trimmed = text.trim();
    match default {
        Value::String(_) => text.into(),
        Value::Array(_) if trimmed.is_empty() => Value::Array(Vec::new()),
        Value::Array(_) if !trimmed.starts_with('[') => {
            Value::Array(trimmed.split(',').map(|item| item.trim().into()).collect())
        }
        _ => DeValue::parse(trimmed).ok().and_then(|value| plain(value).ok()).unwrap_or_else(|| text.into()),
    }
}
