//! Counters in Redis for others to look at: how many messages each topic's stop has read.
//!
//! Advisory, unlike everything on the bus. Counts are added by a thread of their own, so that Redis being slow or away
//! costs a warning and never a message. What could not be added is kept and added later; what is pending when the
//! process dies is lost, and where the connection breaks between a command and its answer, the counts of that command
//! may be added twice.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use redis::Pipeline;
use tracing::{info, warn};

use super::redis::Server;

/// The hash in Redis: topic to count.
const HASH: &str = "counter";

/// Between two attempts while Redis is away.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the end waits for the last counts.
const LAST: Duration = Duration::from_secs(1);

/// Adds up counts by topic, and adds them to the hash `counter` in Redis in the background.
pub struct Counters {
    shared: Arc<Shared>,
    /// Disconnected once the thread has ended. In a mutex so that the stops of one process can share the counters.
    ended: Mutex<mpsc::Receiver<()>>,
}

/// How often counts could not be added. Keeps none of the [`Counters`] from their end.
pub struct CounterErrors(Arc<Shared>);

impl CounterErrors {
    pub fn count(&self) -> u64 {
        self.0.errors.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// Attempts that failed.
    errors: AtomicU64,
    changed: Condvar,
}

#[derive(Default)]
struct Pending {
    counts: HashMap<String, u64>,
    /// Sum of the counts that are on their way to Redis.
    sending: u64,
    closing: bool,
}

impl Counters {
    /// Starts the thread, which connects when there is something to add. `timeout` is for connecting and for each
    /// answer. [`Misconfigured`](crate::error::Misconfigured) where `url` is none.
    pub fn new(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        let server = Server::new(url, timeout.min(LAST))?;
        let shared = Arc::new(Shared::default());
        let (end, ended) = mpsc::channel();
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("counters".into()).spawn(move || {
            theirs.run(server);
            drop(end);
        })?;
        Ok(Self { shared, ended: Mutex::new(ended) })
    }

    /// Adds `n` to the count of `topic`, soon; does not wait for Redis. Made to be called once a batch.
    pub fn add(&self, topic: &str, n: u64) {
        let mut pending = self.shared.lock();
        match pending.counts.get_mut(topic) {
            Some(count) => *count += n,
            None => drop(pending.counts.insert(topic.into(), n)),
        }
        drop(pending);
        self.shared.changed.notify_one();
    }

    /// The number of attempts to add counts that failed, for others to look at.
    pub fn errors(&self) -> CounterErrors {
        CounterErrors(Arc::clone(&self.shared))
    }
}

/// Adds what is pending, for at most a second.
impl Drop for Counters {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_one();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(LAST);
        let pending = self.shared.lock();
        let left = pending.sending + pending.counts.values().sum::<u64>();
        if left > 0 {
            warn!("{left} messages were not added to the counters in Redis");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut server: Server) {
        let mut away = false;
        while let Some(counts) = self.wait_for_counts() {
            match add_all(&mut server, &counts) {
                Ok(()) => {
                    self.lock().sending = 0;
                    if std::mem::take(&mut away) {
                        info!("counters: {server} is back");
                    }
                }
                Err(error) => {
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut away, true) {
                        warn!("counters: {error:#}; counts are kept and added later");
                    }
                    if self.put_back(counts) {
                        return;
                    }
                }
            }
        }
    }

    /// `None` once nothing is left to do.
    fn wait_for_counts(&self) -> Option<HashMap<String, u64>> {
        let pending = self.lock();
        let idle = |pending: &mut Pending| pending.counts.is_empty() && !pending.closing;
        let mut pending = self.changed.wait_while(pending, idle).unwrap_or_else(PoisonError::into_inner);
        let counts = std::mem::take(&mut pending.counts);
        pending.sending = counts.values().sum();
        (!counts.is_empty()).then_some(counts)
    }

    /// Keeps the counts for the next attempt, and waits until it is time for that; true where it will not come.
    fn put_back(&self, counts: HashMap<String, u64>) -> bool {
        let mut pending = self.lock();
        pending.sending = 0;
        let last_attempt = pending.closing;
        for (topic, n) in counts {
            *pending.counts.entry(topic).or_default() += n;
        }
        if last_attempt {
            return true;
        }
        let open = |pending: &mut Pending| !pending.closing;
        drop(self.changed.wait_timeout_while(pending, PAUSE, open));
        false
    }
}

fn add_all(server: &mut Server, counts: &HashMap<String, u64>) -> anyhow::Result<()> {
    let mut pipeline = Pipeline::with_capacity(counts.len());
    // All or none of them, however far the server got
    pipeline.atomic();
    for (topic, n) in counts {
        pipeline.cmd("HINCRBY").arg(HASH).arg(topic).arg(n).ignore();
    }
    server.query(&pipeline, Some((HASH, "hash")))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::cache::real_redis::{RealRedis, until};

    const TIMEOUT: Duration = Duration::from_millis(500);

    fn count(redis: &RealRedis, topic: &str) -> u64 {
        redis.command::<Option<u64>>(&["HGET", HASH, topic]).unwrap_or(0)
    }

    #[test]
    fn counts_are_added_to_what_is_there() {
        let Some(redis) = RealRedis::start() else { return };
        redis.command::<()>(&["HSET", HASH, "Log", "5"]);
        let counters = Counters::new(&redis.url(), TIMEOUT).unwrap();
        counters.add("Source", 1000);
        counters.add("Log", 2);
        until("the counts arrive", || (count(&redis, "Source") == 1000 && count(&redis, "Log") == 7).then_some(()));
        counters.add("Source", 1);
        drop(counters);
        assert_eq!(count(&redis, "Source"), 1001, "the last count was not flushed");
    }

    #[test]
    fn counts_are_kept_while_redis_is_away() {
        let Some(mut redis) = RealRedis::start() else { return };
        let counters = Counters::new(&redis.url(), TIMEOUT).unwrap();
        counters.add("Log", 1);
        // What was sent and is not answered when Redis dies may be added twice
        let answered = || count(&redis, "Log") == 1 && counters.shared.lock().sending == 0;
        until("the first count arrives", || answered().then_some(()));
        redis.kill();
        let begun = Instant::now();
        for _ in 0..1000 {
            counters.add("Log", 1);
        }
        assert!(begun.elapsed() < TIMEOUT, "adding waited for Redis");
        until("it is seen that Redis is away", || {
            let pending = counters.shared.lock();
            let kept = pending.sending == 0 && pending.counts.get("Log") == Some(&1000);
            (kept && counters.errors().count() > 0).then_some(())
        });
        redis.restart();
        until("the counts arrive", || (count(&redis, "Log") == 1001).then_some(()));
    }

    #[test]
    fn the_end_does_not_wait_long_for_a_redis_that_hangs() {
        let Some(redis) = RealRedis::start() else { return };
        let counters = Counters::new(&redis.url(), Duration::from_secs(60)).unwrap();
        counters.add("Log", 1);
        until("the first count arrives", || (count(&redis, "Log") == 1).then_some(()));
        redis.pause(true);
        counters.add("Log", 1);
        let begun = Instant::now();
        drop(counters);
        let took = begun.elapsed();
        redis.pause(false);
        assert!(took < 2 * LAST, "{took:?}");
    }
}
