//! What `deliver` sends is verified by the library that its receivers use: the official one of Standard Webhooks, for Python.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::support::{Arrival, Metrobus, Scratch, Signal, Sink, skip, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

const NEW: &str = "whsec_bmV3IHNlY3JldCBvZiB0aGlydHktdHdvIGJ5dGVzISE=";
const OLD: &str = "whsec_b2xkIHNlY3JldCBvZiB0aGlydHktdHdvIGJ5dGVzISE=";
const FOREIGN: &str = "whsec_c29tZWJvZHkgZWxzZSdzLCBvZiB0aGlydHktdHdvISE=";

/// Messages in which a byte is soon another one: what is signed is what is sent.
const MESSAGES: &str = r#"{"account_number": 1000000, "note": 2.50}
{"text":"Grüße, 世界 😀 \u00e9","dots":"a.b.c"}
{ "nested" : [ { } , 1e2, -0.0, 12345678901234567890 ] }
"#;

/// What the library says of each request.
fn verdicts(python: &str, requests: &[Value]) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/webhooks/verify.py");
    let mut command = Command::new(python);
    command.args(["-B", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("start Python");
    let mut input = child.stdin.take().expect("its input");
    for request in requests {
        writeln!(input, "{request}").expect("a request");
    }
    drop(input);
    let output = child.wait_with_output().expect("its end");
    assert!(output.status.success(), "verify.py: {}", output.status);
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

fn request(arrival: &Arrival, secret: &str) -> Value {
    let text = |(name, value): &(String, Vec<u8>)| (name.clone(), String::from_utf8_lossy(value).into_owned());
    let headers: BTreeMap<_, _> = arrival.headers.iter().map(text).collect();
    json!({"secret": secret, "headers": headers, "body": BASE64_STANDARD.encode(&arrival.body)})
}

#[test]
fn the_official_library_verifies_what_is_delivered() {
    let given = std::env::var("METROBUS_TEST_WEBHOOKS").ok().filter(|path| !path.is_empty());
    let Some(python) = given.or_else(|| skip("Standard Webhooks: METROBUS_TEST_WEBHOOKS is not set")) else { return };
    let scratch = Scratch::new();
    let sink = Sink::start(|_| (200, ""));
    let config = format!(
        "[pusher]\ntopic = \"Orders\"\n[deliver]\nallowed_networks = [\"127.0.0.1\"]\n[[deliver.subscriber]]\n\
         name = \"sink\"\ntopic = \"Orders\"\nurl = \"{}/hook\"\nsecrets = [\"{NEW}\", \"{OLD}\"]\n",
        sink.url()
    );
    scratch.write("metrobus.toml", config);
    scratch.write("messages.ndjson", MESSAGES);
    let metrobus =
        |arguments: &[&str]| Metrobus::new().cwd(scratch.root()).args(["--config", "metrobus.toml"]).args(arguments);
    metrobus(&["pusher", "--from", "messages.ndjson"]).run().assert_code(0);
    let mut deliver = metrobus(&["deliver"]).spawn();
    let messages = MESSAGES.lines().count();
    wait_until("all deliveries", DEADLINE, || {
        assert!(deliver.is_running(), "{}", deliver.stderr_text());
        (sink.len() >= messages).then_some(())
    });
    deliver.signal(Signal::TERM);
    deliver.wait(DEADLINE).assert_code(0);

    for arrival in sink.arrivals() {
        assert!(MESSAGES.lines().any(|message| message == arrival.text()), "{}", arrival.text());
        let mut changed = arrival.clone();
        changed.body.push(b' ');
        let mut renamed = arrival.clone();
        renamed.headers.retain(|(name, _)| name != "webhook-id");
        renamed.headers.push(("webhook-id".to_owned(), b"another".to_vec()));
        let requests = [
            request(&arrival, NEW),
            request(&arrival, OLD),
            request(&arrival, FOREIGN),
            request(&changed, NEW),
            request(&renamed, NEW),
        ];
        let unsigned = "No matching signature found";
        assert_eq!(verdicts(&python, &requests), ["verified", "verified", unsigned, unsigned, unsigned]);
    }
}
