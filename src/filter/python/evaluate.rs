//! Evaluating a [`Node`] over one message: in Python's order, and no further once something is raised.

use std::{borrow::Cow, cmp::Ordering};

use super::{
    parse::{Node, Operator, Step},
    value::Value,
};
use crate::rules::{Fault, Work};

/// Most values lie in the filter or in the message.
type Outcome<'v> = Result<Cow<'v, Value>, Fault<'static>>;

impl Node {
    /// What it gives; the fault is what Python would raise.
    pub fn value<'v>(&'v self, data: &'v Value, work: &mut Work) -> Outcome<'v> {
        work.step()?;
        match self {
            Self::Constant(value) => Ok(Cow::Borrowed(value)),
            Self::Data => Ok(Cow::Borrowed(data)),
            Self::List(items) => Ok(Cow::Owned(Value::List(values(items, data, work)?))),
            Self::Tuple(items) => Ok(Cow::Owned(Value::Tuple(values(items, data, work)?))),
            Self::Path(of, steps) => {
                let mut value = of.value(data, work)?;
                for step in steps {
                    value = step.take(value, data, work)?;
                }
                Ok(value)
            }
            Self::Negate(of) => of.value(data, work)?.negated().map(Cow::Owned),
            Self::Not(of) => Ok(Cow::Owned(Value::Bool(!of.value(data, work)?.truth()))),
            Self::And(operands) => first(operands, false, data, work),
            Self::Or(operands) => first(operands, true, data, work),
            Self::Compare(first, rest) => chain(first, rest, data, work).map(|holds| Cow::Owned(Value::Bool(holds))),
        }
    }
}

fn values(items: &[Node], data: &Value, work: &mut Work) -> Result<std::sync::Arc<[Value]>, Fault<'static>> {
    items.iter().map(|item| item.value(data, work).map(Cow::into_owned)).collect()
}

/// The first operand that counts as `decisive`, else the last.
fn first<'v>(operands: &'v [Node], decisive: bool, data: &'v Value, work: &mut Work) -> Outcome<'v> {
    let mut value = Cow::Owned(Value::None);
    for operand in operands {
        value = operand.value(data, work)?;
        if value.truth() == decisive {
            break;
        }
    }
    Ok(value)
}

fn chain(first: &Node, rest: &[(Operator, Node)], data: &Value, work: &mut Work) -> Result<bool, Fault<'static>> {
    let mut left = first.value(data, work)?;
    for (operator, right) in rest {
        let right = right.value(data, work)?;
        if !operator.holds(&left, &right, work)? {
            return Ok(false);
        }
        left = right;
    }
    Ok(true)
}

impl Operator {
    fn holds(self, left: &Value, right: &Value, work: &mut Work) -> Result<bool, Fault<'static>> {
        Ok(match self {
            Self::Equal => left.equals(right, work)?,
            Self::NotEqual => !left.equals(right, work)?,
            Self::Less => left.compare(right, "<", work)? == Ordering::Less,
            Self::LessOrEqual => left.compare(right, "<=", work)? != Ordering::Greater,
            Self::Greater => left.compare(right, ">", work)? == Ordering::Greater,
            Self::GreaterOrEqual => left.compare(right, ">=", work)? != Ordering::Less,
            Self::In => left.is_in(right, work)?,
            Self::NotIn => !left.is_in(right, work)?,
            Self::Is => same(left, right),
            Self::IsNot => !same(left, right),
        })
    }
}

/// Whether they are one object, where one of them is `None`, `True` or `False`.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        _ => false,
    }
}

impl Step {
    fn take<'v>(&'v self, of: Cow<'v, Value>, data: &'v Value, work: &mut Work) -> Outcome<'v> {
        work.step()?;
        match self {
            Self::Subscript(index) => {
                let index = index.value(data, work)?;
                match of {
                    Cow::Borrowed(of) => subscript(of, &index, work),
                    Cow::Owned(of) => subscript(&of, &index, work).map(|value| Cow::Owned(value.into_owned())),
                }
            }
            Self::Get(key, default) => {
                let Value::Dict(_) = &*of else { return Err(Fault::NoOverload(".get", of.kind(), None)) };
                let key = key.value(data, work)?;
                let default = default.as_ref().map(|default| default.value(data, work)).transpose()?;
                let found = match &of {
                    Cow::Borrowed(Value::Dict(entries)) => Value::find(entries, &key, work)?.map(Cow::Borrowed),
                    Cow::Owned(Value::Dict(entries)) => Value::find(entries, &key, work)?.cloned().map(Cow::Owned),
                    _ => None,
                };
                Ok(found.or(default).unwrap_or(Cow::Owned(Value::None)))
            }
        }
    }
}

fn subscript<'v>(of: &'v Value, index: &Value, work: &mut Work) -> Outcome<'v> {
    match of {
        Value::Dict(entries) => Value::find(entries, index, work)?.map(Cow::Borrowed).ok_or(Fault::NoKey),
        Value::List(items) | Value::Tuple(items) => {
            place(index, of, items.len()).map(|place| Cow::Borrowed(&items[place]))
        }
        Value::Text(text) => {
            work.bytes(text.len())?;
            // Each but the first byte of a code point begins with the bits 10
            let starts = || text.iter().enumerate().filter(|(_, byte)| *byte & 0xc0 != 0x80).map(|(start, _)| start);
            let mut found = starts().skip(place(index, of, starts().count())?);
            let start = found.next().ok_or(Fault::NoIndex)?;
            let end = found.next().unwrap_or(text.len());
            Ok(Cow::Owned(Value::Text(text[start..end].into())))
        }
        other => Err(Fault::NoOverload("[]", other.kind(), Some(index.kind()))),
    }
}

/// Which of `length` items `index` means: -1 is the last.
fn place(index: &Value, of: &Value, length: usize) -> Result<usize, Fault<'static>> {
    let index = match index {
        Value::Bool(truth) => i64::from(*truth),
        Value::Int(index) => *index,
        Value::Big(_) => return Err(Fault::NoIndex),
        other => return Err(Fault::NoOverload("[]", of.kind(), Some(other.kind()))),
    };
    let length = i64::try_from(length).map_err(|_| Fault::NoIndex)?;
    let place = if index < 0 { index.saturating_add(length) } else { index };
    usize::try_from(place).ok().filter(|_| place < length).ok_or(Fault::NoIndex)
}
