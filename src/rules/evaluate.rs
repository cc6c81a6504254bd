//! Evaluating a [`Node`] over one message.
//!
//! Every step and every byte that is gone through is counted against what a message may cost, so that neither a rule nor
//! a payload can hold a stop up; how deep it calls itself is bounded by what [`compile`](super::compile) accepts, since
//! JSON is walked and never followed down. What is created is no more than what is counted, and nothing here panics.

use std::rc::Rc;

use smallvec::SmallVec;

use super::{
    compile::Fields,
    node::{Macro, MacroKind, Node, Operator, Root},
    time::Timestamp,
    value::{Fault, Text, Value, Work, text_or_null},
};
use crate::{bus::Headers, json::Object, slip::Message};

/// What all rules together may do over one message: a step is about a node evaluated, or 64 bytes gone through.
pub const STEPS: u64 = 100_000;

/// For each so many bytes of the payload there is one step more, so that what is right for a small one is for a large.
const BYTES_A_STEP: usize = 8;

/// Steps for matching a byte with a pattern, which may cost as much as the pattern is large.
const MATCHING: u64 = 4;

/// Of a payload beyond this size, in bytes, all fields that rules name are found in one pass.
const LARGE: usize = 4096;

/// What may be done over a payload of so many bytes.
pub fn allowance(bytes: usize) -> Work {
    Work::new(STEPS + (bytes / BYTES_A_STEP) as u64)
}

/// What an expression is evaluated over.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    payload: Object<'a>,
    headers: Headers<'a>,
    key: Option<&'a [u8]>,
    topic: &'a str,
    now: Timestamp,
}

impl<'a> Subject<'a> {
    /// A message as it came to `topic`.
    pub fn new(message: &Message<'a>, topic: &'a str, now: Timestamp) -> Self {
        let record = &message.record;
        Self { payload: message.payload.object(), headers: record.headers, key: record.key, topic, now }
    }

    /// A payload alone, for expressions that can name nothing else.
    pub fn payload(payload: Object<'a>) -> Self {
        Self { payload, headers: Headers::from_encoded(&[]), key: None, topic: "", now: Timestamp(0) }
    }
}

/// The values of one message while the rules are asked, the fields of its payload as they have been found.
pub struct Evaluation<'a> {
    subject: Subject<'a>,
    fields: &'a Fields,
    found: SmallVec<[Option<Result<Value<'a>, Fault<'a>>>; 12]>,
    locals: Vec<Value<'a>>,
    work: Work,
}

impl<'a> Evaluation<'a> {
    pub fn new(subject: Subject<'a>, fields: &'a Fields) -> Self {
        let work = allowance(subject.payload.raw().len());
        let mut found = SmallVec::new();
        found.resize_with(fields.len(), || None);
        Self { subject, fields, found, locals: Vec::new(), work }
    }

    /// Whether `condition` holds.
    pub fn holds(&mut self, condition: &'a Node) -> Result<bool, Fault<'a>> {
        match self.value(condition)? {
            Value::Bool(truth) => Ok(truth),
            _ => Err(Fault::Other("is neither true nor false")),
        }
    }

    pub fn value(&mut self, node: &'a Node) -> Result<Value<'a>, Fault<'a>> {
        self.work.step()?;
        match node {
            Node::Constant(constant) => Ok(Value::of(constant)),
            Node::Field(index, _) => self.field(*index),
            Node::HasField(index, _) => match self.field(*index) {
                Err(Fault::NoField(_)) => Ok(Value::Bool(false)),
                Err(Fault::TooMuchWork) => Err(Fault::TooMuchWork),
                _ => Ok(Value::Bool(true)),
            },
            Node::Root(root) => Ok(self.root(*root)),
            Node::Local(index, _) => self.locals.get(*index).cloned().ok_or(Fault::Other("an unknown variable")),
            Node::Binary(operator, left, right) => self.binary(*operator, left, right),
            Node::And(left, right) => self.logical("&&", false, left, right),
            Node::Or(left, right) => self.logical("||", true, left, right),
            Node::Not(of) => match self.value(of)? {
                Value::Bool(truth) => Ok(Value::Bool(!truth)),
                other => Err(Fault::NoOverload("!", other.kind(), None)),
            },
            Node::Negate(of) => match self.value(of)? {
                Value::Int(number) => number.checked_neg().map(Value::Int).ok_or(OVERFLOW),
                Value::Double(number) => Ok(Value::Double(-number)),
                other => Err(Fault::NoOverload("-", other.kind(), None)),
            },
            Node::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                match self.value(condition)? {
                    Value::Bool(true) => self.value(then),
                    Value::Bool(false) => self.value(otherwise),
                    other => Err(Fault::NoOverload("?", other.kind(), None)),
                }
            }
            Node::Select(of, name) => {
                let of = self.value(of)?;
                of.get(name, &mut self.work)?.ok_or(Fault::NoField(name))
            }
            Node::Has(of, name) => {
                let of = self.value(of)?;
                match of.get(name, &mut self.work) {
                    Ok(found) => Ok(Value::Bool(found.is_some())),
                    // It is there, whatever is wrong with it
                    Err(Fault::Other(_)) => Ok(Value::Bool(true)),
                    Err(fault) => Err(fault),
                }
            }
            Node::Index(of, at) => {
                let (of, at) = (self.value(of)?, self.value(at)?);
                self.index(&of, &at)
            }
            Node::List(items) => {
                let items = items.iter().map(|item| self.value(item)).collect::<Result<_, _>>()?;
                Ok(Value::List(Rc::new(items)))
            }
            Node::Map(entries) => self.map(entries),
            Node::Call(function, arguments) => {
                let mut values = SmallVec::<[Value<'a>; 2]>::new();
                for argument in arguments {
                    values.push(self.value(argument)?);
                }
                function.call(&values, &mut self.work)
            }
            Node::Matches(of, pattern) => match self.value(of)? {
                Value::Text(text) => {
                    self.work.steps(text.as_str().len() as u64 * MATCHING)?;
                    Ok(Value::Bool(pattern.is_match(text.as_str())))
                }
                other => Err(Fault::NoOverload("matches", other.kind(), None)),
            },
            Node::Macro(call) => self.macro_call(call),
        }
    }

    fn root(&self, root: Root) -> Value<'a> {
        match root {
            Root::Payload => Value::JsonMap(self.subject.payload.raw()),
            Root::Headers => Value::Headers(self.subject.headers),
            Root::Key => text_or_null(self.subject.key),
            Root::Topic => Value::Text(Text::Borrowed(self.subject.topic)),
            Root::Now => Value::Time(self.subject.now),
        }
    }

    fn field(&mut self, index: usize) -> Result<Value<'a>, Fault<'a>> {
        if let Some(found) = &self.found[index] {
            return found.clone();
        }
        let payload = self.subject.payload;
        if payload.raw().len() > LARGE {
            self.find_all()?;
        } else {
            self.take(index, payload.find(self.fields.name(index)));
        }
        match &self.found[index] {
            Some(found) => found.clone(),
            None => Err(Fault::NoField(self.fields.name(index))),
        }
    }

    fn take(&mut self, index: usize, raw: Option<&'a str>) {
        let value = raw.map(|raw| Value::json(raw, &mut self.work));
        self.found[index] = Some(value.unwrap_or(Err(Fault::NoField(self.fields.name(index)))));
    }

    fn find_all(&mut self) -> Result<(), Fault<'a>> {
        let payload = self.subject.payload;
        self.work.bytes(payload.raw().len())?;
        let mut raw: Vec<Option<&'a str>> = vec![None; self.fields.len()];
        payload.each(|key, value| {
            let spelt = key.raw();
            let index = match key.escaped() {
                Some(name) => self.fields.find(&name),
                None => spelt.get(1..spelt.len() - 1).and_then(|name| self.fields.find(name)),
            };
            if let Some(index) = index {
                raw[index] = Some(value);
            }
        });
        for (index, raw) in raw.into_iter().enumerate() {
            self.take(index, raw);
        }
        Ok(())
    }

    /// `&&` and `||`: `decisive` on either side decides, even where the other side fails.
    fn logical(
        &mut self,
        operator: &'static str,
        decisive: bool,
        left: &'a Node,
        right: &'a Node,
    ) -> Result<Value<'a>, Fault<'a>> {
        let truth = |value: Result<Value<'a>, Fault<'a>>| match value? {
            Value::Bool(truth) => Ok(truth),
            other => Err(Fault::NoOverload(operator, other.kind(), None)),
        };
        let left = truth(self.value(left));
        match left {
            Ok(left) if left == decisive => Ok(Value::Bool(decisive)),
            Ok(_) => truth(self.value(right)).map(Value::Bool),
            Err(Fault::TooMuchWork) => Err(Fault::TooMuchWork),
            Err(fault) => match truth(self.value(right)) {
                Ok(right) if right == decisive => Ok(Value::Bool(decisive)),
                Err(Fault::TooMuchWork) => Err(Fault::TooMuchWork),
                _ => Err(fault),
            },
        }
    }

    fn binary(&mut self, operator: Operator, left: &'a Node, right: &'a Node) -> Result<Value<'a>, Fault<'a>> {
        if operator == Operator::In {
            return self.is_in(left, right).map(Value::Bool);
        }
        let (left, right) = (self.value(left)?, self.value(right)?);
        let work = &mut self.work;
        Ok(Value::Bool(match operator {
            Operator::Equal => left.equals(&right, work)?,
            Operator::NotEqual => !left.equals(&right, work)?,
            Operator::Less => left.compare(&right, "<", work)?.is_some_and(|order| order.is_lt()),
            Operator::LessOrEqual => left.compare(&right, "<=", work)?.is_some_and(|order| order.is_le()),
            Operator::Greater => left.compare(&right, ">", work)?.is_some_and(|order| order.is_gt()),
            Operator::GreaterOrEqual => left.compare(&right, ">=", work)?.is_some_and(|order| order.is_ge()),
            other => return arithmetic(other, &left, &right, work),
        }))
    }

    fn is_in(&mut self, left: &'a Node, right: &'a Node) -> Result<bool, Fault<'a>> {
        let left = self.value(left)?;
        if let Node::List(items) = right {
            let mut found = false;
            for item in items {
                let item = self.value(item)?;
                found |= left.equals(&item, &mut self.work)?;
            }
            return Ok(found);
        }
        let right = self.value(right)?;
        let Some(elements) = right.elements(&mut self.work)? else {
            return Err(Fault::NoOverload("in", left.kind(), Some(right.kind())));
        };
        for element in elements.iter() {
            if left.equals(element, &mut self.work)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn index(&mut self, of: &Value<'a>, at: &Value<'a>) -> Result<Value<'a>, Fault<'a>> {
        if let (Value::List(_) | Value::JsonList(_), Some(at)) = (of, place(at)) {
            let list = of.elements(&mut self.work)?.unwrap_or_default();
            return list.get(at).cloned().ok_or(Fault::NoIndex);
        }
        match (of, at) {
            (Value::Map(entries), at) => {
                for (key, value) in entries.iter() {
                    if key.equals(at, &mut self.work)? {
                        return Ok(value.clone());
                    }
                }
                Err(Fault::NoKey)
            }
            (Value::JsonMap(_) | Value::Headers(_), Value::Text(name)) => {
                of.get(name.as_str(), &mut self.work)?.ok_or(Fault::NoKey)
            }
            (Value::List(_) | Value::JsonList(_), Value::Int(_)) => Err(Fault::NoIndex),
            _ => Err(Fault::NoOverload("[]", of.kind(), Some(at.kind()))),
        }
    }

    fn map(&mut self, entries: &'a [(Node, Node)]) -> Result<Value<'a>, Fault<'a>> {
        let mut map: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let (key, value) = (self.value(key)?, self.value(value)?);
            if !matches!(key, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Text(_)) {
                return Err(Fault::NoOverload("{}", key.kind(), None));
            }
            for (other, _) in &map {
                if key.equals(other, &mut self.work)? {
                    return Err(Fault::Other("a map with a key twice"));
                }
            }
            map.push((key, value));
        }
        Ok(Value::Map(Rc::new(map)))
    }

    fn macro_call(&mut self, call: &'a Macro) -> Result<Value<'a>, Fault<'a>> {
        let range = self.value(&call.range)?;
        let Some(elements) = range.elements(&mut self.work)? else {
            return Err(Fault::NoOverload("in a macro", range.kind(), None));
        };
        let place = self.locals.len();
        let outcome = match call.kind {
            MacroKind::All => self.decide(call, &elements, false),
            MacroKind::Exists => self.decide(call, &elements, true),
            _ => self.collect(call, &elements),
        };
        self.locals.truncate(place);
        outcome
    }

    /// The value of a macro's body, or of its filter, for one element.
    fn with(&mut self, element: &Value<'a>, body: &'a Node) -> Result<Value<'a>, Fault<'a>> {
        self.locals.push(element.clone());
        let value = self.value(body);
        self.locals.pop();
        value
    }

    /// `all` and `exists`: `decisive` for one element decides, even where another one fails.
    fn decide(&mut self, call: &'a Macro, elements: &[Value<'a>], decisive: bool) -> Result<Value<'a>, Fault<'a>> {
        let mut failed = None;
        for element in elements {
            match self.with(element, &call.body) {
                Ok(Value::Bool(truth)) if truth == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(other) => failed = Some(Fault::NoOverload("in a macro", other.kind(), None)),
                Err(Fault::TooMuchWork) => return Err(Fault::TooMuchWork),
                Err(fault) => failed = Some(fault),
            }
        }
        failed.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn collect(&mut self, call: &'a Macro, elements: &[Value<'a>]) -> Result<Value<'a>, Fault<'a>> {
        let mut taken = Vec::new();
        for element in elements {
            let condition = if call.kind == MacroKind::Map { call.filter.as_ref() } else { Some(&call.body) };
            if let Some(condition) = condition {
                match self.with(element, condition)? {
                    Value::Bool(true) => {}
                    Value::Bool(false) => continue,
                    other => return Err(Fault::NoOverload("in a macro", other.kind(), None)),
                }
            }
            taken.push(match call.kind {
                MacroKind::Map => self.with(element, &call.body)?,
                _ => element.clone(),
            });
        }
        Ok(match call.kind {
            MacroKind::ExistsOne => Value::Bool(taken.len() == 1),
            _ => Value::List(Rc::new(taken)),
        })
    }
}

const OVERFLOW: Fault<'static> = Fault::Other("a number out of range");

/// An index into a list, where it is one.
fn place(at: &Value<'_>) -> Option<usize> {
    match at {
        Value::Int(number) => usize::try_from(*number).ok(),
        Value::Uint(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}

fn arithmetic<'a>(
    operator: Operator,
    left: &Value<'a>,
    right: &Value<'a>,
    work: &mut Work,
) -> Result<Value<'a>, Fault<'a>> {
    use Operator::{Add, Divide, Multiply, Remainder, Subtract};
    let value = match (operator, left, right) {
        (Divide | Remainder, _, Value::Int(0) | Value::Uint(0))
            if matches!((left, right), (Value::Int(_), Value::Int(_)) | (Value::Uint(_), Value::Uint(_))) =>
        {
            return Err(Fault::Other("a division by zero"));
        }
        (_, Value::Int(left), Value::Int(right)) => match operator {
            Add => left.checked_add(*right),
            Subtract => left.checked_sub(*right),
            Multiply => left.checked_mul(*right),
            Divide => left.checked_div(*right),
            _ => left.checked_rem(*right),
        }
        .map(Value::Int),
        (_, Value::Uint(left), Value::Uint(right)) => match operator {
            Add => left.checked_add(*right),
            Subtract => left.checked_sub(*right),
            Multiply => left.checked_mul(*right),
            Divide => left.checked_div(*right),
            _ => left.checked_rem(*right),
        }
        .map(Value::Uint),
        (Add, Value::Double(left), Value::Double(right)) => Some(Value::Double(left + right)),
        (Subtract, Value::Double(left), Value::Double(right)) => Some(Value::Double(left - right)),
        (Multiply, Value::Double(left), Value::Double(right)) => Some(Value::Double(left * right)),
        (Divide, Value::Double(left), Value::Double(right)) => Some(Value::Double(left / right)),
        (Add, Value::Text(left), Value::Text(right)) => {
            let (left, right) = (left.as_str(), right.as_str());
            // What is made is charged higher than what is read: it takes memory
            work.bytes((left.len() + right.len()) * 4)?;
            Some(Value::owned(&[left, right].concat()))
        }
        (Add, Value::List(_) | Value::JsonList(_), Value::List(_) | Value::JsonList(_)) => {
            let (left, right) = (left.elements(work)?.unwrap_or_default(), right.elements(work)?.unwrap_or_default());
            work.steps((left.len() + right.len()) as u64)?;
            Some(Value::List(Rc::new(left.iter().chain(right.iter()).cloned().collect())))
        }
        (Add, Value::Time(time), Value::Span(span)) | (Add, Value::Span(span), Value::Time(time)) => {
            time.plus(*span).map(Value::Time)
        }
        (Subtract, Value::Time(time), Value::Span(span)) => time.minus(*span).map(Value::Time),
        (Subtract, Value::Time(time), Value::Time(other)) => Some(Value::Span(time.since(*other))),
        (Add, Value::Span(left), Value::Span(right)) => left.plus(*right).map(Value::Span),
        (Subtract, Value::Span(left), Value::Span(right)) => left.minus(*right).map(Value::Span),
        _ => return Err(Fault::NoOverload(operator.symbol(), left.kind(), Some(right.kind()))),
    };
    value.ok_or(OVERFLOW)
}
