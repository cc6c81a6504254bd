//! Who may look, and who may act.

use std::{
    io::Write,
    net::Shutdown,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Served, TOKEN,
    client::{Ask, read},
    travelled,
};
use crate::fleet::Engine;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[test]
fn only_a_name_of_this_host_leads_here() {
    let Some(mut fleet) = travelled(Engine::Sqlite) else { return };
    fleet.set("WEB__HOSTS", "Bus.example.com");
    let served = Served::web(&fleet);
    let port = served.client.address.port();
    let known =
        ["localhost", "LOCALHOST:1", "127.0.0.1:5000", "[::1]", "[::1]:7", "bus.EXAMPLE.com", "bus.example.com:80"];
    for host in known.iter().map(ToString::to_string).chain([format!("127.0.0.1:{port}")]) {
        assert_eq!(served.client.ask(Ask::get("/api/settings").with("Host", &host)).status, 200, "{host}");
    }
    for host in [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:5000",
        "192.0.2.1",
        "",
        "[::2]",
        "a@localhost",
    ] {
        for path in ["/", "/api/events", "/nowhere"] {
            served.client.ask(Ask::get(path).with("Host", host)).problem(421);
        }
        served.client.ask(Ask::post("/api/dead/discard", "{\"places\":[\"0/0\"]}").with("Host", host)).problem(421);
    }
    let sentence = served.client.ask(Ask::get("/").with("Host", "evil.example:80")).problem(421);
    assert_eq!(sentence, "this server is not known as \"evil.example\"; web.hosts lists further names of it");
    // A proxy is asked so
    let url = Ask::get("http://evil.example/api/map").with("Host", "localhost");
    served.client.ask(url).problem(421);
    served.end();
}

#[test]
fn every_answer_tells_the_browser_to_be_careful() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let served = Served::web(&fleet);
    let asked = [
        Ask::get("/"),
        Ask::get("/api/map"),
        Ask::get("/nowhere"),
        Ask::get("/").with("Host", "x"),
        Ask::post("/api/dead/replay", ""),
    ];
    for ask in asked.into_iter().chain([Ask { method: "PUT", ..Ask::get("/") }]) {
        let path = ask.path;
        let answer = served.client.ask(ask);
        for (name, expected) in [
            ("content-security-policy", POLICY),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), expected, "{path}");
        }
        assert!(["no-store", "no-cache"].contains(&answer.header("cache-control")), "{path}");
        assert!(
            !answer.headers.contains_key("set-cookie") && !answer.headers.contains_key("access-control-allow-origin")
        );
    }
    served.end();
}

#[test]
fn only_this_page_and_who_has_the_token_may_act() {
    let Some(mut fleet) = travelled(Engine::Sqlite) else { return };
    let places = json!({"places": ["0/0"], "dry_run": true}).to_string();
    let ask = |path| Ask::post(path, &places);
    let served = Served::web(&fleet);
    let host = served.client.address.to_string();
    for path in ["/api/dead/replay", "/api/dead/discard"] {
        // All is well, but for there being no such letter
        let fine = [
            ask(path),
            ask(path).with("Origin", &format!("http://{host}")),
            ask(path).with("Sec-Fetch-Site", "same-origin"),
            ask(path).with("Content-Type", "Application/JSON; charset=utf-8"),
            ask(path).with("Authorization", &format!("bearer {TOKEN}")),
        ];
        for ask in fine {
            served.client.ask(ask).problem(404);
        }
        let refused = [
            (ask(path).without("Authorization"), 401, "the token is missing"),
            (ask(path).with("Authorization", TOKEN), 401, "the token is missing"),
            (ask(path).with("Authorization", "Bearer "), 401, "the token is missing"),
            (ask(path).with("Authorization", &format!("Bearer {TOKEN}x")), 401, "the token is not the one"),
            (ask(path).with("Authorization", &format!("Basic {TOKEN}")), 401, "the token is missing"),
            (ask(path).with("Origin", "http://evil.example"), 403, "another page"),
            (ask(path).with("Origin", "null"), 403, "another page"),
            (ask(path).with("Origin", "http://localhost"), 403, "another page"),
            (ask(path).with("Sec-Fetch-Site", "cross-site"), 403, "another site"),
            (ask(path).with("Sec-Fetch-Site", "same-site"), 403, "another site"),
            (ask(path).with("Sec-Fetch-Site", "none"), 403, "another site"),
            (ask(path).without("Content-Type"), 415, "must be JSON"),
            (ask(path).with("Content-Type", "text/plain"), 415, "must be JSON"),
            (ask(path).with("Content-Type", "application/x-www-form-urlencoded"), 415, "must be JSON"),
        ];
        for (ask, status, expected) in refused {
            let answer = served.client.ask(ask);
            let sentence = answer.problem(status);
            assert!(sentence.contains(expected), "{sentence}");
            assert_eq!(answer.header("www-authenticate"), if status == 401 { "Bearer" } else { "" });
        }
    }
    served.end();

    fleet.set("WEB__TOKEN", "");
    let served = Served::web(&fleet);
    assert_eq!(served.client.json("/api/settings")["acting"], false);
    let sentence = served.client.ask(ask("/api/dead/replay")).problem(403);
    assert_eq!(sentence, "nobody may act here: set web.token, or web.token_file, and start again");
    served.end();
}

#[test]
fn a_body_that_is_wrong_or_too_long_or_does_not_come_does_nothing() {
    let Some(fleet) = travelled(Engine::Sqlite) else { return };
    let served = Served::web(&fleet);
    for (body, expected) in [
        ("", "the body: EOF"),
        ("[]", "the body: invalid"),
        ("{}", "missing field `places`"),
        ("{\"places\":[]}", "one or more are expected"),
        ("{\"places\":[\"x\"]}", "\"x\" is no PARTITION/OFFSET"),
        ("{\"places\":[\"0/00\"]}", "\"0/00\" is no PARTITION/OFFSET"),
        ("{\"places\":[\"0/0\"],\"x\":1}", "unknown field `x`"),
        ("{\"places\":[\"0/0\"],\"from_stop\":\"nobody\"}", "from_stop: no stop here reads \"nobody\""),
        ("{\"places\":[\"0/0\"],\"from_stop\":\"Log\",\"replan\":true}", "exclude each other"),
    ] {
        let sentence = served.client.ask(Ask::post("/api/dead/replay", body)).problem(400);
        assert!(sentence.contains(expected), "{body}: {sentence}");
    }
    let long = format!("{{\"places\":[\"{}\"]}}", "0".repeat(64 << 10));
    served.client.ask(Ask::post("/api/dead/discard", &long)).problem(413);

    // Who sends slowly is not waited for, and makes nobody else wait
    let mut slow = served.client.connect();
    let head = format!(
        "POST /api/dead/replay HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).expect("send");
    let begun = Instant::now();
    assert_eq!(served.client.get("/api/settings").status, 200);
    assert_eq!(read(slow).problem(408), "the body does not come");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    // What is no HTTP
    let mut garbage = served.client.connect();
    garbage.write_all(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").expect("send");
    let _ = garbage.shutdown(Shutdown::Write);
    assert_eq!(read(garbage).status, 400);
    served.end();
}

#[test]
fn the_token_may_stand_in_a_file() {
    let Some(mut fleet) = travelled(Engine::Sqlite) else { return };
    fleet.set("WEB__TOKEN", "");
    fleet.set("WEB__TOKEN_FILE", "token");
    let wrong = |fleet: &crate::fleet::Fleet| {
        fleet.metrobus(&["web", "-q"]).env("METROBUS__WEB__LISTEN", "0").run().assert_code(78).stderr
    };
    assert!(wrong(&fleet).starts_with("metrobus: METROBUS__WEB__TOKEN_FILE: cannot read token: "));
    fleet.scratch.write("token", "\n");
    let expected = "metrobus: METROBUS__WEB__TOKEN_FILE: the token must be visible characters of ASCII, one or more\n";
    assert_eq!(wrong(&fleet), expected);
    fleet.scratch.write("token", format!("{TOKEN}\n"));
    let served = Served::web(&fleet);
    let places = json!({"places": ["0/0"]}).to_string();
    served.client.ask(Ask::post("/api/dead/replay", &places)).problem(404);
    served.client.ask(Ask::post("/api/dead/replay", &places).with("Authorization", "Bearer token")).problem(401);
    served.end();
    fleet.set("WEB__TOKEN", TOKEN);
    let both = wrong(&fleet);
    assert!(both.contains("web.token_file is set beside web.token; set one of the two"), "{both}");
    let shown = fleet.metrobus(&["config"]).env("METROBUS__WEB__TOKEN_FILE", "").run().assert_code(0).stdout_text();
    assert!(shown.contains("token = \"***\"") && !shown.contains(TOKEN), "{shown}");
}
