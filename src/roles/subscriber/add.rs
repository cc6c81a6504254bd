//! `subscriber add`: a row in the table, once everything about it is right.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Args, Command, FromArgMatches};
use serde_json::json;

use crate::{
    bus::Topic,
    deliver::{
        options::{CONCURRENCY, Options, rate},
        store::Store,
    },
    filter::{Filter, NotAFilter},
    roles::{Context, print},
    subscriber::{self, Editor, Fault, SubscriberOptions, check_name, header, readable},
};

#[derive(Debug, Args)]
struct Arguments {
    /// The topic whose messages it gets
    #[arg(long, value_name = "TOPIC", value_parser = topic)]
    topic: Topic,
    /// Where requests go; :name in its path is replaced for messages that come from switch's clients
    #[arg(long, value_name = "URL")]
    url: String,
    /// What it is called, A-Z a-z 0-9 . _ -; without it subscriber-1 and so on
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// Only messages that match, in CEL over data, as in 'data.amount > 100'
    #[arg(long, value_name = "CEL", value_parser = cel)]
    filter: Option<String>,
    /// Only messages that match, in Python as switch has it, as in "data['amount'] > 100"
    #[arg(long, value_name = "EXPRESSION", value_parser = python, conflicts_with = "filter")]
    python: Option<String>,
    /// File with keys to sign with, a whsec_... or whsk_... a line; read again when it changes
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Make a secret, keep it in the table, and print it, this once
    #[arg(long, conflicts_with = "secret_file")]
    generate_secret: bool,
    /// Sent with each request, as in 'X-From: metrobus'; may be repeated. Others on this machine see arguments: no secrets
    #[arg(long, value_name = "NAME: VALUE", value_parser = named_value)]
    header: Vec<(String, String)>,
    /// Most requests under way at once, 1 to 1000
    #[arg(long, value_name = "N", value_parser = concurrency, allow_negative_numbers = true)]
    concurrency: Option<usize>,
    /// Most requests in a second; 0 is no limit
    #[arg(long, value_name = "N", value_parser = requests, allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Deliver messages of one key one after another, in their order
    #[arg(long)]
    ordered: bool,
    /// Print an object: name, secret
    #[arg(long)]
    json: bool,
}

fn topic(text: &str) -> Result<Topic, String> {
    Topic::new(text).map_err(|error| error.to_string())
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

fn cel(text: &str) -> Result<String, NotAFilter> {
    Filter::cel(text).map(|_| text.to_owned())
}

fn python(text: &str) -> Result<String, NotAFilter> {
    Filter::python(text).map(|_| text.to_owned())
}

fn named_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a name, a colon and a value are expected")?;
    let (name, value) = (name.trim(), value.trim());
    header(name, value).map_err(|what| format!("it {what}"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn concurrency(text: &str) -> Result<usize, String> {
    let (least, most) = (CONCURRENCY.start(), CONCURRENCY.end());
    let number = text.parse().ok().filter(|number| CONCURRENCY.contains(number));
    number.ok_or_else(|| format!("an integer from {least} to {most} is expected"))
}

fn requests(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "a number is expected")?;
    rate(number).map(|_| number).map_err(ToString::to_string)
}

pub fn command(command: Command) -> Command {
    Arguments::augment_args(command)
}

pub fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let (config, defaults) = (&context.config, Options::new(&context.config)?);
    readable(config, &arguments.topic).map_err(|why| anyhow!("--topic: {why}"))?;
    let secret = arguments.generate_secret.then(generated).transpose()?;
    let options = SubscriberOptions {
        name: arguments.name.unwrap_or_default(),
        topic: arguments.topic,
        url: arguments.url,
        filter: arguments.filter,
        python: arguments.python,
        secrets: secret.iter().cloned().collect(),
        // Whoever delivers may run in another folder
        secret_file: arguments.secret_file.map(std::path::absolute).transpose()?,
        headers: arguments.header.into_iter().collect(),
        concurrency: arguments.concurrency,
        rate: arguments.rate,
        ordered: arguments.ordered.then_some(true),
        timeout: None,
        waits: None,
        jitter: None,
        disable_after: None,
    };
    if let Err(Fault { key, what, .. }) = options.build(&defaults, &defaults.allowed()) {
        bail!("--{}: {what}", key.replace('_', "-"));
    }
    let (subscribers, _) = subscriber::load(config)?;
    if subscribers.named(&options.name).is_some() {
        bail!("--name: there is a subscriber {} already", options.name);
    }
    let table = Editor::open(&defaults.subscribers).map_err(anyhow::Error::msg);
    let name = table?.add(&options).map_err(anyhow::Error::msg)?;
    let text = match arguments.json {
        true => json!({"name": name, "secret": secret}).to_string() + "\n",
        false => {
            let secret = secret.map(|secret| format!("secret    {secret}\n")).unwrap_or_default();
            format!("name      {name}\n{secret}")
        }
    };
    print(text.as_bytes())?;
    // One of this name may have been given up before it was taken out of the table; this one is called
    if let Some(mut store) = Store::existing(&defaults.store)? {
        store.enable(&name)?;
    }
    Ok(())
}

/// A secret of Standard Webhooks, with 32 bytes of chance.
fn generated() -> Result<String> {
    let mut bytes = [0; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| anyhow!("the system gives no random numbers"))?;
    Ok(format!("whsec_{}", BASE64_STANDARD.encode(bytes)))
}
