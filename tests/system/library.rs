//! A stop of one's own: examples/shout.rs beside the stops of the binary.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Signal, try_until, wait_until},
};

/// The example, built as these tests are. Where all tests are run it is there already.
pub fn shout() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = std::env::current_exe().expect("the path of this test");
        let profile = test.ancestors().nth(2).expect("target/debug/deps/system");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--locked", "--quiet", "--example", "shout", "--target-dir"]);
        cargo.arg(profile.parent().expect("target")).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("run cargo").success(), "the example is not built");
        profile.join("examples/shout")
    })
}

/// Starts the example in the folder of the fleet, on the bus in a file there.
fn start(fleet: &Fleet, arguments: &[&str]) -> Running {
    let mut command = Command::new(shout());
    command.args(arguments).current_dir(fleet.scratch.root()).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("METROBUS")) {
        command.env_remove(name);
    }
    Running(command.env("METROBUS__STOPS", "Shout").spawn().expect("start the example"))
}

/// Killed where a test fails before its end.
struct Running(Child);

impl Running {
    fn assert_ends_with_0(mut self) {
        let status = try_until(DEADLINE, || self.0.try_wait().expect("ask for its state"));
        assert_eq!(status.expect("it goes on").code(), Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    fleet.set("STOPS", "Shout");
    fleet.set("BUSDRIVER__ROUTE", "Shout,Log");
    fleet
}

fn push(fleet: &Fleet, lines: &str) {
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
}

/// The payloads on Log as they are spelt.
fn arrived(fleet: &Fleet) -> Vec<String> {
    let payload = |value: &String| {
        let start = value.find(r#""payload":"#).expect("a payload") + r#""payload":"#.len();
        value[start..value.len() - 1].to_owned()
    };
    fleet.values("Log").iter().map(payload).collect()
}

#[test]
fn messages_call_at_a_stop_of_ones_own() {
    let fleet = fleet();
    push(&fleet, "{\"name\":\"ada\",\"x\":1.50}\n{\"no\":\"name\"}\n{\"x\":2,\"name\":\"jürg\"}\n");
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);
    start(&fleet, &["--drain"]).assert_ends_with_0();
    assert_eq!(arrived(&fleet), [r#"{"name":"ADA","x":1.50}"#, r#"{"x":2,"name":"JÜRG"}"#]);
    let slip: Value = serde_json::from_str(&fleet.values("Log")[0]).expect("JSON");
    assert_eq!(slip["header"]["historical_route"], serde_json::json!(["Shout", "Log"]));
    assert_eq!(fleet.values("Error"), [""; 0], "the one without a name is dropped");
}

#[test]
fn it_runs_beside_the_others_until_a_signal() {
    let fleet = fleet();
    let example = start(&fleet, &[]);
    let mut busdriver = fleet.start("busdriver", "a");
    for n in 1..=3 {
        push(&fleet, &format!("{{\"name\":\"n{n}\"}}\n"));
        let last = format!("{{\"name\":\"N{n}\"}}");
        wait_until("the message has arrived", DEADLINE, || {
            let topics = fleet.metrobus(&["topics", "--json"]).run().json_lines();
            topics.iter().any(|topic| topic["topic"] == "Log" && topic["records"] == n).then_some(())
        });
        assert_eq!(arrived(&fleet).last(), Some(&last));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&example.0), Signal::TERM).expect("send a signal");
    example.assert_ends_with_0();
    busdriver.signal(Signal::TERM);
    busdriver.wait(DEADLINE).assert_code(0);
}

#[test]
fn the_example_is_short() {
    let text = include_str!("../../examples/shout.rs");
    let code = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("//"));
    assert!(code.count() <= 20, "a stop of one's own is about a dozen lines");
}
