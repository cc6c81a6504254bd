//! A publisher of which there is one: a transaction a publish, under an id that is the same for all of a name.
//!
//! To open one claims the id: Kafka ends the transaction of the one before, committed or undone, and takes no more of it.
//! So what it was about is known when the new one is open. It is transactional also where the stops run at least once:
//! what they read is what is committed.
//!
//! The producer is never made anew, which would claim the id back from whoever has taken over.
//!
//! A process that is killed leaves a transaction open, and with it the readers of its topics wait: until the next one of the
//! name is opened, else for `transaction.timeout.ms`, ten seconds.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{
    admin::Admin,
    raw::{Code, Error},
    sender::{Refused, Sender},
    settings::Settings,
};
use crate::bus::{Batch, BusError, Fenced, FencedPublisher, Outbox, Refusal, Topic};

/// For what another one has begun to be ended.
const CLAIM: Duration = Duration::from_secs(10);

/// For the records of one publish to arrive: less than the broker leaves a transaction open.
const DELIVERY: Duration = Duration::from_secs(8);

/// For one attempt to end a transaction.
const PATIENCE: Duration = Duration::from_secs(2);

/// Wait before a call is repeated that failed for now.
const AGAIN: Duration = Duration::from_millis(20);

pub struct KafkaFenced {
    settings: Arc<Settings>,
    sender: Sender,
    name: String,
    phase: Phase,
    /// Records are to have no neighbours: one of them was refused, and those beside it with it.
    alone: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Idle,
    /// A transaction is open, whose records are on their way.
    Open,
    /// All records are delivered.
    Committing,
    Aborting,
}

impl KafkaFenced {
    pub fn open(settings: &Arc<Settings>, admin: &Arc<Admin>, name: &str) -> Result<Self, BusError> {
        let id = format!("{}-{name}", settings.options.group);
        let sender = Sender::open(settings, admin, Some(id)).map_err(|error| match error {
            // Some go with a producer, and not with transactions
            BusError::Fatal(error) => BusError::Fatal(error.context("kafka.properties")),
            error => error,
        })?;
        let publisher =
            Self { settings: settings.clone(), sender, name: name.to_owned(), phase: Phase::Idle, alone: false };
        match publisher.sender.producer().init_transactions(CLAIM) {
            Ok(()) => Ok(publisher),
            Err(error) if error.fatal => Err(publisher.fatal(&error)),
            Err(error) => Err(BusError::Unavailable(settings.health.waits().context(error.to_string()))),
        }
    }

    /// Whether its batches are short enough for all of `topics`: they were bounded by the limits that were known when it
    /// was opened, and one may have been changed.
    fn learn(&mut self, topics: &[Topic]) -> Result<bool, BusError> {
        Ok(self.sender.knows(topics.iter()) || self.sender.learn(topics)?)
    }

    fn too_large(&self, outbox: &Outbox) -> Option<Refusal> {
        outbox.iter(&Batch::default()).enumerate().find_map(|(index, output)| {
            let target = self.sender.target(output.topic).unwrap_or_default();
            self.sender.too_large(target, &output).map(|reason| Refusal { output: index, reason })
        })
    }

    /// One transaction with all of `outbox`; gives whether it was committed, `None` where it is not ended yet.
    fn attempt(&mut self, outbox: &Outbox) -> Result<Option<bool>, BusError> {
        match self.sender.producer().begin_transaction() {
            Ok(()) => self.phase = Phase::Open,
            Err(error) => self.failed(&error)?,
        }
        if self.phase == Phase::Open {
            let delivered = self.deliver(outbox, Instant::now() + DELIVERY);
            self.sender.delivered().for_each(drop);
            match delivered {
                Ok(true) => self.phase = Phase::Committing,
                Ok(false) => self.phase = Phase::Aborting,
                Err(error) => self.failed(&error)?,
            }
        }
        self.finish(Instant::now() + PATIENCE)
    }

    /// Which output the broker does not take, where that is why the last transaction is undone and it is clear which.
    fn refusal(&mut self) -> Result<Option<Refusal>, BusError> {
        let refused = self.sender.take_failed()?;
        self.alone |= refused.len() > 1;
        let one = Some(refused).filter(|refused| refused.len() == 1).and_then(|refused| refused.into_iter().next());
        Ok(one.map(|Refused { token, reason, .. }| Refusal { output: token as usize, reason }))
    }

    /// Whether all of `outbox` was delivered until the deadline.
    fn deliver(&mut self, outbox: &Outbox, deadline: Instant) -> Result<bool, Error> {
        let Self { sender, alone, .. } = self;
        for (index, output) in outbox.iter(&Batch::default()).enumerate() {
            let target = sender.target(output.topic).unwrap_or_default();
            let sent = if *alone {
                sender.send_isolated(target, &output, index as u64, deadline)?
            } else {
                let room = sender.wait_for_room(1, output.value.map_or(0, <[u8]>::len), deadline)?;
                if room && !sender.has_failed() {
                    sender.send(target, &output, index as u64)?;
                }
                room
            };
            if !sent || sender.has_failed() {
                return Ok(false);
            }
        }
        while sender.in_flight() > 0 && !sender.has_failed() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            sender.serve(left.min(AGAIN))?;
        }
        Ok(!sender.has_failed())
    }

    /// Ends the transaction that is there; gives whether it was committed, `None` where it is not ended at the deadline.
    fn finish(&mut self, deadline: Instant) -> Result<Option<bool>, BusError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(AGAIN);
            let result = match self.phase {
                Phase::Idle => return Ok(Some(false)),
                Phase::Committing => self.sender.producer().commit_transaction(left),
                Phase::Open | Phase::Aborting => match self.sender.abort_transaction(left) {
                    // There was none: it failed before it was begun
                    Err(Error { code: Code::State, fatal: false, .. }) => Ok(()),
                    result => result,
                },
            };
            match result {
                Ok(()) => {
                    let committed = self.phase == Phase::Committing;
                    self.phase = Phase::Idle;
                    return Ok(Some(committed));
                }
                Err(error) => self.failed(&error)?,
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(AGAIN);
        }
    }

    /// Undoes the transaction where that is what an error calls for; some are the end.
    fn failed(&mut self, error: &Error) -> Result<(), BusError> {
        if error.fatal || self.sender.producer().client().fatal().is_some() {
            return Err(self.fatal(error));
        }
        if !error.retriable || error.abort {
            tracing::debug!("a transaction of {} is undone: {error}", self.name);
            self.phase = Phase::Aborting;
        }
        Ok(())
    }

    fn fatal(&self, error: &Error) -> BusError {
        // The first error may only say that there is one
        let error = self.sender.producer().client().fatal().unwrap_or_else(|| error.clone());
        match error.is_fenced() {
            true => Fenced(self.name.clone()).into(),
            false => BusError::Fatal(anyhow!("producer: {error}")),
        }
    }

    fn waits<T>(&self) -> Result<T, BusError> {
        let Settings { health, .. } = &*self.settings;
        health.check(|| self.sender.producer().client().answers(Duration::from_millis(500)));
        Err(BusError::Unavailable(health.waits()))
    }
}

impl FencedPublisher for KafkaFenced {
    fn publish(&mut self, outbox: &Outbox) -> Result<Option<Refusal>, BusError> {
        // What the call before this one, the same, has left
        let mut ended = self.finish(Instant::now() + PATIENCE)?;
        // All together, and where one is refused that is not alone, one by one
        for _ in 0..2 {
            match ended {
                None => return self.waits(),
                Some(true) => break,
                Some(false) => {}
            }
            if let Some(refusal) = self.refusal()? {
                return Ok(Some(refusal));
            }
            self.alone |= !self.learn(outbox.topics())?;
            if let Some(refusal) = self.too_large(outbox) {
                return Ok(Some(refusal));
            }
            ended = self.attempt(outbox)?;
        }
        match ended {
            Some(true) => {
                self.alone = false;
                Ok(None)
            }
            // Undone, for whatever reason: where that is a refusal, the same call finds it
            _ => self.waits(),
        }
    }
}

impl Drop for KafkaFenced {
    fn drop(&mut self) {
        // What is open holds up the readers of its topics until the broker undoes it
        if matches!(self.phase, Phase::Open | Phase::Aborting) {
            let _ = self.sender.abort_transaction(Duration::from_secs(1));
        }
    }
}
