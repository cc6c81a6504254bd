//! Subscribers from outside: added, listed, tried and taken away, in a table that switch may have made.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    listen::Listen,
    support::{Metrobus, Output, Scratch, wait_until},
};

const DEADLINE: Duration = Duration::from_secs(30);

/// As gorm 1.20 makes it of switch's model, and what its driver writes for times.
const SWITCH: &str = "
    CREATE TABLE `subscribers` (`id` integer,`created_at` datetime,`updated_at` datetime,`deleted_at` datetime,
        `filter_expression` text,`target_url` text,`topic` text,PRIMARY KEY (`id`));
    CREATE INDEX `idx_subscribers_deleted_at` ON `subscribers`(`deleted_at`);
    INSERT INTO `subscribers` VALUES
        (1,'2020-09-24 01:50:46.123456789+02:00','2020-09-24 01:50:46.123456789+02:00',NULL,
         'data[''body''][''amount''] > 100','https://example.com/hook?key=s3cret','mytopic'),
        (2,'2020-09-24 01:50:47.1+02:00','2020-09-24 01:50:47.1+02:00','2020-10-01 00:00:00+00:00','True','https://example.com/2','mytopic'),
        (3,'2020-09-24 01:50:48+02:00','2020-09-24 01:50:48+02:00',NULL,'__import__(''os'')','https://example.com/3','mytopic'),
        (4,'2020-09-24 01:50:49+02:00','2020-09-24 01:50:49+02:00',NULL,'','https://example.com/4','other');";

/// A folder in which commands run, with a configuration.
struct Here(Scratch);

impl Here {
    /// Requests may go to this machine.
    fn new() -> Here {
        let here = Here(Scratch::new());
        here.configure("deliver.allowed_networks = ['127.0.0.0/8']\npusher.topic = 'Orders'\n");
        here
    }

    fn configure(&self, toml: &str) {
        self.0.write("metrobus.toml", toml);
    }

    fn call(&self, arguments: &[&str]) -> Metrobus {
        Metrobus::new().cwd(self.0.root()).args(["--config", "metrobus.toml"]).args(arguments.iter().copied())
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.call(arguments).run()
    }

    fn subscriber(&self, arguments: &[&str]) -> Output {
        self.run(&[&["subscriber"], arguments].concat())
    }

    fn listed(&self) -> Vec<Value> {
        self.subscriber(&["ls", "--json"]).assert_code(0).json_lines()
    }

    fn names(&self) -> Vec<String> {
        self.listed().iter().map(|line| line["name"].as_str().expect("a name").to_owned()).collect()
    }
}

#[test]
fn one_is_added_tried_and_taken_away() {
    let here = Here::new();
    let url = |listen: &Listen| format!("http://127.0.0.1:{}/hook", listen.port);
    let nobody = Listen::start(Metrobus::new(), &["--json", "--status", "500"]);
    let add = [
        "add",
        "--topic",
        "Orders",
        "--name",
        "billing",
        "--filter",
        "data.amount > 100",
        "--generate-secret",
        "--json",
    ];
    let header = ["--header", "X-From: us", "--ordered", "--rate", "5", "--concurrency", "2", "--url"];
    let added = here.subscriber(&[&add[..], &header, &[&url(&nobody)]].concat()).assert_code(0).json_lines();
    let secret = added[0]["secret"].as_str().expect("a secret").to_owned();
    assert_eq!((&added[0]["name"], secret.starts_with("whsec_")), (&json!("billing"), true));
    let mode = fs::metadata(here.0.path("data/subscribers.db")).expect("the table").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let listed = here.listed();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        [&listed[0]["topic"], &listed[0]["filter"], &listed[0]["language"], &listed[0]["signed"], &listed[0]["from"]],
        [&json!("Orders"), &json!("data.amount > 100"), &json!("cel"), &json!(true), &json!("table")]
    );
    let shown = here.subscriber(&["ls"]).assert_code(0).stdout_text();
    assert!(shown.starts_with("NAME") && shown.contains("billing") && !shown.contains(&secret), "{shown}");

    // An answer that is none of success, and then one that is, verified with the secret that was printed
    let failed = here.subscriber(&["test", "billing"]).assert_code(1);
    assert!(failed.stderr.contains("billing answers 500 Internal Server Error after"), "{}", failed.stderr);
    let listen = Listen::start(Metrobus::new().env("METROBUS_LISTEN_SECRET", &secret), &["--json"]);
    here.subscriber(&["rm", "billing"]).assert_code(0);
    let plain =
        ["add", "--topic", "Orders", "--name", "plain", "--python", "data['amount'] > 100", "--url", &url(&listen)];
    let file = here.0.write("keys", format!("{secret}\n"));
    let file = file.to_str().expect("a path");
    let said =
        here.subscriber(&[&plain[..], &["--secret-file", file, "--header", "X-From: us"]].concat()).assert_code(0);
    assert_eq!(said.stdout_text(), "name      plain\n");
    here.0.write("small.json", "{\"amount\":100}");
    here.0.write("large.json", "{\"amount\": 101.50}\n");
    let refused = here.subscriber(&["test", "plain", "--message", "small.json"]).assert_code(1);
    assert_eq!(refused.stdout_text(), "filter    does not match: data['amount'] > 100\n");
    assert!(refused.stderr.contains("nothing is sent") && refused.stderr.contains("--force"), "{}", refused.stderr);
    let sent = here.subscriber(&["test", "plain", "--message", "large.json"]).assert_code(0).stdout_text();
    for part in [
        "filter    matches: data['amount'] > 100\n",
        &format!("request   POST {}\n", url(&listen)),
        "webhook-signature: v1,",
        "answer    200 OK in ",
        "x-from: ***\n",
    ] {
        assert!(sent.contains(part), "{part} in {sent}");
    }
    here.subscriber(&["test", "plain", "--force", "--message", "small.json"]).assert_code(0);
    let lines = listen.lines(2);
    assert_eq!((&lines[0]["verified"], &lines[0]["body"]["amount"]), (&json!(true), &json!(101.5)));
    assert_eq!(lines[0]["headers"]["x-from"], "us");
    assert!(listen.process.stdout_text().contains("{\"amount\": 101.50}"), "as it is written");
    here.subscriber(&["rm", "plain"]).assert_code(0);
    assert_eq!(here.subscriber(&["ls"]).assert_code(0).stdout_text(), "there are no subscribers\n");
    let gone = here.subscriber(&["rm", "plain"]).assert_code(1);
    assert!(gone.stderr.contains("there is no subscriber \"plain\""), "{}", gone.stderr);
}

#[test]
fn a_message_of_switchs_clients_makes_the_request_that_it_says() {
    let here = Here::new();
    let listen = Listen::start(Metrobus::new(), &["--json"]);
    let url = format!("http://127.0.0.1:{}/books/:id", listen.port);
    here.subscriber(&["add", "--topic", "t", "--url", &url]).assert_code(0);
    let message = r#"{"body":{"a":1},"headers":{"x-kind":"a"},"query_params":{"page":2},"path_params":{"id":7},"http_method":"put"}"#;
    here.0.write("message.json", message);
    here.subscriber(&["test", "subscriber-1", "--switch", "--message", "message.json"]).assert_code(0);
    let line = &listen.lines(1)[0];
    assert_eq!((&line["method"], &line["path"]), (&json!("PUT"), &json!("/books/7?page=2")));
    assert_eq!((&line["headers"]["x-kind"], &line["body"]), (&json!("a"), &json!({"a": 1})));
}

#[test]
fn what_is_wrong_is_refused_and_nothing_is_added() {
    let here = Here::new();
    let add = |arguments: &[&str]| here.subscriber(&[&["add", "--topic", "t"], arguments].concat());
    for (arguments, code, expected) in [
        (&["--url", "http://10.0.0.1/"][..], 1, "--url: 10.0.0.1 is a private address"),
        (&["--url", "http://0x7f.1@s3cret/"], 1, "--url: the URL must hold no user"),
        (&["--url", "s3cret"], 1, "--url: the URL cannot be read"),
        (&["--url", "https://a.b/", "--filter", "data.x >"], 2, "for '--filter <CEL>'"),
        (&["--url", "https://a.b/", "--filter", "1 + x"], 2, "unknown name `x`; data is at hand (line 1, column 5)"),
        (
            &["--url", "https://a.b/", "--python", "len(data)"],
            2,
            "unknown name `len`; data is at hand (line 1, column 1)",
        ),
        (&["--url", "https://a.b/", "--python", "", "--filter", ""], 2, "cannot be used with"),
        (&["--url", "https://a.b/", "--name", "a b"], 2, "is no name of a subscriber"),
        (
            &["--url", "https://a.b/", "--name", "subscriber-1"],
            2,
            "is what a row of the table of subscribers is called",
        ),
        (&["--url", "https://a.b/", "--header", "Host: a"], 2, "it is of the connection"),
        (&["--url", "https://a.b/", "--header", "x"], 2, "a name, a colon and a value are expected"),
        (&["--url", "https://a.b/", "--concurrency", "0"], 2, "an integer from 1 to 1000 is expected"),
        (&["--url", "https://a.b/", "--rate", "-1"], 2, "must be a number of requests in a second"),
        // No clock counts so far: neither a fault nor no limit at all
        (&["--url", "https://a.b/", "--rate", "1e-11"], 2, "1e-7 or more, or 0 for no limit"),
        (&["--url", "https://a.b/", "--rate", "1e-30"], 2, "1e-7 or more, or 0 for no limit"),
        (&["--url", "https://a.b/", "--secret-file", "/nowhere"], 1, "--secret-file: cannot read /nowhere"),
    ] {
        let output = add(arguments).assert_code(code);
        assert!(output.stderr.contains(expected), "{arguments:?}: {}", output.stderr);
    }
    let odd = here.subscriber(&["add", "--topic", "a/b", "--url", "https://a.b/"]).assert_code(2);
    assert!(odd.stderr.contains("invalid value 'a/b' for '--topic <TOPIC>'"), "{}", odd.stderr);
    let source = here.subscriber(&["add", "--topic", "Source", "--url", "https://a.b/"]).assert_code(1);
    assert!(source.stderr.contains("--topic: Source is read by busdriver too"), "{}", source.stderr);
    assert!(here.listed().is_empty() && !here.0.path("data/subscribers.db").exists());
    add(&["--url", "https://a.b/", "--name", "a"]).assert_code(0);
    let twice = add(&["--url", "https://a.b/", "--name", "a"]).assert_code(1);
    assert!(twice.stderr.contains("--name: there is a subscriber a already"), "{}", twice.stderr);
    assert_eq!(here.names(), ["a"]);
    // A name that leads to this machine is found out when the connection is made
    here.configure("");
    add(&["--url", "http://localhost:9/", "--name", "here"]).assert_code(0);
    let output = here.subscriber(&["test", "here"]).assert_code(1);
    assert!(output.stderr.contains("localhost may not be called: "), "{}", output.stderr);
}

#[test]
fn the_table_of_switch_is_used_as_it_is() {
    let here = Here::new();
    let switch = Connection::open(here.0.path("switch.db")).expect("a database");
    switch.execute_batch(SWITCH).expect("the table");
    here.configure(
        "deliver.subscribers = 'switch.db'\n[[deliver.subscriber]]\nname = 'own'\ntopic = 'Orders'\n\
         url = 'https://example.com/'\nheaders = { Authorization = 's3cret' }\nsecrets = ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw']\n",
    );
    let output = here.subscriber(&["ls", "--json"]).assert_code(0);
    let of = |line: &Value| ["name", "from", "url", "language"].map(|key| line[key].as_str().unwrap_or("-").to_owned());
    let listed: Vec<_> = output.json_lines().iter().map(of).collect();
    assert_eq!(
        listed,
        [
            ["own", "file", "https://example.com/", "-"],
            ["subscriber-1", "switch", "https://example.com/hook?***", "python"],
            ["subscriber-4", "switch", "https://example.com/4", "-"],
        ]
    );
    let why = "note: switch.db: subscriber subscriber-3: row 3: filter_expression: unknown name `__import__`";
    assert!(output.stderr.contains(why), "{}", output.stderr);
    assert!(!here.subscriber(&["ls"]).assert_code(0).stdout_text().contains("s3cret"));
    let check = here.run(&["check"]).assert_code(78).stdout_text();
    assert!(check.contains(why.trim_start_matches("note: ")), "{check}");
    let config = here.run(&["config"]).assert_code(0).stdout_text();
    assert!(config.contains("name = \"own\"") && !config.contains("s3cret") && !config.contains("MfKQ"), "{config}");

    let rm = here.subscriber(&["rm", "own"]).assert_code(1);
    assert!(rm.stderr.contains("own stands in the configuration"), "{}", rm.stderr);
    here.subscriber(&["rm", "subscriber-1"]).assert_code(0);
    let deleted = "SELECT deleted_at IS NOT NULL AND updated_at > '2026' FROM subscribers WHERE id = 1";
    assert!(switch.query_row(deleted, [], |row| row.get::<_, bool>(0)).expect("the row"));
    assert_eq!(here.names(), ["own", "subscriber-4"]);
    assert!(here.subscriber(&["enable", "subscriber-4"]).assert_code(0).stdout_text().contains("was not disabled"));
    let unknown = here.subscriber(&["enable", "nobody"]).assert_code(1);
    assert!(unknown.stderr.contains("there is no subscriber \"nobody\""), "{}", unknown.stderr);
}

/// Somebody is added while messages are delivered, and fails, and is enabled again.
#[test]
fn whoever_is_added_is_called_without_a_restart() {
    let here = Here::new();
    here.configure(
        "deliver.allowed_networks = ['127.0.0.0/8']\npusher.topic = 'Orders'\ndeliver.waits = ['1h']\n\
         deliver.disable_after = '1ms'\ndeliver.breaker = { failures = 1, pause = '1ms', pause_max = '1ms' }\n",
    );
    let deliver = here.call(&["deliver"]).spawn();
    let listen = Listen::start(Metrobus::new(), &["--json", "--status", "410,200"]);
    let url = format!("http://127.0.0.1:{}/", listen.port);
    here.subscriber(&["add", "--topic", "Orders", "--name", "late", "--url", &url]).assert_code(0);
    here.call(&["pusher", "--from", "-", "--rate", "0"]).stdin("{\"n\":1}\n").run().assert_code(0);
    assert_eq!(listen.lines(1)[0]["body"], json!({"n": 1}));
    let disabled = wait_until("the subscriber to be disabled", DEADLINE, || {
        let listed = here.listed();
        (!listed[0]["disabled"].is_null()).then(|| listed[0].clone())
    });
    assert_eq!((&disabled["name"], &disabled["waiting"]), (&json!("late"), &json!(1)), "{disabled}");
    let shown = here.subscriber(&["ls"]).assert_code(0).stdout_text();
    assert!(shown.contains("disabled: "), "{shown}");
    let enabled = here.subscriber(&["enable", "late"]).assert_code(0).stdout_text();
    assert_eq!(enabled, "late is called again\n");
    let lines = listen.lines(2);
    assert_eq!((&lines[1]["id"], &lines[1]["attempt"]), (&lines[0]["id"], &json!(2)));
    wait_until("nothing to wait", DEADLINE, || (here.listed()[0]["waiting"] == 0).then_some(()));
    drop(deliver);
}

#[test]
fn who_is_added_anew_is_called_whatever_became_of_one_of_that_name() {
    let here = Here::new();
    let listen = Listen::start(Metrobus::new(), &["--json", "--status", "410,200"]);
    let url = format!("http://127.0.0.1:{}/", listen.port);
    let add = || here.subscriber(&["add", "--topic", "Orders", "--name", "shop", "--url", &url]).assert_code(0);
    add();
    here.call(&["pusher", "--from", "-", "--rate", "0"]).stdin("{\"n\":1}\n").run().assert_code(0);
    here.run(&["deliver", "--drain"]).assert_code(0);
    assert_eq!(here.listed()[0]["disabled"], "410 Gone");
    here.subscriber(&["rm", "shop"]).assert_code(0);
    add();
    assert_eq!(here.listed()[0]["disabled"], Value::Null);
    here.run(&["deliver", "--drain"]).assert_code(0);
    assert_eq!((listen.lines(2)[1]["status"].clone(), here.listed()[0]["waiting"].clone()), (json!(200), json!(0)));
}
