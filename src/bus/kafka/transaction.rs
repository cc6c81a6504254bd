//! Exactly once: outputs and offsets of some time are one transaction.
//!
//! A transaction is begun by the first settle and committed when it is old or long enough, much sooner where nothing more
//! waits to be read, when the stop flushes, and before a partition is given up. Readers see its outputs from then on, and the group's offsets move with them.
//!
//! Where something goes wrong that a transaction does not survive, it is aborted, the consumer is set back to what is
//! committed, and all is read again; batches of before are stale by their epoch, so settling them does nothing. Where
//! the producer itself is of no use any more it is made anew, unless it has a name (`kafka.instance`) that another process
//! has taken over: then this one has to end.
//!
//! An output that the broker refuses spoils its transaction. The inputs whose outputs were in the refused batches are
//! suspects; when they come again each is sent alone, and what is refused alone is convicted: the next time it becomes a
//! dead letter.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{
    raw::{Code, Error},
    sender::Refused,
    subscription::{KafkaSubscription, PATIENCE},
};
use crate::bus::{Batch, BusError, OutputRef, Topic};

/// A transaction is committed after that many outputs and inputs, however young it is.
const MOST_RECORDS: usize = 250_000;
/// Wait before a call is repeated that failed for now.
const AGAIN: Duration = Duration::from_millis(20);

#[derive(Default)]
pub struct State {
    phase: Phase,
    /// Nothing more waited to be read when it was last looked for.
    pub caught_up: bool,
    suspects: HashSet<(i32, i64)>,
    convicted: HashMap<(i32, i64), Conviction>,
}

/// An output that was refused with nothing beside it.
struct Conviction {
    topic: Topic,
    reason: String,
    /// Whether its time is why.
    time: bool,
}

#[derive(Default, Debug)]
enum Phase {
    #[default]
    Idle,
    Open {
        since: Instant,
        records: usize,
    },
    /// The offsets that the transaction is about, once all outputs are delivered; then whether Kafka has got them.
    Committing(Option<(Vec<(i32, i64)>, bool)>),
    Aborting,
}

impl State {
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// When something is to be done, where a transaction is open; at `now` or before where it is time.
    pub fn due(&self, longest: Duration, now: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Idle => None,
            Phase::Open { since, records } if records < MOST_RECORDS => {
                Some(since + if self.caught_up { longest / 10 } else { longest })
            }
            _ => Some(now),
        }
    }
}

impl KafkaSubscription {
    /// Claims the transactional id, where there is one.
    pub(super) fn init_transactions(&mut self) -> Result<(), BusError> {
        if self.transaction.is_none() {
            return Ok(());
        }
        match self.sender.producer().init_transactions(PATIENCE * 2) {
            Ok(()) => Ok(()),
            Err(error) if error.fatal => Err(self.fatal(&error)),
            // An older transaction of the same id is still being finished, or nobody is there
            Err(error) => Err(BusError::Unavailable(self.settings.health.waits().context(error.to_string()))),
        }
    }

    /// Opens a transaction for what is settled next, at least once none.
    pub(super) fn begin(&mut self, records: usize) -> Result<(), BusError> {
        let Some(state) = &mut self.transaction else { return Ok(()) };
        match &mut state.phase {
            Phase::Open { records: open, .. } => *open += records,
            _ => match self.sender.producer().begin_transaction() {
                Ok(()) => state.phase = Phase::Open { since: Instant::now(), records },
                Err(error) => return self.transaction_failed(&error),
            },
        }
        Ok(())
    }

    /// Whether outputs may be sent; finishes the last transaction where it is about to end.
    pub(super) fn ready_to_send(&mut self, deadline: Instant) -> Result<bool, BusError> {
        match &self.transaction {
            Some(State { phase: Phase::Committing(_) | Phase::Aborting, .. }) => self.finish(deadline),
            _ => Ok(true),
        }
    }

    /// Ends the transaction where it is time.
    pub(super) fn commit_due(&mut self, now: Instant) -> Result<(), BusError> {
        let due = self.transaction.as_ref().and_then(|state| state.due(self.settings.options.transaction, now));
        if due.is_some_and(|due| due <= now) {
            self.commit_transaction(now + PATIENCE / 4)?;
        }
        Ok(())
    }

    /// Ends the transaction, committed or aborted; false where it is not ended yet, or cannot be because something is
    /// settled behind something that is not.
    pub(super) fn commit_transaction(&mut self, deadline: Instant) -> Result<bool, BusError> {
        if let Some(State { phase: phase @ Phase::Open { .. }, .. }) = &mut self.transaction {
            if self.watermarks.has_holes() {
                return Ok(false);
            }
            *phase = Phase::Committing(None);
        }
        self.finish(deadline)
    }

    /// Before partitions are given up: what is settled is committed, or else undone.
    pub(super) fn hand_over_transaction(&mut self, lost: bool, deadline: Instant) -> Result<(), BusError> {
        if lost || !self.commit_transaction(deadline)? {
            let Some(state) = &mut self.transaction else { return Ok(()) };
            match state.phase {
                // Past the point of no return: it will be known whether the offsets were in time
                Phase::Idle | Phase::Committing(Some((_, true))) => {}
                _ => state.phase = Phase::Aborting,
            }
            self.finish(deadline)?;
        }
        Ok(())
    }

    /// Undoes what is open, if the broker takes it at once; else it does so itself after `transaction.timeout.ms`.
    pub(super) fn abandon_transaction(&mut self) {
        if self.transaction.as_ref().is_some_and(|state| !state.is_idle()) {
            let _ = self.sender.abort_transaction(Duration::from_secs(1));
        }
    }

    /// Goes on with a commit or an abort; false at the deadline.
    fn finish(&mut self, deadline: Instant) -> Result<bool, BusError> {
        loop {
            let Some(state) = &mut self.transaction else { return Ok(true) };
            let phase = std::mem::take(&mut state.phase);
            let left = deadline.saturating_duration_since(Instant::now()).clamp(AGAIN, PATIENCE);
            let result = match phase {
                Phase::Idle => return Ok(true),
                Phase::Open { .. } => {
                    state.phase = phase;
                    return Ok(false);
                }
                Phase::Committing(None) => {
                    state.phase = phase;
                    self.collect_offsets()
                }
                Phase::Committing(Some((offsets, false))) if !offsets.is_empty() => {
                    let result = self.sender.producer().send_offsets(&self.consumer, &offsets, left);
                    let sent = result.is_ok();
                    self.set_phase(Phase::Committing(Some((offsets, sent))));
                    result
                }
                Phase::Committing(Some((offsets, _))) => {
                    let result = self.sender.producer().commit_transaction(left);
                    match &result {
                        Ok(()) => {
                            self.watermarks.sent_offsets(&offsets);
                            offsets
                                .iter()
                                .for_each(|&(partition, offset)| self.watermarks.committed(partition, offset));
                        }
                        Err(_) => self.set_phase(Phase::Committing(Some((offsets, true)))),
                    }
                    result
                }
                Phase::Aborting => {
                    state.phase = phase;
                    match self.sender.abort_transaction(left) {
                        // There was none: it failed before it was begun
                        Ok(()) | Err(Error { code: Code::State, fatal: false, .. }) => {
                            self.undone()?;
                            Ok(())
                        }
                        Err(error) => Err(error),
                    }
                }
            };
            if let Err(error) = result {
                self.transaction_failed(&error)?;
                if Instant::now() >= deadline {
                    return Ok(false);
                }
                if error.retriable {
                    std::thread::sleep(AGAIN);
                }
            }
        }
    }

    fn set_phase(&mut self, phase: Phase) {
        if let Some(state) = &mut self.transaction {
            state.phase = phase;
        }
    }

    /// Waits for the last deliveries, then notes which offsets belong to the transaction.
    fn collect_offsets(&mut self) -> Result<(), Error> {
        let end = Instant::now() + AGAIN * 5;
        while self.sender.in_flight() > 0 && !self.sender.has_failed() && Instant::now() < end {
            self.take_deliveries(Duration::from_millis(5))?;
        }
        if self.sender.has_failed() {
            self.set_phase(Phase::Aborting);
        } else if self.sender.in_flight() == 0 {
            self.watermarks.advance();
            let offsets = self.watermarks.unsent();
            self.set_phase(Phase::Committing(Some((offsets, false))));
        } else {
            return Err(Error::again());
        }
        Ok(())
    }

    /// Forgets what was not committed: all of it will be read again.
    fn undone(&mut self) -> Result<(), BusError> {
        let failed = self.sender.take_failed()?;
        if let Some(state) = &mut self.transaction {
            for refused in failed {
                let Some((batch, index)) = self.watermarks.input(refused.token) else { continue };
                let place = (batch.get(index).partition, batch.get(index).offset);
                if refused.alone {
                    state.suspects.remove(&place);
                    let Refused { topic, reason, time, .. } = refused;
                    state.convicted.insert(place, Conviction { topic, reason, time });
                } else {
                    state.suspects.insert(place);
                }
            }
            state.phase = Phase::Idle;
        }
        self.set_back = self.watermarks.set_back();
        Ok(())
    }

    /// What to do about an error of the transaction: abort, call again, or end. Without transactions, end.
    pub(super) fn transaction_failed(&mut self, error: &Error) -> Result<(), BusError> {
        let Some(state) = &mut self.transaction else { return Err(self.fatal(error)) };
        if error.fatal {
            return self.replace_producer(error);
        }
        if error.retriable && !error.abort {
            return Ok(());
        }
        tracing::warn!("a transaction is undone and done again: {error}");
        state.phase = Phase::Aborting;
        Ok(())
    }

    /// Makes the producer anew, unless another one has taken its name over.
    pub(super) fn replace_producer(&mut self, error: &Error) -> Result<(), BusError> {
        // The first error may only say that there is one
        let cause = self.sender.producer().client().fatal();
        let error = cause.as_ref().unwrap_or(error);
        if self.transaction.is_none() || self.settings.options.instance.is_some() && error.is_fenced() {
            return Err(self.fatal(error));
        }
        tracing::warn!("the producer is made anew, its transaction is done again: {error}");
        self.undone()?;
        self.sender.reopen()?;
        self.init_transactions()
    }

    fn fatal(&self, error: &Error) -> BusError {
        let instance = self.settings.options.instance.as_deref().unwrap_or_default();
        if error.is_fenced() {
            return BusError::Fatal(anyhow!(
                "another process with kafka.instance = {instance:?} has taken over from this one, or its transaction took \
                 longer than transaction.timeout.ms: {error}"
            ));
        }
        BusError::Fatal(anyhow!("producer: {error}"))
    }

    /// Why the output must not be sent again, where it was refused before, and whether its time is why.
    pub(super) fn convicted(&self, batch: &Batch, output: &OutputRef<'_>) -> Option<(String, bool)> {
        let convicted = &self.transaction.as_ref()?.convicted;
        if convicted.is_empty() {
            return None;
        }
        let input = batch.get(output.input);
        let Conviction { topic, reason, time } = convicted.get(&(input.partition, input.offset))?;
        let amended = *time && output.timestamp == 0;
        (topic == output.topic && !amended).then(|| (reason.clone(), *time))
    }

    /// Whether the output has to be sent with nothing beside it.
    pub(super) fn suspect(&self, batch: &Batch, output: &OutputRef<'_>) -> bool {
        let Some(State { suspects, .. }) = &self.transaction else { return false };
        if suspects.is_empty() {
            return false;
        }
        let input = batch.get(output.input);
        suspects.contains(&(input.partition, input.offset))
    }
}
