//! The log: for people on a terminal, for machines elsewhere; how much of it, and what of a message is in it.

use serde_json::Value;

use crate::{
    fleet::{Engine, Fleet},
    support::{Metrobus, Scratch, run_on_terminal},
};

fn fleet() -> Fleet {
    let fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    fleet.scratch.write("data/emails.dat", "1,a@example.com\n");
    fleet.scratch.write("data/whitelist.dat", "a@example.com\n");
    fleet
}

fn push(fleet: &Fleet, topic: &str, lines: &str) {
    let call = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0", "-q"]).env("METROBUS__PUSHER__TOPIC", topic);
    call.stdin(lines).run().assert_code(0);
}

fn json(text: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

#[test]
fn elsewhere_than_on_a_terminal_each_line_is_json_the_last_one_too() {
    let fleet = fleet();
    let unset = |call: Metrobus| call.env("METROBUS_LOG_FORMAT", "");
    let said = unset(fleet.metrobus(&["busdriver", "--drain"])).run().assert_code(0).stderr;
    let lines = json(&said);
    let ready = lines.iter().find(|line| line["message"] == "ready").expect("it is ready");
    assert_eq!(
        (&ready["level"], &ready["stop"], &ready["topic"]),
        (&"INFO".into(), &"busdriver".into(), &"Source".into())
    );

    let said = unset(fleet.metrobus(&["topics"])).env("METROBUS__BUSS", "kafka").run().assert_code(78).stderr;
    let lines = json(&said);
    assert_eq!(lines.len(), 1, "{said}");
    let message = "METROBUS__BUSS: unknown key `buss`; did you mean METROBUS__BUS?";
    assert_eq!((&lines[0]["message"], &lines[0]["exit_code"]), (&message.into(), &78.into()));
    let flag = ["topics", "--log-format", "text"];
    let said = unset(fleet.metrobus(&flag)).env("METROBUS__BUSS", "kafka").run().assert_code(78).stderr;
    assert_eq!(said, format!("metrobus: {message}\n"));
}

#[test]
fn on_a_terminal_it_is_text_with_colours() {
    let scratch = Scratch::new();
    let (status, said) = run_on_terminal(scratch.root(), &["busdriver", "--drain"], &[]);
    assert!(status.success(), "{said}");
    assert!(said.contains("\u{1b}[32m INFO\u{1b}[0m ready") && !said.contains('{'), "{said:?}");
    let (_, said) = run_on_terminal(scratch.root(), &["busdriver", "--drain"], &[("NO_COLOR", "1")]);
    assert!(said.contains(" INFO ready stop=\"busdriver\"") && !said.contains('\u{1b}'), "{said:?}");
    let (status, said) = run_on_terminal(scratch.root(), &["topics"], &[("METROBUS__BATCH", "0")]);
    assert_eq!(status.code(), Some(78));
    assert_eq!(said.trim_end(), "metrobus: METROBUS__BATCH: batch is 0, must be an integer from 1 to 100000");
}

#[test]
fn each_module_has_a_level_of_its_own() {
    let fleet = fleet();
    let call = fleet.metrobus(&["busdriver", "--drain"]).env("RUST_LOG", "warn,metrobus::bus=info");
    let said = call.run().assert_code(0).stderr;
    assert!(said.contains("INFO assigned") && !said.contains("ready"), "{said}");
}

/// A message that is rejected, one that is dropped, and one for which a rule fails.
fn judge(fleet: &Fleet) -> Vec<Value> {
    let rules = r#"
        [[busdriver.rule]]
        name = "big"
        when = "payload.secret > 5"
        route = ["Log"]
        [[busdriver.rule]]
        name = "all"
        route = ["AddEmail", "Log"]
    "#;
    fleet.scratch.write("rules.toml", rules);
    push(fleet, "WhiteList", r#"{"header":{"route":[],"id":"broken"},"payload":"hunter2"}"#);
    push(fleet, "Source", r#"{"account_number":"hunter2","secret":"hunter2"}"#);
    let run = ["run", "--drain", "--config", "rules.toml", "-v", "--log-format", "json"];
    json(&fleet.metrobus(&run).run().assert_code(0).stderr)
}

#[test]
fn key_and_value_are_in_the_log_where_they_may_and_only_there() {
    let lines = judge(&fleet());
    let about = |lines: &[Value], what: &str| {
        let found = lines.iter().find(|line| line["message"] == what);
        found.unwrap_or_else(|| panic!("no line of {what:?}: {lines:#?}")).clone()
    };
    let dropped = about(&lines, "dropped a message");
    assert_eq!((&dropped["stop"], &dropped["reason"]), (&"contactpoint".into(), &"unknown account".into()));
    assert!(dropped["id"].as_str().is_some_and(|id| id.len() == 36), "{dropped}");
    assert_eq!((&dropped["topic"], &dropped["offset"]), (&"AddEmail".into(), &0.into()));
    assert_eq!(about(&lines, "rejected a message")["stop"], "whitelist");
    assert_eq!(about(&lines, "another rule was asked")["reason"], "rule big failed");
    assert!(!lines.iter().any(|line| line.to_string().contains("hunter2")), "{lines:#?}");

    let mut open = fleet();
    open.set("LOG__REDACT", "false");
    let lines = judge(&open);
    let dropped = about(&lines, "dropped a message");
    assert_eq!(dropped["key"], "hunter2");
    assert!(dropped["value"].as_str().is_some_and(|value| value.contains(r#""secret":"hunter2""#)), "{dropped}");
    let rejected = about(&lines, "rejected a message");
    assert_eq!(rejected["value"], r#"{"header":{"route":[],"id":"broken"},"payload":"hunter2"}"#);
}

#[test]
fn a_fault_that_repeats_does_not_fill_the_log() {
    let fleet = fleet();
    let lines = "no JSON\n".repeat(5000);
    let output = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
    let told = output.stderr.lines().filter(|line| line.contains("not a JSON object; skipped")).count();
    assert_eq!(told, 20, "{}", output.stderr);
    assert!(output.stderr.contains("WARN more of the warnings and errors above left_out=4980"), "{}", output.stderr);

    push(&fleet, "Log", &"{\"header\":{\"route\":5},\"payload\":{}}\n".repeat(3000));
    let said = fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0).stderr;
    assert_eq!(said.lines().filter(|line| line.contains("rejected a message")).count(), 1, "{said}");
    assert!(said.contains("count=3000"), "{said}");
}

#[test]
fn long_work_shows_a_bar_on_a_terminal_and_nothing_in_a_pipe() {
    let fleet = fleet();
    let root = fleet.scratch.root();
    let make = ["make-data", "whitelist", "--count", "3000000", "--out", "made"];
    let push = ["pusher", "--count", "100000", "--rate", "100000"];
    let plan = ["plan", "--from", "Source", "--against", "other.toml"];
    fleet.scratch.write("other.toml", "");
    for (call, unit) in [(&make[..], "lines"), (&push, "records"), (&plan, "records")] {
        let (status, said) = run_on_terminal(root, call, &[]);
        assert!(status.success(), "{said}");
        let bar = said.split(['\r', '\n']).find(|line| line.contains(&format!(" {unit}, ")) && line.contains(" left"));
        assert!(bar.is_some_and(|bar| bar.contains("/s, ")), "{call:?} showed no rate: {said:?}");
        let piped = fleet.metrobus(call).run().assert_code(0).stderr;
        assert!(!piped.contains(" left") && !piped.contains('\r'), "{piped:?}");
    }
}
