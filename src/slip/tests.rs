//! Messages as they come, and as a hop writes them.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::bus::Headers;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn stops() -> &'static Stops {
    static STOPS: LazyLock<Stops> = LazyLock::new(|| Stops::new(["AddEmail", "WhiteList", "Log"].map(topic)));
    &STOPS
}

fn record(value: Option<&[u8]>) -> Record<'_> {
    Record { partition: 0, offset: 0, timestamp: 0, key: None, headers: Headers::default(), value }
}

fn parse(value: &str) -> Result<Message<'_>, Malformed> {
    Message::parse(record(Some(value.as_bytes())), &Limits::default(), stops())
}

/// The same as the stop's loop does it.
fn parse_scanned<'a>(value: &'a str, tape: &'a mut Tape) -> Result<Message<'a>, Malformed> {
    let (record, limits) = (record(Some(value.as_bytes())), Limits::default());
    let checked = Checked::new(record.value, &limits, tape)?;
    let message = Message::on_its_way(record, Parts::new(&checked, Some(tape))?, &limits, stops(), None)?;
    // Behind one like it, it is the same
    let again = Message::on_its_way(record, Parts::new(&checked, Some(tape))?, &limits, stops(), Some(&message))?;
    assert_eq!(format!("{again:?}"), format!("{message:?}"));
    Ok(again)
}

fn advanced(value: &str) -> (Option<String>, String) {
    let mut out = Vec::new();
    let message = parse(value).unwrap();
    message.write_next(&mut out);
    let mut scanned = Vec::new();
    parse_scanned(value, &mut Tape::default()).unwrap().write_next(&mut scanned);
    assert_eq!(scanned, out, "{value}");
    (message.next_stop().map(Topic::to_string), String::from_utf8(out).unwrap())
}

#[test]
fn a_hop_moves_one_stop_and_touches_nothing_else() {
    let (next, out) = advanced(
        r#" {"v":1, "payload" : {"a":2.50} ,"header":{ "x":[1 , 2],"historical_route":[ ],"route":["Log" , "White\u004cist"], "t":1e400}} "#,
    );
    assert_eq!(next.as_deref(), Some("WhiteList"));
    assert_eq!(
        out,
        r#"{"v":1, "payload" : {"a":2.50} ,"header":{ "x":[1 , 2],"historical_route":["White\u004cist"],"route":["Log"], "t":1e400}}"#
    );
}

#[test]
fn a_missing_history_is_begun() {
    let (next, out) = advanced(r#"{"header":{"route":["Log"] },"payload":{}}"#);
    assert_eq!(next.as_deref(), Some("Log"));
    assert_eq!(out, r#"{"header":{"route":[],"historical_route":["Log"]},"payload":{}}"#);
}

#[test]
fn an_empty_route_and_a_bare_payload_are_at_their_end() {
    assert_eq!(advanced(r#"{"header":{"route":[]},"payload":{}}"#).0, None);
    assert_eq!(advanced(r#"{"header":{"route":["Log"]}}"#).0, None, "no payload: all of it is payload");
    assert_eq!(advanced(r#"{"a":1}"#).0, None);
}

#[test]
fn what_is_no_message_says_why() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let long_route = format!(r#"{{"header":{{"route":[{}"Log"]}},"payload":{{}}}}"#, r#""Log","#.repeat(9_999));
    let cases: [(&str, &str); 18] = [
        ("", "empty value"),
        (" \n", "empty value"),
        ("nonsense", "not JSON: expected ident at line 1 column 2"),
        (r#"{"a":1"#, "not JSON: EOF while parsing an object at line 1 column 6"),
        (r#"{"a":1} x"#, "not JSON: trailing characters at line 1 column 9"),
        (r#"{"a":01}"#, "not JSON: invalid number at line 1 column 7"),
        ("[1]", "not a JSON object"),
        ("17", "not a JSON object"),
        ("\"text\"", "not a JSON object"),
        (&deep, "nested deeper than limits.depth = 128"),
        (r#"{"header":{},"payload":{}}"#, "slip: route is missing"),
        (r#"{"header":null,"payload":{}}"#, "slip: header is not an object"),
        (r#"{"header":{"route":"Log"},"payload":{}}"#, "slip: route is not a list"),
        (r#"{"header":{"route":["Log",5]},"payload":{}}"#, "slip: route holds something that is not text"),
        (&long_route, "slip: 10000 hops, more than limits.hops = 64"),
        (
            r#"{"header":{"route":["Nowhere","Log"]},"payload":{}}"#,
            "slip: unknown stop \"Nowhere\": no stop here reads it and `stops` does not list it",
        ),
        (r#"{"header":{"route":[],"ro\u0075te":["Log"]},"payload":{}}"#, "slip: route occurs twice"),
        (r#"{"header":{"route":["Log"]},"payload":[1]}"#, "payload is not a JSON object"),
    ];
    for (value, reason) in cases {
        assert_eq!(parse(value).unwrap_err().to_string(), reason, "{value:.100}");
        let mut tape = Tape::default();
        assert_eq!(parse_scanned(value, &mut tape).unwrap_err().to_string(), reason, "{value:.100}");
    }
    let limits = Limits::default();
    assert_eq!(Message::parse(record(None), &limits, stops()).unwrap_err(), Malformed::Tombstone);
    assert_eq!(Message::parse(record(Some(b"{\"a\":\"\xff\"}")), &limits, stops()).unwrap_err(), Malformed::NotUtf8(6));
    let long = vec![b' '; limits.message_bytes + 1];
    let reason = Message::parse(record(Some(&long)), &limits, stops()).unwrap_err().to_string();
    assert_eq!(reason, "10485761 bytes, more than limits.message_bytes = 10485760");
}

#[test]
fn braces_in_text_are_not_depth() {
    let value = format!(r#"{{"a":"{}\"{}"}}"#, "[".repeat(500), "{".repeat(500));
    assert!(parse(&value).is_ok());
}

#[test]
fn where_journeys_begin_no_header_is_believed() {
    let limits = Limits::default();
    let itinerary = Itinerary::new(&["AddEmail", "WhiteList", "Log"].map(topic));
    let id = Uuid::from_u128(7);
    for value in [r#"{"header":["evil"],"payload":{"a":1.0}}"#, r#"{"a":1.0}"#] {
        let mut message = Message::parse_untrusted(record(Some(value.as_bytes())), &limits).unwrap();
        message.depart(&itinerary, id);
        assert_eq!(message.next_stop(), Some(&topic("AddEmail")));
        let mut out = Vec::new();
        message.write_next(&mut out);
        let expected = concat!(
            r#"{"header":{"route":["Log","WhiteList"],"original_route":["Log","WhiteList","AddEmail"],"#,
            r#""historical_route":["AddEmail"],"id":"00000000-0000-0000-0000-000000000007"},"payload":{"a":1.0}}"#
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn a_slip_that_names_its_rule_tells_it_where_it_sets_out() {
    let plain = Itinerary::new(&[topic("Log")]);
    let header = plain.header.replace("\"id\":", "\"rule\":\"rest\",\"rules\":\"0af\",\"id\":");
    let ruled = Itinerary { header: header.into(), ..plain.clone() };
    let mut message = Message::parse_untrusted(record(Some(b"{}")), &Limits::default()).unwrap();
    assert_eq!(message.rule(), None);
    for (itinerary, expected) in [(plain, None), (ruled, Some("rest"))] {
        message.depart(&itinerary, Uuid::nil());
        assert_eq!(message.rule(), expected);
    }
}

proptest! {
    #[test]
    fn original_route_is_route_then_history_reversed(
        route in proptest::collection::vec(prop_oneof!["AddEmail", "WhiteList", "Log"], 1..10),
        hops in 0_usize..10,
    ) {
        let itinerary = Itinerary::new(&route.iter().map(|stop| topic(stop)).collect::<Vec<_>>());
        let mut first = Message::parse_untrusted(record(Some(b"{}")), &Limits::default()).unwrap();
        first.depart(&itinerary, Uuid::nil());
        let mut value = Vec::new();
        first.write_next(&mut value);
        let mut travelled = vec![first.next_stop().unwrap().to_string()];
        for _ in 0..hops {
            let message = Message::parse(record(Some(&value)), &Limits::default(), stops()).unwrap();
            let Some(next) = message.next_stop() else { break };
            travelled.push(next.to_string());
            let mut out = Vec::new();
            message.write_next(&mut out);
            value = out;
        }
        let header = serde_json::from_slice::<Value>(&value).unwrap()["header"].clone();
        let list = |name: &str| header[name].as_array().unwrap().clone();
        let (mut whole, mut history) = (list("route"), list("historical_route"));
        prop_assert_eq!(json!(&history), json!(travelled));
        history.reverse();
        whole.extend(history);
        prop_assert_eq!(list("original_route"), whole);
    }

    #[test]
    fn no_input_panics(value in proptest::collection::vec(any::<u8>(), 0..200), text in r#"[\[\]{}":,\\a-c0-9 ]{0,60}"#) {
        let limits = Limits { message_bytes: 150, hops: 3, depth: 4 };
        for value in [&value[..], text.as_bytes()] {
            if let Ok(message) = Message::parse(record(Some(value)), &limits, stops()) {
                message.write_next(&mut Vec::new());
            }
            let _ = Message::parse_untrusted(record(Some(value)), &limits);
        }
    }
}
