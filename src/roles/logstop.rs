//! The logstop: the end of the line. Writes each message to its sink and finishes its journey.
//!
//! | `output` | sink |
//! | --- | --- |
//! | `-` | standard output, a line of JSON each |
//! | a path | a file, a line of JSON each; another one each day, or where it grows too long |
//! | `http://…`, `https://…` | OpenSearch or Elasticsearch, a document each |
//!
//! A batch is written out before it is settled, so no message is missing from the output; one that was written just
//! before a crash is written again. The bus itself keeps its guarantee. Lines are there at least once and carry the
//! message's id; a document has that id for its own, so it is overwritten and there exactly once.

mod document;
mod file;
mod opensearch;
mod rotation;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use serde::Deserialize;

use super::{Context, Kind, Role};
use crate::{
    bus::Topic,
    config::Config,
    error::Misconfigured,
    handler::{Broken, Handler, Verdict},
    slip::Message,
    stop::{Retry, Stop},
};
use file::LogFile;
use opensearch::OpenSearch;
use rotation::Rotation;

pub const ROLE: Role = Role {
    name: "logstop",
    about: "Write each message to standard output, a file or OpenSearch: the end of the line",
    kind: Kind::Stop(build),
};

/// `[logstop]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    topic: Topic,
    /// `-`, the path of a file, or a URL.
    output: String,
    /// Of a file.
    rotate: Rotation,
    /// Of a URL.
    opensearch: opensearch::Options,
    retry: Retry,
}

fn build(context: &Context) -> anyhow::Result<Stop> {
    let options: Options = context.config.section(ROLE.name)?;
    let sink = match Target::of(&options, &context.config)? {
        Target::Stdout => Sink::Stdout,
        Target::File(path) => {
            let cannot =
                |error| context.config.error(OUTPUT, format_args!("cannot write {:?}: {error}", options.output));
            Sink::File(LogFile::open(path, options.rotate).map_err(cannot)?)
        }
        Target::OpenSearch(opensearch) => Sink::OpenSearch(opensearch),
    };
    let handler = Logstop { sink, lines: Vec::new() };
    Ok(Stop::new(ROLE.name, &options.topic, handler, context.settings()).retry(options.retry).needs_called("sink"))
}

const OUTPUT: &str = "logstop.output";

/// What `output` names.
enum Target {
    Stdout,
    File(PathBuf),
    OpenSearch(Box<OpenSearch>),
}

impl Target {
    fn of(options: &Options, config: &Config) -> Result<Self, Misconfigured> {
        let output = options.output.as_str();
        if output == "-" {
            return Ok(Self::Stdout);
        }
        match output.split_once("://") {
            None => Ok(Self::File(output.into())),
            Some(("http" | "https", _)) => {
                OpenSearch::new(output, &options.opensearch, &options.topic, config).map(Box::new).map(Self::OpenSearch)
            }
            // Not quoted: whatever it is, a password may be in it
            Some(_) => Err(config.error(OUTPUT, "must be \"-\", a path, or begin with http:// or https://")),
        }
    }
}

/// Why the configured sink cannot work, where that can be seen without writing to it.
pub(super) fn check(config: &Config) -> Result<(), Misconfigured> {
    Target::of(&config.section(ROLE.name)?, config).map(drop)
}

/// Reaches for the sink where it is a server, for `patience` at most.
pub(super) fn connect(config: &Config, patience: Duration) -> anyhow::Result<()> {
    match Target::of(&config.section(ROLE.name)?, config)? {
        Target::OpenSearch(mut opensearch) => opensearch.connect(patience),
        Target::Stdout | Target::File(_) => Ok(()),
    }
}

struct Logstop {
    sink: Sink,
    lines: Vec<u8>,
}

enum Sink {
    Stdout,
    File(LogFile),
    OpenSearch(Box<OpenSearch>),
}

/// How long the sink may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(5);

impl Handler for Logstop {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        if let Sink::OpenSearch(opensearch) = &mut self.sink {
            return opensearch.write(messages, SystemTime::now());
        }
        self.lines.clear();
        for message in messages.iter() {
            push_line(&mut self.lines, |lines| lines.extend_from_slice(message.whole().as_bytes()));
        }
        match &mut self.sink {
            Sink::File(file) => file.write(&self.lines, SystemTime::now())?,
            _ => write_to_stdout(&self.lines)?,
        }
        Ok(messages.iter().map(|_| Verdict::Finish).collect())
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        match &mut self.sink {
            Sink::OpenSearch(opensearch) => opensearch.connect(PATIENCE),
            Sink::Stdout | Sink::File(_) => Ok(()),
        }
    }
}

/// Appends the JSON text that `write` appends as one line. Line breaks can only stand between its tokens: inside text
/// JSON escapes them.
fn push_line(lines: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = lines.len();
    write(lines);
    for byte in &mut lines[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    lines.push(b'\n');
}

fn write_to_stdout(lines: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(lines).and_then(|()| stdout.flush());
    written.context("write to standard output").map_err(|error| Broken(error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_its_white_space() {
        let mut lines = Vec::new();
        push_line(&mut lines, |lines| lines.extend_from_slice(b"{\r\n \"a\": \"x\\n\"\n}"));
        push_line(&mut lines, |lines| lines.extend_from_slice(b"{}"));
        assert_eq!(lines, b"{   \"a\": \"x\\n\" }\n{}\n");
    }
}
