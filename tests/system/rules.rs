//! Rules from outside: plan, check, the busdriver, and a change of the file while it runs.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    support::{Metrobus, Scratch, Signal, wait_until},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const RULES: &str = r#"
[[busdriver.rule]]
name = "gold"
when = 'payload.account_number >= 1000000'
route = ["AddEmail", "WhiteList", "Log"]

[[busdriver.rule]]
name = "tests"
when = 'has(payload.test) || key == "77"'
drop = "a test"

[[busdriver.rule]]
name = "negative"
when = 'payload.account_number < 0'
reject = "a negative account"

[[busdriver.rule]]
name = "rest"
when = 'payload.account_number > 5'
route = ["Log"]
set = { tier = '"low"', next = 'payload.account_number + 1' }
"#;

const MESSAGES: &str = r#"{"account_number":1000000}
{"account_number":6,"n":2.50}
{"account_number":-1}
{"test":true,"account_number":9}
{"account_number":77}
{"account_number":5}
[1]
{"account_number":"x"}
"#;

/// A folder with data for the caches.
fn folder() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("data/emails.dat", "1,user1@example.com\n1000000,user@example.com\n");
    scratch.write("data/whitelist.dat", "user@example.com\n");
    scratch.write("data/odd.dat", "user@example.com\n\u{1}\u{0}, ,\n");
    scratch
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn each_broken_configuration_is_found_out() {
    let scratch = folder();
    let files = fs::read_dir(format!("{ROOT}/tests/system/check")).expect("the folder");
    let mut count = 0;
    for path in files.map(|file| file.expect("a file").path()) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let text = fs::read_to_string(&path).expect("a text");
        scratch.write(name, &text);
        let output = Metrobus::new().cwd(scratch.root()).args(["check", "--config", name]).run().assert_code(78);
        let said = format!("{}{}", output.stdout_text(), output.stderr);
        let expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# finding: ")).collect();
        assert!(!expected.is_empty(), "{name} says nothing of what is wrong with it");
        let found: Vec<_> = said.lines().filter(|line| !line.starts_with("metrobus: check: ")).collect();
        assert_eq!(found.len(), expected.len(), "{name}: {said}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.starts_with(expected), "{name}: {found}\nexpected: {expected}");
        }
        count += 1;
    }
    assert!(count >= 20, "{count} configurations");
}

#[test]
fn each_shipped_configuration_is_sound() {
    let scratch = folder();
    let shipped = Path::new(ROOT).join("config/metrobus.toml");
    let output = Metrobus::new().cwd(scratch.root()).arg("check").arg("--config").arg(shipped).run().assert_code(0);
    assert_eq!(output.stdout_text(), "sound: 0 rules, 0 tests, 2 caches\n");
    let output = Metrobus::new().cwd(scratch.root()).args(["check", "--connect"]).run().assert_code(0);
    assert_eq!(output.stdout_text(), "sound: 0 rules, 0 tests, 2 caches\n");
}

#[test]
fn tests_beside_the_rules_are_tried() {
    let scratch = folder();
    let tests = r#"
[[busdriver.test]]
message = { account_number = 1000000 }
rule = "gold"
route = ["AddEmail", "WhiteList", "Log"]
[[busdriver.test]]
message = { account_number = 1 }
key = "77"
drop = "a test"
[[busdriver.test]]
message = '{"account_number":-1}'
rule = "negative"
reject = "a negative account"
[[busdriver.test]]
message = '{"account_number":3}'
reject = "no rule matches"
"#;
    scratch.write("metrobus.toml", format!("{RULES}{tests}"));
    let check = || Metrobus::new().cwd(scratch.root()).args(["check", "--config", "metrobus.toml"]).run();
    assert_eq!(check().assert_code(0).stdout_text(), "sound: 4 rules, 4 tests, 2 caches\n");
    scratch.write("metrobus.toml", format!("{RULES}{}", tests.replace("\"a test\"", "\"another\"")));
    let output = check().assert_code(78);
    assert!(output.stdout_text().ends_with("expects drop \"another\", is rule tests, drop \"a test\"\n"), "{output:?}");
    assert_eq!(output.stderr, "metrobus: check: 1 finding\n");
}

#[test]
fn services_are_asked_for_on_request() {
    let scratch = folder();
    let call = |connect: &[&str]| {
        let call = Metrobus::new().cwd(scratch.root()).arg("check").args(connect.iter().copied());
        let call = call.env("METROBUS__BUS", "kafka").env("METROBUS__KAFKA__BROKERS", "127.0.0.1:1");
        call.env("METROBUS__REDIS__URL", "redis://127.0.0.1:1").env("METROBUS__CONTACTPOINT__CACHE", "redis")
    };
    call(&[]).run().assert_code(0);
    let output = call(&["--connect", "--connect-timeout", "1s"]).run().assert_code(78);
    let found = output.stdout_text();
    assert_eq!(found.lines().count(), 3, "{found}");
    assert!(found.starts_with("the bus cannot be reached within 1s: "), "{found}");
    assert!(found.contains("\nRedis cannot be reached within 1s: "), "{found}");
}

#[test]
fn plan_tells_rule_and_route_of_each_message() {
    let scratch = folder();
    scratch.write("metrobus.toml", RULES);
    scratch.write("messages.ndjson", MESSAGES);
    let plan = |arguments: &[&str]| {
        let call = Metrobus::new().cwd(scratch.root()).args(["--config", "metrobus.toml", "plan"]);
        call.args(arguments.iter().copied())
    };
    let text = plan(&["messages.ndjson"]).run().assert_code(0).stdout_text();
    assert_eq!(
        text,
        "1  gold  AddEmail → WhiteList → Log\n\
         2  rest  Log  with next = 7, tier = \"low\"\n\
         3  negative  rejected: a negative account\n\
         4  tests  dropped: a test\n\
         5  tests  dropped: a test\n\
         6  -  rejected: no rule matches\n\
         7  -  rejected: not a JSON object\n\
         8  -  rejected: no rule matches: rule rest failed: `>` does not take text and an integer\n    \
         rule gold failed: `>=` does not take text and an integer\n    \
         rule negative failed: `<` does not take text and an integer\n    \
         rule rest failed: `>` does not take text and an integer\n"
    );
    let piped = plan(&["-"]).stdin(MESSAGES).run().assert_code(0).stdout_text();
    assert_eq!(piped, text);
    let explained = plan(&["messages.ndjson", "--explain"]).run().assert_code(0).stdout_text();
    let wanted = "6  -  rejected: no rule matches\n    \
                  not gold: payload.account_number >= 1000000 is false: 5 >= 1000000\n    \
                  not tests: has(payload.test) is false\n    \
                  not tests: key == \"77\" is false: \"5\" == \"77\"\n    \
                  not negative: payload.account_number < 0 is false: 5 < 0\n    \
                  not rest: payload.account_number > 5 is false: 5 > 5\n";
    assert!(explained.contains(wanted), "{explained}");
    let json = lines(&plan(&["-", "--json"]).stdin(MESSAGES).run().assert_code(0).stdout_text());
    assert_eq!(json[0], json!({"line": 1, "rule": "gold", "route": ["AddEmail", "WhiteList", "Log"]}));
    assert_eq!(json[1], json!({"line": 2, "rule": "rest", "route": ["Log"], "set": {"next": 7, "tier": "low"}}));
    assert_eq!(json[3], json!({"line": 4, "rule": "tests", "drop": "a test"}));
    assert_eq!(json[5], json!({"line": 6, "rule": null, "reject": "no rule matches"}));
    plan(&[]).run().assert_code(2);
    plan(&["nothing.ndjson"]).run().assert_code(1);
}

#[test]
fn a_change_of_rules_is_shown_before_it_drives() {
    let scratch = folder();
    scratch.write("metrobus.toml", RULES);
    scratch.write("new.toml", RULES.replace("1000000'", "1000001'").replace("\"a test\"", "\"tested\""));
    let plan = |arguments: &[&str]| {
        let call = Metrobus::new().cwd(scratch.root()).args(["--config", "metrobus.toml", "plan", "-"]);
        call.args(arguments.iter().copied()).stdin(MESSAGES).run()
    };
    assert_eq!(
        plan(&["--against", "new.toml"]).assert_code(0).stdout_text(),
        "2 change\n  from tests: dropped: a test\n  to   tests: dropped: tested\n    \
         4  {\"test\":true,\"account_number\":9}\n    5  {\"account_number\":77}\n\
         1 change\n  from gold: AddEmail → WhiteList → Log\n  to   rest: Log\n    1  {\"account_number\":1000000}\n\
         3 change, 4 go as before, 1 are no messages\n"
    );
    let json = lines(&plan(&["--against", "new.toml", "--json"]).assert_code(0).stdout_text());
    assert_eq!(json[2], json!({"changed": 3, "same": 4, "malformed": 1}));
    assert_eq!(
        json[1],
        json!({"count": 1, "old": {"rule": "gold", "route": ["AddEmail", "WhiteList", "Log"]}, "new": {"rule": "rest", "route": ["Log"]},
            "samples": [{"line": 1, "value": "{\"account_number\":1000000}"}]})
    );
    assert_eq!(
        plan(&["--against", "metrobus.toml"]).assert_code(0).stdout_text(),
        "0 change, 7 go as before, 1 are no messages\n"
    );
    scratch.write("new.toml", RULES.replace("1000000'", "'"));
    let broken = plan(&["--against", "new.toml"]).assert_code(78);
    assert!(
        broken.stderr.starts_with("metrobus: new.toml:4: busdriver.rule[0].when: rule gold: "),
        "{}",
        broken.stderr
    );
}

/// Pushes the messages, plans them from their topic, and lets the busdriver do it.
fn plan_and_drive(engine: Engine) {
    let Some(fleet) = Fleet::new(engine) else { return };
    let config = fleet.scratch.write("rules.toml", RULES);
    let config = config.to_str().expect("a path");
    let messages: String =
        MESSAGES.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect();
    fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin(messages).run().assert_code(0);
    let source = fleet.topic("Source");
    let plan = ["--config", config, "plan", "--json", "--from", &source, "--last", "100"];
    let planned = lines(&fleet.metrobus(&plan).run().assert_code(0).stdout_text());
    assert_eq!(planned.len(), 7);
    fleet.metrobus(&["--config", config, "busdriver", "--drain"]).run().assert_code(0);
    let count = |field: &str, value: Value| planned.iter().filter(|line| line[field] == value).count();
    let topic = |name: &str| fleet.values(name).len();
    assert_eq!(topic("AddEmail"), count("rule", json!("gold")));
    assert_eq!(topic("Log"), count("rule", json!("rest")));
    assert_eq!(topic("Error"), planned.iter().filter(|line| line.get("reject").is_some()).count());
    let log: Value = serde_json::from_str(&fleet.values("Log")[0]).expect("JSON");
    assert_eq!((&log["header"]["rule"], &log["payload"]["tier"]), (&json!("rest"), &json!("low")));
    assert!(fleet.values("Log")[0].contains("\"n\":2.50"), "as it went in");
    // Whatever slip a record has, plan looks at its payload
    let log = fleet.topic("Log");
    let again = ["--config", config, "plan", "--json", "--from", &log, "--last", "1"];
    let again = lines(&fleet.metrobus(&again).run().assert_code(0).stdout_text());
    assert_eq!(again[0]["rule"], json!("rest"));
}

#[test]
fn what_plan_says_is_what_the_busdriver_does_on_sqlite() {
    plan_and_drive(Engine::Sqlite);
}

#[test]
fn what_plan_says_is_what_the_busdriver_does_on_kafka() {
    plan_and_drive(Engine::AtLeastOnce);
}

#[test]
fn rules_are_reread_when_the_file_changes() {
    let fleet = Fleet::new(Engine::Sqlite).expect("SQLite is always there");
    let rule = |name: &str| format!("[[busdriver.rule]]\nname = \"{name}\"\nroute = [\"Log\"]\n");
    let file = fleet.scratch.write("rules.toml", rule("one"));
    let mut busdriver = fleet.metrobus(&["--config", file.to_str().expect("a path"), "busdriver"]).spawn();
    wait_until("the topics", DEADLINE, || busdriver.stderr_text().contains(" ready ").then_some(()));
    // What the last message on Log was driven by, asked with a new one each time
    let drives = |expected: &str| {
        wait_until(&format!("rule {expected}"), DEADLINE, || {
            fleet.metrobus(&["pusher", "--from", "-", "--rate", "0"]).stdin("{}\n").run().assert_code(0);
            let value: Value = serde_json::from_str(fleet.values("Log").last()?).ok()?;
            (value["header"]["rule"] == json!(expected)).then_some(())
        });
    };
    drives("one");
    fs::write(&file, rule("two")).expect("write the rules");
    drives("two");
    fs::write(&file, rule("three").replace("Log", "Lock")).expect("write the rules");
    wait_until("a line of the log", DEADLINE, || {
        busdriver.stderr_text().contains("the rules read before stay in force").then_some(())
    });
    drives("two");
    fs::write(&file, rule("four")).expect("write the rules");
    drives("four");
    busdriver.signal(Signal::TERM);
    let output = busdriver.wait(Duration::from_secs(20)).assert_code(0);
    assert_eq!(output.stderr.matches("stay in force").count(), 1, "{}", output.stderr);
}
