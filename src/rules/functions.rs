//! The functions of CEL's standard library that rules know, but for `matches`, whose pattern is compiled at start.

use std::rc::Rc;

use super::{
    time::{Span, Timestamp},
    value::{Fault, Text, Value, Work},
};

/// A function, by what it is called and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Size,
    SizeOf,
    Contains,
    StartsWith,
    EndsWith,
    Int,
    Uint,
    Double,
    String,
    Bool,
    Dyn,
    Timestamp,
    Duration,
    Get(Part),
}

/// What can be asked of a timestamp, in UTC, and some of it of a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// Name, whether it is called on its first argument (`text.size()`), function.
const FUNCTIONS: &[(&str, bool, Function)] = &[
    ("size", false, Function::Size),
    ("size", true, Function::SizeOf),
    ("contains", true, Function::Contains),
    ("startsWith", true, Function::StartsWith),
    ("endsWith", true, Function::EndsWith),
    ("int", false, Function::Int),
    ("uint", false, Function::Uint),
    ("double", false, Function::Double),
    ("string", false, Function::String),
    ("bool", false, Function::Bool),
    ("dyn", false, Function::Dyn),
    ("timestamp", false, Function::Timestamp),
    ("duration", false, Function::Duration),
    ("getFullYear", true, Function::Get(Part::FullYear)),
    ("getMonth", true, Function::Get(Part::Month)),
    ("getDate", true, Function::Get(Part::Date)),
    ("getDayOfMonth", true, Function::Get(Part::DayOfMonth)),
    ("getDayOfWeek", true, Function::Get(Part::DayOfWeek)),
    ("getDayOfYear", true, Function::Get(Part::DayOfYear)),
    ("getHours", true, Function::Get(Part::Hours)),
    ("getMinutes", true, Function::Get(Part::Minutes)),
    ("getSeconds", true, Function::Get(Part::Seconds)),
    ("getMilliseconds", true, Function::Get(Part::Milliseconds)),
];

/// Functions that are known elsewhere.
const OTHERS: &[&str] = &["matches", "has", "all", "exists", "exists_one", "map", "filter"];

impl Function {
    pub fn find(name: &str, method: bool) -> Option<Self> {
        FUNCTIONS.iter().find(|(found, of, _)| *found == name && *of == method).map(|(.., function)| *function)
    }

    /// The name most like `name`.
    pub fn nearest(name: &str) -> &'static str {
        let names = FUNCTIONS.iter().map(|(name, ..)| *name).chain(OTHERS.iter().copied());
        let likeness = |known: &&str| strsim::normalized_damerau_levenshtein(name, known);
        names.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or("has")
    }

    fn entry(self) -> (&'static str, bool) {
        FUNCTIONS.iter().find(|(.., function)| *function == self).map_or(("", false), |(name, of, _)| (name, *of))
    }

    pub fn name(self) -> &'static str {
        self.entry().0
    }

    pub fn is_method(self) -> bool {
        self.entry().1
    }

    /// How many arguments it takes, with the one that it is called on.
    pub fn arguments(self) -> usize {
        match self {
            Self::Contains | Self::StartsWith | Self::EndsWith => 2,
            _ => 1,
        }
    }

    /// What it gives.
    pub fn gives(self) -> Option<&'static str> {
        Some(match self {
            Self::Contains | Self::StartsWith | Self::EndsWith | Self::Bool => "true or false",
            Self::String => "text",
            Self::Dyn => return None,
            Self::Timestamp => "a timestamp",
            Self::Duration => "a duration",
            _ => "a number",
        })
    }

    /// Its value; of the arguments there are as many as it takes.
    pub fn call<'a>(self, arguments: &[Value<'a>], work: &mut Work) -> Result<Value<'a>, Fault<'a>> {
        let [first, rest @ ..] = arguments else { return Err(Fault::Other("an argument is missing")) };
        let refused = || Fault::NoOverload(self.name(), first.kind(), rest.first().map(Value::kind));
        Ok(match (self, first, rest) {
            (Self::Size | Self::SizeOf, of, _) => Value::Int(of.size(work)?),
            (Self::Contains | Self::StartsWith | Self::EndsWith, Value::Text(of), [Value::Text(part)]) => {
                let (of, part) = (of.as_str(), part.as_str());
                Value::Bool(match self {
                    Self::Contains => {
                        work.bytes(of.len() * 2)?;
                        memchr::memmem::find(of.as_bytes(), part.as_bytes()).is_some()
                    }
                    Self::StartsWith => of.starts_with(part),
                    _ => of.ends_with(part),
                })
            }
            (Self::Int | Self::Uint | Self::Double, of, _) => self.number(of, work)?.ok_or_else(refused)?,
            (Self::Bool, Value::Bool(truth), _) => Value::Bool(*truth),
            (Self::Bool, Value::Text(text), _) => match text.as_str() {
                "true" | "True" | "TRUE" | "t" | "1" => Value::Bool(true),
                "false" | "False" | "FALSE" | "f" | "0" => Value::Bool(false),
                _ => return Err(Fault::Other("text that is neither true nor false")),
            },
            (Self::String, of, _) => string(of).ok_or_else(refused)?,
            (Self::Dyn, of, _) => of.clone(),
            (Self::Timestamp, Value::Time(time), _) => Value::Time(*time),
            (Self::Timestamp, Value::Int(seconds), _) => {
                let time = Timestamp::new(i128::from(*seconds) * 1_000_000_000);
                Value::Time(time.ok_or(Fault::Other("a timestamp out of range"))?)
            }
            (Self::Timestamp, Value::Text(text), _) => {
                let time = Timestamp::parse(text.as_str());
                Value::Time(time.ok_or(Fault::Other("text that is no timestamp of RFC 3339"))?)
            }
            (Self::Duration, Value::Span(span), _) => Value::Span(*span),
            (Self::Duration, Value::Text(text), _) => {
                work.bytes(text.as_str().len() * 8)?;
                Value::Span(Span::parse(text.as_str()).ok_or(Fault::Other("text that is no duration, as 90s is"))?)
            }
            (Self::Get(part), Value::Time(time), _) => Value::Int(part.of_time(*time)),
            (Self::Get(part), Value::Span(span), _) => Value::Int(part.of_span(*span).ok_or_else(refused)?),
            _ => return Err(refused()),
        })
    }

    /// The conversions to numbers; `None` of what is none.
    fn number<'a>(self, of: &Value<'a>, work: &mut Work) -> Result<Option<Value<'a>>, Fault<'a>> {
        let parsed = match of {
            Value::Text(text) => {
                let text = text.as_str();
                work.bytes(text.len())?;
                let parsed = match self {
                    Self::Int => text.parse().ok().map(Value::Int),
                    Self::Uint => text.parse().ok().map(Value::Uint),
                    _ => text.parse().ok().map(Value::Double),
                };
                return parsed.map(Some).ok_or(Fault::Other("text that is no such number"));
            }
            Value::Time(time) if self == Self::Int => {
                return Ok(Some(Value::Int(time.0.div_euclid(1_000_000_000) as i64)));
            }
            Value::Int(number) => match self {
                Self::Int => Some(Value::Int(*number)),
                Self::Uint => u64::try_from(*number).ok().map(Value::Uint),
                _ => Some(Value::Double(*number as f64)),
            },
            Value::Uint(number) => match self {
                Self::Int => i64::try_from(*number).ok().map(Value::Int),
                Self::Uint => Some(Value::Uint(*number)),
                _ => Some(Value::Double(*number as f64)),
            },
            Value::Double(number) => match self {
                // The ends of the range are powers of two, which a double holds exactly
                Self::Int => {
                    (*number > -(2_f64.powi(63)) && *number < 2_f64.powi(63)).then_some(Value::Int(*number as i64))
                }
                Self::Uint => (*number > -1.0 && *number < 2_f64.powi(64)).then_some(Value::Uint(*number as u64)),
                _ => Some(Value::Double(*number)),
            },
            _ => return Ok(None),
        };
        parsed.map(Some).ok_or(Fault::Other("a number out of range"))
    }
}

fn string<'a>(of: &Value<'a>) -> Option<Value<'a>> {
    let text = match of {
        Value::Text(text) => return Some(Value::Text(text.clone())),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Uint(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Time(time) => time.to_string(),
        Value::Span(span) => span.to_string(),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
        _ => return None,
    };
    Some(Value::Text(Text::Owned(Rc::from(text))))
}

impl Part {
    fn of_time(self, time: Timestamp) -> i64 {
        let parts = time.parts();
        match self {
            Self::FullYear => parts.year,
            Self::Month => parts.month - 1,
            Self::Date => parts.day,
            Self::DayOfMonth => parts.day - 1,
            Self::DayOfWeek => parts.weekday,
            Self::DayOfYear => parts.day_of_year,
            Self::Hours => parts.hour,
            Self::Minutes => parts.minute,
            Self::Seconds => parts.second,
            Self::Milliseconds => parts.nanosecond / 1_000_000,
        }
    }

    /// The whole of a duration in that unit; `None` where there is no such unit.
    fn of_span(self, span: Span) -> Option<i64> {
        let milliseconds = span.milliseconds();
        Some(match self {
            Self::Hours => milliseconds / 3_600_000,
            Self::Minutes => milliseconds / 60_000,
            Self::Seconds => milliseconds / 1000,
            Self::Milliseconds => milliseconds % 1000,
            _ => return None,
        })
    }
}
