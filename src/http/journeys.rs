//! Where messages went, for those who ask over HTTP: the index of the journal, in a thread of its own.
//!
//! Who asks waits for the index to be as far as the journal, for some seconds at most. Where that takes longer, as with an
//! index that is being made, they are told how far it is, and it goes on without them.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{sync::oneshot, time::timeout};

use super::problem::Problem;
use crate::{
    bus::Bus,
    config::Config,
    journal::{
        follow::Follower,
        search::{self, Wanted},
    },
    shutdown::Shutdown,
};

/// How long who asks waits for the index to be as far as the journal.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the bus is waited for.
const BUS: Duration = Duration::from_secs(3);

/// By then there is an answer, whatever it is.
const LATEST: Duration = Duration::from_secs(15);

/// How long the index is written without a look at who asks.
const STRETCH: Duration = Duration::from_millis(200);

/// Requests that wait at once.
const WAITING: usize = 64;

/// The thread that has the index.
pub struct Journeys {
    requests: mpsc::SyncSender<Request>,
    config: Arc<Config>,
}

struct Request {
    wanted: Wanted,
    last: usize,
    asked: Instant,
    answer: oneshot::Sender<Result<Answer>>,
}

enum Answer {
    Found(search::Journeys),
    /// So many records have been read, of so many at most.
    NotYet {
        read: u64,
        of: u64,
    },
}

impl Journeys {
    /// Opens nothing before somebody asks. The thread ends with the result, or with `shutdown`.
    pub fn start(bus: Arc<dyn Bus>, config: Arc<Config>, shutdown: Shutdown) -> Result<Self> {
        let (send, requests) = mpsc::sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("journeys".into());
        let journeys = Self { requests: send, config: Arc::clone(&config) };
        thread.spawn(move || answer_all(&*bus, &config, &shutdown, &requests))?;
        Ok(journeys)
    }

    /// The last journeys of what is asked for, `last` at most; 404 where there are none.
    pub async fn find(&self, wanted: Wanted, last: usize) -> Result<search::Journeys, Problem> {
        let options = &self.config.journal;
        wanted.check(options).map_err(Problem::bad_request)?;
        match self.ask(wanted.clone(), last).await? {
            Answer::Found(found) if found.journeys.is_empty() => Err(Problem::not_found(wanted.nothing(options))),
            Answer::Found(found) => Ok(found),
            Answer::NotYet { read, of } => Err(Problem::later(
                1,
                format!(
                    "the index of the journal is being made: {read} of at most {of} records of the topic {} are read; \
                     try again soon",
                    options.topic
                ),
            )),
        }
    }

    async fn ask(&self, wanted: Wanted, last: usize) -> Result<Answer, Problem> {
        let (answer, answered) = oneshot::channel();
        let busy = || Problem::later(1, "too many ask for journeys at once; try again soon");
        self.requests.try_send(Request { wanted, last, asked: Instant::now(), answer }).map_err(|_| busy())?;
        let answered = timeout(LATEST, answered).await.map_err(|_| busy())?;
        Ok(answered.context("nobody looks journeys up any more; this is a bug in metrobus")??)
    }
}

fn answer_all(bus: &dyn Bus, config: &Config, shutdown: &Shutdown, requests: &mpsc::Receiver<Request>) {
    let mut follower = None;
    let mut is_behind = false;
    while !shutdown.requested() {
        let request = match is_behind {
            false => requests.recv().map_err(|_| mpsc::TryRecvError::Disconnected),
            true => requests.try_recv(),
        };
        match request {
            Err(mpsc::TryRecvError::Disconnected) => return,
            Err(mpsc::TryRecvError::Empty) => {
                let caught_up = follower
                    .as_mut()
                    .map(|follower: &mut Follower<'_>| follower.catch_up_until(Instant::now() + STRETCH));
                // What went wrong shows to the next one who asks
                is_behind = matches!(caught_up, Some(Ok(false)));
            }
            Ok(request) => {
                let answer = answer(&mut follower, bus, config, shutdown, &request);
                is_behind = matches!(answer, Ok(Answer::NotYet { .. }));
                if answer.is_err() {
                    follower = None;
                }
                let _ = request.answer.send(answer);
            }
        }
    }
}

fn answer<'a>(
    follower: &mut Option<Follower<'a>>,
    bus: &'a dyn Bus,
    config: &'a Config,
    shutdown: &'a Shutdown,
    request: &Request,
) -> Result<Answer> {
    let follower = match follower {
        Some(follower) => follower,
        None => follower.insert(Follower::open(bus, &config.journal, Some(BUS), shutdown)?.patient(BUS)),
    };
    if follower.catch_up_until(request.asked + PATIENCE)? {
        return Ok(Answer::Found(request.wanted.find(follower.index(), request.last)?));
    }
    let topics = bus.topics().map_err(anyhow::Error::new)?;
    let topic = topics.iter().find(|topic| topic.name == config.journal.topic.as_str());
    Ok(Answer::NotYet { read: follower.read(), of: topic.map_or(0, |topic| topic.records) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Outbox, memory::MemoryBus};

    #[test]
    fn who_asks_before_the_index_is_made_is_told_how_far_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("index.db").into_os_string();
        let config = Config::load(None, [("METROBUS__JOURNAL__INDEX", index)]).unwrap();
        let bus = MemoryBus::default();
        bus.create_topics(std::slice::from_ref(&config.journal.topic)).unwrap();
        let mut outbox = Outbox::default();
        for _ in 0..2500 {
            outbox.publish(&config.journal.topic, 5, None, Some(b"no entry"));
        }
        bus.publisher().unwrap().publish(&outbox).unwrap();
        let (shutdown, mut follower) = (Shutdown::default(), None);
        let mut ask = |asked: Instant| {
            let (answer, _) = oneshot::channel();
            let request = Request { wanted: Wanted::Key("7".into()), last: 10, asked, answer };
            super::answer(&mut follower, &bus, &config, &shutdown, &request).unwrap()
        };
        let long_ago = Instant::now().checked_sub(2 * PATIENCE).unwrap();
        assert!(matches!(ask(long_ago), Answer::NotYet { read: 0, of: 2500 }));
        assert!(matches!(ask(Instant::now()), Answer::Found(found) if found.journeys.is_empty()));
        // What has come since is not there yet
        assert!(matches!(ask(long_ago), Answer::NotYet { of: 2500, .. }));
        assert!(matches!(ask(Instant::now()), Answer::Found(_)));
    }
}
