//! What it costs a hop to note in the journal what happened to every message.

use crate::{
    hop,
    kafka::{Broker, unique},
    report::{Target::AtLeast, Unit},
    run::{Bench, median},
    sqlite,
};

const TARGET: crate::report::Target = AtLeast(0.9);

/// As it is by default, and without.
const LEVELS: [&str; 2] = ["all", "off"];

pub fn run(bench: &mut Bench) {
    on_sqlite(bench);
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
