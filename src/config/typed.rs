//! From the tree of keys to typed values, with errors that know their key.
//!
//! A `Duration` is text with its unit, as humantime reads it: "250ms", "10s", "1h 30m", "7d".
//!
//! Serde's own messages say which Rust type was expected; these say what to write instead. A `Deserialize` of a role may
//! do likewise: an error that begins with "must " is put after the key and its value, any other stands by itself.

use std::{
    fmt,
    marker::PhantomData,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
    vec,
};

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
        value::SeqDeserializer,
    },
};
use toml::Value;

use super::{
    text,
    tree::{Node, Table, Tree},
};
use crate::{
    bus::{Guarantee, Topic},
    error::Misconfigured,
};

/// No duration is longer: a hundred years, so that the clock plus a duration is always a time.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The table `section` of `tree`, "" being the whole of it, as a `T`.
pub(super) fn read<T: DeserializeOwned>(tree: &Tree, section: &str) -> Result<T, Misconfigured> {
    let Some(table) = tree.section(section) else {
        return Err(tree.error(section, "there is no such section"));
    };
    let here = Here { key: section.to_owned(), name: section.to_owned(), place: Place::Table(table) };
    here.take(PhantomData).map_err(|Error { at, what }| {
        let (key, value) = at.unwrap_or_default();
        match what.starts_with("must ") && !value.is_empty() {
            true => tree.says(&key, format_args!("is {value}, {what}")),
            false => tree.error(&key, what),
        }
    })
}

/// Text of which "" stands for none.
pub(crate) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(deserializer)?).filter(|text| !text.is_empty()))
}

/// An address and a port, or a port alone, which is one of this machine's own; "" is none.
pub(crate) fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let port = text.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    match port.or_else(|_| text.parse()) {
        Ok(address) => Ok(Some(address)),
        Err(_) if text.is_empty() => Ok(None),
        Err(_) => Err(serde::de::Error::custom("must be a port or address:port, as in \"9464\" or \"0.0.0.0:9464\"")),
    }
}

impl<'de> Deserialize<'de> for Topic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Topic::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(remote = "Guarantee", rename_all = "kebab-case")]
pub(super) enum GuaranteeName {
    AtLeastOnce,
    ExactlyOnce,
}

/// A place in the tree that is being read.
#[derive(Clone)]
struct Here<'a> {
    /// In full, as TOML.
    key: String,
    /// Its last part, by which secrets are known.
    name: String,
    place: Place<'a>,
}

#[derive(Clone, Copy)]
enum Place<'a> {
    Table(&'a Table),
    Value(&'a Value),
}

impl<'a> Here<'a> {
    fn below(&self, name: &str, place: Place<'a>) -> Self {
        let dot = if self.key.is_empty() { "" } else { "." };
        let key = format!("{}{dot}{}", self.key, text::name_text(name));
        Self { key, name: name.to_owned(), place }
    }

    fn item(&self, index: usize, value: &'a Value) -> Self {
        Self { key: format!("{}[{index}]", self.key), name: self.name.clone(), place: Place::Value(value) }
    }

    /// What `seed` makes of this place. An error that is not from further in is put here.
    fn take<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.clone()).map_err(|error| match error.at {
            Some(_) => error,
            None => {
                let shown = match self.place {
                    Place::Table(_) => String::new(),
                    Place::Value(value) => text::shown(&self.name, value),
                };
                Error { at: Some((self.key, shown)), ..error }
            }
        })
    }

    fn duration(&self) -> Result<Duration, Error> {
        let parsed = match self.place {
            Place::Value(Value::String(text)) => humantime::parse_duration(text).ok(),
            _ => None,
        };
        match parsed {
            Some(duration) if duration <= LONGEST => Ok(duration),
            Some(_) => Err(serde::de::Error::custom("must be at most 100 years")),
            None => {
                Err(serde::de::Error::custom("must be a duration with its unit, as in \"250ms\", \"10s\" or \"7d\""))
            }
        }
    }
}

impl<'de> Deserializer<'de> for Here<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = match self.place {
            Place::Table(table) => {
                let entries = table.nodes().iter().map(|(name, node)| match node {
                    Node::Table(table) => self.below(name, Place::Table(table)),
                    Node::Leaf(leaf) => self.below(name, Place::Value(&leaf.value)),
                });
                return visitor.visit_map(Inner::new(entries));
            }
            Place::Value(value) => value,
        };
        match value {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(truth) => visitor.visit_bool(*truth),
            Value::Datetime(_) => Err(serde::de::Error::invalid_type(Unexpected::Other("date"), &visitor)),
            Value::Array(items) => {
                visitor.visit_seq(Inner::new(items.iter().enumerate().map(|(i, item)| self.item(i, item))))
            }
            Value::Table(table) => {
                visitor.visit_map(Inner::new(table.iter().map(|(name, value)| self.below(name, Place::Value(value)))))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // Serde's own form of a `Duration`: nobody would write it so.
        if name != "Duration" || fields != ["secs", "nanos"] {
            return self.deserialize_any(visitor);
        }
        let duration = self.duration()?;
        visitor.visit_seq(SeqDeserializer::new([duration.as_secs(), duration.subsec_nanos().into()].into_iter()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.place {
            Place::Value(Value::String(text)) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

/// The places in a table or a list, each an error's place for whatever fails while it is read.
struct Inner<'a> {
    rest: vec::IntoIter<Here<'a>>,
    value: Option<Here<'a>>,
}

impl<'a> Inner<'a> {
    fn new(places: impl Iterator<Item = Here<'a>>) -> Self {
        Self { rest: places.collect::<Vec<_>>().into_iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Inner<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.value = self.rest.next();
        // An error of a key is one of its name
        let read = |here: &Here<'_>| {
            seed.deserialize(here.name.as_str().into_deserializer())
                .map_err(|error: Error| Error { at: Some((here.key.clone(), String::new())), ..error })
        };
        self.value.as_ref().map(read).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        self.value.take().expect("a value follows its key").take(seed)
    }
}

impl<'de> SeqAccess<'de> for Inner<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.rest.next().map(|here| here.take(seed)).transpose()
    }
}

/// What is wrong and, once it is known, with which key and value.
#[derive(Debug)]
struct Error {
    at: Option<(String, String)>,
    what: String,
}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self { at: None, what: what.to_string() }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("must be {}", plainly(&expected.to_string())))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("must be {}", plainly(&expected.to_string())))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let likeness = |known: &&&str| strsim::normalized_damerau_levenshtein(field, known);
        let near = expected.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or(&"");
        Self::custom(format_args!("unknown key; did you mean `{near}`?"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("must be {}", either(expected)))
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What serde expects, in words that do not need Rust.
fn plainly(expected: &str) -> String {
    match expected {
        "a boolean" => "true or false".into(),
        "i8" | "i16" | "i32" | "i64" | "isize" | "i128" => "an integer".into(),
        "u8" => "an integer from 0 to 255".into(),
        "u16" => "an integer from 0 to 65535".into(),
        "u32" | "u64" | "usize" | "u128" => "an integer, 0 or more".into(),
        "f32" | "f64" => "a number".into(),
        "a sequence" => "a list".into(),
        "a map" => "a table".into(),
        other => other.strip_prefix("struct ").map_or_else(|| other.to_owned(), |_| "a table".into()),
    }
}

/// `"a", "b" or "c"`.
fn either(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
