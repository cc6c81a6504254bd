//! Rules over messages: what CEL says, and what nobody can make them do.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::{
    bus::{Headers, Record},
    config::Config,
    slip::Limits,
};

mod differential;

const NOW: &str = "2026-01-31T12:30:15Z";

/// The rules of a TOML text.
fn rules(toml: &str) -> Result<Rules, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrobus.toml");
    std::fs::write(&file, toml).unwrap();
    let config = Config::load(Some(&file), [("", "")]).expect(toml);
    Rules::new(&config).map_err(|error| error.0.replace(&file.display().to_string(), "metrobus.toml"))
}

/// One rule with this condition, whose set gives the value of `value`.
fn one(when: &str, value: &str) -> Result<Rules, String> {
    let (when, value) = (quoted(when), quoted(value));
    rules(&format!(
        "[busdriver]\non_error = \"reject\"\n[[busdriver.rule]]\nname = \"one\"\nwhen = {when}\nroute = [\"Log\"]\nset = {{ out = {value} }}\n"
    ))
}

fn quoted(text: &str) -> String {
    crate::config::value_text(&text.into())
}

fn record<'a>(value: &'a str, headers: &'a [u8]) -> Record<'a> {
    Record {
        partition: 0,
        offset: 0,
        timestamp: 0,
        key: Some(b"k1"),
        headers: Headers::from_encoded(headers),
        value: Some(value.as_bytes()),
    }
}

/// What the expression gives over the payload, as JSON, or why it gives nothing.
fn value(expression: &str, payload: &str) -> String {
    let rules = one("true", expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let mut headers = Vec::new();
    Headers::push(&mut headers, "tenant", Some(b"blue"));
    Headers::push(&mut headers, "odd", Some(b"\xff"));
    let message = Message::parse_untrusted(record(payload, &headers), &Limits::default()).unwrap();
    let judgement = rules.judge(&message, Timestamp::parse(NOW).unwrap());
    match judgement.outcome {
        Outcome::Matched(_, set) => set[0].1.get().to_owned(),
        Outcome::Failed(failure) => failure.fault.to_string(),
        Outcome::NoMatch => panic!("it always matches"),
    }
}

#[test]
fn expressions_give_what_cel_says() {
    let payload = r#"{"a":1,"b":2.5,"big":12345678901234567890,"huge":123456789012345678901234567890,"neg":-3,"t":"text é","yes":true,
        "nil":null,"list":[1,2,3],"deep":{"x":{"y":[{"z":7}]}},"em\u0061il":"e\u00e9\n","two":1,"two":2,"lone":"\ud800","d":1e2,
        "at":"2026-01-30T00:00:00Z","odd-name":5}"#;
    for (expression, expected) in [
        // Numbers
        ("payload.a + 1", "2"),
        ("payload.a == 1.0 && payload.a == 1u", "true"),
        ("payload.neg * 2 - 1", "-7"),
        ("payload.neg / 2", "-1"),
        ("payload.neg % 2", "-1"),
        ("payload.b * 2.0", "5.0"),
        ("payload.d", "100.0"),
        ("payload.big", "12345678901234567890"),
        ("payload.big > 9223372036854775807", "true"),
        ("payload.big + 1u", "12345678901234567891"),
        ("payload.huge > 1e29 && payload.huge < 1e30", "true"),
        ("9223372036854775807 + payload.a", "a number out of range"),
        ("-9223372036854775808 / -1", "a number out of range"),
        ("payload.a / 0", "a division by zero"),
        ("payload.a + payload.b", "`+` does not take an integer and a floating-point number"),
        ("double(payload.a) + payload.b", "3.5"),
        ("int(payload.b) + int(\"7\") + int(now) % 2", "10"),
        ("9007199254740993 == 9007199254740992.0", "false"),
        // Text
        ("payload.t + \"!\"", "\"text é!\""),
        ("payload.t.size() + size(payload.list)", "9"),
        ("payload.t.startsWith(\"te\") && payload.t.endsWith(\"é\") && payload.t.contains(\"xt\")", "true"),
        ("payload.t.matches(\"^t[a-z]+ .$\")", "true"),
        ("payload.email", "\"eé\\n\""),
        ("payload[\"odd-name\"]", "5"),
        ("payload.lone", "text that is not valid Unicode"),
        ("has(payload.lone)", "true"),
        ("\"a\" < \"b\"", "true"),
        ("payload.t < 1", "`<` does not take text and an integer"),
        // Lists and maps
        ("payload.list[1]", "2"),
        ("payload.list[3]", "no such index"),
        ("payload.list[-1]", "no such index"),
        ("payload.list + [4] == [1, 2, 3, 4.0]", "true"),
        ("payload.deep.x.y[0].z", "7"),
        ("payload.deep.x.y", "[{\"z\":7}]"),
        ("payload.deep.x == {\"y\": [{\"z\": 7}]}", "true"),
        ("payload.deep.nothing.more", "no field `nothing`"),
        ("has(payload.deep.x) && !has(payload.deep.z)", "true"),
        ("payload.a.b", "`.` does not take an integer"),
        ("payload.two", "2"),
        ("2 in payload.list && !(\"a\" in payload.list) && \"a\" in payload && payload.a in [1, \"x\"]", "true"),
        ("{\"k\": payload.a}.k", "1"),
        ("{\"k\": 1, \"k\": 2}", "a map with a key twice"),
        // Macros
        ("payload.list.all(n, n > 0) && payload.list.exists(n, n == 3) && payload.list.exists_one(n, n == 2)", "true"),
        ("payload.list.map(n, n * 2)", "[2,4,6]"),
        ("payload.list.map(n, n > 1, n * 2)", "[4,6]"),
        ("payload.list.filter(n, payload.list.exists(m, m == n + 1))", "[1,2]"),
        ("payload.list.exists(n, n.x == 1 || n == 3)", "true"),
        ("payload.list.all(n, n.x == 1 && n > 0)", "`.` does not take an integer"),
        ("payload.deep.map(k, k)", "[\"x\"]"),
        // Logic
        ("payload.nothing == 1 || true", "true"),
        ("payload.nothing == 1 && false", "false"),
        ("payload.nothing == 1 && true", "no field `nothing`"),
        ("payload.yes ? \"a\" : payload.nothing", "\"a\""),
        ("!payload.a", "`!` does not take an integer"),
        ("payload.nil == null && payload.a != null", "true"),
        ("has(payload.nil) && !has(payload.nothing)", "true"),
        // What else is at hand
        ("headers.tenant + headers[\"tenant\"]", "\"blueblue\""),
        ("has(headers.tenant) && !has(headers.x) && headers.odd == null && size(headers) == 2", "true"),
        ("key + topic", "\"k1Source\""),
        ("now - duration(\"1h30m\")", "\"2026-01-31T11:00:15Z\""),
        ("now > timestamp(payload.at)", "true"),
        ("now - timestamp(payload.at) == duration(\"36h30m15s\")", "true"),
        ("[now.getFullYear(), now.getMonth(), now.getDate(), now.getDayOfWeek(), now.getHours()]", "[2026,0,31,6,12]"),
        ("string(payload.a) + string(payload.b) + string(payload.yes)", "\"12.5true\""),
        ("0.0 / 0.0", "a value that JSON does not have"),
    ] {
        assert_eq!(value(expression, payload), expected, "{expression}");
    }
}

#[test]
fn what_does_not_compile_is_told_with_its_place() {
    for (when, expected) in [
        ("payload.a ==", "rule one: mismatched input '<EOF>'\n  payload.a ==\n              ^"),
        (
            "payloud.a == 1",
            "rule one: unknown name `payloud`; payload, headers, key, topic and now are at hand\n  payloud.a == 1\n  ^",
        ),
        (
            "key == \"é\" && payload.é",
            "rule one: token recognition error at: 'é'\n  key == \"é\" && payload.é\n                        ^",
        ),
        (
            "payload.a.startWith(\"x\")",
            "unknown function `startWith`; did you mean `startsWith`?\n  payload.a.startWith(\"x\")\n                     ^",
        ),
        ("payload.t == \"é\" && lower(key)", "unknown function `lower`"),
        ("key.matches(key)", "the pattern of `matches` must be written out"),
        ("key.matches(\"(\")", "the pattern of `matches`: unclosed group"),
        ("key.matches(\"(x{1,900}){1,900}\")", "the pattern of `matches`: is too large"),
        ("1 + 1", "gives a number, must give true or false"),
        ("payload.list.map(n, n)", "gives a list, must give true or false"),
        ("", "is empty"),
        ("Foo{a: 1} == 1", "makes a message, which rules do not know"),
        ("size(payload, 1) == 1", "`size` takes 1 arguments, has 2"),
    ] {
        let error = one(when, "1").map(|_| ()).expect_err(when);
        assert!(error.contains(expected) && error.starts_with("metrobus.toml:5: busdriver.rule[0].when: "), "{error}");
    }
}

#[test]
fn the_mark_stands_under_the_line_of_a_long_text() {
    let error = rules(
        "[[busdriver.rule]]\nname = \"a\"\nroute = [\"Log\"]\nwhen = '''\nkey == \"é\" &&\n\tpayload.x == nix'''\n",
    );
    let expected = "metrobus.toml:6: busdriver.rule[0].when: rule a: unknown name `nix`; payload, headers, key, topic and now are at \
                    hand\n  \tpayload.x == nix\n  \t             ^";
    assert_eq!(error.map(|_| ()), Err(expected.to_owned()));
}

#[test]
fn what_is_wrong_with_a_rule_is_told_with_its_line() {
    let rule = |rest: &str| format!("\n[[busdriver.rule]]\nname = \"a\"\n{rest}");
    for (toml, expected) in [
        (rule(""), "metrobus.toml:2: busdriver.rule[0]: rule a has neither a route nor drop nor reject"),
        (
            rule("route = [\"Log\"]\ndrop = \"x\""),
            "metrobus.toml:2: busdriver.rule[0]: rule a has more than one of route, drop and reject",
        ),
        (rule("rout = [\"Log\"]"), "metrobus.toml:4: busdriver.rule[0].rout: unknown key; did you mean `route`?"),
        (rule("route = [5]"), "metrobus.toml:4: busdriver.rule[0].route[0] is 5, must be a string"),
        (rule("route = []"), "metrobus.toml:4: busdriver.rule[0].route is empty, must name one stop or more"),
        (
            rule("route = [\"Lock\"]"),
            "metrobus.toml:4: busdriver.rule[0].route names \"Lock\", which no stop here reads; add it to `stops`, or name one of AddEmail, WhiteList, Log",
        ),
        (
            rule("route = [\"Source\"]"),
            "metrobus.toml:4: busdriver.rule[0].route names \"Source\", which the busdriver reads: the journey would never end",
        ),
        (rule("drop = \" \""), "metrobus.toml:2: busdriver.rule[0]: rule a gives no reason"),
        (
            rule("drop = \"x\"\nset = { a = \"1\" }"),
            "metrobus.toml:2: busdriver.rule[0]: rule a sets fields of messages that go no further",
        ),
        (
            rule("route = [\"Log\"]\nset = { a = \"1 +\" }"),
            "metrobus.toml:5: busdriver.rule[0].set.a: rule a: mismatched input '<EOF>'\n  1 +\n     ^",
        ),
        (
            "[[busdriver.rule]]\nname = \"a b\"\ndrop = \"x\"".into(),
            "metrobus.toml:2: busdriver.rule[0].name: \"a b\" is no name of a rule: 1 to 64 of A-Z a-z 0-9 . _ - are",
        ),
        (
            format!("{}{}", rule("drop = \"x\"\n"), rule("drop = \"y\"")),
            "metrobus.toml:7: busdriver.rule[1].name: there is a rule a before",
        ),
        (
            rule("drop = \"x\"\ncopies = [[\"Log\"]]"),
            "metrobus.toml:2: busdriver.rule[0]: rule a copies messages that go no further",
        ),
        (
            rule("reject = \"x\"\ndeadline = \"1s\""),
            "metrobus.toml:2: busdriver.rule[0]: rule a gives a deadline to messages that go no further",
        ),
        (
            rule("route = [\"Log\"]\ncopies = [[\"Log\"], [\"Lock\"]]"),
            "metrobus.toml:5: busdriver.rule[0].copies[1] names \"Lock\", which no stop here reads; add it to `stops`, or name one of AddEmail, WhiteList, Log",
        ),
        (
            rule("route = [\"Log\"]\ncopies = [[]]"),
            "metrobus.toml:5: busdriver.rule[0].copies[0] is empty, must name one stop or more",
        ),
        (
            rule("route = [\"Log\"]\ncopies = [\"Log\"]"),
            "metrobus.toml:5: busdriver.rule[0].copies[0] is \"Log\", must be a list",
        ),
        (
            rule(&format!("route = [\"Log\"]\ncopies = [{}]", "[\"Log\"],".repeat(17))),
            "metrobus.toml:5: busdriver.rule[0].copies: names 17 routes, more than 16",
        ),
        (
            rule("route = [\"Log\"]\ndeadline = \"0s\""),
            "metrobus.toml:5: busdriver.rule[0].deadline: must be 1ms or more: every message would be late",
        ),
        (
            rule("route = [\"Log\"]\ndeadline = \"-5s\""),
            "metrobus.toml:5: busdriver.rule[0].deadline is \"-5s\", must be a duration with its unit",
        ),
        ("[[busdriver.rule]]\ndrop = \"x\"".into(), "metrobus.toml:1: busdriver.rule[0]: missing field `name`"),
        ("busdriver.rule = [5]".into(), "metrobus.toml:1: busdriver.rule[0] is 5, must be a table"),
    ] {
        let error = rules(&toml).map(|_| ()).expect_err(&toml);
        assert!(error.starts_with(expected), "{error}\n{expected}");
    }
}

const TWO: &str = r#"
[[busdriver.rule]]
name = "altabc"
when = 'payload.message_type_code == "ALTABC" && payload.account_number >= 1000000'
route = ["AddEmail", "WhiteList", "Log"]
set = { tier = '"gold"', "x.y" = 'payload.account_number + 1' }
[[busdriver.rule]]
name = "old"
when = "payload.v < 2"
drop = "too old: by its version"
[[busdriver.rule]]
name = "odd"
when = "!has(payload.message_type_code)"
reject = "no type"
[[busdriver.rule]]
name = "rest"
when = "payload.rest"
route = ["Log"]
"#;

/// What becomes of a payload: where it goes and its value there, or the verdict.
fn driven(rules: &Rules, payload: &str) -> String {
    let mut message = Message::parse_untrusted(record(payload, &[]), &Limits::default()).unwrap();
    let judgement = rules.judge(&message, Timestamp(0));
    match judgement.carry_out(&mut message, Timestamp(0), |_| Uuid::nil()) {
        Verdict::Forward => {
            let mut out = Vec::new();
            message.write_next(&mut out);
            format!("{}: {}", message.next_stop().unwrap(), String::from_utf8(out).unwrap())
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn the_first_rule_that_matches_counts() {
    let rules = rules(TWO).unwrap();
    let hash = rules.hash();
    assert_eq!(
        driven(&rules, r#"{"message_type_code":"ALTABC", "account_number":1000001,"tier":0}"#),
        format!(
            r#"AddEmail: {{"header":{{"route":["Log","WhiteList"],"original_route":["Log","WhiteList","AddEmail"],"historical_route":["AddEmail"],"rule":"altabc","rules":"{hash}","id":"00000000-0000-0000-0000-000000000000"}},"payload":{{"message_type_code":"ALTABC", "account_number":1000001,"tier":"gold","x.y":1000002}}}}"#
        )
    );
    assert_eq!(driven(&rules, r#"{"message_type_code":"A","v":1}"#), r#"Drop("too old: by its version")"#);
    assert_eq!(driven(&rules, "{}"), r#"Reject("no type")"#);
    assert!(driven(&rules, r#"{"message_type_code":"A","rest":true}"#).starts_with("Log: "));
    assert_eq!(driven(&rules, r#"{"message_type_code":"A","v":2,"rest":false}"#), r#"Reject("no rule matches")"#);
    assert_eq!(
        driven(&rules, r#"{"message_type_code":"A","v":2,"rest":"x"}"#),
        r#"Reject("no rule matches: rule rest failed: is neither true nor false")"#
    );
    let strict = TWO.replacen('\n', "[busdriver]\non_error = \"reject\"\n", 1);
    let strict = super::tests::rules(&strict).unwrap();
    assert_eq!(
        driven(&strict, r#"{"message_type_code":"ALTABC"}"#),
        r#"Reject("rule altabc failed: no field `account_number`")"#
    );
    assert_ne!(strict.hash(), hash);
}

#[test]
fn a_rule_sends_copies_and_gives_a_deadline() {
    let of_all = "busdriver.deadline = \"1m\"\n";
    let rule =
        "[[busdriver.rule]]\nname = \"a\"\nroute = [\"Log\"]\ncopies = [[\"WhiteList\", \"Log\"]]\nset = { s = '1' }\n";
    let sent = |toml: &str| {
        let rules = rules(toml).unwrap();
        let mut message = Message::parse_untrusted(record("{}", &[]), &Limits::default()).unwrap();
        let now = Timestamp(5_000_000);
        rules.judge(&message, now).carry_out(&mut message, now, |_| Uuid::nil());
        let mut values = vec![Vec::new()];
        message.write_next(&mut values[0]);
        for copy in message.copies() {
            values.push(Vec::new());
            message.write_copy(&copy, values.last_mut().unwrap());
        }
        let header = |value: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&value).unwrap()["header"].clone();
        values.into_iter().map(header).collect::<Vec<_>>()
    };
    let deadlines = |toml: &str| sent(toml).iter().map(|header| header["deadline"].as_i64()).collect::<Vec<_>>();
    assert_eq!(deadlines(rule), [None, None]);
    assert_eq!(deadlines(&format!("{of_all}{rule}")), [Some(60_005); 2]);
    assert_eq!(deadlines(&format!("{of_all}{rule}deadline = \"2s\"")), [Some(2_005); 2]);
    assert_eq!(deadlines(of_all), [Some(60_005)]);
    let headers = sent(rule);
    assert_eq!(headers[1]["original_route"], serde_json::json!(["Log", "WhiteList"]));
    assert_eq!((&headers[1]["parent"], &headers[1]["rule"]), (&headers[0]["id"], &headers[0]["rule"]));

    // The hash is of all that decides, and what decides nothing is no part of it
    let hash = |toml: &str| rules(toml).unwrap().hash().to_owned();
    let rest = "[[busdriver.rule]]\nname = \"b\"\ndrop = \"x\"\n";
    assert_ne!(hash(rule), hash(&rule.replace("copies", "# copies")));
    assert_ne!(hash(rule), hash(&format!("{of_all}{rule}")));
    assert_eq!(hash(&format!("{of_all}{rule}")), hash(&format!("{rule}deadline = \"60s\"")));
    assert_eq!(hash(&format!("{of_all}{rest}")), hash(rest));
}

#[test]
fn rules_that_failed_before_are_named_to_the_journal() {
    let remark = |payload: &str, toml: &str| {
        let rules = rules(toml).unwrap();
        let mut message = Message::parse_untrusted(record(payload, &[]), &Limits::default()).unwrap();
        rules.judge(&message, Timestamp(0)).carry_out(&mut message, Timestamp(0), |_| Uuid::nil());
        message.remarked().map(str::to_owned)
    };
    assert_eq!(remark(r#"{"message_type_code":"A","v":1}"#, TWO), None);
    assert_eq!(remark("{}", TWO).as_deref(), Some("rules altabc, old failed"));
    assert_eq!(remark(r#"{"message_type_code":"A","rest":true}"#, TWO).as_deref(), Some("rule old failed"));
    assert_eq!(
        remark(r#"{"message_type_code":"A"}"#, TWO).as_deref(),
        Some("rule old failed"),
        "the reason tells of the last"
    );
    let failing =
        |n: usize| format!("[[busdriver.rule]]\nname = \"r{n}\"\nwhen = \"payload.x == {n}\"\ndrop = \"x\"\n");
    let many: String = (0..20).map(failing).collect();
    let expected = "rules r0, r1, r2, r3, r4, r5, r6, r7 and 11 more failed";
    assert_eq!(remark("{}", &many).as_deref(), Some(expected));
}

#[test]
fn a_stop_that_is_named_twice_is_noted() {
    let notes = |toml: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("metrobus.toml");
        std::fs::write(&file, toml).unwrap();
        let config = Config::load(Some(&file), [("", "")]).unwrap();
        let notes = super::notes(&Rules::new(&config).unwrap(), &config);
        let path = file.display().to_string();
        notes.into_iter().map(|note| note.0.replace(&path, "metrobus.toml")).collect::<Vec<_>>()
    };
    let rule = "[[busdriver.rule]]\nname = \"a\"\nroute = [\"AddEmail\", \"Log\"]\ncopies = [[\"Log\"], [\"Log\", \"AddEmail\", \"Log\"]]\n";
    assert_eq!(notes(rule), ["metrobus.toml:4: busdriver.rule[0].copies[1]: names Log more than once"]);
    assert_eq!(
        notes("busdriver.route = [\"Log\", \"Log\"]"),
        ["metrobus.toml:1: busdriver.route: names Log more than once"]
    );
    assert!(notes("").is_empty());
}

#[test]
fn without_rules_there_is_the_plain_route() {
    let rules = rules("busdriver.route = [\"WhiteList\", \"Log\"]").unwrap();
    assert_eq!(
        driven(&rules, "{}"),
        r#"WhiteList: {"header":{"route":["Log"],"original_route":["Log","WhiteList"],"historical_route":["WhiteList"],"id":"00000000-0000-0000-0000-000000000000"},"payload":{}}"#
    );
}

#[test]
fn the_hash_is_of_the_rules_and_not_of_their_layout() {
    let hash = |toml: &str| rules(toml).unwrap().hash().to_owned();
    let one = "[[busdriver.rule]]\nname = \"a\"\nwhen = \"payload.a\"\nroute = [\"Log\"]\n";
    assert_eq!(
        hash(one),
        hash("busdriver.rule = [ { route = ['Log'], name = 'a', when = ''' payload.a''' } ] # the same")
    );
    for other in [one.replace("\"a\"", "\"b\""), one.replace("payload.a", "payload.b"), one.replace("Log", "WhiteList")]
    {
        assert_ne!(hash(one), hash(&other));
    }
    assert!(hash(one).len() == 16 && hash(one).bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[test]
fn what_failed_is_explained_with_its_values() {
    let rules = rules(TWO).unwrap();
    let explain = |payload: &str| -> Vec<String> {
        let message = Message::parse_untrusted(record(payload, &[]), &Limits::default()).unwrap();
        let line = |explained: Explained| {
            let part = |part: &Part| format!("{} {:?} {:?}", part.text, part.sides, part.failure);
            format!("{}: {}", explained.rule, explained.parts.iter().map(part).collect::<Vec<_>>().join(" | "))
        };
        rules.explain(&message, Timestamp(0)).into_iter().map(line).collect()
    };
    assert_eq!(
        explain(r#"{"message_type_code":"ALTABC","account_number":7,"rest":true}"#),
        [
            r#"altabc: payload.account_number >= 1000000 Some(("7", ">=", "1000000")) None"#,
            r#"old: payload.v < 2 None Some("no field `v`")"#,
            "odd: !has(payload.message_type_code) None None",
        ]
    );
    assert_eq!(explain(r#"{"message_type_code":"ALTABC","account_number":1000000}"#), [""; 0]);
}

#[test]
fn a_condition_is_shown_as_it_could_have_been_written() {
    for text in [
        "payload.a == 1 && (payload.b || !has(payload.c.d)) && key in [\"x\", b\"\\x01\", 1u, 1.5, -2, null]",
        "(payload.a + 1) * 2 - (3 - 4) < -payload.x && (true ? payload.b : false)",
        "payload[\"a-b\"].all(x, x.y[0] > 1) || {\"k\": [1]}.k.map(v, v > 1, v + 1) == []",
        "now - duration(\"1h\") > timestamp(payload.t) && payload.t.matches(\"^a\\\\d$\") && payload.n.size() > 1",
        "payload.l.exists_one(a, a == 1) || payload.l.filter(b, b).exists(c, c != !payload.d)",
    ] {
        let shown = |text: &str| one(text, "1").expect(text).iter().next().unwrap().when().unwrap();
        assert_eq!(shown(text), shown(&shown(text)), "{text}");
        assert_eq!(shown(text), text);
    }
}

/// Judges and gives how long it took.
fn timed(rules: &Rules, payload: &str) -> (String, Duration) {
    let begun = Instant::now();
    let message = Message::parse_untrusted(record(payload, &[]), &Limits { depth: 1000, ..Limits::default() }).unwrap();
    let judgement = rules.judge(&message, Timestamp(0));
    (judgement.reason().unwrap_or_default(), begun.elapsed())
}

#[test]
fn neither_rule_nor_payload_can_stall_a_stop() {
    let numbers = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let long = format!(r#"{{"l":[{}],"t":"{}"}}"#, numbers(5000), "a".repeat(100_000));
    let deep = format!(r#"{{"l":{}{}}}"#, "[".repeat(900), "]".repeat(900));
    let many = format!("{{{}}}", (0..100_000).map(|n| format!("\"k{n}\":{n}")).collect::<Vec<_>>().join(","));
    for (when, payload, expected) in [
        ("payload.l.all(a, payload.l.all(b, payload.l.all(c, a + b + c >= 0)))", &long, "more work"),
        ("payload.l.map(a, payload.l.map(b, payload.l)).size() > 0", &long, "more work"),
        ("payload.l.exists(a, payload.l == payload.l && false)", &long, "more work"),
        ("payload.l.all(a, (payload.t + payload.t + payload.t).size() > 0)", &long, "more work"),
        ("payload.l.all(a, payload.t.matches('^(a|aa|b[^x]*){1,50}$'))", &long, "more work"),
        ("payload.l.all(a, !payload.t.contains('aaaaaaaaaaaaaaaaaaab'))", &long, "more work"),
        ("payload.l.all(a, has(payload.l[a].x))", &long, "more work"),
        ("payload.l == [[1]]", &deep, ""),
        ("payload.l == payload.l", &deep, "nested too deeply"),
        ("payload == payload", &many, "more work"),
        ("payload.all(k, payload[k] >= 0)", &many, "more work"),
    ] {
        let rules = one(when, "1").unwrap_or_else(|error| panic!("{error}"));
        let (reason, took) = timed(&rules, payload);
        assert!(reason.contains(expected), "{when}: {reason}");
        assert!(took < Duration::from_secs(2), "{when}: {took:?}");
    }
    // What is right for a small message is right for a large one
    let large = format!(r#"{{"x":"{}","a":1}}"#, "a".repeat(5_000_000));
    assert_eq!(timed(&one("payload.a == 1 && payload.x.size() > 5", "1").unwrap(), &large).0, "");
}

#[test]
fn hostile_texts_of_rules_are_refused_in_time() {
    for text in [
        "(".repeat(4000),
        format!("{}1{} == 1", "(".repeat(40), ")".repeat(40)),
        format!("{}1{}", "(".repeat(1000), ")".repeat(1000)),
        format!("{}true", "!".repeat(4000)),
        format!("{}1", "-".repeat(4000)),
        format!("payload{}", ".a".repeat(2000)),
        format!("payload{}", "[0]".repeat(1300)),
        format!("1{}", "+1".repeat(2000)),
        format!("true{}", "&&true".repeat(600)),
        format!("true{}", "?true:true".repeat(400)),
        format!("{}{}", "[".repeat(2000), "]".repeat(2000)),
        "[[1]].all(a, ".repeat(300),
        "a".repeat(5000),
        "\"".into(),
        "b'\\xff' == '\\u{}'".into(),
        "has(1) || has() || [1].all(1, 2)".into(),
        "0x8000000000000000 == -0x8000000000000001".into(),
    ] {
        let begun = Instant::now();
        let _ = one(&text, "1");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}: {:.60}", begun.elapsed(), text);
    }
}

/// Text of which much is nearly an expression.
fn nearly() -> impl Strategy<Value = String> {
    let name = prop_oneof!["payload(\\.[abc])?", "(headers|key|topic|now|x)(\\.a)?", "[abc]"];
    let leaf = prop_oneof![
        3 => name,
        2 => "-?[0-9]{1,3}(\\.[0-9])?u?",
        1 => "\"[ -~é]{0,4}\"",
        1 => prop_oneof!["true", "false", "null", "\\[\\]", "\\{\\}"],
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let operator = prop_oneof!["[-+*/%<>?:.]", "==|!=|<=|>=|&&|\\|\\|| in "];
        prop_oneof![
            6 => (inner.clone(), operator, inner.clone()).prop_map(|(a, o, b)| format!("{a} {o} {b}")),
            1 => inner.clone().prop_map(|a| format!("({a})")),
            1 => inner.clone().prop_map(|a| format!("!{a}")),
            1 => inner.clone().prop_map(|a| format!("has({a})")),
            1 => (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("{a} ? {b} : {c}")),
            2 => (inner.clone(), "size|contains|startsWith|matches|int|string|timestamp|getHours", inner.clone())
                .prop_map(|(a, f, b)| format!("{f}({a}) == {b}")),
            2 => (inner.clone(), "all|exists|exists_one|map|filter|size|startsWith|x", inner.clone())
                .prop_map(|(a, f, b)| format!("{a}.{f}(x, {b})")),
            1 => (inner.clone(), inner).prop_map(|(a, b)| format!("[{a}, {b}][{b}]")),
        ]
    })
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?[1-9][0-9]{0,20}(\\.[0-9]{1,3})?(e[0-9]{1,3})?",
        "\"([ !#-Z]|\\\\u[0-9a-f]{4}){0,5}\"",
        "true|false|null"
    ];
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{{\"a\":{a},\"b\":{b}}}")),
        ]
    });
    (value.clone(), value).prop_map(|(a, b)| format!("{{\"a\":{a},\"b\":{b}}}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn no_rule_and_no_payload_panics(when in nearly(), set in nearly(), payload in json()) {
        let Ok(rules) = one(&when, &set).or_else(|_| one(&when, "1")) else { return Ok(()) };
        let message = Message::parse_untrusted(record(&payload, &[]), &Limits::default()).unwrap();
        let judgement = rules.judge(&message, Timestamp(0));
        let _ = (judgement.reason(), rules.explain(&message, Timestamp(0)));
    }

    #[test]
    fn an_expression_and_what_is_shown_of_it_give_the_same(text in nearly(), payload in json()) {
        let Ok(rules) = one("true", &text) else { return Ok(()) };
        let mut fields = compile::Fields::default();
        let shown = compile::expression(&text, node::Root::ALL, &mut fields).unwrap().to_string();
        let message = Message::parse_untrusted(record(&payload, &[]), &Limits::default()).unwrap();
        let given = |rules: &Rules| match rules.judge(&message, Timestamp(0)).outcome {
            Outcome::Matched(_, set) => set[0].1.get().to_owned(),
            Outcome::Failed(failure) => failure.to_string(),
            Outcome::NoMatch => "no match".into(),
        };
        let again = one("true", &shown).map_err(|error| TestCaseError::fail(format!("{shown}: {error}")))?;
        prop_assert_eq!(given(&rules), given(&again), "{}", shown);
    }
}
