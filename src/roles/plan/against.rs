//! Two rule sets over the same messages: what a change of rules would do.

use std::{collections::HashMap, io::Write};

use anyhow::Result;
use serde_json::{Value, json, value::RawValue};

use super::{End, Place};
use crate::{
    bus::Record,
    rules::{Action, Judgement, Outcome, Rules, Timestamp},
    slip::{Malformed, Message},
};

/// Messages that are shown of each change.
const SAMPLES: usize = 3;

/// Longest text of a sample, in characters.
const SHOWN: usize = 120;

/// Counts what becomes of messages by the old and the new rules.
pub struct Comparison<'a> {
    old: &'a Rules,
    new: &'a Rules,
    same: u64,
    /// What is no message to either.
    malformed: u64,
    changes: HashMap<[String; 2], Change>,
}

#[derive(Default)]
struct Change {
    count: u64,
    samples: Vec<Sample>,
    ends: [Vec<(&'static str, Value)>; 2],
    rules: [Option<String>; 2],
}

struct Sample {
    place: Place,
    text: String,
}

impl<'a> Comparison<'a> {
    pub fn new(old: &'a Rules, new: &'a Rules) -> Self {
        Self { old, new, same: 0, malformed: 0, changes: HashMap::new() }
    }

    pub fn add(&mut self, message: Result<&Message<'_>, Malformed>, now: Timestamp, place: Place, record: Record<'_>) {
        let Ok(message) = message else {
            self.malformed += 1;
            return;
        };
        let judged = [self.old.judge(message, now), self.new.judge(message, now)];
        if is_same(&judged) {
            self.same += 1;
            return;
        }
        let ends = judged.each_ref().map(End::new);
        let text = |i: usize| format!("{}: {}", judged[i].rule_name().unwrap_or("-"), ends[i].text());
        let texts = [text(0), text(1)];
        let change = self.changes.entry(texts).or_insert_with(|| Change {
            ends: ends.each_ref().map(End::fields),
            rules: judged.each_ref().map(|judged| judged.rule_name().map(str::to_owned)),
            ..Change::default()
        });
        change.count += 1;
        if change.samples.len() < SAMPLES {
            let value = String::from_utf8_lossy(record.value.unwrap_or_default());
            let text = match value.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("{}…", &value[..end]),
                None => value.into_owned(),
            };
            change.samples.push(Sample { place, text });
        }
    }

    pub fn print(self, out: &mut impl Write, json: bool) -> Result<()> {
        let mut changes: Vec<_> = self.changes.into_iter().collect();
        changes.sort_by(|(a, one), (b, other)| other.count.cmp(&one.count).then(a.cmp(b)));
        let changed: u64 = changes.iter().map(|(_, change)| change.count).sum();
        if json {
            for (_, change) in &changes {
                let side = |i: usize| {
                    let mut side = serde_json::Map::from_iter([("rule".to_owned(), json!(change.rules[i]))]);
                    side.extend(change.ends[i].iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
                    Value::Object(side)
                };
                let samples: Vec<_> = change
                    .samples
                    .iter()
                    .map(|sample| format!("{{{},\"value\":{}}}", sample.place.fields(), json!(sample.text)))
                    .collect();
                let (old, new, count) = (side(0), side(1), change.count);
                writeln!(out, "{{\"count\":{count},\"old\":{old},\"new\":{new},\"samples\":[{}]}}", samples.join(","))?;
            }
            let (same, malformed) = (self.same, self.malformed);
            return Ok(writeln!(out, "{{\"changed\":{changed},\"same\":{same},\"malformed\":{malformed}}}")?);
        }
        for ([old, new], change) in &changes {
            writeln!(out, "{} change\n  from {old}\n  to   {new}", change.count)?;
            for sample in &change.samples {
                writeln!(out, "    {}  {}", sample.place, sample.text)?;
            }
        }
        let malformed = match self.malformed {
            0 => String::new(),
            count => format!(", {count} are no messages"),
        };
        Ok(writeln!(out, "{changed} change, {} go as before{malformed}", self.same)?)
    }
}

/// Whether the message comes to the same end with the same fields, whichever rule sees to it.
fn is_same(judged: &[Judgement<'_>; 2]) -> bool {
    match judged.each_ref().map(|judged| &judged.outcome) {
        [Outcome::Matched(Action::Route(old), before), Outcome::Matched(Action::Route(new), after)] => {
            let set = |fields: &[(&str, Box<RawValue>)]| -> Vec<_> {
                fields.iter().map(|(name, value)| ((*name).to_owned(), value.get().to_owned())).collect()
            };
            old == new && before.len() == after.len() && (before.is_empty() || set(before) == set(after))
        }
        _ => {
            let [old, new] = judged.each_ref().map(End::new);
            old == new
        }
    }
}
