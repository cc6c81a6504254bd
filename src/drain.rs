//! Knowing when several stops of one process have nothing left between them.
//!
//! A stop that finds its topic empty may be handed more by its neighbour a moment later. So every batch that any of
//! them reads counts as activity, and so does the moment when all that came of it is on the bus; a stop reports idle
//! together with the count from *before* it looked. When all have looked in vain since the last activity, nothing is left.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared by the stops of one process; every stop holds a [`Member`].
#[derive(Clone, Default)]
pub struct Drain(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    activity: u64,
    /// Per member the activity at which it was last found idle; `None` where it is busy.
    idle_at: Vec<Option<u64>>,
}

/// The activity of a member that has left: it is idle from then on.
const LEFT: u64 = u64::MAX;

/// One stop's part in a [`Drain`]; dropping it is leaving, for good.
pub struct Member {
    drain: Drain,
    index: usize,
}

impl Drain {
    /// Adds a stop, busy at first. All members are added before any of them runs.
    pub fn join(&self) -> Member {
        let mut state = self.lock();
        state.idle_at.push(None);
        Member { drain: self.clone(), index: state.idle_at.len() - 1 }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Takes note that this member has work.
    pub fn active(&self) {
        let mut state = self.drain.lock();
        state.activity += 1;
        state.idle_at[self.index] = None;
    }

    /// The activity so far, to be read before looking whether anything is left.
    pub fn activity(&self) -> u64 {
        self.drain.lock().activity
    }

    /// Takes note that nothing was left for this member, looked at after `activity` was read, and that all it has made is
    /// on the bus; true where that holds for all members.
    pub fn idle(&self, activity: u64) -> bool {
        let mut state = self.drain.lock();
        let mut activity = activity;
        if state.idle_at[self.index].is_none() {
            // Who looked since this one began to work may have looked before anything came of it
            activity += u64::from(activity == state.activity);
            state.activity += 1;
        }
        state.idle_at[self.index] = Some(activity);
        state.idle_at.iter().all(|idle_at| matches!(idle_at, Some(at) if *at == state.activity || *at == LEFT))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut state = self.drain.lock();
        state.activity += 1;
        state.idle_at[self.index] = Some(LEFT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_to_look_in_vain_since_the_last_activity() {
        let drain = Drain::default();
        let (a, b) = (drain.join(), drain.join());
        assert!(!a.idle(a.activity()), "b has not looked yet");
        a.active();
        let before = b.activity();
        a.active();
        assert!(!b.idle(before), "a was active after b began to look");
        assert!(!a.idle(a.activity()));
        assert!(b.idle(b.activity()));
        assert!(a.idle(a.activity()));
    }

    #[test]
    fn what_is_published_late_is_looked_for() {
        let drain = Drain::default();
        let (a, b) = (drain.join(), drain.join());
        a.idle(a.activity());
        b.idle(b.activity());
        a.active();
        // b looks while a has nothing on the bus yet; then a has, and is done
        b.idle(b.activity());
        assert!(!a.idle(a.activity()), "b has to look again");
        b.active();
        assert!(!a.idle(a.activity()));
        assert!(!b.idle(b.activity()));
        assert!(a.idle(a.activity()));
    }

    #[test]
    fn who_has_left_is_not_waited_for() {
        let drain = Drain::default();
        let (a, b) = (drain.join(), drain.join());
        let before = a.activity();
        drop(b);
        assert!(!a.idle(before), "b may have sent something before it left");
        assert!(a.idle(a.activity()));
    }
}
