//! The span of a hop, by the conventions of OpenTelemetry for messaging.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{
    Counts, Traces,
    context::{self, Received},
};
use crate::{
    bus::{Outbox, Record},
    dead_letter::DeadLetters,
    journal::{Outcome, What},
    log::Redaction,
};

/// The spans of one stop.
pub(crate) struct Tracer {
    traces: Traces,
    counts: Arc<Counts>,
    name: String,
    /// Whether journeys begin at the stop.
    beginning: bool,
}

/// The spans of the range of a batch that is being judged.
#[derive(Default)]
pub(crate) struct Spans {
    begun: Option<SystemTime>,
    spans: Vec<SpanData>,
    /// Those that there is no room for.
    dropped: u64,
}

/// A hop, as a span tells of it.
pub(crate) struct Hop<'a> {
    /// The input of the batch that it is of.
    pub input: usize,
    pub record: &'a Record<'a>,
    pub id: Option<Cow<'a, str>>,
    pub what: &'a What<'a>,
}

impl Tracer {
    pub fn new(traces: &Traces, here: &DeadLetters, beginning: bool) -> Self {
        let name = format!("process {}", here.topic);
        Self { traces: traces.clone(), counts: Arc::default(), name, beginning }
    }

    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Begins a range of a batch, in the memory of the one before.
    pub fn begin(&self, spans: &mut Spans) {
        spans.begun = Some(SystemTime::now());
        spans.spans.clear();
        spans.dropped = 0;
    }

    /// Makes the span of a hop, where it is to have one, and names it as the parent in all that the hop has put into
    /// `outbox`.
    pub fn hop(
        &self,
        hop: &Hop<'_>,
        here: &DeadLetters,
        redaction: &Redaction,
        outbox: &mut Outbox,
        spans: &mut Spans,
    ) {
        let (received, passes) = match context::read(&hop.record.headers) {
            Received::Context(received) if received.is_sampled() => (received, true),
            Received::Context(_) => return,
            Received::Nothing if !self.beginning => return,
            Received::Nothing | Received::Broken if rand::random::<f64>() >= self.traces.ratio => return,
            Received::Nothing | Received::Broken => (SpanContext::NONE, false),
        };
        let trace = if passes { received.trace_id() } else { TraceId::from(rand::random_range(1..=u128::MAX)) };
        let flags = if passes { received.trace_flags() } else { TraceFlags::SAMPLED };
        let span = SpanId::from(rand::random_range(1..=u64::MAX));
        let state = if passes { received.trace_state().clone() } else { TraceState::NONE };
        let context = SpanContext::new(trace, span, flags, false, state);
        outbox.rewrite_headers(hop.input, hop.record.headers, |headers, out| {
            context::write(headers, &context, passes, out);
        });
        if !self.traces.export.has_room_for(spans.spans.len() + 1) {
            spans.dropped += 1;
            return;
        }
        let begun = spans.begun.unwrap_or_else(SystemTime::now);
        spans.spans.push(SpanData {
            span_context: context,
            parent_span_id: received.span_id(),
            parent_span_is_remote: passes,
            span_kind: SpanKind::Consumer,
            name: self.name.clone().into(),
            start_time: begun,
            end_time: begun,
            attributes: self.attributes(hop, here, redaction),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match (hop.what.outcome, hop.what.reason) {
                (Outcome::Rejected, reason) => Status::error(redaction.reason(reason.unwrap_or_default()).to_owned()),
                _ => Status::Unset,
            },
            instrumentation_scope: InstrumentationScope::builder("metrobus").build(),
        });
    }

    fn attributes(&self, hop: &Hop<'_>, here: &DeadLetters, redaction: &Redaction) -> Vec<KeyValue> {
        let Hop { record, what, .. } = hop;
        let text = |name: &'static str, value: &str| KeyValue::new(name, value.to_owned());
        let offset = if self.traces.system == "kafka" { "messaging.kafka.offset" } else { "metrobus.offset" };
        let mut attributes = vec![
            KeyValue::new("messaging.system", self.traces.system),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.operation.type", "process"),
            text("messaging.destination.name", here.topic.as_str()),
            KeyValue::new("messaging.destination.partition.id", record.partition.to_string()),
            KeyValue::new(offset, record.offset),
            text("metrobus.stop", &here.stop),
            KeyValue::new("metrobus.verdict", what.outcome.name()),
        ];
        if let Some(group) = &self.traces.group {
            attributes.push(text("messaging.consumer.group.name", group));
        }
        if let Some(id) = &hop.id {
            attributes.push(text("messaging.message.id", id));
        }
        if let Some(reason) = what.reason {
            attributes.push(text("metrobus.reason", redaction.reason(reason)));
        }
        if let Some(next) = what.next {
            attributes.push(text("metrobus.next", next));
        }
        if what.attempts > 1 {
            attributes.push(KeyValue::new("metrobus.attempts", i64::from(what.attempts)));
        }
        attributes
    }

    /// Hands over the spans of a range, once it is settled.
    pub fn settled(&self, spans: &mut Spans) {
        self.counts.dropped.fetch_add(std::mem::take(&mut spans.dropped), Ordering::Relaxed);
        if spans.spans.is_empty() {
            return;
        }
        let now = SystemTime::now();
        spans.spans.iter_mut().for_each(|span| span.end_time = now);
        self.traces.export.offer(std::mem::take(&mut spans.spans), &self.counts);
    }
}
