//! A fleet of metrobus processes on one bus, in a folder of its own.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Kafka, Metrobus, Process, Scratch, unique};

/// A bus and its guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    AtLeastOnce,
    ExactlyOnce,
}

/// No single step of a test takes longer.
pub const DEADLINE: Duration = Duration::from_secs(120);

pub const STOPS: [&str; 4] = ["busdriver", "contactpoint", "whitelist", "logstop"];

/// What each of them reads.
pub const TOPICS: [&str; 4] = ["Source", "AddEmail", "WhiteList", "Log"];

pub struct Fleet {
    pub scratch: Scratch,
    pub engine: Engine,
    /// The broker, where it is on Kafka.
    pub kafka: Option<Kafka>,
    /// Before the name of each topic.
    prefix: String,
    environment: Vec<(String, String)>,
}

impl Fleet {
    /// A fleet on a new, empty bus; `None` where that cannot be had here.
    pub fn new(engine: Engine) -> Option<Fleet> {
        let kafka = if engine == Engine::Sqlite { None } else { Some(Kafka::start()?) };
        Some(Fleet::on(engine, kafka))
    }

    /// As [`Fleet::new`], on Kafka beside others on one broker, which cannot be stopped: topics, see [`Fleet::topic`],
    /// and group have names of their own.
    pub fn shared(engine: Engine) -> Option<Fleet> {
        if engine == Engine::Sqlite {
            return Fleet::new(engine);
        }
        let mut fleet = Fleet::on(engine, Some(Kafka::shared()?));
        fleet.prefix = unique("fleet") + "-";
        for (stop, name) in STOPS.into_iter().zip(TOPICS) {
            fleet.set(&format!("{}__TOPIC", stop.to_uppercase()), fleet.topic(name));
        }
        fleet.set("PUSHER__TOPIC", fleet.topic("Source"));
        fleet.set("ERROR_TOPIC", fleet.topic("Error"));
        fleet.set("REPAIR_TOPIC", fleet.topic("Repair"));
        fleet.set("JOURNAL__TOPIC", fleet.topic("Journal"));
        fleet.set("BUSDRIVER__ROUTE", TOPICS[1..].iter().map(|name| fleet.topic(name)).collect::<Vec<_>>().join(","));
        fleet.set("KAFKA__GROUP", fleet.topic("group"));
        Some(fleet)
    }

    fn on(engine: Engine, kafka: Option<Kafka>) -> Fleet {
        let mut fleet =
            Fleet { scratch: Scratch::new(), engine, kafka, prefix: String::new(), environment: Vec::new() };
        fleet.set("LOGSTOP__OUTPUT", "log.ndjson");
        if let Some(kafka) = &fleet.kafka {
            let brokers = kafka.brokers().to_owned();
            let guarantee = if engine == Engine::ExactlyOnce { "exactly-once" } else { "at-least-once" };
            fleet.set("BUS", "kafka");
            fleet.set("KAFKA__BROKERS", brokers);
            fleet.set("KAFKA__GUARANTEE", guarantee);
            fleet.set("KAFKA__PARTITIONS", "2");
            fleet.set("REDIS__COUNTERS", "off");
            // A dead member is noticed soon, and a restarted one takes its place at once
            fleet.set("KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "3000");
            fleet.set("KAFKA__PROPERTIES__HEARTBEAT_INTERVAL_MS", "500");
        }
        fleet
    }

    /// What the topic is called here that metrobus calls `name`.
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// What METROBUS__… is set to, for the library in this process.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Sets METROBUS__`name` for all processes that are started from now on.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((format!("METROBUS__{name}"), value.into()));
    }

    pub fn metrobus(&self, arguments: &[&str]) -> Metrobus {
        let call = Metrobus::new().cwd(self.scratch.root()).args(arguments).deadline(DEADLINE);
        self.environment.iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    /// Starts a stop as the instance `instance`.
    pub fn start(&self, stop: &str, instance: &str) -> Process {
        self.metrobus(&[stop]).env("METROBUS__KAFKA__INSTANCE", instance).spawn()
    }

    /// Runs all stops until nothing is left.
    pub fn drain(&self, instance: &str) {
        let drain = self.metrobus(&["run", "--drain"]).env("METROBUS__KAFKA__INSTANCE", instance);
        drain.run().assert_code(0);
    }

    /// All records of a topic as `tail --json` tells them, in the order of each partition.
    pub fn tail(&self, topic: &str) -> Vec<Value> {
        self.metrobus(&["tail", topic, "-n", "100000000", "--json"]).run().assert_code(0).json_lines()
    }

    /// The values of a topic's records.
    pub fn values(&self, topic: &str) -> Vec<String> {
        let text = |record: &Value| record["value"].as_str().expect("a value that is text").to_owned();
        self.tail(topic).iter().map(text).collect()
    }
}
