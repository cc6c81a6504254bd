//! The threads that read what goes on.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    Picture, StopHistory,
    ledger::Ledger,
    picture::{JournalState, State, TopicKind, TopicState},
};
use crate::{
    backoff::Absence,
    bus::{Backlog, Batch, Bus, BusError, Reader, Topic},
    config::Config,
    journal::{Entry, Level, now_us},
    shutdown::Shutdown,
};

/// Between two pictures.
const REFRESH: Duration = Duration::from_millis(500);

/// Between two looks at what waits, and how much of the time they may take.
const LOOK: Duration = Duration::from_secs(1);
const SHARE: u32 = 10;

/// Entries that are looked back at from the start, the last ones on the topic; one holds a batch.
const LOOK_BACK: u64 = 10_000;

/// Records in one go.
const BATCH: usize = 1000;

const POLL: Duration = Duration::from_millis(100);

/// How long the end waits for a look that is under way.
const LAST: Duration = Duration::from_secs(1);

/// Seconds at the start of the clock that rates go by: what is looked back at lies before that.
const START: u64 = 1_000_000;

/// What goes on, as far as it is known. Its threads end with it.
pub struct Watch {
    shared: Arc<Shared>,
    pictures: watch::Receiver<Arc<Picture>>,
    /// Disconnected once the threads have ended. In a mutex so that the pages of one process can share the rest.
    ended: Mutex<mpsc::Receiver<()>>,
}

struct Shared {
    bus: Arc<dyn Bus>,
    journal: Topic,
    level: Level,
    /// Topics that are there also where nobody has been on them yet: those that stops read.
    stops: Vec<Topic>,
    error_topic: Topic,
    start: Instant,
    shutdown: Shutdown,
    state: Mutex<Seen>,
}

struct Seen {
    ledger: Ledger,
    backlogs: Vec<Backlog>,
    bus: State,
    journal: State,
}

/// Begins to watch `bus`, which need not be there yet, until the result is dropped. Fails where the system gives no threads.
pub fn watch(bus: Arc<dyn Bus>, config: &Config) -> std::io::Result<Watch> {
    let seen =
        Seen { ledger: Ledger::default(), backlogs: Vec::new(), bus: State::default(), journal: State::default() };
    let shared = Arc::new(Shared {
        bus,
        journal: config.journal.topic.clone(),
        level: config.journal.level,
        stops: config.stop_topics(),
        error_topic: config.error_topic.clone(),
        start: Instant::now(),
        shutdown: Shutdown::default(),
        state: Mutex::new(seen),
    });
    let (send, pictures) = watch::channel(Arc::new(shared.picture()));
    let (end, ended) = mpsc::channel();
    let (theirs, done) = (Arc::clone(&shared), end.clone());
    std::thread::Builder::new().name("traffic".into()).spawn(move || {
        theirs.follow(&send);
        drop(done);
    })?;
    let theirs = Arc::clone(&shared);
    std::thread::Builder::new().name("backlogs".into()).spawn(move || {
        theirs.look();
        drop(end);
    })?;
    Ok(Watch { shared, pictures, ended: Mutex::new(ended) })
}

impl Watch {
    /// The newest picture.
    pub fn picture(&self) -> Arc<Picture> {
        self.pictures.borrow().clone()
    }

    /// Hears of each new picture, some twice a second while anything changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Picture>> {
        self.pictures.clone()
    }

    /// A stop's last hour; `None` where nothing is known of it.
    pub fn stop(&self, name: &str) -> Option<StopHistory> {
        self.shared.lock().ledger.history(name, now_us())
    }
}

/// Ends the threads, and waits for them for a second at most.
impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.shutdown.request();
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(LAST);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds, by the clock that rates go by.
    fn clock(&self) -> f64 {
        START as f64 + self.start.elapsed().as_secs_f64()
    }

    /// Reads the journal, and gives a picture wherever something has changed.
    fn follow(&self, pictures: &watch::Sender<Arc<Picture>>) {
        let mut following = Following::default();
        let mut absence: Option<Absence> = None;
        let mut shown = Instant::now();
        while !self.shutdown.requested() {
            let wait = match following.step(self) {
                Ok(()) => {
                    absence.take().inspect(Absence::over);
                    Duration::ZERO
                }
                Err(BusError::Unavailable(error) | BusError::Fatal(error)) => {
                    following.reader = None;
                    self.lock().journal = State { ok: false, error: Some(format!("{error:#}")) };
                    let absence = absence.get_or_insert_with(|| Absence::of("the journal"));
                    absence.failed(&format_args!("{error:#}")).min(LOOK)
                }
            };
            if shown.elapsed() >= REFRESH || !wait.is_zero() {
                shown = Instant::now();
                self.show(pictures);
            }
            self.shutdown.pause(wait);
        }
    }

    fn show(&self, pictures: &watch::Sender<Arc<Picture>>) {
        let picture = self.picture();
        pictures.send_if_modified(|last| {
            let changed = !picture.shows_as(last);
            if changed {
                *last = Arc::new(picture);
            }
            changed
        });
    }

    /// Looks again and again at what waits.
    fn look(&self) {
        while !self.shutdown.requested() {
            let begun = Instant::now();
            let topics = self.topics();
            let found = self.bus.backlogs(&topics);
            let mut seen = self.lock();
            match found {
                Ok(backlogs) => {
                    seen.backlogs = backlogs;
                    seen.bus = State { ok: true, error: None };
                }
                Err(BusError::Unavailable(error) | BusError::Fatal(error)) => {
                    seen.bus = State { ok: false, error: Some(format!("{error:#}")) };
                }
            }
            drop(seen);
            self.shutdown.pause(LOOK.max(begun.elapsed() * SHARE));
        }
    }

    /// Those of the configuration, and those that messages were on.
    fn topics(&self) -> Vec<Topic> {
        let seen = self.lock().ledger.topics();
        let seen = seen.iter().filter_map(|name| Topic::new(name).ok());
        let own = self.stops.iter().chain([&self.error_topic]).cloned();
        own.chain(seen).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn picture(&self) -> Picture {
        let now = self.clock();
        let seen = self.lock();
        let edges = seen.ledger.edges(now);
        let backlogs: HashMap<_, _> = seen.backlogs.iter().map(|backlog| (backlog.topic.as_str(), backlog)).collect();
        let used = |backlog: &&Backlog| backlog.records > 0 || backlog.waiting.is_some();
        let mut names = seen.ledger.topics();
        names.extend(seen.backlogs.iter().filter(used).map(|backlog| backlog.topic.clone()));
        let topic = |name: String| {
            let backlog = backlogs.get(name.as_str());
            let kind = match () {
                () if name == self.error_topic.as_str() => TopicKind::Dead,
                () if self.stops.iter().any(|stop| stop.as_str() == name) => TopicKind::Stop,
                () => TopicKind::Other,
            };
            let (records, lag) = (backlog.map(|of| of.records), backlog.and_then(|of| of.waiting));
            TopicState { name, kind, records, lag }
        };
        Picture {
            time: now_us().div_euclid(1000),
            since: seen.ledger.since(),
            bus: seen.bus.clone(),
            journal: JournalState { level: self.level, state: seen.journal.clone(), hops: seen.ledger.hops() },
            topics: names.into_iter().map(topic).collect(),
            stops: seen.ledger.stops(now),
            edges,
        }
    }
}

/// A place in the journal.
#[derive(Default)]
struct Following {
    reader: Option<Box<dyn Reader>>,
    /// By partition, the offset after the last record that was read.
    next: HashMap<i32, i64>,
    /// What was there before this began has been read.
    is_live: bool,
}

impl Following {
    /// Reads once, where there is a journal, and opens what is not open.
    fn step(&mut self, shared: &Shared) -> Result<(), BusError> {
        if shared.level == Level::Off {
            shared.shutdown.pause(POLL);
            return Ok(());
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => {
                let reader = self.open(shared)?;
                self.reader.insert(reader)
            }
        };
        let batch = reader.poll(BATCH, POLL)?;
        self.take(shared, &batch);
        self.is_live |= self.reader.as_ref().is_some_and(|reader| reader.at_end());
        Ok(())
    }

    fn open(&self, shared: &Shared) -> Result<Box<dyn Reader>, BusError> {
        let Shared { bus, journal, .. } = shared;
        bus.connect()?;
        bus.create_topics(std::slice::from_ref(journal))?;
        let reader = match self.next.is_empty() {
            true => bus.reader(journal, LOOK_BACK)?,
            false => {
                let next: Vec<_> = self.next.iter().map(|(partition, next)| (*partition, *next)).collect();
                bus.reader_from(journal, &next)?
            }
        };
        shared.lock().journal = State { ok: true, error: None };
        Ok(reader)
    }

    fn take(&mut self, shared: &Shared, batch: &Batch) {
        let (clock, now) = (shared.clock() as u64, now_us());
        let mut seen = shared.lock();
        for record in batch.iter() {
            self.next.insert(record.partition, record.offset + 1);
            let Some(Ok(entry)) = record.value.map(Entry::read) else { continue };
            // Who runs beside us may have another clock, so what comes now counts as of now
            let ago = if self.is_live { 0 } else { now.saturating_sub(entry.time).max(0) as u64 / 1_000_000 };
            seen.ledger.take(&entry, clock.saturating_sub(ago), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus::{
            Outbox,
            memory::{Failure, MemoryBus, Step},
        },
        dead_letter::DeadLetters,
        journal::{Hop, Id, Outcome, Writer},
    };

    const DEADLINE: Duration = Duration::from_secs(30);

    fn publish(bus: &MemoryBus, topic: &str, value: &[u8]) {
        let mut outbox = Outbox::default();
        outbox.publish(&Topic::new(topic).unwrap(), -1, None, Some(value));
        let mut publisher = bus.publisher().unwrap();
        publisher.publish(&outbox).unwrap();
        publisher.flush(Instant::now() + DEADLINE).unwrap();
    }

    /// An entry about `count` messages that `stop` has finished.
    fn finished(stop: &str, count: i64) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.begin(stop, "Log", 0, now_us());
        for offset in 0..count {
            let (id, outcome, attempts) = (Id::None, Outcome::Finished, 1);
            let (reason, next, rule, key) = (None, None, None, None);
            writer.push(&Hop { offset, id, outcome, attempts, reason, next, rule, key, fields: Default::default() });
        }
        writer.finish(10).to_vec()
    }

    fn wait_for(watch: &Watch, what: &str, wanted: impl Fn(&Picture) -> bool) -> Arc<Picture> {
        let end = Instant::now() + DEADLINE;
        loop {
            let picture = watch.picture();
            if wanted(&picture) {
                return picture;
            }
            assert!(Instant::now() < end, "waited in vain for {what}: {picture:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn count(picture: &Picture, stop: &str) -> u64 {
        picture.stops.iter().find(|of| of.name == stop).map_or(0, |stop| stop.volume.count)
    }

    #[test]
    fn it_tells_what_was_what_comes_and_what_waits() {
        let bus = MemoryBus::default();
        let config = Config::load(None, [("METROBUS__BUS", "sqlite")]).unwrap();
        publish(&bus, "Journal", &finished("logstop", 7));
        let log = Topic::new("Log").unwrap();
        publish(&bus, "Log", b"{}");
        publish(&bus, "Log", b"{}");
        let letters = DeadLetters { stop: "logstop".into(), topic: log, error: config.error_topic.clone() };
        let mut subscription = bus.subscribe(&letters).unwrap();
        assert_eq!(subscription.poll(10, DEADLINE).unwrap().len(), 2);
        let watch = watch(Arc::new(bus.clone()), &config).unwrap();
        let picture = wait_for(&watch, "what was", |picture| count(picture, "logstop") == 7 && picture.bus.ok);
        assert!(picture.journal.state.ok && picture.since.is_some());
        assert_eq!(
            picture.topics.iter().map(|topic| (topic.name.as_str(), topic.lag)).collect::<Vec<_>>(),
            [("Log", Some(2))]
        );
        publish(&bus, "Journal", b"no entry");
        publish(&bus, "Journal", &finished("logstop", 100));
        let picture = wait_for(&watch, "what comes", |picture| count(picture, "logstop") == 107);
        assert!(picture.stops[0].volume.rate >= 20.0, "{picture:?}");
        assert_eq!(watch.stop("logstop").unwrap().recent.len(), 20);
        assert!(watch.stop("nobody").is_none());
    }

    #[test]
    fn a_bus_that_is_away_is_told_and_waited_for() {
        let bus = MemoryBus::default();
        for _ in 0..5 {
            bus.fail_next(Step::Connect, Failure::Unavailable);
        }
        publish(&bus, "Journal", &finished("logstop", 3));
        let config = Config::load(None, [("METROBUS__BUS", "sqlite")]).unwrap();
        let watch = watch(Arc::new(bus.clone()), &config).unwrap();
        let picture = wait_for(&watch, "the error", |picture| picture.journal.state.error.is_some());
        assert!(!picture.journal.state.ok);
        wait_for(&watch, "the journal", |picture| picture.journal.state.ok && count(picture, "logstop") == 3);
        // It goes on where it was
        bus.fail_next(Step::Poll, Failure::Unavailable);
        publish(&bus, "Journal", &finished("logstop", 4));
        wait_for(&watch, "what comes", |picture| count(picture, "logstop") == 7);
    }
}
