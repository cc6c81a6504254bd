//! Which messages a subscriber wants: a filter over the JSON of a message, which it knows as `data`.
//!
//! There are two languages. [`Filter::cel`] takes [CEL](https://cel.dev), as rules do. [`Filter::python`] takes the Python
//! expressions that are stored in the table of [switch](https://github.com/Kareem-Emad/switch), whose consumer gave them
//! to `eval`: here they are parsed, never run, and give what Python 3 would have given. What is not understood is refused
//! with its place.
//!
//! A filter that fails over a message does not want it. In Python that is the whole filter, wherever in it something is
//! raised; in CEL `||` and `&&` absorb a failure where the other side decides. An empty filter wants everything.
//!
//! ```
//! use metrobus::filter::{Data, Filter};
//!
//! let data = Data::parse(r#"{"body":{"amount":120,"tags":["new"]}}"#)?;
//! assert!(Filter::cel("data.body.amount > 100")?.matches(&data));
//! assert!(Filter::python("data['body'].get('amount', 0) > 100 and 'new' in data['body']['tags']")?.matches(&data));
//! assert!(!Filter::python("data['headers']['x'] == 1 or True")?.matches(&data));
//! assert_eq!(
//!     Filter::python("len(data) > 1").unwrap_err().to_string(),
//!     "unknown name `len`; data is at hand (line 1, column 1)"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A message is parsed once for all filters that are asked about it, and no filter can hold it up: the length of a filter,
//! its nesting and its work are bounded as those of a rule.

mod python;
#[cfg(test)]
mod tests;

use std::{fmt, sync::OnceLock};

use serde_json::value::RawValue;

use crate::{
    json::Object,
    payload::Payload,
    rules::{Condition, Fault, Wrong},
};

/// A compiled filter.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Always,
    Cel(Box<Condition>),
    Python(python::Expression),
}

/// Why a text is no filter: what is wrong with it, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotAFilter {
    pub what: String,
    /// Line and column, in characters, both from 1; `None` where it is the whole text.
    pub place: Option<(usize, usize)>,
}

/// As in ``unknown name `len`; data is at hand (line 1, column 1)``.
impl fmt::Display for NotAFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.place {
            Some((line, column)) => write!(f, " (line {line}, column {column})"),
            None => Ok(()),
        }
    }
}

impl From<Wrong> for NotAFilter {
    fn from(Wrong { what, place }: Wrong) -> Self {
        Self { what, place }
    }
}

/// Why a filter gives nothing for a message, as in ``no such key``.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed<'a>(Fault<'a>);

impl fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failed<'_> {}

impl Filter {
    /// Takes a condition in CEL; at most 4096 bytes.
    pub fn cel(text: &str) -> Result<Self, NotAFilter> {
        match text.trim_ascii() {
            "" => Ok(Self::always(text)),
            _ => Ok(Self { text: text.to_owned(), test: Test::Cel(Box::new(Condition::new(text)?)) }),
        }
    }

    /// Takes an expression in the part of Python that `src/filter/python.rs` gives the grammar of; at most 4096 bytes. White space
    /// alone is none: switch, which takes nothing for everything, gave that to Python, which refuses it.
    pub fn python(text: &str) -> Result<Self, NotAFilter> {
        match text {
            "" => Ok(Self::always(text)),
            _ => Ok(Self { text: text.to_owned(), test: Test::Python(python::Expression::new(text)?) }),
        }
    }

    fn always(text: &str) -> Self {
        Self { text: text.to_owned(), test: Test::Always }
    }

    /// The filter as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// `"cel"` or `"python"`; `None` where it is empty.
    pub fn language(&self) -> Option<&'static str> {
        match self.test {
            Test::Always => None,
            Test::Cel(_) => Some("cel"),
            Test::Python(_) => Some("python"),
        }
    }

    /// Whether the subscriber wants the message. A filter that fails does not.
    pub fn matches(&self, data: &Data<'_>) -> bool {
        self.judge(data).unwrap_or(false)
    }

    /// [`Filter::matches`], with the reason where it fails.
    pub fn judge<'a>(&'a self, data: &'a Data<'_>) -> Result<bool, Failed<'a>> {
        match &self.test {
            Test::Always => Ok(true),
            Test::Cel(condition) => match data.object.if_object() {
                Some(object) => condition.holds(object),
                None => Err(Fault::Other("the data is no object")),
            },
            Test::Python(expression) => {
                data.python().and_then(|value| expression.holds(value, data.object.raw().len()))
            }
        }
        .map_err(Failed)
    }
}

/// The JSON of a message, for any number of filters, on any threads.
#[derive(Debug)]
pub struct Data<'a> {
    object: Object<'a>,
    /// As Python has it, once a filter asks.
    python: OnceLock<Result<python::Value, Fault<'static>>>,
}

impl<'a> Data<'a> {
    /// Takes one JSON value of any kind. Fails where the text is none.
    pub fn parse(json: &'a str) -> serde_json::Result<Self> {
        Ok(Self::of(Object::new(serde_json::from_str::<&RawValue>(json)?.get())))
    }

    /// Takes the payload of a message as it arrived, without what was set since.
    pub fn payload(payload: &Payload<'a>) -> Self {
        Self::of(payload.object())
    }

    fn of(object: Object<'a>) -> Self {
        Self { object, python: OnceLock::new() }
    }

    fn python(&self) -> Result<&python::Value, Fault<'static>> {
        let value = self.python.get_or_init(|| python::Value::json(self.object.raw()));
        value.as_ref().map_err(Clone::clone)
    }
}
