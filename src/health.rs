//! How a stop is: whether it runs, has what it needs, and does well.
//!
//! Its loop writes that down in [`Health`], once a turn; whoever asks takes a [`Snapshot`], and [`check()`] judges those of
//! all stops of a process by the rules of BarterDude's health check.

use std::{
    borrow::Cow,
    fmt::Display,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

mod check;
mod window;

pub use check::{Report, check};
pub use window::{WINDOW, Window};

/// The health of one stop. Cheap to clone, and all clones are the same.
#[derive(Clone, Debug)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Times below count from here.
    begun: Instant,
    /// When the loop turned last, in milliseconds.
    turned: AtomicU64,
    /// Somebody will ask, so that what costs something is worth to be found out.
    watched: AtomicBool,
    /// Some part is in trouble, or the handler says that it is ill. While this is not so, a turn takes no lock.
    trouble: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    parts: [Part; 2],
    ill: Option<Cow<'static, str>>,
    window: Window,
    lag: Option<u64>,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for what it needs, and for its subscription.
    Starting,
    Running,
    Ended,
}

/// What a stop depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Bus,
    /// What its handler needs.
    Handler,
}

/// Something that a stop depends on, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `bus`, or what the handler needs: `cache`, `sink`, else `handler`.
    pub name: &'static str,
    /// Why the last attempt to use it failed, where it did.
    pub trouble: Option<String>,
    /// Attempts that failed since the last one that succeeded.
    pub failures: u32,
    /// Attempts that failed since the start.
    pub errors: u64,
}

impl Part {
    fn new(name: &'static str) -> Self {
        Self { name, trouble: None, failures: 0, errors: 0 }
    }
}

/// The health of a stop at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub stop: String,
    pub phase: Phase,
    /// Since its loop turned.
    pub idle: Duration,
    pub parts: Vec<Part>,
    /// What its handler says it ails from, see [`Handler::ill`](crate::Handler::ill).
    pub ill: Option<String>,
    /// Messages of the last minute that were forwarded, finished or dropped.
    pub success: u64,
    /// Messages of the last minute that were rejected, and attempts that are to be repeated.
    pub fail: u64,
    /// Records that were waiting when that was looked at last; `None` where the bus did not say.
    pub lag: Option<u64>,
}

impl Snapshot {
    /// Whether the loop has turned within `stall`, or has come to its end.
    pub fn is_live(&self, stall: Duration) -> bool {
        self.phase == Phase::Ended || self.idle < stall
    }

    /// Whether it has its subscription and what it needs; else what it waits for.
    pub fn is_ready(&self) -> Result<(), String> {
        if let Some((part, trouble)) = self.parts.iter().find_map(|part| Some((part.name, part.trouble.as_ref()?))) {
            return Err(format!("{}: waits for {part}: {trouble}", self.stop));
        }
        match self.phase {
            Phase::Running => Ok(()),
            Phase::Starting => Err(format!("{}: is starting", self.stop)),
            Phase::Ended => Err(format!("{}: has ended", self.stop)),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        let state = State {
            phase: Phase::Starting,
            parts: [Part::new("bus"), Part::new("handler")],
            ill: None,
            window: Window::default(),
            lag: None,
        };
        Self(Arc::new(Shared {
            begun: Instant::now(),
            turned: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            trouble: AtomicBool::new(false),
            state: Mutex::new(state),
        }))
    }
}

impl Health {
    /// How it is now; `stop` is its name.
    pub fn snapshot(&self, stop: &str) -> Snapshot {
        self.snapshot_at(self.now(), stop)
    }

    fn snapshot_at(&self, now: Duration, stop: &str) -> Snapshot {
        let state = self.lock();
        let (success, fail) = state.window.sum(now);
        let turned = Duration::from_millis(self.0.turned.load(Ordering::Relaxed));
        Snapshot {
            stop: stop.to_owned(),
            phase: state.phase,
            idle: now.saturating_sub(turned),
            parts: state.parts.to_vec(),
            ill: state.ill.as_deref().map(str::to_owned),
            success,
            fail,
            lag: state.lag,
        }
    }

    /// Calls what the handler needs `name`.
    pub(crate) fn name_needs(&self, name: &'static str) {
        self.lock().parts[Needs::Handler as usize].name = name;
    }

    /// From now on somebody asks.
    pub(crate) fn watch(&self) {
        self.0.watched.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.0.watched.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.turn();
        self.lock().phase = phase;
    }

    /// The loop turns.
    pub(crate) fn turn(&self) {
        self.turn_at(self.now());
    }

    fn turn_at(&self, now: Duration) {
        self.0.turned.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    /// Takes note of what came of an attempt to use something, and gives it back.
    pub(crate) fn tried<T, E: Display>(&self, needs: Needs, outcome: Result<T, E>) -> Result<T, E> {
        self.turn();
        if let Err(error) = &outcome {
            let mut state = self.lock();
            let part = &mut state.parts[needs as usize];
            part.trouble = Some(format!("{error:#}"));
            part.failures = part.failures.saturating_add(1);
            part.errors += 1;
            self.0.trouble.store(true, Ordering::Relaxed);
        } else if self.in_trouble() {
            let mut state = self.lock();
            let part = &mut state.parts[needs as usize];
            (part.trouble, part.failures) = (None, 0);
            self.look_again(&state);
        }
        outcome
    }

    /// Whether the part was found wanting last.
    pub(crate) fn lacks(&self, needs: Needs) -> bool {
        self.in_trouble() && self.lock().parts[needs as usize].trouble.is_some()
    }

    /// Takes note of what the handler says it ails from.
    pub(crate) fn ails(&self, ill: Option<Cow<'static, str>>) {
        if ill.is_some() || self.in_trouble() {
            let mut state = self.lock();
            state.ill = ill;
            self.look_again(&state);
        }
    }

    pub(crate) fn count(&self, success: u64, fail: u64) {
        let now = self.now();
        self.lock().window.add(now, success, fail);
    }

    pub(crate) fn lag(&self, lag: Option<u64>) {
        self.lock().lag = lag;
    }

    fn in_trouble(&self) -> bool {
        self.0.trouble.load(Ordering::Relaxed)
    }

    fn look_again(&self, state: &State) {
        let trouble = state.ill.is_some() || state.parts.iter().any(|part| part.trouble.is_some());
        self.0.trouble.store(trouble, Ordering::Relaxed);
    }

    fn now(&self) -> Duration {
        self.0.begun.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_stop_lives_while_its_loop_turns() {
        let health = Health::default();
        health.turn_at(at(100));
        assert!(health.snapshot_at(at(159), "a").is_live(STALL));
        assert!(!health.snapshot_at(at(160), "a").is_live(STALL));
        health.turn_at(at(160));
        assert!(health.snapshot_at(at(161), "a").is_live(STALL));
        health.enter(Phase::Ended);
        assert!(health.snapshot_at(at(1000), "a").is_live(STALL), "who has ended hangs in nothing");
    }

    #[test]
    fn a_stop_in_a_back_off_lives_and_is_not_ready() {
        let health = Health::default();
        health.name_needs("cache");
        assert_eq!(health.snapshot("a").is_ready(), Err("a: is starting".into()));
        assert!(health.tried(Needs::Handler, Err::<(), _>("Redis is away")).is_err());
        let snapshot = health.snapshot("a");
        assert!(snapshot.is_live(STALL));
        assert_eq!(snapshot.is_ready(), Err("a: waits for cache: Redis is away".into()));
        assert!(health.lacks(Needs::Handler) && !health.lacks(Needs::Bus));
        health.enter(Phase::Running);
        assert!(health.snapshot("a").is_ready().is_err());
        assert_eq!(health.tried(Needs::Bus, Ok::<_, String>(7)), Ok(7));
        assert!(health.snapshot("a").is_ready().is_err(), "the bus is not what it waits for");
        let _ = health.tried(Needs::Handler, Ok::<_, String>(()));
        assert_eq!(health.snapshot("a").is_ready(), Ok(()));
        let part = Part { name: "cache", trouble: None, failures: 0, errors: 1 };
        assert_eq!(health.snapshot("a").parts[1], part);
        health.enter(Phase::Ended);
        assert_eq!(health.snapshot("a").is_ready(), Err("a: has ended".into()));
    }

    #[test]
    fn a_handler_is_ill_until_it_says_nothing() {
        let health = Health::default();
        health.ails(Some("no paper".into()));
        assert_eq!(health.snapshot("a").ill.as_deref(), Some("no paper"));
        let _ = health.tried(Needs::Bus, Ok::<_, String>(()));
        assert_eq!(health.snapshot("a").ill.as_deref(), Some("no paper"));
        health.ails(None);
        assert_eq!(health.snapshot("a").ill, None);
        assert!(!health.in_trouble());
    }
}
