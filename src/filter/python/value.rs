//! Values as Python has them, and how they compare.

use std::{cmp::Ordering, sync::Arc};

use num_bigint::{BigInt, Sign};

use crate::rules::{Fault, Work, double};

/// A value. To clone it costs nothing: what it contains is shared.
#[derive(Clone, Debug)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number beyond the range of `Int`.
    Big(Arc<BigInt>),
    /// Never NaN, which neither JSON nor a filter spells.
    Float(f64),
    Text(Text),
    List(Arc<[Value]>),
    Tuple(Arc<[Value]>),
    /// Sorted by key, each key once.
    Dict(Arc<[(Text, Value)]>),
}

/// Code points one by one as UTF-8 writes them, surrogates too: so bytes compare as code points do, and a pair of
/// surrogates that was written as two is not the character that it would be as one.
pub type Text = Arc<[u8]>;

impl Value {
    pub fn int(number: BigInt) -> Self {
        match i64::try_from(&number) {
            Ok(number) => Self::Int(number),
            Err(_) => Self::Big(Arc::new(number)),
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) | Self::Big(_) => "an int",
            Self::Float(_) => "a float",
            Self::Text(_) => "a str",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Dict(_) => "a dict",
        }
    }

    /// Whether it counts as true.
    pub fn truth(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(truth) => *truth,
            Self::Int(number) => *number != 0,
            Self::Big(_) => true,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.is_empty(),
            Self::Dict(entries) => !entries.is_empty(),
        }
    }

    /// `-value`
    pub fn negated(&self) -> Result<Self, Fault<'static>> {
        Ok(match self {
            Self::Bool(truth) => Self::Int(-i64::from(*truth)),
            Self::Int(number) => number.checked_neg().map_or_else(|| Self::int(-BigInt::from(*number)), Self::Int),
            Self::Big(number) => Self::int(-&**number),
            Self::Float(number) => Self::Float(-number),
            other => return Err(Fault::NoOverload("-", other.kind(), None)),
        })
    }

    /// Whether it may be a key of a dict.
    fn hashable(&self) -> bool {
        match self {
            Self::List(_) | Self::Dict(_) => false,
            Self::Tuple(items) => items.iter().all(Self::hashable),
            _ => true,
        }
    }

    /// The value of a dict at a key; fails where the key can be none.
    pub fn find<'v>(
        entries: &'v [(Text, Self)],
        key: &Self,
        work: &mut Work,
    ) -> Result<Option<&'v Self>, Fault<'static>> {
        if let Self::Text(key) = key {
            work.bytes(key.len())?;
            let found = entries.binary_search_by(|(name, _)| name.cmp(key));
            return Ok(found.ok().map(|index| &entries[index].1));
        }
        if !key.hashable() {
            return Err(Fault::NoOverload("a dict", key.kind(), None));
        }
        Ok(None)
    }

    /// `self == other`
    pub fn equals(&self, other: &Self, work: &mut Work) -> Result<bool, Fault<'static>> {
        work.step()?;
        Ok(match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Text(left), Self::Text(right)) => {
                if left.len() == right.len() {
                    work.bytes(left.len())?;
                }
                left == right
            }
            (Self::List(left), Self::List(right)) | (Self::Tuple(left), Self::Tuple(right)) => {
                left.len() == right.len() && first_unlike(left, right, work)?.is_none()
            }
            (Self::Dict(left), Self::Dict(right)) => same_entries(left, right, work)?,
            (left, right) => numbers(left, right) == Some(Ordering::Equal),
        })
    }

    /// Which is less; fails where `<` would, which `operator` names.
    pub fn compare(&self, other: &Self, operator: &'static str, work: &mut Work) -> Result<Ordering, Fault<'static>> {
        work.step()?;
        match (self, other) {
            (Self::Text(left), Self::Text(right)) => {
                work.bytes(left.len().min(right.len()))?;
                Ok(left.cmp(right))
            }
            (Self::List(left), Self::List(right)) | (Self::Tuple(left), Self::Tuple(right)) => {
                match first_unlike(left, right, work)? {
                    Some((left, right)) => left.compare(right, operator, work),
                    None => Ok(left.len().cmp(&right.len())),
                }
            }
            (left, right) => {
                let fault = || Fault::NoOverload(operator, left.kind(), Some(right.kind()));
                numbers(left, right).ok_or_else(fault)
            }
        }
    }

    /// `self in container`
    pub fn is_in(&self, container: &Self, work: &mut Work) -> Result<bool, Fault<'static>> {
        match (container, self) {
            (Self::Text(text), Self::Text(part)) => {
                work.bytes(text.len() + part.len())?;
                Ok(memchr::memmem::find(text, part).is_some())
            }
            (Self::List(items) | Self::Tuple(items), item) => {
                for other in items.iter() {
                    if other.equals(item, work)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            (Self::Dict(entries), key) => Ok(Self::find(entries, key, work)?.is_some()),
            (container, item) => Err(Fault::NoOverload("in", item.kind(), Some(container.kind()))),
        }
    }
}

/// The first items of two lists that differ.
fn first_unlike<'v>(
    left: &'v [Value],
    right: &'v [Value],
    work: &mut Work,
) -> Result<Option<(&'v Value, &'v Value)>, Fault<'static>> {
    for (left, right) in left.iter().zip(right) {
        if !left.equals(right, work)? {
            return Ok(Some((left, right)));
        }
    }
    Ok(None)
}

fn same_entries(left: &[(Text, Value)], right: &[(Text, Value)], work: &mut Work) -> Result<bool, Fault<'static>> {
    if left.len() != right.len() {
        return Ok(false);
    }
    for ((key, left), (other, right)) in left.iter().zip(right) {
        work.bytes(key.len())?;
        if key != other || !left.equals(right, work)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compares what they are, exactly; `None` where one is no number.
fn numbers(left: &Value, right: &Value) -> Option<Ordering> {
    use Value::{Big, Float, Int};
    let whole = |value: &Value| match value {
        Value::Bool(truth) => Some(i64::from(*truth)),
        Int(number) => Some(*number),
        _ => None,
    };
    match (left, right) {
        (Big(left), Big(right)) => Some(left.cmp(right)),
        (Big(left), Float(right)) => Some(big_and_float(left, *right)),
        (Float(left), Big(right)) => Some(big_and_float(right, *left).reverse()),
        (Float(left), Float(right)) => left.partial_cmp(right),
        (Float(left), right) => double(*left, whole(right)?.into()),
        (left, Float(right)) => double(*right, whole(left)?.into()).map(Ordering::reverse),
        // It lies beyond every number that is not one
        (Big(left), right) => whole(right).map(|_| beyond(left)),
        (left, Big(right)) => whole(left).map(|_| beyond(right).reverse()),
        (left, right) => Some(whole(left)?.cmp(&whole(right)?)),
    }
}

/// How a number beyond the range of `Int` compares with those within.
fn beyond(number: &BigInt) -> Ordering {
    if number.sign() == Sign::Minus { Ordering::Less } else { Ordering::Greater }
}

fn big_and_float(left: &BigInt, right: f64) -> Ordering {
    /// From here on, floating-point numbers are whole.
    const WHOLE: f64 = (1_u64 << 53) as f64;
    if right.abs() < WHOLE {
        return beyond(left);
    }
    if right.is_infinite() {
        return if right > 0.0 { Ordering::Less } else { Ordering::Greater };
    }
    let bits = right.abs().to_bits();
    let mantissa = BigInt::from((bits & ((1 << 52) - 1)) | 1 << 52);
    let right_abs = mantissa << ((bits >> 52) - 1075);
    left.cmp(&if right < 0.0 { -right_abs } else { right_abs })
}
