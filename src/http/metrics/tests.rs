use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::{
    bus::{Bus, Outbox, Topic, memory::MemoryBus},
    cache::{Counted, Counters, Source},
    config::Config,
    drain::Drain,
    handler::{Verdict, each},
    http::exposition::Kind,
    shutdown::Shutdown,
    stop::Stop,
};

/// Of all parts of metrobus, in the order in which the documentation has them.
const ALL: &[&[Metric]] = &[METRICS, crate::gateway::stats::METRICS, crate::deliver::counts::METRICS];

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// A process with one stop, which has dealt with four messages: 0 is forwarded, 1 finished, 2 dropped, 3 rejected.
fn process() -> Process {
    let config = Config::load(None, [("METROBUS__STOPS", "Here,Next")]).unwrap();
    let bus = MemoryBus::default();
    let mut outbox = Outbox::default();
    for n in 0..4 {
        let value = format!(r#"{{"header":{{"route":["Next"],"historical_route":["Here"]}},"payload":{{"n":{n}}}}}"#);
        outbox.publish(&topic("Here"), 5, None, Some(value.as_bytes()));
    }
    bus.publisher().unwrap().publish(&outbox).unwrap();
    let judge = each(|message| match message.payload.get("n").as_deref() {
        Some("0") => Verdict::Forward,
        Some("1") => Verdict::Finish,
        Some("2") => Verdict::drop("say \"no\""),
        _ => Verdict::reject("odd: secret".to_owned()),
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("emails.dat");
    std::fs::write(&path, "1,a@example.com\n").unwrap();
    let (_, counts) = Counted::lookup(Source::File(path).lookup().unwrap());
    let stop = Stop::new("tester", &topic("Here"), judge, &config).cache(counts).drain(Drain::default().join());
    let watched = stop.watch();
    stop.run(&bus, &Shutdown::default()).unwrap();
    let counters = Counters::new("redis://127.0.0.1:1", Duration::from_millis(10)).unwrap();
    let counters = Some(counters.errors());
    Process { stops: vec![watched].into(), parts: Vec::new(), stall: Duration::from_secs(1), counters }
}

#[test]
fn the_numbers_are_those_of_the_stop() {
    let text = render(&process());
    for line in [
        concat!("metrobus_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "metrobus_consumed_messages_total{stop=\"tester\",topic=\"Here\"} 4",
        "metrobus_messages_total{stop=\"tester\",verdict=\"forwarded\"} 1",
        "metrobus_messages_total{stop=\"tester\",verdict=\"finished\"} 1",
        "metrobus_messages_total{stop=\"tester\",verdict=\"dropped\",reason=\"say \\\"no\\\"\"} 1",
        "metrobus_messages_total{stop=\"tester\",verdict=\"rejected\",reason=\"odd\"} 1",
        "metrobus_retried_messages_total{stop=\"tester\"} 0",
        "metrobus_batch_messages_bucket{stop=\"tester\",le=\"1\"} 0",
        "metrobus_batch_messages_bucket{stop=\"tester\",le=\"10\"} 1",
        "metrobus_batch_messages_sum{stop=\"tester\"} 4",
        "metrobus_process_duration_seconds_count{stop=\"tester\"} 1",
        "metrobus_settle_duration_seconds_count{stop=\"tester\"} 1",
        "metrobus_journey_duration_seconds_bucket{stop=\"tester\",le=\"60\"} 0",
        "metrobus_journey_duration_seconds_count{stop=\"tester\"} 1",
        "metrobus_errors_total{stop=\"tester\",part=\"bus\"} 0",
        "metrobus_errors_total{stop=\"tester\",part=\"cache\"} 0",
        "metrobus_cache_lookups_total{stop=\"tester\",result=\"miss\"} 0",
        "metrobus_counter_errors_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn every_metric_is_told_once_and_no_other() {
    let text = render(&process());
    let told: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(told, METRICS.iter().map(|metric| format!("{} {}", metric.name, metric.kind)).collect::<Vec<_>>());
    let mut family = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap();
        }
        let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        assert!(name.starts_with(family), "{line} stands under {family}");
    }
}

#[test]
fn names_follow_the_conventions() {
    let metrics = || ALL.iter().copied().flatten();
    let names: BTreeSet<_> = metrics().map(|metric| metric.name).collect();
    assert_eq!(names.len(), metrics().count());
    for Metric { name, kind, .. } in metrics() {
        assert!(name.starts_with("metrobus_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert!(!["_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)), "{name}");
    }
}

/// One row for each metric, in their order, and none besides.
#[test]
fn the_table_in_the_documentation_is_this_one() {
    let page = include_str!("../../../docs/metrics.md");
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let row = |Metric { name, kind, labels, help }: &Metric| {
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!(" {}", labels.join(", ")) };
        format!("| `{name}` | {kind} |{labels} | {help} |")
    };
    assert_eq!(rows, ALL.iter().copied().flatten().map(row).collect::<Vec<_>>());
}
