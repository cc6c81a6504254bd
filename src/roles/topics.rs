//! `topics`: what lies on the bus, and how far its groups have read.

use clap::{Args, Command, FromArgMatches};
use comfy_table::{Table, presets::NOTHING};
use serde_json::{Value, json};

use super::{Context, Kind, Role};
use crate::{backoff::persist, bus::TopicInfo, terminal::drawn};

pub const ROLE: Role = Role {
    name: "topics",
    about: "List topics with their records, groups and lag",
    kind: Kind::Command { arguments: Arguments::augment_args as fn(Command) -> Command, run },
};

#[derive(Debug, Args)]
struct Arguments {
    /// Print an object a line: topic, partitions, records, groups
    #[arg(long)]
    json: bool,
}

fn run(matches: &clap::ArgMatches, context: &Context) -> anyhow::Result<()> {
    let arguments = Arguments::from_arg_matches(matches)?;
    let bus = context.bus()?;
    let topics = persist("the bus", context.connect_timeout, &context.shutdown, || {
        bus.connect()?;
        bus.topics()
    })?;
    let topics = topics.unwrap_or_default();
    let text = if arguments.json { lines(&topics) } else { table(&topics) };
    super::print(text.as_bytes())
}

fn lines(topics: &[TopicInfo]) -> String {
    let line = |topic: &TopicInfo| {
        let groups: Vec<_> = topic.groups.iter().map(|group| json!({"group": group.name, "lag": group.lag})).collect();
        let (name, partitions, records) = (json!(topic.name), topic.partitions, topic.records);
        let groups = Value::Array(groups);
        format!(r#"{{"topic":{name},"partitions":{partitions},"records":{records},"groups":{groups}}}"#) + "\n"
    };
    topics.iter().map(line).collect()
}

fn table(topics: &[TopicInfo]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["TOPIC", "PARTITIONS", "RECORDS", "GROUP", "LAG"]);
    for topic in topics {
        let (mut name, mut partitions, mut records) =
            (topic.name.clone(), topic.partitions.to_string(), topic.records.to_string());
        for group in &topic.groups {
            table.add_row([name, partitions, records, group.name.clone(), group.lag.to_string()]);
            (name, partitions, records) = Default::default();
        }
        if topic.groups.is_empty() {
            table.add_row([name, partitions, records, "-".to_owned(), "-".to_owned()]);
        }
    }
    drawn(table, [1, 2, 4])
}
