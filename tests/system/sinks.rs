//! Where logstop writes to: OpenSearch, which holds each message exactly once whatever is killed, and files, which are put
//! aside.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    time::{Duration, Instant, SystemTime},
};

use rand::RngExt;
use serde_json::Value;

use crate::{
    faults::random,
    fleet::{DEADLINE, Engine, Fleet},
    support::{Answer, Gate, OpenSearch, Process, Request, Signal, client, free_port, say, unique, wait_until},
};

/// A fleet whose route is logstop alone.
fn fleet(engine: Engine) -> Option<Fleet> {
    let mut fleet = Fleet::new(engine)?;
    fleet.set("BUSDRIVER__ROUTE", "Log");
    Some(fleet)
}

/// A fleet on SQLite whose logstop writes to `url`, and the prefix of its indices.
fn fleet_to(url: &str) -> (Fleet, String) {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let prefix = write_to(&mut fleet, url);
    (fleet, prefix)
}

fn write_to(fleet: &mut Fleet, url: &str) -> String {
    let prefix = unique("sink");
    fleet.set("LOGSTOP__OUTPUT", url);
    fleet.set("LOGSTOP__OPENSEARCH__INDEX", &prefix);
    prefix
}

fn numbers(count: usize) -> String {
    (0..count).map(|n| format!("{{\"x\":{n},\"account_number\":{}}}\n", n % 100)).collect()
}

/// Has the messages wait at logstop.
fn send(fleet: &Fleet, lines: impl Into<Vec<u8>>) {
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
    fleet.metrobus(&["busdriver", "--drain"]).env("METROBUS__KAFKA__INSTANCE", "b").run().assert_code(0);
}

/// Every one of `count` messages is there once, as the bus has it and under its own id.
#[track_caller]
fn assert_each_once(fleet: &Fleet, node: &OpenSearch, prefix: &str, count: usize, what: &str) {
    let documents = node.documents(prefix, count);
    let numbers: Vec<_> = documents.iter().map(|found| found["_source"]["payload"]["x"].as_u64()).collect();
    let wrong = numbers.iter().enumerate().find(|(index, number)| **number != Some(*index as u64));
    assert!(wrong.is_none() && numbers.len() == count, "{what}: {} of {count}, wrong: {wrong:?}", numbers.len());
    let ids: BTreeSet<_> = documents.iter().map(|found| found["_id"].as_str().expect("an id")).collect();
    let sent: Vec<Value> = fleet.values("Log").iter().map(|value| serde_json::from_str(value).unwrap()).collect();
    let sent: BTreeSet<_> = sent.iter().map(|value| value["header"]["id"].as_str().expect("an id")).collect();
    assert!(ids == sent, "{what}: the ids are not those of the messages");
    let again = documents.iter().filter(|found| found["_version"] != 1).count();
    say(&format!("{what}: {count} documents, {again} of them written more than once"));
}

/// OpenSearch holds each message exactly once, though logstop is killed again and again, and OpenSearch in the middle.
fn each_is_there_once(engine: Engine) {
    const COUNT: usize = 20_000;
    let Some(mut node) = OpenSearch::start() else { return };
    let Some(mut fleet) = fleet(engine) else { return };
    let prefix = write_to(&mut fleet, &node.url());
    fleet.set("BATCH", "200");
    let what = format!("killed, {engine:?}");
    let mut random = random(&what);
    fleet.scratch.write("records.ndjson", numbers(COUNT));
    let mut busdriver = fleet.start("busdriver", "a");
    let mut logstop = fleet.start("logstop", "a");
    // The faults strike while messages flow
    let mut pusher = fleet.metrobus(&["pusher", "--from", "records.ndjson", "--rate", "2000"]).spawn();
    let mut kill = |logstop: &mut Process| {
        // The moment is the fault's, not the test's: any will do
        std::thread::sleep(Duration::from_millis(random.random_range(20..900)));
        logstop.kill9();
        *logstop = fleet.start("logstop", "a");
    };
    (0..6).for_each(|_| kill(&mut logstop));
    wait_until("documents", DEADLINE, || (node.count(&prefix) > 0).then_some(()));
    assert!(pusher.is_running(), "{what}: the messages have all been sent");
    node.kill();
    logstop.wait_for_stderr("waits for what stop logstop needs: reach http://127.0.0.1:", DEADLINE);
    node.restart();
    logstop.wait_for_stderr("what stop logstop needs is back after", DEADLINE);
    kill(&mut logstop);
    pusher.wait(DEADLINE).assert_code(0);
    for process in [&mut busdriver, &mut logstop] {
        process.wait_for_stderr("ready", DEADLINE);
        process.signal(Signal::TERM);
    }
    busdriver.wait(DEADLINE).assert_code(0);
    logstop.wait(DEADLINE).assert_code(0);
    let rest = fleet.metrobus(&["run", "busdriver", "logstop", "--drain"]).env("METROBUS__KAFKA__INSTANCE", "a");
    rest.run().assert_code(0);
    assert_each_once(&fleet, &node, &prefix, COUNT, &what);
}

#[test]
fn opensearch_holds_each_message_once_on_sqlite() {
    each_is_there_once(Engine::Sqlite);
}

#[test]
fn opensearch_holds_each_message_once_on_kafka() {
    each_is_there_once(Engine::AtLeastOnce);
}

#[test]
fn a_document_is_the_message_in_the_index_of_its_day() {
    let Some(node) = OpenSearch::shared() else { return };
    let (fleet, prefix) = fleet_to(&node.url());
    let milliseconds = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let begun = milliseconds();
    send(&fleet, "{\"x\":1,\"sum\":2.50}\n");
    fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    let documents = node.documents(&prefix, 1);
    let [found] = &documents[..] else { panic!("{documents:?}") };
    let mut document = found["_source"].clone();
    let inserted = document.as_object_mut().unwrap().remove("metrobus_inserted_timestamp").unwrap();
    assert!((begun..=milliseconds()).contains(&inserted.as_u64().unwrap()), "{inserted}");
    let sent: Value = serde_json::from_str(&fleet.values("Log")[0]).unwrap();
    assert_eq!(document, sent);
    assert_eq!(found["_id"], sent["header"]["id"]);
    let id = uuid::Uuid::try_parse(found["_id"].as_str().unwrap()).unwrap();
    let given = Duration::from_millis((id.as_u128() >> 80) as u64);
    let day = humantime::format_rfc3339(SystemTime::UNIX_EPOCH + given).to_string();
    assert_eq!(found["_index"], format!("{prefix}-{}", &day[..10]));
}

#[test]
fn a_document_that_is_refused_is_a_dead_letter_alone() {
    const COUNT: usize = 50;
    let Some(node) = OpenSearch::shared() else { return };
    let (fleet, prefix) = fleet_to(&node.url());
    let when = |n| if n == 20 || n == 49 { "s3cret" } else { "2026-11-21" };
    let records = (0..COUNT).map(|n| format!("{{\"x\":{n},\"when\":\"{}\"}}\n", when(n)));
    send(&fleet, records.collect::<String>());
    let output = fleet.metrobus(&["logstop", "--drain", "-v"]).run().assert_code(0);
    assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
    assert!(output.stderr.contains("refused by the sink"), "{}", output.stderr);
    let found = node.documents(&prefix, COUNT);
    let found: Vec<_> = found.iter().map(|found| found["_source"]["payload"]["x"].as_u64().unwrap()).collect();
    assert_eq!(found, (0..COUNT as u64).filter(|n| *n != 20 && *n != 49).collect::<Vec<_>>());
    let letters = fleet.tail("Error");
    assert_eq!(letters.len(), 2);
    let reason = fleet.metrobus(&["dead", "ls", "--json"]).run().assert_code(0).json_lines()[0]["reason"].clone();
    let reason = reason.as_str().unwrap();
    let expected = "refused by the sink: mapper_parsing_exception: failed to parse field [payload.when] of type [date]";
    assert!(reason.starts_with(expected) && !reason.contains("s3cret"), "{reason}");
}

#[test]
fn what_no_document_can_be_made_of_harms_no_other() {
    let Some(node) = OpenSearch::shared() else { return };
    let (mut fleet, prefix) = fleet_to(&node.url());
    let header =
        |id: &str| format!("{{\"header\":{{\"route\":[],\"historical_route\":[],\"id\":\"{id}\"}},\"payload\":");
    let records = [
        format!("{}{{\"x\":0}}}}", header("")),
        format!("{}{{\"x\":1}}}}", header(&"i".repeat(2000))),
        format!("{}{{\"x\":2}}}}", header("\\ud800")),
        format!("{}{{\"x\":3,\"a\":\"\\ud800\"}}}}", header("three")),
        format!("{}{{\"x\":4,\"a\":1,\"a\":2}}}}", header("four")),
        format!("{}{{\"x\":5,\"\":1}}}}", header("five")),
        "{\"x\":6,\"_id\":7}".to_owned(),
        format!("{}{{\"x\":\"{}\"}}}}", header("seven"), "\\u0001".repeat(50_000)),
        format!("{}{{\"x\":8}}}}", header("eight")),
    ];
    fleet.set("PUSHER__TOPIC", "Log");
    let lines = records.join("\n") + "\n";
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(lines).run().assert_code(0);
    fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    let found = node.documents(&prefix, records.len());
    let number = |found: &Value| found["_source"]["payload"]["x"].as_u64().unwrap();
    let there: Vec<_> = found.iter().map(number).collect();
    let dead = fleet.tail("Error").len();
    assert!([0, 1, 2, 8].iter().all(|number| there.contains(number)), "{there:?}");
    assert_eq!(there.len() + dead, records.len(), "{there:?}");
    let places = found.iter().filter(|found| found["_id"].as_str().unwrap().starts_with("Log:0:")).count();
    assert_eq!(places, 3);
}

#[test]
fn a_busy_server_is_left_alone_as_long_as_it_asks() {
    const COUNT: usize = 300;
    let Some(node) = OpenSearch::shared() else { return };
    let bulks = std::sync::atomic::AtomicUsize::new(0);
    let gate = Gate::start(node.url(), move |request| {
        if request.method != "POST" {
            return Answer::Passed;
        }
        match bulks.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            1 => Answer::Status(429, "retry-after: 2\r\n"),
            2 => Answer::Status(503, ""),
            3 => Answer::Status(500, "retry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\n"),
            _ => Answer::Passed,
        }
    });
    let (mut fleet, prefix) = fleet_to(&gate.url());
    let listen = free_port();
    fleet.set("BATCH", "100");
    fleet.set("HTTP__LISTEN", listen.to_string());
    send(&fleet, numbers(COUNT));
    let mut logstop = fleet.start("logstop", "a");
    logstop.wait_for_stderr("answers 429 Too Many Requests", DEADLINE);
    let ready = client().get(format!("http://127.0.0.1:{listen}/readyz")).send().unwrap();
    let (status, text) = (ready.status().as_u16(), ready.text().unwrap());
    assert!(status == 503 && text.starts_with("logstop: waits for sink: http://127.0.0.1:"), "{status} {text}");
    wait_until("all documents", DEADLINE, || (node.count(&prefix) == COUNT as u64).then_some(()));
    logstop.signal(Signal::TERM);
    logstop.wait(DEADLINE).assert_code(0);
    assert_each_once(&fleet, &node, &prefix, COUNT, "busy");
    let bulks: Vec<Instant> = gate.requests().iter().filter(|sent| sent.method == "POST").map(|sent| sent.at).collect();
    assert_eq!(bulks.len(), 6, "three batches, and one thrice more");
    assert!(bulks[2] - bulks[1] >= Duration::from_secs(2), "{:?}", bulks[2] - bulks[1]);
}

#[test]
fn a_server_that_takes_less_gets_less_at_once() {
    const COUNT: usize = 100;
    let Some(node) = OpenSearch::shared() else { return };
    let limit = |sent: &Request| if sent.body.len() > 3000 { Answer::Status(413, "") } else { Answer::Passed };
    let gate = Gate::start(node.url(), limit);
    let (fleet, prefix) = fleet_to(&gate.url());
    let long = format!("{{\"x\":{COUNT},\"pad\":\"{}\"}}\n", "x".repeat(4000));
    send(&fleet, numbers(COUNT / 2) + &long + &numbers(COUNT)[numbers(COUNT / 2).len()..]);
    fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    assert_eq!(node.documents(&prefix, COUNT + 1).len(), COUNT);
    let letters = fleet.tail("Error");
    assert_eq!(letters.len(), 1);
    assert!(letters[0]["value"].as_str().unwrap().contains("xxxx"));
}

#[test]
fn who_does_not_get_in_is_told_and_nothing_is_lost() {
    const PASSWORD: &str = "s3cret-of-sinks";
    let Some(node) = OpenSearch::shared() else { return };
    // me:s3cret-of-sinks
    let gate = Gate::start(node.url(), |sent| match sent.login.as_str() {
        "Basic bWU6czNjcmV0LW9mLXNpbmtz" => Answer::Passed,
        _ => Answer::Status(401, "www-authenticate: Basic\r\n"),
    });
    let (mut fleet, prefix) = fleet_to(&gate.url());
    send(&fleet, numbers(10));
    let call = |fleet: &Fleet| fleet.metrobus(&["logstop", "--drain", "--connect-timeout", "1s", "-vv"]).run();
    let wrong = "refuses the login (401 Unauthorized), see logstop.opensearch.user and its password";
    assert!(call(&fleet).assert_code(69).stderr.contains(wrong));
    fleet.set("LOGSTOP__OPENSEARCH__USER", "me");
    fleet.set("LOGSTOP__OPENSEARCH__PASSWORD", "s3cret-of-others");
    let output = call(&fleet).assert_code(69);
    assert!(output.stderr.contains(wrong) && !output.stderr.contains("s3cret"), "{}", output.stderr);
    let config = fleet.metrobus(&["config"]).run().assert_code(0).stdout_text();
    assert!(config.contains("password = \"***\"") && !config.contains("s3cret"), "{config}");
    fleet.set("LOGSTOP__OPENSEARCH__PASSWORD", "");
    fleet.scratch.write("password", "s3cret-of-yesterday");
    fleet.set("LOGSTOP__OPENSEARCH__PASSWORD_FILE", "password");
    let mut logstop = fleet.start("logstop", "a");
    logstop.wait_for_stderr(wrong, DEADLINE);
    fleet.scratch.write("password", format!("{PASSWORD}\n"));
    wait_until("documents", DEADLINE, || (node.count(&prefix) == 10).then_some(()));
    logstop.signal(Signal::TERM);
    let output = logstop.wait(DEADLINE).assert_code(0);
    assert!(!output.stderr.contains("s3cret"), "{}", output.stderr);
    assert_each_once(&fleet, &node, &prefix, 10, "with a password");
}

#[test]
fn over_tls_only_who_is_trusted_gets_documents() {
    let Some(node) = OpenSearch::shared() else { return };
    let (gate, certificate) = Gate::start_secure(node.url(), |_| Answer::Passed);
    let (mut fleet, prefix) = fleet_to(&gate.url());
    send(&fleet, numbers(10));
    let output = fleet.metrobus(&["logstop", "--drain", "--connect-timeout", "1s"]).run().assert_code(69);
    assert!(output.stderr.contains("certificate"), "{}", output.stderr);
    assert_eq!(gate.requests().len(), 0);
    fleet.scratch.write("ca.pem", certificate);
    fleet.set("LOGSTOP__OPENSEARCH__CA", "ca.pem");
    fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    assert_each_once(&fleet, &node, &prefix, 10, "over TLS");
}

#[test]
fn a_sink_that_cannot_work_is_a_configuration_that_is_wrong() {
    let https = ("OUTPUT", "https://127.0.0.1:9");
    for (settings, found) in [
        (&[("OUTPUT", "http://")][..], "LOGSTOP__OUTPUT: is no URL: empty host"),
        (&[("OUTPUT", "ftp://x")], "LOGSTOP__OUTPUT: must be \"-\", a path, or begin with http:// or https://"),
        (&[("OUTPUT", "http://me:s3cret@x")], "LOGSTOP__OUTPUT: must not hold a login"),
        (&[https, ("OPENSEARCH__INDEX", "Metro")], "LOGSTOP__OPENSEARCH__INDEX: must be 1 to 200 of a-z"),
        (&[https, ("OPENSEARCH__CA", "none.pem")], "LOGSTOP__OPENSEARCH__CA: cannot read none.pem: No such file"),
        (&[https, ("OPENSEARCH__CA", "empty.pem")], "LOGSTOP__OPENSEARCH__CA: empty.pem holds no certificate"),
        (&[https, ("OPENSEARCH__PASSWORD", "s3cret")], "logstop.opensearch.user: is empty, and password is set"),
        (
            &[https, ("OPENSEARCH__USER", "me"), ("OPENSEARCH__PASSWORD_FILE", "none")],
            "LOGSTOP__OPENSEARCH__PASSWORD_FILE: cannot read none: No such file",
        ),
        (&[https, ("OPENSEARCH__TIMEOUT", "0s")], "LOGSTOP__OPENSEARCH__TIMEOUT: must be more than zero"),
        (&[https, ("OPENSEARCH__BULK_BYTES", "1")], "bulk_bytes is 1, must be an integer from 1000 to 100000000"),
    ] {
        let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
        fleet.scratch.write("empty.pem", "");
        for (name, value) in settings {
            fleet.set(&format!("LOGSTOP__{name}"), *value);
        }
        for command in ["logstop", "check"] {
            let output = fleet.metrobus(&[command]).run().assert_code(78);
            let said = output.stdout_text() + &output.stderr;
            assert!(said.contains(found) && !said.contains("s3cret"), "{command} {settings:?}: {said}");
        }
    }
}

#[test]
fn check_reaches_for_the_sink() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let url = format!("http://127.0.0.1:{}", free_port());
    fleet.set("LOGSTOP__OUTPUT", &url);
    fleet.metrobus(&["check"]).run().assert_code(0);
    let output = fleet.metrobus(&["check", "--connect", "--connect-timeout", "1s"]).run().assert_code(78);
    let said = output.stdout_text();
    assert!(said.contains(&format!("the sink of logstop cannot be reached within 1s: reach {url}: ")), "{said}");
    let gate = Gate::start("", |_| Answer::Status(200, ""));
    fleet.set("LOGSTOP__OUTPUT", gate.url());
    fleet.metrobus(&["check", "--connect"]).run().assert_code(0);
}

/// `x` of the lines of all files that logstop wrote, by the name of the file.
fn lines(fleet: &Fleet) -> Vec<(String, Vec<u64>)> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(fleet.scratch.path("out")).unwrap().map(name).collect();
    // The one that is written to comes last
    names.sort_by_key(|name| (name == "log.ndjson", name.clone()));
    let number = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        value["payload"]["x"].as_u64().unwrap()
    };
    let read = |name: String| {
        let text = fleet.scratch.read(&format!("out/{name}"));
        assert!(text.ends_with('\n'), "{name} ends within a line");
        (name, text.lines().map(number).collect())
    };
    names.into_iter().map(read).collect()
}

#[test]
fn a_file_is_put_aside_when_it_is_full_and_each_line_is_in_one() {
    const COUNT: usize = 5000;
    let mut fleet = fleet(Engine::Sqlite).unwrap();
    fleet.set("LOGSTOP__OUTPUT", "out/log.ndjson");
    fleet.set("LOGSTOP__ROTATE__BYTES", "100000");
    send(&fleet, numbers(COUNT));
    fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    let files = lines(&fleet);
    assert!(files.len() > 5, "{} files", files.len());
    for (name, _) in &files {
        let length = fs::metadata(fleet.scratch.path(&format!("out/{name}"))).unwrap().len();
        assert!(length <= 100_000, "{name} has {length} bytes");
    }
    let numbers: Vec<_> = files.into_iter().flat_map(|(_, numbers)| numbers).collect();
    assert_eq!(numbers, (0..COUNT as u64).collect::<Vec<_>>());
}

#[test]
fn no_line_is_torn_and_none_lost_when_logstop_is_killed_while_it_puts_files_aside() {
    const COUNT: usize = 20_000;
    let mut fleet = fleet(Engine::Sqlite).unwrap();
    fleet.set("LOGSTOP__OUTPUT", "out/log.ndjson");
    fleet.set("LOGSTOP__ROTATE__BYTES", "20000");
    fleet.set("BATCH", "200");
    let mut random = random("killed while it puts files aside");
    send(&fleet, numbers(COUNT));
    for _ in 0..8 {
        let mut logstop = fleet.start("logstop", "a");
        std::thread::sleep(Duration::from_millis(random.random_range(10..120)));
        logstop.kill9();
    }
    fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    let numbers: BTreeSet<_> = lines(&fleet).into_iter().flat_map(|(_, numbers)| numbers).collect();
    assert_eq!(numbers.len(), COUNT);
}

#[test]
fn each_day_has_a_file_of_its_own() {
    let mut fleet = fleet(Engine::Sqlite).unwrap();
    fleet.set("LOGSTOP__OUTPUT", "out/log.ndjson");
    fleet.set("LOGSTOP__ROTATE__DAILY", "true");
    fleet.set("LOGSTOP__ROTATE__KEEP", "2");
    // 1970-01-01 and the two days after it
    for day in 0..3 {
        send(&fleet, format!("{{\"x\":{day}}}\n"));
        fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
        let file = File::options().write(true).open(fleet.scratch.path("out/log.ndjson")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * day)).unwrap();
    }
    send(&fleet, "{\"x\":3}\n{\"x\":4}\n");
    fleet.metrobus(&["logstop", "--drain"]).run().assert_code(0);
    let name = |day: &str| format!("log.ndjson.1970-01-{day}.000001");
    let expected = [(name("02"), vec![1]), (name("03"), vec![2]), ("log.ndjson".to_owned(), vec![3, 4])];
    assert_eq!(lines(&fleet), expected);
}
