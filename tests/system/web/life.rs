//! A process with a page: how it begins and ends, what it tells where something is away, and how many it serves.

use std::{
    io::Read,
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Served, TOKEN,
    client::{Ask, SOON},
    travelled,
};
use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    repair::push,
    support::{Metrobus, Signal, wait_until},
};

fn stop_count(picture: &Value, name: &str) -> u64 {
    let stops = picture["stops"].as_array().expect("stops").iter();
    stops.filter(|stop| stop["name"] == name).filter_map(|stop| stop["count"].as_u64()).sum()
}

#[test]
fn an_address_that_is_taken_is_69_and_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let Some(mut fleet) = Fleet::new(Engine::Sqlite) else { return };
    fleet.set("WEB__LISTEN", port.to_string());
    let expected =
        format!("metrobus: web.listen: 127.0.0.1:{port} is in use; end what listens there, or set another port\n");
    for command in [&["web", "-q"][..], &["run", "--web", "busdriver", "-q"], &["demo", "--web"]] {
        assert_eq!(fleet.metrobus(command).run().assert_code(69).stderr, expected, "{command:?}");
    }
    for (listen, expected) in [
        ("192.0.2.1:5000", "metrobus: METROBUS__WEB__LISTEN: cannot listen on 192.0.2.1:5000: "),
        ("", "metrobus: METROBUS__WEB__LISTEN: web.listen is \"\", must be a port or address:port, as in \"5000\"\n"),
        ("x", "metrobus: METROBUS__WEB__LISTEN: web.listen is \"x\", must be a port or address:port, as in "),
    ] {
        let said = fleet.metrobus(&["web", "-q"]).env("METROBUS__WEB__LISTEN", listen).run().assert_code(78).stderr;
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn who_listens_on_all_addresses_is_told_what_is_seen() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let served =
        Served::by(fleet.metrobus(&["web"]).env("METROBUS__WEB__LISTEN", "0.0.0.0:0").spawn(), "page on http://");
    let client = super::Client::new((std::net::Ipv4Addr::LOCALHOST, served.client.address.port()).into());
    assert_eq!(
        client.ask(Ask::get("/api/settings").with("Host", "192.0.2.7:5000")).status,
        200,
        "an address of its own"
    );
    client.ask(Ask::get("/api/settings").with("Host", "evil.example")).problem(421);
    let said = served.end().stderr;
    assert!(said.contains("WARN") && said.contains("whoever reaches it sees topics, ids of messages"), "{said}");
}

#[test]
fn two_hundred_pages_hear_of_a_change_and_end_at_once() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let mut served = Served::web(&fleet);
    let mut pages: Vec<_> = (0..200).map(|_| served.client.events()).collect();
    for page in &mut pages {
        page.wait_for("what was before", |picture| stop_count(picture, "busdriver") == 2);
    }
    push(&fleet, "{\"account_number\":1}\n");
    fleet.drain("a");
    for page in &mut pages {
        page.wait_for("one more", |picture| stop_count(picture, "busdriver") == 3);
    }
    assert_eq!(served.client.get("/api/map").status, 200, "there is room for others");
    let begun = Instant::now();
    served.process.signal(Signal::INT);
    served.process.wait(DEADLINE).assert_code(0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(pages.iter_mut().all(|page| std::iter::from_fn(|| page.next()).count() < 5), "they end");
}

#[test]
fn who_reads_nothing_is_no_burden_for_others() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let served = Served::web(&fleet);
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut stream = served.client.connect();
        std::io::Write::write_all(&mut stream, b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("ask");
        silent.push(stream);
    }
    let mut events = served.client.events();
    for count in 3..6 {
        push(&fleet, "{\"account_number\":1}\n");
        fleet.drain("a");
        events.wait_for("one more", |picture| stop_count(picture, "busdriver") == count);
    }
    let mut first = [0; 17];
    silent[0].read_exact(&mut first).expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200 OK\r\n");
    served.end();
}

#[test]
fn a_bus_that_is_away_is_told_and_waited_for() {
    let Some(mut fleet) = Fleet::new(Engine::Sqlite) else { return };
    fleet.set("BUS", "kafka");
    fleet.set("KAFKA__BROKERS", "127.0.0.1:1");
    fleet.set("REDIS__COUNTERS", "off");
    fleet.set("WEB__TOKEN", TOKEN);
    let served = Served::web(&fleet);
    let picture = served.client.picture("the error", |picture| picture["bus"]["error"].is_string());
    assert_eq!((&picture["bus"]["ok"], &picture["stops"]), (&json!(false), &json!([])));
    assert!(picture["bus"]["error"].as_str().is_some_and(|error| error.contains("127.0.0.1:1")), "{picture}");
    for path in ["/api/journeys?key=1", "/api/dead", "/api/dead/0/0"] {
        let answer = served.client.get(path);
        let sentence = answer.problem(503);
        assert!(sentence.starts_with("the bus cannot be reached within "), "{sentence}");
        assert!(answer.header("retry-after").parse::<u64>().is_ok());
    }
    let answer = served.client.post("/api/dead/replay", &json!({"places": ["0/0"]}));
    assert!(answer.problem(503).starts_with("the bus cannot be reached within "));
    assert_eq!(served.client.get("/").status, 200);
    served.end();
    let call = fleet.metrobus(&["web", "-q", "--connect-timeout", "300ms"]).env("METROBUS__WEB__LISTEN", "0");
    assert!(call.run().assert_code(69).stderr.starts_with("metrobus: the bus cannot be reached within 300ms: "));
}

#[test]
fn a_bus_that_nobody_has_been_on_is_empty_and_a_journal_that_is_off_is_told() {
    let Some(mut fleet) = Fleet::new(Engine::Sqlite) else { return };
    let served = Served::web(&fleet);
    let picture = served.client.picture("the bus", |picture| picture["bus"]["ok"] == true);
    assert_eq!((&picture["stops"], &picture["edges"], &picture["since"]), (&json!([]), &json!([]), &Value::Null));
    assert_eq!(served.client.json("/api/dead"), json!({"letters": [], "count": 0}));
    served.client.get("/api/journeys?key=1").problem(404);
    served.end();
    fleet.set("JOURNAL__LEVEL", "off");
    let served = Served::web(&fleet);
    assert_eq!(served.client.json("/api/map")["journal"]["level"], "off");
    let sentence = served.client.get("/api/journeys?key=1").problem(404);
    assert!(sentence.ends_with("; it is off (journal.level = \"off\")"), "{sentence}");
    served.end();
}

#[test]
fn stops_and_their_page_are_one_process() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let served = Served::start(&fleet, &["run", "--web"]);
    let mut events = served.client.events();
    push(&fleet, "{\"account_number\":1}\n");
    events.wait_for("the message at its end", |picture| stop_count(picture, "logstop") == 2);
    served.end();
}

#[test]
fn the_demo_goes_on_for_those_who_look_and_may_be_put_right() {
    let call = Metrobus::new().args(["demo", "--web"]).env("METROBUS__WEB__LISTEN", "0");
    let served = Served::by(call.spawn(), "look at http://");
    let said = served.process.stderr_text();
    let token = said.split_once("/#token=").expect("a token").1.split(' ').next().expect("a token").to_owned();
    assert_eq!(token.len(), 32);
    let letters = wait_until("dead letters", SOON, || {
        Some(served.client.json("/api/dead?last=1")).filter(|letters| letters["count"].as_u64() > Some(0))
    });
    let letter = &letters["letters"][0];
    assert_eq!((&letter["reason"], &letter["stop"]), (&json!("account is being audited"), &json!("busdriver")));
    let body = json!({"places": [letter["place"]]}).to_string();
    let replay = Ask::post("/api/dead/replay", &body).with("Authorization", &format!("Bearer {token}"));
    assert_eq!(served.client.ask(replay).json()["done"], 1);
    let replayed = |picture: &Value| stop_count(picture, "logstop") > 20;
    served.client.picture("messages that arrive", replayed);
    let printed = served.end().stdout_text();
    assert!(printed.contains("account is being audited") && printed.contains(" journeys in "), "{printed}");
}
