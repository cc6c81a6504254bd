//! `metrobus plan`: what the busdriver would do with messages, by the same rules and the same code.

mod against;
mod messages;

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    path::PathBuf,
};

use anyhow::Result;
use clap::{ArgGroup, Args, Command, FromArgMatches};
use serde_json::{Value, json};

use super::{Context, Kind, Role};
use crate::{
    bus::{Record, Topic},
    cli::count,
    json::scan::Tape,
    rules::{self, Action, Assignments, Explained, Judgement, Outcome, Part, Routing, Rules, Timestamp},
    slip::{Checked, Limits, Malformed, Message, Parts},
};
use against::Comparison;
use messages::{Messages, Place};

pub const ROLE: Role = Role {
    name: "plan",
    about: "Tell which rule and route messages would get, or what a change of rules would do",
    kind: Kind::Command { arguments, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// Messages to plan, a JSON object a line (NDJSON); - is standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Plan the last records of a topic instead; only their payload counts, whatever slip they have
    #[arg(long, value_name = "TOPIC", value_parser = Topic::new)]
    from: Option<Topic>,
    /// Records of the topic, all partitions together
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = count, allow_negative_numbers = true)]
    last: u64,
    /// Field of a line whose value is the record's key, as with the pusher; '' is none
    #[arg(long, value_name = "FIELD", default_value = "account_number")]
    key: String,
    /// Tell of each rule before which part of its condition failed, and on what values
    #[arg(long)]
    explain: bool,
    /// Print an object a line: place, rule, route, drop or reject, and what else there is to tell
    #[arg(long)]
    json: bool,
    /// Compare with the rules of another configuration: how many messages go another way, and samples of them
    #[arg(long, value_name = "NEW.toml", conflicts_with = "explain")]
    against: Option<PathBuf>,
}

fn arguments(command: Command) -> Command {
    Arguments::augment_args(command).group(ArgGroup::new("messages").args(["file", "from"]).required(true))
}

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let rules = Rules::new(&context.config)?;
    let mut messages = match (&arguments.from, &arguments.file) {
        (Some(topic), _) => Messages::of_topic(topic, arguments.last, context)?,
        (None, file) => Messages::of_file(file.as_deref(), &arguments.key, context)?,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    if let Some(file) = &arguments.against {
        let new = Rules::new(&context.config.of_file(Some(file))?)?;
        let mut comparison = Comparison::new(&rules, &new);
        let mut planner = Planner::new(context.config.limits);
        messages.each(|_, record, place| {
            planner.plan(record, |message, now| comparison.add(message, now, place, record));
            Ok(())
        })?;
        comparison.print(&mut out, arguments.json)?;
        return Ok(out.flush()?);
    }
    if io::stdout().is_terminal() {
        messages = messages.quietly();
    }
    let mut planner = Planner::new(context.config.limits);
    messages.each(|more, record, place| {
        planner.plan(record, |message, now| {
            let planned = Planned::new(&rules, message, now, arguments.explain);
            if arguments.json { planned.json(place, &mut out) } else { planned.text(place, &mut out) }
        })?;
        // Who pipes a message in sees what becomes of it
        if more { Ok(()) } else { Ok(out.flush()?) }
    })?;
    Ok(out.flush()?)
}

/// Takes records apart as the busdriver does.
struct Planner {
    limits: Limits,
    tape: Tape,
    now: Timestamp,
}

impl Planner {
    fn new(limits: Limits) -> Self {
        Self { limits, tape: Tape::default(), now: rules::now() }
    }

    /// What `judge` says of the record, be it a message or not.
    fn plan<T>(
        &mut self,
        record: Record<'_>,
        judge: impl FnOnce(Result<&Message<'_>, Malformed>, Timestamp) -> T,
    ) -> T {
        self.tape.clear();
        let checked = Checked::new(record.value, &self.limits, &mut self.tape);
        let parts = checked.and_then(|checked| Parts::new(&checked, Some(&self.tape)));
        match parts.and_then(|parts| Message::at_its_beginning(record, parts)) {
            Ok(message) => judge(Ok(&message), self.now),
            Err(malformed) => judge(Err(malformed), self.now),
        }
    }
}

/// What becomes of one message.
struct Planned<'a> {
    rule: Option<&'a str>,
    /// As a person and a program read it.
    end: End<'a>,
    set: Assignments<'a>,
    failures: Vec<String>,
    explained: Vec<Explained>,
}

#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    Route(&'a Routing),
    Drop(String),
    Reject(String),
}

impl<'a> End<'a> {
    fn new(judgement: &Judgement<'a>) -> Self {
        match &judgement.outcome {
            Outcome::Matched(Action::Route(routing), _) => Self::Route(routing),
            Outcome::Matched(Action::Drop(reason), _) => Self::Drop(reason.clone()),
            _ => Self::Reject(judgement.reason().unwrap_or_default()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Route(routing) => routing.text(),
            Self::Drop(reason) => format!("dropped: {reason}"),
            Self::Reject(reason) => format!("rejected: {reason}"),
        }
    }

    /// As fields of a JSON object.
    fn fields(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Route(routing) => {
                let names = |stops: &[Topic]| stops.iter().map(Topic::as_str).collect::<Value>();
                let mut fields = vec![("route", names(routing.stops()))];
                if routing.copies().len() > 0 {
                    fields.push(("copies", routing.copies().map(names).collect()));
                }
                let deadline = routing.deadline().map(|deadline| humantime::format_duration(deadline).to_string());
                fields.extend(deadline.map(|deadline| ("deadline", json!(deadline))));
                fields
            }
            Self::Drop(reason) => vec![("drop", json!(reason))],
            Self::Reject(reason) => vec![("reject", json!(reason))],
        }
    }
}

impl<'a> Planned<'a> {
    fn new(rules: &'a Rules, message: Result<&Message<'a>, Malformed>, now: Timestamp, explain: bool) -> Self {
        let message = match message {
            Ok(message) => message,
            Err(malformed) => {
                let end = End::Reject(malformed.to_string());
                return Self { rule: None, end, set: Vec::new(), failures: Vec::new(), explained: Vec::new() };
            }
        };
        let explained = if explain { rules.explain(message, now) } else { Vec::new() };
        let judgement = rules.judge(message, now);
        let end = End::new(&judgement);
        let failures = judgement.failures.iter().map(ToString::to_string).collect();
        let rule = judgement.rule_name();
        let set = match judgement.outcome {
            Outcome::Matched(_, set) => set,
            _ => Vec::new(),
        };
        Self { rule, end, set, failures, explained }
    }

    fn text(&self, place: Place, out: &mut impl Write) -> Result<()> {
        write!(out, "{place}  {}  {}", self.rule.unwrap_or("-"), self.end.text())?;
        for (i, (name, value)) in self.set.iter().enumerate() {
            write!(out, "{}{name} = {value}", if i == 0 { "  with " } else { ", " })?;
        }
        writeln!(out)?;
        for explained in &self.explained {
            for part in &explained.parts {
                writeln!(out, "    not {}: {part}", explained.rule)?;
            }
        }
        if self.explained.is_empty() {
            for failure in &self.failures {
                writeln!(out, "    {failure}")?;
            }
        }
        Ok(())
    }

    fn json(&self, place: Place, out: &mut impl Write) -> Result<()> {
        write!(out, "{{{},\"rule\":{}", place.fields(), json!(self.rule))?;
        for (name, value) in self.end.fields() {
            write!(out, ",\"{name}\":{value}")?;
        }
        if !self.set.is_empty() {
            let set: Vec<_> = self.set.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
            write!(out, ",\"set\":{{{}}}", set.join(","))?;
        }
        if !self.failures.is_empty() {
            write!(out, ",\"failures\":{}", json!(self.failures))?;
        }
        if !self.explained.is_empty() {
            let part = |part: &Part| {
                let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
                let sides = part.sides.as_ref();
                let sides = sides.map(|(left, operator, right)| json!([value(left), operator, value(right)]));
                json!({"part": part.text, "values": sides, "failure": part.failure})
            };
            let rule = |explained: &Explained| json!({"rule": explained.rule, "failed": explained.parts.iter().map(part).collect::<Vec<_>>()});
            write!(out, ",\"explain\":{}", Value::Array(self.explained.iter().map(rule).collect()))?;
        }
        Ok(writeln!(out, "}}")?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{bus::Headers, config::Config, handler::Verdict};

    fn rules() -> impl Strategy<Value = String> {
        let condition = prop_oneof![
            (0..5).prop_map(|n| format!("payload.a > {n}")),
            (0..5).prop_map(|n| format!("payload.b.size() == {n} || payload.a == {n}")),
            Just("has(payload.a) && payload.a != payload.b".to_owned()),
            Just("payload.a.exists(x, x == 1)".to_owned()),
        ];
        let end = prop_oneof![
            Just("route = [\"Log\"]\nset = { s = 'payload.b' }"),
            Just("route = [\"AddEmail\", \"Log\"]\ncopies = [[\"Log\"], [\"WhiteList\", \"Log\"]]"),
            Just("route = [\"AddEmail\"]\ncopies = [[\"AddEmail\"]]\ndeadline = \"90s\""),
            Just("drop = \"unwanted: it\""),
            Just("reject = \"odd\""),
        ];
        let rule = |(i, (when, end)): (usize, (String, &str))| {
            format!("[[busdriver.rule]]\nname = \"r{i}\"\nwhen = \"{when}\"\n{end}\n")
        };
        let rules = proptest::collection::vec((condition, end), 1..5);
        (rules, prop_oneof![Just("next"), Just("reject")]).prop_map(move |(rules, on_error)| {
            let rules: String = rules.into_iter().enumerate().map(rule).collect();
            format!("busdriver.on_error = \"{on_error}\"\n{rules}")
        })
    }

    proptest! {
        #[test]
        fn what_is_planned_is_what_the_busdriver_does(
            toml in rules(),
            a in "[0-5]|\"[a-c]{0,3}\"|\\[1?\\]|null",
            b in "[0-5]|\"[a-c]{0,3}\"|\\[1?\\]|null",
            whole in "\\{\"a\":A,\"b\":B\\}|\\{\"b\":B\\}|\\{\\}|\\{\"header\":\\{\"route\":\\[\"X\"\\]\\},\"payload\":\\{\"a\":A\\}\\}|\\[A\\]",
        ) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("rules.toml");
            std::fs::write(&file, toml).unwrap();
            let rules = Rules::new(&Config::load(Some(&file), [("", "")]).unwrap()).unwrap();
            let value = whole.replace('A', &a).replace('B', &b);
            let value = Some(value.as_bytes());
            let headers = Headers::default();
            let record = Record { partition: 0, offset: 0, timestamp: 0, key: None, headers, value };
            let limits = Limits::default();
            let (mut planned, mut now) = (Vec::new(), Timestamp(0));
            Planner::new(limits).plan(record, |message, at| {
                now = at;
                Planned::new(&rules, message, now, true).json(Place::Line(1), &mut planned).unwrap();
            });
            let planned: Value = serde_json::from_slice(&planned).unwrap();
            let done = match Message::parse_untrusted(record, &limits) {
                Err(malformed) => json!({"reject": malformed.to_string()}),
                Ok(mut message) => match rules.judge(&message, now).carry_out(&mut message, now, |_| Uuid::nil()) {
                    Verdict::Drop(reason) => json!({"drop": reason}),
                    Verdict::Reject(reason) => json!({"reject": reason}),
                    _ => {
                        let mut out = Vec::new();
                        message.write_next(&mut out);
                        let mut sent: Vec<Value> = vec![serde_json::from_slice(&out).unwrap()];
                        for copy in message.copies() {
                            out.clear();
                            message.write_copy(&copy, &mut out);
                            sent.push(serde_json::from_slice(&out).unwrap());
                        }
                        let mut routes = Vec::new();
                        for sent in &sent {
                            let header = &sent["header"];
                            let mut route = header["original_route"].as_array().unwrap().clone();
                            route.reverse();
                            routes.push(json!(route));
                            prop_assert_eq!(&header["rule"], &planned["rule"]);
                            prop_assert_eq!(sent["payload"].get("s"), planned.get("set").map(|set| &set["s"]));
                            let lasts = header.get("deadline").map(|end| end.as_i64().unwrap() - (now.0 / 1_000_000) as i64);
                            prop_assert_eq!(lasts, planned.get("deadline").map(|_| 90_000));
                        }
                        let ids: std::collections::BTreeSet<_> = sent.iter().map(|sent| sent["header"]["id"].to_string()).collect();
                        prop_assert_eq!(ids.len(), sent.len());
                        let copies = routes.split_off(1);
                        let mut done = json!({"route": routes[0]});
                        if !copies.is_empty() {
                            done["copies"] = json!(copies);
                        }
                        done
                    }
                },
            };
            for end in ["route", "copies", "drop", "reject"] {
                prop_assert_eq!(planned.get(end), done.get(end), "{}", planned);
            }
        }
    }
}
