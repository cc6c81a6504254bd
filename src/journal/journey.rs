//! The hops of one message, put together.

use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{Table, presets::NOTHING};
use serde_json::{Value, json};

use super::{Outcome, PARENT, index::Found};
use crate::terminal::{drawn, plain, span};

/// One message's way, in the order in which things happened.
#[derive(Clone, Debug)]
pub struct Journey {
    /// Its id; of a message that has none, what else was asked for.
    pub name: String,
    hops: Vec<Found>,
    /// The ids of its copies, where somebody has looked for them.
    pub copies: Vec<String>,
}

impl Journey {
    /// `None` where there are no hops.
    pub fn new(name: impl Into<String>, mut hops: Vec<Found>) -> Option<Self> {
        // Clocks of several machines may differ; what a stop forwards it has begun before the next one does
        hops.sort_by_key(|hop| hop.time);
        (!hops.is_empty()).then(|| Self { name: name.into(), hops, copies: Vec::new() })
    }

    /// When it was begun, as far as it is known; microseconds since the epoch.
    pub fn began(&self) -> i64 {
        self.hops.first().map_or(0, |hop| hop.time)
    }

    fn last(&self) -> Option<&Found> {
        self.hops.last()
    }

    /// Where it is, in a sentence.
    pub fn state(&self) -> String {
        let Some(last) = self.last() else { return String::new() };
        let reason = last.reason.as_deref().map(|reason| format!(": {}", plain(reason))).unwrap_or_default();
        let (stop, next) = (&last.stop, last.next.as_deref().unwrap_or_default());
        match last.outcome {
            Outcome::Forwarded => format!("on its way: {stop} sent it to {next}, where nothing is noted of it yet"),
            Outcome::Finished => format!("finished at {stop}"),
            Outcome::Dropped => format!("dropped at {stop}{reason}"),
            Outcome::Rejected => format!("rejected at {stop}, to {next}{reason}"),
            // Where journeys begin it is given one
            Outcome::Replayed if last.id.is_none() => format!("replayed to {next}; from there it may go by an id"),
            Outcome::Replayed => format!("on its way: replayed to {next}, where nothing is noted of it yet"),
            Outcome::Discarded => format!("discarded, after {stop} had rejected it{reason}"),
        }
    }

    /// Between the end of the hop before and this one, in microseconds, where clocks allow to tell.
    fn waits(&self) -> impl Iterator<Item = Option<u64>> {
        let ends = self.hops.iter().map(|hop| hop.time.saturating_add(i64::from(hop.took)));
        let before = std::iter::once(None).chain(ends.map(Some));
        let wait = |(hop, before): (&Found, Option<i64>)| Some(hop.time.saturating_sub(before?).max(0) as u64);
        self.hops.iter().zip(before).map(wait)
    }

    /// The message that this one is a copy of.
    fn parent(&self) -> Option<&str> {
        let mut fields = self.hops.iter().flat_map(|hop| &hop.fields);
        fields.find(|(name, _)| name == PARENT).map(|(_, id)| id.as_str())
    }

    /// What is known of it beside its hops: kin, keys and fields.
    fn marks(&self) -> Vec<String> {
        let mut marks: Vec<_> = self.parent().map(|id| format!("copy of {}", plain(id))).into_iter().collect();
        marks.extend(self.copies.iter().map(|id| format!("copied as {}", plain(id))));
        for hop in &self.hops {
            let key = hop.key.as_ref().map(|key| format!("key {}", plain(&String::from_utf8_lossy(key))));
            let fields = hop.fields.iter().filter(|(name, _)| name != PARENT);
            let fields = fields.map(|(name, value)| format!("{} {}", plain(name), plain(value)));
            for mark in key.into_iter().chain(fields) {
                if !marks.contains(&mark) {
                    marks.push(mark);
                }
            }
        }
        marks
    }

    /// As a text of several lines.
    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["TIME (UTC)", "STOP", "RECORD", "WAITED", "TOOK", "ATTEMPTS", "WHAT"]);
        for (hop, wait) in self.hops.iter().zip(self.waits()) {
            table.add_row([
                moment(hop.time),
                hop.stop.clone(),
                hop.place(),
                wait.map_or_else(|| "-".to_owned(), span),
                span(hop.took.into()),
                hop.attempts.to_string(),
                what(hop),
            ]);
        }
        // Where it is called by one of its marks, that is told once
        let name = plain(&self.name);
        let marks: String = self.marks().into_iter().filter(|mark| *mark != name).map(|mark| mark + "\n").collect();
        format!("{name}\n{marks}{}\n\n{}", self.state(), drawn(table, 3..6))
    }

    /// As an object.
    pub fn json(&self) -> Value {
        let hops = self.hops.iter().zip(self.waits()).map(|(hop, wait)| {
            json!({
                "time": moment(hop.time),
                "stop": hop.stop,
                "topic": hop.topic,
                "partition": hop.partition,
                "offset": hop.offset,
                "waited_us": wait,
                "took_us": hop.took,
                "attempts": hop.attempts,
                "verdict": hop.outcome,
                "reason": hop.reason,
                "next": hop.next,
                "rule": hop.rule,
                "key": hop.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned()),
                "what": what(hop),
                "fields": hop.fields.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            })
        });
        let last = self.last();
        json!({
            "id": self.name,
            "state": self.state(),
            "verdict": last.map(|hop| hop.outcome),
            "ended": last.is_some_and(|hop| hop.outcome.is_end()),
            "stop": last.map(|hop| &hop.stop),
            "reason": last.and_then(|hop| hop.reason.as_ref()),
            "next": last.and_then(|hop| hop.next.as_ref()),
            "parent": self.parent(),
            "copies": self.copies,
            "hops": hops.collect::<Vec<_>>(),
        })
    }
}

fn what(hop: &Found) -> String {
    let rule = hop.rule.as_deref().map(|rule| format!(" (rule {})", plain(rule))).unwrap_or_default();
    let reason = hop.reason.as_deref().map(|reason| format!(": {}", plain(reason))).unwrap_or_default();
    match (hop.outcome, &hop.next) {
        (Outcome::Forwarded, Some(next)) => format!("to {next}{rule}{reason}"),
        (Outcome::Rejected, Some(next)) => format!("rejected, to {next}{reason}{rule}"),
        (Outcome::Replayed, Some(next)) => format!("replayed to {next}, {} time{rule}", ordinal(hop.attempts)),
        (outcome, _) => format!("{outcome}{reason}{rule}"),
    }
}

/// 1st, 2nd, 3rd, …
fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

/// The last moment of the year 9999; entries may say anything.
const LAST_MOMENT: i64 = 253_402_300_799_999_999;

fn moment(time: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_micros(time.clamp(0, LAST_MOMENT) as u64);
    humantime::format_rfc3339_micros(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(stop: &str, time: i64, outcome: Outcome) -> Found {
        let text = |text: &str| Some(text.to_owned());
        let (reason, next) = match outcome {
            Outcome::Forwarded => (None, text("Next")),
            Outcome::Finished => (None, None),
            Outcome::Dropped => (text("unknown\u{1b}[2J"), None),
            Outcome::Rejected => (text("broken"), text("Error")),
            Outcome::Replayed => (text("broken"), text("Next")),
            Outcome::Discarded => (text("broken"), None),
        };
        Found {
            id: text("7"),
            stop: stop.to_owned(),
            topic: "In".to_owned(),
            partition: 1,
            offset: 5,
            time,
            took: 1500,
            outcome,
            attempts: 2,
            reason,
            next,
            rule: text("rest"),
            key: Some(b"k\n\xff".to_vec()),
            fields: vec![("account".to_owned(), "5".to_owned())],
        }
    }

    #[test]
    fn a_timeline_is_in_order_and_moves_no_cursor() {
        let hops = vec![hop("second", 61_000_000, Outcome::Dropped), hop("first", 1_000_000, Outcome::Forwarded)];
        let text = Journey::new("7", hops).unwrap().text();
        let expected = "\
7
key k\u{fffd}\u{fffd}
account 5
dropped at second: unknown\u{fffd}[2J

TIME (UTC)                   STOP    RECORD  WAITED    TOOK  ATTEMPTS  WHAT
1970-01-01T00:00:01.000000Z  first   In/1/5       -  1.5 ms         2  to Next (rule rest)
1970-01-01T00:01:01.000000Z  second  In/1/5  60.0 s  1.5 ms         2  dropped: unknown\u{fffd}[2J (rule rest)
";
        assert_eq!(text, expected);
    }

    #[test]
    fn it_says_where_a_message_is() {
        for (outcome, expected) in [
            (Outcome::Forwarded, "on its way: a sent it to Next, where nothing is noted of it yet"),
            (Outcome::Finished, "finished at a"),
            (Outcome::Rejected, "rejected at a, to Error: broken"),
            (Outcome::Replayed, "on its way: replayed to Next, where nothing is noted of it yet"),
            (Outcome::Discarded, "discarded, after a had rejected it: broken"),
        ] {
            let journey = Journey::new("7", vec![hop("a", 0, outcome)]).unwrap();
            assert_eq!(journey.state(), expected);
            let json = journey.json();
            assert_eq!((&json["verdict"], &json["ended"]), (&json!(outcome.name()), &json!(outcome.is_end())));
        }
        assert!(Journey::new("7", Vec::new()).is_none());
    }

    #[test]
    fn a_replay_is_told_with_how_often_it_was() {
        let told = |outcome, attempts| what(&Found { attempts, rule: None, ..hop("a", 0, outcome) });
        assert_eq!(told(Outcome::Replayed, 2), "replayed to Next, 2nd time");
        assert_eq!(told(Outcome::Discarded, 1), "discarded: broken");
        let all: Vec<_> = [1, 3, 4, 11, 12, 13, 21, 102, 111].map(ordinal).into();
        assert_eq!(all, ["1st", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]);
    }

    #[test]
    fn clocks_that_differ_make_no_wait_below_zero() {
        let hops = vec![
            hop("a", 0, Outcome::Forwarded),
            hop("b", 100, Outcome::Forwarded),
            hop("c", i64::MAX, Outcome::Finished),
        ];
        let journey = Journey::new("7", hops).unwrap();
        assert_eq!(journey.waits().take(2).collect::<Vec<_>>(), [None, Some(0)]);
        journey.text();
    }
}
