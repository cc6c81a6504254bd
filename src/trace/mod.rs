//! Traces: where they are on, each hop of a message is a span, and what it sends on names that span as its parent.
//!
//! A message carries its place in a trace in the record header `traceparent`, as W3C Trace Context has it, with
//! `tracestate` beside it. One that arrives without is given a trace where journeys begin, as many of them as `traces.ratio`
//! says; one whose header is broken begins a new trace wherever that is. Every other header passes through, and a message
//! whose trace is not sampled does as it is.
//!
//! Spans leave in a thread of their own, to a collector by OTLP over HTTP. No stop waits for it: where more spans wait than
//! [`MOST_WAITING`], those to come are dropped, and counted.
//!
//! Sources: <https://www.w3.org/TR/trace-context/>, <https://opentelemetry.io/docs/specs/semconv/messaging/>.

mod context;
mod export;
mod span;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde::Deserialize;

pub(crate) use span::{Hop, Spans, Tracer};

use crate::config::{BusKind, Config};
use export::Export;

/// Spans that wait to leave.
pub const MOST_WAITING: usize = 16_384;

/// `[traces]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Options {
    /// The address of a collector, without a path or with that of its traces; `None` where there are no traces.
    #[serde(deserialize_with = "crate::config::optional")]
    pub endpoint: Option<String>,
    /// Share of the journeys without a trace that are given one, 0 to 1.
    pub ratio: f64,
    /// What the collector is to call these processes.
    pub service: String,
}

/// The traces of a process. The last spans leave when this and all that it was given to have been dropped, for two seconds
/// at most.
#[derive(Clone)]
pub struct Traces {
    export: Arc<Export>,
    ratio: f64,
    system: &'static str,
    /// The consumer group, where the bus is one that others know.
    group: Option<Arc<str>>,
}

impl Traces {
    /// Starts the thread from which spans leave; `None` where traces are off. Does not reach for the collector.
    pub fn start(config: &Config) -> anyhow::Result<Option<Self>> {
        let options = &config.traces;
        let Some(endpoint) = &options.endpoint else { return Ok(None) };
        let export = Arc::new(Export::start(endpoint, &options.service)?);
        let (system, group) = match config.bus {
            BusKind::Kafka => ("kafka", Some(config.kafka.group.as_str().into())),
            BusKind::Sqlite => ("sqlite", None),
        };
        Ok(Some(Self { export, ratio: options.ratio, system, group }))
    }
}

/// What became of the spans of a stop.
#[derive(Debug, Default)]
pub struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    /// Spans that the collector has taken.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }

    /// Spans that there was no room for.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Spans that the collector did not take, or was not there for.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}
