//! Events on their way to the bus: of all connections together, and answered once the bus has confirmed them.
//!
//! Requests come as [`Job`]s into one bounded queue. A lane is a thread with a [`Publisher`] of its own; it takes all that waits,
//! hands it over to the bus in one go, and answers all when the bus has confirmed. Meanwhile others come to wait. So a lone
//! request waits for nobody, and the more there are, the more of them share one commit.
//!
//! A job that is late is given up while it waits here. Once it has been handed over it is not: whoever brought it was told by
//! then that it is not confirmed, and it is published as soon as the bus is back.

use std::{
    collections::VecDeque,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{budget::Hold, event::Event, stats::Stats};
use crate::{
    backoff::{Absence, persist},
    bus::{Bus, BusError, Outbox, Publisher, Refusal, Topic},
    dead_letter::now_ms,
    shutdown::Shutdown,
};

/// Most events that are handed over in one go, where a request does not bring more.
const BATCH: usize = 1000;

/// About the most bytes of those.
const BATCH_BYTES: usize = 4 << 20;

/// How long a lane waits for the bus before it looks around.
const SLICE: Duration = Duration::from_millis(100);

/// Longest wait before the bus is tried again.
const SOON: Duration = Duration::from_secs(1);

/// A bus that takes longer is said to be waited for.
const SLOW: Duration = Duration::from_secs(2);

/// What one request brings, in its order.
pub type Events = SmallVec<[Event; 1]>;

/// Why events are not on the bus, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unpublished {
    /// As many wait as may.
    Full,
    /// The bus has not confirmed anything for as long as a request may wait.
    Away,
    /// They waited too long, and are not published.
    Late,
    /// The bus takes one of them at no time, so none of them is published.
    Refused(String),
    /// The bus has refused these after it was given all, by index among the events of the request and in ascending order. It
    /// has the others.
    Partly { refused: Vec<usize>, reason: String },
    /// The process ends.
    Ended,
}

type Answer = Result<(), Unpublished>;

struct Job {
    events: Events,
    came: Instant,
    late: Instant,
    answer: oneshot::Sender<Answer>,
    _hold: Hold,
}

impl Job {
    fn give_up(self, why: Unpublished) {
        let _ = self.answer.send(Err(why));
    }
}

/// How the lanes work.
pub struct Options {
    pub lanes: usize,
    /// Most events that wait, and are on their way.
    pub waiting: usize,
    /// How long a job waits for the bus.
    pub timeout: Duration,
    /// How long the bus is waited for at the start; `None` for ever.
    pub connect_timeout: Option<Duration>,
    /// Made where they are missing.
    pub topics: Vec<Topic>,
}

/// The lanes, and what waits for them.
pub struct Lanes {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    options: Options,
    bus: Arc<dyn Bus>,
    stats: Arc<Stats>,
    shutdown: Shutdown,
    queue: Mutex<Queue>,
    more: Condvar,
    started: Instant,
    /// Lanes that have a publisher.
    connected: AtomicUsize,
    /// Those that have waited for the bus for longer than a request may.
    stuck: AtomicUsize,
    /// By when all has to be over.
    end: OnceLock<Instant>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Events of these jobs and of those that lanes have taken.
    events: usize,
    /// Lanes that wait for jobs.
    idle: usize,
    closed: bool,
    failed: Option<anyhow::Error>,
}

impl Lanes {
    /// Begins to connect. Where a lane cannot go on it asks for `shutdown`, and [`Lanes::finish`] says why.
    pub fn start(options: Options, bus: Arc<dyn Bus>, stats: Arc<Stats>, shutdown: Shutdown) -> Result<Self> {
        let lanes = options.lanes;
        let shared = Arc::new(Shared {
            options,
            bus,
            stats,
            shutdown,
            queue: Mutex::default(),
            more: Condvar::new(),
            started: Instant::now(),
            connected: AtomicUsize::new(0),
            stuck: AtomicUsize::new(0),
            end: OnceLock::new(),
        });
        let mut threads = Vec::new();
        for _ in 0..lanes {
            let shared = Arc::clone(&shared);
            threads.push(std::thread::Builder::new().name("publish".into()).spawn(move || work(&shared))?);
        }
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Has `events` published; what it gives tells what became of them. They count as late after the timeout.
    pub fn publish(&self, events: Events, hold: Hold) -> Result<oneshot::Receiver<Answer>, Unpublished> {
        let shared = &self.shared;
        if shared.is_away() {
            return Err(Unpublished::Away);
        }
        let came = Instant::now();
        let (answer, answered) = oneshot::channel();
        let job = Job { came, late: came + shared.options.timeout, answer, _hold: hold, events };
        let mut queue = shared.lock();
        if queue.closed {
            return Err(Unpublished::Ended);
        }
        // One that is more than what may wait is taken where nothing else does
        if queue.events > 0 && queue.events + job.events.len() > shared.options.waiting {
            return Err(Unpublished::Full);
        }
        queue.events += job.events.len();
        queue.jobs.push_back(job);
        // Waking is a call of the system, even where nobody sleeps. Who was woken for others takes this one as well
        let wake = queue.idle > 0 && queue.jobs.len() == 1;
        drop(queue);
        if wake {
            shared.more.notify_one();
        }
        Ok(answered)
    }

    /// Events that are waiting or on their way.
    pub fn waiting(&self) -> usize {
        self.shared.lock().events
    }

    /// What keeps events from being published at present.
    pub fn ready(&self) -> Result<(), &'static str> {
        let shared = &self.shared;
        match () {
            () if shared.connected.load(Ordering::Relaxed) < shared.options.lanes => Err("waits for the bus"),
            () if shared.is_away() => Err("the bus does not confirm what is published"),
            () => Ok(()),
        }
    }

    /// Takes no more jobs, publishes what waits until `deadline`, and gives what a lane failed with.
    pub fn finish(&self, deadline: Instant) -> Result<()> {
        let _ = self.shared.end.set(deadline);
        self.shared.lock().closed = true;
        self.shared.more.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // What it panicked with was told in the log, and is in `failed`
            let _ = thread.join();
        }
        self.shared.lock().failed.take().map_or(Ok(()), Err)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        let _ = self.finish(Instant::now());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_away(&self) -> bool {
        let never = self.connected.load(Ordering::Relaxed) == 0 && self.started.elapsed() > self.options.timeout;
        never || self.stuck.load(Ordering::Relaxed) == self.options.lanes
    }

    /// Whether there is no time left.
    fn is_over(&self) -> bool {
        self.end.get().is_some_and(|end| Instant::now() >= *end)
    }

    /// Waits for jobs and takes those that there are, up to a batch; none at the end.
    fn take(&self) -> Vec<Job> {
        let mut queue = self.lock();
        while queue.jobs.is_empty() && !queue.closed {
            queue.idle += 1;
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
        let (mut jobs, mut events, mut bytes) = (Vec::new(), 0, 0);
        while let Some(job) = queue.jobs.pop_front() {
            events += job.events.len();
            bytes += job.events.iter().map(|event| event.value().len()).sum::<usize>();
            jobs.push(job);
            if events >= BATCH || bytes >= BATCH_BYTES {
                break;
            }
        }
        if !queue.jobs.is_empty() && queue.idle > 0 {
            self.more.notify_one();
        }
        jobs
    }

    /// The end of all: nothing can be published any more.
    fn fail(&self, error: anyhow::Error) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.failed.get_or_insert(error);
        let jobs = std::mem::take(&mut queue.jobs);
        drop(queue);
        jobs.into_iter().for_each(|job| job.give_up(Unpublished::Ended));
        self.more.notify_all();
        self.shutdown.request();
    }

    /// Sleeps for `time`, less where there is none left.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_over() {
            std::thread::sleep(Duration::from_millis(20).min(time));
        }
    }
}

/// The life of a lane.
fn work(shared: &Arc<Shared>) {
    let worked = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        let options = &shared.options;
        let publisher = persist("the bus", options.connect_timeout, &shared.shutdown, || {
            shared.bus.connect()?;
            shared.bus.create_topics(&options.topics)?;
            shared.bus.publisher()
        })?;
        let Some(publisher) = publisher else { return Ok(()) };
        shared.connected.fetch_add(1, Ordering::Relaxed);
        let mut lane = Lane { shared, publisher, outbox: Outbox::default(), taken: 0, refused: 0, stuck: false };
        loop {
            let jobs = shared.take();
            if jobs.is_empty() {
                return Ok(());
            }
            let events: usize = jobs.iter().map(|job| job.events.len()).sum();
            let carried = lane.carry(jobs);
            lane.mark(false);
            shared.lock().events -= events;
            carried?;
        }
    }));
    match worked {
        Ok(Ok(())) => {}
        Ok(Err(error)) => shared.fail(error),
        Err(_) => shared.fail(anyhow!("a thread that publishes has panicked")),
    }
}

struct Lane<'a> {
    shared: &'a Shared,
    publisher: Box<dyn Publisher>,
    outbox: Outbox,
    /// Records that the publisher has taken over since it was opened.
    taken: u64,
    /// Of those, the ones that the bus did not take.
    refused: u64,
    stuck: bool,
}

impl Lane<'_> {
    /// Publishes the events of `jobs` and answers them all.
    fn carry(&mut self, jobs: Vec<Job>) -> Result<()> {
        let (since, first) = (Instant::now(), self.taken);
        let jobs = self.hand_over(jobs, since)?;
        if jobs.is_empty() {
            return Ok(());
        }
        let refused = self.confirm(since, first)?;
        let Some(refused) = refused else {
            jobs.into_iter().for_each(|job| job.give_up(Unpublished::Ended));
            return Ok(());
        };
        let mut next = 0;
        let judge = |job: &Job| {
            let of_job = next..next + job.events.len();
            next = of_job.end;
            answer(&refused, &of_job)
        };
        let answers: Vec<Answer> = jobs.iter().map(judge).collect();
        let confirmed = jobs.iter().zip(&answers).map(|(job, answer)| (job.came, confirmed(job.events.len(), answer)));
        self.shared.stats.confirmed(confirmed.filter(|(_, events)| *events > 0));
        for (job, answer) in jobs.into_iter().zip(answers) {
            let _ = job.answer.send(answer);
        }
        Ok(())
    }

    /// Gives the events to the publisher, for as long as that takes; gives the jobs whose events it took.
    fn hand_over(&mut self, mut jobs: Vec<Job>, since: Instant) -> Result<Vec<Job>> {
        let mut absence = Absence::of("the bus");
        loop {
            jobs = timely(jobs);
            if jobs.is_empty() {
                return Ok(jobs);
            }
            let error = match self.try_hand_over(&mut jobs) {
                Ok(()) => {
                    absence.over();
                    return Ok(jobs);
                }
                Err(BusError::Fatal(error)) => return Err(error),
                Err(BusError::Unavailable(error)) => error,
            };
            self.mark(since.elapsed() >= self.shared.options.timeout);
            // People wait for this, so it is tried again soon
            self.shared.pause(absence.failed(&format_args!("{error:#}")).min(SOON));
            if self.shared.is_over() {
                jobs.drain(..).for_each(|job| job.give_up(Unpublished::Ended));
                return Ok(jobs);
            }
        }
    }

    fn try_hand_over(&mut self, jobs: &mut Vec<Job>) -> Result<(), BusError> {
        self.write(jobs);
        let refusals = self.publisher.refusals(&self.outbox)?;
        if !refusals.is_empty() {
            let mut next = 0;
            for job in std::mem::take(jobs) {
                let of_job = next..next + job.events.len();
                next = of_job.end;
                match refusals.iter().find(|refusal| of_job.contains(&refusal.output)) {
                    Some(refusal) => job.give_up(Unpublished::Refused(refusal.reason.clone())),
                    None => jobs.push(job),
                }
            }
            self.write(jobs);
        }
        if !self.outbox.is_empty() {
            self.publisher.publish(&self.outbox)?;
            self.taken += self.outbox.len() as u64;
        }
        Ok(())
    }

    fn write(&mut self, jobs: &[Job]) {
        let now = now_ms();
        self.outbox.clear();
        for event in jobs.iter().flat_map(|job| &job.events) {
            event.write(&mut self.outbox, now);
        }
    }

    /// Waits until the bus has confirmed all that was taken over. Gives what it refused, by index behind the record number
    /// `first`; `None` where the time is over.
    fn confirm(&mut self, since: Instant, first: u64) -> Result<Option<Vec<Refusal>>> {
        let (mut absence, mut refused) = (Absence::of("the bus"), Vec::new());
        loop {
            let confirmed = match self.publisher.flush(Instant::now() + SLICE) {
                Ok(confirmed) => Some(confirmed),
                Err(BusError::Fatal(error)) => return Err(error),
                Err(BusError::Unavailable(error)) => {
                    self.shared.pause(absence.failed(&format_args!("{error:#}")));
                    None
                }
            };
            for Refusal { output, reason } in self.publisher.refused() {
                self.refused += 1;
                refused.push(Refusal { output: output.saturating_sub(first as usize), reason });
            }
            let left = confirmed.map(|confirmed| self.taken.saturating_sub(confirmed + self.refused));
            if left == Some(0) {
                absence.over();
                return Ok(Some(refused));
            }
            if self.shared.is_over() {
                return Ok(None);
            }
            self.mark(since.elapsed() >= self.shared.options.timeout);
            if since.elapsed() >= SLOW && absence.is_due() {
                absence.failed(&format_args!("{} events are not confirmed", left.unwrap_or_default()));
            }
        }
    }

    /// Notes whether the lane waits for the bus for too long.
    fn mark(&mut self, stuck: bool) {
        match (std::mem::replace(&mut self.stuck, stuck), stuck) {
            (false, true) => _ = self.shared.stuck.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.shared.stuck.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// What is said of a job that was handed over, whose events are `of_job` among all of the lot.
fn answer(refused: &[Refusal], of_job: &Range<usize>) -> Answer {
    let refusals: Vec<&Refusal> = refused.iter().filter(|refusal| of_job.contains(&refusal.output)).collect();
    let Some(first) = refusals.first() else { return Ok(()) };
    let reason = first.reason.clone();
    let mut refused: Vec<usize> = refusals.iter().map(|refusal| refusal.output - of_job.start).collect();
    refused.sort_unstable();
    Err(match refused.len() < of_job.len() {
        true => Unpublished::Partly { refused, reason },
        false => Unpublished::Refused(reason),
    })
}

/// How many of a job's events the bus has.
fn confirmed(events: usize, answer: &Answer) -> usize {
    match answer {
        Ok(()) => events,
        Err(Unpublished::Partly { refused, .. }) => events - refused.len(),
        Err(_) => 0,
    }
}

/// Those of `jobs` that somebody still waits for; the others are given up.
fn timely(jobs: Vec<Job>) -> Vec<Job> {
    let now = Instant::now();
    let mut left = Vec::with_capacity(jobs.len());
    for job in jobs {
        match now >= job.late || job.answer.is_closed() {
            true => job.give_up(Unpublished::Late),
            false => left.push(job),
        }
    }
    left
}

#[cfg(test)]
mod tests;
