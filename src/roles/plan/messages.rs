//! Where the messages to plan come from.

use std::{fmt, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;

use crate::{
    backoff::persist,
    bus::{Headers, Reader, Record, Topic},
    progress,
    roles::{
        Context,
        pusher::{Lines, key_of, open},
    },
    shutdown::Shutdown,
};

/// Records in one go.
const BATCH: usize = 1000;

const POLL: Duration = Duration::from_millis(100);

/// Messages one after another.
pub struct Messages {
    source: Source,
    shutdown: Shutdown,
}

enum Source {
    File { name: String, lines: Lines, key: String },
    Topic(Option<Box<dyn Reader>>, ProgressBar),
}

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// From 1.
    Line(u64),
    Record {
        partition: i32,
        offset: i64,
    },
}

impl Place {
    /// As fields of a JSON object.
    pub fn fields(self) -> String {
        match self {
            Self::Line(line) => format!("\"line\":{line}"),
            Self::Record { partition, offset } => format!("\"partition\":{partition},\"offset\":{offset}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "{line}"),
            Self::Record { partition, offset } => write!(f, "{partition}:{offset}"),
        }
    }
}

impl Messages {
    /// The lines of a file, or of standard input where there is none; `key` is the field with the key of each.
    pub fn of_file(file: Option<&Path>, key: &str, context: &Context) -> Result<Self> {
        let (name, input) = open(file.unwrap_or(Path::new("-")))?;
        let lines = Lines::new(input, context.shutdown.clone())?;
        let source = Source::File { name, lines, key: key.to_owned() };
        Ok(Self { source, shutdown: context.shutdown.clone() })
    }

    /// The last records of a topic.
    pub fn of_topic(topic: &Topic, last: u64, context: &Context) -> Result<Self> {
        let bus = context.bus()?;
        let reader = persist("the bus", context.connect_timeout, &context.shutdown, || {
            bus.connect()?;
            bus.reader(topic, last)
        })?;
        let bar = progress::of_topic(&*bus, topic, last);
        Ok(Self { source: Source::Topic(reader, bar), shutdown: context.shutdown.clone() })
    }

    /// Shows no progress, where what is told shows it, on the same terminal.
    pub fn quietly(mut self) -> Self {
        if let Source::Topic(_, bar) = &mut self.source {
            *bar = ProgressBar::hidden();
        }
        self
    }

    /// Calls `plan` with every record, with where it stands, and whether more is at hand.
    pub fn each(&mut self, mut plan: impl FnMut(bool, Record<'_>, Place) -> Result<()>) -> Result<()> {
        match &mut self.source {
            Source::File { name, lines, key } => {
                let (mut value, mut key_text, mut line) = (Vec::new(), String::new(), 0);
                loop {
                    value.clear();
                    if !lines.next(&mut value).with_context(|| format!("read {name}, line {}", line + 1))? {
                        return Ok(());
                    }
                    line += 1;
                    let trimmed = value.trim_ascii();
                    if trimmed.is_empty() {
                        continue;
                    }
                    let has_key = !key.is_empty() && key_of(trimmed, key, &mut key_text);
                    let record = Record {
                        partition: 0,
                        offset: 0,
                        timestamp: -1,
                        key: has_key.then_some(key_text.as_bytes()),
                        headers: Headers::default(),
                        value: Some(trimmed),
                    };
                    plan(lines.has_next(), record, Place::Line(line))?;
                }
            }
            Source::Topic(None, _) => Ok(()),
            Source::Topic(Some(reader), bar) => {
                while !self.shutdown.requested() && !reader.at_end() {
                    let batch = persist("the bus", None, &self.shutdown, || reader.poll(BATCH, POLL))?;
                    for record in batch.iter().flat_map(|batch| batch.iter()) {
                        let place = Place::Record { partition: record.partition, offset: record.offset };
                        plan(true, record, place)?;
                    }
                    bar.inc(batch.map_or(0, |batch| batch.len() as u64));
                }
                bar.finish_and_clear();
                Ok(())
            }
        }
    }
}
