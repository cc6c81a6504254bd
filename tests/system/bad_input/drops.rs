//! Messages that a stop has nothing to say about: dropped for a reason, and the log counts how many.

use super::traffic::{EMAIL, KNOWN, all, arrived, fleet, header, put};
use crate::{fleet::Engine, support::NewRecord};

/// The counts that a stop told: `(reason, count)` of the lines that say `what`.
fn told(stderr: &str, what: &str) -> Vec<(String, u64)> {
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!("{name}="))?.1;
        let quoted = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
        Some(quoted.map_or_else(|| rest.split(' ').next().unwrap_or_default(), |(text, _)| text).to_owned())
    };
    let line = |line: &str| {
        let says = line.split_whitespace().any(|word| word == what);
        says.then(|| Some((field(line, "reason")?, field(line, "count")?.parse().ok()?))).flatten()
    };
    let mut told: Vec<_> = stderr.lines().filter_map(line).collect();
    told.sort();
    told
}

#[test]
fn an_account_number_that_is_missing_or_odd_is_a_drop_with_its_reason() {
    let fleet = fleet(Engine::Sqlite).unwrap();
    let odd = ["null", "true", "1000001.5", "1.000001e6", "[1000001]", r#"{"a":1}"#, r#""""#, r#""\ud800""#, "-0.0"];
    let unknown = ["1000009", r#""1000001 ""#, r#"" 1000001""#, r#""x""#, "-1000001", r#""\u0000""#, "-1"];
    let slip = header(&fleet, "AddEmail");
    let with = |payload: String| NewRecord::new(format!(r#"{{"header":{slip},"payload":{payload}}}"#));
    let number = |number: &&str| with(format!(r#"{{"secret":"Tr0ub4dor","account_number":{number}}}"#));
    put(&fleet, "AddEmail", odd.iter().map(number));
    put(&fleet, "AddEmail", unknown.iter().map(number));
    put(
        &fleet,
        "AddEmail",
        ["{}", r#"{"Account_Number":1}"#, r#"{"a":{"account_number":1000001}}"#].map(|p| with(p.into())),
    );
    put(&fleet, "AddEmail", [with(format!(r#"{{"at":"x","n":1,{KNOWN}}}"#))]);
    put(&fleet, "AddEmail", [NewRecord::new("broken")]);
    let output = fleet.metrobus(&["contactpoint", "--drain"]).run().assert_code(0);
    let expected = [
        ("account_number is missing", 3),
        ("account_number is neither a whole number nor text", odd.len() as u64),
        ("unknown account", unknown.len() as u64),
    ];
    assert_eq!(told(&output.stderr, "dropped"), expected.map(|(reason, count)| (reason.to_owned(), count)));
    assert_eq!(told(&output.stderr, "rejected"), [("not JSON".to_owned(), 1)]);
    assert!(output.stderr.contains("read=21 forwarded=1 finished=0 dropped=19 rejected=1"), "{}", output.stderr);
    assert!(!output.stderr.contains("Tr0ub4dor"), "no payload in the log");
    assert_eq!((all(&fleet, "WhiteList").len(), all(&fleet, "Error").len()), (1, 1));
}

#[test]
fn an_email_that_is_missing_odd_or_not_listed_is_a_drop_with_its_reason() {
    let fleet = fleet(Engine::Sqlite).unwrap();
    let slip = header(&fleet, "WhiteList");
    let with = |fields: &str| NewRecord::new(format!(r#"{{"header":{slip},"payload":{{{fields}}}}}"#));
    let odd = ["1", "null", "true", "[]", "{}", r#""\ud800""#];
    put(&fleet, "WhiteList", odd.map(|email| with(&format!(r#""email":{email}"#))));
    put(&fleet, "WhiteList", [with(""), with(r#""E-mail":1"#)]);
    let upper = EMAIL.to_uppercase();
    let unlisted = ["", "nobody@example.com", "user1@example.com\\n", " user1@example.com", upper.as_str()];
    put(&fleet, "WhiteList", unlisted.map(|email| with(&format!(r#""email":"{email}""#))));
    put(&fleet, "WhiteList", [with(&format!(r#""at":"x","n":1,"email":"{EMAIL}""#))]);
    let output = fleet.metrobus(&["run", "whitelist", "logstop", "--drain"]).run().assert_code(0);
    let expected = [
        ("email is missing", 2),
        ("email is not on the whitelist", unlisted.len() as u64),
        ("email is not text", odd.len() as u64),
    ];
    assert_eq!(told(&output.stderr, "dropped"), expected.map(|(reason, count)| (reason.to_owned(), count)));
    assert_eq!(arrived(&fleet), [("x".to_owned(), 1)]);
    assert_eq!(all(&fleet, "Error"), []);
    assert!(!output.stderr.contains("nobody@example.com"), "no payload in the log");
}
