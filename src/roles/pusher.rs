//! The pusher: writes raw records to Source, made up or from a file.

use std::{
    fs::File,
    io::{self, Read},
    path::PathBuf,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Command, FromArgMatches};
use rand::{Rng, RngExt};
use serde::Deserialize;
use tracing::warn;

use super::{Context, Kind, Role};
use crate::{
    backoff::persist,
    bus::{Bus, Outbox, Publisher, Topic},
    cli::count,
    dead_letter::now_ms,
    json::{check, text},
    payload::Payload,
    progress,
    shutdown::Shutdown,
};

pub const ROLE: Role = Role {
    name: "pusher",
    about: "Write raw records to Source, made up or from a file",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// Records to send [default: 1000, with --from all there are]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    count: Option<u64>,
    /// Records a second; 0 is as fast as possible
    #[arg(long, value_name = "R", default_value_t = 10.0, value_parser = rate, allow_negative_numbers = true)]
    rate: f64,
    /// Send the lines of FILE, a JSON object each (NDJSON); - is standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Field whose value becomes the record's key; a record without it, and all with --key '', have none
    #[arg(long, value_name = "FIELD", default_value = "account_number")]
    key: String,
    /// End at the first bad line instead of skipping it
    #[arg(long, requires = "from")]
    strict: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "a number from 0 is expected".to_owned())
}

/// `[pusher]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    topic: Topic,
}

/// Most records in one go.
const BATCH: usize = 1000;

/// Bytes read from a file at once.
const CHUNK: usize = 1 << 20;

/// How long one wait for confirmations lasts before it looks for the end of the process.
const FLUSH: Duration = Duration::from_millis(200);

/// The accounts that made-up records are about.
const ACCOUNTS: std::ops::Range<u32> = 1_000_000..2_000_000;

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let options: Options = context.config.section(ROLE.name)?;
    let count = arguments.count.unwrap_or(if arguments.from.is_some() { u64::MAX } else { 1000 });
    let mut input = Input::open(arguments.from.as_deref(), arguments.strict, &context.shutdown)?;
    let bus = context.bus()?;
    let publisher = connect(&*bus, &options.topic, context)?;
    let Some(mut publisher) = publisher else { return Ok(()) };
    let progress = progress::bar(Some(count).filter(|count| *count < u64::MAX), "records");
    let mut push = Push {
        publisher: &mut *publisher,
        topic: &options.topic,
        key: Some(arguments.key.as_str()).filter(|key| !key.is_empty()),
        rate: arguments.rate,
        shutdown: &context.shutdown,
    };
    let mut sent = 0;
    let read = push.all(&mut input, count, |more| {
        sent += more;
        progress.inc(more);
    });
    progress.finish_and_clear();
    let confirmed = confirm(&mut *publisher, sent, context)?;
    let skipped = input.skipped;
    let bad = if skipped > 0 { format!(", {skipped} bad lines skipped") } else { String::new() };
    eprintln!("{sent} sent to {}, {confirmed} confirmed{bad}", options.topic);
    read?;
    ensure!(confirmed == sent, "{} records are not confirmed; they may be on the bus or not", sent - confirmed);
    Ok(())
}

fn connect(bus: &dyn Bus, topic: &Topic, context: &Context) -> Result<Option<Box<dyn Publisher>>> {
    persist("the bus", context.connect_timeout, &context.shutdown, || {
        bus.connect()?;
        bus.create_topics(std::slice::from_ref(topic))?;
        bus.publisher()
    })
}

/// Waits for all to be confirmed; once the end of the process is asked for, that long at most.
fn confirm(publisher: &mut dyn Publisher, sent: u64, context: &Context) -> Result<u64> {
    let (mut end, mut confirmed) = (None, 0);
    loop {
        let flushed = persist("the bus", None, &context.shutdown, || publisher.flush(Instant::now() + FLUSH))?;
        confirmed = flushed.unwrap_or(confirmed);
        if context.shutdown.requested() && end.is_none() {
            end = Some(Instant::now() + context.config.shutdown_timeout);
        }
        if confirmed >= sent || end.is_some_and(|end| Instant::now() >= end) {
            return Ok(confirmed);
        }
    }
}

/// Sends records to a topic.
pub(super) struct Push<'a> {
    pub publisher: &'a mut dyn Publisher,
    pub topic: &'a Topic,
    /// The field whose value becomes the key.
    pub key: Option<&'a str>,
    /// Records a second; 0 is as fast as possible.
    pub rate: f64,
    pub shutdown: &'a Shutdown,
}

impl Push<'_> {
    /// Sends at most `count` records of `input`, calling `sent` after each lot that the publisher has taken over.
    pub fn all(&mut self, input: &mut Input, count: u64, mut sent: impl FnMut(u64)) -> Result<()> {
        let (start, mut total) = (Instant::now(), 0_u64);
        let (mut outbox, mut value, mut key) = (Outbox::default(), Vec::new(), String::new());
        while total < count && !self.shutdown.requested() {
            let due = self.due(start, total).min(count - total).min(BATCH as u64);
            if due == 0 {
                self.shutdown.pause(self.until(start, total).min(FLUSH));
                continue;
            }
            outbox.clear();
            let mut outcome = Ok(true);
            while outcome.as_ref().is_ok_and(|more| *more) && (outbox.len() as u64) < due {
                if !outbox.is_empty() && input.would_wait() {
                    break;
                }
                outcome = input.next(&mut value);
                if let Ok(true) = outcome {
                    let has_key = self.key.is_some_and(|field| key_of(&value, field, &mut key));
                    let key = has_key.then_some(key.as_bytes());
                    outbox.publish(self.topic, now_ms(), key, Some(&value));
                }
            }
            let taken = persist("the bus", None, self.shutdown, || self.publisher.publish(&outbox))?;
            if taken.is_some() {
                total += outbox.len() as u64;
                sent(outbox.len() as u64);
            }
            if !outcome? {
                break;
            }
        }
        Ok(())
    }

    /// Records that the rate allows by now, beyond those sent.
    fn due(&self, start: Instant, sent: u64) -> u64 {
        if self.rate == 0.0 {
            return u64::MAX;
        }
        ((start.elapsed().as_secs_f64() * self.rate) as u64 + 1).saturating_sub(sent)
    }

    fn until(&self, start: Instant, sent: u64) -> Duration {
        let due = Duration::try_from_secs_f64(sent as f64 / self.rate).unwrap_or(Duration::MAX);
        due.saturating_sub(start.elapsed()).max(Duration::from_micros(100))
    }
}

/// Writes the value of `field` to `key`: text as it reads, everything else as it is spelt. False where there is none.
pub(super) fn key_of(value: &[u8], field: &str, key: &mut String) -> bool {
    let payload = std::str::from_utf8(value).ok().and_then(|value| Payload::new(value.trim_ascii()));
    let Some(json) = payload.and_then(|payload| payload.get(field)) else { return false };
    key.clear();
    match text(&json) {
        Some(text) => key.push_str(&text),
        None if json == "null" => return false,
        None => key.push_str(&json),
    }
    true
}

/// Where the records come from.
pub(super) struct Input {
    source: Source,
    strict: bool,
    /// Bad lines so far.
    pub skipped: u64,
}

enum Source {
    MadeUp { next: u64, random: Box<dyn Rng> },
    Lines { name: String, lines: Lines, number: u64 },
}

impl Input {
    /// Records as the original made them, numbered from 0, about random accounts.
    pub fn made_up(random: impl Rng + 'static) -> Self {
        Self { source: Source::MadeUp { next: 0, random: Box::new(random) }, strict: false, skipped: 0 }
    }

    fn open(from: Option<&std::path::Path>, strict: bool, shutdown: &Shutdown) -> Result<Self> {
        let Some(path) = from else { return Ok(Self::made_up(rand::rng())) };
        let (name, file) = open(path)?;
        let lines = Lines::new(file, shutdown.clone())?;
        Ok(Self { source: Source::Lines { name, lines, number: 0 }, strict, skipped: 0 })
    }

    /// Whether the next record may take its time, because its line is not here yet.
    fn would_wait(&self) -> bool {
        match &self.source {
            Source::MadeUp { .. } => false,
            Source::Lines { lines, .. } => !lines.has_next(),
        }
    }

    /// Replaces `value` by the next record; false at the end.
    fn next(&mut self, value: &mut Vec<u8>) -> Result<bool> {
        value.clear();
        let (name, lines, number) = match &mut self.source {
            Source::MadeUp { next, random } => {
                let account = random.random_range(ACCOUNTS);
                let record = format!(r#"{{"x":{next},"message_type_code":"ALTABC","account_number":{account}}}"#);
                value.extend_from_slice(record.as_bytes());
                *next += 1;
                return Ok(true);
            }
            Source::Lines { name, lines, number } => (name, lines, number),
        };
        loop {
            value.clear();
            if !lines.next(value).with_context(|| format!("read {name}, line {}", *number + 1))? {
                return Ok(false);
            }
            *number += 1;
            while value.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                value.pop();
            }
            let reason = match std::str::from_utf8(value) {
                Err(_) => "not UTF-8",
                Ok(line) if line.trim_ascii().is_empty() => continue,
                Ok(line) if check(line, |_, _| {}).is_ok() => return Ok(true),
                Ok(_) => "not a JSON object",
            };
            if self.strict {
                bail!("{name}: line {number}: {reason}; nothing from this line on was sent (--strict)");
            }
            warn!("{name}: line {number}: {reason}; skipped");
            self.skipped += 1;
        }
    }
}

/// The name of what is at `path`, - being standard input, and its content.
pub(super) fn open(path: &std::path::Path) -> Result<(String, Box<dyn Read + Send>)> {
    if path.as_os_str() == "-" {
        return Ok(("standard input".to_owned(), Box::new(io::stdin())));
    }
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| format!("open {name}"))?;
    Ok((name, Box::new(file)))
}

/// The lines of an input, read in a thread of its own: one that is silent for long does not keep the process from
/// ending.
pub(super) struct Lines {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    /// Bytes of `chunk` that are used up.
    used: usize,
    shutdown: Shutdown,
}

impl Lines {
    pub fn new(mut input: Box<dyn Read + Send>, shutdown: Shutdown) -> io::Result<Self> {
        let (sender, chunks) = mpsc::sync_channel(2);
        std::thread::Builder::new().name("input".into()).spawn(move || {
            let mut buffer = vec![0; CHUNK];
            loop {
                let chunk = match input.read(&mut buffer) {
                    Ok(0) => break,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read.map(|bytes| buffer[..bytes].to_vec()),
                };
                let failed = chunk.is_err();
                if sender.send(chunk).is_err() || failed {
                    break;
                }
            }
        })?;
        Ok(Self { chunks, chunk: Vec::new(), used: 0, shutdown })
    }

    /// Appends the next line with its end to `line`; false at the end of the input, or where the process is to end
    /// while there is none.
    pub fn next(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let rest = &self.chunk[self.used..];
            let end = memchr::memchr(b'\n', rest).map(|end| end + 1);
            line.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
            self.used += end.unwrap_or(rest.len());
            if end.is_some() {
                return Ok(true);
            }
            match self.chunks.recv_timeout(FLUSH) {
                Ok(chunk) => (self.chunk, self.used) = (chunk?, 0),
                Err(RecvTimeoutError::Disconnected) => return Ok(!line.is_empty()),
                // What is here of a line may not be all of it
                Err(RecvTimeoutError::Timeout) if self.shutdown.requested() => return Ok(false),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether a whole line is at hand.
    pub fn has_next(&self) -> bool {
        memchr::memchr(b'\n', &self.chunk[self.used..]).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_text_as_it_reads_and_numbers_as_they_are_spelt() {
        let key = |value: &str| {
            let mut key = String::new();
            key_of(value.as_bytes(), "k", &mut key).then_some(key)
        };
        assert_eq!(key(r#"{"k":"a\u0062"}"#).as_deref(), Some("ab"));
        assert_eq!(key(r#"{"k":1.50}"#).as_deref(), Some("1.50"));
        assert_eq!(key(r#"{"k":null}"#), None);
        assert_eq!(key(r#"{"l":1}"#), None);
        assert_eq!(key("nonsense"), None);
    }
}
