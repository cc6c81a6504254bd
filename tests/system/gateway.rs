//! `metrobus gateway` as those who call it see it: what is answered, to whom, and that what was accepted is on the bus.

mod answers;
mod callers;
mod durable;
mod encrypted;

use std::net::SocketAddr;

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Output, Process, Signal},
    web::client::{Answer, Ask, Client},
};

/// A gateway, and somebody who calls.
struct Served {
    process: Process,
    client: Client,
}

impl Served {
    fn start(fleet: &Fleet) -> Served {
        let mut process = fleet.metrobus(&["gateway"]).spawn();
        let address = address(&mut process, "gateway on http://");
        Served { process, client: Client::new(address) }
    }

    /// Posts `body` as JSON to the topic, with these headers as well.
    fn post(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        self.client.ask(post(path, body, headers))
    }

    /// What SIGTERM leaves.
    fn end(mut self) -> Output {
        self.process.signal(Signal::TERM);
        self.process.wait(DEADLINE).assert_code(0)
    }
}

fn post<'a>(path: &'a str, body: &'a str, headers: &[(&'a str, &str)]) -> Ask<'a> {
    let ask = Ask::post(path, body).without("Authorization");
    headers.iter().fold(ask, |ask, (name, value)| ask.with(name, value))
}

/// Where a process says behind `words` that it listens.
fn address(process: &mut Process, words: &str) -> SocketAddr {
    process.wait_for_stderr(words, DEADLINE);
    let said = process.stderr_text();
    let rest = said.split_once(words).expect("an address").1;
    let address = rest.split([' ', '\n', '/']).next().and_then(|text| text.parse().ok());
    address.unwrap_or_else(|| panic!("no address: {said}"))
}

/// A fleet with a gateway on a free port that takes `Source`.
fn fleet(engine: Engine) -> Option<Fleet> {
    let mut fleet = Fleet::shared(engine)?;
    fleet.set("GATEWAY__LISTEN", "0");
    fleet.set("GATEWAY__TOPICS", fleet.topic("Source"));
    Some(fleet)
}

/// The one id of a 202.
#[track_caller]
fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// The ids of a 202 of many.
#[track_caller]
fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 202, "{}", answer.body);
    let ids = answer.json();
    let ids = ids["ids"].as_array().expect("ids").iter();
    ids.map(|id| id.as_str().expect("an id").to_owned()).collect()
}
