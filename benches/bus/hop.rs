//! One hop on Kafka, beside the limit and beside other programs that do the same.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    kafka::{Broker, Topic, unique},
    peers::{
        Guarantee::{AtLeastOnce, ExactlyOnce},
        Peer,
    },
    process::{DEADLINE, Running, metrobus, time_silently},
    report::{
        Target::{self, AtLeast, AtMost},
        Unit,
    },
    run::{Bench, median},
};

/// The topic that the slips of the input name.
const OUTPUT: &str = "WhiteList";

/// Between two looks at the output.
const SAMPLE: Duration = Duration::from_millis(10);

/// The share of the input after whose output the watch starts: what was fetched ahead meanwhile, joining the group and
/// the JIT's warm-up are to count for nobody.
const RUN_UP: usize = 10;

/// One run of one peer.
#[derive(Clone, Copy)]
pub struct Run {
    /// Messages a second from the end of the run-up to the last output.
    pub rate: f64,
    /// Microseconds of the peer's own processor time a message, over the same time.
    pub cpu: f64,
    /// Megabytes at most.
    pub peak: f64,
}

impl Run {
    pub fn text(self) -> String {
        format!("{}, {:.2} µs CPU each, {:.0} MB", Unit::PerSecond.show(self.rate), self.cpu, self.peak)
    }

    /// The median of each figure.
    pub fn median(runs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(runs.iter().map(figure).collect());
        Self { rate: of(|run| run.rate), cpu: of(|run| run.cpu), peak: of(|run| run.peak) }
    }
}

pub fn run(bench: &mut Bench) {
    let Some(broker) = bench.broker.take() else {
        return bench.report.missing("Kafka hop", "METROBUS_TEST_KAFKA names no broker");
    };
    pusher(bench, &broker);
    for partitions in [1, 4] {
        compare(bench, &broker, partitions);
    }
    bench.broker = Some(broker);
}

fn pusher(bench: &mut Bench, broker: &Broker) {
    let messages = bench.setup.on_sqlite();
    let rate = bench.setup.median(|| {
        let topic = broker.topic(&unique("push"), 4);
        let settings = [("BUS", "kafka"), ("KAFKA__BROKERS", &broker.address), ("PUSHER__TOPIC", &topic.name)];
        let push = metrobus(bench, &["pusher", "--rate", "0", "--count", &messages.to_string()], &settings);
        messages as f64 / time_silently(push)
    });
    let what = "Kafka pusher, 4 partitions, start and end included";
    bench.report.figure(what, rate, Unit::PerSecond, AtLeast(200_000.0));
}

/// All peers in turns on the same input.
fn compare(bench: &mut Bench, broker: &Broker, partitions: i32) {
    let input = broker.topic(&unique("in"), partitions);
    input.fill(bench.setup.messages);
    let mut runs: Vec<(Peer, Result<Vec<Run>, String>)> = Peer::ALL.map(|peer| (peer, Ok(Vec::new()))).into();
    for _ in 0..bench.setup.runs {
        for (peer, done) in &mut runs {
            let Ok(so_far) = done else { continue };
            match measure(bench, broker, *peer, &input, bench.setup.messages / peer.share()) {
                Ok(run) => so_far.push(run),
                Err(reason) => *done = Err(reason),
            }
        }
    }
    let figures: Vec<_> = runs.into_iter().map(|(peer, runs)| (peer, runs.map(|runs| Run::median(&runs)))).collect();
    let mut rows =
        Rows { bench, figures, place: format!("{partitions} partition{}", if partitions > 1 { "s" } else { "" }) };
    let (relay, hop, exactly) = (Peer::Relay, Peer::Metrobus(AtLeastOnce), Peer::Metrobus(ExactlyOnce));
    let (streams, streams_exactly) = (Peer::Streams(AtLeastOnce), Peer::Streams(ExactlyOnce));
    rows.rate(hop, relay, AtLeast(0.70));
    rows.cpu(hop, relay, AtMost(1.5));
    rows.rate(hop, streams, AtLeast(3.0));
    rows.rate(hop, Peer::Python, AtLeast(8.0));
    rows.rate(exactly, hop, AtLeast(0.90));
    rows.rate(exactly, streams_exactly, AtLeast(2.8));
}

/// Writes the rows of one comparison.
struct Rows<'a> {
    bench: &'a mut Bench,
    figures: Vec<(Peer, Result<Run, String>)>,
    place: String,
}

impl Rows<'_> {
    fn rate(&mut self, peer: Peer, other: Peer, target: Target) {
        self.row("Kafka", peer, other, target, |run| run.rate, |run| run.text());
    }

    fn cpu(&mut self, peer: Peer, other: Peer, target: Target) {
        self.row("CPU a message, Kafka", peer, other, target, |run| run.cpu, |run| format!("{:.2} µs", run.cpu));
    }

    fn row(
        &mut self,
        subject: &str,
        peer: Peer,
        other: Peer,
        target: Target,
        of: fn(&Run) -> f64,
        text: fn(Run) -> String,
    ) {
        let what = format!("{subject} {} : {}, {}", peer.name(), other.name(), self.place);
        let find = |wanted: Peer| {
            let (_, figures) = self.figures.iter().find(|(peer, _)| *peer == wanted).expect("all peers have figures");
            figures.as_ref().map_err(|reason| format!("{}: {reason}", wanted.name()))
        };
        match (find(peer), find(other)) {
            (Ok(&peer), Ok(&other)) => {
                self.bench.report.ratio(&what, &text(peer), &text(other), of(&peer) / of(&other), target);
            }
            (Err(reason), _) | (_, Err(reason)) => self.bench.report.missing(&what, &reason),
        }
    }
}

/// Lets a peer send `messages` of the input on to a new topic; the error says why it could not.
fn measure(bench: &Bench, broker: &Broker, peer: Peer, input: &Topic<'_>, messages: usize) -> Result<Run, String> {
    let output = broker.topic(OUTPUT, input.partitions);
    let command = peer.command(bench, broker, &input.name, OUTPUT, &unique("bench"))?;
    watch(command, &output, messages)
}

/// The same for `metrobus contactpoint` at least once, with more settings.
pub fn contactpoint(bench: &Bench, broker: &Broker, input: &Topic<'_>, messages: usize, more: &[(&str, &str)]) -> Run {
    let output = broker.topic(OUTPUT, input.partitions);
    let peer = Peer::Metrobus(AtLeastOnce);
    let mut command = peer.command(bench, broker, &input.name, OUTPUT, &unique("bench")).expect("it is never missing");
    for (name, value) in more {
        command.env(format!("METROBUS__{name}"), value);
    }
    watch(command, &output, messages).unwrap_or_else(|reason| panic!("contactpoint: {reason}"))
}

/// Runs a hop until `output` holds `messages`.
fn watch(command: Command, output: &Topic<'_>, messages: usize) -> Result<Run, String> {
    let mut peer = Running::start(command);
    let begun = Instant::now();
    let mut first: Option<Sample> = None;
    loop {
        if begun.elapsed() > DEADLINE {
            return Err(format!("it did not end within {DEADLINE:?}"));
        }
        if peer.has_ended() {
            return Err("it ended by itself".to_owned());
        }
        let Some(sample) = Sample::take(&peer, output).filter(|sample| sample.count > messages / RUN_UP) else {
            thread::sleep(SAMPLE);
            continue;
        };
        let since = *first.get_or_insert(sample);
        if sample.count >= messages {
            let passed = (sample.count - since.count).max(1) as f64;
            let seconds = sample.at.duration_since(since.at).as_secs_f64().max(1e-3);
            let cpu = (sample.cpu - since.cpu) / passed * 1e6;
            return Ok(Run { rate: passed / seconds, cpu, peak: peer.memory("VmHWM") });
        }
        thread::sleep(SAMPLE);
    }
}

/// What a peer had done at one time.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    count: usize,
    cpu: f64,
}

impl Sample {
    fn take(peer: &Running, output: &Topic<'_>) -> Option<Self> {
        let asked = Instant::now();
        let count = output.count()?;
        // The broker counted somewhere between question and answer; under load that is milliseconds
        let at = asked + asked.elapsed() / 2;
        Some(Self { at, count, cpu: peer.cpu() })
    }
}
