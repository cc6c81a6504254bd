//! Why a rule did not match: the smallest parts of its condition that did not hold, and on what values.

use std::fmt;

use super::{
    Rules, Timestamp,
    evaluate::{Evaluation, Subject},
    node::Node,
    value::Value,
};
use crate::slip::Message;

/// Longest text of a value, in characters.
const SHOWN: usize = 120;

/// A rule that was asked and did not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    pub rule: String,
    /// Of a condition with `||` each alternative has its own.
    pub parts: Vec<Part>,
}

/// A part of a condition, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub text: String,
    /// Why it could not be evaluated.
    pub failure: Option<String>,
    /// Where it compares: what stands on its sides, as JSON.
    pub sides: Option<(String, &'static str, String)>,
}

/// As in `payload.n >= 5 is false: 3 >= 5`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.text;
        match (&self.failure, &self.sides) {
            (Some(failure), _) => write!(f, "{text} fails: {failure}"),
            (None, Some((left, operator, right))) => write!(f, "{text} is false: {left} {operator} {right}"),
            (None, None) => write!(f, "{text} is false"),
        }
    }
}

impl Rules {
    /// Explains the rules that a message passed before it came to the one that matched, or past all.
    pub fn explain(&self, message: &Message<'_>, now: Timestamp) -> Vec<Explained> {
        let subject = Subject::new(message, self.topic().as_str(), now);
        let mut explained = Vec::new();
        let mut evaluation = Evaluation::new(subject, self.fields());
        for rule in self.iter() {
            // What decides is judged in the same order and with the same work as in `judge`
            let outcome = rule.matches(&mut evaluation);
            if matches!(outcome, Ok(Some(_))) {
                break;
            }
            let mut parts = Vec::new();
            if let Some(condition) = rule.condition() {
                let mut again = Evaluation::new(subject, self.fields());
                blame(condition, &mut again, &mut parts);
            }
            if let (Err(fault), true) = (&outcome, parts.is_empty()) {
                parts.push(Part { text: "set".into(), failure: Some(fault.to_string()), sides: None });
            }
            explained.push(Explained { rule: rule.name().to_owned(), parts });
            if outcome.is_err_and(|fault| self.decides(&fault)) {
                break;
            }
        }
        explained
    }
}

/// Adds those parts of `node` because of which it is not true.
fn blame<'a>(node: &'a Node, evaluation: &mut Evaluation<'a>, parts: &mut Vec<Part>) {
    match node {
        Node::And(left, right) => {
            let before = parts.len();
            blame(left, evaluation, parts);
            if parts.len() == before {
                blame(right, evaluation, parts);
            } else if parts[before..].iter().any(|part| part.failure.is_some()) {
                // False on the right decides, whatever fails on the left
                let mut decisive = Vec::new();
                blame(right, evaluation, &mut decisive);
                if !decisive.is_empty() && decisive.iter().all(|part| part.failure.is_none()) {
                    parts.truncate(before);
                    parts.append(&mut decisive);
                }
            }
        }
        Node::Or(left, right) => {
            if !matches!(evaluation.value(node), Ok(Value::Bool(true))) {
                blame(left, evaluation, parts);
                blame(right, evaluation, parts);
            }
        }
        _ => match evaluation.value(node) {
            Ok(Value::Bool(true)) => {}
            outcome => parts.push(Part {
                text: node.to_string(),
                failure: match outcome {
                    Ok(Value::Bool(_)) => None,
                    Ok(_) => Some("is neither true nor false".into()),
                    Err(fault) => Some(fault.to_string()),
                },
                sides: sides(node, evaluation),
            }),
        },
    }
}

fn sides<'a>(node: &'a Node, evaluation: &mut Evaluation<'a>) -> Option<(String, &'static str, String)> {
    let Node::Binary(operator, left, right) = node else { return None };
    let (left, right) = (evaluation.value(left).ok()?, evaluation.value(right).ok()?);
    operator.compares().then(|| (shown(&left), operator.symbol(), shown(&right)))
}

/// A value as JSON, cut where it is long.
fn shown(value: &Value<'_>) -> String {
    let json = serde_json::to_string(value).unwrap_or_else(|_| value.kind().to_owned());
    match json.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json,
    }
}
