//! A wrong configuration: exit 78, one line that names key, file and line, and what to write instead.

use crate::{
    fleet::STOPS,
    support::{Metrobus, Output, Scratch},
};

/// In a folder of its own, which stays as it is.
fn run(folder: &Scratch, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let call = Metrobus::new().cwd(folder.root()).args(arguments);
    variables.iter().fold(call, |call, (name, value)| call.env(*name, *value)).run()
}

#[track_caller]
fn assert_misconfigured(output: Output, message: &str) {
    let output = output.assert_code(78);
    assert_eq!(output.stderr, format!("metrobus: {message}\n"));
    assert_eq!(output.stdout_text(), "");
}

#[test]
fn what_is_wrong_in_the_file_is_told_with_its_line() {
    let folder = Scratch::new();
    for (toml, expected) in [
        // Unknown and misspelt
        ("buss = \"kafka\"", "c.toml:1: unknown key `buss`; did you mean `bus`?"),
        (
            "\n\n[kafka]\ngroup = \"g\"\nbroker = \"x\"",
            "c.toml:5: unknown key `kafka.broker`; did you mean `kafka.brokers`?",
        ),
        ("[contact]\nfile = \"x\"", "c.toml:1: unknown key `contact`; did you mean `contactpoint`?"),
        (
            "[contactpoint]\nfiel = \"x\"",
            "c.toml:2: unknown key `contactpoint.fiel`; did you mean `contactpoint.file`?",
        ),
        ("path = \"x\"", "c.toml:1: unknown key `path`; did you mean `sqlite.path`?"),
        ("logstop.outptu = \"x\"", "c.toml:1: unknown key `logstop.outptu`; did you mean `logstop.output`?"),
        // Of the wrong type
        ("batch = \"many\"", "c.toml:1: batch is \"many\", must be an integer"),
        ("batch = 1.5", "c.toml:1: batch is 1.5, must be an integer"),
        ("batch = 0", "c.toml:1: batch is 0, must be an integer from 1 to 100000"),
        ("[log]\nredact = \"yes\"", "c.toml:2: log.redact is \"yes\", must be true or false"),
        ("[sqlite]\npath = 5", "c.toml:2: sqlite.path is 5, must be a string"),
        ("kafka = 5", "c.toml:1: kafka is 5, must be a table"),
        ("[busdriver]\nroute = \"Log\"", "c.toml:2: busdriver.route is \"Log\", must be a list"),
        ("[busdriver]\nroute = [\"Log\", 5]", "c.toml:2: busdriver.route[1] is 5, must be a string"),
        ("shutdown_timeout = 10", "c.toml:1: shutdown_timeout is 10, must be a duration with its unit, as in \"10s\""),
        (
            "shutdown_timeout = \"10\"",
            "c.toml:1: shutdown_timeout is \"10\", must be a duration with its unit, as in \"250ms\", \"10s\" or \"7d\"",
        ),
        // An unknown bus, a bad URL, a route to nowhere
        ("bus = \"rabbitmq\"", "c.toml:1: bus is \"rabbitmq\", must be \"sqlite\" or \"kafka\""),
        ("bus = \"\"", "c.toml:1: bus is \"\", must be \"sqlite\" or \"kafka\""),
        ("[redis]\nurl = \"http://x\"", "c.toml:2: redis.url is \"http://x\", must begin with redis:// or unix://"),
        (
            "[redis]\nurl = \"redis://u:s3cret@host:port/x\"",
            "c.toml:2: redis.url is \"redis://u:***@host:port/x\", must be as redis://user:password@host:port/database \
             (Redis URL did not parse)",
        ),
        (
            "[kafka]\nbrokers = \"\"",
            "c.toml:2: kafka.brokers is \"\", must be host:port of one broker or more, with commas between",
        ),
        (
            "[busdriver]\nroute = [\"AddEmail\", \"WitheList\"]",
            "c.toml:2: busdriver.route names \"WitheList\", which no stop here reads; add it to `stops`, or name one of \
             AddEmail, WhiteList, Log",
        ),
        ("[busdriver]\nroute = []", "c.toml:2: busdriver.route is empty, must name one stop or more"),
        (
            "[busdriver]\nroute = [\"Source\"]",
            "c.toml:2: busdriver.route names \"Source\", which the busdriver reads: the journey would never end",
        ),
        (
            "error_topic = \"Log\"",
            "c.toml:1: error_topic is \"Log\", which logstop reads: its dead letters would come back",
        ),
        (
            "[logstop]\ntopic = \"a b\"",
            "c.toml:2: logstop.topic: \"a b\" is no topic: 1 to 249 of A-Z a-z 0-9 . _ - are",
        ),
        // No TOML
        ("bus = kafka", "c.toml:1:7: string values must be quoted, expected literal string"),
        ("\n[kafka\n", "c.toml:2:7: unclosed table, expected `]`"),
        ("bus = \"sqlite\"\nbus = \"sqlite\"", "c.toml:2:1: duplicate key"),
        ("{\"bus\": \"kafka\"}", "c.toml:1:1: "),
    ] {
        folder.write("c.toml", toml);
        let output = run(&folder, &["--config", "c.toml", "config"], &[]).assert_code(78);
        let told = output.stderr.strip_prefix("metrobus: ").and_then(|told| told.strip_suffix('\n'));
        let told = told.unwrap_or_else(|| panic!("{toml}: {}", output.stderr));
        assert!(!told.contains('\n'), "{toml}: more than a line: {told}");
        assert!(if expected.ends_with(' ') { told.starts_with(expected) } else { told == expected }, "{toml}: {told}");
    }
}

#[test]
fn what_is_wrong_in_the_environment_is_told_with_its_name() {
    let folder = Scratch::new();
    for (name, value, expected) in [
        ("METROBUS__BUSS", "kafka", "unknown key `buss`; did you mean METROBUS__BUS?"),
        ("METROBUS__KAFKA__BROKER", "x", "unknown key `kafka.broker`; did you mean METROBUS__KAFKA__BROKERS?"),
        ("METROBUS__KAFKA_BROKERS", "x", "unknown key `kafka_brokers`; did you mean METROBUS__KAFKA__BROKERS?"),
        (
            "METROBUS__CONTACTPOINT__FILES",
            "x",
            "unknown key `contactpoint.files`; did you mean METROBUS__CONTACTPOINT__FILE?",
        ),
        ("METROBUS__BUS", "rabbitmq", "bus is \"rabbitmq\", must be \"sqlite\" or \"kafka\""),
        ("METROBUS__BATCH", "many", "batch is \"many\", must be an integer"),
        ("METROBUS__BATCH", "-1", "batch is -1, must be an integer from 1 to 100000"),
        ("METROBUS__LOG__REDACT", "yes", "log.redact is \"yes\", must be true or false"),
        (
            "METROBUS__REDIS__URL",
            "localhost:6379",
            "redis.url is \"localhost:6379\", must begin with redis:// or unix://",
        ),
        (
            "METROBUS__BUSDRIVER__ROUTE",
            "AddEmail,Nowhere",
            "busdriver.route names \"Nowhere\", which no stop here reads; add it to `stops`, or name one of AddEmail, \
             WhiteList, Log",
        ),
        ("METROBUS__KAFKA", "x", "kafka is a table; set one of its keys, as in METROBUS__KAFKA__BROKERS"),
    ] {
        assert_misconfigured(run(&folder, &["config"], &[(name, value)]), &format!("{name}: {expected}"));
    }
}

#[test]
fn no_command_starts_with_a_wrong_configuration() {
    let folder = Scratch::new();
    folder.write("c.toml", "[sqlite]\npath = \"bus.db\"\nsynchronos = \"full\"\n");
    let mut commands: Vec<Vec<&str>> = STOPS.iter().map(|stop| vec![*stop, "--drain"]).collect();
    commands.extend([vec!["run"], vec!["pusher"], vec!["topics"], vec!["tail", "Log"], vec!["cache", "load"]]);
    for mut command in commands {
        command.extend(["--config", "c.toml"]);
        let expected = "c.toml:3: unknown key `sqlite.synchronos`; did you mean `sqlite.synchronous`?";
        assert_misconfigured(run(&folder, &command, &[]), expected);
    }
    let left: Vec<_> = std::fs::read_dir(folder.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["c.toml"], "nothing is begun");
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let folder = Scratch::new();
    let config = |path: &str| run(&folder, &["config", "--config", path], &[]);
    assert_misconfigured(config("no.toml"), "cannot read no.toml: No such file or directory");
    std::fs::create_dir(folder.path("folder")).unwrap();
    assert_misconfigured(config("folder"), "cannot read folder: Is a directory");
    folder.write("latin1.toml", b"# ok\n# caf\xe9\n");
    assert_misconfigured(config("latin1.toml"), "cannot read latin1.toml: line 2 is not UTF-8");
    // A file handed over by the environment is no other
    let output = run(&folder, &["config"], &[("METROBUS_CONFIG", "no.toml")]);
    assert_misconfigured(output, "cannot read no.toml: No such file or directory");
}

#[test]
fn two_stops_on_one_topic_cannot_run_together() {
    let folder = Scratch::new();
    folder.write("data/emails.dat", "1,a@x\n");
    folder.write("data/whitelist.dat", "a@x\n");
    let output = run(
        &folder,
        &["run", "--drain"],
        &[("METROBUS__LOGSTOP__TOPIC", "WhiteList"), ("METROBUS__BUSDRIVER__ROUTE", "AddEmail,WhiteList")],
    );
    let expected = "METROBUS__LOGSTOP__TOPIC: WhiteList is read by whitelist too, and a group reads each record once";
    assert_misconfigured(output, expected);
}

#[test]
fn an_output_that_cannot_be_opened_is_told_at_the_start() {
    let folder = Scratch::new();
    folder.write("file", "");
    for (output, reason) in [(".", "Is a directory"), ("file/log", "Not a directory")] {
        let told =
            run(&folder, &["logstop", "--drain"], &[("METROBUS__LOGSTOP__OUTPUT", output)]).assert_code(78).stderr;
        assert!(
            told.starts_with(&format!("metrobus: METROBUS__LOGSTOP__OUTPUT: cannot write {output:?}: {reason}")),
            "{told}"
        );
        assert_eq!(told.lines().count(), 1);
    }
}
