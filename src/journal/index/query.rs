//! What is asked of the index.

use anyhow::Result;
use rusqlite::{Row, named_params, params};
use serde::Serialize;

use super::{Index, NO_TEXT, field_mark, id_mark, key_mark};
use crate::journal::{Entry, Hop, Id, Outcome, label};

/// Entries about a place that are looked through at most: their ranges may overlap where hops were repeated.
const ABOUT_A_PLACE: i64 = 100;

/// A hop, with what its entry says of all its hops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The message's id as it is spelt.
    pub id: Option<String>,
    pub stop: String,
    /// The record that it was.
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// When its batch was begun, microseconds since the epoch.
    pub time: i64,
    /// Microseconds that the batch took.
    pub took: u32,
    pub outcome: Outcome,
    pub attempts: u32,
    pub reason: Option<String>,
    pub next: Option<String>,
    pub rule: Option<String>,
    pub key: Option<Vec<u8>>,
    pub fields: Vec<(String, String)>,
}

impl Found {
    fn new(entry: &Entry<'_>, hop: Hop<'_>) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            id: (!hop.id.is_none()).then(|| hop.id.to_string()),
            stop: entry.stop.to_owned(),
            topic: entry.topic.to_owned(),
            partition: entry.partition,
            offset: hop.offset,
            time: entry.time,
            took: entry.took,
            outcome: hop.outcome,
            attempts: hop.attempts,
            reason: owned(hop.reason),
            next: owned(hop.next),
            rule: owned(hop.rule),
            key: hop.key.map(<[u8]>::to_vec),
            fields: hop.fields.into_iter().map(|(name, value)| (name.to_owned(), value.into_owned())).collect(),
        }
    }

    /// `topic/partition/offset`.
    pub fn place(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// Which hops are counted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub stop: Option<String>,
    pub outcome: Option<Outcome>,
    /// A part of the reason, in whatever case.
    pub reason: Option<String>,
    /// Seconds since the epoch.
    pub since: Option<i64>,
}

/// Hops of the same kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    pub stop: String,
    #[serde(rename = "verdict")]
    pub outcome: Outcome,
    /// Up to its first colon.
    pub reason: Option<String>,
    pub count: u64,
    /// Some of the messages, the newest first: ids, or places of those that have none.
    pub samples: Vec<String>,
}

impl Index {
    /// The hops of the message with this id.
    pub fn hops_of(&self, id: &str) -> Result<Vec<Found>> {
        let id = Id::new(id);
        let Some(mark) = id_mark(&id) else { return Ok(Vec::new()) };
        self.marked(mark, |hop| hop.id == id)
    }

    /// Hops at which this key was noted: those where journeys begin, and those of messages without an id.
    pub fn hops_with_key(&self, key: &[u8]) -> Result<Vec<Found>> {
        self.marked(key_mark(key), |hop| hop.key == Some(key))
    }

    /// Hops at which this value of this field was noted.
    pub fn hops_with_field(&self, name: &str, value: &str) -> Result<Vec<Found>> {
        self.marked(field_mark(name, value), |hop| hop.fields.iter().any(|field| field.0 == name && field.1 == value))
    }

    /// What was noted of one record.
    pub fn hops_at(&self, topic: &str, partition: i32, offset: i64) -> Result<Vec<Found>> {
        let sql = "SELECT entry FROM entries
                   WHERE topic = (SELECT id FROM texts WHERE text = ?1) AND partition = ?2 AND first <= ?3
                   ORDER BY first DESC LIMIT ?4";
        self.entries(sql, params![topic, partition, offset, ABOUT_A_PLACE], |hop| hop.offset == offset)
    }

    fn marked(&self, mark: i64, wanted: impl FnMut(&Hop<'_>) -> bool) -> Result<Vec<Found>> {
        let sql =
            "SELECT entries.entry FROM marks JOIN entries ON number = marks.entry WHERE mark = ?1 ORDER BY number";
        self.entries(sql, params![mark], wanted)
    }

    /// The wanted hops of the entries that `sql` selects.
    fn entries(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        mut wanted: impl FnMut(&Hop<'_>) -> bool,
    ) -> Result<Vec<Found>> {
        let read = || {
            let mut found = Vec::new();
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query(values)?;
            while let Some(row) = rows.next()? {
                // What does not read was not taken in
                let Ok(entry) = Entry::read(row.get_ref(0)?.as_blob()?) else { continue };
                let hops = entry.hops().flatten().filter(|hop| wanted(hop));
                found.extend(hops.map(|hop| Found::new(&entry, hop)));
            }
            Ok(found)
        };
        read().map_err(|error| self.error("read", error))
    }

    /// Hops by stop, outcome and reason, most first within a stop, with at most `samples` messages of each.
    pub fn counts(&self, filter: &Filter, samples: usize) -> Result<Vec<Count>> {
        let read = || -> rusqlite::Result<Vec<Count>> {
            let mut statement = self.connection.prepare_cached(
                "SELECT stops.text, outcome, reasons.text, SUM(count), stop, reason
                 FROM counts JOIN texts stops ON stops.id = stop LEFT JOIN texts reasons ON reasons.id = reason
                 WHERE (:since IS NULL OR second >= :since)
                   AND (:stop IS NULL OR stops.text = :stop)
                   AND (:outcome IS NULL OR outcome = :outcome)
                   AND (:reason IS NULL OR INSTR(LOWER(reasons.text), LOWER(:reason)) > 0)
                 GROUP BY stop, outcome, reason
                 ORDER BY stops.text, outcome, SUM(count) DESC, reasons.text",
            )?;
            let outcome = filter.outcome.map(Outcome::code);
            let values = named_params! {
                ":since": filter.since, ":stop": filter.stop, ":outcome": outcome, ":reason": filter.reason,
            };
            let mut rows = statement.query(values)?;
            let mut counts = Vec::new();
            while let Some(row) = rows.next()? {
                let Some(outcome) = Outcome::from_code(row.get(1)?) else { continue };
                counts.push(Count {
                    stop: row.get(0)?,
                    outcome,
                    reason: row.get(2)?,
                    count: row.get::<_, i64>(3)? as u64,
                    samples: self.samples(row, outcome, filter.since, samples)?,
                });
            }
            Ok(counts)
        };
        read().map_err(|error| self.error("read", error))
    }

    /// Messages of a row of [`Index::counts`].
    fn samples(
        &self,
        row: &Row<'_>,
        outcome: Outcome,
        since: Option<i64>,
        most: usize,
    ) -> rusqlite::Result<Vec<String>> {
        let reason: Option<String> = row.get(2)?;
        let (stop, reason_id): (i64, Option<i64>) = (row.get(4)?, row.get(5)?);
        let mut statement = self.connection.prepare_cached(
            "SELECT entries.entry FROM counts JOIN entries ON number = counts.entry
             WHERE stop = ?1 AND outcome = ?2 AND reason = ?3 AND (?4 IS NULL OR second >= ?4)
             ORDER BY second DESC LIMIT ?5",
        )?;
        let values = params![stop, outcome.code(), reason_id.unwrap_or(NO_TEXT), since, most as i64];
        let mut rows = statement.query(values)?;
        let mut samples = Vec::new();
        while let Some(row) = rows.next()?.filter(|_| samples.len() < most) {
            let Ok(entry) = Entry::read(row.get_ref(0)?.as_blob()?) else { continue };
            let hops = entry.hops().flatten();
            let same = hops.filter(|hop| hop.outcome == outcome && hop.reason.map(label) == reason.as_deref());
            let name = |hop: Hop<'_>| {
                let found = Found::new(&entry, hop);
                found.id.clone().unwrap_or_else(|| found.place())
            };
            samples.extend(same.take(most - samples.len()).map(name));
        }
        Ok(samples)
    }
}
