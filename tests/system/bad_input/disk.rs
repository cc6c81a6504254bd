//! A disk that is really full: nothing is confirmed that is not kept, and with space again it goes on where it was.
//!
//! Full in two ways: a small tmpfs, where mounting is permitted, and a limit on the size of files, whose error is not
//! that of a full disk but that of a quota.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::traffic::{KNOWN, all, assert_no_panic, write_caches};
use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Metrobus, Process, Signal, say, wait_until},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Small,
    Limited,
}

/// A folder of a fleet on a disk of its own.
struct Disk {
    kind: Kind,
    folder: PathBuf,
    limit: u64,
}

/// Room for all that these tests leave on a bus.
const SIZE: u64 = 128 << 20;

impl Disk {
    /// `None` where that kind cannot be had here.
    fn new(kind: Kind, folder: PathBuf) -> Option<Disk> {
        fs::create_dir_all(&folder).unwrap();
        if kind == Kind::Small {
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "metrobus-test"]).arg(&folder);
            if !mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
                say("mounting a small disk is not permitted: a limit on the size of files stands for it");
                return None;
            }
        }
        Some(Disk { kind, folder, limit: u64::MAX })
    }

    /// Leaves about that many bytes.
    fn leave(&mut self, bytes: u64) {
        match self.kind {
            Kind::Small => {
                let left = rustix::fs::statvfs(&self.folder).unwrap();
                let filler = left.f_bavail * left.f_frsize - bytes;
                fs::write(self.folder.join("filler"), vec![0; filler as usize]).unwrap();
            }
            Kind::Limited => self.limit = largest_file(&self.folder) + bytes,
        }
    }

    /// Makes space, also for a process that runs already.
    fn free(&mut self, running: Option<&Process>) {
        self.limit = u64::MAX;
        if self.kind == Kind::Small {
            fs::remove_file(self.folder.join("filler")).unwrap();
        } else if let Some(process) = running {
            let pid = Pid::from_raw(process.pid() as i32).unwrap();
            prlimit(Some(pid), Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
        }
    }

    /// The call, under the limit where there is one.
    fn call(&self, call: Metrobus) -> Metrobus {
        if self.limit == u64::MAX { call } else { call.file_limit(self.limit) }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.kind == Kind::Small {
            let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        }
    }
}

fn largest_file(folder: &Path) -> u64 {
    let sizes = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    sizes.max().unwrap_or_default()
}

fn fleet(kind: Kind, folder: &str) -> Option<(Fleet, Disk)> {
    let fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    write_caches(&fleet);
    let disk = Disk::new(kind, fleet.scratch.path(folder))?;
    Some((fleet, disk))
}

fn records(numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|n| format!("{{\"x\":{n},{KNOWN},\"pad\":\"{}\"}}\n", "x".repeat(100))).collect()
}

/// `x` of the messages that logstop wrote.
fn written(fleet: &Fleet, log: &str) -> Vec<u64> {
    let number = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        value["payload"]["x"].as_u64().unwrap()
    };
    fleet.scratch.read(log).lines().map(number).collect()
}

#[track_caller]
fn assert_says_full(stderr: &str, kind: Kind) {
    assert_no_panic(stderr);
    let expected = match kind {
        Kind::Small => "the disk is full; free some space and start again, nothing acknowledged is lost",
        Kind::Limited => "the disk failed, or is full",
    };
    let errors: Vec<_> = stderr.lines().filter(|line| line.starts_with("metrobus: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(expected) && errors[0].contains("bus/metrobus.db"), "{stderr}");
}

fn a_pusher_that_fills_the_disk_confirms_what_is_kept(kind: Kind) {
    const COUNT: usize = 40_000;
    let Some((mut fleet, mut disk)) = fleet(kind, "bus") else { return };
    fleet.set("SQLITE__PATH", "bus/metrobus.db");
    disk.leave(2 << 20);
    let push = |from: usize| {
        fleet.scratch.write("in.ndjson", records(from..COUNT));
        fleet.metrobus(&["pusher", "--from", "in.ndjson", "--rate", "0"])
    };
    let mut confirmed = 0;
    for _ in 0..2 {
        let output = disk.call(push(confirmed)).run().assert_code(1);
        assert_says_full(&output.stderr, kind);
        let said =
            output.stderr.lines().find_map(|line| line.split_once(" sent to Source, ")?.1.strip_suffix(" confirmed"));
        confirmed += said.map_or(0, |said| said.parse::<usize>().unwrap());
    }
    assert!((1000..COUNT).contains(&confirmed), "{confirmed}");

    disk.free(None);
    push(confirmed).run().assert_code(0);
    assert_whole(&numbers(&fleet, "Source"), COUNT);
}

/// `x` of the records of a topic.
fn numbers(fleet: &Fleet, topic: &str) -> Vec<u64> {
    let number = |value: serde_json::Value| value.pointer("/payload/x").unwrap_or(&value["x"]).as_u64().unwrap();
    all(fleet, topic).iter().map(|record| number(record.json())).collect()
}

/// Each number once, in order.
#[track_caller]
fn assert_whole(numbers: &[u64], count: usize) {
    let wrong = numbers.iter().enumerate().find(|(index, number)| *index as u64 != **number);
    assert!(wrong.is_none() && numbers.len() == count, "{} of {count}, the first wrong one {wrong:?}", numbers.len());
}

#[test]
fn a_pusher_that_fills_the_disk_confirms_what_is_kept_on_a_small_disk() {
    a_pusher_that_fills_the_disk_confirms_what_is_kept(Kind::Small);
}

#[test]
fn a_pusher_that_fills_the_disk_confirms_what_is_kept_under_a_limit() {
    a_pusher_that_fills_the_disk_confirms_what_is_kept(Kind::Limited);
}

fn stops_on_a_full_disk_end_and_go_on_later(kind: Kind) {
    const COUNT: usize = 10_000;
    let Some((mut fleet, mut disk)) = fleet(kind, "bus") else { return };
    fleet.set("SQLITE__PATH", "bus/metrobus.db");
    fleet.scratch.write("in.ndjson", records(0..COUNT));
    fleet.metrobus(&["pusher", "--from", "in.ndjson", "--rate", "0"]).run().assert_code(0);
    disk.leave(1 << 20);
    for _ in 0..2 {
        let output = disk.call(fleet.metrobus(&["run", "--drain"])).run().assert_code(1);
        assert_says_full(&output.stderr, kind);
    }
    disk.free(None);
    fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    assert_whole(&numbers(&fleet, "Log"), COUNT);
    // The file may hold again what was written just before the end
    let mut written = written(&fleet, "log.ndjson");
    written.sort_unstable();
    written.dedup();
    assert_whole(&written, COUNT);
}

#[test]
fn stops_on_a_full_disk_end_and_go_on_later_on_a_small_disk() {
    stops_on_a_full_disk_end_and_go_on_later(Kind::Small);
}

#[test]
fn stops_on_a_full_disk_end_and_go_on_later_under_a_limit() {
    stops_on_a_full_disk_end_and_go_on_later(Kind::Limited);
}

fn an_output_file_on_a_full_disk_is_waited_for(kind: Kind) {
    const COUNT: usize = 5000;
    let Some((mut fleet, mut disk)) = fleet(kind, "out") else { return };
    fleet.set("LOGSTOP__OUTPUT", "out/log.ndjson");
    fleet.set("BATCH", "100");
    fleet.scratch.write("in.ndjson", records(0..COUNT));
    fleet.metrobus(&["pusher", "--from", "in.ndjson", "--rate", "0"]).run().assert_code(0);
    fleet.metrobus(&["run", "busdriver", "contactpoint", "whitelist", "--drain"]).run().assert_code(0);
    disk.leave(300_000);
    let mut logstop = disk.call(fleet.metrobus(&["logstop"])).spawn();
    logstop.wait_for_stderr("waits for what stop logstop needs: write to the output file: ", DEADLINE);
    let lines = || fleet.scratch.read("out/log.ndjson").matches('\n').count();
    let so_far = lines();
    assert!((100..COUNT).contains(&so_far), "{so_far}");
    disk.free(Some(&logstop));
    wait_until("the rest of the lines", Duration::from_secs(30), || (lines() == COUNT).then_some(()));
    logstop.signal(Signal::TERM);
    let output = logstop.wait(DEADLINE).assert_code(0);
    assert!(output.stderr.contains("what stop logstop needs is back after"), "{}", output.stderr);
    // No line torn, none twice
    assert_whole(&written(&fleet, "out/log.ndjson"), COUNT);
}

#[test]
fn an_output_file_on_a_full_disk_is_waited_for_on_a_small_disk() {
    an_output_file_on_a_full_disk_is_waited_for(Kind::Small);
}

#[test]
fn an_output_file_on_a_full_disk_is_waited_for_under_a_limit() {
    an_output_file_on_a_full_disk_is_waited_for(Kind::Limited);
}

#[test]
fn a_standard_output_that_is_full_ends_the_logstop_with_nothing_acknowledged() {
    let mut fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    write_caches(&fleet);
    fleet.scratch.write("in.ndjson", records(0..100));
    fleet.metrobus(&["pusher", "--from", "in.ndjson", "--rate", "0"]).run().assert_code(0);
    fleet.set("LOGSTOP__OUTPUT", "-");
    let output = fleet.metrobus(&["run", "--drain"]).stdout("/dev/full").run().assert_code(1);
    assert!(
        output.stderr.contains("metrobus: stop logstop: write to standard output: No space left on device"),
        "{}",
        output.stderr
    );
    let output = fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    assert_eq!(output.stdout_text().lines().count(), 100);
}
