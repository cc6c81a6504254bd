//! Records that are no messages: dead letters at every stop, and the next record is handled.

use std::{collections::BTreeMap, time::SystemTime};

use super::traffic::{KNOWN, all, arrived, assert_no_panic, fleet, header, message, put};
use crate::{
    fleet::{DEADLINE, Engine, Fleet, STOPS, TOPICS},
    support::{NewRecord, Record},
};

/// A value that some stop has to reject, and how its reason begins.
struct Broken {
    value: Option<Vec<u8>>,
    reason: String,
}

fn broken(value: impl Into<Vec<u8>>, reason: impl Into<String>) -> Broken {
    Broken { value: Some(value.into()), reason: reason.into() }
}

/// What no stop takes for a message.
fn broken_everywhere(fleet: &Fleet) -> Vec<Broken> {
    let deep = |open: &str, close: &str| format!(r#"{{"a":{}1{}}}"#, open.repeat(10_000), close.repeat(10_000));
    let header = header(fleet, "AddEmail");
    let mut cases = vec![
        Broken { value: None, reason: "tombstone: the record has no value".into() },
        broken("", "empty value"),
        broken(" \r\n\t", "empty value"),
        broken("nonsense", "not JSON: expected ident at line 1 column 2"),
        broken(r#"{"a":1"#, "not JSON: EOF while parsing an object at line 1 column 6"),
        broken(r#"{"a":1}}"#, "not JSON: trailing characters"),
        broken(r#"{"a":1} {"a":2}"#, "not JSON: trailing characters"),
        broken("{\"a\":1}\0", "not JSON: trailing characters"),
        broken("\u{feff}{\"a\":1}", "not JSON: expected value"),
        broken("\0\0\0\0", "not JSON: expected value"),
        broken("{\"a\":\"x\0y\"}", "not JSON: control character"),
        broken("{\"a\":\"x\ny\"}", "not JSON: control character"),
        broken("{'a':1}", "not JSON: key must be a string"),
        broken(r#"{"a":NaN}"#, "not JSON: expected value"),
        broken(r#"{"a":-Infinity}"#, "not JSON: invalid number"),
        broken(r#"{"a":01}"#, "not JSON: invalid number"),
        broken(r#"{"a":1.}"#, "not JSON"),
        broken(r#"{"a":1,}"#, "not JSON: trailing comma"),
        broken(r#"{"a":1 /* x */}"#, "not JSON"),
        broken(r#"{"a":"\x41"}"#, "not JSON: invalid escape"),
        broken(r#"{"a":"\u12"}"#, "not JSON: invalid escape"),
        broken(*b"{\"a\":\"\xff\"}", "not UTF-8 at byte 6"),
        broken(*b"\xff\xfe{\0}\0", "not UTF-8 at byte 0"),
        // A surrogate and an overlong slash, which are no UTF-8
        broken(*b"{\"a\":\"\xed\xa0\x80\"}", "not UTF-8 at byte 6"),
        broken(*b"{\"a\":\"\xc0\xaf\"}", "not UTF-8 at byte 6"),
        broken("[]", "not a JSON object"),
        broken(format!("[{{{KNOWN}}}]"), "not a JSON object"),
        broken("5", "not a JSON object"),
        broken("null", "not a JSON object"),
        broken("true", "not a JSON object"),
        broken(r#""{}""#, "not a JSON object"),
        broken(deep("[", "]"), "nested deeper than limits.depth = 128"),
        broken(deep(r#"{"a":"#, "}"), "nested deeper than limits.depth = 128"),
        broken(format!(r#"{{"header":{header},"payload":{}}}"#, deep("[", "]")), "nested deeper"),
        // Never closed, and so no JSON at all: what counts is that it costs no stack
        broken("[".repeat(1_000_000), "nested deeper than limits.depth = 128"),
        broken(r#"{"a":"#.repeat(10_000), "nested deeper than limits.depth = 128"),
    ];
    for payload in ["[1]", "null", r#""text""#, "7"] {
        let value = format!(r#"{{"header":{header},"payload":{payload}}}"#);
        cases.push(broken(value, "payload is not a JSON object"));
    }
    let twice = |name| format!("{name} occurs twice");
    cases.push(broken(format!(r#"{{"header":{header},"payload":{{}},"payload":{{}}}}"#), twice("payload")));
    cases.push(broken(format!(r#"{{"header":{header},"payload":{{}},"p\u0061yload":{{}}}}"#), twice("payload")));
    cases.push(broken(format!(r#"{{"header":{{}},"header":{header},"payload":{{}}}}"#), twice("header")));
    cases
}

/// Slips that only stops on the way look at.
fn broken_slips(fleet: &Fleet) -> Vec<Broken> {
    let with = |header: String, reason: &str| {
        broken(format!(r#"{{"header":{header},"payload":{{{KNOWN}}}}}"#), format!("slip: {reason}"))
    };
    let route = |route: &str, reason: &str| with(format!(r#"{{"route":{route},"historical_route":[]}}"#), reason);
    let (log, error) = (fleet.topic("Log"), fleet.topic("Error"));
    let many = vec![format!("\"{log}\""); 10_000].join(",");
    let unknown = |name: &str| format!("unknown stop {name}: no stop here reads it and `stops` does not list it");
    let mut cases: Vec<_> = ["null", "[]", "1", "true", r#""route""#]
        .into_iter()
        .map(|header| with(header.into(), "header is not an object"))
        .collect();
    cases.extend([
        with("{}".into(), "route is missing"),
        with(r#"{"Route":["Log"]}"#.into(), "route is missing"),
        with(r#"{"header":{"route":["Log"]}}"#.into(), "route is missing"),
        route("null", "route is not a list"),
        route("{}", "route is not a list"),
        route(&format!("\"{log}\""), "route is not a list"),
        route("[1]", "route holds something that is not text"),
        route("[null]", "route holds something that is not text"),
        route(&format!(r#"["{log}",5]"#), "route holds something that is not text"),
        route(&format!(r#"[5,"{log}"]"#), "route holds something that is not text"),
        route(&format!(r#"[["{log}"]]"#), "route holds something that is not text"),
        route(&format!("[{many}]"), "10000 hops, more than limits.hops = 64"),
        with(format!(r#"{{"route":["{log}"],"historical_route":[{many}]}}"#), "10001 hops, more than limits.hops = 64"),
        route(r#"["Nowhere"]"#, &unknown(r#""Nowhere""#)),
        route(&format!(r#"["Nowhere","{log}"]"#), &unknown(r#""Nowhere""#)),
        route(&format!(r#"["{log}","Nowhere"]"#), &unknown(r#""Nowhere""#)),
        route(&format!(r#"["{error}"]"#), &unknown(&format!("{error:?}"))),
        route(&format!(r#"["{}"]"#, log.to_lowercase()), &unknown(&format!("{:?}", log.to_lowercase()))),
        route(&format!(r#"["{log} "]"#), &unknown(&format!("\"{log} \""))),
        route(r#"[""]"#, &unknown(r#""""#)),
        route(r#"["../../etc/passwd"]"#, &unknown(r#""../../etc/passwd""#)),
        route(r#"["a\nb\u001b[31m"]"#, &unknown(r#""a\nb\u{1b}[31m""#)),
        route(r#"["\ud800"]"#, &unknown(r#""""#)),
        route(&format!(r#"["{}"]"#, "x".repeat(100_000)), &unknown(&format!("\"{}\"", "x".repeat(100)))),
        with(format!(r#"{{"route":["{log}"],"route":["{log}"]}}"#), "route occurs twice"),
        with(format!(r#"{{"route":["{log}"],"r\u006fute":["{log}"]}}"#), "route occurs twice"),
        with(format!(r#"{{"route":["{log}"],"historical_route":"x"}}"#), "historical_route is not a list"),
        with(format!(r#"{{"route":["{log}"],"historical_route":null}}"#), "historical_route is not a list"),
        with(format!(r#"{{"route":["{log}"],"historical_route":[7]}}"#), "historical_route holds something"),
    ]);
    cases
}

fn milliseconds() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Puts every broken record on every topic, each before a good one.
fn put_all(fleet: &Fleet) -> BTreeMap<&'static str, Vec<Broken>> {
    let mut cases = BTreeMap::new();
    for topic in TOPICS {
        let mut broken = broken_everywhere(fleet);
        if topic != "Source" {
            broken.extend(broken_slips(fleet));
        }
        let mut records = Vec::new();
        for (n, case) in broken.iter().enumerate() {
            let mut record = NewRecord { value: case.value.clone(), ..NewRecord::default() };
            record = record.timestamp(1_600_000_000_000 + n as i64);
            // A key that is no text, an empty one, none
            record.key = [Some(b"\xff\x00key".to_vec()), Some(Vec::new()), None][n % 3].clone();
            records.extend([record, NewRecord::new(message(fleet, topic, n))]);
        }
        put(fleet, topic, records);
        cases.insert(topic, broken);
    }
    cases
}

fn broken_records_become_dead_letters_on(engine: Engine, batch: &str) {
    let Some(mut fleet) = fleet(engine) else { return };
    fleet.set("BATCH", batch);
    let cases = put_all(&fleet);
    let before = milliseconds();
    let output = fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    let after = milliseconds();
    assert_no_panic(&output.stderr);

    let mut letters: BTreeMap<(String, i64), Record> = BTreeMap::new();
    for letter in all(&fleet, "Error") {
        let header = |name: &str| letter.header(&format!("metrobus.{name}")).unwrap_or_else(|| panic!("no {name}"));
        let place = (header("topic"), header("offset").parse().unwrap());
        assert!(letters.insert(place, letter).is_none(), "one dead letter for each");
    }
    for (topic, stop) in TOPICS.into_iter().zip(STOPS) {
        for (n, case) in cases[topic].iter().enumerate() {
            let start = String::from_utf8_lossy(case.value.as_deref().unwrap_or_default());
            let start: String = start.chars().take(60).collect();
            let letter = letters.remove(&(fleet.topic(topic), 2 * n as i64));
            let letter = letter.unwrap_or_else(|| panic!("{topic}: no dead letter for {start}"));
            assert!(letter.value == case.value, "{topic}: {start}: the value is not what it was");
            assert_eq!(letter.key.as_deref(), [Some(&b"\xff\x00key"[..]), Some(b""), None][n % 3], "{topic}: {start}");
            assert_eq!(letter.timestamp, 1_600_000_000_000 + n as i64, "{topic}: {start}");
            let names: Vec<_> = letter.headers.iter().map(|(name, _)| name.as_str()).collect();
            let expected = ["reason", "stop", "topic", "partition", "offset", "time", "attempt", "history"];
            assert_eq!(names, expected.map(|name| format!("metrobus.{name}")), "{topic}: {start}");
            let header = |name: &str| letter.header(&format!("metrobus.{name}")).unwrap();
            assert!(header("reason").starts_with(&case.reason), "{topic}: {start}: {}", header("reason"));
            assert_eq!((header("stop").as_str(), header("partition").as_str()), (stop, "0"));
            assert_eq!(header("attempt"), "1");
            let time: i64 = header("time").parse().unwrap();
            assert!((before..=after).contains(&time), "{before} <= {time} <= {after}");
        }
    }
    assert!(letters.is_empty(), "more dead letters than broken records: {:?}", letters.keys());

    // The good ones behind each broken one, in their order
    let arrived = arrived(&fleet);
    for topic in TOPICS {
        let found: Vec<_> = arrived.iter().filter(|(at, _)| at == topic).map(|(_, n)| *n).collect();
        assert_eq!(found, (0..cases[topic].len() as u64).collect::<Vec<_>>(), "good records from {topic}");
    }
}

#[test]
fn broken_records_become_dead_letters_on_sqlite() {
    broken_records_become_dead_letters_on(Engine::Sqlite, "1000");
}

#[test]
fn broken_records_become_dead_letters_on_sqlite_one_by_one() {
    broken_records_become_dead_letters_on(Engine::Sqlite, "1");
}

#[test]
fn broken_records_become_dead_letters_on_kafka() {
    broken_records_become_dead_letters_on(Engine::AtLeastOnce, "1000");
}

#[test]
fn broken_records_become_dead_letters_on_kafka_exactly_once() {
    broken_records_become_dead_letters_on(Engine::ExactlyOnce, "1000");
}

/// What looks broken and is not, and what becomes of it at contactpoint and whitelist.
fn odd_payloads() -> Vec<(String, String)> {
    let kept = [
        r#""n":1e400,"m":-0.0,"o":2.50,"p":1E+2,"q":123456789012345678901234567890,"r":0.1000"#,
        r#""s":"\ud800","t":"\udc00\ud800","u":"\u0000","v":"\/","w":"é🚍\u00e9","\ud800":1"#,
        r#""a":1,"a":{"a":2},"a":"three""#,
        r#""he\u0061der":{"route":["Nowhere"]}"#,
        "\"a\" :\t[ 1 ,\r\n 2 ] , \"b\":{ }",
        r#""":"","\"":"\\","a.b":null"#,
    ];
    let mut cases: Vec<_> = kept
        .into_iter()
        .map(|fields| {
            let added = r#""email":"user1@example.com","whitelist":true"#.to_owned();
            (format!("{{{fields},{KNOWN}}}"), format!("{{{fields},{KNOWN},{added}}}"))
        })
        .collect();
    let deepest = format!("{}{}", "[".repeat(125), "]".repeat(125));
    for (before, after) in [
        (
            r#"{"account_number":"1000001","em\u0061il":"evil@example.com","wh\u0069telist":false}"#.to_owned(),
            r#"{"account_number":"1000001","em\u0061il":"user1@example.com","wh\u0069telist":true}"#.to_owned(),
        ),
        (
            r#"{"email":1,"account_number":1000001,"email":2,"whitelist":{}}"#.to_owned(),
            r#"{"email":"user1@example.com","account_number":1000001,"email":"user1@example.com","whitelist":true}"#
                .to_owned(),
        ),
        (
            r#"{"account_number":7,"acc\u006funt_number":"100000\u0031"}"#.to_owned(),
            r#"{"account_number":7,"acc\u006funt_number":"100000\u0031","email":"user1@example.com","whitelist":true}"#
                .to_owned(),
        ),
        (
            format!(r#"{{"deep":{deepest},{KNOWN}}}"#),
            format!(r#"{{"deep":{deepest},{KNOWN},"email":"user1@example.com","whitelist":true}}"#),
        ),
    ] {
        cases.push((before, after));
    }
    cases
}

fn what_only_looks_broken_passes_as_it_is_spelt_on(engine: Engine) {
    let Some(fleet) = fleet(engine) else { return };
    let cases = odd_payloads();
    // As raw records, and on their way in a spelling that is not ours
    put(&fleet, "Source", cases.iter().map(|(before, _)| NewRecord::new(before.clone())));
    let [white_list, log] = [fleet.topic("WhiteList"), fleet.topic("Log")];
    let escaped = format!("\\u{:04x}{}", u32::from(white_list.as_bytes()[0]), &white_list[1..]);
    let on_its_way = |payload: &str| {
        let header = format!(r#"{{ "x":1e400, "route" : [ "{log}" , "{escaped}" ] ,"id":null, "x":[]}}"#);
        format!(" {{\"more\":[1],\"payload\":{payload} , \"header\": {header},\"last\":-0.0 }}\n")
    };
    put(&fleet, "AddEmail", cases.iter().map(|(before, _)| NewRecord::new(on_its_way(before))));
    fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    assert_eq!(all(&fleet, "Error"), []);

    let values: Vec<_> = all(&fleet, "Log").iter().map(Record::text).collect();
    let header = format!(r#"{{ "x":1e400, "route" : [] ,"id":null, "x":[],"historical_route":["{escaped}","{log}"]}}"#);
    let mut raw = Vec::new();
    let mut slips = Vec::new();
    for value in values {
        let list = if value.contains("\"more\"") { &mut slips } else { &mut raw };
        list.push(value);
    }
    assert_eq!((raw.len(), slips.len()), (cases.len(), cases.len()));
    for ((_, after), (raw, slip)) in cases.iter().zip(raw.iter().zip(&slips)) {
        assert!(raw.ends_with(&format!(r#""payload":{after}}}"#)), "{after}\nin {raw}");
        assert_eq!(*slip, format!("{{\"more\":[1],\"payload\":{after} , \"header\": {header},\"last\":-0.0 }}"));
    }
}

#[test]
fn what_only_looks_broken_passes_as_it_is_spelt_on_sqlite() {
    what_only_looks_broken_passes_as_it_is_spelt_on(Engine::Sqlite);
}

#[test]
fn what_only_looks_broken_passes_as_it_is_spelt_on_kafka() {
    what_only_looks_broken_passes_as_it_is_spelt_on(Engine::AtLeastOnce);
}

#[test]
fn tail_shows_a_dead_letter_byte_for_byte() {
    use base64::{Engine as _, prelude::BASE64_STANDARD};

    let fleet = fleet(Engine::Sqlite).unwrap();
    let values: [&[u8]; 3] = [b"\xff\x00\xfe", b"no\nJSON \"\\", b""];
    put(&fleet, "Source", values.map(|value| NewRecord::new(value).key(*b"\xfe")));
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);
    let told = fleet.tail("Error");
    for (told, value) in told.iter().zip(values) {
        let found = match (told["value"].as_str(), told["value_base64"].as_str()) {
            (Some(text), None) => text.as_bytes().to_vec(),
            (None, Some(base64)) => BASE64_STANDARD.decode(base64).unwrap(),
            _ => panic!("{told}"),
        };
        assert_eq!((found.as_slice(), told["key_base64"].as_str()), (value, Some("/g==")));
        assert_eq!(told["headers"]["metrobus.stop"], "busdriver");
    }
    assert_eq!(told.len(), 3);
}

#[test]
fn a_route_in_a_circle_ends_when_it_is_travelled() {
    let fleet = fleet(Engine::Sqlite).unwrap();
    let circle = |hops: usize| {
        let route: Vec<_> = (1..hops).map(|hop| if hop % 2 == 0 { "\"AddEmail\"" } else { "\"WhiteList\"" }).collect();
        format!(
            r#"{{"header":{{"route":[{}],"historical_route":["AddEmail"]}},"payload":{{{KNOWN}}}}}"#,
            route.join(",")
        )
    };
    put(&fleet, "AddEmail", [64, 65].map(|hops| NewRecord::new(circle(hops))));
    // Back to where journeys begin it would get a new slip, with nothing behind it
    let home = format!(r#"{{"header":{{"route":["Source"]}},"payload":{{"at":"home","n":1,{KNOWN}}}}}"#);
    put(&fleet, "AddEmail", [NewRecord::new(home)]);
    let output = fleet.metrobus(&["run", "--drain"]).deadline(DEADLINE).run().assert_code(0);
    assert_no_panic(&output.stderr);
    let letters = all(&fleet, "Error");
    let reasons: Vec<_> = letters.iter().map(|letter| letter.header("metrobus.reason").unwrap()).collect();
    let home = "slip: unknown stop \"Source\": no stop here reads it and `stops` does not list it";
    assert_eq!(reasons, ["slip: 65 hops, more than limits.hops = 64", home]);
    assert_eq!(all(&fleet, "AddEmail").len() + all(&fleet, "WhiteList").len(), 64 + 1 + 1);
}

#[test]
fn ten_thousand_broken_records_take_their_turn() {
    let fleet = fleet(Engine::Sqlite).unwrap();
    // Each with a reason of its own: counting them apart must not cost the square of their number
    let broken = (0..10_000).map(|n| NewRecord::new(format!("{{{}!", " ".repeat(n % 1000))));
    put(&fleet, "Source", broken);
    put(&fleet, "Source", [NewRecord::new(message(&fleet, "Source", 1))]);
    let begun = std::time::Instant::now();
    let output = fleet.metrobus(&["run", "--drain"]).env("METROBUS__BATCH", "100000").run().assert_code(0);
    let took = begun.elapsed();
    assert!(took.as_secs() < 20, "it took {took:?}");
    assert!(output.stderr.len() < 20_000, "the log is not for each of them:\n{}", output.stderr);
    assert_eq!(all(&fleet, "Error").len(), 10_000);
    assert_eq!(arrived(&fleet), [("Source".to_owned(), 1)]);
}
