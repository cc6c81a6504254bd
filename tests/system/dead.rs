//! `metrobus dead`: what it lists and shows, on every engine.

use serde_json::Value;

use crate::fleet::{Engine, Fleet};

fn ls(fleet: &Fleet, arguments: &[&str]) -> Vec<Value> {
    fleet.metrobus(&[&["dead", "ls", "--json"], arguments].concat()).run().assert_code(0).json_lines()
}

/// A fleet of which the busdriver has rejected the first of two messages, and the contactpoint the other.
fn rejected(engine: Engine) -> Option<Fleet> {
    let mut fleet = Fleet::shared(engine)?;
    fleet.scratch.write("data/emails.dat", "1,user1@example.com\n");
    let lines =
        "{\"account_number\":1,\"header\":{},\"payload\":\"no object\"}\n{\"account_number\":1,\"x\":\"\u{1}\"}\n";
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines.replace('\u{1}', "\\u001b[2J")).run();
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);
    let length = fleet.values(&fleet.topic("AddEmail"))[0].len();
    fleet.set("LIMITS__MESSAGE_BYTES", (length + 10).to_string());
    fleet.metrobus(&["contactpoint", "--drain"]).run().assert_code(0);
    Some(fleet)
}

fn letters_are_found_and_shown(engine: Engine) {
    let Some(fleet) = rejected(engine) else { return };
    let all = ls(&fleet, &[]);
    let of = |letter: &Value, name: &str| letter[name].as_str().map(str::to_owned);
    assert_eq!(all.len(), 2);
    assert_eq!(of(&all[0], "stop").as_deref(), Some("busdriver"));
    assert_eq!(of(&all[0], "reason").as_deref(), Some("payload is not a JSON object"));
    assert_eq!((of(&all[0], "id"), all[0]["attempts"].as_u64()), (None, Some(1)));
    assert_eq!(of(&all[1], "stop").as_deref(), Some("contactpoint"));
    let id = of(&all[1], "id").expect("an id");
    let record = of(&all[1], "record").expect("a record");
    assert!(record.starts_with(&format!("{}/", fleet.topic("AddEmail"))), "{record}");

    let only = |arguments: &[&str]| ls(&fleet, arguments).len();
    assert_eq!(ls(&fleet, &["--stop", "contactpoint"]), all[1..]);
    assert_eq!(ls(&fleet, &["--reason", "NOT A JSON"]), all[..1]);
    assert_eq!(ls(&fleet, &["--id", &id]), all[1..]);
    assert_eq!(
        (only(&["--since", "1h"]), only(&["--since", "1h", "--stop", "logstop"]), only(&["-n", "1"])),
        (2, 0, 1)
    );

    // By any of its names, whole and without what a terminal would take for a command
    for name in [&id, &record, &of(&all[1], "place").expect("a place")] {
        let shown = fleet.metrobus(&["dead", "show", "--json", name]).run().assert_code(0).json_lines();
        assert_eq!(shown.len(), 1, "{name}");
        let arrived = fleet.values(&fleet.topic("AddEmail"));
        assert_eq!((shown[0]["value"].as_str(), &shown[0]["id"]), (Some(arrived[0].as_str()), &all[1]["id"]));
        assert_eq!(shown[0]["headers"]["metrobus.stop"], "contactpoint");
    }
    let text = fleet.metrobus(&["dead", "show", &id]).run().assert_code(0).stdout_text();
    assert!(
        text.starts_with(&format!("message   {id}\nreason    output is longer than limits.message_bytes")),
        "{text}"
    );
    assert!(text.contains("\nstop      contactpoint\n") && text.contains(&format!("\nrecord    {record}\n")), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let table = fleet.metrobus(&["dead", "ls", "-n", "1"]).run().assert_code(0).stdout_text();
    assert!(table.contains(&id) && table.ends_with("1 of 2; -n takes how many are shown\n"), "{table}");

    let unknown = fleet.metrobus(&["dead", "show", "nobody"]).run().assert_code(1);
    let error = format!("there is no dead letter \"nobody\" on topic {}", fleet.topic("Error"));
    assert!(unknown.stderr.contains(&error), "{}", unknown.stderr);
    assert_eq!(
        fleet.metrobus(&["dead", "ls", "--stop", "nobody"]).run().assert_code(0).stdout_text(),
        "no dead letter matches\n"
    );
}

#[test]
fn letters_are_found_and_shown_on_sqlite() {
    letters_are_found_and_shown(Engine::Sqlite);
}

#[test]
fn letters_are_found_and_shown_on_kafka() {
    letters_are_found_and_shown(Engine::AtLeastOnce);
}

#[test]
fn a_bus_without_dead_letters_has_none() {
    let Some(fleet) = Fleet::shared(Engine::Sqlite) else { return };
    assert_eq!(fleet.metrobus(&["dead", "ls"]).run().assert_code(0).stdout_text(), "no dead letter matches\n");
}
