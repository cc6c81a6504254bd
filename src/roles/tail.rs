//! `tail`: the last records of a topic, read without a trace.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, Command, FromArgMatches};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{Context, Kind, Role};
use crate::{
    backoff::persist,
    bus::{Topic, fields},
    cli::count,
};

pub const ROLE: Role = Role {
    name: "tail",
    about: "Show the last records of a topic, values as they are",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// The topic to read
    #[arg(value_name = "TOPIC", value_parser = Topic::new)]
    topic: Topic,
    /// Records to begin with, all partitions together
    #[arg(short = 'n', value_name = "N", default_value_t = 10, value_parser = count, allow_negative_numbers = true)]
    last: u64,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Print an object a line: topic, partition, offset, timestamp in ms, key, headers, value; what is not UTF-8 as
    /// key_base64, value_base64
    #[arg(long)]
    json: bool,
}

/// Records in one go.
const BATCH: usize = 1000;

const POLL: Duration = Duration::from_millis(100);

fn run(matches: &clap::ArgMatches, context: &Context) -> Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let bus = context.bus()?;
    let reader = persist("the bus", context.connect_timeout, &context.shutdown, || {
        bus.connect()?;
        bus.reader(&arguments.topic, arguments.last)
    });
    let Some(mut reader) = reader? else { return Ok(()) };
    // Of a topic with several partitions a reader may give more than was asked for; only the end counts
    while !context.shutdown.requested() && (arguments.follow || !reader.at_end()) {
        let batch = persist("the bus", None, &context.shutdown, || reader.poll(BATCH, POLL))?;
        let mut out = Vec::new();
        for record in batch.iter().flat_map(|batch| batch.iter()) {
            if arguments.json {
                serde_json::to_writer(&mut out, &Object(fields(&arguments.topic, &record)))?;
            } else {
                out.extend_from_slice(record.value.unwrap_or_default());
            }
            out.push(b'\n');
        }
        super::print(&out)?;
    }
    Ok(())
}

/// A JSON object whose fields stay in this order.
struct Object(Vec<(String, Value)>);

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Headers, Record};

    #[test]
    fn what_is_not_text_is_base64() {
        let mut headers = Vec::new();
        Headers::push(&mut headers, "a", Some(b"1"));
        Headers::push(&mut headers, "b", Some(b"\xff"));
        Headers::push(&mut headers, "c", None);
        let headers = Headers::from_encoded(&headers);
        let record = Record { partition: 2, offset: 9, timestamp: 5, key: None, headers, value: Some(b"\xff\xfe") };
        let object = Object(fields(&Topic::new("T").unwrap(), &record));
        assert_eq!(
            serde_json::to_string(&object).unwrap(),
            r#"{"topic":"T","partition":2,"offset":9,"timestamp":5,"key":null,"#.to_owned()
                + r#""headers":{"a":"1","b_base64":"/w==","c":null},"value_base64":"//4="}"#
        );
    }
}
