//! `pusher`: what it sends, how fast, and how it ends.

use std::{io::Write, time::Duration};

use serde_json::{Value, json};

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Metrobus, Output, Process, Signal, wait_until},
};

fn fleet() -> Fleet {
    Fleet::new(Engine::Sqlite).expect("SQLite is always there")
}

fn pusher(fleet: &Fleet, arguments: &[&str]) -> Metrobus {
    fleet.metrobus(&[&["pusher"], arguments].concat())
}

/// Runs it to its end, and gives what it said last of all.
fn push(call: Metrobus, code: i32) -> (Output, String) {
    let output = call.run().assert_code(code);
    assert_eq!(output.stdout_text(), "", "data only on standard output, and there is none");
    let said = output.stderr.lines().last().unwrap_or_default().to_owned();
    (output, said)
}

/// How many records there are on Source; none where the topic is not there yet.
fn on_source(fleet: &Fleet) -> u64 {
    let topics = fleet.metrobus(&["topics", "--json"]).run().assert_code(0).json_lines();
    topics
        .iter()
        .find(|topic| topic["topic"] == "Source")
        .map_or(0, |topic| topic["records"].as_u64().expect("a count"))
}

fn wait_for_source(fleet: &Fleet, records: u64) {
    wait_until(&format!("{records} records on Source"), DEADLINE, || (on_source(fleet) >= records).then_some(()));
}

/// Ends a pusher that is on its way; gives the numbers of its summary, sent and confirmed.
fn interrupt(mut process: Process, code: i32) -> (u64, u64) {
    process.signal(Signal::INT);
    let output = process.wait(DEADLINE).assert_code(code);
    let summary = output.stderr.lines().find(|line| line.contains(" sent to Source, ")).expect("a summary");
    let numbers: Vec<u64> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn made_up_records_are_those_of_the_original() {
    let fleet = fleet();
    let (_, said) = push(pusher(&fleet, &["--count", "25", "--rate", "0"]), 0);
    assert_eq!(said, "25 sent to Source, 25 confirmed");
    let records = fleet.tail("Source");
    assert_eq!(records.len(), 25);
    for (x, record) in records.iter().enumerate() {
        let account = record["key"].as_str().expect("the account is the key");
        assert!((1_000_000..2_000_000).contains(&account.parse::<u64>().expect("a number")), "{account}");
        let value = format!(r#"{{"x":{x},"message_type_code":"ALTABC","account_number":{account}}}"#);
        assert_eq!(record["value"], json!(value));
    }
    push(pusher(&fleet, &["--rate", "0"]), 0);
    assert_eq!(on_source(&fleet), 1025, "a thousand unless said");
}

#[test]
fn no_record_is_sent_before_its_time() {
    let fleet = fleet();
    push(pusher(&fleet, &["--count", "40", "--rate", "20"]), 0);
    let times: Vec<i64> = fleet.tail("Source").iter().map(|r| r["timestamp"].as_i64().expect("a time")).collect();
    assert_eq!(times.len(), 40);
    for (index, time) in times.iter().enumerate() {
        // Fifty milliseconds each; the clock of the first one may be read a little late
        let due = 50 * index as i64 - 100;
        assert!(time - times[0] >= due, "record {index} after {} ms", time - times[0]);
    }
}

#[test]
fn lines_are_sent_byte_for_byte_and_bad_ones_named_and_skipped() {
    let fleet = fleet();
    let good = [r#"{"a": 2.50, "b":-0.0}"#, r#"  {"z":12345678901234567890,"a":"é\u00e9"} "#, r#"{"last":"line"}"#];
    let mut input = Vec::new();
    write!(input, "{}\r\n\n   \nnot json\n[1]\n", good[0]).unwrap();
    input.extend_from_slice(b"{\"a\":\"\xff\"}\n{\"a\":1}}\n\"text\"\n");
    write!(input, "{}\n{}", good[1], good[2]).unwrap();
    fleet.scratch.write("in.ndjson", &input);
    let (output, said) = push(pusher(&fleet, &["--from", "in.ndjson", "--rate", "0"]), 0);
    assert_eq!(said, "3 sent to Source, 3 confirmed, 5 bad lines skipped");
    assert_eq!(fleet.values("Source"), good);
    let reason = |line: u32| if line == 6 { "not UTF-8" } else { "not a JSON object" };
    let warnings: Vec<_> = output.stderr.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 5, "{}", output.stderr);
    for (line, warning) in (4..=8).zip(warnings) {
        let named = format!("in.ndjson: line {line}: {}; skipped", reason(line));
        assert!(warning.ends_with(&named), "{named}: {warning}");
    }
    // The same from a pipe
    let (output, said) = push(pusher(&fleet, &["--from", "-", "--rate", "0"]).stdin(input), 0);
    assert_eq!(said, "3 sent to Source, 3 confirmed, 5 bad lines skipped");
    assert!(output.stderr.contains("standard input: line 8: not a JSON object; skipped"), "{}", output.stderr);
    assert_eq!(fleet.values("Source"), [good, good].concat());
}

#[test]
fn strict_sends_what_stands_before_the_first_bad_line_and_fails() {
    let fleet = fleet();
    fleet.scratch.write("in.ndjson", "{\"x\":0}\n{\"x\":1}\n{\"x\":\n{\"x\":3}\n");
    let (output, said) = push(pusher(&fleet, &["--from", "in.ndjson", "--rate", "0", "--strict"]), 1);
    assert_eq!(said, "metrobus: in.ndjson: line 3: not a JSON object; nothing from this line on was sent (--strict)");
    assert!(output.stderr.contains("2 sent to Source, 2 confirmed\n"), "{}", output.stderr);
    assert_eq!(fleet.values("Source"), [r#"{"x":0}"#, r#"{"x":1}"#]);
}

#[test]
fn a_file_is_sent_whole_unless_a_count_is_given() {
    let fleet = fleet();
    let lines: String = (0..2500).map(|x| format!("{{\"x\":{x}}}\n")).collect();
    fleet.scratch.write("in.ndjson", &lines);
    push(pusher(&fleet, &["--from", "in.ndjson", "--rate", "0"]), 0);
    assert_eq!(fleet.values("Source").join("\n") + "\n", lines);
    let (_, said) = push(pusher(&fleet, &["--from", "in.ndjson", "--rate", "0", "--count", "7"]), 0);
    assert_eq!(said, "7 sent to Source, 7 confirmed");
    assert_eq!(on_source(&fleet), 2507);
}

#[test]
fn an_empty_input_is_no_error() {
    let fleet = fleet();
    for input in ["", "\n\n"] {
        let (_, said) = push(pusher(&fleet, &["--from", "-"]).stdin(input), 0);
        assert_eq!(said, "0 sent to Source, 0 confirmed");
    }
    assert_eq!(push(pusher(&fleet, &["--count", "0"]), 0).1, "0 sent to Source, 0 confirmed");
    assert_eq!(on_source(&fleet), 0);
}

#[test]
fn the_key_is_the_field_that_was_named() {
    let fleet = fleet();
    let lines = [
        r#"{"account_number":1,"name":"J\u00fcrg"}"#,
        r#"{"name":12.50}"#,
        r#"{"name":null}"#,
        r#"{"account_number":"2"}"#,
    ];
    for (key, keys) in [
        (&[][..], [json!("1"), Value::Null, Value::Null, json!("2")]),
        (&["--key", "name"], [json!("Jürg"), json!("12.50"), Value::Null, Value::Null]),
        (&["--key", ""], [Value::Null, Value::Null, Value::Null, Value::Null]),
    ] {
        let call = pusher(&fleet, &[&["--from", "-", "--rate", "0"], key].concat());
        push(call.stdin(lines.join("\n")), 0);
        let records = fleet.tail("Source");
        let found: Vec<_> = records[records.len() - 4..].iter().map(|record| record["key"].clone()).collect();
        assert_eq!(found, keys, "{key:?}");
    }
}

#[test]
fn a_pipe_that_falls_silent_delays_nothing() {
    let fleet = fleet();
    let mut process = pusher(&fleet, &["--from", "-", "--rate", "0"]).stdin_pipe().spawn();
    let mut stdin = process.take_stdin();
    for sent in 1..=3 {
        writeln!(stdin, r#"{{"x":{sent}}}"#).expect("it reads");
        wait_for_source(&fleet, sent);
    }
    // What has come of a line may not be all of it
    write!(stdin, r#"{{"x":4}}"#).expect("it reads");
    assert_eq!(interrupt(process, 0), (3, 3));
    assert_eq!(on_source(&fleet), 3);
    drop(stdin);
}

#[test]
fn a_signal_ends_it_with_what_is_confirmed() {
    let fleet = fleet();
    let process = pusher(&fleet, &["--count", "1000000", "--rate", "200"]).spawn();
    wait_for_source(&fleet, 20);
    let (sent, confirmed) = interrupt(process, 0);
    assert_eq!(sent, confirmed);
    assert_eq!(on_source(&fleet), sent, "what it says is what is there");
}

#[test]
fn what_kafka_has_not_confirmed_is_a_failure() {
    let Some(mut fleet) = Fleet::new(Engine::AtLeastOnce) else { return };
    fleet.set("SHUTDOWN_TIMEOUT", "500ms");
    let mut kafka = fleet.kafka.take().expect("a broker of its own");
    let process = pusher(&fleet, &["--count", "1000000", "--rate", "1000"]).spawn();
    wait_for_source(&fleet, 100);
    kafka.pause();
    // Some records are sent to a broker that says nothing
    std::thread::sleep(Duration::from_millis(200));
    let (sent, confirmed) = interrupt(process, 1);
    kafka.resume();
    assert!(sent > confirmed && confirmed >= 100, "{sent} sent, {confirmed} confirmed");
    assert!(on_source(&fleet) >= confirmed);
}
