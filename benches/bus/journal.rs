//! What it costs a hop to note in the journal what happened to every message.

use std::fs;

use crate::{
    hop,
    kafka::{Broker, unique},
    process::{metrobus, time_silently},
    report::{
        Target::{self, AtLeast, AtMost},
        Unit,
    },
    run::{Bench, lines, median, raw},
    sqlite,
};

const TARGET: crate::report::Target = AtLeast(0.9);

/// As it is by default, and without.
const LEVELS: [&str; 2] = ["all", "off"];

pub fn run(bench: &mut Bench) {
    on_sqlite(bench);
    track(bench);
    match bench.broker.take() {
        Some(broker) => {
            on_kafka(bench, &broker);
            bench.broker = Some(broker);
        }
        None => bench.report.missing("Kafka hop, journal.level = \"all\" : \"off\"", "there is no broker"),
    }
}

/// The levels in turns; the same topic anew for each.
fn on_sqlite(bench: &mut Bench) {
    let messages = bench.setup.on_sqlite();
    sqlite::write_messages(bench, messages);
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..bench.setup.runs {
        for (level, rates) in LEVELS.into_iter().zip(&mut rates) {
            sqlite::remove(bench, sqlite::FILE);
            sqlite::push(bench, sqlite::MESSAGES, "AddEmail");
            rates.push(sqlite::hop(bench, messages, &[("JOURNAL__LEVEL", level)]).0);
        }
    }
    sqlite::remove(bench, sqlite::FILE);
    let [all, off] = rates.map(median);
    let show = |rate| Unit::PerSecond.show(rate);
    let what = "SQLite hop, journal.level = \"all\" : \"off\"";
    bench.report.ratio(what, &show(all), &show(off), all / off, TARGET);
}

/// A journey among ten times as many hops as there are messages.
fn track(bench: &mut Bench) {
    sqlite::remove(bench, sqlite::FILE);
    // Every message goes through four stops
    let messages = bench.setup.on_sqlite() * 10 / 4;
    fs::write(bench.path("raw.ndjson"), lines(messages, raw)).expect("write the raw records");
    sqlite::push(bench, "raw.ndjson", "Source");
    let settings = [("SQLITE__PATH", sqlite::FILE), ("JOURNAL__INDEX", "index.db")];
    let call = |arguments: &[&str]| time_silently(metrobus(bench, arguments, &settings));
    call(&["run", "--drain"]);
    let indexing = call(&["journal", "--drain"]);
    let (key, _) = crate::run::message(messages / 2);
    let track = bench.setup.median(|| call(&["track", "--key", &key]) * 1e3);
    let bytes = fs::metadata(bench.path("index.db")).map_or(0, |data| data.len());
    sqlite::remove(bench, sqlite::FILE);
    sqlite::remove(bench, "index.db");
    let hops = messages * 4;
    let what = format!("track a message by its key among {:.1} million hops, the whole process", hops as f64 / 1e6);
    bench.report.figure(&what, track, Unit::Millis, AtMost(100.0));
    let what = "hops into the index of the journal, start and end included";
    bench.report.figure(what, hops as f64 / indexing, Unit::PerSecond, Target::None);
    bench.report.figure("the index on the disk", bytes as f64 / 1e6, Unit::Megabytes, Target::None);
}

fn on_kafka(bench: &mut Bench, broker: &Broker) {
    let input = broker.topic(&unique("in"), 4);
    input.fill(bench.setup.messages);
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.setup.runs {
        for (level, runs) in LEVELS.into_iter().zip(&mut runs) {
            runs.push(hop::contactpoint(bench, broker, &input, bench.setup.messages, &[("JOURNAL__LEVEL", level)]));
        }
    }
    let [all, off] = runs.map(|runs| hop::Run::median(&runs));
    let what = "Kafka hop, journal.level = \"all\" : \"off\", 4 partitions";
    bench.report.ratio(what, &all.text(), &off.text(), all.rate / off.rate, TARGET);
}
