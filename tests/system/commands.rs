//! The commands other than the pusher, end to end on SQLite.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    time::Duration,
};

use metrobus::{
    bus::{self, Outbox, Topic},
    config::Config,
    roles::ROLES,
};
use serde_json::{Value, json};

use crate::{
    fleet::{DEADLINE, Engine, Fleet, STOPS},
    support::{Metrobus, Scratch, Signal, try_until, wait_until},
};

/// A fleet with five accounts, of which 1 to 4 have emails and 1 and 2 are listed.
fn fleet() -> Fleet {
    let fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    let emails: String = (1..=4).map(|account| format!("{account},user{account}@example.com\n")).collect();
    fleet.scratch.write("data/emails.dat", emails);
    fleet.scratch.write("data/whitelist.dat", "user1@example.com\nuser2@example.com\n");
    fleet
}

/// Sends a message for each of these accounts.
fn push(fleet: &Fleet, accounts: &[u32]) {
    let lines: String = accounts.iter().map(|account| format!("{{\"account_number\":{account}}}\n")).collect();
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
}

/// Sends to Log what arrives there: the lines that logstop is to write.
fn arrive(fleet: &Fleet, numbers: std::ops::Range<u32>) -> Vec<String> {
    let line = |n| format!(r#"{{"header":{{"route":[],"historical_route":["Log"]}},"payload":{{"n":{n}}}}}"#);
    let lines: Vec<_> = numbers.map(line).collect();
    let call = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).env("METROBUS__PUSHER__TOPIC", "Log");
    call.stdin(lines.join("\n")).run().assert_code(0);
    lines
}

/// The binary with its output in a pipe, in the folder of the fleet.
fn piped(fleet: &Fleet, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metrobus"));
    command.args(arguments).current_dir(fleet.scratch.root());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("METROBUS")) {
        command.env_remove(name);
    }
    command
        .env_remove("RUST_LOG")
        .env("METROBUS_LOG_FORMAT", "text")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn the_same_seed_makes_the_same_files() {
    let scratch = Scratch::new();
    let make = |out: &str, arguments: &[&str]| {
        let call = Metrobus::new().cwd(scratch.root()).args([&["make-data", "--out", out], arguments].concat());
        let output = call.run().assert_code(0);
        assert_eq!(output.stdout_text(), "");
        output.stderr
    };
    let names = |folder: &str| {
        let entries = fs::read_dir(scratch.path(folder)).expect("the folder");
        let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let said = make("a", &["--count", "1000"]);
    assert!(said.contains("wrote a/emails.dat: 1000 lines\n"), "{said}");
    assert!(said.contains("wrote a/whitelist.dat: 1500 lines, 500 of them emails of accounts\n"), "{said}");
    make("b/c", &["--count", "1000"]);
    make("d", &["--count", "1000", "--seed", "2"]);
    for file in ["emails.dat", "whitelist.dat"] {
        let read = |folder: &str| fs::read(scratch.path(folder).join(file)).expect("a file");
        assert!(read("a") == read("b/c"), "{file} differs between two runs");
        assert!(read("a") != read("d"), "{file} is the same for another seed");
    }
    assert_eq!(names("a"), ["emails.dat", "whitelist.dat"]);
    make("e", &["emails", "--count", "10"]);
    make("f", &["whitelist", "--count", "10", "--hit-rate", "0"]);
    assert_eq!((names("e"), names("f")), (vec!["emails.dat".to_owned()], vec!["whitelist.dat".to_owned()]));
    assert_eq!(scratch.read("e/emails.dat"), lines_of(&scratch.read("a/emails.dat"), 10));
    assert_eq!(scratch.read("f/whitelist.dat").lines().count(), 10);
}

fn lines_of(text: &str, count: usize) -> String {
    text.lines().take(count).map(|line| format!("{line}\n")).collect()
}

#[test]
fn run_takes_several_stops_or_all_and_drains_them_together() {
    let fleet = fleet();
    push(&fleet, &[1, 2, 3, 4, 5]);
    fleet.metrobus(&["run", "contactpoint", "busdriver", "--drain"]).run().assert_code(0);
    let sizes = || ["Source", "AddEmail", "WhiteList", "Log"].map(|topic| fleet.values(topic).len());
    assert_eq!(sizes(), [5, 5, 4, 0], "these two and no others");
    fleet.metrobus(&["run", "--drain"]).run().assert_code(0);
    assert_eq!(sizes(), [5, 5, 4, 2]);
    assert_eq!(fleet.scratch.read("log.ndjson").lines().count(), 2);
    // Each alone, with nothing to do
    for stop in STOPS {
        let output = fleet.metrobus(&[stop, "--drain"]).run().assert_code(0);
        assert!(output.stderr.contains("read=0"), "{}", output.stderr);
    }
}

#[test]
fn the_demo_tells_what_became_of_each_message_and_leaves_nothing() {
    let (folder, temporary) = (Scratch::new(), Scratch::new());
    let demo = |arguments: &[&str]| {
        let call = Metrobus::new().cwd(folder.root()).arg("demo").args(arguments.iter().copied());
        // Neither the configured bus nor a service is asked
        let call = call.env("METROBUS__BUS", "kafka").env("METROBUS__KAFKA__BROKERS", "127.0.0.1:1");
        call.env("TMPDIR", temporary.root())
    };
    let is_empty = |folder: &Scratch| fs::read_dir(folder.root()).expect("a folder").next().is_none();
    let output = demo(&["--count", "2000"]).run().assert_code(0);
    assert_eq!(output.stderr, "");
    let report = Report::read(&output.stdout_text());
    assert_eq!(report.columns, ["STOP", "READ", "FORWARDED", "FINISHED", "DROPPED", "WHY"]);
    assert_eq!(report.rows.iter().map(|row| row.stop.as_str()).collect::<Vec<_>>(), STOPS);
    let mut coming = 2000;
    for row in &report.rows {
        assert_eq!(row.read, coming, "{}: all that the stop before forwarded", row.stop);
        assert_eq!(row.read, row.forwarded + row.finished + row.dropped, "{}", row.stop);
        assert_eq!(row.why.is_empty(), row.dropped == 0, "{}: {}", row.stop, row.why);
        coming = row.forwarded;
    }
    assert_eq!(coming, 0);
    assert!(report.rows[1].dropped > 0 && report.rows[2].dropped > 0 && report.rows[3].finished > 0);
    assert!(report.last.starts_with("2,000 journeys in ") && report.last.contains("(p99)"), "{}", report.last);
    assert!(is_empty(&folder) && is_empty(&temporary), "the demo left something");

    // The same messages come to the same ends; an end asked for leaves nothing either
    assert_eq!(Report::read(&demo(&["--count", "2000"]).run().stdout_text()).rows, report.rows);
    assert_eq!(Report::read(&demo(&["--count", "0"]).run().assert_code(0).stdout_text()).rows[0].read, 0);
    let mut long = demo(&["--count", "100000000"]).spawn();
    wait_until("the demo has begun", DEADLINE, || (!is_empty(&temporary)).then_some(()));
    long.signal(Signal::TERM);
    assert_eq!(long.wait(DEADLINE).assert_code(0).stdout_text(), "");
    assert!(is_empty(&folder) && is_empty(&temporary), "the demo left something");
}

/// What the demo prints, as read by a person.
pub struct Report {
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    pub last: String,
}

#[derive(Debug, PartialEq)]
pub struct Row {
    pub stop: String,
    pub read: u64,
    pub forwarded: u64,
    pub finished: u64,
    pub dropped: u64,
    pub why: String,
}

impl Report {
    pub fn read(text: &str) -> Report {
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with(['─', '═'])).collect();
        let [head, rows @ .., last] = &lines[..] else { panic!("no table: {text}") };
        let row = |line: &&str| {
            let words: Vec<_> = line.split_whitespace().collect();
            let number = |at: usize| words[at].replace(',', "").parse().unwrap_or_else(|_| panic!("{line}"));
            let (read, forwarded, finished, dropped) = (number(1), number(2), number(3), number(4));
            Row { stop: words[0].to_owned(), read, forwarded, finished, dropped, why: words[5..].join(" ") }
        };
        let columns = head.split_whitespace().map(str::to_owned).collect();
        Report { columns, rows: rows.iter().map(row).collect(), last: (*last).to_owned() }
    }
}

#[test]
fn topics_tells_records_groups_and_lag() {
    let fleet = fleet();
    push(&fleet, &[1, 2, 3, 4, 5]);
    fleet.metrobus(&["busdriver", "--drain"]).run().assert_code(0);
    push(&fleet, &[1, 2, 3]);
    let table = fleet.metrobus(&["topics"]).run().assert_code(0).stdout_text();
    let expected = "\
TOPIC      PARTITIONS  RECORDS  GROUP     LAG
AddEmail            1        5  -           -
Error               1        0  -           -
Journal             1        1  -           -
Log                 1        0  -           -
Source              1        8  metrobus    3
WhiteList           1        0  -           -
";
    assert_eq!(table, expected);
    let lines = fleet.metrobus(&["topics", "--json"]).run().assert_code(0).stdout_text();
    let source = r#"{"topic":"Source","partitions":1,"records":8,"groups":[{"group":"metrobus","lag":3}]}"#;
    assert_eq!(lines.lines().nth(4), Some(source));
    assert_eq!(lines.lines().count(), 6);
}

/// Publishes through the library what the pusher would not: a value of any bytes, and one with a header.
fn publish_odd_records(fleet: &Fleet) {
    let path = fleet.scratch.path("data/metrobus.db").into_os_string();
    let config = Config::load(None, [("METROBUS__SQLITE__PATH", path)]).expect("a configuration");
    let (bus, topic) = (bus::open(&config).expect("a bus"), Topic::new("Odd").expect("a topic"));
    bus.connect().expect("a bus in a file");
    bus.create_topics(std::slice::from_ref(&topic)).expect("a topic");
    let mut outbox = Outbox::default();
    outbox.publish(&topic, 1_700_000_000_000, Some(b"\xff"), Some(b"\xfe\n\x00"));
    outbox.publish(&topic, 2, None, None);
    outbox.publish(&topic, 3, Some(b"key"), Some("{\n é}".as_bytes()));
    bus.publisher().expect("a publisher").publish(&outbox).expect("published");
}

#[test]
fn tail_shows_values_as_they_are_or_all_of_a_record_as_json() {
    let fleet = fleet();
    publish_odd_records(&fleet);
    let tail = |arguments: &[&str]| fleet.metrobus(&[&["tail", "Odd"], arguments].concat()).run().assert_code(0);
    assert_eq!(tail(&[]).stdout, b"\xfe\n\x00\n\n{\n \xc3\xa9}\n");
    assert_eq!(tail(&["-n", "1"]).stdout_text(), "{\n é}\n");
    assert_eq!(tail(&["-n", "0"]).stdout_text(), "");
    let lines = [
        r#"{"topic":"Odd","partition":0,"offset":0,"timestamp":1700000000000,"key_base64":"/w==","headers":{},"value_base64":"/goA"}"#,
        r#"{"topic":"Odd","partition":0,"offset":1,"timestamp":2,"key":null,"headers":{},"value":null}"#,
        r#"{"topic":"Odd","partition":0,"offset":2,"timestamp":3,"key":"key","headers":{},"value":"{\n é}"}"#,
    ];
    assert_eq!(tail(&["--json"]).stdout_text().lines().collect::<Vec<_>>(), lines);

    // A dead letter has headers: it is told why
    let call = fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).env("METROBUS__PUSHER__TOPIC", "AddEmail");
    call.stdin(r#"{"header":{"route":["Nowhere"]},"payload":{}}"#).run().assert_code(0);
    fleet.metrobus(&["contactpoint", "--drain"]).run().assert_code(0);
    let letter = fleet.tail("Error").remove(0);
    let header = |name: &str| letter["headers"][format!("metrobus.{name}")].clone();
    assert!(header("reason").as_str().expect("a reason").contains("Nowhere"), "{letter}");
    assert_eq!((header("stop"), header("topic")), (json!("contactpoint"), json!("AddEmail")));
    assert_eq!((header("partition"), header("offset"), header("attempt")), (json!("0"), json!("0"), json!("1")));
}

#[test]
fn tail_gives_ten_unless_told_and_follows_until_a_signal() {
    let fleet = fleet();
    push(&fleet, &(0..30).collect::<Vec<_>>());
    let last = |n: u32| (30 - n..30).map(|account| format!("{{\"account_number\":{account}}}\n")).collect::<String>();
    assert_eq!(fleet.metrobus(&["tail", "Source"]).run().assert_code(0).stdout_text(), last(10));
    let mut follow = fleet.metrobus(&["tail", "Source", "-f", "-n", "3"]).spawn();
    wait_until("the last three", DEADLINE, || (follow.stdout_text() == last(3)).then_some(()));
    for account in 30..33 {
        push(&fleet, &[account]);
        let line = format!("{{\"account_number\":{account}}}\n");
        wait_until("what is pushed now", DEADLINE, || follow.stdout_text().ends_with(&line).then_some(()));
    }
    assert!(follow.is_running());
    follow.signal(Signal::TERM);
    let output = follow.wait(DEADLINE).assert_code(0);
    assert_eq!((output.stdout_text().lines().count(), output.stderr.as_str()), (6, ""));
    // Reading leaves no trace
    let topics = fleet.metrobus(&["topics", "--json"]).run().json_lines();
    assert_eq!(topics[0]["groups"], json!([]));
}

#[test]
fn a_reader_that_goes_away_is_no_news() {
    let fleet = fleet();
    push(&fleet, &(0..30).collect::<Vec<_>>());
    let mut child = piped(&fleet, &["tail", "Source", "--follow"]).spawn().expect("start it");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
    assert_eq!(first, "{\"account_number\":20}\n");
    // The pipe is closed; the next record shows it
    let status = wait_until("its end", DEADLINE, || {
        push(&fleet, &[1]);
        child.try_wait().expect("ask for its state")
    });
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!((status.code(), said.as_str()), (Some(1), ""));
}

#[test]
fn what_config_prints_is_a_configuration() {
    let scratch = Scratch::new();
    scratch.write("mine.toml", "batch = 7\n\n[kafka.properties]\nsasl.password = \"hunter2\"\nacks = \"all\"\n");
    let config = |arguments: &[&str]| {
        let call = Metrobus::new().cwd(scratch.root()).arg("config").args(arguments.iter().copied());
        call.env("METROBUS__REDIS__URL", "redis://metro:hunter2@redis:6379/3").run().assert_code(0)
    };
    let printed = config(&["--config", "mine.toml"]).stdout_text();
    for (line, origin) in [
        ("batch = 7 ", "mine.toml:1"),
        ("bus = \"sqlite\" ", "default"),
        ("\"sasl.password\" = \"***\" ", "mine.toml:4"),
        ("acks = \"all\" ", "mine.toml:5"),
        ("url = \"redis://metro:***@redis:6379/3\" ", "METROBUS__REDIS__URL"),
    ] {
        let found = printed.lines().find(|found| found.starts_with(line)).unwrap_or_else(|| panic!("no {line}"));
        assert!(found.ends_with(&format!("  # {origin}")), "{found}");
    }
    assert!(!printed.contains("hunter2"));
    scratch.write("again.toml", &printed);
    let values = |text: &str| text.parse::<toml::Table>().expect("TOML");
    assert_eq!(values(&config(&["--config", "again.toml"]).stdout_text()), values(&printed));
    // Before the command as after it, and from the environment
    let before = Metrobus::new().cwd(scratch.root()).args(["--config", "mine.toml", "config"]);
    assert!(before.run().assert_code(0).stdout_text().contains("# mine.toml:1"));
    let named = Metrobus::new().cwd(scratch.root()).arg("config").env("METROBUS_CONFIG", "mine.toml");
    assert!(named.run().assert_code(0).stdout_text().contains("# mine.toml:1"));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = Metrobus::new().args(["completions", shell]).run().assert_code(0).stdout_text();
        for word in ROLES.iter().map(|role| role.name).chain(["load", "drain", "connect-timeout"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
        if shell == "bash" && Command::new("bash").arg("--version").output().is_ok() {
            let scratch = Scratch::new();
            let path = scratch.write("completions", &script);
            let output = Command::new("bash").arg("-n").arg(path).output().expect("run bash");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[test]
fn logstop_appends_to_its_file_and_makes_the_folder() {
    let mut fleet = fleet();
    fleet.set("LOGSTOP__OUTPUT", "new/folder/log.ndjson");
    let mut lines = arrive(&fleet, 0..3);
    fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    lines.extend(arrive(&fleet, 3..5));
    let output = fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    assert_eq!(output.stdout_text(), "");
    assert_eq!(fleet.scratch.read("new/folder/log.ndjson").lines().collect::<Vec<_>>(), lines);
    fleet.set("LOGSTOP__OUTPUT", "-");
    let lines = arrive(&fleet, 5..7);
    let output = fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    assert_eq!(output.stdout_text().lines().collect::<Vec<_>>(), lines, "standard output holds the lines alone");
}

#[test]
fn logstop_acknowledges_nothing_that_nobody_reads() {
    let mut fleet = fleet();
    let lines = arrive(&fleet, 0..500);
    let mut child = piped(&fleet, &["logstop", "--drain"]).spawn().expect("start it");
    drop(child.stdout.take());
    let status = try_until(DEADLINE, || child.try_wait().expect("ask for its state"));
    let _ = child.kill();
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(status.expect("it goes on").code(), Some(1), "{said}");
    assert!(said.contains("metrobus: stop logstop: write to standard output: Broken pipe"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    fleet.set("LOGSTOP__OUTPUT", "-");
    let output = fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    assert_eq!(output.stdout_text().lines().collect::<Vec<_>>(), lines);
}

#[test]
fn the_log_tells_start_and_end_as_much_as_was_asked_for() {
    let fleet = fleet();
    let run = |arguments: &[&str], level: Option<&str>| {
        let call = fleet.metrobus(&[arguments, &["busdriver", "--drain"]].concat());
        let call = level.into_iter().fold(call, |call, level| call.env("RUST_LOG", level));
        call.deadline(Duration::from_secs(30)).run().assert_code(0).stderr
    };
    push(&fleet, &[1, 2]);
    let said = run(&[], None);
    for part in ["INFO ready stop=\"busdriver\" topic=Source", "INFO assigned topic=Source", "read=2 forwarded=2"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(run(&["-q"], None), "");
    assert_eq!(run(&[], Some("error")), "");
    assert!(run(&[], Some("")).contains("INFO ready"), "an empty RUST_LOG is none");
    assert!(run(&["-v"], Some("off")).contains("INFO ready"), "a flag counts over RUST_LOG");
    let said = run(&[], Some("metrobus=verbose"));
    assert!(said.contains("WARN RUST_LOG does not count: ") && said.contains("INFO ready"), "{said}");
    for line in run(&["--log-format", "json"], None).lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["timestamp"].is_string() && line["level"] == "INFO" && line["message"].is_string(), "{line}");
    }
}

#[test]
fn nothing_of_a_message_is_in_any_log() {
    const MARK: &str = "hunter2";
    let fleet = fleet();
    fleet.scratch.write("data/emails.dat", format!("{MARK}1,{MARK}@example.com\n{MARK}2,{MARK}.no@example.com\n"));
    fleet.scratch.write("data/whitelist.dat", format!("{MARK}@example.com\n"));
    let lines = [
        format!(r#"{{"account_number":"{MARK}1","{MARK}":"{MARK}"}}"#),
        format!(r#"{{"account_number":"{MARK}2"}}"#),
        format!(r#"{{"account_number":"{MARK}3"}}"#),
        format!(r#"{{"account_number":["{MARK}"]}}"#),
        format!(r#"{{"account_number":"{MARK}1","deep":{}"{MARK}"{}}}"#, "[".repeat(200), "]".repeat(200)),
        format!("{MARK} is no JSON"),
    ];
    let mut logs = String::new();
    for format in ["text", "json"] {
        let flags = ["-vv", "--log-format", format];
        let mut log = |arguments: &[&str], topic: &str, input: String| {
            let call = fleet.metrobus(&[&flags, arguments].concat()).env("METROBUS__PUSHER__TOPIC", topic);
            logs += &call.stdin(input).run().assert_code(0).stderr;
        };
        log(&["pusher", "--from", "-", "--rate", "0"], "Source", lines.join("\n"));
        // As slips that are no good, and as text where a message should be
        let slips = [
            format!(r#"{{"header":{{"route":["{MARK}"]}},"payload":{{}}}}"#),
            format!(r#"{{"header":{{"route":"{MARK}"}},"payload":{{"email":"{MARK}"}}}}"#),
            format!(r#"{{"header":{{"route":[]}},"payload":"{MARK}"}}"#),
        ];
        for topic in ["AddEmail", "WhiteList", "Log"] {
            log(&["pusher", "--from", "-", "--rate", "0"], topic, slips.join("\n"));
        }
        log(&["run", "--drain"], "Source", String::new());
        log(&["tail", "Log", "--json"], "Source", String::new());
        log(&["topics"], "Source", String::new());
    }
    let fates = ["Log", "Error"].map(|topic| fleet.values(topic).iter().filter(|value| value.contains(MARK)).count());
    assert!(fates[0] >= 2 && fates[1] >= 8, "the marked messages were not on the bus: {fates:?}");
    assert!(logs.contains("ready") && logs.contains("line 6: not a JSON object; skipped"), "{logs}");
    let found: Vec<_> = logs.lines().filter(|line| line.contains(MARK)).collect();
    assert!(found.is_empty(), "{found:#?}");
}
