//! What it costs a hop to look its emails up in Redis instead of in a file.

use crate::{
    hop,
    kafka::{Broker, unique},
    process::{metrobus, time_silently},
    report::{Target::AtLeast, Unit},
    run::{Bench, median},
    sqlite,
};

const TARGET: crate::report::Target = AtLeast(0.6);

pub fn run(bench: &mut Bench) {
    let Some(url) = bench.redis.clone() else {
        return bench.report.missing("contactpoint with Redis : with a file", "METROBUS_TEST_REDIS names no server");
    };
    time_silently(metrobus(bench, &["cache", "load", "--only", "emails"], &[("REDIS__URL", &url)]));
    on_sqlite(bench, &url);
    match bench.broker.take() {
        Some(broker) => {
            on_kafka(bench, &broker, &url);
            bench.broker = Some(broker);
        }
        None => bench.report.missing("contactpoint with Redis : with a file, on Kafka", "there is no broker"),
    }
}

/// The caches in turns; the same topic anew for each.
fn on_sqlite(bench: &mut Bench, url: &str) {
    let messages = bench.setup.on_sqlite();
    sqlite::write_messages(bench, messages);
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..bench.setup.few_runs() {
        for (cache, rates) in ["file", "redis"].into_iter().zip(&mut rates) {
            sqlite::remove(bench, sqlite::FILE);
            sqlite::push(bench, sqlite::MESSAGES, "AddEmail");
            let settings = [("CONTACTPOINT__CACHE", cache), ("REDIS__URL", url)];
            rates.push(sqlite::hop(bench, messages, &settings).0);
        }
    }
    sqlite::remove(bench, sqlite::FILE);
    let [file, redis] = rates.map(median);
    let show = |rate| Unit::PerSecond.show(rate);
    let what = "contactpoint with Redis : with a file, SQLite";
    bench.report.ratio(what, &show(redis), &show(file), redis / file, TARGET);
}

fn on_kafka(bench: &mut Bench, broker: &Broker, url: &str) {
    let input = broker.topic(&unique("in"), 4);
    input.fill(bench.setup.messages);
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.setup.few_runs() {
        for (cache, runs) in ["file", "redis"].into_iter().zip(&mut runs) {
            let settings = [("CONTACTPOINT__CACHE", cache), ("REDIS__URL", url)];
            runs.push(hop::contactpoint(bench, broker, &input, bench.setup.messages, &settings));
        }
    }
    let [file, redis] = runs.map(|runs| hop::Run::median(&runs));
    let what = "contactpoint with Redis : with a file, Kafka, 4 partitions";
    bench.report.ratio(what, &redis.text(), &file.text(), redis.rate / file.rate, TARGET);
}
