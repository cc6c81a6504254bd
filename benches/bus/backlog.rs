//! Whether a long backlog is worked off as fast as a short one, and in as little memory.

use crate::{
    hop::{self, Run},
    kafka::unique,
    report::{
        Target::{AtLeast, AtMost},
        Unit,
    },
    run::Bench,
};

pub fn run(bench: &mut Bench) {
    let Some(broker) = bench.broker.take() else {
        return bench.report.missing("backlogs on Kafka", "METROBUS_TEST_KAFKA names no broker");
    };
    let counts = [bench.setup.backlog / 10, bench.setup.backlog];
    let inputs = counts.map(|count| {
        let topic = broker.topic(&unique("backlog"), 4);
        topic.fill(count);
        (topic, count)
    });
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.setup.few_runs() {
        for ((input, count), runs) in inputs.iter().zip(&mut runs) {
            runs.push(hop::contactpoint(bench, &broker, input, *count, &[]));
        }
    }
    drop(inputs);
    bench.broker = Some(broker);
    let [short, long] = runs.map(|runs| Run::median(&runs));
    let [few, many] = counts.map(|count| format!("{} thousand", count / 1000));
    let what = format!("Kafka hop, a backlog of {many} : of {few}");
    bench.report.ratio(&what, &long.text(), &short.text(), long.rate / short.rate, AtLeast(0.9));
    let what = format!("Kafka hop, most memory over a backlog of {many}");
    bench.report.figure(&what, long.peak, Unit::Megabytes, AtMost(150.0));
}
