//! How many a second, of late.

/// Seconds that a rate is of; the one that has begun counts as far as it has come.
const SECONDS: u64 = 5;

/// A count, and what it grew by in the last seconds.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    pub count: u64,
    /// The second that was counted last.
    second: u64,
    /// By second, of those up to that one.
    seconds: [u64; SECONDS as usize],
}

impl Rate {
    /// Adds `n` in the second `second` (of any clock that does not go back).
    pub fn add(&mut self, n: u64, second: u64) {
        self.count += n;
        if second > self.second {
            let passed = (second - self.second).min(SECONDS);
            for past in 0..passed {
                self.seconds[((second - past) % SECONDS) as usize] = 0;
            }
            self.second = second;
        }
        if self.second - second.min(self.second) < SECONDS {
            self.seconds[(second % SECONDS) as usize] += n;
        }
    }

    /// Each second, at `now` (in seconds, by the same clock).
    pub fn per_second(&self, now: f64) -> f64 {
        let second = now.max(0.0) as u64;
        let first = (second + 1).saturating_sub(SECONDS);
        let counted = (self.second + 1).saturating_sub(SECONDS)..=self.second;
        let sum: u64 = counted
            .filter(|counted| *counted >= first && *counted <= second)
            .map(|counted| self.seconds[(counted % SECONDS) as usize])
            .sum();
        sum as f64 / ((SECONDS - 1) as f64 + now.fract())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(rate: &Rate, now: f64) -> f64 {
        (rate.per_second(now) * 100.0).round() / 100.0
    }

    #[test]
    fn a_steady_flow_has_its_rate_at_any_moment() {
        let mut rate = Rate::default();
        for tenth in 0..200_u64 {
            rate.add(10, 1000 + tenth / 10);
        }
        assert_eq!(rounded(&rate, 1020.0), 100.0 * 4.0 / 4.0);
        assert_eq!(rate.count, 2000);
        rate.add(50, 1020);
        assert_eq!(rounded(&rate, 1020.5), 100.0);
    }

    #[test]
    fn it_ends_with_the_flow() {
        let mut rate = Rate::default();
        rate.add(100, 10);
        assert!(rate.per_second(10.5) > 20.0 && rate.per_second(14.9) > 20.0);
        assert_eq!(rounded(&rate, 15.0), 0.0);
        rate.add(7, 100);
        assert_eq!(rounded(&rate, 100.0), 1.75);
    }

    #[test]
    fn what_comes_late_counts_where_it_belongs() {
        let mut rate = Rate::default();
        rate.add(1, 100);
        rate.add(8, 98);
        rate.add(1000, 90);
        assert_eq!((rate.count, rounded(&rate, 101.0)), (1009, 2.25));
    }
}
