//! The life of a process: it starts before its services, waits for them, and ends when it is told to.

use std::{
    collections::BTreeSet,
    io::Read,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Kafka, Process, Redis, Signal, free_port, wait_until},
};

fn fleet() -> Fleet {
    let fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    fleet.scratch.write("data/emails.dat", "1,user1@example.com\n");
    fleet.scratch.write("data/whitelist.dat", "user1@example.com\n");
    fleet
}

/// Sends a message of account 1 to AddEmail, with the slip that it has there.
fn push_one(fleet: &Fleet) {
    let line =
        r#"{"header":{"route":["Log","WhiteList"],"historical_route":["AddEmail"]},"payload":{"account_number":1}}"#;
    let call = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).env("METROBUS__PUSHER__TOPIC", "AddEmail");
    call.stdin(line).run().assert_code(0);
}

fn records(fleet: &Fleet, topic: &str) -> u64 {
    let topics = fleet.metrobus(&["topics", "--json"]).run().assert_code(0).json_lines();
    topics.iter().find(|found| found["topic"] == topic).map_or(0, |found| found["records"].as_u64().expect("a count"))
}

fn wait_for(fleet: &Fleet, topic: &str, count: u64) {
    wait_until(&format!("{count} records on {topic}"), DEADLINE, || (records(fleet, topic) >= count).then_some(()));
}

/// SIGTERM, and the end with 0; gives what it said.
fn end(mut process: Process) -> String {
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0).stderr
}

#[test]
fn a_signal_ends_a_busy_process_after_what_is_in_flight() {
    let fleet = fleet();
    const MESSAGES: u64 = 6000;
    let lines: String = (0..MESSAGES).map(|x| format!("{{\"x\":{x},\"account_number\":1}}\n")).collect();
    fleet.scratch.write("records.ndjson", lines);
    let pusher = fleet.metrobus(&["pusher", "--from", "records.ndjson", "--rate", "3000"]).spawn();
    for ended in 1..=3 {
        let stops = fleet.metrobus(&["run"]).spawn();
        wait_for(&fleet, "Log", ended * 500);
        let said = end(stops);
        assert_eq!(said.matches("INFO ended").count(), 4, "{said}");
        assert!(!said.contains("WARN"), "{said}");
    }
    pusher.wait(DEADLINE).assert_code(0);
    fleet.drain("a");
    let number = |text: &str| {
        let value: Value = serde_json::from_str(text).expect("JSON");
        value["payload"]["x"].as_u64().expect("a number")
    };
    let all: Vec<u64> = (0..MESSAGES).collect();
    assert!(fleet.values("Log").iter().map(|value| number(value)).collect::<Vec<_>>() == all, "each once, in order");
    let written: Vec<u64> = fleet.scratch.read("log.ndjson").lines().map(number).collect();
    assert!(written == all, "after an orderly end no line is written twice");
}

/// A logstop whose output is a pipe that nobody reads beyond its first byte: it hangs in the middle of a batch.
fn hanging_logstop(fleet: &Fleet) -> (std::process::Child, std::process::ChildStdout) {
    let big = "x".repeat(100_000);
    let lines = (0..10).map(|n| format!(r#"{{"header":{{"route":[]}},"payload":{{"n":{n},"big":"{big}"}}}}"#));
    let call = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).env("METROBUS__PUSHER__TOPIC", "Log");
    call.stdin(lines.collect::<Vec<_>>().join("\n")).run().assert_code(0);
    let mut command = Command::new(env!("CARGO_BIN_EXE_metrobus"));
    command.arg("logstop").current_dir(fleet.scratch.root()).stdin(Stdio::null());
    command.env_remove("METROBUS_CONFIG").env_remove("RUST_LOG");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start logstop");
    let mut output = child.stdout.take().expect("a pipe");
    output.read_exact(&mut [0]).expect("it writes");
    (child, output)
}

fn signal(child: &std::process::Child, signal: Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("send a signal");
}

#[test]
fn what_is_in_flight_is_settled_after_a_signal() {
    let fleet = fleet();
    let (mut child, mut output) = hanging_logstop(&fleet);
    signal(&child, Signal::TERM);
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).expect("all of its output");
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    assert_eq!(rest.iter().filter(|byte| **byte == b'\n').count(), 10);
    let again = fleet.metrobus(&["logstop", "--drain"]).env("METROBUS__LOGSTOP__OUTPUT", "-").run().assert_code(0);
    assert_eq!(again.stdout_text(), "", "all was settled");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let fleet = fleet();
    for first in [Signal::TERM, Signal::INT] {
        let (mut child, output) = hanging_logstop(&fleet);
        signal(&child, first);
        // The first one is taken before the second is sent: signals of one kind do not queue
        assert!(!has_ended_within(&mut child, Duration::from_millis(300)), "it left its batch");
        signal(&child, Signal::TERM);
        assert!(has_ended_within(&mut child, DEADLINE), "it hangs");
        assert_eq!(child.wait().expect("its end").code(), Some(1));
        drop(output);
    }
    let again = fleet.metrobus(&["logstop", "--drain"]).env("METROBUS__LOGSTOP__OUTPUT", "-").run().assert_code(0);
    assert_eq!(again.stdout_text().lines().count(), 20, "nothing of it was acknowledged");
}

fn has_ended_within(child: &mut std::process::Child, time: Duration) -> bool {
    crate::support::try_until(time, || child.try_wait().expect("ask for its state")).is_some()
}

/// A fleet whose contactpoint looks up in a Redis of its own, filled and then gone.
fn fleet_with_redis() -> Option<(Fleet, Redis)> {
    let mut redis = Redis::start()?;
    let mut fleet = fleet();
    fleet.set("REDIS__URL", redis.url());
    fleet.set("REDIS__TIMEOUT", "500ms");
    fleet.metrobus(&["cache", "load"]).run().assert_code(0);
    fleet.set("CONTACTPOINT__CACHE", "redis");
    redis.kill();
    Some((fleet, redis))
}

#[test]
fn a_stop_starts_before_its_redis() {
    let Some((fleet, mut redis)) = fleet_with_redis() else { return };
    push_one(&fleet);
    let mut stop = fleet.start("contactpoint", "a");
    let waits = format!("WARN waits for what stop contactpoint needs: Redis at 127.0.0.1:{}: ", redis.port());
    stop.wait_for_stderr(&waits, DEADLINE);
    assert!(!stop.stderr_text().contains("ready"), "{}", stop.stderr_text());
    redis.restart();
    wait_for(&fleet, "WhiteList", 1);
    assert!(stop.is_running());
    let said = end(stop);
    assert!(said.contains("what stop contactpoint needs is back after "), "{said}");
}

#[test]
fn a_signal_ends_a_process_that_waits_for_its_redis() {
    let Some((fleet, _redis)) = fleet_with_redis() else { return };
    let mut stop = fleet.start("contactpoint", "a");
    stop.wait_for_stderr("waits for what stop contactpoint needs", DEADLINE);
    assert!(end(stop).contains("ended before it was ready"));
    // Beside others, which do not wait for it
    let mut all = fleet.metrobus(&["run"]).spawn();
    all.wait_for_stderr("waits for what stop contactpoint needs", DEADLINE);
    for stop in ["busdriver", "whitelist", "logstop"] {
        all.wait_for_stderr(&format!("INFO ready stop=\"{stop}\""), DEADLINE);
    }
    end(all);
}

#[test]
fn a_redis_that_is_away_at_the_start_ends_it_with_69_where_that_was_wished_for() {
    let mut fleet = fleet();
    fleet.set("REDIS__URL", format!("redis://:s3cret@127.0.0.1:{}", free_port()));
    for stop in ["contactpoint", "whitelist"] {
        let name = format!("METROBUS__{}__CACHE", stop.to_uppercase());
        for call in [&[stop][..], &["run"], &[stop, "--drain"]] {
            let call = fleet.metrobus(&[call, &["--connect-timeout", "300ms"]].concat());
            let output = call.env(&name, "redis").run().assert_code(69);
            let needs = format!("metrobus: what stop {stop} needs cannot be reached within 300ms: Redis at 127.0.0.1:");
            assert!(output.stderr.contains(&needs), "{}", output.stderr);
            assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
        }
    }
    assert_eq!(records(&fleet, "AddEmail"), 0);
}

#[test]
fn a_redis_that_nobody_filled_is_waited_for() {
    let Some(redis) = Redis::shared() else { return };
    let mut fleet = fleet();
    fleet.set("REDIS__URL", redis.url());
    push_one(&fleet);
    let call = fleet.metrobus(&["contactpoint"]).env("METROBUS__CONTACTPOINT__CACHE", "redis");
    let mut stop = call.spawn();
    stop.wait_for_stderr("has no hash `emails`, `metrobus cache load` fills it", DEADLINE);
    let loaded = fleet.metrobus(&["cache", "load"]).run().assert_code(0).stderr;
    assert!(loaded.contains("loaded data/emails.dat into the hash `emails` of Redis at 127.0.0.1"), "{loaded}");
    wait_for(&fleet, "WhiteList", 1);
    end(stop);
}

#[test]
fn a_signal_does_not_wait_for_a_redis_that_hangs() {
    let Some((fleet, mut redis)) = fleet_with_redis() else { return };
    redis.restart();
    let mut stop = fleet.start("contactpoint", "a");
    stop.wait_for_stderr("INFO ready", DEADLINE);
    redis.pause();
    push_one(&fleet);
    stop.wait_for_stderr("does not answer within 500ms", DEADLINE);
    end(stop);
    redis.resume();
    assert_eq!(records(&fleet, "WhiteList"), 0);
    fleet.metrobus(&["contactpoint", "--drain"]).run().assert_code(0);
    assert_eq!(records(&fleet, "WhiteList"), 1, "nothing is lost");
}

#[test]
fn counters_never_hold_anything_up() {
    let mut fleet = fleet();
    fleet.set("REDIS__URL", format!("redis://127.0.0.1:{}", free_port()));
    fleet.set("REDIS__COUNTERS", "on");
    push_one(&fleet);
    let output = fleet.metrobus(&["run", "--drain", "--connect-timeout", "300ms"]).run().assert_code(0);
    assert_eq!(records(&fleet, "Log"), 1);
    assert!(output.stderr.contains("WARN"), "it says that counts are lost: {}", output.stderr);
}

#[test]
fn a_process_starts_before_its_broker() {
    let Some(mut kafka) = Kafka::start() else { return };
    kafka.kill();
    let mut fleet = fleet();
    fleet.set("BUS", "kafka");
    fleet.set("KAFKA__BROKERS", kafka.brokers());
    fleet.set("REDIS__COUNTERS", "off");
    let commands: [&[&str]; 5] =
        [&["busdriver"], &["run"], &["pusher", "--count", "1"], &["topics"], &["tail", "Source"]];
    let limited = |command: &[&str]| fleet.metrobus(&[command, &["--connect-timeout", "300ms"]].concat()).spawn();
    let limited: Vec<_> = commands.into_iter().map(limited).collect();
    let waiting: Vec<_> = commands.into_iter().map(|command| fleet.metrobus(command).spawn()).collect();
    for process in limited {
        let output = process.wait(DEADLINE).assert_code(69);
        let said = output.stderr.lines().last().unwrap_or_default();
        assert!(said.starts_with("metrobus: the bus cannot be reached within 300ms: "), "{said}");
        assert!(said.contains(kafka.brokers()), "{said}");
    }
    for mut process in waiting {
        process.wait_for_stderr("WARN waits for the bus: ", DEADLINE);
        end(process);
    }
    let mut pusher = fleet.metrobus(&["pusher", "--count", "10", "--rate", "0"]).spawn();
    let mut stop = fleet.start("busdriver", "a");
    pusher.wait_for_stderr("WARN waits for the bus: ", DEADLINE);
    stop.wait_for_stderr("WARN waits for the bus: ", DEADLINE);
    kafka.restart();
    assert!(pusher.wait(DEADLINE).assert_code(0).stderr.ends_with("10 sent to Source, 10 confirmed\n"));
    wait_for(&fleet, "AddEmail", 10);
    let said = end(stop);
    assert!(said.contains("the bus is back after "), "{said}");
    let numbers: BTreeSet<_> = fleet.values("AddEmail").into_iter().collect();
    assert_eq!(numbers.len(), 10);
}
