//! The thread that writes down what came of requests, many at a time.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    engine::{Shared, lane, wake},
    lane::Command,
    store::{Came, Settled, Standing},
};
use crate::shutdown::Shutdown;

/// How long the first of them waits for others.
const COMPANY: Duration = Duration::from_millis(2);

/// Most in one transaction.
const MOST: usize = 5000;

/// How often the end is looked for, and how long nothing is written after that failed.
const TICK: Duration = Duration::from_millis(100);

/// Between two rounds of forgetting what was taken long ago.
const ROUND: Duration = Duration::from_secs(3600);

pub enum Report {
    /// What came of a delivery, and how its subscriber does, where that has changed.
    Came(Settled, Option<Standing>),
    /// How a subscriber does.
    Standing(i64, Standing),
    /// Somebody waits until all before this is written.
    Written(Sender<()>),
}

pub fn start(shared: Arc<Shared>, reports: Receiver<Report>, ended: Shutdown) -> io::Result<JoinHandle<()>> {
    Builder::new().name("deliver-write".into()).spawn(move || {
        let mut round = Instant::now();
        loop {
            match reports.recv_timeout(TICK) {
                Ok(first) => gather(&shared, first, &reports, &ended),
                Err(RecvTimeoutError::Timeout) if ended.requested() => return,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if round.elapsed() > ROUND {
                round = Instant::now();
                let _ = shared.store.forget().inspect_err(|error| warn!("{error:#}"));
            }
        }
    })
}

/// Writes `first` and what comes soon after it.
fn gather(shared: &Shared, first: Report, reports: &Receiver<Report>, ended: &Shutdown) {
    let until = Instant::now() + COMPANY;
    let (mut settled, mut standings, mut waiting) = (Vec::new(), HashMap::new(), Vec::new());
    let mut next = Some(first);
    while let Some(report) = next {
        match report {
            Report::Came(came, standing) => {
                if let Some(standing) = standing {
                    standings.insert(came.subscriber, standing);
                }
                settled.push(came);
            }
            Report::Standing(subscriber, standing) => _ = standings.insert(subscriber, standing),
            Report::Written(done) => {
                waiting.push(done);
                break;
            }
        }
        if settled.len() >= MOST {
            break;
        }
        next = reports.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
    }
    write(shared, &settled, &standings, ended);
    waiting.iter().for_each(|done| _ = done.send(()));
}

fn write(shared: &Shared, settled: &[Settled], standings: &HashMap<i64, Standing>, ended: &Shutdown) {
    if settled.is_empty() && standings.is_empty() {
        return;
    }
    let woken = loop {
        match shared.store.settle(settled, standings) {
            Ok(woken) => break woken,
            // Until it is written the lanes hold what they have, so that nothing piles up
            Err(error) => warn!("{error:#}"),
        }
        if ended.pause(TICK) {
            return;
        }
    };
    let mut written: HashMap<i64, (Vec<_>, u64)> = HashMap::new();
    for Settled { subscriber, message, came, .. } in settled {
        let (messages, done) = written.entry(*subscriber).or_default();
        let again = match came {
            Came::Again { due, .. } => Some(*due),
            Came::Done => None,
        };
        messages.push((*message, again));
        *done += u64::from(matches!(came, Came::Done));
    }
    for (subscriber, (messages, done)) in written {
        let Some(lane) = lane(shared, subscriber) else { continue };
        let less = |waiting: u64| Some(waiting.saturating_sub(done));
        let _ = lane.counted.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        let _ = lane.commands.send(Command::Written(messages));
    }
    wake(shared, woken);
}
