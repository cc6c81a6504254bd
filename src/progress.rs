//! How far long work is: a bar, the rate and the time left, on a terminal; nothing elsewhere.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};

use crate::bus::{Bus, Topic};

/// A bar over `total` things called `unit`; without a total, how many there were and how fast.
pub(crate) fn bar(total: Option<u64>, unit: &str) -> ProgressBar {
    match total {
        Some(total) => {
            let style = format!("{{msg}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}, {{per_sec}}, {{eta}} left");
            styled(ProgressBar::new(total), &style)
        }
        None => styled(ProgressBar::new_spinner(), &format!("{{spinner}} {{human_pos}} {unit}, {{per_sec}}")),
    }
}

/// A bar over the bytes of a file, named after it.
pub(crate) fn of_file(path: &Path) -> ProgressBar {
    let bar = ProgressBar::new(path.metadata().map_or(0, |metadata| metadata.len()));
    let style = "{msg} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    styled(bar, style).with_message(path.display().to_string())
}

/// A bar over the last records of a topic, `most` at most.
pub(crate) fn of_topic(bus: &dyn Bus, topic: &Topic, most: u64) -> ProgressBar {
    let topics = bus.topics().unwrap_or_default();
    let found = topics.iter().find(|found| found.name == topic.as_str());
    bar(found.map(|found| found.records.min(most)), "records").with_message(topic.to_string())
}

fn styled(bar: ProgressBar, style: &str) -> ProgressBar {
    // A template that does not parse costs the style, not the run
    bar.with_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()))
}
