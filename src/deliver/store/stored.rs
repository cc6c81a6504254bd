//! What lies in the store, and what is said of it.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use axum::body::Bytes;
use rusqlite::{Row, types::Type};

use super::failing;
use crate::{
    bus::{Headers, Record, Topic},
    webhook::breaker::Failing,
};

/// A message that somebody is to get.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Ascends in the order in which messages were taken.
    pub number: i64,
    /// The same for each subscriber and attempt: the `webhook-id`.
    pub id: String,
    pub topic: Topic,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    /// In the encoding of [`Headers`].
    pub headers: Bytes,
    pub value: Bytes,
    /// Where in the value the payload is.
    pub body: Range<usize>,
}

impl Stored {
    /// Of a record, before it has a number.
    pub fn of(record: &Record<'_>, topic: &Topic, id: String, body: Range<usize>) -> Self {
        Self {
            number: 0,
            id,
            topic: topic.clone(),
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(Bytes::copy_from_slice),
            headers: Bytes::copy_from_slice(record.headers.encoded()),
            value: Bytes::copy_from_slice(record.value.unwrap_or_default()),
            body,
        }
    }

    /// The record that it was.
    pub fn record(&self) -> Record<'_> {
        Record {
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.as_deref(),
            headers: Headers::from_encoded(&self.headers),
            value: Some(&self.value),
        }
    }

    /// What a message is about.
    pub fn payload(&self) -> Bytes {
        self.value.slice(self.body.clone())
    }

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let blob = |index| row.get::<_, Option<Vec<u8>>>(index).map(|blob| blob.map(Bytes::from));
        let (value, topic): (Bytes, String) = (blob(8)?.unwrap_or_default(), row.get(2)?);
        let (from, to): (i64, i64) = (row.get(9)?, row.get(10)?);
        let outside = || rusqlite::Error::IntegralValueOutOfRange(10, to);
        let body = from.try_into().map_err(|_| outside())?..to.try_into().map_err(|_| outside())?;
        if value.get(body.clone()).is_none() {
            return Err(outside());
        }
        Ok(Self {
            number: row.get(0)?,
            id: row.get(1)?,
            topic: Topic::new(&topic)
                .map_err(|error| rusqlite::Error::FromSqlConversionFailure(2, Type::Text, error.into()))?,
            partition: row.get(3)?,
            offset: row.get(4)?,
            timestamp: row.get(5)?,
            key: blob(6)?,
            headers: blob(7)?.unwrap_or_default(),
            value,
            body,
        })
    }
}

/// Somebody who wants a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub subscriber: i64,
    /// Not before the messages of the same key that came before it.
    pub ordered: bool,
}

/// A message off the bus, and who wants it.
pub struct Incoming<'a> {
    pub record: Record<'a>,
    pub id: String,
    pub body: Range<usize>,
    pub wants: Vec<Want>,
}

/// A message that a subscriber is to get.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub message: Arc<Stored>,
    /// Milliseconds since the epoch.
    pub due: i64,
    /// Attempts that have failed.
    pub failed: u32,
    /// Of the key, where others of that key wait for this one.
    pub key: Option<i64>,
    /// What went wrong, as [`crate::dead_letter::history`] has it.
    pub history: Option<String>,
}

/// A delivery that was just taken.
pub struct Offer {
    pub subscriber: i64,
    pub delivery: Delivery,
}

/// What was new of what came.
#[derive(Default)]
pub struct Taken {
    /// What may go out at once.
    pub offers: Vec<Offer>,
    /// Deliveries of each subscriber, those too that wait for others of their key.
    pub counts: HashMap<i64, u64>,
    /// Subscribers for which something of it was taken before.
    pub before: HashSet<i64>,
}

/// What is due for a subscriber.
#[derive(Default)]
pub struct Due {
    pub now: Vec<Delivery>,
    /// Whether there is more that is due now.
    pub more: bool,
    /// When the next one will be.
    pub next: Option<i64>,
}

/// What came of a delivery.
#[derive(Clone, Debug)]
pub struct Settled {
    pub subscriber: i64,
    pub due: i64,
    pub message: i64,
    pub key: Option<i64>,
    pub came: Came,
}

#[derive(Clone, Debug)]
pub enum Came {
    /// It is over.
    Done,
    /// It is to be tried again.
    Again { due: i64, failed: u32, history: String },
}

/// How a subscriber does, as its breaker has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub failing: Option<Failing>,
    /// Why it is disabled.
    pub disabled: Option<String>,
    /// How often somebody has enabled it; it is only read.
    pub enabled: i64,
}

impl Standing {
    /// From four columns, the first of which is `first`.
    pub(super) fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let failing = failing(row.get(first)?, row.get(first + 1)?);
        Ok(Self { failing, disabled: row.get(first + 2)?, enabled: row.get(first + 3)? })
    }
}
