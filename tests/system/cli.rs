//! The command line, frozen as files in tests/system/cli: the help of each command, what is said where a call or the
//! configuration is wrong, and each exit code. After a change on purpose, `TRYCMD=overwrite cargo test cli::` writes
//! them anew.

use std::{collections::BTreeSet, env, fs, path::Path, process::Command};

use metrobus::roles::ROLES;

use crate::support::Metrobus;

const FROZEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/system/cli");

/// In a process of its own: what trycmd calls inherits the environment, which must not matter.
#[test]
fn help_and_errors_are_as_frozen() {
    let mut again = Command::new(env::current_exe().expect("the path of this test"));
    again.args(["--exact", "cli::frozen", "--ignored", "--nocapture", "--test-threads=1"]);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("METROBUS") || ["RUST_LOG", "NO_COLOR", "LINES"].contains(&&*text) {
            again.env_remove(&name);
        }
    }
    let output = again.env("COLUMNS", "100").env("METROBUS_LOG_FORMAT", "text").output().expect("run this test again");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
}

#[test]
#[ignore = "run by help_and_errors_are_as_frozen, in a clean environment"]
fn frozen() {
    trycmd::TestCases::new()
        .register_bin("metrobus", Path::new(env!("CARGO_BIN_EXE_metrobus")))
        .case(format!("{FROZEN}/help/*.trycmd"))
        .case(format!("{FROZEN}/*.trycmd"));
}

/// The words of each frozen call, `metrobus` left out.
fn frozen_calls(folder: &str) -> Vec<Vec<String>> {
    let files = fs::read_dir(format!("{FROZEN}/{folder}")).expect("a folder");
    let mut calls = Vec::new();
    for file in files.map(|file| file.expect("an entry").path()).filter(|path| path.is_file()) {
        let text = fs::read_to_string(&file).expect("a text");
        let lines = text.lines().filter_map(|line| line.strip_prefix("$ metrobus"));
        calls.extend(lines.map(|line| line.split_whitespace().map(str::to_owned).collect()));
    }
    calls
}

#[test]
fn every_command_has_its_help_frozen() {
    let frozen: BTreeSet<_> = frozen_calls("help").into_iter().collect();
    let mut commands = vec![vec![], vec!["cache", "load"], vec!["cache", "build"], vec!["gateway", "key"]];
    commands.extend(["ls", "show", "replay", "discard"].map(|command| vec!["dead", command]));
    commands.extend(["add", "ls", "rm", "test", "enable"].map(|command| vec!["subscriber", command]));
    commands.extend(ROLES.iter().map(|role| vec![role.name]));
    for mut command in commands {
        command.push("--help");
        let words: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
        assert!(frozen.contains(&words), "no file in tests/system/cli/help has `metrobus {}`", command.join(" "));
        // There is one help, not a short one and a long one
        let long = Metrobus::new().args(&command).run().assert_code(0);
        *command.last_mut().expect("--help") = "-h";
        assert_eq!(Metrobus::new().args(&command).run().assert_code(0).stdout_text(), long.stdout_text());
        assert_eq!(long.stderr, "");
    }
}

#[test]
fn every_exit_code_is_frozen() {
    let text = fs::read_to_string(format!("{FROZEN}/exit-codes.trycmd")).expect("a text");
    let found: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("? ")).collect();
    let named = Metrobus::new().arg("--help").run().stdout_text();
    let named = named.split_once("Exit codes:").expect("the exit codes").1;
    let numbers = named.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    assert_eq!(numbers.collect::<BTreeSet<_>>(), found.into_iter().collect());
    assert_eq!(Metrobus::new().arg("--version").run().assert_code(0).stdout_text(), "metrobus 0.1.0\n");
}

/// The environment of whoever asks has no place in the help.
#[test]
fn the_help_shows_nothing_from_the_environment() {
    let plain = Metrobus::new().args(["config", "--help"]).run().stdout_text();
    let call = Metrobus::new().args(["config", "--help"]).env("METROBUS_CONFIG", "s3cret.toml");
    let found = call.env("METROBUS__KAFKA__BROKERS", "s3cret").run().assert_code(0).stdout_text();
    assert_eq!(found, plain);
}
