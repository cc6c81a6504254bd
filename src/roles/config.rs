//! `metrobus config`: what holds, and where each value came from.

use std::io::{self, Write};

use super::{Kind, Role};
use crate::config::{Config, name_text, value_text};

pub const ROLE: Role = Role {
    name: "config",
    about: "Print the configuration that holds, and where each value is from",
    kind: Kind::Command { arguments: |command| command, run: |_, context| run(&context.config, &mut io::stdout()) },
};

/// Comments begin in this column at most; after a longer line, behind it.
const COLUMN: usize = 60;

/// Writes the configuration to `out` as TOML that `--config` takes, save for secrets, which are `***`. Behind each value
/// is where it came from: `# default`, `# metrobus.toml:3`, `# METROBUS__KAFKA__BROKERS`.
///
/// Fails as `out` does, for a pipe that was closed with [`std::io::ErrorKind::BrokenPipe`].
pub fn run(config: &Config, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    let mut section = Vec::new();
    for mut entry in config.effective() {
        let name = entry.path.pop().unwrap_or_default();
        if entry.path != section {
            section = entry.path;
            let header = section.iter().map(|name| name_text(name)).collect::<Vec<_>>().join(".");
            lines.push((format!("\n[{header}]"), None));
        }
        lines.push((format!("{} = {}", name_text(&name), value_text(&entry.value)), Some(entry.origin)));
    }
    let widths = lines.iter().filter(|(_, origin)| origin.is_some()).map(|(line, _)| line.chars().count());
    let column = widths.filter(|width| *width <= COLUMN).max().unwrap_or(0);
    for (line, origin) in lines {
        match origin {
            Some(origin) => writeln!(out, "{line:column$}  # {origin}")?,
            None => writeln!(out, "{line}")?,
        }
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use proptest::prelude::*;

    use super::*;

    fn load(file: Option<&PathBuf>, variables: &[(&str, &str)]) -> Config {
        Config::load(file.map(PathBuf::as_path), variables.iter().copied()).unwrap()
    }

    fn printed(config: &Config) -> String {
        let mut out = Vec::new();
        run(config, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn values(config: &Config) -> Vec<(Vec<String>, String)> {
        config.effective().map(|entry| (entry.path, value_text(&entry.value))).collect()
    }

    #[test]
    fn values_stand_beside_their_origin_and_secrets_behind_stars() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("metrobus.toml");
        let toml =
            "bus = \"kafka\"\n\n[kafka.properties]\nsecurity.protocol = \"SASL_SSL\"\nssl.key.pem = \"s3cret\"\n";
        fs::write(&file, toml).unwrap();
        let variables = [
            (
                "METROBUS__KAFKA__BROKERS",
                "broker-1.example.com:9092,broker-2.example.com:9092,broker-3.example.com:9092",
            ),
            ("METROBUS__KAFKA__PROPERTIES__SASL_PASSWORD", "s3cret"),
            ("METROBUS__REDIS__URL", "redis://metro:s3cret@redis:6379"),
        ];
        let shown = printed(&load(Some(&file), &variables)).replace(&file.display().to_string(), "metrobus.toml");
        let expected = r#"bus = "kafka"                                          # metrobus.toml:1
stops = []                                             # default
error_topic = "Error"                                  # default
repair_topic = "Repair"                                # default
batch = 1000                                           # default
shutdown_timeout = "10s"                               # default

[sqlite]
path = "data/metrobus.db"                              # default
synchronous = "full"                                   # default
retention = "7d"                                       # default
retention_bytes = 0                                    # default

[kafka]
brokers = "broker-1.example.com:9092,broker-2.example.com:9092,broker-3.example.com:9092"  # METROBUS__KAFKA__BROKERS
group = "metrobus"                                     # default
guarantee = "at-least-once"                            # default
partitions = 4                                         # default
replication = 1                                        # default
instance = ""                                          # default
transaction = "250ms"                                  # default

[kafka.properties]
"security.protocol" = "SASL_SSL"                       # metrobus.toml:4
"ssl.key.pem" = "***"                                  # metrobus.toml:5
"sasl.password" = "***"                                # METROBUS__KAFKA__PROPERTIES__SASL_PASSWORD

[redis]
url = "redis://metro:***@redis:6379"                   # METROBUS__REDIS__URL
"#;
        // The widest line that counts is the waits of deliver, further down.
        assert_eq!(&shown[..shown.find("timeout = \"5s\"").unwrap()], expected);
    }

    #[test]
    fn without_a_file_all_is_default_and_a_closed_pipe_an_error() {
        let config = load(None, &[]);
        assert!(printed(&config).lines().filter(|line| line.contains(" = ")).all(|line| line.ends_with("  # default")));

        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = run(&config, &mut Closed).unwrap_err();
        assert_eq!(error.downcast_ref::<io::Error>().map(io::Error::kind), Some(io::ErrorKind::BrokenPipe));
    }

    proptest! {
        #[test]
        fn what_is_printed_can_be_fed_back(
            group in "[^\0]{1,20}",
            property in "[^\0]{1,20}",
            value in "[^\0]{0,20}",
            batch in 1..=100_000,
            stops in proptest::collection::vec("[A-Za-z0-9_-]{1,9}", 0..4),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("one\n.toml");
            let text = |text: &str| value_text(&text.into());
            let stops = stops.iter().map(|stop| text(stop)).collect::<Vec<_>>().join(",");
            let toml = format!(
                "batch = {batch}\nstops = [{stops}]\n[kafka]\ngroup = {}\n[kafka.properties]\n{} = {}\n",
                text(&group), text(&property), text(&value),
            );
            fs::write(&file, toml).unwrap();
            let config = load(Some(&file), &[]);
            fs::write(&file, printed(&config)).unwrap();
            prop_assert_eq!(values(&load(Some(&file), &[])), values(&config));
        }
    }
}
