//! The header with which a journey begins.

use sha2::{Digest, Sha256};
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

    /// In the order of travel.
    pub fn stops(&self) -> &[Topic] {
        &self.stops
    }

    /// The field `rule` of the header, whose text stands there as it is. Names of stops have no quotes, so it is no part of
    /// another field.
    pub(super) fn rule(&self) -> Option<&str> {
        const FIELD: &str = "\"rule\":\"";
        let start = memchr::memmem::find(self.header.as_bytes(), FIELD.as_bytes())? + FIELD.len();
        self.header[start..].split('"').next()
    }

    /// Appends the value up to its payload.
    fn write(&self, id: Uuid, parent: Option<Uuid>, deadline: Option<i64>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.header.as_bytes());
        write_id(id, out);
        out.push(b'"');
        if let Some(parent) = parent {
            out.extend_from_slice(b",\"parent\":\"");
            write_id(parent, out);
            out.push(b'"');
        }
        if let Some(deadline) = deadline {
            out.extend_from_slice(format!(",\"deadline\":{deadline}").as_bytes());
        }
        out.extend_from_slice(b"},\"payload\":");
    }
}

fn write_id(id: Uuid, out: &mut Vec<u8>) {
    let mut buffer = Uuid::encode_buffer();
    out.extend_from_slice(id.hyphenated().encode_lower(&mut buffer).as_bytes());
}

/// The beginning of a journey.
#[derive(Clone, Debug)]
pub(super) struct Departure {
    pub itinerary: Itinerary,
    pub id: Uuid,
    /// Milliseconds since the epoch.
    pub deadline: Option<i64>,
}

impl Departure {
    /// Appends the value up to its payload.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.itinerary.write(self.id, None, self.deadline, out);
    }
}

/// A copy of a message, on a route of its own.
pub(crate) struct Copy<'a> {
    pub id: Uuid,
    /// The id of the message that it is a copy of.
    pub parent: Uuid,
    itinerary: &'a Itinerary,
    deadline: Option<i64>,
}

impl<'a> Copy<'a> {
    /// The copy of that number, from 0.
    pub(super) fn new(parent: &Departure, itinerary: &'a Itinerary, number: usize) -> Self {
        Self { id: copy_id(parent.id, number), parent: parent.id, itinerary, deadline: parent.deadline }
    }

    /// Its first stop.
    pub fn next_stop(&self) -> Option<&'a Topic> {
        self.itinerary.stops.first()
    }

    /// Appends the value up to its payload.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        self.itinerary.write(self.id, Some(self.parent), self.deadline, out);
    }
}

/// The id of the copy of that number: the same each time, and of the same time as its parent's, so that ids of one time
/// lie together. The rest is SHA-256 over both, but for the variant.
fn copy_id(parent: Uuid, number: usize) -> Uuid {
    let mut digest = Sha256::new();
    digest.update(parent.as_bytes());
    digest.update((number as u64).to_le_bytes());
    let digest = digest.finalize();
    let mut bytes = parent.into_bytes();
    bytes[8..].copy_from_slice(&digest[..8]);
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid::from_bytes(bytes)
}
