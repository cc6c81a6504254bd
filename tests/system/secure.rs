//! Kafka over TLS with SASL/SCRAM, against a real broker: all that touches the bus gets in with the password and the
//! authority's certificate, nothing without, and the password is told nowhere.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::{
    fleet::{DEADLINE, STOPS},
    support::{Kafka, Metrobus, Output, Scratch, Secure, unique},
};

/// The broker of all of these tests that run at the time. It ends with the last of them: nobody drops a static.
fn broker() -> Option<Arc<Kafka>> {
    static BROKER: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());
    let mut running = BROKER.lock().unwrap_or_else(PoisonError::into_inner);
    running.upgrade().or_else(|| {
        let broker = Arc::new(Kafka::start_secure()?);
        *running = Arc::downgrade(&broker);
        Some(broker)
    })
}

/// A folder with caches, and the names of topics that no other test has.
struct Fleet {
    scratch: Scratch,
    secure: Secure,
    environment: Vec<(String, String)>,
    _broker: Arc<Kafka>,
}

impl Fleet {
    fn new(guarantee: &str) -> Option<Fleet> {
        let broker = broker()?;
        let secure = broker.secure().clone();
        let mut fleet = Fleet { scratch: Scratch::new(), secure, environment: Vec::new(), _broker: broker };
        fleet.scratch.write("data/emails.dat", "1,a@x.example\n2,b@x.example\n");
        fleet.scratch.write("data/whitelist.dat", "a@x.example\n");
        let prefix = unique("secure");
        let topic = |name: &str| format!("{prefix}-{name}");
        for (name, value) in [
            ("BUSDRIVER__TOPIC", topic("Source")),
            ("PUSHER__TOPIC", topic("Source")),
            ("CONTACTPOINT__TOPIC", topic("AddEmail")),
            ("WHITELIST__TOPIC", topic("WhiteList")),
            ("LOGSTOP__TOPIC", topic("Log")),
            ("ERROR_TOPIC", topic("Error")),
            ("BUSDRIVER__ROUTE", ["AddEmail", "WhiteList", "Log"].map(topic).join(",")),
            ("KAFKA__GROUP", topic("group")),
            ("KAFKA__GUARANTEE", guarantee.to_owned()),
            ("KAFKA__PARTITIONS", "2".to_owned()),
            ("REDIS__COUNTERS", "off".to_owned()),
            ("LOGSTOP__OUTPUT", "log.ndjson".to_owned()),
        ] {
            fleet.set(name, value);
        }
        Some(fleet)
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((format!("METROBUS__{name}"), value.into()));
    }

    /// The bus and how to get in, by variables.
    fn by_environment(&mut self) {
        self.set("BUS", "kafka");
        self.set("KAFKA__BROKERS", self.secure.brokers.clone());
        for (name, value) in self.secure.properties() {
            self.set(&format!("KAFKA__PROPERTIES__{}", name.to_uppercase().replace('.', "_")), value);
        }
    }

    /// The same by a file, but for the password.
    fn by_file(&mut self) {
        let ca = self.secure.ca.display();
        let toml = format!(
            "bus = \"kafka\"\n\n[kafka]\nbrokers = \"{}\"\n\n[kafka.properties]\n\"security.protocol\" = \"SASL_SSL\"\n\
             sasl.mechanism = \"SCRAM-SHA-512\"\nsasl.username = \"{}\"\n\"ssl.ca.location\" = \"{ca}\"\n",
            self.secure.brokers, self.secure.user
        );
        let path = self.scratch.write("secure.toml", toml);
        self.environment.push(("METROBUS_CONFIG".into(), path.display().to_string()));
        self.set("KAFKA__PROPERTIES__SASL_PASSWORD", self.secure.password.clone());
    }

    fn call(&self, arguments: &[&str]) -> Metrobus {
        let call = Metrobus::new().cwd(self.scratch.root()).args(arguments).deadline(DEADLINE);
        self.environment.iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    fn topic(&self, stop: &str) -> &str {
        let name = format!("METROBUS__{}__TOPIC", stop.to_uppercase());
        &self.environment.iter().find(|(key, _)| *key == name).expect("a stop").1
    }

    /// Runs it with all that it has to say, and looks for the password there.
    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.call(arguments).arg("-vv").run();
        self.assert_secret(&output);
        output
    }

    #[track_caller]
    fn assert_secret(&self, output: &Output) {
        let password = &self.secure.password;
        assert!(!output.stderr.contains(password), "{}: the password is in the log", output.call);
        assert!(!output.stdout_text().contains(password), "{}: the password is in the output", output.call);
    }
}

/// Every command that touches the bus, and that what goes in comes out.
fn all_get_in(fleet: &Fleet) {
    let lines: String = (0..200).map(|n| format!("{{\"n\":{n},\"account_number\":{}}}\n", 1 + n % 2)).collect();
    let pushed = fleet.call(&["pusher", "--from", "-", "--rate", "0", "-vv"]).stdin(lines).run().assert_code(0);
    fleet.assert_secret(&pushed);
    assert!(pushed.stderr.contains("200 confirmed"), "{}", pushed.stderr);
    for stop in STOPS {
        fleet.run(&[stop, "--drain"]).assert_code(0);
    }
    let numbers = |text: &str| {
        let number = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["payload"]["n"].as_u64().unwrap()
        };
        let mut numbers: Vec<_> = text.lines().map(number).collect();
        numbers.sort_unstable();
        numbers
    };
    let expected: Vec<_> = (0..200).step_by(2).collect();
    assert_eq!(numbers(&fleet.scratch.read("log.ndjson")), expected);
    let log = fleet.topic("logstop");
    let tail = fleet.run(&["tail", log, "-n", "1000"]).assert_code(0);
    assert_eq!(numbers(&tail.stdout_text()), expected);
    let topics = fleet.run(&["topics", "--json"]).assert_code(0).json_lines();
    let topic = topics.iter().find(|topic| topic["topic"] == log).expect("the topic is listed");
    // With transactions their marks are records too
    assert!(topic["records"].as_u64() >= Some(100) && topic["groups"][0]["lag"] == 0, "{topic}");
    let config = fleet.run(&["config"]).assert_code(0);
    assert!(config.stdout_text().contains("\"***\""), "{}", config.stdout_text());
}

#[test]
fn all_get_in_with_variables_at_least_once() {
    let Some(mut fleet) = Fleet::new("at-least-once") else { return };
    fleet.by_environment();
    all_get_in(&fleet);
}

#[test]
fn all_get_in_with_a_file_exactly_once() {
    let Some(mut fleet) = Fleet::new("exactly-once") else { return };
    fleet.by_file();
    all_get_in(&fleet);
}

/// `change` keeps everyone out; `reason` is what they say of it.
fn nobody_gets_in(change: &[(&str, &str)], reasons: &[&str]) {
    let Some(mut fleet) = Fleet::new("at-least-once") else { return };
    fleet.by_environment();
    for (name, value) in change {
        fleet.set(&format!("KAFKA__PROPERTIES__{name}"), *value);
    }
    let calls: Vec<_> = [&["busdriver"][..], &["pusher", "--count", "1"], &["tail", "Log"], &["topics"]]
        .into_iter()
        .map(|command| fleet.call(command).args(["--connect-timeout", "3s", "-vv"]).spawn())
        .collect();
    for call in calls {
        let output = call.wait(DEADLINE).assert_code(69);
        fleet.assert_secret(&output);
        let last = output.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("metrobus: "), "{}", output.stderr);
        for reason in reasons.iter().chain([&fleet.secure.brokers.as_str()]) {
            assert!(last.contains(reason), "{}: it does not say {reason:?}: {last}", output.call);
        }
        assert!(!output.stderr.contains("wr0ng"), "a wrong password is one too");
    }
    // Without a limit it waits, and says for what
    let mut stop = fleet.call(&["logstop"]).spawn();
    for reason in reasons {
        stop.wait_for_stderr(reason, DEADLINE);
    }
    stop.wait_for_stderr("waits for ", DEADLINE);
}

#[test]
fn a_wrong_password_is_named_as_such() {
    nobody_gets_in(&[("SASL_PASSWORD", "wr0ng")], &["SASL", "Authentication failed"]);
}

#[test]
fn an_unknown_user_is_named_as_such() {
    nobody_gets_in(&[("SASL_USERNAME", "stranger")], &["SASL", "Authentication failed"]);
}

#[test]
fn a_certificate_of_an_unknown_authority_is_named_as_such() {
    // What the system trusts, which is not the test's own authority
    nobody_gets_in(&[("SSL_CA_LOCATION", "probe")], &["certificate verify failed"]);
}

#[test]
fn without_tls_nobody_gets_in() {
    nobody_gets_in(&[("SECURITY_PROTOCOL", "SASL_PLAINTEXT")], &[]);
}

#[test]
fn what_cannot_work_is_a_wrong_configuration() {
    let Some(mut fleet) = Fleet::new("at-least-once") else { return };
    fleet.by_environment();
    for (name, value, named) in [
        ("SSL_CA_LOCATION", "no/such/ca.pem", "ssl.ca.location"),
        ("SASL_MECHANISM", "SCRAM-SHA-3", "SCRAM-SHA-3"),
        ("SECURITY_PROTOCOL", "TLS", "security.protocol"),
        ("SASL_PASWORD", "wr0ng", "sasl.pasword"),
    ] {
        let variable = format!("METROBUS__KAFKA__PROPERTIES__{name}");
        let output = fleet.call(&["busdriver", "-vv"]).env(&variable, value).run().assert_code(78);
        fleet.assert_secret(&output);
        assert!(output.stderr.contains(named) && !output.stderr.contains("wr0ng"), "{named}: {}", output.stderr);
        assert_eq!(output.stderr.lines().filter(|line| line.starts_with("metrobus: ")).count(), 1, "{}", output.stderr);
    }
}
