//! A fault that repeats does not fill the log: of one place in the code, each fault is told once in ten seconds, and no
//! more than twenty different ones. The next line that is told says how many were left out before it.
//!
//! Which fault a line is about, its text tells, and the fields `stop`, `topic`, `part` and `reason`: not which message it
//! happened to. Lines below a warning are all told.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use foldhash::fast::FixedState;
use tracing::{
    Event, Level, Subscriber,
    callsite::Identifier,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Until a fault is told again.
const WINDOW: Duration = Duration::from_secs(10);

/// Different faults of one place in the code that are told in that time.
const FAULTS: usize = 20;

/// The fields that tell faults apart.
const APART: [&str; 5] = ["message", "stop", "topic", "part", "reason"];

/// What was told lately, by the place in the code that told it.
#[derive(Default)]
pub(super) struct Limit(Mutex<HashMap<Identifier, Lately>>);

struct Lately {
    since: Instant,
    faults: HashSet<u64>,
    left_out: u64,
}

impl Limit {
    /// Whether a fault is to be told `now`, and then how many were left out since one of its place was told.
    fn admits(&self, place: Identifier, fault: u64, now: Instant) -> Option<u64> {
        let mut places = self.lock();
        let fresh = || Lately { since: now, faults: HashSet::new(), left_out: 0 };
        let lately = places.entry(place).or_insert_with(fresh);
        if now.saturating_duration_since(lately.since) >= WINDOW {
            *lately = Lately { left_out: lately.left_out, ..fresh() };
        }
        if lately.faults.contains(&fault) || lately.faults.len() >= FAULTS {
            lately.left_out += 1;
            return None;
        }
        lately.faults.insert(fault);
        Some(std::mem::take(&mut lately.left_out))
    }

    /// How many were left out and not told of yet; from now on they count as told.
    pub(super) fn left_out(&self) -> u64 {
        self.lock().values_mut().map(|lately| std::mem::take(&mut lately.left_out)).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Lately>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds to a line how many were left out before it.
type Append = fn(&mut String, u64);

pub(super) fn append_text(line: &mut String, left_out: u64) {
    line.push_str(&format!(" left_out={left_out}"));
}

pub(super) fn append_json(line: &mut String, left_out: u64) {
    if line.pop() == Some('}') {
        line.push_str(&format!(",\"left_out\":{left_out}}}"));
    }
}

/// Lines as `format` writes them, those left out that [`Limit`] does not admit.
pub(super) struct Limited<F> {
    format: F,
    limit: Arc<Limit>,
    append: Append,
}

impl<F> Limited<F> {
    pub fn new(format: F, limit: Arc<Limit>, append: Append) -> Self {
        Self { format, limit, append }
    }
}

impl<S, N, F> FormatEvent<S, N> for Limited<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if *event.metadata().level() > Level::WARN {
            return self.format.format_event(context, writer, event);
        }
        let mut fault = Fault(FixedState::default().build_hasher());
        event.record(&mut fault);
        let admitted = self.limit.admits(event.metadata().callsite(), fault.0.finish(), Instant::now());
        let Some(left_out) = admitted else { return Ok(()) };
        if left_out == 0 {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        line.truncate(line.trim_end().len());
        (self.append)(&mut line, left_out);
        writeln!(writer, "{line}")
    }
}

/// A hash of what tells a fault from others.
struct Fault<H>(H);

impl<H: Hasher> Visit for Fault<H> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if APART.contains(&field.name()) {
            (field.name(), value).hash(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if APART.contains(&field.name()) {
            self.record_str(field, &format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::{info, warn};
    use tracing_subscriber::fmt::format;

    use super::*;
    use crate::log::lines::Lines;

    fn place() -> Identifier {
        struct Place;
        static PLACE: Place = Place;
        impl tracing::Callsite for Place {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &tracing::Metadata<'_> {
                unreachable!("nobody asks")
            }
        }
        Identifier(&PLACE)
    }

    #[test]
    fn a_fault_is_told_once_in_a_window_and_then_with_how_many_were_left_out() {
        let (limit, start) = (Limit::default(), Instant::now());
        let admits = |fault, after| limit.admits(place(), fault, start + Duration::from_millis(after));
        assert_eq!(admits(1, 0), Some(0));
        assert_eq!(admits(1, 10), None);
        assert_eq!(admits(2, 20), Some(1), "another fault is told at once");
        assert_eq!((admits(1, 9_999), admits(2, 9_999)), (None, None));
        assert_eq!(admits(1, 10_000), Some(2));
        assert_eq!((admits(1, 10_001), limit.left_out(), limit.left_out()), (None, 1, 0));
    }

    #[test]
    fn different_faults_of_one_place_are_bounded_too() {
        let (limit, now) = (Limit::default(), Instant::now());
        let told = (0..1000).filter(|fault| limit.admits(place(), *fault, now).is_some()).count();
        assert_eq!((told, limit.left_out()), (FAULTS, 980));
    }

    /// Three messages of one fault, one of another, and as often something that is no fault.
    fn tell(json: bool) -> Vec<String> {
        let (lines, limit) = (Lines::default(), Arc::new(Limit::default()));
        let log = tracing_subscriber::fmt().with_writer(lines.clone());
        let told = || {
            for (id, reason) in [(1, "a"), (2, "a"), (3, "a"), (4, "b")] {
                warn!(reason, id, "rejected");
                info!("fine");
            }
        };
        match json {
            true => {
                let format = Limited::new(format().json().flatten_event(true), limit, append_json);
                let log = log.fmt_fields(format::JsonFields::new()).event_format(format).finish();
                tracing::subscriber::with_default(log, told);
            }
            false => {
                let format = Limited::new(format().with_ansi(false).with_target(false), limit, append_text);
                tracing::subscriber::with_default(log.with_ansi(false).event_format(format).finish(), told);
            }
        }
        let text = lines.text();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_count_stands_in_the_next_line_of_its_place() {
        let lines = tell(false);
        assert_eq!(lines.iter().filter(|line| line.ends_with("fine")).count(), 4);
        let told: Vec<_> = lines.iter().filter_map(|line| line.split_once("rejected ")).map(|(_, it)| it).collect();
        assert_eq!(told, ["reason=\"a\" id=1", "reason=\"b\" id=4 left_out=2"]);
        let lines: Vec<serde_json::Value> = tell(true).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = lines.iter().filter(|line| line["message"] == "rejected").collect();
        assert_eq!((told.len(), &told[1]["id"], &told[1]["left_out"]), (2, &4.into(), &2.into()));
        assert!(told[0].get("left_out").is_none() && told[1]["timestamp"].is_string());
    }
}
