//! What `/metrics` tells. docs/metrics.md has the same table, and a test holds the two together.
//!
//! Names follow the conventions of Prometheus (base units, `_total`) and, where they have a word for it, those of
//! OpenTelemetry for messaging: `messaging.client.consumed.messages` is [`CONSUMED`], `messaging.process.duration` is
//! [`PROCESS`].

use super::{
    Process,
    exposition::{Exposition, Metric},
};
use crate::{
    health::Phase,
    stats::{Buckets, DURATIONS, Stats},
    stop::Watched,
};

/// The metrics of a part of the process: a constant for each, and `METRICS`, all of them.
macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(const $constant: $crate::http::exposition::Metric = $crate::http::exposition::Metric {
            name: $name,
            kind: $crate::http::exposition::Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*
        /// All metrics, in the order in which they are told.
        #[cfg(test)]
        pub const METRICS: &[$crate::http::exposition::Metric] = &[$($constant),*];
    };
}
pub(crate) use metrics;

metrics! {
    BUILD = Gauge "metrobus_build_info" ["version"] "Always 1; which metrobus this is";
    READY = Gauge "metrobus_stop_ready" ["stop"] "1 while the stop has its subscription and all that it needs, else 0";
    CONSUMED = Counter "metrobus_consumed_messages_total" ["stop", "topic"] "Messages read from the topic of the stop";
    MESSAGES = Counter "metrobus_messages_total" ["stop", "verdict", "reason"]
        "What became of them: forwarded, finished, dropped or rejected; the last two with the reason";
    COPIED = Counter "metrobus_copied_messages_total" ["stop"] "Copies sent beside what was forwarded";
    RETRIED = Counter "metrobus_retried_messages_total" ["stop"] "Attempts at a message beyond its first";
    LAG = Gauge "metrobus_consumer_lag_messages" ["stop", "topic"] "Messages that wait for the stop, looked at each 5 s";
    BATCH = Histogram "metrobus_batch_messages" ["stop"] "Messages that were handled and settled at once";
    PROCESS = Histogram "metrobus_process_duration_seconds" ["stop"]
        "Time to handle such a batch and to write what comes of it";
    SETTLE = Histogram "metrobus_settle_duration_seconds" ["stop"]
        "Time for the bus to settle it; with Kafka at least once, to take it over";
    JOURNEY = Histogram "metrobus_journey_duration_seconds" ["stop"]
        "Age of the messages whose journeys ended at the stop, from the timestamp of their first record";
    ERRORS = Counter "metrobus_errors_total" ["stop", "part"]
        "Failed attempts to use the bus, or what the handler needs: cache, sink or handler";
    LOOKUPS = Counter "metrobus_cache_lookups_total" ["stop", "result"] "Keys looked up in the cache: hit or miss";
    CACHE_AGE = Gauge "metrobus_cache_age_seconds" ["stop"]
        "Time since the file of the cache was read; for those that are in files";
    SPANS = Counter "metrobus_spans_total" ["stop", "result"]
        "Spans of traces: exported, dropped where too many waited, or failed where the collector did not take them";
    COUNTER_ERRORS = Counter "metrobus_counter_errors_total" [] "Failed attempts to add to the counters in Redis";
}

/// The text of `/metrics`.
pub fn render(process: &Process) -> String {
    let all = process.stops.all();
    let stops: Vec<_> = all.iter().map(|stop| (stop, stop.stats(), stop.health())).collect();
    let mut out = Exposition::default();
    out.family(&BUILD);
    out.sample(&BUILD, &[env!("CARGO_PKG_VERSION")], 1);
    out.family(&READY);
    for (stop, _, health) in &stops {
        out.sample(&READY, &[stop.name()], u8::from(health.is_ready().is_ok()));
    }
    numbers(&mut out, &stops.iter().map(|(stop, stats, _)| (*stop, stats)).collect::<Vec<_>>());
    out.family(&LAG);
    for (stop, _, health) in stops.iter().filter(|(_, _, health)| health.phase == Phase::Running) {
        if let Some(lag) = health.lag {
            out.sample(&LAG, &[stop.name(), stop.topic().as_str()], lag);
        }
    }
    histograms(&mut out, &stops.iter().map(|(stop, stats, _)| (*stop, stats)).collect::<Vec<_>>());
    out.family(&ERRORS);
    for (stop, _, health) in &stops {
        for part in &health.parts {
            out.sample(&ERRORS, &[stop.name(), part.name], part.errors);
        }
    }
    caches(&mut out, &all);
    spans(&mut out, &all);
    if let Some(counters) = &process.counters {
        out.family(&COUNTER_ERRORS);
        out.sample(&COUNTER_ERRORS, &[], counters.count());
    }
    process.parts.iter().for_each(|part| part.tell(&mut out));
    out.into_text()
}

fn numbers(out: &mut Exposition, stops: &[(&Watched, &Stats)]) {
    out.family(&CONSUMED);
    for (stop, stats) in stops {
        out.sample(&CONSUMED, &[stop.name(), stop.topic().as_str()], stats.read);
    }
    out.family(&MESSAGES);
    for (stop, stats) in stops {
        out.sample(&MESSAGES, &[stop.name(), "forwarded", ""], stats.forwarded);
        out.sample(&MESSAGES, &[stop.name(), "finished", ""], stats.finished);
        for (verdict, reasons) in [("dropped", &stats.dropped), ("rejected", &stats.rejected)] {
            for (reason, count) in reasons {
                out.sample(&MESSAGES, &[stop.name(), verdict, reason], count);
            }
        }
    }
    out.family(&COPIED);
    for (stop, stats) in stops {
        out.sample(&COPIED, &[stop.name()], stats.copied);
    }
    out.family(&RETRIED);
    for (stop, stats) in stops {
        out.sample(&RETRIED, &[stop.name()], stats.retried);
    }
}

fn histograms(out: &mut Exposition, stops: &[(&Watched, &Stats)]) {
    type Of = fn(&Stats) -> Buckets;
    let all: [(&Metric, Of); 4] = [
        (&BATCH, |stats| stats.batches.clone()),
        (&PROCESS, |stats| stats.handling.clone()),
        (&SETTLE, |stats| stats.settling.clone()),
        (&JOURNEY, journeys),
    ];
    for (metric, buckets) in all {
        out.family(metric);
        for (stop, stats) in stops {
            out.histogram(metric, &[stop.name()], &buckets(stats));
        }
    }
}

/// The journeys in the buckets of durations. They are known to three digits, and so is their sum.
fn journeys(stats: &Stats) -> Buckets {
    let mut buckets = Buckets::new(DURATIONS);
    for step in stats.journeys.iter_recorded() {
        buckets.record_many(step.value_iterated_to() as f64 / 1e3, step.count_since_last_iteration());
    }
    buckets
}

fn caches(out: &mut Exposition, stops: &[Watched]) {
    let caches = || stops.iter().filter_map(|stop| Some((stop.name(), stop.cache()?)));
    out.family(&LOOKUPS);
    for (stop, counts) in caches() {
        out.sample(&LOOKUPS, &[stop, "hit"], counts.hits());
        out.sample(&LOOKUPS, &[stop, "miss"], counts.misses());
    }
    out.family(&CACHE_AGE);
    for (stop, read_at) in caches().filter_map(|(stop, counts)| Some((stop, counts.read_at.as_ref()?))) {
        out.sample(&CACHE_AGE, &[stop], read_at.age().as_secs_f64());
    }
}

fn spans(out: &mut Exposition, stops: &[Watched]) {
    out.family(&SPANS);
    for (stop, counts) in stops.iter().filter_map(|stop| Some((stop.name(), stop.spans()?))) {
        out.sample(&SPANS, &[stop, "exported"], counts.exported());
        out.sample(&SPANS, &[stop, "dropped"], counts.dropped());
        out.sample(&SPANS, &[stop, "failed"], counts.failed());
    }
}

#[cfg(test)]
mod tests;
