//! What is given up becomes a dead letter, in a thread of its own: while the bus is away, only this waits.
//!
//! A letter has the headers of every dead letter, whom it was for ([`SUBSCRIBER_HEADER`]) and, where its value does not tell
//! it, the id of the message. So it can be sent again to that one alone, under the same `webhook-id`. It is gone from the store once
//! the bus has it.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use tracing::{error, warn};

use super::{
    NAME, SUBSCRIBER_HEADER,
    engine::Shared,
    outcomes::Report,
    request::is_uuid,
    store::{Came, Delivery, Settled, Stored, milliseconds},
};
use crate::{
    backoff::persist,
    bus::{Batch, Bus, BusError, Headers, Outbox, Publisher, Record, Topic},
    config::Config,
    dead_letter::{DeadLetters, history, history::History},
    journal::{self, Level, note_refused},
    shutdown::Shutdown,
    slip::ID_HEADER,
};

/// How often the end is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Letters in one go.
const MOST: usize = 100;

/// How long the bus may take to confirm before it is asked again.
const CONFIRM: Duration = Duration::from_secs(5);

/// When a delivery is tried once more whose dead letter could not be published, and one whose letter the bus does not take.
const SOON: Duration = Duration::from_secs(60);
const LATER: Duration = Duration::from_secs(3600);

/// A delivery that is given up.
pub struct Dead {
    pub subscriber: i64,
    /// What the subscriber is called.
    pub name: String,
    pub delivery: Delivery,
    pub reason: String,
}

/// What went wrong with a delivery so far.
pub fn history(delivery: &Delivery) -> History {
    let mut headers = Vec::new();
    if let Some(history) = &delivery.history {
        Headers::push(&mut headers, history::HEADER, Some(history.as_bytes()));
    }
    History::read(&Headers::from_encoded(&headers))
}

pub fn start(
    shared: Arc<Shared>,
    letters: Receiver<Dead>,
    bus: Arc<dyn Bus>,
    config: &Config,
    ended: Shutdown,
) -> io::Result<JoinHandle<()>> {
    let (error, journal) = (config.error_topic.clone(), config.journal.clone());
    Builder::new().name("deliver-dead".into()).spawn(move || {
        let mut desk = Desk { bus, error, journal, publisher: None, published: 0, ended };
        loop {
            let mut lot = match letters.recv_timeout(TICK) {
                Ok(first) => vec![first],
                Err(RecvTimeoutError::Timeout) if desk.ended.requested() => return,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while lot.len() < MOST
                && let Ok(next) = letters.try_recv()
            {
                lot.push(next);
            }
            desk.publish(&lot, &shared);
        }
    })
}

struct Desk {
    bus: Arc<dyn Bus>,
    error: Topic,
    journal: journal::Options,
    publisher: Option<Box<dyn Publisher>>,
    /// Records that this publisher has taken over.
    published: u64,
    ended: Shutdown,
}

impl Desk {
    /// Publishes letters and reports them as done; those that the bus does not have at the end stay in the store.
    fn publish(&mut self, lot: &[Dead], shared: &Shared) {
        let sent = self.send(lot);
        if let Sent::Refused = sent
            && lot.len() > 1
        {
            // One of them is to blame
            for dead in lot {
                self.publish(std::slice::from_ref(dead), shared);
            }
            return;
        }
        for Dead { subscriber, name, delivery, reason } in lot {
            let Delivery { message, due, failed, key, history } = delivery;
            let came = match sent {
                Sent::Confirmed => Came::Done,
                Sent::Refused => {
                    error!(
                        subscriber = name,
                        id = message.id,
                        "the bus refuses the dead letter, which stays in the store: {reason}"
                    );
                    again(LATER, *failed, history.as_deref())
                }
                Sent::Failed => again(SOON, *failed, history.as_deref()),
                Sent::Not => continue,
            };
            let settled = Settled { subscriber: *subscriber, due: *due, message: message.number, key: *key, came };
            let _ = shared.outcomes.send(Report::Came(settled, None));
        }
    }

    fn send(&mut self, lot: &[Dead]) -> Sent {
        let mut outbox = Outbox::default();
        for dead in lot {
            self.write(dead, &mut outbox);
        }
        // After the end of the process was asked for there is one attempt
        let ended = self.ended.clone();
        let outcome = persist("the bus", None, &ended, || self.try_to(&outbox));
        match outcome {
            Ok(Some(true)) => {
                for Dead { name, delivery, reason, .. } in lot {
                    warn!(subscriber = name, id = delivery.message.id, "rejected a message: {reason}");
                }
                Sent::Confirmed
            }
            Ok(Some(false)) => Sent::Refused,
            Ok(None) => Sent::Not,
            Err(error) => {
                error!("dead letters stay in the delivery store: {error:#}");
                self.publisher = None;
                Sent::Failed
            }
        }
    }

    /// Publishes; whether all of it was confirmed, or some refused.
    fn try_to(&mut self, outbox: &Outbox) -> Result<bool, BusError> {
        let publisher = match &mut self.publisher {
            Some(publisher) => publisher,
            None => {
                self.bus.connect()?;
                let journal = (self.journal.level != Level::Off).then(|| self.journal.topic.clone());
                let topics: Vec<_> = journal.into_iter().chain([self.error.clone()]).collect();
                self.bus.create_topics(&topics)?;
                self.published = 0;
                self.publisher.insert(self.bus.publisher()?)
            }
        };
        // Where it is known before, nothing is published twice
        if !publisher.refusals(outbox)?.is_empty() {
            return Ok(false);
        }
        publisher.publish(outbox)?;
        self.published += outbox.len() as u64;
        loop {
            let deadline = Instant::now() + CONFIRM;
            let confirmed = publisher.flush(deadline)?;
            if confirmed >= self.published {
                return Ok(true);
            }
            if Instant::now() < deadline {
                // It waits for nothing any more
                self.published = confirmed;
                publisher.refused();
                return Ok(false);
            }
            if self.ended.requested() {
                self.publisher = None;
                return Err(BusError::Unavailable(anyhow::anyhow!("it has not confirmed dead letters")));
            }
        }
    }

    /// Adds a dead letter and what the journal tells of it.
    fn write(&self, dead: &Dead, outbox: &mut Outbox) {
        let message = &*dead.delivery.message;
        let headers = headers(message, &dead.name);
        let record = Record { headers: Headers::from_encoded(&headers), ..message.record() };
        let here = DeadLetters { stop: NAME.into(), topic: message.topic.clone(), error: self.error.clone() };
        let mut batch = Batch::default();
        batch.push(record);
        let mut letter = Outbox::default();
        let attempt = dead.delivery.failed + 1;
        here.write_after(&history(&dead.delivery), &mut letter, 0, &record, &dead.reason, attempt);
        for letter in letter.iter(&batch) {
            outbox.publish_with(letter.topic, letter.timestamp, letter.key, letter.headers, letter.value);
        }
        if self.journal.level != Level::Off {
            note_refused(&self.journal, &here, outbox, 0, &record, Some(&message.id), &dead.reason);
        }
    }
}

enum Sent {
    Confirmed,
    /// The bus does not take one of them at all.
    Refused,
    /// The bus failed, in a way that waiting does not mend.
    Failed,
    /// The end of the process was asked for.
    Not,
}

fn again(wait: Duration, failed: u32, history: Option<&str>) -> Came {
    Came::Again { due: milliseconds(SystemTime::now() + wait), failed, history: history.unwrap_or_default().to_owned() }
}

/// The record headers of a letter, but for those of all letters.
fn headers(message: &Stored, subscriber: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let record = message.record();
    for (name, value) in record.headers.into_iter().filter(|(name, _)| *name != SUBSCRIBER_HEADER) {
        Headers::push(&mut out, name, value);
    }
    Headers::push(&mut out, SUBSCRIBER_HEADER, Some(subscriber.as_bytes()));
    if record.headers.get(ID_HEADER).is_none() && is_uuid(&message.id) {
        Headers::push(&mut out, ID_HEADER, Some(message.id.as_bytes()));
    }
    out
}
