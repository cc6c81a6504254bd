//! A bus file that is no bus, or not any more: a clear error, exit 1, and the file as it was.

use std::{collections::BTreeMap, fs, path::Path};

use rusqlite::Connection;

use super::traffic::{all, assert_no_panic, database, write_caches};
use crate::{
    fleet::{Engine, Fleet, STOPS},
    support::Output,
};

fn fleet() -> Fleet {
    let fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    write_caches(&fleet);
    fs::remove_file(database(&fleet)).ok();
    fleet
}

/// Everything that touches the bus.
fn commands() -> Vec<Vec<&'static str>> {
    let mut commands: Vec<Vec<&str>> = STOPS.iter().map(|stop| vec![*stop, "--drain"]).collect();
    commands.extend([vec!["run", "--drain"], vec!["pusher", "--count", "1"], vec!["topics"], vec!["tail", "Log"]]);
    commands
}

#[track_caller]
fn assert_failed(output: Output, expected: &str) {
    let output = output.assert_code(1);
    assert_no_panic(&output.stderr);
    let errors: Vec<_> = output.stderr.lines().filter(|line| line.starts_with("metrobus: ")).collect();
    assert_eq!(errors.len(), 1, "one line says it:\n{}", output.stderr);
    assert!(errors[0].contains(expected), "{}: {}", output.call, errors[0]);
    assert_eq!(output.stdout_text(), "");
}

/// The files of a folder with their bytes.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap())).collect()
}

#[test]
fn a_file_that_is_no_database_is_left_as_it_is() {
    let fleet = fleet();
    let old_database = "x".repeat(100_000);
    for text in ["a note to self\n", &old_database, "SQLite format 3", "{}"] {
        fleet.scratch.write("data/metrobus.db", text);
        let before = content(&fleet.scratch.path("data"));
        for command in commands() {
            let expected = "the file is damaged or not a bus of metrobus; restore it, or move it away to begin with an";
            assert_failed(fleet.metrobus(&command).run(), expected);
        }
        assert!(content(&fleet.scratch.path("data")) == before, "the file is touched, or another lies beside it");
    }
}

#[test]
fn a_database_of_another_program_is_left_as_it_is() {
    for journal in ["delete", "wal"] {
        let fleet = fleet();
        let other = Connection::open(database(&fleet)).unwrap();
        other.pragma_update(None, "journal_mode", journal).unwrap();
        other.execute_batch("CREATE TABLE topics (id, name); INSERT INTO topics VALUES (1, 'Source')").unwrap();
        if journal == "delete" {
            drop(other);
        } else {
            // As that program leaves it when it is killed: the table is in the log beside the file only
            let copies: Vec<_> = ["", "-wal"].map(|end| format!("data/metrobus.db{end}")).into_iter().collect();
            let bytes: Vec<_> = copies.iter().map(|name| fs::read(fleet.scratch.path(name)).unwrap()).collect();
            drop(other);
            for (name, bytes) in copies.iter().zip(bytes) {
                fleet.scratch.write(name, bytes);
            }
        }
        let before = content(&fleet.scratch.path("data"));
        for command in commands() {
            let expected = "data/metrobus.db is a database of another program; set sqlite.path to a file of its own";
            assert_failed(fleet.metrobus(&command).run(), expected);
        }
        let mut after = content(&fleet.scratch.path("data"));
        // SQLite's index of the log, made anew whenever one opens it
        after.remove("metrobus.db-shm");
        assert!(after == before, "{journal}: {:?} before, {:?} after", before.keys(), after.keys());
    }
}

#[test]
fn a_path_that_is_no_file_is_an_error() {
    let fleet = fleet();
    fleet.scratch.write("file", "");
    fs::create_dir(fleet.scratch.path("folder")).unwrap();
    for (path, expected) in [
        ("folder", "open the bus folder: it cannot be opened; check sqlite.path and the permissions of its folder"),
        ("file/bus.db", "create the folder of the bus file/bus.db"),
        ("/dev/null/bus.db", "create the folder of the bus /dev/null/bus.db"),
        (
            "/proc/bus.db",
            "open the bus /proc/bus.db: it cannot be opened; check sqlite.path and the permissions of its",
        ),
    ] {
        let output = fleet.metrobus(&["pusher", "--count", "1"]).env("METROBUS__SQLITE__PATH", path).run();
        assert_failed(output, expected);
    }
}

#[test]
fn a_bus_that_cannot_be_written_is_an_error() {
    use std::os::unix::fs::PermissionsExt;

    let fleet = fleet();
    fleet.metrobus(&["pusher", "--count", "10", "--rate", "0"]).run().assert_code(0);
    fs::set_permissions(database(&fleet), fs::Permissions::from_mode(0o444)).unwrap();
    if fs::OpenOptions::new().append(true).open(database(&fleet)).is_ok() {
        crate::support::say("root writes every file: the case without permission is left out");
        return;
    }
    assert_failed(fleet.metrobus(&["busdriver", "--drain"]).run(), "it cannot be written; check its permissions");
}

/// A bus with records, closed.
fn bus_with_records(fleet: &Fleet) -> Vec<u8> {
    fleet.metrobus(&["pusher", "--count", "20000", "--rate", "0"]).run().assert_code(0);
    let bytes = fs::read(database(fleet)).unwrap();
    assert!(!fleet.scratch.path("data/metrobus.db-wal").exists(), "all of it is in the file");
    bytes
}

#[test]
fn a_damaged_bus_is_an_error_and_nothing_of_it_is_acknowledged() {
    let fleet = fleet();
    let bytes = bus_with_records(&fleet);
    let last_page = (bytes.len() / 4096 - 1) * 4096;
    for (what, damage) in [("from the second page on", 4096..bytes.len()), ("in the middle", last_page / 2..last_page)]
    {
        let mut damaged = bytes.clone();
        damaged[damage].fill(0xa5);
        fleet.scratch.write("data/metrobus.db", &damaged);
        let output = fleet.metrobus(&["busdriver", "--drain"]).run();
        assert_failed(output, "the file is damaged or not a bus of metrobus");
        // With the damage mended everything is there, and what was handed on before it came once
        let restored = fs::read(database(&fleet)).unwrap();
        assert!(restored.len() >= damaged.len(), "{what}: nothing is cut off");
    }
    for length in [bytes.len() / 2, 5000, 4096, 100] {
        fleet.scratch.write("data/metrobus.db", &bytes[..length]);
        assert_failed(fleet.metrobus(&["busdriver", "--drain"]).run(), "the file is damaged or not a bus of metrobus");
    }
}

#[test]
fn what_a_stop_did_before_it_met_the_damage_is_done_once() {
    let fleet = fleet();
    let bytes = bus_with_records(&fleet);
    // One page of Source's records, behind the first few thousand
    let text = br#"{"x":15000,"#;
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap() / 4096 * 4096;
    let mut damaged = bytes.clone();
    damaged[at..at + 4096].fill(0);
    fleet.scratch.write("data/metrobus.db", &damaged);
    assert_failed(fleet.metrobus(&["busdriver", "--drain"]).run(), "the file is damaged or not a bus of metrobus");
    let sent = all(&fleet, "AddEmail").len();
    assert!((1..20_000).contains(&sent), "{sent}");

    // The page restored, it goes on where it was
    let mut mended = fs::read(database(&fleet)).unwrap();
    mended[at..at + 4096].copy_from_slice(&bytes[at..at + 4096]);
    fleet.scratch.write("data/metrobus.db", mended);
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);
    let numbers: Vec<_> =
        all(&fleet, "AddEmail").iter().map(|record| record.json()["payload"]["x"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..20_000).collect::<Vec<_>>());
}
