//! The logstop: the end of the line. Writes each message as one line of JSON and finishes its journey.
//!
//! A batch is written out before it is settled, so no message is missing from the output; one that was written just
//! before a crash is written again. The bus itself keeps its guarantee; the output is at least once, and lines carry the
//! message's id.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use anyhow::Context as _;
use serde::Deserialize;

use super::{Context, Kind, Role};
use crate::{
    bus::Topic,
    handler::{Broken, Handler, Verdict},
    slip::Message,
    stop::{Retry, Stop},
};

pub const ROLE: Role = Role {
    name: "logstop",
    about: "Write each message as a line of JSON: the end of the line",
    kind: Kind::Stop(build),
};

/// `[logstop]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    topic: Topic,
    /// A file that lines are appended to; `-` is standard output.
    output: String,
    retry: Retry,
}

fn build(context: &Context) -> anyhow::Result<Stop> {
    let options: Options = context.config.section(ROLE.name)?;
    let output = Output::open(&options.output).map_err(|error| {
        context.config.error("logstop.output", format_args!("cannot write {:?}: {error}", options.output))
    })?;
    let handler = Logstop { output, lines: Vec::new() };
    Ok(Stop::new(ROLE.name, &options.topic, handler, context.settings()).retry(options.retry).needs_called("sink"))
}

struct Logstop {
    output: Output,
    lines: Vec<u8>,
}

impl Handler for Logstop {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        self.lines.clear();
        for message in messages.iter() {
            push_line(&mut self.lines, message.whole());
        }
        self.output.write(&self.lines)?;
        Ok(messages.iter().map(|_| Verdict::Finish).collect())
    }
}

/// Appends JSON text as one line. Line breaks can only stand between its tokens: inside text JSON escapes them.
fn push_line(lines: &mut Vec<u8>, json: &str) {
    let start = lines.len();
    lines.extend_from_slice(json.as_bytes());
    for byte in &mut lines[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    lines.push(b'\n');
}

enum Output {
    Stdout,
    File(File),
}

impl Output {
    fn open(path: &str) -> io::Result<Self> {
        if path == "-" {
            return Ok(Self::Stdout);
        }
        match Path::new(path).parent().map(std::fs::create_dir_all) {
            // Where a file stands in the way, opening says so better
            Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        OpenOptions::new().append(true).create(true).open(path).map(Self::File)
    }

    /// Writes all lines or none, as far as the file system lets it: what a full disk cut off is taken back, so that
    /// the lines can be written again when there is room.
    fn write(&mut self, lines: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(lines).and_then(|()| stdout.flush());
                written.map_err(|error| Broken(anyhow::Error::new(error).context("write to standard output")).into())
            }
            Self::File(file) => {
                let before = file.metadata().context("look at the output file")?.len();
                file.write_all(lines).map_err(|error| {
                    let _ = file.set_len(before);
                    anyhow::Error::new(error).context("write to the output file")
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_its_white_space() {
        let mut lines = Vec::new();
        push_line(&mut lines, "{\r\n \"a\": \"x\\n\"\n}");
        push_line(&mut lines, "{}");
        assert_eq!(lines, b"{   \"a\": \"x\\n\" }\n{}\n");
    }
}
