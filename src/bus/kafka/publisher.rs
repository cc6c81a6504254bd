//! New records, at any speed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::anyhow;

use super::{
    admin::Admin,
    raw::Error,
    sender::{PUSHED, Sender},
    settings::Settings,
};
use crate::bus::{Batch, BusError, Outbox, OutputRef, Publisher, Refusal};

/// Longest wait of a call that may be repeated.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two calls of somebody who publishes as fast as possible there is less.
const BREAK: Duration = Duration::from_millis(5);
/// Records in flight that are not worth waiting for more.
const FEW: usize = 1000;

pub struct KafkaPublisher {
    settings: Arc<Settings>,
    sender: Sender,
    taken: usize,
    confirmed: u64,
    refused: Vec<Refusal>,
    /// When something was published last.
    last: Instant,
}

impl KafkaPublisher {
    pub fn open(settings: &Arc<Settings>, admin: &Arc<Admin>) -> Result<Self, BusError> {
        let sender = Sender::open(settings, admin, None)?;
        let (settings, refused) = (settings.clone(), Vec::new());
        Ok(Self { settings, sender, taken: 0, confirmed: 0, refused, last: Instant::now() })
    }

    fn serve(&mut self, wait: Duration) -> Result<(), BusError> {
        self.sender.serve(wait).map_err(fatal)?;
        self.confirmed += self.sender.delivered().count() as u64;
        for refused in self.sender.recover()? {
            self.refuse(refused.token as usize, refused.reason);
        }
        let Self { settings, sender, .. } = self;
        settings.health.check(|| sender.producer().client().answers(Duration::from_millis(500)));
        Ok(())
    }

    fn refuse(&mut self, output: usize, reason: String) {
        tracing::warn!("not published: {reason}");
        self.refused.push(Refusal { output, reason });
    }

    /// Makes sure that the topics of `outbox` can be sent to.
    fn prepare(&mut self, outbox: &Outbox, deadline: Instant) -> Result<(), BusError> {
        self.serve(Duration::ZERO)?;
        if self.sender.is_recovering() && !self.wait(deadline)? {
            return self.waits();
        }
        if !self.sender.knows(outbox.topics().iter()) && !self.sender.learn(outbox.topics())? {
            if !self.wait(deadline)? {
                return self.waits();
            }
            self.sender.reopen()?;
        }
        Ok(())
    }

    /// Waits until nothing is in flight; false at the deadline.
    fn wait(&mut self, deadline: Instant) -> Result<bool, BusError> {
        loop {
            self.serve(Duration::ZERO)?;
            if self.sender.is_idle() {
                return Ok(true);
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            // Not for longer: a push that has gone unnoticed is repeated by then
            self.serve((deadline - now).min(PUSHED))?;
        }
    }

    fn waits<T>(&self) -> Result<T, BusError> {
        Err(BusError::Unavailable(self.settings.health.waits()))
    }
}

fn fatal(error: Error) -> BusError {
    BusError::Fatal(anyhow!("producer: {error}"))
}

impl Publisher for KafkaPublisher {
    fn publish(&mut self, outbox: &Outbox) -> Result<(), BusError> {
        let deadline = Instant::now() + PATIENCE;
        let none = Batch::default();
        self.prepare(outbox, deadline)?;
        let bytes = outbox.bytes(&none);
        if !self.sender.wait_for_room(outbox.len(), bytes, deadline).map_err(fatal)? {
            return self.waits();
        }
        for output in outbox.iter(&none) {
            let target = self.sender.target(output.topic).unwrap_or_default();
            let number = self.taken;
            self.taken += 1;
            match self.sender.too_large(target, &output) {
                Some(reason) => self.refuse(number, reason),
                None => self.sender.send(target, &output, number as u64).map_err(fatal)?,
            }
        }
        // Who takes a break or has sent little may not come back soon
        let paused = std::mem::replace(&mut self.last, Instant::now()).elapsed() > BREAK;
        if paused || self.sender.in_flight() < FEW {
            self.sender.push();
        }
        Ok(())
    }

    fn refusals(&mut self, outbox: &Outbox) -> Result<Vec<Refusal>, BusError> {
        self.prepare(outbox, Instant::now() + PATIENCE)?;
        let none = Batch::default();
        let refusal = |(output, record): (usize, OutputRef<'_>)| {
            let reason = self.sender.too_large(self.sender.target(record.topic)?, &record)?;
            Some(Refusal { output, reason })
        };
        Ok(outbox.iter(&none).enumerate().filter_map(refusal).collect())
    }

    fn refused(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refused)
    }

    fn flush(&mut self, deadline: Instant) -> Result<u64, BusError> {
        self.wait(deadline)?;
        Ok(self.confirmed)
    }
}
