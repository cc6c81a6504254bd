//! The gateway: events that are posted over 64 connections, as fast as they are answered, and at a quarter of what is asked of it.
//!
//! An answer is 202, when the bus has the event. The load comes from one thread of the bench, on the same machine: what it
//! costs stands beside what the gateway costs.

use std::net::SocketAddr;

use crate::{
    client::{Answered, Load, free_address, is_ok, load, percentile},
    process::{Running, metrobus, until},
    report::{
        Target::{self, AtLeast, AtMost},
        Unit,
    },
    run::{Bench, median, raw},
    sqlite,
};

const CONNECTIONS: usize = 64;

/// POSTs a second that are asked of it.
const ASKED: f64 = 40_000.0;

const FILE: &str = "gateway.db";

/// Seconds of one load, at most.
const SECONDS: u64 = 10;

/// Loads before those that are measured, at most.
const LOADS_TO_WARM_UP: usize = 6;

/// By so much a load is faster than the one before it while the broker warms up.
const FASTER: f64 = 1.03;

pub fn run(bench: &mut Bench) {
    let file = [("SQLITE__PATH", FILE)];
    measure(bench, "SQLite", &file, |bench| sqlite::remove(bench, FILE));
    let Some(broker) = bench.broker.take() else {
        return bench.report.missing("gateway on Kafka", "METROBUS_TEST_KAFKA names no broker");
    };
    let settings = [("BUS", "kafka"), ("KAFKA__BROKERS", broker.address.as_str())];
    measure(bench, "Kafka", &settings, |_| broker.delete("Source"));
    bench.broker = Some(broker);
}

fn measure(bench: &mut Bench, name: &str, settings: &[(&str, &str)], renew: impl Fn(&Bench)) {
    let (mut rates, mut own, mut clients, mut slowest) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..bench.setup.few_runs() {
        renew(bench);
        let (address, gateway) = start(bench, settings);
        if run == 0 {
            warm_up(bench, address);
        }
        let before = gateway.cpu();
        let most = post(bench, address, None);
        own.push((gateway.cpu() - before) / most.answers as f64 * 1e6);
        clients.push(most.cpu / most.answers as f64 * 1e6);
        rates.push(most.answers as f64 / most.seconds);
        slowest.push(percentile(&post(bench, address, Some(ASKED / 4.0)).times, 0.99));
        gateway.stop();
    }
    renew(bench);
    let what = format!("gateway on {name}: POST /topics over {CONNECTIONS} connections");
    bench.report.figure(&what, median(rates), Unit::PerSecond, AtLeast(ASKED));
    let what = format!("gateway on {name}: processor time a POST");
    bench.report.figure(&what, median(own), Unit::Micros, Target::None);
    let what = format!("gateway on {name}: the same of what posts, on the same two cores");
    bench.report.figure(&what, median(clients), Unit::Micros, Target::None);
    let what = format!("gateway on {name}: at {:.0}k/s, p99", ASKED / 4e3);
    bench.report.figure(&what, median(slowest), Unit::Millis, AtMost(25.0));
}

/// Starts a gateway, and waits until it takes an event.
fn start(bench: &Bench, settings: &[(&str, &str)]) -> (SocketAddr, Running) {
    let (address, health) = (free_address(), free_address());
    let (listen, tells) = (address.to_string(), health.to_string());
    let mut settings = settings.to_vec();
    settings.extend([("GATEWAY__LISTEN", listen.as_str()), ("HTTP__LISTEN", tells.as_str())]);
    let gateway = Running::start(metrobus(bench, &["gateway"], &settings));
    until("the gateway is ready", || is_ok(health, "/readyz"));
    (address, gateway)
}

/// Loads that count for nothing, until they get no faster: a broker that has just been started compiles itself while it works, on
/// the same two cores.
fn warm_up(bench: &Bench, address: SocketAddr) {
    let mut before = 0.0;
    for _ in 0..LOADS_TO_WARM_UP {
        let answered = post(bench, address, None);
        let rate = answered.answers as f64 / answered.seconds;
        if rate < before * FASTER {
            return;
        }
        before = rate;
    }
}

fn post(bench: &Bench, address: SocketAddr, rate: Option<f64>) -> Answered {
    let body = raw(7);
    let request = format!(
        "POST /topics/Source HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let seconds = bench.setup.seconds.min(SECONDS) as f64;
    let answered = load(address, request.as_bytes(), 202, &Load { connections: CONNECTIONS, seconds, rate });
    assert_eq!(answered.refused, 0, "answers that were not 202");
    answered
}
