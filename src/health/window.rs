//! Successes and failures of the last minute.

use std::time::Duration;

/// How far back is looked.
pub const WINDOW: Duration = Duration::from_secs(60);

const SECONDS: usize = WINDOW.as_secs() as usize;

/// Counts by the second; what is older than [`WINDOW`] is forgotten. Its clock is whoever uses it.
#[derive(Clone, Debug)]
pub struct Window([Second; SECONDS]);

/// The counts of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    at: u64,
    success: u64,
    fail: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self([Second::default(); SECONDS])
    }
}

impl Window {
    /// Counts at the time `now`, which never goes back.
    pub fn add(&mut self, now: Duration, success: u64, fail: u64) {
        let at = now.as_secs();
        let second = &mut self.0[at as usize % SECONDS];
        if second.at != at {
            *second = Second { at, success: 0, fail: 0 };
        }
        second.success += success;
        second.fail += fail;
    }

    /// Successes and failures of the last minute before `now`.
    pub fn sum(&self, now: Duration) -> (u64, u64) {
        let recent = self.0.iter().filter(|second| second.at + SECONDS as u64 > now.as_secs());
        recent.fold((0, 0), |(success, fail), second| (success + second.success, fail + second.fail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn what_is_a_minute_old_is_forgotten() {
        let mut window = Window::default();
        assert_eq!(window.sum(at(0.0)), (0, 0));
        window.add(at(0.5), 3, 1);
        window.add(at(0.9), 1, 0);
        window.add(at(30.0), 10, 0);
        assert_eq!(window.sum(at(30.0)), (14, 1));
        assert_eq!(window.sum(at(59.9)), (14, 1));
        assert_eq!(window.sum(at(60.0)), (10, 0));
        assert_eq!(window.sum(at(89.9)), (10, 0));
        assert_eq!(window.sum(at(90.0)), (0, 0));
    }

    #[test]
    fn a_second_takes_the_place_of_the_one_a_minute_before() {
        let mut window = Window::default();
        for second in 0..200 {
            window.add(at(f64::from(second)), 1, 2);
        }
        assert_eq!(window.sum(at(199.0)), (60, 120));
        window.add(at(10_000.0), 5, 0);
        assert_eq!(window.sum(at(10_000.0)), (5, 0));
    }
}
