//! What README.md says holds: each of its commands runs, in the order of the page, and each name in it exists.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use metrobus::roles::ROLES;

use crate::{
    commands::Report,
    fleet::DEADLINE,
    library::shout,
    support::{Kafka, Metrobus, Redis, Scratch, Signal, try_until},
};

mod doors;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const README: &str = include_str!("../../README.md");

/// A fenced block and the heading that it stands under.
struct Block {
    section: &'static str,
    language: &'static str,
    text: String,
}

fn blocks() -> Vec<Block> {
    let (mut blocks, mut section, mut open): (Vec<Block>, _, _) = (Vec::new(), "", false);
    for line in README.lines() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(language) => {
                blocks.push(Block { section, language, text: String::new() });
                open = true;
            }
            None if open => {
                let block = blocks.last_mut().expect("an open block");
                block.text += line;
                block.text += "\n";
            }
            None => section = line.strip_prefix("## ").unwrap_or(section),
        }
    }
    assert!(!open, "a block without an end");
    blocks
}

/// The commands under a heading, "" being what comes before the first one.
fn commands(section: &str) -> Vec<String> {
    let blocks = blocks().into_iter().filter(|block| block.language == "console" && block.section == section);
    let command = |line: &str| line.strip_prefix("$ ").unwrap_or_else(|| panic!("no command: {line}")).to_owned();
    blocks.flat_map(|block| block.text.lines().map(command).collect::<Vec<_>>()).collect()
}

/// A fresh folder, and the programs that the page calls: metrobus, and cargo for the example.
struct Reader {
    folder: Scratch,
    programs: Scratch,
}

impl Reader {
    fn new() -> Reader {
        let programs = Scratch::new();
        let program = |name: &str, line: String| {
            let path = programs.write(name, format!("#!/bin/sh\n{line}\n"));
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("make it a program");
        };
        program("metrobus", format!("exec '{}' \"$@\"", env!("CARGO_BIN_EXE_metrobus")));
        let example =
            format!("[ \"$1 $2 $3 $4\" = 'run --example shout --' ] && shift 4 && exec '{}' \"$@\"", shout().display());
        program("cargo", example);
        Reader { folder: Scratch::new(), programs }
    }

    /// Writes the TOML under a heading to the file that the page says.
    fn write_toml(&self, section: &str, name: &str) {
        let block = blocks().into_iter().find(|block| block.section == section && block.language == "toml");
        self.folder.write(name, block.expect("TOML").text);
    }

    /// Runs the commands under a heading in one shell; gives each with what it printed. Panics where one fails.
    fn follow(&self, section: &str, replace: &[(&str, &str)]) -> Vec<(String, String)> {
        let commands = commands(section);
        assert!(!commands.is_empty(), "nothing to run under {section:?}");
        let mut script = String::new();
        for command in &commands {
            let command = replace.iter().fold(command.clone(), |command, (from, to)| command.replace(from, to));
            script += &format!("{command}\nprintf '@@%s@@' \"$?\"\n");
        }
        let (stdout, stderr) = (self.programs.path("stdout"), self.programs.path("stderr"));
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).current_dir(self.folder.root()).process_group(0).stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("METROBUS")) {
            shell.env_remove(name);
        }
        let paths = std::env::var("PATH").unwrap_or_default();
        shell.env("METROBUS_LOG_FORMAT", "text");
        shell.env_remove("RUST_LOG").env("PATH", format!("{}:{paths}", self.programs.root().display()));
        shell.stdout(File::create(&stdout).expect("a file")).stderr(File::create(&stderr).expect("a file"));
        let mut child = shell.spawn().expect("start a shell");
        let ended = try_until(DEADLINE, || child.try_wait().expect("ask for its state"));
        if ended.is_none() {
            let group = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = child.wait();
        }
        let (printed, said) = (self.programs.read("stdout"), self.programs.read("stderr"));
        let mut parts = printed.split("@@");
        let mut outputs = Vec::new();
        for command in commands {
            let output = parts.next().unwrap_or_default().to_owned();
            let code = parts.next().unwrap_or("no end");
            assert_eq!(code, "0", "{command}: {output}\n{said}");
            outputs.push((command, output));
        }
        outputs
    }
}

/// What the command that begins like this printed, the first of them.
fn printed<'a>(outputs: &'a [(String, String)], command: &str) -> &'a str {
    let found = outputs.iter().find(|(found, _)| found.starts_with(command));
    &found.unwrap_or_else(|| panic!("the page has no {command}")).1
}

/// A message is rejected and found, the rules are changed, and it arrives.
fn assert_put_right(reader: &Reader, replace: &[(&str, &str)]) {
    reader.write_toml("Putting it right", "currency.toml");
    let outputs = reader.follow("Putting it right", replace);
    let tracks: Vec<_> = outputs.iter().filter(|(command, _)| command == "metrobus track --key 7").collect();
    assert!(tracks[0].1.ends_with("1  rejected, to Error: unknown currency\n"), "{outputs:?}");
    assert!(printed(&outputs, "metrobus plan").contains("\n  to   known: Log\n"), "{outputs:?}");
    let replay = "metrobus dead replay --reason 'unknown currency' --replan";
    assert!(printed(&outputs, &format!("{replay} --dry-run")).ends_with("(rule known)\nwould replay 1: Log 1\n"));
    assert_eq!(outputs.iter().find(|(command, _)| command == replay).expect("it").1, "replayed 1: Log 1\n");
    assert!(tracks[1].1.contains("\nfinished at logstop\n"), "{outputs:?}");
}

#[test]
fn the_commands_run_in_the_order_of_the_page() {
    let reader = Reader::new();
    let outputs = reader.follow("First steps", &[]);
    assert_eq!(printed(&outputs, "metrobus tail Log -n 2").lines().count(), 2);
    let topics = printed(&outputs, "metrobus topics");
    assert!(topics.lines().any(|line| line.starts_with("Source") && line.contains(" 1000 ")), "{topics}");
    assert!(reader.folder.read("log.ndjson").lines().count() > 100, "messages arrive");
    let whitelist = reader.folder.path("data/metrobus.db");
    let tail = Metrobus::new().args(["tail", "WhiteList", "-n", "1"]).env("METROBUS__SQLITE__PATH", whitelist);
    let last = tail.run().assert_code(0).stdout_text();
    assert!(last.contains(r#""payload":{"account_number": 1000000, "note": 2.50,"#), "as it went in: {last}");

    reader.write_toml("Rules", "rules.toml");
    let outputs = reader.follow("Rules", &[]);
    assert_eq!(printed(&outputs, "metrobus check"), "sound: 2 rules, 1 test, 2 caches\n");
    let planned = printed(&outputs, "metrobus plan --from Source --last 3");
    assert!(
        planned.contains("  gold  AddEmail → ") || planned.contains("not gold: payload.account_number >= "),
        "{planned}"
    );
    assert!(printed(&outputs, "metrobus plan --from Source --against").contains("\n  to   rest: Log\n"));

    let outputs = reader.follow("Where did it go?", &[]);
    let track = printed(&outputs, "metrobus track --key 5");
    let page = blocks().into_iter().find(|block| block.section == "Where did it go?" && block.language == "text");
    let shape = |text: &str| {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().skip(1).take(4).map(words).collect::<Vec<_>>()
    };
    assert!(track.lines().count() == 7 && track.ends_with("1  dropped: unknown account\n"), "{track}");
    assert_eq!(shape(&page.expect("what it prints").text), shape(track));
    assert!(printed(&outputs, "metrobus journeys").lines().any(|line| line.starts_with("contactpoint  dropped ")));

    assert_put_right(&reader, &[]);

    reader.follow("Look-ups by the million", &[]);
    assert!(reader.folder.path("data/emails.lmdb").is_file() && reader.folder.path("data/whitelist.lmdb").is_file());

    let outputs = reader.follow("A stop of your own", &[]);
    assert!(printed(&outputs, "metrobus tail Log -n 1").contains(r#"{"name": "ADA"}"#), "{outputs:?}");
    let outputs = reader.follow("Configuration", &[]);
    let config = printed(&outputs, "METROBUS__BATCH=500 metrobus config");
    assert!(config.lines().any(|line| line.starts_with("batch = 500 ") && line.ends_with("# METROBUS__BATCH")));
}

#[test]
fn the_commands_run_on_kafka_and_redis() {
    let Some(kafka) = Kafka::start() else { return };
    let Some(redis) = Redis::shared() else { return };
    let reader = Reader::new();
    reader.follow("First steps", &[]);
    let (brokers, url) = (kafka.brokers().to_owned(), redis.url());
    // The counters look for Redis from the first command on, the page names it later
    let bus = format!("export METROBUS__REDIS__URL={url} METROBUS__BUS=kafka");
    let real =
        [("export METROBUS__BUS=kafka", bus.as_str()), ("localhost:9092", &brokers), ("redis://localhost:6379", &url)];
    let outputs = reader.follow("On Kafka", &real);
    let topics = printed(&outputs, "metrobus topics");
    assert!(topics.lines().any(|line| line.starts_with("Source") && line.contains(" 1000 ")), "{topics}");
    let mut connection = redis.connection();
    let size = |command: &str, key: &str, connection: &mut redis::Connection| {
        redis::cmd(command).arg(key).query::<u64>(connection).expect("an answer")
    };
    assert!(size("HLEN", "emails", &mut connection) > 300_000);
    assert_eq!(size("SCARD", "whitelist", &mut connection), 500_000);
    let on_kafka = format!("export METROBUS__BUS=kafka METROBUS__KAFKA__BROKERS={brokers} METROBUS__REDIS__URL={url}");
    let first = format!("{on_kafka} METROBUS_CONFIG=currency.toml");
    assert_put_right(&reader, &[("export METROBUS_CONFIG=currency.toml", &first)]);
}

#[test]
fn every_section_with_commands_is_run() {
    let with: BTreeSet<_> = blocks().iter().filter(|b| b.language == "console").map(|b| b.section).collect();
    assert_eq!(
        with,
        BTreeSet::from([
            "",
            "See it",
            "First steps",
            "Rules",
            "Where did it go?",
            "Putting it right",
            "In by HTTP, out by webhook",
            "A stop of your own",
            "On Kafka",
            "Look-ups by the million",
            "Configuration",
        ])
    );
    for block in blocks() {
        assert!(["console", "text", "toml", "rust,no_run"].contains(&block.language), "```{}", block.language);
    }
    for command in commands("") {
        let target = command.strip_prefix("make ").expect("the first commands are make's");
        let output = Command::new("make").args(["--dry-run", target]).current_dir(ROOT).output().expect("run make");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(commands(""), ["make demo", "make test"]);
}

#[test]
fn the_demo_prints_what_the_page_shows() {
    let makefile = fs::read_to_string(format!("{ROOT}/Makefile")).expect("the Makefile");
    assert!(makefile.contains("\t./target/release/metrobus demo\n"), "what make demo runs");
    let shown = blocks().into_iter().find(|block| block.language == "text").expect("the demo's output");
    let shown = Report::read(&shown.text);
    let real = Report::read(&Metrobus::new().arg("demo").run().assert_code(0).stdout_text());
    assert_eq!((shown.columns, shown.rows), (real.columns, real.rows));
    let shape = |line: &str| line.split(|c: char| c.is_ascii_digit() || ",.".contains(c)).collect::<String>();
    assert_eq!(shape(&shown.last), shape(&real.last));
}

#[test]
fn the_demo_with_a_page_goes_on_until_it_is_told_to_end() {
    for command in commands("See it") {
        let arguments = command.strip_prefix("metrobus ").expect("metrobus").split(' ');
        let mut demo = Metrobus::new().args(arguments).env("METROBUS__WEB__LISTEN", "0").spawn();
        demo.wait_for_stderr("look at http://127.0.0.1:", DEADLINE);
        demo.signal(Signal::INT);
        let report = Report::read(&demo.wait(DEADLINE).assert_code(0).stdout_text());
        assert_eq!(report.rows.len(), 4, "a line for each stop");
    }
}

#[test]
fn the_stop_on_the_page_is_the_example() {
    let example = fs::read_to_string(format!("{ROOT}/examples/shout.rs")).expect("the example");
    let shown = blocks().into_iter().find(|block| block.language.starts_with("rust")).expect("Rust");
    assert!(example.ends_with(&format!("\n\n{}", shown.text)), "{}", shown.text);
}

#[test]
fn the_toml_on_the_page_is_a_configuration() {
    let scratch = Scratch::new();
    for block in blocks().iter().filter(|block| block.language == "toml") {
        let path = scratch.write("page.toml", &block.text);
        let call = Metrobus::new().arg("config").arg("--config").arg(path);
        let shown = call.env("METROBUS__KAFKA__PROPERTIES__SASL_PASSWORD", "s3cret").run().assert_code(0).stdout_text();
        assert!(shown.contains("\"sasl.password\" = \"***\""), "{shown}");
    }
}

/// The page outside of its blocks.
fn prose() -> String {
    README.split("```").step_by(2).collect()
}

/// What stands between single backticks.
fn spans() -> Vec<String> {
    let prose = prose();
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_name_on_the_page_exists() {
    let help: String = ROLES
        .iter()
        .map(|role| vec![role.name, "--help"])
        .chain([vec!["cache", "load", "--help"], vec!["cache", "build", "--help"], vec!["--help"]])
        .chain(["ls", "show", "replay", "discard"].map(|command| vec!["dead", command, "--help"]))
        .chain(["add", "ls", "rm", "test", "enable"].map(|command| vec!["subscriber", command, "--help"]))
        .chain([vec!["gateway", "key", "--help"]])
        .map(|call| Metrobus::new().args(call).run().assert_code(0).stdout_text())
        .collect();
    let words: BTreeSet<_> = help.split(|c: char| c.is_whitespace() || ",<>=[]".contains(c)).collect();
    let defaults = toml::Value::Table(metrobus::config::DEFAULTS.parse().expect("TOML"));
    let is_key = |key: &str| key.split('.').try_fold(&defaults, |found, name| found.get(name)).is_some();
    let headers = include_str!("../../src/dead_letter/mod.rs");
    // Words of messages, of other programs and of the library
    let known = [
        "id",
        "parent",
        "revisions",
        "replays",
        "account_number",
        "***",
        "read_committed",
        "RUST_LOG",
        "METROBUS_CONFIG",
        "metro-bus-2026-11-21",
        "metrobus_inserted_timestamp",
        "log.ndjson.2026-11-21.000001",
        "METROBUS_LOG_FORMAT",
        "traceparent",
        "metrobus_spans_total",
        "application/x-ndjson",
        "Retry-After",
        "Idempotency-Key",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "data",
        "payload",
        "&",
        "?key=",
        "GET /journeys/ID",
        "POST /publish",
        "GET /refresh",
        "SWITCH_JWT_SECRET",
        "SWITCH_SERVER_PORT",
        "SWITCH_DB_NAME",
    ];
    let of_the_library = ["Handler", "message.revise(Revision::Insert(stops))", "Replace", "End"];
    for span in spans() {
        let first = span.split(' ').next().unwrap_or_default();
        let exists = match first {
            _ if known.contains(&span.as_str()) || of_the_library.contains(&span.as_str()) => true,
            _ if first.starts_with("METROBUS__") => true, // see below
            _ if first.starts_with("RUST_LOG=") => true,
            "metrobus" | "make" | "docker" | "cargo" => true,
            _ if first.starts_with('/') => {
                let routes = [include_str!("../../src/http/mod.rs"), include_str!("../../src/web/mod.rs")].concat();
                routes.contains(&format!("route(\"{first}\""))
            }
            _ if first.starts_with('-') => words.contains(first) || first == "-vv",
            _ if ROLES.iter().any(|role| role.name == first) && !span.contains('=') => {
                span.split(' ').skip(1).all(|word| help.contains(word))
            }
            _ if first.starts_with('.') || first.starts_with("metrobus.") => headers
                .contains(&format!("`metrobus.{}`", first.trim_start_matches("metrobus").trim_start_matches('.'))),
            _ => is_key(first) || Path::new(ROOT).join(first).exists() || first == "target/release",
        };
        assert!(exists, "the page names `{span}`, which is no key, flag, command or file");
    }
}

#[test]
fn every_variable_on_the_page_is_a_key() {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let names: BTreeSet<_> = README.split(|c| !is_name(c)).filter(|word| word.starts_with("METROBUS__")).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names.into_iter().filter(|name| *name != "METROBUS__SECTION__KEY") {
        let output = Metrobus::new().arg("config").env(name, "").run();
        assert!(!output.stderr.contains("unknown key"), "{}", output.stderr);
        let misspelt = Metrobus::new().arg("config").env(name.replacen("__", "__X", 1), "").run().assert_code(78);
        assert!(misspelt.stderr.contains("unknown key"), "{}", misspelt.stderr);
    }
}

#[test]
fn every_link_leads_somewhere() {
    for page in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "data/README.md"] {
        let text = fs::read_to_string(format!("{ROOT}/{page}")).expect("a page");
        let folder = Path::new(ROOT).join(page).parent().expect("a folder").to_owned();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, _) = target.split_once('#').unwrap_or((target, ""));
            assert!(target.starts_with("https://") || folder.join(path).exists(), "{page}: {target}");
        }
    }
}

/// Commands of the table are all that there are.
#[test]
fn the_table_of_commands_is_whole() {
    let rows = README.lines().skip_while(|line| *line != "| command | does |").skip(2);
    let first: Vec<_> =
        rows.take_while(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(1)).collect();
    let named: BTreeSet<_> = first.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    let named: BTreeSet<_> = named.iter().filter_map(|call| call.split(' ').next()).collect();
    assert_eq!(named, ROLES.iter().map(|role| role.name).collect());
}
