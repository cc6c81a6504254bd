//! What an expression gives while it is evaluated.

use std::{cmp::Ordering, fmt, rc::Rc};

use hashbrown::HashSet;
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::value::RawValue;

use super::{
    node::Constant,
    time::{Span, Timestamp},
};
use crate::{
    bus::Headers,
    json::{elements, fields, text},
};

/// Deepest nesting of lists and maps that are compared or written.
const DEEPEST: usize = 64;

/// A value. What lies in the payload stays the JSON text that it is until somebody asks for a part of it.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A whole number beyond the range of `Int`, or one that was written `1u`.
    Uint(u64),
    Double(f64),
    Text(Text<'a>),
    Bytes(&'a [u8]),
    Time(Timestamp),
    Span(Span),
    List(Rc<Vec<Value<'a>>>),
    /// Keys in the order in which they were written.
    Map(Rc<Vec<(Value<'a>, Value<'a>)>>),
    JsonList(&'a str),
    JsonMap(&'a str),
    Headers(Headers<'a>),
}

#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Owned(Rc<str>),
}

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }
}

/// Why an expression gives nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault<'a> {
    /// A field, by its name in the expression.
    NoField(&'a str),
    NoKey,
    NoIndex,
    /// An operator or function, and the kinds of what it was given.
    NoOverload(&'static str, &'static str, Option<&'static str>),
    /// In a word or two.
    Other(&'static str),
    /// More than [`STEPS`](super::evaluate::STEPS).
    TooMuchWork,
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoField(name) => write!(f, "no field `{}`", name.escape_debug()),
            Self::NoKey => f.write_str("no such key"),
            Self::NoIndex => f.write_str("no such index"),
            Self::NoOverload(function, of, None) => write!(f, "`{function}` does not take {of}"),
            Self::NoOverload(function, left, Some(right)) => write!(f, "`{function}` does not take {left} and {right}"),
            Self::Other(what) => f.write_str(what),
            Self::TooMuchWork => f.write_str("more work than a message may make"),
        }
    }
}

/// Steps that are left to a message.
pub struct Work(u64);

impl Work {
    pub fn new(steps: u64) -> Self {
        Self(steps)
    }

    pub fn step<'a>(&mut self) -> Result<(), Fault<'a>> {
        self.steps(1)
    }

    /// For going through so many bytes.
    pub fn bytes<'a>(&mut self, bytes: usize) -> Result<(), Fault<'a>> {
        self.steps(bytes as u64 / 64)
    }

    pub fn steps<'a>(&mut self, steps: u64) -> Result<(), Fault<'a>> {
        self.0 = self.0.checked_sub(steps).ok_or(Fault::TooMuchWork)?;
        Ok(())
    }
}

impl<'a> Value<'a> {
    pub fn of(constant: &'a Constant) -> Self {
        match constant {
            Constant::Null => Self::Null,
            Constant::Bool(truth) => Self::Bool(*truth),
            Constant::Int(number) => Self::Int(*number),
            Constant::Uint(number) => Self::Uint(*number),
            Constant::Double(number) => Self::Double(*number),
            Constant::Text(text) => Self::Text(Text::Borrowed(text)),
            Constant::Bytes(bytes) => Self::Bytes(bytes),
        }
    }

    pub fn owned(text: &str) -> Self {
        Self::Text(Text::Owned(text.into()))
    }

    /// The value that checked JSON text spells. Whole numbers are `Int`, beyond its range `Uint`, beyond that `Double`.
    pub fn json(raw: &'a str, work: &mut Work) -> Result<Self, Fault<'a>> {
        Ok(match raw.as_bytes().first() {
            Some(b'"') => {
                work.bytes(raw.len())?;
                match text(raw) {
                    Some(std::borrow::Cow::Borrowed(text)) => Self::Text(Text::Borrowed(text)),
                    Some(std::borrow::Cow::Owned(text)) => Self::owned(&text),
                    None => return Err(Fault::Other("text that is not valid Unicode")),
                }
            }
            Some(b'{') => Self::JsonMap(raw),
            Some(b'[') => Self::JsonList(raw),
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'n') => Self::Null,
            _ => {
                work.bytes(raw.len())?;
                Self::number(raw)
            }
        })
    }

    fn number(raw: &str) -> Self {
        if let Ok(number) = raw.parse() {
            return Self::Int(number);
        }
        if let Ok(number) = raw.parse() {
            return Self::Uint(number);
        }
        Self::Double(raw.parse().unwrap_or(f64::NAN))
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "an integer",
            Self::Uint(_) => "an unsigned integer",
            Self::Double(_) => "a floating-point number",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Time(_) => "a timestamp",
            Self::Span(_) => "a duration",
            Self::List(_) | Self::JsonList(_) => "a list",
            Self::Map(_) | Self::JsonMap(_) | Self::Headers(_) => "a map",
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The elements of a list, or the keys of a map; `None` of anything else.
    pub fn elements(&self, work: &mut Work) -> Result<Option<Rc<Vec<Self>>>, Fault<'a>> {
        let mut list = Vec::new();
        match self {
            Self::List(list) => return Ok(Some(Rc::clone(list))),
            Self::JsonList(raw) => {
                work.bytes(raw.len())?;
                let mut outcome = Ok(());
                elements(raw, |element| {
                    if outcome.is_ok() {
                        outcome = work.step().and_then(|()| Self::json(element, work)).map(|value| list.push(value));
                    }
                });
                outcome?;
            }
            Self::Map(entries) => {
                work.steps(entries.len() as u64)?;
                list.extend(entries.iter().map(|(key, _)| key.clone()));
            }
            Self::JsonMap(raw) => {
                work.bytes(raw.len())?;
                let mut outcome = Ok(());
                fields(raw, |key, _| {
                    if outcome.is_ok() {
                        outcome = work.steps(2).and_then(|()| Self::json(key, work)).map(|key| list.push(key));
                    }
                });
                outcome?;
                return Ok(Some(Rc::new(once(list))));
            }
            Self::Headers(headers) => {
                work.bytes(headers.encoded().len() * 4)?;
                list.extend(headers.into_iter().map(|(name, _)| Self::Text(Text::Borrowed(name))));
                return Ok(Some(Rc::new(once(list))));
            }
            _ => return Ok(None),
        }
        Ok(Some(Rc::new(list)))
    }

    /// The entries of a map, each key once, the last value of it; `None` of anything else.
    fn entries(&self, work: &mut Work) -> Result<Option<Vec<(Self, Self)>>, Fault<'a>> {
        let mut all: Vec<(Self, Self)> = Vec::new();
        match self {
            Self::Map(entries) => {
                work.steps(entries.len() as u64)?;
                return Ok(Some(entries.to_vec()));
            }
            Self::Headers(headers) => {
                for (name, value) in *headers {
                    work.steps(2)?;
                    all.push((Self::Text(Text::Borrowed(name)), header(value)));
                }
            }
            Self::JsonMap(raw) => {
                work.bytes(raw.len())?;
                let mut outcome = Ok(());
                fields(raw, |key, value| {
                    if outcome.is_ok() {
                        outcome = work.steps(2).and_then(|()| {
                            all.push((Self::json(key, work)?, Self::json(value, work)?));
                            Ok(())
                        });
                    }
                });
                outcome?;
            }
            _ => return Ok(None),
        }
        // The last of a key counts
        let mut seen = HashSet::new();
        let mut once: Vec<_> = all.into_iter().rev().filter(|(key, _)| seen.insert(name(key))).collect();
        once.reverse();
        Ok(Some(once))
    }

    /// The value of a map at a key that is text; `None` where it has none.
    pub fn get(&self, name: &str, work: &mut Work) -> Result<Option<Self>, Fault<'a>> {
        match self {
            Self::JsonMap(raw) => {
                work.bytes(raw.len())?;
                let found = crate::json::Object::new(raw).find(name);
                found.map(|value| Self::json(value, work)).transpose()
            }
            Self::Headers(headers) => {
                work.bytes(headers.encoded().len())?;
                Ok(headers.into_iter().filter(|(found, _)| *found == name).last().map(|(_, value)| header(value)))
            }
            Self::Map(entries) => {
                work.steps(entries.len() as u64)?;
                Ok(entries.iter().find(|(key, _)| key.text() == Some(name)).map(|(_, value)| value.clone()))
            }
            other => Err(Fault::NoOverload(".", other.kind(), None)),
        }
    }

    /// How many elements, entries, characters or bytes it has.
    pub fn size(&self, work: &mut Work) -> Result<i64, Fault<'a>> {
        let size = match self {
            Self::Text(text) => {
                work.bytes(text.as_str().len())?;
                text.as_str().chars().count()
            }
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.len(),
            Self::Map(entries) => entries.len(),
            Self::JsonList(raw) => {
                work.bytes(raw.len() * 4)?;
                let mut count = 0;
                elements(raw, |_| count += 1);
                count
            }
            Self::JsonMap(_) | Self::Headers(_) => self.elements(work)?.map_or(0, |keys| keys.len()),
            other => return Err(Fault::NoOverload("size", other.kind(), None)),
        };
        Ok(size as i64)
    }

    /// Whether they are the same: numbers by what they are, whatever their kind; values of different kinds are not.
    pub fn equals(&self, other: &Self, work: &mut Work) -> Result<bool, Fault<'a>> {
        self.equals_within(other, work, DEEPEST)
    }

    fn equals_within(&self, other: &Self, work: &mut Work, depth: usize) -> Result<bool, Fault<'a>> {
        work.step()?;
        Ok(match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::Bytes(left), Self::Bytes(right)) => left == right,
            (Self::Time(left), Self::Time(right)) => left == right,
            (Self::Span(left), Self::Span(right)) => left == right,
            (Self::Text(left), Self::Text(right)) => {
                let (left, right) = (left.as_str(), right.as_str());
                if left.len() == right.len() {
                    work.bytes(left.len())?;
                }
                left == right
            }
            (left, right) if left.is_number() && right.is_number() => numbers(left, right) == Some(Ordering::Equal),
            (left, right) if left.kind() != right.kind() => false,
            (left, right) => {
                let depth = depth.checked_sub(1).ok_or(Fault::Other("nested too deeply to compare"))?;
                if let (Some(left), Some(right)) = (left.entries(work)?, right.entries(work)?) {
                    return same_entries(&left, &right, work, depth);
                }
                let (left, right) =
                    (left.elements(work)?.unwrap_or_default(), right.elements(work)?.unwrap_or_default());
                if left.len() != right.len() {
                    return Ok(false);
                }
                for (left, right) in left.iter().zip(right.iter()) {
                    if !left.equals_within(right, work, depth)? {
                        return Ok(false);
                    }
                }
                true
            }
        })
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Uint(_) | Self::Double(_))
    }

    /// Which is less; `None` where one is no number, `function` being asked for it.
    pub fn compare(
        &self,
        other: &Self,
        function: &'static str,
        work: &mut Work,
    ) -> Result<Option<Ordering>, Fault<'a>> {
        Ok(match (self, other) {
            (Self::Bool(left), Self::Bool(right)) => Some(left.cmp(right)),
            (Self::Bytes(left), Self::Bytes(right)) => Some(left.cmp(right)),
            (Self::Time(left), Self::Time(right)) => Some(left.cmp(right)),
            (Self::Span(left), Self::Span(right)) => Some(left.cmp(right)),
            (Self::Text(left), Self::Text(right)) => {
                let (left, right) = (left.as_str(), right.as_str());
                work.bytes(left.len().min(right.len()))?;
                Some(left.cmp(right))
            }
            (left, right) if left.is_number() && right.is_number() => numbers(left, right),
            (left, right) => return Err(Fault::NoOverload(function, left.kind(), Some(right.kind()))),
        })
    }
}

/// Each key once.
fn once(keys: Vec<Value<'_>>) -> Vec<Value<'_>> {
    let mut seen = HashSet::new();
    keys.into_iter().filter(|key| seen.insert(name(key))).collect()
}

fn name(key: &Value<'_>) -> String {
    key.text().unwrap_or_default().to_owned()
}

/// The value of a record header: text, or null where it has none or it is not UTF-8.
fn header(value: Option<&[u8]>) -> Value<'_> {
    text_or_null(value)
}

/// Bytes that are text, or null.
pub fn text_or_null(bytes: Option<&[u8]>) -> Value<'_> {
    let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.map_or(Value::Null, |text| Value::Text(Text::Borrowed(text)))
}

fn same_entries<'a>(
    left: &[(Value<'a>, Value<'a>)],
    right: &[(Value<'a>, Value<'a>)],
    work: &mut Work,
    depth: usize,
) -> Result<bool, Fault<'a>> {
    if left.len() != right.len() {
        return Ok(false);
    }
    for (key, value) in left {
        let mut same = false;
        for (other, of_other) in right {
            if key.equals_within(other, work, depth)? {
                same = value.equals_within(of_other, work, depth)?;
                break;
            }
        }
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compares what they are, exactly, whatever kinds of number they are.
fn numbers(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::Uint(number) => Some(i128::from(*number)),
        _ => None,
    };
    match (left, right) {
        (Value::Double(left), Value::Double(right)) => left.partial_cmp(right),
        (Value::Double(left), right) => double(*left, whole(right)?),
        (left, Value::Double(right)) => double(*right, whole(left)?).map(Ordering::reverse),
        (left, right) => Some(whole(left)?.cmp(&whole(right)?)),
    }
}

/// Compares what they are, exactly; `None` where `left` is no number.
pub fn double(left: f64, right: i128) -> Option<Ordering> {
    if left.is_nan() {
        return None;
    }
    // Whole numbers of 64 bits lie well within what an i128 takes of a double
    if left.abs() >= 1e30 {
        return Some(if left > 0.0 { Ordering::Greater } else { Ordering::Less });
    }
    let whole = left.floor();
    Some((whole as i128).cmp(&right).then(if left > whole { Ordering::Greater } else { Ordering::Equal }))
}

/// As JSON: timestamps and durations as text, what lies in the payload as it is spelt there.
impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Within(self, DEEPEST).serialize(serializer)
    }
}

struct Within<'a, 'b>(&'b Value<'a>, usize);

impl Serialize for Within<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let depth = || self.1.checked_sub(1).ok_or_else(|| S::Error::custom("nested too deeply"));
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(truth) => serializer.serialize_bool(*truth),
            Value::Int(number) => serializer.serialize_i64(*number),
            Value::Uint(number) => serializer.serialize_u64(*number),
            Value::Double(number) if number.is_finite() => serializer.serialize_f64(*number),
            Value::Double(_) => Err(S::Error::custom("a number that JSON does not have")),
            Value::Text(text) => serializer.serialize_str(text.as_str()),
            Value::Bytes(_) => Err(S::Error::custom("bytes, which JSON does not have")),
            Value::Time(time) => serializer.collect_str(time),
            Value::Span(span) => serializer.collect_str(span),
            Value::List(list) => {
                let depth = depth()?;
                serializer.collect_seq(list.iter().map(|item| Within(item, depth)))
            }
            Value::Map(entries) => {
                let depth = depth()?;
                if entries.iter().any(|(key, _)| key.text().is_none()) {
                    return Err(S::Error::custom("a map with a key that is not text"));
                }
                serializer.collect_map(entries.iter().map(|(key, value)| (key.text(), Within(value, depth))))
            }
            Value::JsonList(raw) | Value::JsonMap(raw) => {
                serde_json::from_str::<&RawValue>(raw).map_err(S::Error::custom)?.serialize(serializer)
            }
            Value::Headers(headers) => {
                let entries = headers.into_iter().map(|(name, value)| (name, header(value)));
                serializer.collect_map(entries)
            }
        }
    }
}
