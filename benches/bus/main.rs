//! How fast metrobus is, beside what else there is for the work, in one run: `make bench`.
//!
//! Each section measures one subject and adds rows to one table. Where two things are compared they do the same work on
//! the same input, as durably, one after the other in turns, and the figures are medians of the runs. A row that falls
//! short of its target stays in the table. [`run::Bench`] has what the sections share; [`report`] makes the table.
//!
//! | variable | default | |
//! | --- | --- | --- |
//! | METROBUS_BENCH_ONLY | all | sections, with commas between |
//! | METROBUS_BENCH_MESSAGES | 2000000 | messages of a Kafka hop; half of them on SQLite |
//! | METROBUS_BENCH_RUNS | 5 | runs that a median is of |
//! | METROBUS_BENCH_SECONDS | 20 | how long latency is measured |
//! | METROBUS_BENCH_EMAILS | 60000000 | emails of the LMDB cache |
//! | METROBUS_BENCH_BACKLOG | 10000000 | messages of the long backlog; a tenth of them of the short one |
//! | METROBUS_BENCH_REPORT | | the file to write the table into; a whole run writes BENCHMARKS.md |
//!
//! With METROBUS_BENCH_MESSAGES below its default, what is not set goes down as well: that is a quick look.

mod backlog;
mod client;
mod deliver;
mod gateway;
mod hop;
mod idle;
mod journal;
mod kafka;
mod latency;
mod lmdb;
mod machine;
mod micro;
mod peers;
mod process;
mod redis;
mod relay;
mod report;
mod rules;
mod run;
mod sqlite;
mod startup;
mod watched;

use run::Bench;

/// A subject, and what measures it.
type Section = (&'static str, fn(&mut Bench));

/// In the order of the table.
const SECTIONS: &[Section] = &[
    ("kafka", hop::run),
    ("latency", latency::run),
    ("sqlite", sqlite::run),
    ("redis", redis::run),
    ("lmdb", lmdb::run),
    ("journal", journal::run),
    ("watched", watched::run),
    ("gateway", gateway::run),
    ("deliver", deliver::run),
    ("rules", rules::run),
    ("backlog", backlog::run),
    ("idle", idle::run),
    ("startup", startup::run),
    ("micro", micro::run),
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // What has to be a process of its own
    match arguments.get(1).map(String::as_str) {
        Some("relay") => return relay::run(&arguments[2..]),
        Some("lmdb") => return lmdb::measure(&arguments[2..]),
        _ => {}
    }
    let mut bench = Bench::new();
    let only = std::env::var("METROBUS_BENCH_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    for name in &only {
        let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        assert!(names.contains(name), "METROBUS_BENCH_ONLY: no section {name}; there are {}", names.join(", "));
    }
    for (name, section) in SECTIONS {
        if only.is_empty() || only.contains(name) {
            eprintln!("--- {name}");
            section(&mut bench);
        }
    }
    let page = machine::page(&bench);
    println!("{page}");
    report::publish(&page, only.is_empty() && bench.setup.is_whole());
}
