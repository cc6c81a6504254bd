//! What of a message is told where its handler fails.

use super::*;
use crate::log::{Redaction, lines::Lines};

/// What is told while a handler sees a secret and drops, rejects, tries again, panics, and sends to where it must not.
fn told(redaction: Redaction) -> String {
    let bus = bus_with((0..5).map(|n| {
        format!(r#"{{"header":{{"id":"id-{n}","route":["Next"],"historical_route":["Here"]}},"payload":{{"n":{n},"secret":"hunter2"}}}}"#)
    }));
    let handler = each(|message| {
        let secret = message.payload.text("secret").unwrap_or_default().into_owned();
        match n(message) {
            0 => Verdict::drop(format!("unwanted: {secret}")),
            1 => Verdict::reject(format!("unknown: {secret}")),
            2 => Verdict::retry(format!("not yet: {secret}")),
            3 => panic!("{secret}"),
            _ => Verdict::Forward,
        }
    });
    let lines = Lines::default();
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(lines.clone());
    tracing::subscriber::with_default(log.with_ansi(false).finish(), || {
        let settings = Settings { redaction, ..settings() };
        let stop = Stop::new("tester", &topic("Here"), handler, settings).drain(Drain::default().join());
        stop.run(&bus, &Shutdown::default()).unwrap();
    });
    lines.text()
}

#[test]
fn a_line_about_a_message_has_its_id_and_nothing_of_its_payload_unless_asked_for() {
    let redacted = told(Redaction::default());
    for line in [
        r#"dropped a message stop="tester" id="id-0" topic=Here partition=0 offset=0 reason="unwanted""#,
        r#"rejected a message stop="tester" id="id-1" topic=Here partition=0 offset=1 reason="unknown""#,
        r#"is tried again stop="tester" id="id-2" topic=Here partition=0 offset=2 reason="not yet""#,
        r#"is tried again stop="tester" id="id-3" topic=Here partition=0 offset=3 reason="handler panicked""#,
    ] {
        assert!(redacted.contains(line), "{line}\n{redacted}");
    }
    assert!(!redacted.contains("hunter2") && !redacted.contains("key="), "{redacted}");
    let open = told(Redaction::new(false));
    for part in [r#"reason="unknown: hunter2" key="key" value="#, r#"\"secret\":\"hunter2\""#] {
        assert!(open.contains(part), "{part}\n{open}");
    }
}
