//! The header with which a journey begins.

use uuid::Uuid;

use crate::bus::Topic;

/// A route to set out on, its header prepared once.
#[derive(Clone, Debug)]
pub struct Itinerary {
    pub(super) stops: std::sync::Arc<[Topic]>,
    pub(super) header: std::sync::Arc<str>,
}

impl Itinerary {
    /// The route through `stops`, in the order of travel.
    pub fn new(stops: &[Topic]) -> Self {
        Self::with(stops, "")
    }

    /// The same, naming the rule that chose it and the hash of the rules that it is one of: texts that JSON takes as
    /// they are.
    pub(crate) fn ruled(stops: &[Topic], rule: &str, rules: &str) -> Self {
        Self::with(stops, &format!(r#""rule":"{rule}","rules":"{rules}","#))
    }

    /// With `fields` of the header, each with a comma behind it.
    fn with(stops: &[Topic], fields: &str) -> Self {
        let quoted = |stop: &Topic| format!("\"{stop}\"");
        let stack: Vec<_> = stops.iter().rev().map(quoted).collect();
        let left = &stack[..stack.len().saturating_sub(1)];
        let travelled: Vec<_> = stops.iter().take(1).map(quoted).collect();
        let header = format!(
            r#"{{"header":{{"route":[{}],"original_route":[{}],"historical_route":[{}],{fields}"id":""#,
            left.join(","),
            stack.join(","),
            travelled.join(",")
        );
        Self { stops: stops.into(), header: header.into() }
    }

    /// The field `rule` of the header, whose text stands there as it is. Names of stops have no quotes, so it is no part of
    /// another field.
    pub(super) fn rule(&self) -> Option<&str> {
        const FIELD: &str = "\"rule\":\"";
        let start = memchr::memmem::find(self.header.as_bytes(), FIELD.as_bytes())? + FIELD.len();
        self.header[start..].split('"').next()
    }

    pub(super) fn write_departed(&self, id: Uuid, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header.as_bytes());
        let mut buffer = Uuid::encode_buffer();
        out.extend_from_slice(id.hyphenated().encode_lower(&mut buffer).as_bytes());
        out.extend_from_slice(b"\"},\"payload\":");
    }
}
