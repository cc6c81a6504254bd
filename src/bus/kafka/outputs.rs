//! What comes of inputs: sent by the guarantee, and a dead letter in place of what its topic does not take.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{
    raw::Error,
    sender::Refused,
    subscription::{BUSY, KafkaSubscription, PATIENCE},
};
use crate::{
    bus::{Batch, BusError, Outbox, OutputRef},
    journal::{self, Level},
    slip,
};

impl KafkaSubscription {
    /// Makes a dead letter of the input whose output was refused after it had been sent.
    pub(super) fn bury(&mut self, refused: Refused) -> Result<(), BusError> {
        if refused.topic == self.settings.journal.topic {
            self.lose_entry(&refused.reason);
            self.watermarks.delivered(refused.token);
            self.watermarks.advance();
            return Ok(());
        }
        if refused.topic == self.letters.error {
            return Err(BusError::Fatal(anyhow!("a dead letter is lost on {}: {}", refused.topic, refused.reason)));
        }
        let Some((batch, index)) = self.watermarks.input(refused.token) else { return Ok(()) };
        let mut outbox = Outbox::default();
        self.reject(&mut outbox, index, &batch, refused.id.as_deref(), &refused.reason);
        for letter in outbox.iter(&batch) {
            self.sender.send_alone(&letter, refused.time, refused.token);
        }
        self.refused += 1;
        Ok(())
    }

    /// Makes a dead letter of an input whose output was noted as sent, and notes that too.
    fn reject(&self, outbox: &mut Outbox, input: usize, batch: &Batch, id: Option<&str>, reason: &str) {
        let record = batch.get(input);
        self.letters.write(outbox, input, &record, reason, 1);
        journal::note_refused(&self.settings.journal, &self.letters, outbox, input, &record, id, reason);
    }

    /// The topic takes no entry like this, now or later: no message is to blame, and none has to wait for it.
    fn lose_entry(&self, reason: &str) {
        tracing::error!("an entry of the journal is lost: {reason}");
    }

    /// Makes sure that `outbox` can be sent; false where a producer with smaller batches is to be made first, but
    /// cannot be yet.
    fn prepare(&mut self, outbox: &Outbox, deadline: Instant) -> Result<bool, BusError> {
        let journal = Some(&self.settings.journal).filter(|journal| journal.level != Level::Off);
        // What is refused later is told to these
        let own = || [&self.letters.error].into_iter().chain(journal.map(|journal| &journal.topic));
        let topics = || outbox.topics().iter().chain(own());
        if self.sender.knows(topics()) {
            return Ok(true);
        }
        let topics: BTreeSet<_> = topics().cloned().collect();
        if self.sender.learn(&topics.into_iter().collect::<Vec<_>>())? {
            return Ok(true);
        }
        if !self.flush_until(deadline)? {
            return Ok(false);
        }
        self.sender.reopen()?;
        self.init_transactions()?;
        Ok(true)
    }

    pub(super) fn flush_until(&mut self, deadline: Instant) -> Result<bool, BusError> {
        if self.transaction.is_some() {
            return self.commit_transaction(deadline);
        }
        loop {
            self.serve_sender(Duration::ZERO)?;
            if self.sender.is_idle() {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            self.serve_sender((deadline - now).min(BUSY))?;
        }
    }

    /// Sends an output, or in its place a dead letter of its input where the topic does not take it.
    fn send(
        &mut self,
        output: &OutputRef<'_>,
        token: u64,
        batch: &Batch,
        deadline: Instant,
    ) -> Result<Result<(), Error>, BusError> {
        let target = self.sender.target(output.topic).unwrap_or_default();
        let too_large = self.sender.too_large(target, output).map(|reason| (reason, false));
        let Some((reason, time)) = too_large.or_else(|| self.convicted(batch, output)) else {
            self.watermarks.sent(token);
            if !self.suspect(batch, output) {
                return Ok(self.sender.send(target, output, token));
            }
            let alone = self.sender.send_isolated(target, output, token, deadline);
            return Ok(
                alone.and_then(|done| if done && !self.sender.has_failed() { Ok(()) } else { Err(Error::undo()) })
            );
        };
        if *output.topic == self.settings.journal.topic {
            self.lose_entry(&reason);
            return Ok(Ok(()));
        }
        // A time that one topic refuses the next one would refuse too: librdkafka takes the present for 0
        let time_of = |output: &OutputRef<'_>| if time { 0 } else { output.timestamp };
        if *output.topic == self.letters.error {
            let lost = || BusError::Fatal(anyhow!("a dead letter is lost: {reason}"));
            let amended = OutputRef { timestamp: time_of(output), ..*output };
            return if time { self.send(&amended, token, batch, deadline) } else { Err(lost()) };
        }
        self.refused += 1;
        let mut outbox = Outbox::default();
        let id = output.value.and_then(slip::id_of);
        self.reject(&mut outbox, output.input, batch, id.as_deref(), &reason);
        outbox.iter(batch).try_fold(Ok(()), |sent, letter| match sent {
            Ok(()) => self.send(&OutputRef { timestamp: time_of(&letter), ..letter }, token, batch, deadline),
            Err(error) => Ok(Err(error)),
        })
    }

    pub(super) fn try_settle(
        &mut self,
        batch: &Arc<Batch>,
        inputs: Range<usize>,
        outbox: &Outbox,
    ) -> Result<(), BusError> {
        let deadline = Instant::now() + PATIENCE;
        let waits = |this: &Self| Err(BusError::Unavailable(this.settings.health.waits()));
        self.serve_sender(Duration::ZERO)?;
        while self.transaction.is_none() && self.sender.is_recovering() {
            // What was refused with its neighbours goes first
            if Instant::now() >= deadline {
                return waits(self);
            }
            self.serve_sender(BUSY)?;
        }
        if !self.ready_to_send(deadline)? || !self.prepare(outbox, deadline)? {
            return waits(self);
        }
        match self.sender.wait_for_room(outbox.len(), outbox.bytes(batch), deadline) {
            Ok(true) => {}
            Ok(false) => return waits(self),
            Err(error) => self.replace_producer(&error)?,
        }
        self.begin(inputs.len())?;
        let mut settled = self.watermarks.settle(batch, inputs);
        for output in outbox.iter(batch) {
            let Some(token) = settled.token(output.input) else { continue };
            if let Err(error) = self.send(&output, token, batch, deadline)? {
                // A transaction that is undone brings all of its inputs again
                self.transaction_failed(&error)?;
                break;
            }
        }
        self.watermarks.release(&settled);
        self.watermarks.advance();
        self.serve()
    }
}
