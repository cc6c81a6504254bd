//! Beyond a straight line, from outside: copies, deadlines, routes that stops revise.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    journal::hops,
    support::{Metrobus, Scratch, wait_until},
};

/// A fleet whose messages go to Log, with a copy to Audit and on to Log, and one to Billing; nobody reads the latter two.
fn fleet(engine: Engine, rest: &str) -> Option<Fleet> {
    let mut fleet = Fleet::shared(engine)?;
    let [log, audit, billing] = ["Log", "Audit", "Billing"].map(|name| fleet.topic(name));
    fleet.set("STOPS", format!("{audit},{billing}"));
    let rules = format!(
        "[[busdriver.rule]]\nname = \"all\"\nroute = [\"{log}\"]\ncopies = [[\"{audit}\", \"{log}\"], [\"{billing}\"]]\n{rest}"
    );
    fleet.scratch.write("rules.toml", rules);
    Some(fleet)
}

fn call(fleet: &Fleet, arguments: &[&str]) -> Metrobus {
    fleet.metrobus(&[&["--config", "rules.toml"], arguments].concat())
}

fn push(fleet: &Fleet, lines: &str) {
    call(fleet, &["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
}

/// Headers and payloads of what lies on a topic.
fn messages(fleet: &Fleet, topic: &str) -> Vec<(Value, Value)> {
    let values = fleet.values(&fleet.topic(topic)).into_iter();
    let parts = |text: String| {
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        (value["header"].take(), value["payload"].take())
    };
    values.map(parts).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text: {value}")).to_owned()
}

/// Copies are sent while the busdriver is killed again and again: each leaves with its parent, in the same settle.
fn copies_leave_with_their_parent(engine: Engine) {
    const MESSAGES: usize = 4000;
    let Some(fleet) = fleet(engine, "") else { return };
    fleet.scratch.write("lines.ndjson", (0..MESSAGES).map(|n| format!("{{\"x\":{n}}}\n")).collect::<String>());
    let pusher = call(&fleet, &["pusher", "--from", "lines.ndjson", "--rate", "3000", "--key", "x"]).spawn();
    let start = || call(&fleet, &["busdriver"]).env("METROBUS__KAFKA__INSTANCE", "a").spawn();
    for pause in [300, 500, 250, 400] {
        let mut busdriver = start();
        // The moment is the fault's, not the test's: any will do
        std::thread::sleep(Duration::from_millis(pause));
        busdriver.kill9();
    }
    pusher.wait(DEADLINE).assert_code(0);
    call(&fleet, &["busdriver", "--drain"]).env("METROBUS__KAFKA__INSTANCE", "a").run().assert_code(0);

    let [parents, audit, billing] = ["Log", "Audit", "Billing"].map(|topic| messages(&fleet, topic));
    let all: BTreeSet<_> = (0..MESSAGES as u64).collect();
    for sent in [&parents, &audit, &billing] {
        let seen: BTreeSet<_> = sent.iter().filter_map(|(_, payload)| payload["x"].as_u64()).collect();
        assert!(seen == all, "{engine:?}: {} of {MESSAGES} messages", seen.len());
        assert!(engine == Engine::AtLeastOnce || sent.len() == MESSAGES, "{engine:?}: {} records", sent.len());
    }
    let of: BTreeMap<_, _> = parents.iter().map(|(header, payload)| (text(&header["id"]), payload)).collect();
    let mut ids: BTreeSet<_> = of.keys().cloned().collect();
    for (copies, number) in [(&audit, 0), (&billing, 1)] {
        for (header, payload) in copies {
            assert!(ids.insert(text(&header["id"])) || engine == Engine::AtLeastOnce, "an id twice");
            let parent = of.get(&text(&header["parent"]));
            assert!(parent == Some(&payload) || engine == Engine::AtLeastOnce, "copy {number} of another message");
        }
    }
    if engine != Engine::AtLeastOnce {
        assert_eq!(ids.len(), 3 * MESSAGES);
        let begun: BTreeSet<_> = hops(&fleet).into_iter().filter_map(|hop| hop.id).collect();
        assert!(begun == ids, "the journal and the bus tell of other messages");
    }
}

#[test]
fn copies_leave_with_their_parent_on_sqlite() {
    copies_leave_with_their_parent(Engine::Sqlite);
}

#[test]
fn copies_leave_with_their_parent_on_kafka() {
    copies_leave_with_their_parent(Engine::AtLeastOnce);
}

#[test]
fn copies_leave_with_their_parent_on_kafka_exactly_once() {
    copies_leave_with_their_parent(Engine::ExactlyOnce);
}

#[test]
fn copies_are_planned_sent_and_tracked() {
    let fleet = fleet(Engine::Sqlite, "deadline = \"1h\"\n").expect("SQLite is always there");
    let test = "[[busdriver.test]]\nmessage = { x = 1 }\ncopies = [[\"Audit\", \"Log\"], [\"Billing\"]]\n";
    let rules = fleet.scratch.read("rules.toml");
    fleet.scratch.write("rules.toml", format!("{rules}{test}"));
    push(&fleet, "{\"x\":1,\"y\":2.50}\n");

    let plan = |arguments: &[&str]| {
        let planned = call(&fleet, &[&["plan", "--from", "Source"], arguments].concat());
        planned.run().assert_code(0).stdout_text()
    };
    assert_eq!(plan(&[]), "0:0  all  Log; copies: Audit → Log, Billing; within 1h\n");
    let expected = json!({"partition": 0, "offset": 0, "rule": "all", "route": ["Log"], "copies": [["Audit", "Log"], ["Billing"]],
        "deadline": "1h"});
    assert_eq!(serde_json::from_str::<Value>(&plan(&["--json"])).unwrap(), expected);
    fleet.scratch.write("new.toml", rules.replace("[\"Billing\"]", "[\"Log\"]"));
    assert!(plan(&["--against", "new.toml"]).contains("\n  to   all: Log; copies: Audit → Log, Log; within 1h\n"));
    fleet.scratch.write("data/emails.dat", "");
    fleet.scratch.write("data/whitelist.dat", "");
    let check = call(&fleet, &["check"]).run().assert_code(0).stdout_text();
    assert_eq!(check, "sound: 1 rule, 1 test, 0 caches\n");

    call(&fleet, &["run", "busdriver", "logstop", "--drain"]).run().assert_code(0);
    let track = |id: &str| call(&fleet, &["track", "--json", id]).run().assert_code(0).json_lines().remove(0);
    let (parent, copy) = (&messages(&fleet, "Log")[0], &messages(&fleet, "Audit")[0]);
    assert_eq!(parent.1, copy.1);
    assert!(fleet.values("Billing")[0].contains("\"y\":2.50"), "as it went in");
    let (parent, copy) = (text(&parent.0["id"]), text(&copy.0["id"]));
    let journey = track(&parent);
    assert_eq!((&journey["verdict"], &journey["parent"]), (&json!("finished"), &Value::Null));
    assert!(journey["copies"].as_array().unwrap().contains(&json!(copy)), "{journey}");
    let journey = track(&copy);
    assert_eq!(
        (&journey["parent"], &journey["ended"], &journey["next"]),
        (&json!(parent), &json!(false), &json!("Audit"))
    );
    let shown = call(&fleet, &["track", &copy]).run().assert_code(0).stdout_text();
    assert!(shown.starts_with(&format!("{copy}\ncopy of {parent}\non its way: ")), "{shown}");
    let shown = call(&fleet, &["track", &parent]).run().assert_code(0).stdout_text();
    assert!(shown.contains(&format!("\ncopied as {copy}\n")), "{shown}");
}

#[test]
fn what_comes_too_late_is_a_dead_letter() {
    let fleet = fleet(Engine::Sqlite, "deadline = \"50ms\"\n").expect("SQLite is always there");
    push(&fleet, "{\"x\":1}\n");
    call(&fleet, &["busdriver", "--drain"]).run().assert_code(0);
    let header = &messages(&fleet, "Log")[0].0;
    let (id, deadline) = (text(&header["id"]), header["deadline"].as_u64().expect("a time"));
    wait_until("the deadline", DEADLINE, || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis();
        (now > u128::from(deadline)).then_some(())
    });
    call(&fleet, &["logstop", "--drain"]).run().assert_code(0);
    assert_eq!(fleet.scratch.read("log.ndjson"), "", "no handler has seen it");
    let letter = call(&fleet, &["dead", "show", "--json", &id]).run().assert_code(0).json_lines().remove(0);
    assert!(text(&letter["reason"]).starts_with("its deadline has passed: 2"), "{letter}");
    assert_eq!(letter["history"][0]["stop"], "logstop");
    let journey = call(&fleet, &["track", "--json", &id]).run().assert_code(0).json_lines().remove(0);
    assert_eq!((&journey["verdict"], &journey["ended"]), (&json!("rejected"), &json!(true)));
}

#[test]
fn messages_take_another_way_where_a_stop_would_drop_them() {
    let mut fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    fleet.scratch.write("data/emails.dat", "1,user1@example.com\n2,user2@example.com\n");
    fleet.scratch.write("data/whitelist.dat", "user1@example.com\n");
    fleet.set("STOPS", "Strangers");
    fleet.set("CONTACTPOINT__UNKNOWN", "Strangers,Log");
    fleet.set("WHITELIST__UNLISTED", "Log");
    let lines: String = (1..=3).map(|account| format!("{{\"account_number\":{account}}}\n")).collect();
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
    fleet.drain("a");
    let log = messages(&fleet, "Log");
    assert_eq!(log.len(), 2);
    assert_eq!(log[0].0.get("revisions"), None, "what is listed goes its way");
    assert_eq!(log[1].0["revisions"], json!([{"stop": "whitelist", "hop": 2, "replace": ["Log"]}]));
    let strangers = messages(&fleet, "Strangers");
    assert_eq!(
        strangers[0].0["revisions"],
        json!([{"stop": "contactpoint", "hop": 1, "replace": ["Log", "Strangers"]}])
    );
    assert_eq!(strangers[0].0["route"], json!(["Log"]));
    let journey = fleet.metrobus(&["track", "--json", "--key", "3"]).run().assert_code(0).json_lines().remove(0);
    let hop = &journey["hops"][1];
    assert_eq!((&hop["next"], &hop["reason"]), (&json!("Strangers"), &json!("unknown account")));
}

#[test]
fn a_stop_that_is_named_twice_is_noted_and_no_finding() {
    let scratch = Scratch::new();
    scratch.write("data/emails.dat", "");
    scratch.write("metrobus.toml", "busdriver.route = [\"Log\", \"AddEmail\", \"Log\"]\n");
    let check = Metrobus::new().cwd(scratch.root()).args(["check", "--config", "metrobus.toml"]).run().assert_code(0);
    let expected =
        "note: metrobus.toml:1: busdriver.route: names Log more than once\nsound: 0 rules, 0 tests, 1 cache\n";
    assert_eq!(check.stdout_text(), expected);
}
