//! `metrobus subscriber`: who is called for messages, and how they do.

mod add;
mod test;

use std::collections::HashMap;

use anyhow::{Result, bail};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use comfy_table::{Table, presets::NOTHING};
use serde_json::{Value, json};

use super::{Context, Kind, Role};
use crate::{
    config::Config,
    deliver::{
        options::{self, Options},
        store::{State, Store, milliseconds},
    },
    subscriber::{self, Editor, Subscriber, Subscribers},
    terminal::{drawn, moment, plain},
};

pub const ROLE: Role = Role {
    name: "subscriber",
    about: "Subscribers: add one, list them, take one away, try one, enable one again",
    kind: Kind::Command { arguments, run },
};

#[derive(Debug, Args)]
struct List {
    /// Only those of this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Print an object a line: name, topic, url, filter, language, signed, from, failing_since, disabled, waiting
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Named {
    /// Its name, as `subscriber ls` shows it
    #[arg(value_name = "NAME")]
    name: String,
}

fn arguments(command: Command) -> Command {
    let add = add::command(Command::new("add")).about("Add a subscriber to the table; prints its name, and its secret");
    let ls = List::augment_args(Command::new("ls")).about("List subscribers and how they do");
    let rm = Named::augment_args(Command::new("rm")).about("Take a subscriber out of the table");
    let test = test::command(Command::new("test")).about("Make the request that a message would make");
    let enable =
        Named::augment_args(Command::new("enable")).about("Call a subscriber again that was disabled, at once");
    command.subcommand_required(true).arg_required_else_help(true).subcommands([add, ls, rm, test, enable])
}

fn run(matches: &ArgMatches, context: &Context) -> Result<()> {
    match matches.subcommand() {
        Some(("add", matches)) => add::run(matches, context),
        Some(("ls", matches)) => list(&List::from_arg_matches(matches)?, &context.config),
        Some(("rm", matches)) => remove(&Named::from_arg_matches(matches)?.name, &context.config),
        Some(("test", matches)) => test::run(matches, context),
        Some(("enable", matches)) => enable(&Named::from_arg_matches(matches)?.name, &context.config),
        _ => Ok(()),
    }
}

fn list(arguments: &List, config: &Config) -> Result<()> {
    let (subscribers, faults) = subscriber::load(config)?;
    let states = states(config)?;
    let in_file = in_file(config)?;
    let wanted = |one: &&Subscriber| arguments.topic.as_ref().is_none_or(|topic| topic == one.topic.as_str());
    let mut all: Vec<_> = subscribers.iter().map(|subscriber| &**subscriber).filter(wanted).collect();
    all.sort_by(|a, b| (&a.topic, &a.name).cmp(&(&b.topic, &b.name)));
    // Rows that are none are told beside what the command is for
    faults.iter().for_each(|fault| eprintln!("note: {fault}"));
    let state = |subscriber: &Subscriber| states.get(&subscriber.name);
    let text = match arguments.json {
        true => all.iter().map(|one| object(one, state(one), in_file.contains(&one.name)).to_string() + "\n").collect(),
        false if all.is_empty() => "there are no subscribers\n".to_owned(),
        false => table(all.iter().map(|one| (*one, state(one)))),
    };
    super::print(text.as_bytes())
}

/// The names of those that stand in the configuration.
fn in_file(config: &Config) -> Result<Vec<String>> {
    Ok(Options::new(config)?.subscriber.into_iter().map(|listed| listed.name).collect())
}

/// How subscribers do, by name; of those that something was ever to be delivered to.
fn states(config: &Config) -> Result<HashMap<String, State>> {
    let states = match Store::existing(&Options::new(config)?.store)? {
        Some(store) => store.states()?,
        None => Vec::new(),
    };
    Ok(states.into_iter().map(|state| (state.name.clone(), state)).collect())
}

fn table<'a>(all: impl Iterator<Item = (&'a Subscriber, Option<&'a State>)>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["NAME", "TOPIC", "URL", "FILTER", "STATE", "WAITING"]);
    for (subscriber, state) in all {
        let how = match state {
            Some(State { disabled: Some(why), .. }) => format!("disabled: {}", plain(why)),
            Some(State { failing: Some(failing), .. }) => {
                format!("failing since {}", moment(milliseconds(failing.since)))
            }
            _ => "ok".to_owned(),
        };
        let waiting = state.map_or(0, |state| state.waiting).to_string();
        let filter = subscriber.filter.text().trim();
        let filter = if filter.is_empty() { "-".to_owned() } else { cut(&plain(filter), FILTER) };
        table.add_row([
            subscriber.name.clone(),
            subscriber.topic.to_string(),
            cut(&plain(&url(subscriber)), URL),
            filter,
            how,
            waiting,
        ]);
    }
    drawn(table, [5])
}

/// Longer ones are cut in the table.
const FILTER: usize = 50;
const URL: usize = 60;

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Without what is behind the question mark, which may be secret.
fn url(subscriber: &Subscriber) -> String {
    let mut url = subscriber.target.url().clone();
    url.set_fragment(None);
    if url.query().is_some() {
        url.set_query(Some("***"));
    }
    url.to_string()
}

fn object(subscriber: &Subscriber, state: Option<&State>, in_file: bool) -> Value {
    let Subscriber { name, topic, filter, secrets, of_switch, .. } = subscriber;
    let failing = state.and_then(|state| state.failing.as_ref());
    json!({
        "name": name,
        "topic": topic.as_str(),
        "url": url(subscriber),
        "filter": filter.text(),
        "language": filter.language(),
        "signed": !secrets.is_empty(),
        "from": match (in_file, of_switch) { (true, _) => "file", (_, true) => "switch", _ => "table" },
        "failing_since": failing.map(|failing| milliseconds(failing.since)),
        "disabled": state.and_then(|state| state.disabled.as_ref()),
        "waiting": state.map_or(0, |state| state.waiting),
    })
}

fn remove(name: &str, config: &Config) -> Result<()> {
    if in_file(config)?.iter().any(|listed| listed == name) {
        bail!("{name} stands in the configuration: take its [[{}.subscriber]] out there", options::SECTION);
    }
    let table = Options::new(config)?.subscribers;
    if !table.exists() || !Editor::open(&table).and_then(|mut table| table.remove(name)).map_err(anyhow::Error::msg)? {
        bail!("there is no subscriber {name:?} in {}; `subscriber ls` lists them", table.display());
    }
    super::print(format!("{name} is called no more\n").as_bytes())
}

fn enable(name: &str, config: &Config) -> Result<()> {
    let (subscribers, _) = subscriber::load(config)?;
    named(&subscribers, name)?;
    let was_disabled = match Store::existing(&Options::new(config)?.store)? {
        Some(mut store) => store.enable(name)?,
        None => false,
    };
    let text = match was_disabled {
        true => "is called again",
        false => "was not disabled; what has failed is tried again at once",
    };
    super::print(format!("{name} {text}\n").as_bytes())
}

fn named<'a>(subscribers: &'a Subscribers, name: &str) -> Result<&'a Subscriber> {
    match subscribers.named(name) {
        Some(subscriber) => Ok(subscriber),
        None => bail!("there is no subscriber {name:?}; `subscriber ls` lists them"),
    }
}
