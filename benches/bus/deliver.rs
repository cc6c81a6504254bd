//! `deliver`: how fast messages leave as requests to a sink on this machine, how many filters it asks in a second, and what one
//! subscriber that is dead costs the others.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use metrobus::{
    Topic,
    bus::{Bus, Outbox},
};

use crate::{
    client::{Manner, Sink, free_address, is_ok},
    process::{DEADLINE, Running, metrobus, until},
    report::{
        Target::{self, AtLeast},
        Unit,
    },
    run::{Bench, median, raw},
    sqlite,
};

const FILE: &str = "deliver.db";
const TOPIC: &str = "Events";

/// Subscribers of one topic, of which each message has one.
const MANY: usize = 10_000;

/// Messages that they are asked about.
const ASKED: usize = 200;

/// Subscribers of which one may be dead.
const HUNDRED: usize = 100;

/// What the configuration says of a bus, by the names of its variables.
type Settings<'a> = &'a [(&'a str, &'a str)];

const SQLITE: Settings<'static> = &[("SQLITE__PATH", FILE)];

pub fn run(bench: &mut Bench) {
    requests(bench, "SQLite", SQLITE, |_| {});
    filters(bench, "CEL", &|nth| format!("filter = 'data.x == {nth} && data.message_type_code == \"ALTABC\"'"));
    filters(bench, "Python", &|nth| {
        format!("python = \"data['x'] == {nth} and data['message_type_code'] == 'ALTABC'\"")
    });
    one_dead(bench);
    remove(bench);
    let Some(broker) = bench.broker.take() else {
        return bench.report.missing("deliver on Kafka", "METROBUS_TEST_KAFKA names no broker");
    };
    let settings = [("BUS", "kafka"), ("KAFKA__BROKERS", broker.address.as_str())];
    requests(bench, "Kafka", &settings, |_| broker.delete(TOPIC));
    remove(bench);
    bench.broker = Some(broker);
}

/// One subscriber, which wants all.
fn requests(bench: &mut Bench, name: &str, settings: Settings<'_>, renew: impl Fn(&Bench)) {
    let count = (bench.setup.messages / 40).clamp(1000, 50_000);
    let mut rates = Vec::new();
    for _ in 0..bench.setup.few_runs() {
        let sink = Sink::start(Manner::Answers);
        renew(bench);
        let all = deliver(bench, settings, &subscriber("one", sink.address, "concurrency = 32"), count, || {
            sink.requests() >= count as u64
        });
        rates.push(count as f64 / all);
    }
    renew(bench);
    let what = format!("deliver on {name}: requests to a sink on the same two cores");
    bench.report.figure(&what, median(rates), Unit::PerSecond, AtLeast(8000.0));
}

/// Very many subscribers; each message is for one of them.
fn filters(bench: &mut Bench, language: &str, filter: &dyn Fn(usize) -> String) {
    let mut rates = Vec::new();
    for _ in 0..bench.setup.few_runs() {
        let sink = Sink::start(Manner::Answers);
        let all: String = (0..MANY).map(|nth| subscriber(&format!("s{nth}"), sink.address, &filter(nth))).collect();
        let took = deliver(bench, SQLITE, &all, ASKED, || sink.requests() >= ASKED as u64);
        rates.push((MANY * ASKED) as f64 / took);
    }
    let what = format!("deliver: filters in {language}, {MANY} subscribers of one topic");
    bench.report.figure(&what, median(rates), Unit::PerSecond, AtLeast(100_000.0));
}

/// A hundred subscribers of all messages: with all well, and with one that takes requests and never answers.
fn one_dead(bench: &mut Bench) {
    let count = (bench.setup.messages / 4000).clamp(50, 500);
    let wanted = (count * (HUNDRED - 1)) as u64;
    let (mut well, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..bench.setup.few_runs() {
        for (manner, rates) in [(Manner::Answers, &mut well), (Manner::Hangs, &mut beside)] {
            let (sink, other) = (Sink::start(Manner::Answers), Sink::start(manner));
            let mut all: String = (1..HUNDRED).map(|nth| subscriber(&format!("s{nth}"), sink.address, "")).collect();
            all.push_str(&subscriber("other", other.address, ""));
            let took = deliver(bench, SQLITE, &all, count, || sink.requests() >= wanted);
            rates.push(wanted as f64 / took);
        }
    }
    let (well, beside) = (median(well), median(beside));
    let show = |rate| Unit::PerSecond.show(rate);
    let what = "deliver: 99 subscribers, beside one that never answers : beside one that does";
    bench.report.ratio(what, &show(beside), &show(well), beside / well, Target::AtLeast(0.95));
}

fn subscriber(name: &str, address: SocketAddr, more: &str) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "[[deliver.subscriber]]\nname = \"{name}\"\ntopic = \"{TOPIC}\"\nurl = \"http://{address}/hook\"\n{more}\n"
    );
    text
}

fn remove(bench: &Bench) {
    for name in [FILE, "deliveries.db"] {
        sqlite::remove(bench, name);
    }
}

/// Seconds from the publishing of `count` messages, once `metrobus deliver` waits for them, until `done`.
fn deliver(
    bench: &Bench,
    settings: Settings<'_>,
    subscribers: &str,
    count: usize,
    mut done: impl FnMut() -> bool,
) -> f64 {
    remove(bench);
    let bus = bench.bus(settings);
    bus.connect().and_then(|()| bus.create_topics(&[topic()])).expect("create the topic");
    let health = free_address();
    fs::write(bench.path("deliver.toml"), subscribers).expect("write the subscribers");
    let listen = health.to_string();
    let mut settings = settings.to_vec();
    settings.extend([
        ("DELIVER__STORE", "deliveries.db"),
        ("DELIVER__ALLOWED_NETWORKS", "127.0.0.0/8"),
        ("HTTP__LISTEN", listen.as_str()),
    ]);
    let process = Running::start(metrobus(bench, &["deliver", "--config", "deliver.toml"], &settings));
    until("deliver is ready", || is_ok(health, "/readyz"));
    let start = Instant::now();
    publish(&*bus, count);
    while !done() {
        assert!(start.elapsed() < DEADLINE, "deliver takes too long");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = start.elapsed().as_secs_f64();
    process.stop();
    took
}

fn topic() -> Topic {
    Topic::new(TOPIC).expect("a topic")
}

/// Puts so many messages on the topic.
fn publish(bus: &dyn Bus, count: usize) {
    let mut publisher = bus.publisher().expect("a publisher");
    let mut outbox = Outbox::default();
    for id in 0..count {
        outbox.publish(&topic(), -1, None, Some(raw(id).as_bytes()));
        if outbox.len() == 1000 || id + 1 == count {
            publisher.publish(&outbox).expect("publish");
            outbox.clear();
        }
    }
    publisher.flush(Instant::now() + DEADLINE).expect("publish");
}
