//! Our evaluation beside that of the crate cel: where both give a value, it is the same one.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
};

use cel::{Context, Program, Value as Theirs, objects::Key};
use proptest::test_runner::{Config as Runs, TestRunner};
use serde_json::{Value, json};

use super::*;

/// Expressions whose type is known, so that most of them give a value: whole numbers, text, truth and lists.
struct Typed {
    number: BoxedStrategy<String>,
    text: BoxedStrategy<String>,
    truth: BoxedStrategy<String>,
    list: BoxedStrategy<String>,
}

impl Typed {
    fn leaves() -> Self {
        Self {
            number: prop_oneof!["-?[0-9]{1,3}", "payload\\.(a|b|m\\.x)", "payload\\.l\\[[01]\\]", "x\\.missing"]
                .boxed(),
            text: prop_oneof!["\"[ -!#-\\[\\]-~]{0,3}\"", "payload\\.(s|t|m\\.s)", "key"].boxed(),
            truth: prop_oneof!["true|false", "payload\\.yes", "has\\(payload\\.(a|m|nothing|m\\.x|m\\.y)\\)"].boxed(),
            list: prop_oneof!["payload\\.l", "\\[[0-9]{1,2}, payload\\.[ab]\\]", "\\[\\]"].boxed(),
        }
    }

    fn deeper(&self) -> Self {
        let Self { number, text, truth, list } = self;
        let compare = || prop_oneof!["==|!=|<|<=|>|>="];
        let with = |list: &BoxedStrategy<String>, inner: BoxedStrategy<String>, what: &'static str| {
            (list.clone(), what, inner).prop_map(|(list, what, inner)| format!("{list}.{what}(n, {inner})"))
        };
        let of_n = || (compare(), "-?[0-9]{1,2}").prop_map(|(o, b)| format!("n {o} {b}")).boxed();
        Self {
            number: prop_oneof![
                3 => number.clone(),
                3 => (number.clone(), "[-+*/%]", number.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
                1 => text.clone().prop_map(|a| format!("size({a})")),
                1 => list.clone().prop_map(|a| format!("{a}.size()")),
                1 => (truth.clone(), number.clone(), number.clone()).prop_map(|(c, a, b)| format!("({c} ? {a} : {b})")),
                1 => number.clone().prop_map(|a| format!("-({a})")),
            ]
            .boxed(),
            text: prop_oneof![
                3 => text.clone(),
                1 => (text.clone(), text.clone()).prop_map(|(a, b)| format!("({a} + {b})")),
                1 => number.clone().prop_map(|a| format!("string({a})")),
                1 => (truth.clone(), text.clone(), text.clone()).prop_map(|(c, a, b)| format!("({c} ? {a} : {b})")),
            ]
            .boxed(),
            truth: prop_oneof![
                2 => truth.clone(),
                3 => (number.clone(), compare(), number.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
                2 => (text.clone(), compare(), text.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
                3 => (truth.clone(), "&&|\\|\\|", truth.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
                1 => truth.clone().prop_map(|a| format!("!({a})")),
                2 => (text.clone(), "contains|startsWith|endsWith", text.clone())
                    .prop_map(|(a, f, b)| format!("{a}.{f}({b})")),
                1 => (number.clone(), list.clone()).prop_map(|(a, l)| format!("({a} in {l})")),
                1 => (list.clone(), list.clone()).prop_map(|(a, b)| format!("({a} == {b})")),
                2 => with(list, of_n(), "all|exists|exists_one"),
            ]
            .boxed(),
            list: prop_oneof![
                2 => list.clone(),
                1 => with(list, of_n(), "filter"),
                1 => with(list, (number.clone(), "[-+*]").prop_map(|(a, o)| format!("n {o} {a}")).boxed(), "map"),
                1 => (list.clone(), list.clone()).prop_map(|(a, b)| format!("({a} + {b})")),
                1 => (number.clone(), number.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            ]
            .boxed(),
        }
    }
}

fn expression() -> impl Strategy<Value = String> {
    let Typed { number, text, truth, list } = Typed::leaves().deeper().deeper().deeper();
    prop_oneof![number, text, truth, list]
}

fn payload() -> impl Strategy<Value = Value> {
    let text = "[ -~]{0,5}";
    (-20..20_i64, -1000..1000_i64, text, "[a-c]{0,2}", any::<bool>(), proptest::collection::vec(-9..9_i64, 0..4))
        .prop_map(
            |(a, b, s, t, yes, l)| json!({"a": a, "b": b, "s": s, "t": t, "yes": yes, "l": l, "m": {"x": a, "s": t}}),
        )
}

/// JSON as the crate's values, whole numbers as signed ones.
fn theirs(json: &Value) -> Theirs {
    match json {
        Value::Null => Theirs::Null,
        Value::Bool(truth) => Theirs::Bool(*truth),
        Value::Number(number) => number.as_i64().map_or_else(|| Theirs::Float(number.as_f64().unwrap()), Theirs::Int),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(theirs).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.as_str(), theirs(value))).collect::<HashMap<_, _>>().into()
        }
    }
}

/// A value of the crate as JSON; `None` where it is of a kind that these expressions do not give.
fn json_of(value: &Theirs) -> Option<Value> {
    Some(match value {
        Theirs::Null => Value::Null,
        Theirs::Bool(truth) => json!(truth),
        Theirs::Int(number) => json!(number),
        Theirs::UInt(number) => json!(number),
        Theirs::Float(number) => json!(number),
        Theirs::String(text) => json!(**text),
        Theirs::List(items) => Value::Array(items.iter().map(json_of).collect::<Option<_>>()?),
        Theirs::Map(map) => {
            let field = |(key, value): (&Key, &Theirs)| Some((key.to_string(), json_of(value)?));
            Value::Object(map.map.iter().map(field).collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

fn their_value(expression: &str, payload: &Value) -> Option<Value> {
    let run = || {
        let program = Program::compile(expression).ok()?;
        let mut context = Context::default();
        context.add_variable_from_value("payload", theirs(payload));
        context.add_variable_from_value("key", "k1");
        json_of(&program.execute(&context).ok()?)
    };
    // It panics over some of what it is given
    catch_unwind(AssertUnwindSafe(run)).ok().flatten()
}

fn our_value(expression: &str, payload: &Value) -> Option<Value> {
    let rules = one("true", expression).ok()?;
    let text = payload.to_string();
    let message = Message::parse_untrusted(record(&text, &[]), &Limits::default()).unwrap();
    match rules.judge(&message, Timestamp(0)).outcome {
        Outcome::Matched(_, set) => Some(serde_json::from_str(set[0].1.get()).unwrap()),
        _ => None,
    }
}

#[test]
fn where_both_give_a_value_it_is_the_same() {
    const CASES: u32 = 1500;
    let both = AtomicUsize::new(0);
    let mut runner = TestRunner::new(Runs::with_cases(CASES));
    let outcome = runner.run(&(expression(), payload()), |(expression, payload)| {
        let (ours, theirs) = (our_value(&expression, &payload), their_value(&expression, &payload));
        if ours.is_some() && theirs.is_some() {
            both.fetch_add(1, Ordering::Relaxed);
            prop_assert_eq!(ours, theirs, "{} over {}", expression, payload);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let both = both.into_inner();
    assert!(both > CASES as usize / 2, "both give a value for {both} of {CASES} expressions");
}
