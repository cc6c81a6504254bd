//! `subscriber test`: the request that a message would make, made and told.

use std::{
    fmt::Write as _,
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use arc_swap::ArcSwap;
use clap::{Args, Command, FromArgMatches};
use reqwest::StatusCode;

use super::named;
use crate::{
    bus::Headers,
    deliver::{
        SHAPE_HEADER, failure,
        options::Options,
        request::{Request, request},
    },
    filter::Data,
    gateway::event::Event,
    roles::{Context, print},
    subscriber::{self, Subscriber},
    terminal::{plain, span},
    webhook::target::{Resolver, client},
};

#[derive(Debug, Args)]
struct Arguments {
    /// Its name, as `subscriber ls` shows it
    #[arg(value_name = "NAME")]
    name: String,
    /// The message, an object of JSON; - is standard input. Without it, {"test":true}, whatever the filter says
    #[arg(long, value_name = "FILE")]
    message: Option<PathBuf>,
    /// The message is in the shape of switch's clients
    #[arg(long, requires = "message")]
    switch: bool,
    /// Send it also where the filter does not want it
    #[arg(long)]
    force: bool,
}

/// What is sent without a message.
const MESSAGE: &[u8] = br#"{"test":true}"#;

pub fn command(command: Command) -> Command {
    Arguments::augment_args(command)
}

pub fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let config = &context.config;
    let (subscribers, _) = subscriber::load(config)?;
    let subscriber = named(&subscribers, &arguments.name)?;
    let body = arguments.message.as_deref().map(read).transpose()?;
    let body = body.as_deref().unwrap_or(MESSAGE).trim_ascii();
    // The id that it would get, where it is a message at all
    let event = Event::new(&subscriber.topic, body, &config.limits).map_err(|error| anyhow!("the message: {error}"))?;
    let (wanted, verdict) = judge(subscriber, body)?;
    print(format!("filter    {verdict}\n").as_bytes())?;
    if !wanted && !arguments.force && arguments.message.is_some() {
        bail!("nothing is sent: the filter of {} does not want the message; --force sends it", subscriber.name);
    }
    let mut headers = Vec::new();
    if arguments.switch {
        Headers::push(&mut headers, SHAPE_HEADER, Some(b"switch"));
    }
    let (headers, id) = (Headers::from_encoded(&headers), event.id.to_string());
    let request = request(subscriber, &headers, body.to_vec().into(), &id, SystemTime::now())
        .map_err(|error| anyhow!("the message makes no request: {error}"))?;
    print(told(&request).as_bytes())?;
    let allowed = Options::new(config)?.allowed();
    let begun = Instant::now();
    let status = send(subscriber, request, Resolver::new(Arc::new(ArcSwap::new(allowed))));
    let took = span(begun.elapsed().as_micros() as u64);
    match status {
        Ok(status) if status.is_success() => print(format!("answer    {status} in {took}\n").as_bytes()),
        Ok(status) => bail!("{} answers {status} after {took}", subscriber.name),
        Err(why) => bail!("{}: {why}, after {took}", subscriber.name),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).context("read standard input")?;
        return Ok(bytes);
    }
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Whether the filter wants the message, and why or why not.
fn judge(subscriber: &Subscriber, body: &[u8]) -> Result<(bool, String)> {
    let data = Data::parse(std::str::from_utf8(body)?)?;
    let text = plain(subscriber.filter.text().trim());
    Ok(match subscriber.filter.judge(&data) {
        Ok(true) if text.is_empty() => (true, "none: every message".to_owned()),
        Ok(true) => (true, format!("matches: {text}")),
        Ok(false) => (false, format!("does not match: {text}")),
        Err(failed) => (false, format!("does not match, it fails: {}: {text}", plain(&failed.to_string()))),
    })
}

/// The request for people. Headers of the configuration may be secret; so may what is behind the question mark, and yet who
/// tests a request wants to see where a message has put its parameters.
fn told(request: &Request) -> String {
    let mut text = format!("request   {} {}\n", request.method, plain(request.url.as_str()));
    for (name, value) in &request.headers {
        let value = match value.is_sensitive() {
            true => "***".to_owned(),
            false => plain(&String::from_utf8_lossy(value.as_bytes())),
        };
        let _ = writeln!(text, "          {name}: {value}");
    }
    let body = plain(&String::from_utf8_lossy(&request.body));
    let _ = writeln!(text, "body      {body}");
    text
}

fn send(subscriber: &Subscriber, request: Request, resolver: Resolver) -> Result<StatusCode, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(async {
        let client = client(resolver).build().map_err(|error| error.to_string())?;
        let Request { method, url, headers, body } = request;
        let sent = client.request(method, url).headers(headers).body(body).timeout(subscriber.timeout).send().await;
        sent.map(|answer| answer.status()).map_err(|error| failure(error, subscriber.timeout))
    });
    // A name that is still being looked up is nothing to wait for
    runtime.shutdown_timeout(Duration::ZERO);
    outcome
}
