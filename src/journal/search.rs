//! Journeys by what somebody knows of a message: its id, its key, a field, or the place of one of its records.

use std::{collections::BTreeSet, fmt};

use anyhow::Result;

use super::{
    Level, Options, PARENT,
    index::{Found, Index},
    journey::Journey,
};

/// What is known of the messages that are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// An id, or the place of a record: `TOPIC/PARTITION/OFFSET`.
    Id(String),
    /// The key of their records.
    Key(String),
    /// A field of their payload, and its value.
    Field(String, String),
}

/// Journeys, the one that began first at the front.
pub struct Journeys {
    pub journeys: Vec<Journey>,
    /// Earlier ones that were left out.
    pub more: usize,
}

impl Wanted {
    /// `NAME=VALUE` as a field; else what is expected.
    pub fn field(text: &str) -> Result<(String, String), &'static str> {
        let (name, value) =
            text.split_once('=').ok_or("a field and its value are expected, as in account_number=1000001")?;
        Ok((name.to_owned(), value.to_owned()))
    }

    /// Whether the journal can know: else why not.
    pub fn check(&self, options: &Options) -> Result<(), String> {
        match self {
            Self::Field(name, _) if !options.fields.contains(name) => {
                let noted = options.fields.join(", ");
                Err(format!("the journal notes no field {name:?}: journal.fields names those that it does ({noted})"))
            }
            _ => Ok(()),
        }
    }

    /// That there is nothing, and why that may be.
    pub fn nothing(&self, options: &Options) -> String {
        let why = match options.level {
            Level::All => "",
            Level::Ends => "; it notes only where journeys end (journal.level = \"ends\")",
            Level::Off => "; it is off (journal.level = \"off\")",
        };
        format!("the journal has nothing of {self}{why}")
    }

    /// The last journeys, at most `last` of them, with what is known of their copies.
    pub fn find(&self, index: &Index, last: usize) -> Result<Journeys> {
        let mut journeys = match self {
            Self::Id(id) => of_id(index, id)?,
            Self::Key(key) => whole(index, index.hops_with_key(key.as_bytes())?, &format!("key {key}"))?,
            Self::Field(name, value) => whole(index, index.hops_with_field(name, value)?, &format!("{name} {value}"))?,
        };
        journeys.sort_by_key(Journey::began);
        let more = journeys.len().saturating_sub(last);
        journeys.drain(..more);
        for journey in &mut journeys {
            journey.copies = copies(index, &journey.name)?;
        }
        Ok(Journeys { journeys, more })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "a message {id:?}"),
            Self::Key(key) => write!(f, "the key {key:?}"),
            Self::Field(name, value) => write!(f, "the field {name:?} with the value {value:?}"),
        }
    }
}

fn of_id(index: &Index, id: &str) -> Result<Vec<Journey>> {
    let mut hops = index.hops_of(id)?;
    if hops.is_empty() {
        // Programs show UUIDs in several ways
        let usual = uuid::Uuid::parse_str(id).map(|id| id.to_string());
        hops = usual.map_or(Ok(Vec::new()), |id| index.hops_of(&id))?;
    }
    let name = hops.first().and_then(|hop| hop.id.clone());
    let journeys: Vec<_> = name.and_then(|name| Journey::new(name, hops)).into_iter().collect();
    match place(id).filter(|_| journeys.is_empty()) {
        Some((topic, partition, offset)) => whole(index, index.hops_at(topic, partition, offset)?, id),
        None => Ok(journeys),
    }
}

/// The ids of the copies of a message.
fn copies(index: &Index, id: &str) -> Result<Vec<String>> {
    let hops = index.hops_with_field(PARENT, id)?;
    Ok(hops.into_iter().filter_map(|hop| hop.id).collect::<BTreeSet<_>>().into_iter().collect())
}

/// `TOPIC/PARTITION/OFFSET`
fn place(text: &str) -> Option<(&str, i32, i64)> {
    let mut parts = text.split('/');
    let place = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(place)
}

/// The whole journeys of the messages of `hops`. Hops of messages without an id, which nothing ties together but what was
/// asked for, are one by this name.
fn whole(index: &Index, hops: Vec<Found>, name: &str) -> Result<Vec<Journey>> {
    let mut nameless = Vec::new();
    let mut ids = BTreeSet::new();
    for hop in hops {
        match &hop.id {
            Some(id) => _ = ids.insert(id.clone()),
            None => nameless.push(hop),
        }
    }
    let mut journeys: Vec<_> = Journey::new(name, nameless).into_iter().collect();
    for id in ids {
        let hops = index.hops_of(&id)?;
        journeys.extend(Journey::new(id, hops));
    }
    Ok(journeys)
}
