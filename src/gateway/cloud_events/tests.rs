use axum::http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::{
    bus::{Batch, Outbox},
    gateway::budget::Budget,
};

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn of(pairs: &[(&str, &str)], body: &str) -> Result<Vec<Event>, Wrong> {
    read(&headers(pairs), body.as_bytes())
}

fn read(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, Wrong> {
    within(100, 1 << 20, headers, body)
}

/// The events where they may be so many, and take so many bytes.
fn within(most: usize, bytes: usize, headers: &HeaderMap, body: &[u8]) -> Result<Vec<Event>, Wrong> {
    let topic = Topic::new("Source").unwrap();
    events(&topic, headers, body, &Limits::default(), most, &mut Budget::new(bytes).hold())
}

/// The record of an event: its headers, sorted and without the id, its key and its value.
fn record(event: &Event) -> (Vec<(String, String)>, Option<String>, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut outbox = Outbox::default();
    event.write(&mut outbox, 7);
    let batch = Batch::default();
    let record = outbox.iter(&batch).next().unwrap();
    let mut headers: Vec<_> =
        record.headers.into_iter().map(|(name, value)| (name.to_owned(), text(value.unwrap_or_default()))).collect();
    assert_eq!(headers.remove(0), ("metrobus-id".to_owned(), event.id.to_string()));
    headers.sort();
    (headers, record.key.map(text), text(record.value.unwrap()))
}

const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=UTF-8");
const BATCH: (&str, &str) = ("content-type", "application/cloudevents-batch+json");

const BINARY: [(&str, &str); 8] = [
    ("content-type", "application/json"),
    ("ce-specversion", "1.0"),
    ("ce-id", "A234-1234-1234"),
    ("ce-source", "/mycontext"),
    ("ce-type", "com.example.someevent"),
    ("ce-time", "2018-04-05T17:31:00Z"),
    ("ce-partitionkey", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
    ("ce-comexampleothervalue", "5"),
];

const AS_OBJECT: &str = r#"{"type":"com.example.someevent","source":"/mycontext","id":"A234-1234-1234","specversion":"1.0",
    "time":"2018-04-05T17:31:00Z","partitionkey":"Euro € 😀","comexampleothervalue":5,"unset":null,
    "datacontenttype":"application/json","data":{"price":2.50}}"#;

#[test]
fn one_event_is_the_same_message_in_each_mode() {
    let expected: Vec<_> = [
        ("ce_comexampleothervalue", "5"),
        ("ce_id", "A234-1234-1234"),
        ("ce_partitionkey", "Euro € 😀"),
        ("ce_source", "/mycontext"),
        ("ce_specversion", "1.0"),
        ("ce_time", "2018-04-05T17:31:00Z"),
        ("ce_type", "com.example.someevent"),
        ("content-type", "application/json"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let expected = (expected, Some("Euro € 😀".to_owned()), r#"{"price":2.50}"#.to_owned());
    let encoded = AS_OBJECT.replace(r#""data":{"price":2.50}"#, r#""data_base64":"eyJwcmljZSI6Mi41MH0=""#);
    let batch = format!("[{encoded}]");
    let binary = of(&BINARY, r#"{"price":2.50}"#).unwrap();
    let all = [
        binary,
        of(&[STRUCTURED], AS_OBJECT).unwrap(),
        of(&[STRUCTURED], &encoded).unwrap(),
        of(&[BATCH], &batch).unwrap(),
    ];
    assert_eq!(all.each_ref().map(Vec::len), [1; 4]);
    let first = all[0][0].fingerprint();
    for event in all.iter().flatten() {
        assert_eq!(event.fingerprint(), first);
        assert_eq!(record(event), expected);
        let key = event.idempotency_key.as_deref();
        assert_eq!(key, Some("cloudevent Source 10:/mycontextA234-1234-1234"));
    }
}

#[test]
fn the_mode_is_known_by_the_headers() {
    for (pairs, kind) in [
        (vec![], Kind::None),
        (vec![("content-type", "application/json")], Kind::None),
        (vec![("content-type", "application/cloudeventsx")], Kind::None),
        (vec![("ce-extra", "1")], Kind::None),
        (vec![("ce-id", "1")], Kind::Binary),
        (vec![("Content-Type", "application/JSON"), ("CE-specversion", "1.0")], Kind::Binary),
        (vec![("content-type", "Application/CloudEvents+JSON"), ("ce-id", "1")], Kind::Structured),
        (vec![("content-type", "application/cloudevents+avro")], Kind::Structured),
        (vec![BATCH], Kind::Batch),
    ] {
        assert_eq!(detect(&headers(&pairs)), kind, "{pairs:?}");
    }
}

#[test]
fn an_event_without_data_is_an_empty_object() {
    let attributes = r#""specversion":"1.0","id":"1","source":"s","type":"t""#;
    for body in [format!("{{{attributes}}}"), format!(r#"{{"data":null,{attributes}}}"#)] {
        assert_eq!(of(&[STRUCTURED], &body).unwrap()[0].value(), b"{}");
    }
    assert_eq!(of(&BINARY, " ").unwrap()[0].value(), b"{}");
    assert_eq!(of(&[BATCH], "[]").unwrap(), []);
    let two = format!("[{{{attributes}}},{{{}}}]", attributes.replace("\"1\"", "\"2\""));
    let keys = of(&[BATCH], &two).unwrap().into_iter().map(|event| event.idempotency_key.unwrap()).collect::<Vec<_>>();
    assert_eq!(keys, ["cloudevent Source 1:s1", "cloudevent Source 1:s2"]);
}

#[test]
fn headers_are_unquoted_and_decoded_once() {
    for (sent, read) in
        [("plain", "plain"), ("%2525", "%25"), ("100%", "100%"), (r#""a \"b\" \\ %C3%BC""#, "a \"b\" \\ ü"), ("ü", "ü")]
    {
        assert_eq!(from_header(sent.as_bytes()).as_deref(), Ok(read), "{sent}");
    }
    assert_eq!(from_header(b"\"a"), Err("has a quote that does not end"));
    assert_eq!(from_header(b"\"a\"b"), Err("has a quote that does not end"));
    assert_eq!(from_header(b"%FF"), Err("is not UTF-8 in percent-encoding"));
}

/// [`BINARY`] with a header changed, or without it.
fn changed<'a>(name: &str, value: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let keep = |(found, old): &(&'static str, &'static str)| match (*found == name, value) {
        (true, None) => None,
        (true, Some(value)) => Some((*found, value)),
        (false, _) => Some((*found, *old)),
    };
    BINARY.iter().filter_map(keep).collect()
}

#[test]
fn what_is_no_event_is_refused_with_the_reason() {
    for (pairs, status, reason) in [
        (changed("ce-id", None), 400, "there is no id: a CloudEvent has id, source, specversion and type"),
        (changed("ce-type", Some("")), 400, "there is no type: a CloudEvent has id, source, specversion and type"),
        (changed("ce-specversion", Some("0.3")), 400, "specversion must be 1.0"),
        (changed("ce-time", Some("yesterday")), 400, "time must be as 2026-01-31T12:00:00Z, RFC 3339"),
        (changed("ce-source", Some("a%0D%0Ab")), 400, "source has a control character"),
        (
            changed("content-type", Some("text/xml")),
            415,
            "the data must be JSON: application/json, or a type that ends in +json, in UTF-8",
        ),
        (
            changed("content-type", Some("application/json; charset=latin1")),
            415,
            "the data must be JSON: application/json, or a type that ends in +json, in UTF-8",
        ),
        (
            [&BINARY[..], &[("ce-a-b", "1")]].concat(),
            400,
            "\"a-b\" is no name of an attribute: a-z 0-9 are, 64 at most",
        ),
        ([&BINARY[..], &[("ce-id", "1")]].concat(), 400, "id is there twice"),
        (
            [&BINARY[..], &[("ce-datacontenttype", "text/xml")]].concat(),
            400,
            "there is no header ce-datacontenttype: the body is the data, and Content-Type its type",
        ),
    ] {
        let wrong = of(&pairs, "{}").unwrap_err();
        assert_eq!((wrong.status().as_u16(), wrong.to_string().as_str()), (status, reason));
    }
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(Limits::default().message_bytes));
    let wrong = of(&BINARY, &long).unwrap_err();
    assert_eq!(wrong.status(), 413, "as of any other event");
    let wrong = of(&BINARY, "[1]").unwrap_err();
    assert_eq!(wrong.to_string(), "the data must be a JSON object: it is not a JSON object");
}

#[test]
fn what_is_no_event_in_json_is_refused_with_the_reason() {
    let base = r#""specversion":"1.0","id":"1","source":"s","type":"t""#;
    for (fields, status, reason) in [
        (r#","data":7"#, 400, "the data must be a JSON object: it is not a JSON object"),
        (r#","data":{},"data_base64":"e30=""#, 400, "there are both data and data_base64: an event has one of the two"),
        (r#","data_base64":"*""#, 400, "data_base64 must be text in base64"),
        (r#","extra":{"a":1}"#, 400, "\"extra\" must be text, true, false or a whole number of 32 bits"),
        (r#","extra":1.5"#, 400, "\"extra\" must be text, true, false or a whole number of 32 bits"),
        (r#","extra":2147483648"#, 400, "\"extra\" must be text, true, false or a whole number of 32 bits"),
        (r#","subject":7"#, 400, "subject must be text"),
        (r#","time":true"#, 400, "time must be text"),
        (r#","Extra":1"#, 400, "\"Extra\" is no name of an attribute: a-z 0-9 are, 64 at most"),
        (
            r#","datacontenttype":"text/plain","data":"text""#,
            415,
            "the data must be JSON: application/json, or a type that ends in +json, in UTF-8",
        ),
    ] {
        let body = format!("{{{base}{fields}}}");
        let wrong = of(&[STRUCTURED], &body).unwrap_err();
        assert_eq!((wrong.status().as_u16(), wrong.to_string().as_str()), (status, reason));
        let first = base.replace("\"1\"", "\"0\"");
        let wrong = of(&[BATCH], &format!("[{{{first}}},{body}]")).unwrap_err();
        assert_eq!((wrong.status().as_u16(), wrong.to_string()), (status, format!("event 1 of the batch: {reason}")));
    }
    let same = of(&[BATCH], &format!("[{{{base}}},{{{base}}}]")).unwrap_err().to_string();
    assert_eq!(same, "event 1 of the batch: its source and id are those of another one before it");
    let twice = of(&[STRUCTURED], &format!(r#"{{{base},"id":"2"}}"#)).unwrap_err().to_string();
    assert!(twice.starts_with("a CloudEvent must be a JSON object: \"id\" is there twice"), "{twice}");
    let many: String = (0..1000).map(|number| format!(",\"a{number}\":1")).collect();
    let many = of(&[STRUCTURED], &format!("{{{base}{many}}}")).unwrap_err().to_string();
    assert!(many.contains("there are more than 64 attributes"), "{many}");
    let avro = of(&[("content-type", "application/cloudevents+avro")], "{}").unwrap_err();
    let said = "CloudEvents are taken as application/cloudevents+json, in UTF-8";
    assert_eq!((avro.status().as_u16(), avro.to_string().as_str()), (415, said));
}

#[test]
fn a_batch_is_no_more_events_than_may_come_and_no_more_memory_than_there_is() {
    let headers = headers(&[BATCH]);
    let event = |id: usize| format!(r#"{{"specversion":"1.0","id":"{id}","source":"s","type":"t"}}"#);
    let one = event(0).len() + EVENT_BYTES;
    let two = format!("[{},{}]", event(0), event(1));
    assert_eq!(within(2, 2 * one, &headers, two.as_bytes()).unwrap().len(), 2);
    assert_eq!(within(2, 2 * one - 1, &headers, two.as_bytes()), Err(Wrong::Full));
    // What is too much is no event, and yet has to be JSON
    let three = format!("[{},{},7,[8],9]", event(0), event(1));
    let many = within(2, 1 << 20, &headers, three.as_bytes()).unwrap_err();
    assert_eq!((many.status().as_u16(), many), (413, Wrong::TooMany(2)));
    let cut = within(2, 1 << 20, &headers, three.trim_end_matches(']').as_bytes()).unwrap_err();
    assert!(cut.to_string().starts_with("the body must be a JSON list of CloudEvents: "), "{cut}");
    let rest = within(2, 1 << 20, &headers, format!("{two} 7").as_bytes()).unwrap_err();
    assert!(rest.to_string().starts_with("the body must be a JSON list of CloudEvents: "), "{rest}");
}

proptest! {
    #[test]
    fn nothing_that_is_sent_panics(value: Vec<u8>, body: Vec<u8>, text: String) {
        let mut all = headers(&BINARY);
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            all.insert("ce-extra", value.clone());
            let _ = read(&all, &body);
            all.insert("content-type", value);
        }
        let _ = read(&all, &body);
        for mode in [STRUCTURED, BATCH] {
            let _ = read(&headers(&[mode]), &body);
            let _ = read(&headers(&[mode]), format!("[{AS_OBJECT}, {text}").as_bytes());
        }
    }

    #[test]
    fn any_text_of_an_attribute_arrives_in_each_mode(text in "\\PC{1,20}") {
        let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let mut all = headers(&BINARY);
        all.insert("ce-source", HeaderValue::from_str(&encoded).unwrap());
        let binary = read(&all, b"{}").unwrap();
        let body = serde_json::json!({ "specversion": "1.0", "id": "A234-1234-1234", "source": text, "type": "t" });
        let structured = of(&[STRUCTURED], &body.to_string()).unwrap();
        let source = ("ce_source".to_owned(), text);
        for event in [&binary[0], &structured[0]] {
            prop_assert!(record(event).0.contains(&source));
        }
        prop_assert_eq!(&binary[0].idempotency_key, &structured[0].idempotency_key);
    }
}
