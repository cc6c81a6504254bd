//! How spans leave: a queue that nobody waits for, and a thread that sends what is in it by OTLP over HTTP.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use tracing::{info, warn};

use super::{Counts, MOST_WAITING};

/// How long the collector may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Spans of a request, at about half a kilobyte each; once as many wait it leaves, at the latest after [`LINGER`].
const REQUEST: usize = 1024;
const LINGER: Duration = Duration::from_millis(500);

/// How long the end waits for the last spans.
const LAST: Duration = Duration::from_secs(2);

/// Spans of one stop.
struct Lot {
    spans: Vec<SpanData>,
    counts: Arc<Counts>,
}

/// The queue, and the thread behind it.
pub(super) struct Export {
    /// Taken when the thread is to end.
    lots: Option<Sender<Lot>>,
    waiting: Arc<AtomicUsize>,
    /// Disconnected once the thread has ended. In a mutex so that the stops of one process can share this.
    ended: Mutex<Receiver<()>>,
}

impl Export {
    pub fn start(endpoint: &str, service: &str) -> anyhow::Result<Self> {
        crate::tls::use_ring();
        let base = endpoint.trim_end_matches('/').trim_end_matches("/v1/traces");
        let exporter = SpanExporter::builder().with_http();
        let exporter = exporter.with_endpoint(format!("{base}/v1/traces")).with_timeout(TIMEOUT);
        let mut exporter = exporter.build().with_context(|| format!("traces.endpoint = \"{endpoint}\""))?;
        let attributes = [
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ];
        let resource = Resource::builder_empty().with_service_name(service.to_owned()).with_attributes(attributes);
        exporter.set_resource(&resource.build());
        let (lots, queue) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut sending = Sending { exporter, queue, waiting: Arc::clone(&waiting), to: base.to_owned(), away: None };
        std::thread::Builder::new().name("traces".into()).spawn(move || {
            sending.run();
            drop(end);
        })?;
        Ok(Self { lots: Some(lots), waiting, ended: Mutex::new(ended) })
    }

    pub fn has_room_for(&self, spans: usize) -> bool {
        self.waiting.load(Ordering::Relaxed) + spans <= MOST_WAITING
    }

    /// Puts spans into the queue, as many as there is room for.
    pub fn offer(&self, mut spans: Vec<SpanData>, counts: &Arc<Counts>) {
        let all = spans.len();
        let before = self.waiting.fetch_add(all, Ordering::Relaxed);
        spans.truncate(MOST_WAITING.saturating_sub(before));
        let (fit, dropped) = (spans.len(), all - spans.len());
        let lot = Lot { spans, counts: Arc::clone(counts) };
        let sent = fit > 0 && self.lots.as_ref().is_some_and(|lots| lots.send(lot).is_ok());
        let lost = if sent { dropped } else { all };
        self.waiting.fetch_sub(lost, Ordering::Relaxed);
        counts.dropped.fetch_add(lost as u64, Ordering::Relaxed);
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        drop(self.lots.take());
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LAST) {
            warn!("the last spans of traces have not left");
        }
    }
}

/// The thread's part.
struct Sending {
    exporter: SpanExporter,
    queue: Receiver<Lot>,
    waiting: Arc<AtomicUsize>,
    /// What the collector is called in the log.
    to: String,
    /// Since when the collector takes nothing.
    away: Option<Instant>,
}

impl Sending {
    fn run(&mut self) {
        while let Ok(first) = self.queue.recv() {
            let mut lots = vec![first];
            let (mut spans, end) = (lots[0].spans.len(), Instant::now() + LINGER);
            while spans < REQUEST
                && let Ok(lot) = self.queue.recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                spans += lot.spans.len();
                lots.push(lot);
            }
            self.send(lots);
        }
    }

    fn send(&mut self, lots: Vec<Lot>) {
        let counts: Vec<_> = lots.iter().map(|lot| (Arc::clone(&lot.counts), lot.spans.len())).collect();
        let spans: Vec<_> = lots.into_iter().flat_map(|lot| lot.spans).collect();
        let all = spans.len();
        // With the blocking client it is done when it is first looked at
        let outcome = futures_executor::block_on(self.exporter.export(spans));
        self.waiting.fetch_sub(all, Ordering::Relaxed);
        for (counts, spans) in counts {
            let count = if outcome.is_ok() { &counts.exported } else { &counts.failed };
            count.fetch_add(spans as u64, Ordering::Relaxed);
        }
        match outcome {
            Ok(()) => {
                if let Some(since) = self.away.take() {
                    info!("the collector of traces at {} is back after {:.1?}", self.to, since.elapsed());
                }
            }
            Err(error) => {
                self.away.get_or_insert_with(Instant::now);
                warn!(spans = all, "spans are lost: the collector of traces at {}: {error}", self.to);
            }
        }
    }
}
