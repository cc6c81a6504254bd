//! `track`: the journey of one message, or of those with a key or a field, out of the journal.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use clap::{Args, Command, FromArgMatches};

use super::{Context, Kind, Role};
use crate::{
    cli::count,
    journal::{
        Level, PARENT,
        follow::Follower,
        index::{Found, Index},
        journey::Journey,
    },
};

pub const ROLE: Role = Role {
    name: "track",
    about: "Show the journey of a message: stops, times, waits, why it ended, what is next",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// The message's id, or the place of one of its records: TOPIC/PARTITION/OFFSET
    #[arg(value_name = "ID", required_unless_present_any = ["key", "field"])]
    id: Option<String>,
    /// All messages with this record key
    #[arg(long, value_name = "KEY", conflicts_with = "id")]
    key: Option<String>,
    /// All messages in whose payload a field had this value; `journal.fields` names the fields that are noted
    #[arg(long, value_name = "NAME=VALUE", value_parser = field, conflicts_with_all = ["id", "key"])]
    field: Option<(String, String)>,
    /// Of several journeys, show the last N
    #[arg(short = 'n', value_name = "N", default_value_t = 10, value_parser = count, allow_negative_numbers = true)]
    last: u64,
    /// Print an object a line, one for each journey
    #[arg(long)]
    json: bool,
}

fn field(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) =
        text.split_once('=').ok_or("a field and its value are expected, as in account_number=1000001")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let options = &context.config.journal;
    if let Some((name, _)) = arguments.field.as_ref().filter(|(name, _)| !options.fields.contains(name)) {
        let noted = options.fields.join(", ");
        bail!("the journal notes no field {name:?}: journal.fields names those that it does ({noted})");
    }
    let bus = context.bus()?;
    let mut follower = Follower::open(&*bus, options, context.connect_timeout, &context.shutdown)?;
    follower.catch_up()?;
    if context.shutdown.requested() {
        return Ok(());
    }
    let (asked, mut journeys) = arguments.find(follower.index())?;
    if journeys.is_empty() {
        let why = match options.level {
            Level::All => "",
            Level::Ends => "; it notes only where journeys end (journal.level = \"ends\")",
            Level::Off => "; it is off (journal.level = \"off\")",
        };
        bail!("the journal has nothing of {asked}{why}");
    }
    journeys.sort_by_key(Journey::began);
    let more = journeys.len().saturating_sub(usize::try_from(arguments.last).unwrap_or(usize::MAX));
    for journey in &mut journeys[more..] {
        journey.copies = copies(follower.index(), &journey.name)?;
    }
    let mut shown: Vec<_> = journeys[more..].iter().map(|journey| arguments.show(journey)).collect();
    if more > 0 && !arguments.json {
        shown.insert(0, format!("{more} earlier journeys are not shown; -n takes how many are\n"));
    }
    super::print(shown.join(if arguments.json { "" } else { "\n" }).as_bytes())
}

impl Arguments {
    /// What was asked for, in words, and the journeys of it.
    fn find(&self, index: &Index) -> Result<(String, Vec<Journey>)> {
        if let Some(key) = &self.key {
            let asked = format!("the key {key:?}");
            let journeys = whole(index, index.hops_with_key(key.as_bytes())?, &format!("key {key}"))?;
            return Ok((asked, journeys));
        }
        if let Some((name, value)) = &self.field {
            let asked = format!("the field {name:?} with the value {value:?}");
            let journeys = whole(index, index.hops_with_field(name, value)?, &format!("{name} {value}"))?;
            return Ok((asked, journeys));
        }
        let id = self.id.as_deref().unwrap_or_default();
        let mut hops = index.hops_of(id)?;
        if hops.is_empty() {
            // Programs show UUIDs in several ways
            let usual = uuid::Uuid::parse_str(id).map(|id| id.to_string());
            hops = usual.map_or(Ok(Vec::new()), |id| index.hops_of(&id))?;
        }
        let name = hops.first().and_then(|hop| hop.id.clone());
        let mut journeys: Vec<_> = name.and_then(|name| Journey::new(name, hops)).into_iter().collect();
        if let Some((topic, partition, offset)) = place(id).filter(|_| journeys.is_empty()) {
            journeys = whole(index, index.hops_at(topic, partition, offset)?, id)?;
        }
        Ok((format!("a message {id:?}"), journeys))
    }

    fn show(&self, journey: &Journey) -> String {
        match self.json {
            true => format!("{}\n", journey.json()),
            false => journey.text(),
        }
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
