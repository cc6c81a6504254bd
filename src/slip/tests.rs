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
    let cases: [(&str, &str); 19] = [
        ("", "empty value"),
        (" \n", "empty value"),
        ("nonsense", "not JSON: expected ident at line 1 column 2"),
        (r#"{"a":1"#, "not JSON: EOF while parsing an object at line 1 column 6"),
        (r#"{"a":1} x"#, "not JSON: trailing characters at line 1 column 9"),
        (r#"{"a":01}"#, "not JSON: invalid number at line 1 column 7"),
        ("\u{c}{}", "not JSON: expected value at line 1 column 1"),
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

fn topics(names: &[&str]) -> Vec<Topic> {
    names.iter().map(|name| topic(name)).collect()
}

/// The header of a message after a stop has revised it and sent it on.
fn revised(value: &str, revisions: impl IntoIterator<Item = Revision>) -> (Option<String>, Value) {
    let mut message = parse(value).unwrap();
    revisions.into_iter().for_each(|revision| message.revise(revision));
    assert_eq!(message.refused_revision(&Limits::default(), stops()), None);
    let mut out = Vec::new();
    message.write_next_from("tester", &mut out);
    let next = message.next_stop().map(Topic::to_string);
    (next, serde_json::from_slice::<Value>(&out).unwrap()["header"].clone())
}

const AHEAD: &str = r#"{"header":{"route":["Log","WhiteList"],"original_route":["Log","WhiteList","AddEmail"],"historical_route":["AddEmail"],"x":2.50},"payload":{}}"#;

#[test]
fn what_is_ahead_can_be_revised_and_what_is_behind_stays() {
    let kept = |what: &str, stops: Value| json!([{"stop": "tester", "hop": 1, what: stops}]);
    let (next, header) = revised(AHEAD, [Revision::Insert(topics(&["Log", "AddEmail"]))]);
    assert_eq!(next.as_deref(), Some("Log"));
    assert_eq!(header["route"], json!(["Log", "WhiteList", "AddEmail"]));
    assert_eq!(header["historical_route"], json!(["AddEmail", "Log"]));
    assert_eq!(header["original_route"], json!(["Log", "WhiteList", "AddEmail"]));
    assert_eq!((&header["revisions"], &header["x"]), (&kept("insert", json!(["AddEmail", "Log"])), &json!(2.5)));

    let (next, header) = revised(AHEAD, [Revision::Replace(topics(&["AddEmail", "Log"]))]);
    assert_eq!((next.as_deref(), &header["route"]), (Some("AddEmail"), &json!(["Log"])));
    assert_eq!(header["revisions"], kept("replace", json!(["Log", "AddEmail"])));

    // One after another, and no more than that
    let both = [Revision::End, Revision::Insert(topics(&["Log"]))];
    let (next, header) = revised(AHEAD, both);
    assert_eq!((next.as_deref(), &header["route"]), (Some("Log"), &json!([])));
    let (first, second) = (&header["revisions"][0]["replace"], &header["revisions"][1]["insert"]);
    assert_eq!((first, second), (&json!([]), &json!(["Log"])));
    assert_eq!(revised(AHEAD, [Revision::Insert(Vec::new())]).1["route"], json!(["Log"]));
    assert_eq!(revised(AHEAD, [Revision::End]).0, None);

    let (_, header) =
        revised(r#"{"header":{"route":[],"revisions":[1]},"payload":{}}"#, [Revision::Insert(topics(&["Log"]))]);
    assert_eq!(header["historical_route"], json!(["Log"]));
    assert_eq!(header["revisions"][1], json!({"stop": "tester", "hop": 0, "insert": ["Log"]}));
}

#[test]
fn a_revised_route_keeps_to_the_configuration() {
    let refused = |value: &str, hops: usize, revision: Revision| {
        let mut message = parse(value).unwrap();
        message.revise(revision);
        message.refused_revision(&Limits { hops, ..Limits::default() }, stops())
    };
    let insert = |names: &[&str]| Revision::Insert(topics(names));
    assert_eq!(refused(AHEAD, 4, insert(&["Log"])), None);
    assert_eq!(
        refused(AHEAD, 4, insert(&["Log", "Log"])).as_deref(),
        Some("revised to too long a route: 5 hops, more than limits.hops = 4")
    );
    assert_eq!(refused(AHEAD, 3, Revision::Replace(topics(&["Log", "Log"]))), None);
    assert_eq!(
        refused(AHEAD, 9, insert(&["Log", "Source"])).as_deref(),
        Some("revised to an unknown stop: no stop here reads Source and `stops` does not list it")
    );
    assert_eq!(refused(r#"{"a":1}"#, 9, Revision::End).as_deref(), Some("revised without a slip to revise"));
    let odd = r#"{"header":{"route":[],"revisions":{}},"payload":{}}"#;
    assert_eq!(refused(odd, 9, insert(&["Log"])).as_deref(), Some("revised a slip whose `revisions` is not a list"));
}

#[test]
fn a_deadline_is_a_time_or_the_slip_is_broken() {
    let deadline = |json: &str| {
        let value = format!(r#"{{"header":{{"route":[],"deadline":{json}}},"payload":{{}}}}"#);
        parse_scanned(&value, &mut Tape::default()).map(|message| message.deadline())
    };
    assert_eq!(deadline("1763739000000"), Ok(Some(1_763_739_000_000)));
    assert_eq!(deadline("-1"), Ok(Some(-1)));
    for odd in ["\"x\"", "1.5", "1e3", "null", "[]", "99999999999999999999"] {
        let expected = Malformed::Slip("deadline is no time in milliseconds".into());
        assert_eq!(deadline(odd), Err(expected), "{odd}");
    }
}

#[test]
fn a_copy_has_an_id_of_its_own_and_its_parents() {
    let itinerary = Itinerary::new(&topics(&["AddEmail", "Log"]));
    let id = Uuid::now_v7();
    let sent = || {
        let mut message = Message::parse_untrusted(record(Some(br#"{"a":1.0}"#)), &Limits::default()).unwrap();
        message.depart(&itinerary, id);
        message.expire(17);
        message.send_copy(&Itinerary::new(&topics(&["Log"])));
        message.send_copy(&Itinerary::new(&topics(&["WhiteList", "Log"])));
        message.payload.set("b", &2).unwrap();
        let write = |copy: &Copy<'_>| {
            let mut out = Vec::new();
            message.write_copy(copy, &mut out);
            (copy.id, copy.next_stop().unwrap().to_string(), String::from_utf8(out).unwrap())
        };
        message.copies().iter().map(write).collect::<Vec<_>>()
    };
    let copies = sent();
    assert_eq!(copies, sent(), "the same each time");
    assert_eq!(copies.len(), 2);
    let ids: std::collections::BTreeSet<_> = copies.iter().map(|(id, ..)| *id).chain([id]).collect();
    assert_eq!(ids.len(), 3);
    let (first, next, value) = &copies[0];
    assert_eq!((&first.as_bytes()[..8], first.get_version_num()), (&id.as_bytes()[..8], 7), "of the same time");
    assert_eq!(next, "Log");
    let expected = format!(
        r#"{{"header":{{"route":[],"original_route":["Log"],"historical_route":["Log"],"id":"{first}","parent":"{id}","deadline":17}},"payload":{{"a":1.0,"b":2}}}}"#
    );
    assert_eq!(*value, expected);
    assert_eq!(parse(value).unwrap().deadline(), Some(17));
    assert!(parse(r#"{"a":1}"#).unwrap().copies().is_empty());
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
    fn what_a_slip_keeps_of_its_revisions_explains_its_route(
        route in proptest::collection::vec(prop_oneof!["AddEmail", "WhiteList", "Log"], 1..6),
        revisions in proptest::collection::vec((0..4_u8, proptest::collection::vec(prop_oneof!["AddEmail", "Log"], 0..4)), 0..8),
        hops in 1..20_usize,
    ) {
        let route: Vec<_> = route.iter().map(|stop| topic(stop)).collect();
        let mut first = Message::parse_untrusted(record(Some(b"{}")), &Limits::default()).unwrap();
        first.depart(&Itinerary::new(&route), Uuid::nil());
        let mut value = Vec::new();
        first.write_next(&mut value);
        // What is ahead, by the rules of the game alone
        let (mut ahead, mut travelled): (Vec<_>, _) = (route[1..].to_vec(), vec![route[0].clone()]);
        let mut revisions = revisions.into_iter();
        let limits = Limits { hops, ..Limits::default() };
        for _ in 0..10 {
            let Ok(mut message) = Message::parse(record(Some(&value)), &limits, stops()) else {
                prop_assert!(travelled.len() + ahead.len() > hops);
                break;
            };
            prop_assert!(travelled.len() + ahead.len() <= hops);
            if let Some((kind, names)) = revisions.next() {
                let names: Vec<_> = names.iter().map(|name| topic(name)).collect();
                match kind {
                    0 => {
                        ahead.splice(0..0, names.clone());
                        message.revise(Revision::Insert(names));
                    }
                    1 => {
                        ahead = names.clone();
                        message.revise(Revision::Replace(names));
                    }
                    2 => {
                        ahead.clear();
                        message.revise(Revision::End);
                    }
                    _ => {}
                }
            }
            let refused = message.refused_revision(&limits, stops());
            prop_assert_eq!(refused.is_some(), travelled.len() + ahead.len() > hops);
            if refused.is_some() {
                break;
            }
            prop_assert_eq!(message.next_stop(), ahead.first());
            let Some(_) = message.next_stop() else { break };
            let mut out = Vec::new();
            message.write_next_from("tester", &mut out);
            travelled.push(ahead.remove(0));
            value = out;

            let header = serde_json::from_slice::<Value>(&value).unwrap()["header"].clone();
            let stack = |stops: &[Topic]| json!(stops.iter().rev().map(Topic::as_str).collect::<Vec<_>>());
            prop_assert_eq!(&header["route"], &stack(&ahead));
            prop_assert_eq!(&header["original_route"], &stack(&route));
            prop_assert_eq!(&header["historical_route"], &json!(travelled.iter().map(Topic::as_str).collect::<Vec<_>>()));
            // And by the original route and what the slip tells of its revisions
            let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
            let (mut told, mut calls) = (list(&header["original_route"]), Vec::new());
            let mut kept = list(&header["revisions"]).into_iter().peekable();
            for hop in 1..=travelled.len() {
                calls.extend(told.pop());
                while let Some(revision) = kept.next_if(|revision| revision["hop"] == hop) {
                    match revision.get("insert") {
                        Some(stops) => told.extend(list(stops)),
                        None => told = list(&revision["replace"]),
                    }
                }
            }
            prop_assert_eq!((json!(told), json!(calls)), (header["route"].clone(), header["historical_route"].clone()));
        }
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

#[test]
fn an_id_given_before_there_was_a_slip_is_the_messages_unless_a_slip_says_otherwise() {
    const GIVEN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    let id = |value: &str, header: Option<&str>| {
        let mut headers = Vec::new();
        Headers::push(&mut headers, ID_HEADER, header.map(str::as_bytes));
        let record = Record { headers: Headers::from_encoded(&headers), ..record(Some(value.as_bytes())) };
        let message = Message::parse(record, &Limits::default(), stops()).unwrap();
        (message.id().map(str::to_owned), message.id_to_depart_with())
    };
    let given: Uuid = GIVEN.parse().unwrap();
    assert_eq!(id(r#"{"a":1}"#, Some(GIVEN)), (Some(GIVEN.into()), given));
    let slip = r#"{"header":{"route":["Log"],"id":"7"},"payload":{}}"#;
    assert_eq!(id(slip, Some(GIVEN)).0.as_deref(), Some("7"));
    // What is no UUID, or another spelling of one, is nobody's
    for odd in [None, Some(""), Some("7"), Some(&*GIVEN.to_uppercase()), Some(&*given.simple().to_string())] {
        let (id, departs) = id(r#"{"a":1}"#, odd);
        assert!(id.is_none() && departs != given, "{odd:?}");
    }
}
