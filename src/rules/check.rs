//! What compiles and is yet not what somebody wanted: rules that nothing comes to, and tests that do not hold.

use std::collections::HashMap;

use super::{Action, Explained, Judgement, Options, Outcome, Rules, TestOptions, Timestamp, node::Node};
use crate::{
    bus::{Headers, Record, Topic},
    config::Config,
    error::Misconfigured,
    slip::Message,
};

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub rules: usize,
    pub tests: usize,
}

/// All that is wrong with the rules of a configuration; the rules themselves where they compile.
pub fn check(config: &Config) -> (Option<Rules>, Checked, Vec<Misconfigured>) {
    let rules = match Rules::compile(config) {
        Ok(rules) => rules,
        Err(errors) => return (None, Checked::default(), errors),
    };
    let tests = config.section::<Options>("busdriver").map(|options| options.test);
    let mut found = unreachable(&rules, config);
    let mut checked = Checked { rules: rules.iter().filter(|rule| !rule.name().is_empty()).count(), tests: 0 };
    for (index, test) in tests.unwrap_or_default().into_iter().enumerate() {
        checked.tests += 1;
        if let Err(what) = try_out(&rules, config, &test) {
            found.push(config.error(&format!("busdriver.test[{index}]"), what));
        }
    }
    (Some(rules), checked, found)
}

/// Rules to which no message comes.
fn unreachable(rules: &Rules, config: &Config) -> Vec<Misconfigured> {
    use super::node::Constant::Bool;
    let (mut found, mut always, mut conditions) = (Vec::new(), None, HashMap::new());
    for (index, rule) in rules.iter().enumerate() {
        let name = rule.name();
        let mut say = |part: &str, what: String| {
            let key = format!("busdriver.rule[{index}]{part}");
            found.push(config.error(&key, format!("rule {name} {what}")));
        };
        if let Some(before) = always {
            say("", format!("is never asked: rule {before} before it always matches"));
            continue;
        }
        match rule.condition() {
            None | Some(Node::Constant(Bool(true))) => always = Some(name),
            Some(Node::Constant(Bool(false))) => say(".when", "never matches".into()),
            Some(condition) => match conditions.entry(condition.to_string()) {
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(name);
                }
                std::collections::hash_map::Entry::Occupied(place) => {
                    say(".when", format!("never matches: rule {} before it has the same condition", place.get()));
                }
            },
        }
    }
    found
}

/// What may be meant as it is written: routes that call at a stop twice.
pub fn notes(rules: &Rules, config: &Config) -> Vec<Misconfigured> {
    let mut notes = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let Action::Route(routing) = rule.action() else { continue };
        let key = match rule.name() {
            "" => "busdriver".to_owned(),
            _ => format!("busdriver.rule[{index}]"),
        };
        for (number, route) in routing.routes().enumerate() {
            let twice = |(at, stop): &(usize, &Topic)| route[..*at].contains(stop);
            let Some((_, stop)) = route.iter().enumerate().find(twice) else { continue };
            let part = number.checked_sub(1).map_or_else(|| "route".to_owned(), |copy| format!("copies[{copy}]"));
            notes.push(config.error(&format!("{key}.{part}"), format!("names {stop} more than once")));
        }
    }
    notes
}

/// Judges the message of a test; the error says what is other than expected.
fn try_out(rules: &Rules, config: &Config, test: &TestOptions) -> Result<(), String> {
    if test.rule.is_none()
        && test.route.is_none()
        && test.copies.is_none()
        && test.drop.is_none()
        && test.reject.is_none()
    {
        return Err("expects nothing: give it a rule, route, copies, drop or reject".into());
    }
    let value = match &test.message {
        toml::Value::String(text) => text.clone(),
        toml::Value::Table(table) => serde_json::to_string(table).map_err(|error| error.to_string())?,
        _ => return Err("has a message that is neither a table nor text".into()),
    };
    let now = match &test.now {
        None => super::now(),
        Some(text) => Timestamp::parse(text).ok_or("has a `now` that is no timestamp, as 2026-01-31T12:00:00Z is")?,
    };
    let mut headers = Vec::new();
    test.headers.iter().for_each(|(name, value)| Headers::push(&mut headers, name, Some(value.as_bytes())));
    let record = Record {
        partition: 0,
        offset: 0,
        timestamp: -1,
        key: test.key.as_deref().map(str::as_bytes),
        headers: Headers::from_encoded(&headers),
        value: Some(value.as_bytes()),
    };
    let message = match Message::parse_untrusted(record, &config.limits) {
        Ok(message) => message,
        Err(malformed) if test.reject.as_ref() == Some(&malformed.to_string()) => return Ok(()),
        Err(malformed) => return Err(format!("has a message that is rejected: {malformed}")),
    };
    let judgement = rules.judge(&message, now);
    let Some(expected) = unlike(test, &judgement) else { return Ok(()) };
    let why = test.rule.as_ref().and_then(|rule| {
        let passed = rules.explain(&message, now).into_iter().find(|passed| passed.rule == *rule);
        passed.map(|Explained { parts, .. }| parts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    });
    let why = why.map_or(String::new(), |why| format!("; {why}"));
    Err(format!("expects {expected}, is {}{why}", told(&judgement)))
}

/// What of the expectations does not hold.
fn unlike(test: &TestOptions, judgement: &Judgement<'_>) -> Option<String> {
    let rule = judgement.rule_name();
    if let Some(expected) = test.rule.as_deref().filter(|expected| rule != Some(expected)) {
        return Some(format!("rule {expected}"));
    }
    let routing = match &judgement.outcome {
        Outcome::Matched(Action::Route(routing), _) => Some(routing),
        _ => None,
    };
    let names = |stops: &[Topic]| stops.iter().map(Topic::to_string).collect::<Vec<_>>();
    let route = routing.map(|routing| names(routing.stops()));
    if let Some(expected) = &test.route
        && route.as_ref().is_none_or(|route| route != expected)
    {
        return Some(format!("route {}", expected.join(", ")));
    }
    if let Some(expected) = &test.copies
        && routing.is_none_or(|routing| !routing.copies().map(names).eq(expected.iter().cloned()))
    {
        let routes: Vec<_> = expected.iter().map(|route| route.join(", ")).collect();
        return Some(format!("copies {}", routes.join("; ")));
    }
    let dropped = matches!(judgement.outcome, Outcome::Matched(Action::Drop(_), _));
    let reason = judgement.reason();
    for (expected, word, holds) in
        [(&test.drop, "drop", dropped), (&test.reject, "reject", !dropped && route.is_none())]
    {
        if let Some(expected) = expected.as_ref().filter(|expected| !holds || reason.as_ref() != Some(expected)) {
            return Some(format!("{word} {expected:?}"));
        }
    }
    None
}

fn told(judgement: &Judgement<'_>) -> String {
    let rule = judgement.rule_name().map_or(String::new(), |name| format!("rule {name}, "));
    match &judgement.outcome {
        Outcome::Matched(Action::Route(routing), _) => {
            let names = |stops: &[Topic]| stops.iter().map(Topic::as_str).collect::<Vec<_>>().join(", ");
            let copies: Vec<_> = routing.copies().map(names).collect();
            let copies = if copies.is_empty() { String::new() } else { format!(", copies {}", copies.join("; ")) };
            format!("{rule}route {}{copies}", names(routing.stops()))
        }
        Outcome::Matched(Action::Drop(reason), _) => format!("{rule}drop {reason:?}"),
        _ => format!("{rule}reject {:?}", judgement.reason().unwrap_or_default()),
    }
}
