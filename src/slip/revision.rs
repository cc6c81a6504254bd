//! What a handler makes of the rest of a route.

use serde::Serialize;

use super::{Limits, Stops, header::Slip};
use crate::{bus::Topic, json::Object};

/// A change of the stops that are still ahead of a message; those that it has called at stay as they are. Stops are in
/// the order of travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revision {
    /// These first, then what was ahead before.
    Insert(Vec<Topic>),
    /// These, and none of what was ahead before.
    Replace(Vec<Topic>),
    /// None: its journey ends here.
    End,
}

/// What was revised at one stop.
#[derive(Clone, Debug, Default)]
pub(super) struct Revised {
    /// Before what is left of the route as it came, in the order of travel.
    ahead: Vec<Topic>,
    /// The route as it came is not to be gone on with.
    left: bool,
    done: Vec<Revision>,
}

impl Revised {
    pub fn add(&mut self, revision: Revision) {
        match &revision {
            Revision::Insert(stops) => _ = self.ahead.splice(0..0, stops.iter().cloned()),
            Revision::Replace(stops) => (self.ahead, self.left) = (stops.clone(), true),
            Revision::End => (self.ahead, self.left) = (Vec::new(), true),
        }
        self.done.push(revision);
    }

    /// The next stop, `next` being that of the route as it came.
    pub fn next<'a>(&'a self, next: Option<&'a Topic>) -> Option<&'a Topic> {
        self.ahead.first().or(next.filter(|_| !self.left))
    }

    /// Why the route cannot be gone on with.
    pub fn refused(&self, slip: &Slip<'_>, limits: &Limits, stops: &Stops) -> Option<String> {
        let named = self.done.iter().flat_map(Revision::stops);
        if let Some(stop) = named.into_iter().find(|stop| !stops.has(stop)) {
            return Some(format!("revised to an unknown stop: no stop here reads {stop} and `stops` does not list it"));
        }
        let rest = if self.left { 0 } else { slip.route.length };
        let hops = slip.travelled().saturating_add(rest).saturating_add(self.ahead.len());
        if hops > limits.hops {
            let limit = limits.hops;
            return Some(format!("revised to too long a route: {hops} hops, more than limits.hops = {limit}"));
        }
        match Object::new(slip.header).find(REVISIONS) {
            Some(raw) if !raw.starts_with('[') => Some("revised a slip whose `revisions` is not a list".into()),
            _ => None,
        }
    }

    /// The fields of the header that change as the stop called `by` sends the message on, and their values in JSON.
    pub fn fields(&self, slip: &Slip<'_>, by: &str) -> [(&'static str, String); 3] {
        let (mut route, mut history) = ("[]", "[]");
        let (mut revisions, mut next) = ("[]", None);
        if !self.left {
            (route, next) = (slip.route.raw, slip.route.last.map(str::to_owned));
        }
        if let Some(list) = &slip.history {
            history = list.raw;
        }
        if let Some(raw) = Object::new(slip.header).find(REVISIONS) {
            revisions = raw;
        }
        let (mut route, mut history, mut revisions) = (route.to_owned(), history.to_owned(), revisions.to_owned());
        if let [first, behind @ ..] = self.ahead.as_slice() {
            behind.iter().rev().for_each(|stop| push(&mut route, &quoted(stop)));
            next = Some(quoted(first));
        } else if !self.left {
            route.truncate(slip.route.before_last);
            route.push(']');
        }
        next.into_iter().for_each(|stop| push(&mut history, &stop));
        for revision in &self.done {
            push(&mut revisions, &revision.json(by, slip.travelled()));
        }
        [("route", route), ("historical_route", history), (REVISIONS, revisions)]
    }
}

/// The header's field that keeps them.
const REVISIONS: &str = "revisions";

impl Revision {
    fn stops(&self) -> &[Topic] {
        match self {
            Self::Insert(stops) | Self::Replace(stops) => stops,
            Self::End => &[],
        }
    }

    /// What the slip keeps: which stop did what behind the hop of which number. As in `route`, the next stop is the last.
    fn json(&self, by: &str, hop: usize) -> String {
        #[derive(Serialize)]
        struct Kept<'a> {
            stop: &'a str,
            hop: usize,
            #[serde(skip_serializing_if = "Option::is_none")]
            insert: Option<Vec<&'a str>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            replace: Option<Vec<&'a str>>,
        }
        let stack = Some(self.stops().iter().rev().map(Topic::as_str).collect());
        let (insert, replace) = if matches!(self, Self::Insert(_)) { (stack, None) } else { (None, stack) };
        serde_json::to_string(&Kept { stop: by, hop, insert, replace }).unwrap_or_default()
    }
}

fn quoted(stop: &Topic) -> String {
    format!("\"{stop}\"")
}

/// Appends an element to a JSON list.
fn push(list: &mut String, element: &str) {
    list.pop();
    list.truncate(list.trim_ascii_end().len());
    if list.len() > 1 {
        list.push(',');
    }
    list.push_str(element);
    list.push(']');
}
