//! Filters: what Python gave for them, what is refused, and what nobody can make them do.

use std::{process::Command, time::Instant};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;

use super::*;

/// What Python gave: true, false, or the name of an exception.
#[derive(Debug, Deserialize)]
struct Recorded {
    filter: String,
    gives: Value,
}

#[derive(Debug, Deserialize)]
struct Group {
    data: String,
    filters: Vec<Recorded>,
}

/// Why the filter does not give what Python gave; it must be understood.
fn unlike(filter: &str, data: &Data<'_>, gives: &Value) -> Option<String> {
    let filter = match Filter::python(filter) {
        Ok(filter) => filter,
        Err(error) => return Some(format!("{filter}: Python gave {gives}, here it is refused: {error}")),
    };
    let ours = filter.judge(data);
    if filter.matches(data) != (*gives == Value::Bool(true)) || ours.as_ref().ok() != gives.as_bool().as_ref() {
        return Some(format!("{}: Python gave {gives}, not {ours:?}, for {}", filter.text(), data.object.raw()));
    }
    None
}

/// `scripts/filters/record.py` wrote the file.
#[test]
fn python_filters_give_what_python_gave() {
    let groups: Vec<Group> = serde_json::from_str(include_str!("tests/python.json")).unwrap();
    let (mut count, mut wrong) = (0, Vec::new());
    for Group { data, filters } in &groups {
        let data = Data::parse(data).unwrap();
        count += filters.len();
        wrong.extend(filters.iter().filter_map(|recorded| unlike(&recorded.filter, &data, &recorded.gives)));
    }
    assert!(count > 350, "{count} filters");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[derive(Deserialize)]
struct Random {
    filter: String,
    data: String,
    gives: Value,
    /// It is of the grammar that we know.
    whole: bool,
}

#[test]
fn random_filters_give_what_python_gives() {
    let seed = std::env::var("FILTER_SEED").unwrap_or_else(|_| "1".into());
    let count = std::env::var("FILTER_COUNT").unwrap_or_else(|_| "10000".into());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/filters/random_filters.py");
    let Ok(output) = Command::new("python3").args(["-B", script, &count, &seed]).output() else {
        eprintln!("SKIPPED: there is no python3 to compare random filters with");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let cases: Vec<Random> = serde_json::from_slice(&output.stdout).unwrap();
    let (mut wrong, mut understood, mut matched, mut failed) = (Vec::new(), 0, 0, 0);
    for Random { filter, data, gives, whole } in &cases {
        let compiled = Filter::python(filter);
        let empty = filter.is_empty();
        if *gives == "refused" && !empty {
            if compiled.is_ok() {
                wrong.push(format!("{filter:?} is no Python, and is taken here"));
            }
        } else if (*whole || compiled.is_ok()) && !empty {
            understood += 1;
            matched += usize::from(*gives == Value::Bool(true));
            failed += usize::from(gives.is_string());
            wrong.extend(unlike(filter, &Data::parse(data).unwrap(), gives));
        }
    }
    let all = cases.len();
    assert!(wrong.is_empty(), "{} of {understood}\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert!(understood * 2 > all && matched * 10 > all && failed * 10 > all, "{understood} {matched} {failed}");
    println!(
        "seed {seed}: {all} filters, {understood} understood, of which {matched} match and {failed} fail; all as in Python"
    );
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    let mut wrong = Vec::new();
    for (text, expected) in [
        ("data['a'] + 1 == 2", "`+` is not understood (line 1, column 11)"),
        ("data['a'] ==", "ends where a value is expected (line 1, column 13)"),
        ("data['a'] = 1", "`=` is not understood (line 1, column 11)"),
        ("len(data) > 1", "unknown name `len`; data is at hand (line 1, column 1)"),
        ("data['é'] == x", "unknown name `x`; data is at hand (line 1, column 14)"),
        ("true", "unknown name `true`; data is at hand (line 1, column 1)"),
        ("data.body", "`body` where `get` is expected (line 1, column 6)"),
        ("data.get", "ends where `(` is expected (line 1, column 9)"),
        ("data.get()", "`get` takes a key, and may take what stands for a missing one (line 1, column 11)"),
        ("data.get(1, 2, 3)", "`get` takes a key, and may take what stands for a missing one (line 1, column 18)"),
        ("data.get(key='a')", "`=` is not understood (line 1, column 13)"),
        ("data('a')", "a call of anything but `get` is not understood (line 1, column 5)"),
        ("data['a'].lower() == 'x'", "`lower` where `get` is expected (line 1, column 11)"),
        ("data['a'][1:]", "`:` is not understood (line 1, column 12)"),
        ("data['a', 'b']", "`,` where `]` is expected (line 1, column 9)"),
        ("1 if data else 2", "`if` is not understood here (line 1, column 3)"),
        ("lambda: 1", "`:` is not understood (line 1, column 7)"),
        ("{'a' 1}", "`'a'` where `}` is expected (line 1, column 2)"),
        ("[x for x in data]", "unknown name `x`; data is at hand (line 1, column 2)"),
        ("data['a'], 1", "`,` is not understood here (line 1, column 10)"),
        ("data['a'] is data['b']", "`is` without None, True or False is not understood (line 1, column 11)"),
        ("1 == not True", "`not` where a value is expected (line 1, column 6)"),
        ("1 not 2", "`2` where `in` is expected (line 1, column 7)"),
        ("(1", "ends where `,` is expected (line 1, column 3)"),
        ("1)", "`)` is not understood here (line 1, column 2)"),
        ("data 'a\\\na'", "`'a\\\\na'` is not understood here (line 1, column 6)"),
        ("'a", "text without its closing quote (line 1, column 1)"),
        ("'a\n'", "text without its closing quote (line 1, column 1)"),
        ("'''a'''", "text in triple quotes is not understood (line 1, column 1)"),
        ("r'a'", "text with `r` before it is not understood (line 1, column 1)"),
        ("f'{data}'", "text with `f` before it is not understood (line 1, column 1)"),
        (r"1 == '\x4'", "an escape that names no character (line 1, column 7)"),
        (r"'\U00110000'", "an escape that names no character (line 1, column 2)"),
        (r"'\N{DASH}'", "a character by its name is not understood (line 1, column 2)"),
        ("010", "`010` is no number (line 1, column 1)"),
        ("1__0", "`1__` is no number (line 1, column 1)"),
        ("0x", "`0x` is no number (line 1, column 1)"),
        ("0b2", "`0b2` is no number (line 1, column 1)"),
        ("1 == 0o_8", "`0o_8` is no number (line 1, column 6)"),
        ("0x.5", "`0x` is no number (line 1, column 1)"),
        ("1j", "`1j` is no number (line 1, column 1)"),
        ("1or 2", "`1o` is no number (line 1, column 1)"),
        ("1e+", "`1e+` is no number (line 1, column 1)"),
        ("data\n['a']", "a second line: what goes on there must be in parentheses (line 2, column 1)"),
        ("1\n 2", "unexpected indent (line 2, column 1)"),
        ("\n 1", "unexpected indent (line 2, column 1)"),
        ("1 == \\\n1", "`\\\\` is not understood (line 1, column 6)"),
        ("(1 ==\n  x)", "unknown name `x`; data is at hand (line 2, column 3)"),
        ("ｄata", "`ｄ` is not understood (line 1, column 1)"),
        ("data['a'\0]", "`\\0` is not understood (line 1, column 9)"),
        (" ", "ends where a value is expected (line 1, column 2)"),
        ("\n\t", "unexpected indent (line 2, column 1)"),
        ("# nothing", "ends where a value is expected (line 1, column 10)"),
        ("data['a'] == 1; data", "`;` is not understood (line 1, column 15)"),
    ] {
        let error = Filter::python(text).expect_err(text);
        if error.to_string() != expected {
            wrong.push(format!("{text}: {error}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn cel_filters_match_as_rules_do() {
    let json = r#"{"body":{"amount":120,"name":"Ada","tags":["new"]},"n":1,"big":12345678901234567890}"#;
    let data = Data::parse(json).unwrap();
    for (text, expected) in [
        ("data.body.amount > 100 && 'new' in data.body.tags", Ok(true)),
        ("data.n == 1 && data['n'] == 1.0 && has(data.n) && !has(data.m)", Ok(true)),
        ("data.body.name.startsWith('B')", Ok(false)),
        ("data == {'a': 1}", Ok(false)),
        ("data.exists(key, key == 'body')", Ok(true)),
        ("data.big > 12345678901234567889u", Ok(true)),
        // A failure is absorbed where the other side decides, other than in Python
        ("data.missing == 1 || data.n == 1", Ok(true)),
        ("data.missing == 1", Err("no field `missing`")),
        ("data.body.name < 1", Err("`<` does not take text and an integer")),
        ("data.body", Err("is neither true nor false")),
    ] {
        let filter = Filter::cel(text).expect(text);
        assert_eq!(filter.judge(&data).map_err(|failed| failed.to_string()), expected.map_err(String::from), "{text}");
        assert_eq!(filter.matches(&data), expected == Ok(true), "{text}");
    }
    for (text, expected) in [
        ("payload.n == 1", "unknown name `payload`; data is at hand (line 1, column 1)"),
        ("data.n ==", "mismatched input '<EOF>' (line 1, column 10)"),
        ("data.n + 1 == now", "unknown name `now`; data is at hand (line 1, column 15)"),
        ("'text'", "gives text, must give true or false"),
    ] {
        assert_eq!(Filter::cel(text).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn an_empty_filter_wants_everything() {
    for filter in [Filter::cel(""), Filter::cel(" "), Filter::cel("\n\t"), Filter::python("")] {
        let filter = filter.unwrap();
        assert!(filter.matches(&Data::parse("{}").unwrap()) && filter.language().is_none(), "{filter:?}");
    }
}

#[test]
fn the_payload_of_a_message_is_data_as_text_is() {
    let payload = Payload::new(r#" {"a":{"b":[1,2]}} "#.trim()).unwrap();
    let data = Data::payload(&payload);
    assert!(Filter::python("data['a']['b'][-1] == 2").unwrap().matches(&data));
    assert!(Filter::cel("data.a.b[1] == 2").unwrap().matches(&data));
    assert!(Data::parse("{").is_err() && Data::parse("NaN").is_err() && Data::parse("1 2").is_err());
    assert!(Filter::python("data == 1").unwrap().matches(&Data::parse(" 1 ").unwrap()));
}

#[test]
fn nothing_makes_a_filter_deep_or_long() {
    let whole = |text: String| Filter::python(&text).map(|_| ()).map_err(|error| error.what);
    let too_deep = Err("is nested deeper than 64 levels".to_owned());
    for (open, close) in [("(", ")"), ("[", "]"), ("not ", ""), ("-", ""), ("data[", "]"), ("data.get(", ")")] {
        let nested = |levels: usize| whole(format!("{}1{}", open.repeat(levels), close.repeat(levels)));
        assert_eq!(nested(64), Ok(()), "{open}");
        assert_eq!(nested(65), too_deep, "{open}");
        assert_eq!(nested(400), too_deep, "{open}");
    }
    assert_eq!(whole(format!("1{}", " ".repeat(4096))), Err("has 4097 bytes, more than 4096".into()));
    // What is in a row is not deep
    for text in
        [format!("data{}", "[0]".repeat(1300)), format!("1{}", " and 1".repeat(600)), format!("1{}", "<1".repeat(2000))]
    {
        assert_eq!(whole(text.clone()), Ok(()), "{text}");
        assert!(!Filter::python(&text).unwrap().matches(&Data::parse("[]").unwrap()) || text.contains("and"));
    }
}

#[test]
fn no_message_makes_a_filter_deep_or_long() {
    let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let filter = Filter::python("data == data and data['a'] in [data['a']] and not data < 1").unwrap();
    for (levels, expected) in [
        (500, "`<` does not take a dict and an int"),
        (513, "the data is nested too deeply"),
        (100_000, "the data is nested too deeply"),
    ] {
        let json = nested(levels);
        assert_eq!(filter.judge(&Data::parse(&json).unwrap()).unwrap_err().to_string(), expected);
    }
    let digits = |count: usize| format!("{{\"a\":-{}}}", "9".repeat(count));
    let filter = Filter::python("data['a'] < -1E308").unwrap();
    assert_eq!(filter.judge(&Data::parse(&digits(4300)).unwrap()), Ok(true));
    let json = digits(4301);
    let failed = filter.judge(&Data::parse(&json).unwrap()).unwrap_err().to_string();
    assert_eq!(failed, "the data has a number of more than 4300 digits");
    // A megabyte, compared some hundred times
    let json = format!("{{\"a\":[{}1]}}", "1,".repeat(500_000));
    let data = Data::parse(&json).unwrap();
    let text = format!("data == data{}", " == data".repeat(400));
    let begin = Instant::now();
    let failed = Filter::python(&text).unwrap().judge(&data).unwrap_err().to_string();
    assert_eq!(failed, "more work than a message may make");
    assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
}

proptest! {
    #[test]
    fn no_text_panics(text in "(data|get|and|or|not|in|is|None|True|[-\\[\\]().,<>=!'\"\\\\# \n\r\tu0x1e_é😀]|\\PC){0,60}") {
        let data = Data::parse(r#"{"a":[1,{"b":"é"}]}"#).unwrap();
        for filter in [Filter::python(&text), Filter::cel(&text)] {
            match filter {
                Ok(filter) => drop(filter.matches(&data)),
                Err(error) => prop_assert!(!error.to_string().contains('\n'), "{error}"),
            }
        }
    }

    #[test]
    fn no_payload_panics(json in "[\\[\\]{}\":,\\\\ a1.eu0d8-]{0,40}") {
        let filter = Filter::python("data == data and data['a'][0] < 1 or 'a' in data").unwrap();
        if let Ok(data) = Data::parse(&json) {
            filter.matches(&data);
        }
        // What has not been checked fails, and no more
        let _ = python::Value::json(&json);
    }
}

/// Rust debug builds are slow; what a release build does is far more.
#[test]
fn ten_thousand_filters_are_asked_of_a_message_in_no_time() {
    let json = r#"{"body":{"amount":120,"name":"Ada","tags":["new","vip"]},"headers":{"x":"1"},"query_params":{},"path_params":{"id":7}}"#;
    let filters: Vec<_> = (0..10_000)
        .map(|n| {
            Filter::python(&format!(
                "data['body']['amount'] > {n} and 'vip' in data['body']['tags'] and data['headers'].get('x') == '1'"
            ))
        })
        .collect::<Result<_, _>>()
        .unwrap();
    let begin = Instant::now();
    let data = Data::parse(json).unwrap();
    let matched = filters.iter().filter(|filter| filter.matches(&data)).count();
    let took = begin.elapsed();
    assert_eq!(matched, 120);
    println!("10,000 filters over a message: {took:?}, {:.0}/s", 10_000.0 / took.as_secs_f64());
    assert!(took.as_millis() < 2000, "{took:?}");
}
