//! The programs that do one hop on Kafka, each in a process of its own.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{kafka::Broker, process::metrobus, run::Bench};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    AtLeastOnce,
    ExactlyOnce,
}

use Guarantee::{AtLeastOnce, ExactlyOnce};

/// Who does the hop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The limit: values copied unread, at least once.
    Relay,
    /// `metrobus contactpoint`.
    Metrobus(Guarantee),
    /// benches/peers/streams.
    Streams(Guarantee),
    /// benches/peers/python, at least once.
    Python,
}

impl Peer {
    pub const ALL: [Self; 6] = [
        Self::Relay,
        Self::Metrobus(AtLeastOnce),
        Self::Metrobus(ExactlyOnce),
        Self::Streams(AtLeastOnce),
        Self::Streams(ExactlyOnce),
        Self::Python,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Metrobus(AtLeastOnce) => "hop, at least once",
            Self::Metrobus(ExactlyOnce) => "hop, exactly once",
            Self::Streams(AtLeastOnce) => "Kafka Streams, at_least_once",
            Self::Streams(ExactlyOnce) => "Kafka Streams, exactly_once_v2",
            Self::Python => "confluent-kafka-python",
        }
    }

    /// The share of the input after which it is stopped: the rate of the slowest one is steady, and waiting is dull.
    pub fn share(self) -> usize {
        if self == Self::Python { 4 } else { 1 }
    }

    /// Reads `input` as `group`, and publishes to the topic that the slips name, which is `output`. The error says why
    /// it is missing.
    pub fn command(
        self,
        bench: &Bench,
        broker: &Broker,
        input: &str,
        output: &str,
        group: &str,
    ) -> Result<Command, String> {
        let emails = bench.path("emails.dat");
        Ok(match self {
            Self::Relay => {
                let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
                command.args(["relay", &broker.address, input, output, group]).stdout(Stdio::null());
                command
            }
            Self::Metrobus(guarantee) => {
                let settings = [
                    ("BUS", "kafka"),
                    ("KAFKA__BROKERS", &broker.address),
                    ("KAFKA__GROUP", group),
                    ("KAFKA__GUARANTEE", if guarantee == ExactlyOnce { "exactly-once" } else { "at-least-once" }),
                    ("CONTACTPOINT__TOPIC", input),
                    // The default route names it
                    ("STOPS", "AddEmail"),
                    // No other peer keeps one; what it costs is measured apart
                    ("JOURNAL__LEVEL", "off"),
                ];
                metrobus(bench, &["contactpoint"], &settings)
            }
            Self::Streams(guarantee) => {
                let mut command = Command::new(java().ok_or("a Java is not there")?);
                command.arg("-Xmx1g").arg(format!("-Djava.io.tmpdir={}", bench.folder().display()));
                command.arg("-cp").arg(streams()?).arg("Hop").args([&broker.address, input, group]).arg(emails);
                command.arg(if guarantee == ExactlyOnce { "exactly_once_v2" } else { "at_least_once" });
                command
            }
            Self::Python => {
                let mut command = Command::new(python()?);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/python/hop.py"));
                command.args([&broker.address, input, group]).arg(emails);
                command
            }
        })
    }
}

fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The Java that runs the broker.
pub fn java() -> Option<PathBuf> {
    named("METROBUS_TEST_JAVA")
}

/// The class path of the hop on Kafka Streams.
pub fn streams() -> Result<PathBuf, String> {
    named("METROBUS_BENCH_STREAMS").ok_or_else(|| "scripts/bench/peers.sh could not build it".to_owned())
}

/// The Python that has confluent-kafka.
pub fn python() -> Result<PathBuf, String> {
    named("METROBUS_BENCH_PYTHON").ok_or_else(|| "scripts/bench/peers.sh could not install it".to_owned())
}
