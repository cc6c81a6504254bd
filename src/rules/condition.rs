//! One condition on its own, over one object that it knows as `data`.

use super::{
    compile::{self, Fields, Wrong},
    evaluate::{Evaluation, Subject},
    node::{Names, Node, Root},
    value::Fault,
};
use crate::json::Object;

/// To the evaluation it is a payload.
const NAMES: Names = &[("data", Root::Payload)];

/// A compiled condition, and the fields that it names.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    node: Node,
    fields: Fields,
}

impl Condition {
    /// Compiles it; the error says what is wrong and where.
    pub fn new(text: &str) -> Result<Self, Wrong> {
        let mut fields = Fields::default();
        let node = compile::condition(text, NAMES, &mut fields)?;
        Ok(Self { node, fields })
    }

    /// Whether it holds for an object.
    pub fn holds<'a>(&'a self, data: Object<'a>) -> Result<bool, Fault<'a>> {
        Evaluation::new(Subject::payload(data), &self.fields).holds(&self.node)
    }
}
