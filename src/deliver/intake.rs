//! The handler of the stop that takes messages off a topic: who wants each of them.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Engine, SHAPE_HEADER, SUBSCRIBER_HEADER,
    request::webhook_id,
    store::{Incoming, Want},
};
use crate::{
    bus::Topic,
    filter::Data,
    handler::{Handler, Verdict},
    slip::Message,
    subscriber::{Subscriber, Subscribers},
};

/// Deliveries that are written at once, or somewhat more.
const MOST: usize = 20_000;

/// Takes messages of one topic into the store, and has them go on with their journeys where they are on one.
pub struct Intake {
    topic: Topic,
    engine: Arc<Engine>,
}

impl Intake {
    pub fn new(topic: &Topic, engine: &Arc<Engine>) -> Self {
        Self { topic: topic.clone(), engine: Arc::clone(engine) }
    }

    /// Adds those who want `message` to `wants`; gives what becomes of it.
    fn judge(&self, all: &Subscribers, message: &Message<'_>, wants: &mut Vec<Want>) -> Verdict {
        if let Some(name) = message.record.headers.get(SUBSCRIBER_HEADER) {
            // A dead letter that is sent again; the others had it
            let subscriber = std::str::from_utf8(name).ok().and_then(|name| all.named(name));
            let want = subscriber.and_then(|subscriber| self.want(subscriber));
            let Some(want) = want else {
                return Verdict::reject(format!("its subscriber is gone: {}", String::from_utf8_lossy(name)));
            };
            wants.push(want);
            return Verdict::Finish;
        }
        let data = Data::payload(&message.payload);
        let nothing =
            message.payload.raw().as_bytes()[1..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
        let of_switch = message.record.headers.get(SHAPE_HEADER).is_some();
        let mut failed = 0;
        for subscriber in all.of(&self.topic) {
            // switch takes what Python counts as false for nothing to send
            if nothing && (of_switch || subscriber.of_switch) {
                continue;
            }
            match subscriber.filter.judge(&data) {
                Ok(true) => wants.extend(self.want(subscriber)),
                Ok(false) => {}
                Err(_) => failed += 1,
            }
        }
        if failed > 0 {
            self.engine.counts().filters.fetch_add(failed, Ordering::Relaxed);
        }
        Verdict::Forward
    }

    fn want(&self, subscriber: &Subscriber) -> Option<Want> {
        // One that the engine does not know yet came this very moment
        Some(Want { subscriber: self.engine.number(&subscriber.name)?, ordered: subscriber.ordered })
    }

    fn take(&self, incoming: &mut Vec<Incoming<'_>>) -> anyhow::Result<()> {
        if !incoming.is_empty() {
            self.engine.take(&self.topic, incoming)?;
            incoming.clear();
        }
        Ok(())
    }
}

impl Handler for Intake {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        let all = self.engine.subscribers();
        let mut verdicts = Vec::with_capacity(messages.len());
        let (mut incoming, mut count) = (Vec::new(), 0);
        for message in messages.iter() {
            let mut wants = Vec::new();
            verdicts.push(self.judge(&all, message, &mut wants));
            let Some(body) = body(message) else { continue };
            if wants.is_empty() {
                continue;
            }
            count += wants.len();
            let id = webhook_id(message.id(), &self.topic, &message.record);
            incoming.push(Incoming { record: message.record, id, body, wants });
            if count >= MOST {
                self.take(&mut incoming)?;
                count = 0;
            }
        }
        self.take(&mut incoming)?;
        Ok(verdicts)
    }
}

/// Where in the value of its record the payload of a message is.
fn body(message: &Message<'_>) -> Option<Range<usize>> {
    let (value, payload) = (message.record.value?, message.payload.raw().as_bytes());
    let from = (payload.as_ptr() as usize).checked_sub(value.as_ptr() as usize)?;
    let body = from..from + payload.len();
    (value.get(body.clone()) == Some(payload)).then_some(body)
}
