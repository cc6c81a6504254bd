//! emails.dat and whitelist.dat: wrong at the start is exit 78, wrong later leaves the content that was read.

use std::{fs, path::Path, time::Duration};

use super::traffic::{KNOWN, arrived, assert_no_panic, header, put, write_caches};
use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{NewRecord, Process, Signal, wait_until},
};

const FILES: [(&str, &str); 2] = [("contactpoint", "data/emails.dat"), ("whitelist", "data/whitelist.dat")];

fn fleet() -> Fleet {
    Fleet::new(Engine::Sqlite).expect("SQLite is always there")
}

#[track_caller]
fn assert_refused(fleet: &Fleet, stop: &str, expected: &str) {
    let output = fleet.metrobus(&[stop, "--drain"]).run().assert_code(78);
    assert_eq!(output.stderr, format!("metrobus: {expected}\n"));
}

#[test]
fn a_file_that_is_missing_or_no_file_is_named_at_the_start() {
    let fleet = fleet();
    for (stop, file) in FILES {
        assert_refused(&fleet, stop, &format!("{file}: no such file, run `metrobus make-data`"));
        fs::create_dir_all(fleet.scratch.path(file)).unwrap();
        assert_refused(
            &fleet,
            stop,
            &format!("{file}: cannot be read: is a directory; `metrobus make-data` writes one"),
        );
        let elsewhere = format!("METROBUS__{}__FILE", stop.to_uppercase());
        let output = fleet.metrobus(&[stop, "--drain"]).env(elsewhere, "/dev/zero").run().assert_code(78);
        assert_eq!(output.stderr, "metrobus: /dev/zero: is not a regular file\n");
    }
    assert!(!fleet.scratch.path("data/metrobus.db").exists(), "nothing is begun");
}

#[test]
fn a_file_without_permission_is_named_at_the_start() {
    use std::os::unix::fs::PermissionsExt;

    let fleet = fleet();
    write_caches(&fleet);
    for (stop, file) in FILES {
        let path = fleet.scratch.path(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
        if fs::read(&path).is_ok() {
            crate::support::say("root reads every file: the case without permission is left out");
            return;
        }
        assert_refused(
            &fleet,
            stop,
            &format!("{file}: cannot be read: permission denied; `metrobus make-data` writes one"),
        );
    }
}

#[test]
fn a_malformed_line_is_named_by_its_number_at_the_start() {
    let fleet = fleet();
    write_caches(&fleet);
    let emails: [(&[u8], &str); 6] = [
        (b"1000001,a@x\n1000002\n", "line 2: has no comma, `account,email` is expected"),
        (b"1000001,a@x\n\n1000003,c@x\n", "line 2: is blank"),
        (b"1000001,a@x\n1000002,b@x,c@x\n", "line 2: has more than one comma"),
        (b"1000001,a@x\n,b@x\n", "line 2: has no account before the comma"),
        (b"1000001,\xff@x\n", "line 1: is not UTF-8"),
        (b"1000001,a@x\n1000002,b\0@x\n", "line 2: holds a control character"),
    ];
    for (content, why) in emails {
        fleet.scratch.write("data/emails.dat", content);
        assert_refused(&fleet, "contactpoint", &format!("data/emails.dat: {why}"));
        // The same where the file goes into Redis, before Redis is asked for
        let load = fleet.metrobus(&["cache", "load", "--connect-timeout", "1s"]).run();
        assert!(load.code != Some(0) && !load.stderr.contains("a@x"), "{}", load.stderr);
    }
    for (content, why) in [
        ("a@x\n1,b@x\n", "line 2: holds a comma, an email alone is expected"),
        ("a@x\nb\n", "line 2: has an email without @"),
        ("\u{feff}a@x\n", "line 1: holds white space or a byte order mark around an account or email"),
    ] {
        fleet.scratch.write("data/whitelist.dat", content);
        assert_refused(&fleet, "whitelist", &format!("data/whitelist.dat: {why}"));
    }
}

/// A stop that runs, and what comes of messages that it is given.
struct Running<'a> {
    fleet: &'a Fleet,
    stops: Process,
    sent: u64,
}

impl Running<'_> {
    /// Sends one message of [`KNOWN`]; gives the email that it arrives with, `None` where it is dropped.
    fn email(&mut self) -> Option<String> {
        self.sent += 1;
        let slip = header(self.fleet, "AddEmail");
        let sent = self.sent;
        let value =
            |fields: String| NewRecord::new(format!(r#"{{"header":{slip},"payload":{{"at":"x","n":{fields}}}}}"#));
        // The one behind it always arrives
        let always = format!(r#"{},"account_number":"always""#, sent + 1_000_000);
        put(self.fleet, "AddEmail", [value(format!("{sent},{KNOWN}")), value(always)]);
        wait_until("the message behind it", DEADLINE, || {
            assert!(self.stops.is_running(), "it ended:\n{}", self.stops.stderr_text());
            arrived(self.fleet).contains(&("x".to_owned(), sent + 1_000_000)).then_some(())
        });
        let log = self.fleet.scratch.read("log.ndjson");
        let line = log.lines().find(|line| line.contains(&format!("\"n\":{sent},")))?;
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        Some(value["payload"]["email"].as_str().unwrap().to_owned())
    }

    fn told(&mut self, what: &str) {
        self.stops.wait_for_stderr(what, Duration::from_secs(30));
    }

    fn errors(&self) -> usize {
        self.stops.stderr_text().lines().filter(|line| line.contains(" ERROR ")).count()
    }
}

/// As a careful writer does: beside it, then renamed over it.
fn replace(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::rename(&beside, path).unwrap();
}

#[test]
fn a_file_that_is_broken_later_leaves_the_old_content_until_it_is_mended() {
    let mut fleet = fleet();
    fleet.set("BUSDRIVER__ROUTE", "AddEmail,Log");
    let emails = fleet.scratch.write("data/emails.dat", "1000001,old@x.example\nalways,always@x.example\n");
    fleet.scratch.write("data/whitelist.dat", "old@x.example\nnew@x.example\nalways@x.example\n");
    fleet.scratch.write("log.ndjson", "");
    let stops = fleet.metrobus(&["run", "contactpoint", "whitelist", "logstop"]).spawn();
    let mut running = Running { fleet: &fleet, stops, sent: 0 };
    assert_eq!(running.email().as_deref(), Some("old@x.example"));

    replace(&emails, "1000001,new@x.example\nsecret\n");
    running.told(
        "data/emails.dat: line 2: has no comma, `account,email` is expected; the content read before stays in use",
    );
    assert_eq!(running.email().as_deref(), Some("old@x.example"));
    fs::remove_file(&emails).unwrap();
    running.told("data/emails.dat: no such file, run `metrobus make-data`; the content read before stays in use");
    assert_eq!(running.email().as_deref(), Some("old@x.example"));
    fs::create_dir(&emails).unwrap();
    running.told("data/emails.dat: cannot be read: is a directory");
    assert_eq!(running.email().as_deref(), Some("old@x.example"));
    assert_eq!(running.errors(), 3, "each is told once:\n{}", running.stops.stderr_text());

    fs::remove_dir(&emails).unwrap();
    replace(&emails, "1000001,new@x.example\nalways,always@x.example\n");
    running.told("data/emails.dat: reread, 2 lines");
    assert_eq!(running.email().as_deref(), Some("new@x.example"));

    let whitelist = fleet.scratch.path("data/whitelist.dat");
    replace(&whitelist, "always@x.example\nno email\n");
    running.told("data/whitelist.dat: line 2: has an email without @; the content read before stays in use");
    assert_eq!(running.email().as_deref(), Some("new@x.example"));
    replace(&whitelist, "always@x.example\n");
    running.told("data/whitelist.dat: reread, 1 lines");
    assert_eq!(running.email(), None, "not listed any more");

    running.stops.signal(Signal::TERM);
    let output = running.stops.wait(DEADLINE).assert_code(0);
    assert_no_panic(&output.stderr);
    assert!(!output.stderr.contains("@x.example") && !output.stderr.contains("secret"), "personal data in the log");
}
