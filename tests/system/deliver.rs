//! `metrobus deliver`: what subscribers get, when, and what becomes of what they do not take.

mod sink;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    time::{Duration, Instant},
};

use metrobus::{
    Config, Topic,
    bus::{self, Headers, Outbox},
};
use rand::RngExt;
use serde_json::{Value, json};

use crate::{
    faults::random,
    fleet::{DEADLINE, Engine, Fleet},
    support::{Process, Signal, client, free_port, wait_until},
};
use sink::{Got, Reply, Sink, status};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
const OTHER_SECRET: &str = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4";

/// A fleet whose `deliver` may call this machine, and soon gives up.
fn fleet(engine: Engine) -> Option<Fleet> {
    let mut fleet = Fleet::shared(engine)?;
    let path = fleet.scratch.path("data/metrobus.db").display().to_string();
    fleet.set("SQLITE__PATH", path);
    fleet.set("DELIVER__ALLOWED_NETWORKS", "127.0.0.0/8");
    fleet.set("DELIVER__JITTER", "0");
    fleet.set("DELIVER__WAITS", "100ms,100ms");
    // No test fails so often that it should wait for a probe, but where that is what it is about
    fleet.set("DELIVER__BREAKER__FAILURES", "1000");
    Some(fleet)
}

/// A subscriber of the topic `Events` of a fleet.
fn subscriber(fleet: &Fleet, name: &str, url: &str, more: &str) -> String {
    let topic = fleet.topic("Events");
    format!("[[deliver.subscriber]]\nname = \"{name}\"\ntopic = \"{topic}\"\nurl = \"{url}\"\n{more}\n\n")
}

/// Writes who subscribes, so that it is there as a whole at once.
fn subscribe(fleet: &Fleet, subscribers: &str) {
    let new = fleet.scratch.write("new.toml", subscribers);
    std::fs::rename(new, fleet.scratch.path("deliver.toml")).expect("put the file in its place");
}

fn start(fleet: &Fleet) -> Process {
    fleet.metrobus(&["deliver", "--config", "deliver.toml"]).spawn()
}

/// Delivers what there is, and what is due by then.
fn drain(fleet: &Fleet) {
    fleet.metrobus(&["deliver", "--drain", "--config", "deliver.toml"]).run().assert_code(0);
}

/// A record: its key, headers and value.
type New<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], String);

/// Puts records on the topic `Events`.
fn publish<'a>(fleet: &Fleet, records: impl IntoIterator<Item = New<'a>>) {
    let config = Config::load(None, fleet.environment().iter().cloned()).expect("a configuration");
    let (bus, topic) = (bus::open(&config).expect("a bus"), Topic::new(&fleet.topic("Events")).expect("a topic"));
    let mut outbox = Outbox::default();
    for (key, headers, value) in records {
        let mut encoded = Vec::new();
        headers.iter().for_each(|(name, value)| Headers::push(&mut encoded, name, Some(value.as_bytes())));
        let headers = Headers::from_encoded(&encoded);
        outbox.publish_with(&topic, 1_700_000_000_000, key.map(str::as_bytes), headers, Some(value.as_bytes()));
    }
    let count = outbox.len() as u64;
    wait_until("the bus", DEADLINE, || bus.connect().ok());
    wait_until("the topic", DEADLINE, || bus.create_topics(std::slice::from_ref(&topic)).ok());
    let mut publisher = bus.publisher().expect("a publisher");
    wait_until("records taken over", DEADLINE, || publisher.publish(&outbox).ok());
    let mut confirmed = || publisher.flush(Instant::now() + Duration::from_secs(5)).expect("confirmed") >= count;
    wait_until("records on the bus", DEADLINE, || confirmed().then_some(()));
}

/// Objects `{"n":…}` of these numbers.
fn numbers(range: std::ops::Range<usize>) -> impl Iterator<Item = New<'static>> {
    range.map(|n| (None, [].as_slice(), format!("{{\"n\": {n}}}")))
}

fn letters(fleet: &Fleet) -> Vec<Value> {
    fleet.metrobus(&["dead", "ls", "--json", "-n", "100000"]).run().assert_code(0).json_lines()
}

/// Waits until the sink has `count` requests.
fn wait_for(sink: &Sink, count: usize) -> Vec<Got> {
    wait_until(&format!("{count} requests"), DEADLINE, || (sink.count() >= count).then(|| sink.got()))
}

/// The store, once the process that owned it has ended.
fn waiting(fleet: &Fleet) -> BTreeMap<String, u64> {
    let store = metrobus::deliver::store::Store::open(&fleet.scratch.path("data/deliveries.db")).expect("the store");
    store.states().expect("states").into_iter().map(|state| (state.name, state.waiting)).collect()
}

fn a_request_is_as_standard_webhooks_has_it(engine: Engine) {
    let Some(fleet) = fleet(engine) else { return };
    let sink = Sink::good();
    let signed = format!("secrets = [\"{SECRET}\", \"{OTHER_SECRET}\"]\nheaders = {{ x-from = \"metrobus\" }}");
    let all = subscriber(&fleet, "signed", &sink.url("/signed?a=1"), &signed)
        + &subscriber(&fleet, "plain", &sink.url("/plain"), "filter = 'data.n > 1'");
    subscribe(&fleet, &all);
    let id = "0190b4a2-7f3a-7c6e-8000-0123456789ab";
    let value = "{ \"n\": 2.50, \"text\":\"\\u00e9\" }".to_owned();
    let cloud = [
        ("metrobus-id", id),
        ("ce_specversion", "1.0"),
        ("ce_id", "a b%"),
        ("ce_type", "book.\u{e9}"),
        ("content-type", "application/json; charset=utf-8"),
        ("x-internal", "secret"),
    ];
    let slip = format!("{{\"header\":{{\"route\":[],\"historical_route\":[],\"id\":\"slip-1\"}},\"payload\":{value}}}");
    publish(
        &fleet,
        [
            (Some("k"), [].as_slice(), "{\"n\":1}".into()),
            (Some("k"), cloud.as_slice(), value.clone()),
            (Some("k"), [].as_slice(), slip),
        ],
    );
    drain(&fleet);
    let got = sink.got();
    let of =
        |path: &str, id: &str| got.iter().find(|got| got.uri == path && got.id() == id).cloned().expect("a request");
    assert_eq!(got.len(), 5, "{got:?}");
    let first = of("/signed?a=1", id);
    assert_eq!((first.method.as_str(), &first.body), ("POST", &value));
    assert!(first.is_signed_with(SECRET) && first.is_signed_with(OTHER_SECRET), "{first:?}");
    assert!(!first.is_signed_with("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
    let headers = ["x-from", "ce-specversion", "ce-id", "ce-type", "content-type", "x-internal", "ce_id"];
    let expected = ["metrobus", "1.0", "a%20b%25", "book.%C3%A9", "application/json; charset=utf-8", "", ""];
    assert_eq!(headers.map(|name| first.header(name)), expected);
    assert!(first.header("user-agent").starts_with("metrobus/"));
    let plain = of("/plain", id);
    assert_eq!((plain.header("webhook-signature"), plain.header("webhook-timestamp").len()), ("", 10));
    // Of a message with a slip the payload, under the id of the slip; one without an id gets one
    assert_eq!(of("/plain", "slip-1").body, value);
    let made: BTreeSet<_> = got.iter().filter(|got| got.body == "{\"n\":1}").map(|got| got.id().to_owned()).collect();
    assert!(made.len() == 1 && made.iter().all(|id| id.len() == 36), "{made:?}");
    assert_eq!(waiting(&fleet), BTreeMap::from([("plain".into(), 0), ("signed".into(), 0)]));
}

#[test]
fn a_request_is_as_standard_webhooks_has_it_on_sqlite() {
    a_request_is_as_standard_webhooks_has_it(Engine::Sqlite);
}

#[test]
fn a_request_is_as_standard_webhooks_has_it_on_kafka() {
    a_request_is_as_standard_webhooks_has_it(Engine::AtLeastOnce);
}

#[test]
fn what_is_in_switchs_shape_says_itself_what_is_asked() {
    let Some(fleet) = fleet(Engine::Sqlite) else { return };
    let sink = Sink::good();
    subscribe(&fleet, &subscriber(&fleet, "a", &sink.url("/books/:id/x"), "python = \"data['body']['n'] > 1\""));
    let shape = [("metrobus-shape", "switch")];
    let message = |n: u32| {
        json!({
            "body": {"n": n}, "path_params": {"id": "a/b"}, "query_params": {"page": 2}, "http_method": "put",
            "headers": {
                "x-kind": 7, "Host": "elsewhere", "Connection": "x-drop", "x-drop": "1", "Transfer-Encoding": "chunked",
                "webhook-id": "forged", "Content-Length": "1", "Keep-Alive": "1", "TE": "trailers", "Upgrade": "h2c"
            }
        })
    };
    let messages = [message(1), message(2), json!({}), json!({"body": {"n": 5}, "headers": {"bad name": "x"}})];
    publish(&fleet, messages.iter().map(|message| (None, shape.as_slice(), message.to_string())));
    drain(&fleet);
    let got = sink.got();
    assert_eq!(got.len(), 1, "{got:?}");
    let got = &got[0];
    let request = (got.method.as_str(), got.uri.as_str(), got.body.as_str(), got.header("x-kind"));
    assert_eq!(request, ("PUT", "/books/a%2Fb/x?page=2", "{\"n\":2}", "7"));
    assert!(sink.url("").ends_with(got.header("host")) && got.id() != "forged", "{got:?}");
    for left_out in ["x-drop", "transfer-encoding", "keep-alive", "te", "upgrade"] {
        assert_eq!(got.header(left_out), "", "{got:?}");
    }
    // What makes no request is not tried again
    let letters = letters(&fleet);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0]["reason"].as_str().is_some_and(|why| why.starts_with("subscriber a: headers.\"bad name\"")));
}

#[test]
fn it_is_tried_again_with_the_same_id_after_the_waits_and_what_the_receiver_asks_for() {
    let Some(mut fleet) = fleet(Engine::Sqlite) else { return };
    fleet.set("DELIVER__WAITS", "300ms,10ms,10ms");
    let attempts = std::sync::atomic::AtomicUsize::new(0);
    let sink = Sink::start(move |_| match attempts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => status(500),
        1 => Reply { headers: vec![("retry-after", "1".into())], ..status(429) },
        2 => Reply { after: Duration::from_secs(30), ..status(200) },
        _ => status(204),
    });
    subscribe(
        &fleet,
        &subscriber(&fleet, "a", &sink.url("/"), &format!("timeout = \"500ms\"\nsecrets = [\"{SECRET}\"]")),
    );
    publish(&fleet, numbers(1..2));
    let mut process = start(&fleet);
    let got = wait_for(&sink, 4);
    let after = |nth: usize| got[nth].at.duration_since(got[nth - 1].at);
    assert!(after(1) >= Duration::from_millis(300), "{:?}", after(1));
    assert!(after(2) >= Duration::from_secs(1), "{:?}", after(2));
    assert!(after(3) >= Duration::from_millis(500) && after(3) < Duration::from_secs(20), "{:?}", after(3));
    assert_eq!(got.iter().map(Got::id).collect::<BTreeSet<_>>().len(), 1);
    assert!(got.iter().all(|got| got.is_signed_with(SECRET)));
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
    assert_eq!((sink.count(), letters(&fleet).len()), (4, 0));
}

#[test]
fn a_wait_that_is_over_at_once_is_followed_by_the_next_attempt() {
    let Some(fleet) = fleet(Engine::Sqlite) else { return };
    let sink = Sink::start(|_| status(500));
    subscribe(&fleet, &subscriber(&fleet, "a", &sink.url("/"), "waits = [\"0s\", \"1ms\"]"));
    publish(&fleet, numbers(0..1));
    drain(&fleet);
    assert_eq!((sink.count(), letters(&fleet).len()), (3, 1));
}

#[test]
fn what_makes_no_request_is_a_dead_letter_at_once_and_nobodys_failure() {
    let Some(fleet) = fleet(Engine::Sqlite) else { return };
    let sink = Sink::good();
    subscribe(&fleet, &subscriber(&fleet, "a", &sink.url("/"), ""));
    let names: Vec<_> = (0..30_000).map(|number| format!("ce_a{number}")).collect();
    let attributes: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let long = || format!("{{\"query_params\": {{\"q\": \"{}\"}}}}", "x".repeat(70_000));
    let shape = [("metrobus-shape", "switch")];
    let mut records: Vec<New<'_>> = (0..6).map(|_| (None, shape.as_slice(), long())).collect();
    records.push((None, attributes.as_slice(), "{\"n\": 1}".into()));
    records.push((None, [].as_slice(), "{\"n\": 2}".into()));
    publish(&fleet, records);
    drain(&fleet);
    assert_eq!(sink.bodies("/"), ["{\"n\": 2}"]);
    let reasons: BTreeSet<_> = letters(&fleet).iter().map(|letter| letter["reason"].to_string()).collect();
    assert_eq!(letters(&fleet).len(), 7);
    let expected =
        ["the URL would be longer than 65534 bytes", "the record has more than 1000 attributes of a CloudEvent"];
    for what in expected {
        assert!(reasons.iter().any(|reason| reason.contains(what)), "{what}: {reasons:?}");
    }
}

fn what_nobody_takes_becomes_a_dead_letter_that_can_be_sent_again_to_that_one(engine: Engine) {
    let Some(fleet) = fleet(engine) else { return };
    let well = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let judged = std::sync::Arc::clone(&well);
    let sink = Sink::start(move |got| match got.uri.as_str() {
        "/bad" if !judged.load(std::sync::atomic::Ordering::SeqCst) => {
            Reply { headers: vec![("location", "/good".into())], ..status(307) }
        }
        _ => status(200),
    });
    let all = subscriber(&fleet, "good", &sink.url("/good"), "") + &subscriber(&fleet, "bad", &sink.url("/bad"), "");
    subscribe(&fleet, &all);
    publish(&fleet, [(Some("k"), [].as_slice(), "{\"n\": 1}".into())]);
    let mut process = start(&fleet);
    let letter = wait_until("a dead letter", DEADLINE, || letters(&fleet).pop());
    let reason = "subscriber bad: 307 Temporary Redirect, and redirects are not followed, after 3 attempts";
    let topic = fleet.topic("Events");
    assert_eq!(
        (&letter["reason"], &letter["stop"], &letter["attempts"]),
        (&json!(reason), &json!("deliver"), &json!(3))
    );
    assert_eq!(letter["record"].as_str().map(|record| record.starts_with(&topic)), Some(true), "{letter}");
    let first = wait_for(&sink, 4);
    let ids: BTreeSet<_> = first.iter().map(Got::id).collect();
    assert_eq!(
        (ids.len(), sink.bodies("/good").len(), sink.bodies("/bad").len()),
        (1, 1, 3),
        "a redirect was followed"
    );
    let place = letter["place"].as_str().expect("a place").to_owned();
    let shown = fleet.metrobus(&["dead", "show", &place]).run().assert_code(0).stdout_text();
    assert!(shown.matches("307 Temporary Redirect").count() >= 3, "{shown}");

    well.store(true, std::sync::atomic::Ordering::SeqCst);
    let said = fleet.metrobus(&["dead", "replay", &place]).run().assert_code(0).stdout_text();
    assert_eq!(said, format!("replayed 1: {topic} 1\n"));
    let got = wait_for(&sink, 5);
    assert_eq!((got[4].uri.as_str(), got[4].body.as_str()), ("/bad", "{\"n\": 1}"));
    assert_eq!(got.iter().map(Got::id).collect::<BTreeSet<_>>().len(), 1, "another id: {got:?}");
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
    drain(&fleet);
    assert_eq!((sink.count(), letters(&fleet).len()), (5, 0));
}

#[test]
fn what_nobody_takes_becomes_a_dead_letter_that_can_be_sent_again_to_that_one_on_sqlite() {
    what_nobody_takes_becomes_a_dead_letter_that_can_be_sent_again_to_that_one(Engine::Sqlite);
}

#[test]
fn what_nobody_takes_becomes_a_dead_letter_that_can_be_sent_again_to_that_one_on_kafka() {
    what_nobody_takes_becomes_a_dead_letter_that_can_be_sent_again_to_that_one(Engine::AtLeastOnce);
}

#[test]
fn who_answers_410_is_called_no_more_until_enabled() {
    let Some(mut fleet) = fleet(Engine::Sqlite) else { return };
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let judged = std::sync::Arc::clone(&gone);
    let sink = Sink::start(move |_| status(if judged.load(std::sync::atomic::Ordering::SeqCst) { 410 } else { 200 }));
    let port = free_port();
    fleet.set("HTTP__LISTEN", port.to_string());
    subscribe(&fleet, &subscriber(&fleet, "a", &sink.url("/"), "concurrency = 1"));
    publish(&fleet, numbers(0..3));
    let mut process = start(&fleet);
    process.wait_for_stderr("410 Gone", DEADLINE);
    let metric = |text: &str| {
        wait_until(text, DEADLINE, || {
            let answer = client().get(format!("http://127.0.0.1:{port}/metrics")).send().ok()?.text().ok()?;
            answer.lines().any(|line| line == text).then_some(())
        });
    };
    metric("metrobus_subscriber_disabled{subscriber=\"a\"} 1");
    metric("metrobus_deliver_requests_total{subscriber=\"a\",outcome=\"gone\"} 1");
    metric("metrobus_deliver_waiting{subscriber=\"a\"} 3");
    publish(&fleet, numbers(3..4));
    metric("metrobus_deliver_waiting{subscriber=\"a\"} 4");
    assert_eq!(sink.count(), 1);
    // A restart changes nothing
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
    let process = start(&fleet);
    metric("metrobus_subscriber_disabled{subscriber=\"a\"} 1");
    assert_eq!(sink.count(), 1);
    gone.store(false, std::sync::atomic::Ordering::SeqCst);
    let path = fleet.scratch.path("data/deliveries.db");
    let mut store = metrobus::deliver::store::Store::open(&path).expect("the store");
    assert!(store.enable("a").expect("enabled"));
    wait_for(&sink, 5);
    metric("metrobus_subscriber_disabled{subscriber=\"a\"} 0");
    metric("metrobus_deliver_waiting{subscriber=\"a\"} 0");
    drop(process);
}

#[test]
fn who_fails_for_long_is_disabled() {
    let Some(mut fleet) = fleet(Engine::Sqlite) else { return };
    fleet.set("DELIVER__DISABLE_AFTER", "500ms");
    fleet.set("DELIVER__WAITS", "100ms,100ms,100ms,100ms,100ms,100ms,100ms,100ms,100ms,100ms");
    let sink = Sink::start(|_| status(503));
    subscribe(&fleet, &subscriber(&fleet, "a", &sink.url("/"), ""));
    publish(&fleet, numbers(0..1));
    let mut process = start(&fleet);
    process.wait_for_stderr("disabled: it has failed since", DEADLINE);
    let count = sink.count();
    assert!(count > 3, "{count}");
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
    assert_eq!((sink.count(), waiting(&fleet)["a"]), (count, 1));
}

#[test]
fn messages_of_a_key_come_in_their_order_where_that_is_wished() {
    let Some(fleet) = fleet(Engine::Sqlite) else { return };
    let failed = std::sync::Mutex::new(BTreeSet::new());
    let sink = Sink::start(move |got| {
        // Each third message fails once
        let n = serde_json::from_str::<Value>(&got.body).expect("JSON")["n"].as_u64().expect("a number");
        status(if n.is_multiple_of(3) && failed.lock().expect("a lock").insert(n) { 500 } else { 200 })
    });
    subscribe(&fleet, &subscriber(&fleet, "a", &sink.url("/"), "ordered = true\nconcurrency = 20"));
    let keys = ["a", "b", "c", "d"];
    publish(
        &fleet,
        (0..60).map(|n| (Some(keys[n % 4]), [].as_slice(), format!("{{\"n\":{n},\"k\":\"{}\"}}", keys[n % 4]))),
    );
    let mut process = start(&fleet);
    let got = wait_for(&sink, 80);
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
    let mut last = BTreeMap::new();
    for got in &got {
        let message: Value = serde_json::from_str(&got.body).expect("JSON");
        let (n, key) = (message["n"].as_u64().expect("a number"), message["k"].to_string());
        let before = last.insert(key, n);
        assert!(before.is_none_or(|before| before == n || before + 4 == n), "{n} after {before:?}");
    }
    assert!(sink.most() > 1, "keys wait for each other");
}

#[test]
fn no_more_requests_are_under_way_or_sent_in_a_second_than_the_subscriber_takes() {
    let Some(fleet) = fleet(Engine::Sqlite) else { return };
    let slow = Sink::start(|_| Reply { after: Duration::from_millis(20), ..status(200) });
    let paced = Sink::good();
    let all = subscriber(&fleet, "slow", &slow.url("/"), "concurrency = 3")
        + &subscriber(&fleet, "paced", &paced.url("/"), "rate = 20.0");
    subscribe(&fleet, &all);
    publish(&fleet, numbers(0..40));
    drain(&fleet);
    assert_eq!((slow.count(), slow.most()), (40, 3));
    let got = paced.got();
    let took = got[39].at.duration_since(got[0].at);
    assert!(got.len() == 40 && took > Duration::from_millis(1800), "{} in {took:?}", got.len());
}

#[test]
fn one_that_hangs_holds_up_none_of_the_others_and_is_left_in_peace() {
    let Some(mut fleet) = fleet(Engine::Sqlite) else { return };
    fleet.set("DELIVER__BREAKER__FAILURES", "5");
    fleet.set("DELIVER__WAITS", "1h");
    let good = Sink::good();
    let hangs = Sink::start(|_| Reply { after: Duration::from_secs(60), ..status(200) });
    let mut all = subscriber(&fleet, "dead", &hangs.url("/"), "timeout = \"300ms\"\nconcurrency = 4");
    for n in 0..9 {
        all += &subscriber(&fleet, &format!("s{n}"), &good.url(&format!("/{n}")), "");
    }
    subscribe(&fleet, &all);
    publish(&fleet, numbers(0..300));
    let begun = Instant::now();
    let mut process = start(&fleet);
    wait_for(&good, 2700);
    println!("9 subscribers got 2700 in {:?} beside one that hangs", begun.elapsed());
    process.wait_for_stderr("is left in peace for 10 s, it failed last: no answer within 300ms", DEADLINE);
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
    assert!(hangs.count() <= 12, "{} requests to one that does not answer", hangs.count());
    let mut expected: BTreeMap<_, _> = (0..9).map(|n| (format!("s{n}"), 0)).collect();
    expected.insert("dead".into(), 300);
    assert_eq!(waiting(&fleet), expected);
}

/// The soft limit of open files is 1024 on most machines. Each request to one that hangs is one of them.
#[test]
fn many_that_hang_leave_connections_for_the_others() {
    let Some(mut fleet) = fleet(Engine::Sqlite) else { return };
    fleet.set("DELIVER__WAITS", "");
    let (good, hangs) = (Sink::good(), Sink::start(|_| Reply { after: Duration::from_secs(600), ..status(200) }));
    let all: String = (0..30).map(|n| subscriber(&fleet, &format!("h{n}"), &hangs.url("/"), "")).collect();
    subscribe(&fleet, &(all + &subscriber(&fleet, "good", &good.url("/"), "")));
    publish(&fleet, numbers(0..10));
    let mut process = fleet.metrobus(&["deliver", "--config", "deliver.toml"]).open_files(200).spawn();
    wait_for(&hangs, 300);
    publish(&fleet, numbers(10..20));
    wait_for(&good, 20);
    process.kill9();
    assert!(letters(&fleet).is_empty());
}

/// Another process is at work in the store for longer than anybody waits for it.
#[test]
fn who_comes_while_the_store_is_locked_is_called_once_it_is_not() {
    let Some(fleet) = fleet(Engine::Sqlite) else { return };
    let sink = Sink::good();
    let one = subscriber(&fleet, "one", &sink.url("/one"), "");
    subscribe(&fleet, &one);
    publish(&fleet, numbers(0..1));
    let mut process = start(&fleet);
    wait_for(&sink, 1);
    let store = rusqlite::Connection::open(fleet.scratch.path("data/deliveries.db")).expect("open the store");
    wait_until("the lock", DEADLINE, || store.execute_batch("BEGIN IMMEDIATE").ok());
    subscribe(&fleet, &(one + &subscriber(&fleet, "two", &sink.url("/two"), "")));
    let locked = "data/deliveries.db: database is locked; subscribers that change have to wait";
    process.wait_for_stderr(locked, DEADLINE);
    store.execute_batch("ROLLBACK").expect("unlock");
    wait_until("a message for both", DEADLINE, || {
        publish(&fleet, numbers(1..2));
        (!sink.bodies("/two").is_empty()).then_some(())
    });
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
}

#[test]
fn a_store_that_cannot_be_used_is_named() {
    let Some(fleet) = fleet(Engine::Sqlite) else { return };
    subscribe(&fleet, &subscriber(&fleet, "one", "http://127.0.0.1:9/", ""));
    drain(&fleet);
    let store = rusqlite::Connection::open(fleet.scratch.path("data/deliveries.db")).expect("open the store");
    store.execute_batch("BEGIN IMMEDIATE").expect("lock");
    let output = fleet.metrobus(&["deliver", "--drain", "--config", "deliver.toml"]).run().assert_code(1);
    assert!(output.stderr.contains("the delivery store data/deliveries.db: database is locked"), "{}", output.stderr);
}

#[test]
fn nothing_on_this_machine_is_called_unless_it_is_allowed() {
    let Some(mut fleet) = fleet(Engine::Sqlite) else { return };
    let sink = Sink::good();
    let port = sink.url("").rsplit_once(':').expect("a port").1.to_owned();
    let by_name = subscriber(&fleet, "name", &format!("http://localhost:{port}/"), "waits = []");
    fleet.set("DELIVER__ALLOWED_NETWORKS", "");
    subscribe(&fleet, &by_name);
    publish(&fleet, numbers(0..1));
    drain(&fleet);
    let reason = letters(&fleet)[0]["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.starts_with("subscriber name: localhost may not be called: "), "{reason}");
    for spelling in ["127.0.0.1", "127.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        subscribe(&fleet, &subscriber(&fleet, "literal", &format!("http://{spelling}:{port}/"), ""));
        let output = fleet.metrobus(&["deliver", "--drain", "--config", "deliver.toml"]).run();
        assert!(output.stderr.contains("literal") || output.code == Some(78), "{spelling}: {output:?}");
    }
    assert_eq!(sink.count(), 0);
}

#[test]
fn subscribers_come_change_and_go_without_a_restart() {
    let Some(fleet) = fleet(Engine::Sqlite) else { return };
    let sink = Sink::good();
    let one = |filter: &str| subscriber(&fleet, "one", &sink.url("/one"), filter);
    subscribe(&fleet, &one(""));
    publish(&fleet, numbers(0..1));
    let mut process = start(&fleet);
    wait_for(&sink, 1);
    // Another one, on another topic, and the first wants less
    let two = subscriber(&fleet, "two", &sink.url("/two"), "").replace("Events", "Others");
    let dead = subscriber(&fleet, "dead", "http://127.0.0.1:9/", "waits = [\"1h\"]");
    subscribe(&fleet, &(one("filter = 'data.n == 2'") + &two + &dead));
    process.wait_for_stderr("deliver/Others", DEADLINE);
    fleet
        .metrobus(&["pusher", "--from", "-", "--rate", "0"])
        .env("METROBUS__PUSHER__TOPIC", fleet.topic("Others"))
        .stdin("{\"n\":9}\n")
        .run()
        .assert_code(0);
    publish(&fleet, numbers(1..3));
    wait_for(&sink, 3);
    assert_eq!(
        (sink.bodies("/one"), sink.bodies("/two")),
        (vec!["{\"n\": 0}".into(), "{\"n\": 2}".into()], vec!["{\"n\":9}".into()])
    );
    // What waits for one that is gone is forgotten
    subscribe(&fleet, &one(""));
    process.wait_for_stderr("the subscriber is gone subscriber=\"dead\" dropped=2", DEADLINE);
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
    assert_eq!(waiting(&fleet), BTreeMap::from([("one".into(), 0)]));
}

#[test]
fn the_end_waits_for_requests_under_way_and_another_process_takes_over() {
    let Some(fleet) = fleet(Engine::Sqlite) else { return };
    let sink = Sink::start(|_| Reply { after: Duration::from_millis(700), ..status(200) });
    subscribe(&fleet, &subscriber(&fleet, "a", &sink.url("/"), "concurrency = 2"));
    publish(&fleet, numbers(0..5));
    let mut first = start(&fleet);
    wait_for(&sink, 2);
    let mut second = start(&fleet);
    second.wait_for_stderr("stands by", DEADLINE);
    first.signal(Signal::TERM);
    first.wait(DEADLINE).assert_code(0);
    wait_for(&sink, 5);
    second.signal(Signal::TERM);
    second.wait(DEADLINE).assert_code(0);
    let bodies: BTreeSet<_> = sink.bodies("/").into_iter().collect();
    assert_eq!((bodies.len(), sink.count()), (5, 5), "what was under way was cut off and sent again");
}

fn nothing_is_lost_where_it_is_killed_at_random(engine: Engine) {
    let Some(fleet) = fleet(engine) else { return };
    let mut random = random("deliver");
    let sink = Sink::start(|got| {
        status(if got.body.len().is_multiple_of(7) && got.at.elapsed().subsec_nanos().is_multiple_of(3) {
            500
        } else {
            200
        })
    });
    let all =
        subscriber(&fleet, "a", &sink.url("/a"), "") + &subscriber(&fleet, "b", &sink.url("/b"), "ordered = true");
    subscribe(&fleet, &all);
    let (mut published, mut kills) = (0, 0);
    let mut process = start(&fleet);
    while published < 3000 {
        let lot = random.random_range(50..400);
        publish(&fleet, (published..published + lot).map(|n| (None, [].as_slice(), format!("{{\"n\": {n}}}"))));
        published += lot;
        std::thread::sleep(Duration::from_millis(random.random_range(0..150)));
        process.kill9();
        kills += 1;
        process = start(&fleet);
    }
    let distinct = |path: &str| sink.bodies(path).into_iter().collect::<BTreeSet<_>>().len();
    wait_until("all messages", DEADLINE, || (distinct("/a") == published && distinct("/b") == published).then_some(()));
    process.signal(Signal::TERM);
    process.wait(DEADLINE).assert_code(0);
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for got in sink.got() {
        ids.entry(got.id().to_owned()).or_default().insert(got.body);
    }
    assert!(
        ids.len() == published && ids.values().all(|bodies| bodies.len() == 1),
        "an id is of two messages, or two ids of one"
    );
    let mut line = String::new();
    let _ = write!(line, "{published} messages for two, {kills} kills: {} requests", sink.count());
    println!("{line}");
    assert!(letters(&fleet).len() < published / 10);
}

#[test]
fn nothing_is_lost_where_it_is_killed_at_random_on_sqlite() {
    nothing_is_lost_where_it_is_killed_at_random(Engine::Sqlite);
}

#[test]
fn nothing_is_lost_where_it_is_killed_at_random_on_kafka() {
    nothing_is_lost_where_it_is_killed_at_random(Engine::AtLeastOnce);
}
