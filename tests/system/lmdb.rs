//! Look-ups in LMDB: built by `cache build`, asked by both roles, replaced while they run.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Signal, say, wait_until},
};

/// A fleet whose stops look up in LMDB.
fn fleet() -> Fleet {
    let mut fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    fleet.set("CONTACTPOINT__CACHE", "lmdb");
    fleet.set("WHITELIST__CACHE", "lmdb");
    fleet
}

/// Writes emails.dat, in which accounts 1 to `accounts` have emails at `domain`.
fn write_emails(fleet: &Fleet, accounts: u32, domain: &str) {
    let emails: String = (1..=accounts).map(|account| format!("{account},user{account}@{domain}\n")).collect();
    fleet.scratch.write("data/emails.dat", emails);
}

/// Sends a message for each of these accounts.
fn push(fleet: &Fleet, accounts: &[u32]) {
    let lines: String = accounts.iter().map(|account| format!("{{\"account_number\":{account}}}\n")).collect();
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
}

/// The emails that messages have on their way to the whitelist.
fn found(fleet: &Fleet) -> Vec<String> {
    let email = |value: &String| {
        let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
        value["payload"]["email"].as_str().expect("an email").to_owned()
    };
    fleet.values("WhiteList").iter().map(email).collect()
}

#[test]
fn both_stops_answer_from_what_was_built() {
    let fleet = fleet();
    write_emails(&fleet, 1000, "example.com");
    fleet.scratch.write("data/whitelist.dat", "user7@example.com\nuser500@example.com\n");
    let built = fleet.metrobus(&["cache", "build"]).run().assert_code(0);
    assert_eq!(built.stderr.matches(" emails, 1 MB in ").count(), 2, "{}", built.stderr);
    push(&fleet, &[1, 7, 500, 1000, 1001]);
    fleet.drain("one");
    assert_eq!(found(&fleet), [1, 7, 500, 1000].map(|account| format!("user{account}@example.com")));
    let log = fleet.scratch.read("log.ndjson");
    assert_eq!(log.lines().count(), 2, "{log}");
    assert!(log.lines().all(|line| line.contains(r#""whitelist":true"#)), "{log}");
}

#[test]
fn a_stop_goes_on_with_the_file_that_replaces_its_own() {
    let fleet = fleet();
    write_emails(&fleet, 3, "old.example");
    fleet.metrobus(&["cache", "build", "--only", "emails"]).run().assert_code(0);
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);
    let mut stop = fleet.metrobus(&["contactpoint"]).spawn();
    stop.wait_for_stderr("contactpoint", DEADLINE);
    let send = |accounts: &[u32]| {
        push(&fleet, accounts);
        fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);
    };
    send(&[1]);
    wait_until("the first message", DEADLINE, || (found(&fleet).len() == 1).then_some(()));
    // Broken: told, and the old one stays in use
    fleet.scratch.write("data/broken", "1,a@x\n");
    fs::rename(fleet.scratch.path("data/broken"), fleet.scratch.path("data/emails.lmdb")).expect("replace it");
    stop.wait_for_stderr("emails.lmdb: is no database of metrobus", DEADLINE);
    send(&[2]);
    wait_until("the second message", DEADLINE, || (found(&fleet).len() == 2).then_some(()));
    write_emails(&fleet, 4, "new.example");
    fleet.metrobus(&["cache", "build", "data/emails.dat"]).run().assert_code(0);
    stop.wait_for_stderr("emails.lmdb: reread, 4 lines", DEADLINE);
    send(&[4]);
    wait_until("the third message", DEADLINE, || (found(&fleet).len() == 3).then_some(()));
    assert_eq!(found(&fleet), ["user1@old.example", "user2@old.example", "user4@new.example"]);
    stop.signal(Signal::TERM);
    let output = stop.wait(DEADLINE).assert_code(0);
    assert_eq!(output.stderr.matches("is no database").count(), 1, "{}", output.stderr);
    assert!(!output.stderr.contains("old.example"), "{}", output.stderr);
}

#[test]
fn a_build_that_is_killed_changes_nothing_and_the_next_one_tidies_up() {
    let fleet = fleet();
    write_emails(&fleet, 3, "old.example");
    fleet.metrobus(&["cache", "build", "data/emails.dat"]).run().assert_code(0);
    let before = fs::read(fleet.scratch.path("data/emails.lmdb")).expect("the file");
    let from_a_pipe = ["cache", "build", "/dev/stdin", "--only", "emails"];
    let mut build = fleet.metrobus(&from_a_pipe).stdin_pipe().spawn();
    let mut input = build.take_stdin();
    // Its input never ends, so it is at work when it is killed
    let lines: String = (0..100_000).map(|account| format!("{account},{account}@new.example\n")).collect();
    input.write_all(lines.as_bytes()).expect("the build reads");
    let folder = fleet.scratch.path("data/.emails.lmdb.build");
    assert!(folder.join("lock").exists());
    let other = fleet.metrobus(&["cache", "build", "data/emails.dat"]).run().assert_code(1);
    assert!(other.stderr.ends_with("another `metrobus cache build` is building it\n"), "{}", other.stderr);
    build.kill9();
    assert!(folder.exists());
    assert!(fs::read(fleet.scratch.path("data/emails.lmdb")).expect("the file") == before);
    fleet.metrobus(&from_a_pipe).stdin(lines).run().assert_code(0);
    assert!(!folder.exists());
    push(&fleet, &[99_999]);
    for stop in ["busdriver", "contactpoint"] {
        fleet.metrobus(&[stop, "--drain"]).run().assert_code(0);
    }
    assert_eq!(found(&fleet), ["99999@new.example"]);
}

#[test]
fn an_interrupted_build_changes_nothing_and_leaves_nothing() {
    let fleet = fleet();
    let mut build = fleet.metrobus(&["cache", "build", "/dev/stdin", "--only", "emails"]).stdin_pipe().spawn();
    let mut input = build.take_stdin();
    input.write_all(b"1,a@x\n").expect("the build reads");
    let folder = fleet.scratch.path("data/.emails.lmdb.build");
    wait_until("it has begun", DEADLINE, || folder.exists().then_some(()));
    build.signal(Signal::TERM);
    // It looks for the signal between two lines
    let lines: String = (0..100_000).map(|account| format!("{account},{account}@x\n")).collect();
    let _ = input.write_all(lines.as_bytes());
    drop(input);
    let output = build.wait(DEADLINE).assert_code(1);
    assert_eq!(output.stderr, "metrobus: interrupted, data/emails.lmdb is as it was\n");
    assert_eq!(fs::read_dir(fleet.scratch.path("data")).expect("the folder").count(), 0);
}

#[test]
fn a_full_disk_is_said_on_one_line_and_changes_nothing() {
    let fleet = fleet();
    write_emails(&fleet, 3, "old.example");
    fleet.metrobus(&["cache", "build", "data/emails.dat"]).run().assert_code(0);
    let before = fs::read(fleet.scratch.path("data/emails.lmdb")).expect("the file");
    write_emails(&fleet, 100_000, "new.example");
    let build = fleet.metrobus(&["cache", "build", "data/emails.dat"]).file_limit(100_000).run().assert_code(1);
    assert_eq!(build.stderr, "metrobus: build data/emails.lmdb: File too large (os error 27)\n");
    assert!(fs::read(fleet.scratch.path("data/emails.lmdb")).expect("the file") == before);
    assert!(!fleet.scratch.path("data/.emails.lmdb.build").exists());
}

/// Full at last in LMDB: the sorted lines fit, and the database beside them does not.
#[test]
fn a_disk_that_is_full_amid_the_database_is_said_on_one_line() {
    let fleet = fleet();
    write_emails(&fleet, 100_000, "new.example");
    let folder = fleet.scratch.path("small");
    fs::create_dir(&folder).expect("a folder");
    let mount = |size: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "metrobus-test"]).arg(&folder).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success())
    };
    if !mount("size=6M") {
        say("mounting a small disk is not permitted: a database that does not fit is left out");
        return;
    }
    let build = ["cache", "build", "data/emails.dat", "--out", "small/emails.lmdb"];
    let output = fleet.metrobus(&build).run();
    let left = fs::read_dir(&folder).expect("the folder").count();
    let unmounted = Command::new("umount").arg("-l").arg(&folder).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    let output = output.assert_code(1);
    assert_eq!(output.stderr, "metrobus: build small/emails.lmdb: No space left on device (os error 28)\n");
    assert_eq!(left, 0);
}

#[test]
fn a_file_of_the_other_stop_is_refused() {
    let fleet = fleet();
    write_emails(&fleet, 3, "example.com");
    fleet.scratch.write("data/whitelist.dat", "user1@example.com\n");
    fleet.metrobus(&["cache", "build"]).run().assert_code(0);
    for (stop, file, other) in [("contactpoint", "whitelist", "an email"), ("whitelist", "emails", "`account,email`")] {
        let file = format!("data/{file}.lmdb");
        let call = fleet.metrobus(&[stop, "--drain"]).env(format!("METROBUS__{}__LMDB", stop.to_uppercase()), &file);
        let output = call.run().assert_code(78);
        let begin = format!("metrobus: {file}: was built from {other} a line, and ");
        assert!(output.stderr.starts_with(&begin) && output.stderr.lines().count() == 1, "{}", output.stderr);
    }
}
