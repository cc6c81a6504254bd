//! Requests go out, from threads of their own.
//!
//! Each subscriber has a lane: a task with a queue, a breaker and places of its own. Nothing is shared that one of them could
//! fill: a subscriber that hangs has its own requests hang, and what is due for it lies in the store, by subscriber and time.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc::UnboundedSender, oneshot},
};
use tracing::info;

use super::{
    counts::{Counted, Counts},
    lane::{Command, Lane},
    letters::{self, Dead},
    loads::{self, Load},
    outcomes::{self, Report},
    store::{Deliveries, Incoming},
};
use crate::{
    bus::{Bus, Topic},
    config::Config,
    shutdown::Shutdown,
    subscriber::{Subscriber, Subscribers},
    webhook::{
        address::Allowed,
        target::{Resolver, client},
    },
};

/// How long the end of a lane waits for what came of its requests to be written.
const CLOSING: Duration = Duration::from_secs(10);

/// How long a connection that nobody uses stays open.
const IDLE: Duration = Duration::from_secs(60);

/// Threads that requests are made in.
const THREADS: usize = 2;

/// What all lanes share.
pub(super) struct Shared {
    pub store: Arc<Deliveries>,
    pub client: reqwest::Client,
    pub counts: Arc<Counts>,
    pub loads: mpsc::Sender<Load>,
    pub outcomes: mpsc::Sender<Report>,
    pub letters: mpsc::Sender<Dead>,
    /// By the number of the subscriber.
    pub lanes: RwLock<HashMap<i64, Handle>>,
}

/// A lane, as others see it.
#[derive(Clone)]
pub(super) struct Handle {
    pub commands: UnboundedSender<Command>,
    /// Deliveries that it has been offered and has not looked at.
    pub queued: Arc<AtomicUsize>,
    /// It has been told that there is more in the store, and has not looked yet.
    pub told: Arc<AtomicBool>,
    pub counted: Arc<Counted>,
}

/// All that delivers in a process.
pub struct Engine {
    shared: Arc<Shared>,
    /// Read while messages are taken, so that nobody is forgotten for whom something is just being taken.
    subscribers: RwLock<Arc<Subscribers>>,
    numbers: RwLock<HashMap<String, i64>>,
    /// Taken at the end.
    runtime: Mutex<Option<Runtime>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Asked for once nothing is under way, and then once nothing is to be written.
    ended: [Shutdown; 2],
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Begins with what is in the store, for `subscribers`. Requests go where `allowed` lets them at the time; dead letters to `bus`.
    pub fn start(
        store: Deliveries,
        bus: Arc<dyn Bus>,
        config: &Config,
        allowed: Arc<ArcSwap<Allowed>>,
        subscribers: Arc<Subscribers>,
        counts: Arc<Counts>,
    ) -> Result<Arc<Self>> {
        let client = client(Resolver::new(allowed))
            .user_agent(concat!("metrobus/", env!("CARGO_PKG_VERSION")))
            .pool_idle_timeout(IDLE)
            .build()
            .context("make an HTTP client")?;
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name("deliver").enable_all().build()?;
        let (loads, to_load) = mpsc::channel();
        let (outcomes, to_write) = mpsc::channel();
        let (letters, to_publish) = mpsc::channel();
        let shared = Arc::new(Shared {
            store: Arc::new(store),
            client,
            counts,
            loads,
            outcomes,
            letters,
            lanes: RwLock::default(),
        });
        let ended = [Shutdown::default(), Shutdown::default()];
        let threads = vec![
            loads::start(Arc::clone(&shared), to_load, ended[0].clone())?,
            letters::start(Arc::clone(&shared), to_publish, bus, config, ended[0].clone())?,
            outcomes::start(Arc::clone(&shared), to_write, ended[1].clone())?,
        ];
        let engine = Arc::new(Self {
            shared,
            subscribers: RwLock::default(),
            numbers: RwLock::default(),
            runtime: Mutex::new(Some(runtime)),
            threads: Mutex::new(threads),
            ended,
        });
        engine.update(subscribers)?;
        Ok(engine)
    }

    /// Those who are called at present. They stay while this is held, so hold it for no longer than a batch.
    pub(super) fn subscribers(&self) -> RwLockReadGuard<'_, Arc<Subscribers>> {
        read(&self.subscribers)
    }

    pub fn counts(&self) -> &Arc<Counts> {
        &self.shared.counts
    }

    /// The number of a subscriber in the store.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        read(&self.numbers).get(name).copied()
    }

    /// From now on these are called and no others. What waited for one that is gone is forgotten.
    pub fn update(&self, subscribers: Arc<Subscribers>) -> Result<()> {
        let mut new = Vec::new();
        for subscriber in subscribers.iter() {
            let number = self.number(&subscriber.name);
            match number.and_then(|number| read(&self.shared.lanes).get(&number).cloned()) {
                Some(lane) => _ = lane.commands.send(Command::Changed(Arc::clone(subscriber))),
                None => new.push(Arc::clone(subscriber)),
            }
        }
        self.add(&new)?;
        *write(&self.subscribers) = Arc::clone(&subscribers);
        for (number, name) in self.shared.store.subscribers()? {
            if subscribers.named(&name).is_none() {
                self.close(number, &name);
                // What waits for one that is only wrong at present is kept
                if !subscribers.knows(&name) {
                    self.remove(number, &name)?;
                }
            }
        }
        Ok(())
    }

    fn add(&self, new: &[Arc<Subscriber>]) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = new.iter().map(|subscriber| subscriber.name.as_str()).collect();
        let registered = self.shared.store.register(&names)?;
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(runtime) = runtime.as_ref() else { return Ok(()) };
        for (subscriber, (number, standing, waiting)) in new.iter().zip(registered) {
            let counted = self.shared.counts.of(&subscriber.name);
            counted.waiting.store(waiting, Ordering::Relaxed);
            let (lane, handle) =
                Lane::new(number, Arc::clone(subscriber), standing, waiting > 0, counted, Arc::clone(&self.shared));
            write(&self.shared.lanes).insert(number, handle);
            write(&self.numbers).insert(subscriber.name.clone(), number);
            runtime.spawn(lane.run());
        }
        Ok(())
    }

    /// Ends the lane of a subscriber, where it has one.
    fn close(&self, number: i64, name: &str) {
        write(&self.numbers).remove(name);
        // It ends once nobody can tell it anything any more
        let lane = write(&self.shared.lanes).remove(&number);
        if lane.is_some() {
            drop(lane);
            self.written(Instant::now() + CLOSING);
            self.shared.counts.forget(name);
        }
    }

    /// Forgets a subscriber and what waits for it.
    fn remove(&self, number: i64, name: &str) -> Result<()> {
        let dropped = self.shared.store.remove(number)?;
        info!(subscriber = name, dropped, "the subscriber is gone");
        Ok(())
    }

    /// Waits until all that was reported so far is written, at most until `deadline`: the disk may be in trouble.
    fn written(&self, deadline: Instant) {
        let (done, wait) = mpsc::channel();
        if self.shared.outcomes.send(Report::Written(done)).is_ok() {
            let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Takes messages of `topic` into the store, and has them go out.
    pub(super) fn take(&self, topic: &Topic, incoming: &[Incoming<'_>]) -> Result<()> {
        let taken = self.shared.store.take(topic, incoming)?;
        let lanes = read(&self.shared.lanes);
        for (subscriber, count) in &taken.counts {
            if let Some(lane) = lanes.get(subscriber) {
                lane.counted.waiting.fetch_add(*count, Ordering::Relaxed);
            }
        }
        // Its offers may have been lost with what failed behind them
        for lane in taken.before.iter().filter_map(|subscriber| lanes.get(subscriber)) {
            lane.more();
        }
        for offer in taken.offers {
            if let Some(lane) = lanes.get(&offer.subscriber) {
                lane.offer(offer.delivery);
            }
        }
        Ok(())
    }

    /// Has lanes look how another process has left their subscribers, where one has written to the store.
    pub fn look(&self) -> Result<()> {
        let Some(standings) = self.shared.store.changed()? else { return Ok(()) };
        let lanes = read(&self.shared.lanes);
        for (number, standing) in standings {
            if let Some(lane) = lanes.get(&number) {
                let _ = lane.commands.send(Command::Standing(standing));
            }
        }
        Ok(())
    }

    /// Whether nothing is due at present, nothing under way and nothing unwritten; waits for an answer, `patience` at most.
    pub fn is_idle(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let asked: Vec<_> = read(&self.shared.lanes)
            .values()
            .map(|lane| {
                let (answer, asked) = oneshot::channel();
                let _ = lane.commands.send(Command::Idle(answer));
                asked
            })
            .collect();
        asked.into_iter().all(|mut asked| {
            loop {
                match asked.try_recv() {
                    Ok(()) => return true,
                    Err(oneshot::error::TryRecvError::Closed) => return true,
                    Err(oneshot::error::TryRecvError::Empty) if Instant::now() >= end => return false,
                    Err(oneshot::error::TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        })
    }

    /// Makes no request any more, though messages may still be taken. Those under way may end until `deadline`; what is cut off then goes out again when
    /// somebody begins with the store.
    pub fn end(&self, deadline: Instant) {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(runtime) = runtime else { return };
        let lanes: Vec<_> = write(&self.shared.lanes).drain().map(|(_, lane)| lane).collect();
        // A lane to which nobody can say anything ends at once, so they are kept
        let ends: Vec<_> = lanes
            .iter()
            .map(|lane| {
                let (answer, end) = oneshot::channel();
                let _ = lane.commands.send(Command::End(answer));
                end
            })
            .collect();
        runtime.block_on(async {
            let all = async {
                for end in ends {
                    let _ = end.await;
                }
            };
            let _ = tokio::time::timeout_at(deadline.into(), all).await;
        });
        self.written(deadline);
        self.ended[0].request();
        runtime.shutdown_timeout(deadline.saturating_duration_since(Instant::now()));
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = threads.pop();
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
        self.ended[1].request();
        let _ = writer.map(JoinHandle::join);
    }
}

/// Has lanes look for what is due.
pub(super) fn wake(shared: &Shared, subscribers: impl IntoIterator<Item = i64>) {
    let lanes = read(&shared.lanes);
    let subscribers: HashSet<i64> = subscribers.into_iter().collect();
    for lane in subscribers.iter().filter_map(|subscriber| lanes.get(subscriber)) {
        lane.more();
    }
}

pub(super) fn lane(shared: &Shared, subscriber: i64) -> Option<Handle> {
    read(&shared.lanes).get(&subscriber).cloned()
}
