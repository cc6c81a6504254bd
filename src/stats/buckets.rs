//! Histograms with fixed bounds, as Prometheus has them.

/// From a tenth of a millisecond, which a batch takes that is in the processor's caches, to a minute, in seconds.
pub const DURATIONS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Messages of a batch.
pub const SIZES: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];

/// How often a value fell between which bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    bounds: &'static [f64],
    /// One for each bound, and one for what is beyond the last.
    counts: Vec<u64>,
    sum: f64,
}

impl Buckets {
    /// Bounds ascend; a value that is equal to one counts below it.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    pub fn record(&mut self, value: f64) {
        self.record_many(value, 1);
    }

    /// Records the same value `count` times.
    pub fn record_many(&mut self, value: f64, count: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place] += count;
        self.sum += value * count as f64;
    }

    /// Each bound with the number of values up to it; the last one is infinity, with the number of all.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut below = 0;
        bounds.zip(&self.counts).map(move |(bound, count)| {
            below += count;
            (bound, below)
        })
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_from_the_first_bound_that_it_does_not_pass() {
        let mut buckets = Buckets::new(&[1.0, 10.0]);
        [0.5, 1.0, 1.5, 10.0].into_iter().for_each(|value| buckets.record(value));
        buckets.record_many(11.0, 3);
        assert_eq!(buckets.cumulative().collect::<Vec<_>>(), [(1.0, 2), (10.0, 4), (f64::INFINITY, 7)]);
        assert_eq!((buckets.count(), buckets.sum()), (7, 46.0));
    }
}
