//! How long a journey takes at 2,000 messages a second, through three stops in three processes.
//!
//! A record bears the time at which the pusher made it, from stop to stop. Here the last topic is read, and now less
//! that time is the length of the journey. All of them count from the end of the warm-up on; percentiles are exact. The
//! times are whole milliseconds, rounded down: a journey looks half a millisecond longer than it was.

use std::time::{Duration, Instant, SystemTime};

use metrobus::{Topic, bus::Reader};

use crate::{
    client::percentile,
    kafka::unique,
    process::{DEADLINE, Running, metrobus, time_silently, until},
    report::{
        Target::{self, AtMost},
        Unit,
    },
    run::{Bench, median},
    sqlite,
};

/// Messages a second.
const RATE: u64 = 2000;

/// Seconds that do not count.
const WARM_UP: u64 = 3;

const STOPS: [&str; 3] = ["busdriver", "contactpoint", "whitelist"];
const TOPICS: [&str; 4] = ["Source", "AddEmail", "WhiteList", "Log"];

/// A percentile and its target.
type Goals = [(f64, Target); 2];

pub fn run(bench: &mut Bench) {
    let file = [("SQLITE__PATH", "latency.db")];
    repeat(bench, "SQLite", [(0.5, AtMost(5.0)), (0.99, AtMost(12.0))], &file, |_| {});
    let Some(broker) = bench.broker.take() else {
        return bench.report.missing("Kafka latency", "METROBUS_TEST_KAFKA names no broker");
    };
    let renew = |_: &Bench| {
        for name in TOPICS.iter().chain(&["Error"]) {
            broker.delete(name);
        }
    };
    let goals = [(0.5, AtMost(20.0)), (0.99, AtMost(60.0))];
    for (guarantee, name, goals) in [
        ("at-least-once", "Kafka, at least once", goals),
        ("exactly-once", "Kafka, exactly once", [(0.5, Target::None), (0.99, Target::None)]),
    ] {
        let settings = [("BUS", "kafka"), ("KAFKA__BROKERS", &broker.address), ("KAFKA__GUARANTEE", guarantee)];
        repeat(bench, name, goals, &settings, renew);
    }
    renew(bench);
    bench.broker = Some(broker);
}

fn repeat(bench: &mut Bench, name: &str, goals: Goals, settings: &[(&str, &str)], renew: impl Fn(&Bench)) {
    let mut percentiles: Vec<Vec<f64>> = vec![Vec::new(); goals.len()];
    for _ in 0..bench.setup.few_runs() {
        renew(bench);
        sqlite::remove(bench, "latency.db");
        let times = journeys(bench, settings);
        for ((share, _), figures) in goals.iter().zip(&mut percentiles) {
            figures.push(percentile(&times, *share));
        }
    }
    for ((share, target), figures) in goals.into_iter().zip(percentiles) {
        let what = format!("{name}: journey at {RATE}/s, three stops in three processes, p{}", share * 100.0);
        bench.report.figure(&what, median(figures), Unit::Millis, target);
    }
}

/// Milliseconds of every journey, shortest first.
fn journeys(bench: &Bench, settings: &[(&str, &str)]) -> Vec<f64> {
    let group = unique("bench");
    let mut settings = settings.to_vec();
    settings.push(("KAFKA__GROUP", &group));
    let bus = bench.bus(&settings);
    let topics = TOPICS.map(|name| Topic::new(name).expect("a topic"));
    bus.connect().and_then(|()| bus.create_topics(&topics)).expect("create the topics");
    let mut reader = None;
    until("the last topic can be read", || {
        // A broker needs a moment for a new topic
        reader = bus.reader(&topics[3], 0).ok();
        reader.is_some()
    });
    let mut reader = reader.expect("it is there");
    let mut stops = STOPS.map(|role| Running::start(metrobus(bench, &[role], &settings)));
    // One goes ahead: when it has arrived, all stops are there
    time_silently(metrobus(bench, &["pusher", "--count", "1"], &settings));
    let (mut times, count) = (Vec::new(), (RATE * (WARM_UP + bench.setup.seconds)) as usize);
    read(&mut *reader, 1, &mut times);
    times.clear();
    let rate = RATE.to_string();
    let mut push = metrobus(bench, &["pusher", "--rate", &rate, "--count", &count.to_string()], &settings);
    push.stderr(std::process::Stdio::null());
    let pusher = Running::start(push);
    read(&mut *reader, count, &mut times);
    drop(pusher);
    assert!(!stops.iter_mut().any(Running::has_ended), "a stop has ended");
    let Some(start) = times.iter().map(|(sent, _)| *sent).min() else { return Vec::new() };
    let measured = times.into_iter().filter(|(sent, _)| *sent >= start + 1000 * WARM_UP as i64);
    let mut measured: Vec<f64> = measured.map(|(_, took)| took).collect();
    measured.sort_by(f64::total_cmp);
    measured
}

/// Reads `count` records; adds to `times` when each was sent, and the milliseconds since.
fn read(reader: &mut dyn Reader, count: usize, times: &mut Vec<(i64, f64)>) {
    let end = Instant::now() + DEADLINE;
    let before = times.len();
    while times.len() - before < count {
        assert!(Instant::now() < end, "{} of {count} have arrived", times.len() - before);
        let batch = reader.poll(1000, Duration::from_millis(100)).expect("read the last topic");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970");
        times.extend(batch.iter().map(|record| (record.timestamp, now.as_secs_f64() * 1e3 - record.timestamp as f64)));
    }
}
