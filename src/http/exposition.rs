//! The text format of Prometheus, version 0.0.4.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write};

use crate::stats::Buckets;

/// The type of what this module writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric: its name, type, labels and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// The text, as it grows: a [`Exposition::family`], then its samples, then the next one.
#[derive(Default)]
pub struct Exposition(String);

impl Exposition {
    pub fn family(&mut self, metric: &Metric) {
        let Metric { name, kind, help, .. } = metric;
        self.line(format_args!("# HELP {name} {}", help.replace('\\', "\\\\").replace('\n', "\\n")));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// A sample with the values of the metric's labels; a label whose value is "" is left out, which means the same.
    pub fn sample(&mut self, metric: &Metric, values: &[&str], sample: impl Display) {
        let labels = labels(metric, values, None);
        self.line(format_args!("{}{labels} {sample}", metric.name));
    }

    /// The samples of a histogram.
    pub fn histogram(&mut self, metric: &Metric, values: &[&str], buckets: &Buckets) {
        for (bound, count) in buckets.cumulative() {
            let bound = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
            let labels = labels(metric, values, Some(&bound));
            self.line(format_args!("{}_bucket{labels} {count}", metric.name));
        }
        let labels = labels(metric, values, None);
        self.line(format_args!("{}_sum{labels} {}", metric.name, buckets.sum()));
        self.line(format_args!("{}_count{labels} {}", metric.name, buckets.count()));
    }

    pub fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string takes whatever is written to it
        let _ = writeln!(self.0, "{line}");
    }
}

/// `{stop="a",reason="b"}`, or nothing; `le` is the bound of a histogram's bucket.
fn labels(metric: &Metric, values: &[&str], le: Option<&str>) -> String {
    let named = metric.labels.iter().copied().zip(values.iter().copied()).chain(le.map(|bound| ("le", bound)));
    let pairs: Vec<_> = named
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_prometheus_reads_it() {
        let metric = Metric { name: "a_total", kind: Kind::Counter, labels: &["stop", "reason"], help: "one\\\ntwo" };
        let mut text = Exposition::default();
        text.family(&metric);
        text.sample(&metric, &["x", "say \"no\" \\\n"], 5);
        text.sample(&metric, &["x", ""], 0.5);
        text.sample(&metric, &["", ""], 7);
        let expected = "# HELP a_total one\\\\\\ntwo\n# TYPE a_total counter\n\
                        a_total{stop=\"x\",reason=\"say \\\"no\\\" \\\\\\n\"} 5\na_total{stop=\"x\"} 0.5\na_total 7\n";
        assert_eq!(text.into_text(), expected);
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_all() {
        let metric = Metric { name: "a_seconds", kind: Kind::Histogram, labels: &["stop"], help: "time" };
        let mut buckets = Buckets::new(&[0.0001, 1.0]);
        [0.0, 0.5, 2.0].into_iter().for_each(|value| buckets.record(value));
        let mut text = Exposition::default();
        text.histogram(&metric, &["x"], &buckets);
        let expected = "a_seconds_bucket{stop=\"x\",le=\"0.0001\"} 1\na_seconds_bucket{stop=\"x\",le=\"1\"} 2\n\
                        a_seconds_bucket{stop=\"x\",le=\"+Inf\"} 3\na_seconds_sum{stop=\"x\"} 2.5\n\
                        a_seconds_count{stop=\"x\"} 3\n";
        assert_eq!(text.into_text(), expected);
    }
}
