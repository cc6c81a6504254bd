//! `metrobus dead replay` and `dead discard`: what becomes of dead letters, on every engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::RngExt;
use serde_json::{Value, json};

use crate::{
    faults::random,
    fleet::{DEADLINE, Engine, Fleet},
    support::{Output, Process, wait_until},
};

/// A value that the contactpoint takes and that is too long for its output.
const TIGHT: &str = "LIMITS__MESSAGE_BYTES";

pub fn push(fleet: &Fleet, lines: &str) {
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
}

/// A fleet in which the contactpoint has rejected `count` messages of the accounts from 1 on, all of which have an email
/// that is listed.
pub fn rejected(engine: Engine, count: usize) -> Option<Fleet> {
    Some(rejecting(Fleet::shared(engine)?, count))
}

fn rejecting(mut fleet: Fleet, count: usize) -> Fleet {
    let emails = (1..=count).map(|account| format!("{account},user{account}@example.com\n"));
    fleet.scratch.write("data/emails.dat", emails.collect::<String>());
    fleet.scratch.write(
        "data/whitelist.dat",
        (1..=count).map(|account| format!("user{account}@example.com\n")).collect::<String>(),
    );
    push(
        &fleet,
        &(1..=count).map(|account| format!("{{\"account_number\":{account}, \"n\":2.50}}\n")).collect::<String>(),
    );
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);
    let longest = fleet.values(&fleet.topic("AddEmail")).iter().map(String::len).max().expect("messages");
    fleet.set(TIGHT, (longest + 5).to_string());
    fleet.metrobus(&["contactpoint", "--drain"]).run().assert_code(0);
    fleet.set(TIGHT, "100000");
    assert_eq!(fleet.tail(&fleet.topic("Error")).len(), count);
    fleet
}

fn dead(fleet: &Fleet, arguments: &[&str]) -> Output {
    fleet.metrobus(&[&["dead"], arguments].concat()).run()
}

/// What a run that succeeds prints.
fn said(fleet: &Fleet, arguments: &[&str]) -> String {
    dead(fleet, arguments).assert_code(0).stdout_text()
}

fn ls(fleet: &Fleet, arguments: &[&str]) -> Vec<Value> {
    dead(fleet, &[&["ls", "--json", "-n", "100000"], arguments].concat()).assert_code(0).json_lines()
}

/// The slips on a topic, in the order of each partition.
fn headers(fleet: &Fleet, topic: &str) -> Vec<Value> {
    let header = |value: &String| serde_json::from_str::<Value>(value).expect("JSON")["header"].clone();
    fleet.values(&fleet.topic(topic)).iter().map(header).collect()
}

/// How often each id was sent to a topic, in all and as a replay.
fn sent(fleet: &Fleet, topic: &str) -> BTreeMap<String, (usize, usize)> {
    let mut sent: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for header in headers(fleet, topic) {
        let count = sent.entry(header["id"].as_str().expect("an id").to_owned()).or_default();
        count.0 += 1;
        count.1 += usize::from(header["replays"] == 1);
    }
    sent
}

/// Stop and verdict of each hop.
fn way(fleet: &Fleet, key: &str) -> Vec<String> {
    let journey = fleet.metrobus(&["track", "--json", "--key", key]).run().assert_code(0).json_lines().remove(0);
    let hops = journey["hops"].as_array().expect("hops").iter();
    hops.map(|hop| format!("{} {}", hop["stop"].as_str().unwrap(), hop["verdict"].as_str().unwrap())).collect()
}

fn replayed_messages_arrive_on(engine: Engine) {
    let Some(fleet) = rejected(engine, 6) else { return };
    let add_email = fleet.topic("AddEmail");
    // A letter of the busdriver as well, which has no slip
    push(&fleet, "{\"account_number\":9,\"header\":{},\"payload\":\"text\"}\n");
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);

    // Nothing happens before it is meant
    let planned = said(&fleet, &["replay", "--all", "--dry-run"]);
    assert!(planned.ends_with(&format!("would replay 7: {add_email} 6, {} 1\n", fleet.topic("Source"))), "{planned}");
    assert_eq!((planned.lines().count(), headers(&fleet, "AddEmail").len(), ls(&fleet, &[]).len()), (8, 6, 7));

    let id = ls(&fleet, &["--stop", "contactpoint"])[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(said(&fleet, &["replay", &id]), format!("replayed 1: {add_email} 1\n"));
    let again = said(&fleet, &["replay", &id]);
    assert!(again.starts_with(&format!("{id} was dealt with before: replayed to {add_email} at 20")), "{again}");
    assert_eq!(said(&fleet, &["replay", "--stop", "contactpoint"]), format!("replayed 5: {add_email} 5\n"));
    let nothing = "nothing is left to do: the 6 dead letters that match were dealt with before\n";
    assert_eq!(said(&fleet, &["replay", "--stop", "contactpoint"]), nothing);
    assert!(sent(&fleet, "AddEmail").values().all(|sent| *sent == (2, 1)));
    let raw: Vec<_> =
        fleet.values(&add_email).iter().filter(|value| value.contains("\"replays\":1}")).cloned().collect();
    assert!(raw.len() == 6 && raw.iter().all(|value| value.contains(", \"n\":2.50}}")), "{raw:?}");

    fleet.drain("a");
    let log = headers(&fleet, "Log");
    assert!(log.len() == 6 && log.iter().all(|header| header["replays"] == 1 && header["route"] == json!([])));
    let expected = ["busdriver forwarded", "contactpoint rejected", "contactpoint replayed", "contactpoint forwarded"];
    assert_eq!(way(&fleet, "3"), [&expected[..], &["whitelist forwarded", "logstop finished"]].concat());
    let text = fleet.metrobus(&["track", "--key", "3"]).run().assert_code(0).stdout_text();
    assert!(text.contains(&format!("replayed to {add_email}, 1st time")), "{text}");
    let counted = |verdict: &str| {
        let counts = fleet.metrobus(&["journeys", "--json", "--verdict", verdict]).run().assert_code(0).json_lines();
        counts.iter().map(|count| count["count"].as_u64().expect("a count")).sum::<u64>()
    };
    assert_eq!(counted("replayed"), 6);

    // What has no slip is counted beside its value, also when it is rejected again
    assert_eq!(said(&fleet, &["replay", "--all"]), format!("replayed 1: {} 1\n", fleet.topic("Source")));
    fleet.drain("a");
    let left = ls(&fleet, &[]);
    assert_eq!((left.len(), &left[0]["replays"], &left[0]["stop"]), (1, &json!(1), &json!("busdriver")));
    let place = left[0]["place"].as_str().expect("a place");
    let table = said(&fleet, &["ls", "--all"]);
    assert_eq!(table.matches("  replayed to ").count(), 7, "{table}");

    assert_eq!(said(&fleet, &["discard", place]), format!("discarded 1: {} 1\n", fleet.topic("Source")));
    assert_eq!(said(&fleet, &["ls"]), "no dead letter matches\n");
    let shown = said(&fleet, &["show", place]);
    assert!(shown.contains(", replayed once before\n") && shown.contains("\ndone      discarded at 20"), "{shown}");
    assert_eq!((counted("discarded"), counted("replayed")), (1, 7));
    let done: BTreeSet<_> = ls(&fleet, &["--all"]).iter().map(|letter| letter["done"]["what"].to_string()).collect();
    assert_eq!(done, BTreeSet::from(["\"discarded\"".to_owned(), "\"replayed\"".to_owned()]));
}

#[test]
fn replayed_messages_arrive_on_sqlite() {
    replayed_messages_arrive_on(Engine::Sqlite);
}

#[test]
fn replayed_messages_arrive_on_kafka() {
    replayed_messages_arrive_on(Engine::AtLeastOnce);
}

#[test]
fn replayed_messages_arrive_on_kafka_exactly_once() {
    replayed_messages_arrive_on(Engine::ExactlyOnce);
}

fn messages_go_on_from_elsewhere_on(engine: Engine) {
    let Some(fleet) = rejected(engine, 4) else { return };
    let (white_list, log) = (fleet.topic("WhiteList"), fleet.topic("Log"));
    // Letters of one moment come in any order from several partitions; the first is that of the account 1
    let id = |key: usize| {
        let journey = fleet.metrobus(&["track", "--json", "--key", &key.to_string()]).run().assert_code(0).json_lines();
        journey[0]["id"].as_str().expect("an id").to_owned()
    };
    let ids: Vec<_> = (1..=4).map(id).collect();
    let of = |n: usize| ids[n].clone();
    // The contactpoint is passed over, and its field is set by hand
    let arguments = ["replay", &of(0), "--from-stop", "whitelist", "--set", "payload.email=user1@example.com"];
    assert_eq!(said(&fleet, &arguments), format!("replayed 1: {white_list} 1\n"));
    let arrived = headers(&fleet, "WhiteList").remove(0);
    let listed = |field: &str| arrived[field].as_array().expect("a list").iter().map(|stop| stop.as_str().unwrap());
    assert_eq!(listed("route").collect::<Vec<_>>(), [&*log]);
    assert_eq!(listed("historical_route").collect::<Vec<_>>(), [&*fleet.topic("AddEmail"), &*white_list]);

    // Present rules: a field is set, one message is unwanted now
    let rules = format!(
        "[[busdriver.rule]]\nname = \"old\"\nwhen = \"payload.account_number == 99\"\ndrop = \"too old\"\n\
         [[busdriver.rule]]\nname = \"new\"\nroute = [\"{log}\"]\nset = {{ tier = '\"low\"' }}\n"
    );
    let file = fleet.scratch.write("rules.toml", rules);
    let config = ["--config", file.to_str().expect("a path")];
    let replan = |arguments: &[&str]| dead(&fleet, &[&["replay", "--replan"], arguments, &config].concat());
    let unwanted = replan(&[&of(1), "--set", "payload.account_number=99"]).assert_code(1);
    assert!(unwanted.stderr.contains(": the rules drop it now: too old\n"), "{}", unwanted.stderr);
    assert!(unwanted.stderr.ends_with("metrobus: 1 of 1 dead letters stay where they are\n"), "{}", unwanted.stderr);
    assert_eq!(unwanted.stdout_text(), "");
    let planned = replan(&[&of(1), "--dry-run"]).assert_code(0).stdout_text();
    assert!(planned.contains(&format!("{} to {log} (rule new)\nwould replay 1: ", of(1))), "{planned}");
    let told = replan(&["--all", "--json"]).assert_code(0).json_lines();
    assert_eq!(told.len(), 4);
    assert_eq!(
        (&told[0]["done"]["to"], &told[0]["done"]["rule"], &told[0]["left"]),
        (&json!(log), &json!("new"), &json!(null))
    );
    let summary = json!({"replayed": 3, "topics": {log.clone(): 3}, "left": 0, "before": 1, "dry_run": false});
    assert_eq!(told[3], summary);
    fleet.drain("a");
    let log = headers(&fleet, "Log");
    assert_eq!(log.len(), 4);
    let replanned: Vec<_> = log.iter().filter(|header| header["rule"] == "new").collect();
    assert!(replanned.len() == 3 && replanned.iter().all(|header| header["replays"] == 1));
    let ids: BTreeSet<_> = log.iter().map(|header| header["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids, (0..4).map(of).collect(), "ids stay");
    assert!(way(&fleet, "2").ends_with(&["contactpoint replayed".to_owned(), "logstop finished".to_owned()]));
}

#[test]
fn messages_go_on_from_elsewhere_on_sqlite() {
    messages_go_on_from_elsewhere_on(Engine::Sqlite);
}

#[test]
fn messages_go_on_from_elsewhere_on_kafka() {
    messages_go_on_from_elsewhere_on(Engine::AtLeastOnce);
}

/// Starts to replay all slowly, and waits until at least `count` letters are marked.
fn begun(fleet: &Fleet, rate: &str, count: usize) -> Process {
    let running = fleet.metrobus(&["dead", "replay", "--all", "--rate", rate]).spawn();
    wait_until("some marks", DEADLINE, || (marked(fleet) >= count).then_some(()));
    running
}

fn marked(fleet: &Fleet) -> usize {
    // Before the first run the topic is not there
    let topics = fleet.metrobus(&["topics", "--json"]).run().assert_code(0).json_lines();
    let is_there = topics.iter().any(|topic| topic["topic"] == *fleet.topic("Repair"));
    if is_there { fleet.tail(&fleet.topic("Repair")).len() } else { 0 }
}

fn of_two_at_once_the_later_goes_on_on(engine: Engine) {
    let Some(fleet) = rejected(engine, 60) else { return };
    let first = begun(&fleet, "5", 1);
    let second = dead(&fleet, &["replay", "--all"]).assert_code(0).stdout_text();
    let first = first.wait(DEADLINE).assert_code(1);
    let sentence =
        "metrobus: another replay or discard took over; what this one has done stays done, run it again for the rest\n";
    assert!(first.stderr.ends_with(sentence), "{}", first.stderr);
    let count = |text: &str| text.split(' ').nth(1).and_then(|count| count.trim_end_matches(':').parse::<usize>().ok());
    let both = [&first.stdout_text(), &second].map(|text| count(text).unwrap_or_else(|| panic!("no count: {text}")));
    assert!(both[0] > 0 && both[1] > 0 && both[0] + both[1] == 60, "{both:?}");
    let sent = sent(&fleet, "AddEmail");
    assert!(sent.len() == 60 && sent.values().all(|sent| *sent == (2, 1)), "{sent:?}");
    assert_eq!(marked(&fleet), 60);
}

#[test]
fn of_two_at_once_the_later_goes_on_on_sqlite() {
    of_two_at_once_the_later_goes_on_on(Engine::Sqlite);
}

#[test]
fn of_two_at_once_the_later_goes_on_on_kafka() {
    of_two_at_once_the_later_goes_on_on(Engine::AtLeastOnce);
}

/// Killed again and again; then each letter has been dealt with once, and its journey tells of it once.
fn a_kill_loses_and_doubles_nothing_on(engine: Engine) {
    let count = 6000;
    let Some(fleet) = rejected(engine, count) else { return };
    let mut random = random(&format!("dead letters, {engine:?}"));
    for _ in 0..5 {
        let before = marked(&fleet);
        if before > count / 2 {
            break;
        }
        let mut running = begun(&fleet, "400", before + 1);
        // The moment is the fault's, not the test's: any will do
        std::thread::sleep(Duration::from_millis(random.random_range(0..200)));
        running.kill9();
    }
    let half = marked(&fleet);
    assert!(half < count, "killed too late");
    // The rest is given up in part, and that is killed as well
    let mut discard = fleet.metrobus(&["dead", "discard", "--since", "1h"]).spawn();
    wait_until("more marks", DEADLINE, || (marked(&fleet) > half || !discard.is_running()).then_some(()));
    discard.kill9();
    dead(&fleet, &["replay", "--all"]).assert_code(0);
    let marks = fleet.values(&fleet.topic("Repair"));
    let mut what: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for mark in &marks {
        let mark: Value = serde_json::from_str(mark).expect("JSON");
        let place = format!("{}/{}", mark["partition"], mark["offset"]);
        what.entry(place).or_default().push(mark["done"].as_str().expect("what was done").to_owned());
    }
    assert!(what.len() == count && what.values().all(|done| done.len() == 1), "each letter is marked once");
    let letters = ls(&fleet, &["--all"]);
    let sent = sent(&fleet, "AddEmail");
    let counts = fleet.metrobus(&["journeys", "--json"]).run().assert_code(0).json_lines();
    let noted = |verdict: &str| {
        let of = counts.iter().filter(|count| count["verdict"] == verdict);
        of.map(|count| count["count"].as_u64().expect("a count") as usize).sum::<usize>()
    };
    let mut done = [0; 2];
    for letter in &letters {
        let (id, was_replayed) = (letter["id"].as_str().expect("an id"), letter["done"]["what"] == "replayed");
        done[usize::from(was_replayed)] += 1;
        let expected = if was_replayed { (2, 1) } else { (1, 0) };
        assert_eq!(sent[id], expected, "{letter}");
    }
    assert_eq!((letters.len(), done), (count, [noted("discarded"), noted("replayed")]));
    assert!(done[1] > 0);
}

#[test]
fn a_kill_loses_and_doubles_nothing_on_sqlite() {
    a_kill_loses_and_doubles_nothing_on(Engine::Sqlite);
}

#[test]
fn a_kill_loses_and_doubles_nothing_on_kafka() {
    a_kill_loses_and_doubles_nothing_on(Engine::AtLeastOnce);
}

#[test]
fn a_kill_loses_and_doubles_nothing_on_kafka_exactly_once() {
    a_kill_loses_and_doubles_nothing_on(Engine::ExactlyOnce);
}

fn what_cannot_be_done_is_said_on(engine: Engine) {
    let Some(mut fleet) = rejected(engine, 15) else { return };
    let error = fleet.topic("Error");
    let nothing_done = |fleet: &Fleet| assert_eq!((headers(fleet, "AddEmail").len(), ls(fleet, &[]).len()), (15, 15));
    let known = ls(&fleet, &[])[0]["id"].as_str().expect("an id").to_owned();
    for command in ["replay", "discard"] {
        let unknown = dead(&fleet, &[command, &known, "nobody"]).assert_code(1);
        let expected = format!("metrobus: there is no dead letter \"nobody\" on topic {error}; nothing was done\n");
        assert!(unknown.stderr.ends_with(&expected), "{}", unknown.stderr);
        assert_eq!(said(&fleet, &[command, "--stop", "nobody"]), "no dead letter matches\n");
        assert_eq!(said(&fleet, &[command, "--until", "1h"]), "no dead letter matches\n");
        dead(&fleet, &[command]).assert_code(2);
        dead(&fleet, &[command, "--all", "--stop", "contactpoint"]).assert_code(2);
    }
    let stop = dead(&fleet, &["replay", "--all", "--from-stop", "nobody"]).assert_code(1);
    let expected = "metrobus: --from-stop: no stop here reads \"nobody\"; add it to `stops`, or name one of ";
    assert!(stop.stderr.contains(expected), "{}", stop.stderr);
    let off_route = dead(&fleet, &["replay", &known, "--from-stop", "busdriver"]).assert_code(1);
    let expected = format!("stays: {} {known}: {} is not on its route, ", place(&fleet, &known), fleet.topic("Source"));
    assert!(off_route.stderr.contains(&expected), "{}", off_route.stderr);
    let wrong = dead(&fleet, &["replay", "--all", "--set", "payload.account_number.x=1"]).assert_code(1);
    let reason = ": payload.account_number is no object, so nothing can be set in it\n";
    assert_eq!(wrong.stderr.matches(reason).count(), 10, "{}", wrong.stderr);
    assert!(
        wrong.stderr.contains("\nand 5 more\nmetrobus: 15 of 15 dead letters stay where they are\n"),
        "{}",
        wrong.stderr
    );
    nothing_done(&fleet);

    // A stop that is there no more
    fleet.set("CONTACTPOINT__TOPIC", fleet.topic("Elsewhere"));
    fleet.set("BUSDRIVER__ROUTE", fleet.topic("Log"));
    let gone = dead(&fleet, &["replay", &known]).assert_code(1);
    let expected = format!(": no stop here reads {} any more, and `stops` does not list it\n", fleet.topic("AddEmail"));
    assert!(gone.stderr.contains(&expected), "{}", gone.stderr);
    nothing_done(&fleet);
    fleet.set("CONTACTPOINT__TOPIC", fleet.topic("AddEmail"));

    // Of another program: named, and left where it is; the others go
    let foreign = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).env("METROBUS__PUSHER__TOPIC", &error);
    foreign.stdin("{\"foreign\":1}\n").run().assert_code(0);
    let some = dead(&fleet, &["replay", "--all"]).assert_code(1);
    assert_eq!(some.stdout_text(), format!("replayed 15: {} 15\n", fleet.topic("AddEmail")));
    assert!(some.stderr.contains(": not a dead letter of metrobus\n"), "{}", some.stderr);
    assert!(some.stderr.ends_with("metrobus: 1 of 16 dead letters stay where they are\n"), "{}", some.stderr);
    assert_eq!(said(&fleet, &["discard", "--all"]), "discarded 1: another program 1\n");
    assert_eq!(ls(&fleet, &[]), Vec::<Value>::new());
}

/// Of the dead letter of a message.
fn place(fleet: &Fleet, id: &str) -> String {
    ls(fleet, &["--all", "--id", id])[0]["place"].as_str().expect("a place").to_owned()
}

#[test]
fn what_cannot_be_done_is_said_on_sqlite() {
    what_cannot_be_done_is_said_on(Engine::Sqlite);
}

#[test]
fn what_cannot_be_done_is_said_on_kafka() {
    what_cannot_be_done_is_said_on(Engine::AtLeastOnce);
}

/// The topic that they are sent to takes less than one of them has: that one stays, its neighbours go.
#[test]
fn what_a_topic_does_not_take_stays() {
    let Some(fleet) = rejected(Engine::AtLeastOnce, 5) else { return };
    let kafka = fleet.kafka.as_ref().expect("on Kafka");
    let narrow = fleet.topic("Narrow");
    kafka.create_topic(&narrow, 1, &[("max.message.bytes", "2000")]);
    let rules = format!(
        "stops = [\"{narrow}\"]\n[[busdriver.rule]]\nname = \"large\"\nwhen = \"payload.account_number == 3\"\n\
         route = [\"{narrow}\"]\nset = {{ pad = '\"{}\"' }}\n[[busdriver.rule]]\nname = \"small\"\nroute = [\"{narrow}\"]\n",
        "x".repeat(3000)
    );
    let file = fleet.scratch.write("rules.toml", rules);
    let arguments = ["--config", file.to_str().expect("a path"), "dead", "replay", "--all", "--replan"];
    let output = fleet.metrobus(&arguments).run().assert_code(1);
    assert_eq!(output.stdout_text(), format!("replayed 4: {narrow} 4\n"));
    assert!(
        output.stderr.contains(&format!(" bytes is more than topic {narrow} takes (2000 bytes)\n")),
        "{}",
        output.stderr
    );
    assert_eq!((fleet.values(&narrow).len(), ls(&fleet, &[]).len(), marked(&fleet)), (4, 1, 4));
}

/// What lies at the place of a letter that was dealt with, on a topic that was deleted and made anew, is another one.
#[test]
fn a_topic_made_anew_has_letters_of_its_own() {
    let Some(fleet) = rejected(Engine::AtLeastOnce, 3) else { return };
    assert_eq!(said(&fleet, &["discard", "--all"]), format!("discarded 3: {} 3\n", fleet.topic("AddEmail")));
    let kafka = fleet.kafka.as_ref().expect("on Kafka");
    let error = fleet.topic("Error");
    kafka.delete_topic(&error);
    wait_until("the topic to be gone", DEADLINE, || kafka.partitions(&error).is_none().then_some(()));
    // The same messages at the same places, rejected another time
    push(
        &fleet,
        "{\"account_number\":1,\"header\":{},\"payload\":\"text\"}\n{\"account_number\":2,\"header\":{},\"payload\":\"t\"}\n",
    );
    fleet.metrobus(&["busdriver", "--drain"]).deadline(Duration::from_secs(60)).run().assert_code(0);
    assert_eq!(ls(&fleet, &[]).len(), 2);
    assert_eq!(said(&fleet, &["replay", "--all"]), format!("replayed 2: {} 2\n", fleet.topic("Source")));
}

/// The broker goes and returns in the middle: the run waits for it, or ends because Kafka has given its transaction up, and
/// the next one does the rest.
#[test]
fn a_restart_of_the_broker_loses_and_doubles_nothing() {
    let Some(fleet) = Fleet::new(Engine::AtLeastOnce) else { return };
    let mut fleet = rejecting(fleet, 1000);
    let mut kafka = fleet.kafka.take().expect("on Kafka");
    let mut running = begun(&fleet, "400", 100);
    kafka.kill();
    wait_until("it to notice", DEADLINE, || {
        (running.stderr_text().contains("waits for") || !running.is_running()).then_some(())
    });
    kafka.restart();
    let output = running.wait(DEADLINE);
    if output.code != Some(0) {
        assert!(output.stderr.contains("run it again for the rest"), "{}", output.stderr);
        dead(&fleet, &["replay", "--all"]).assert_code(0);
    }
    assert_eq!((marked(&fleet), ls(&fleet, &[]).len()), (1000, 0));
    assert!(sent(&fleet, "AddEmail").values().all(|sent| *sent == (2, 1)));
}
