use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::webhook::address::Allowed;

fn made(url: &str, message: &str) -> Result<Request, Unsendable> {
    request(&Target::parse(url, &Allowed::default()).unwrap(), message.as_bytes())
}

fn sent(url: &str, message: Value) -> Request {
    made(url, &message.to_string()).unwrap_or_else(|error| panic!("{message}: {error}"))
}

fn refused(url: &str, message: &str) -> String {
    made(url, message).err().unwrap_or_else(|| panic!("{message} was sent")).to_string()
}

fn url(template: &str, field: &str, params: Value) -> String {
    sent(template, json!({ field: params })).url.into()
}

fn header(headers: Value, name: &str) -> Option<String> {
    let request = sent("https://example.com/", json!({ "headers": headers }));
    request.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
}

#[test]
fn all_of_a_message_is_in_its_request() {
    let request = sent(
        "https://example.com/books/:id?v=1#top",
        json!({
            "body": {"a": 1},
            "headers": {"X-Kind": "a", "X-Count": 2.50},
            "query_params": {"page": 2},
            "path_params": {"id": 7},
            "http_method": "put",
            "something": "else",
        }),
    );
    assert_eq!(request.method, "PUT");
    assert_eq!(request.url.as_str(), "https://example.com/books/7?v=1&page=2");
    assert_eq!(request.headers["x-kind"], "a");
    assert_eq!(request.headers["x-count"], "2.5");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.body, br#"{"a":1}"#);
}

#[test]
fn of_an_empty_message_an_empty_object_is_posted() {
    for message in ["{}", r#" {"body":null,"headers":null,"query_params":{},"path_params":[],"http_method":""}"#] {
        let request = made("https://example.com/a", message).ok().unwrap();
        assert_eq!((request.method, request.body), (Method::POST, b"{}".to_vec()));
        assert_eq!(request.url.as_str(), "https://example.com/a");
    }
}

#[test]
fn a_body_that_python_takes_for_false_is_an_empty_object_and_any_other_stays_byte_for_byte() {
    for falsy in ["null", "false", "0", "-0.0", "0e5", "0.000", "\"\"", "[]", "{}", "[ ]", "{ \n}"] {
        let request = made("https://example.com/", &format!(r#"{{"body": {falsy}}}"#)).ok().unwrap();
        assert_eq!(request.body, b"{}", "{falsy}");
    }
    for truthy in [
        "true",
        "1",
        "-1",
        "1e-9",
        "2.50",
        "12345678901234567890",
        "\" \"",
        "\"0\"",
        "[0]",
        "[[]]",
        r#"{"b":1, "a":2.0}"#,
    ] {
        let request = made("https://example.com/", &format!(r#"{{"body": {truthy} }}"#)).ok().unwrap();
        assert_eq!(String::from_utf8(request.body).unwrap(), truthy);
    }
}

#[test]
fn of_two_fields_the_later_counts() {
    let request =
        made("https://example.com/:id", r#"{"path_params":{"id":1},"body":1,"b\u006fdy":2,"path_params":{"id":2}}"#);
    let request = request.ok().unwrap();
    assert_eq!((request.url.path(), &*request.body), ("/2", &b"2"[..]));
}

#[test]
fn names_in_the_path_are_whole_ones() {
    let cases = [
        ("/:id", json!({"id": "7"}), "/7"),
        ("/a/:id/b/:id", json!({"id": 7}), "/a/7/b/7"),
        ("/:idx/:id", json!({"id": 7}), "/:idx/7"),
        ("/:id_2/:id2", json!({"id": 7}), "/:id_2/:id2"),
        ("/:id.json", json!({"id": 7}), "/7.json"),
        ("/:a-:b,:c", json!({"a": 1, "b": 2}), "/1-2,:c"),
        ("/:user-id/:user", json!({"user": "u", "user-id": 5}), "/5/u"),
        ("/:größe/:gr", json!({"größe": 3, "gr": 1}), "/3/1"),
        ("/::id/:", json!({"id": 7}), "/:7/:"),
        ("/:id b/:id%2Fb", json!({"id": 7}), "/7%20b/7%2Fb"),
        ("/:idé/:i%64x/:%69d/:id%/:id%zz", json!({"id": 7}), "/:id%C3%A9/:i%64x/7/7%/7%zz"),
        ("/:id", json!({"": "x"}), "/:id"),
        // What is put in is not looked through again
        ("/:a/:b", json!({"a": ":b", "b": 2}), "/%3Ab/2"),
        ("/x", json!({"id": 7}), "/x"),
        ("/users/:id", json!({"id": ""}), "/users/"),
        ("/:id", json!({"id": -2.5}), "/-2.5"),
    ];
    for (path, params, expected) in cases {
        let filled = url(&format!("https://example.com{path}"), "path_params", params);
        assert_eq!(filled, format!("https://example.com{expected}"), "{path}");
    }
}

#[test]
fn what_is_put_into_a_path_stays_in_its_segment() {
    let cases = [
        ("a/b", "a%2Fb"),
        ("../../admin", "..%2F..%2Fadmin"),
        ("..\\admin", "..%5Cadmin"),
        ("a?b#c", "a%3Fb%23c"),
        ("a%2fb", "a%252fb"),
        ("@evil.example:80", "%40evil.example%3A80"),
        ("a b\r\nc\0", "a%20b%0D%0Ac%00"),
        ("ü", "%C3%BC"),
        ("...", "..."),
    ];
    for (value, escaped) in cases {
        let filled = url("https://example.com/a/:id/b?q#f", "path_params", json!({ "id": value }));
        assert_eq!(filled, format!("https://example.com/a/{escaped}/b?q"));
    }
    for (path, value) in [("/a/:id/b", ".."), ("/a/:id", "."), ("/a/.:id", "."), ("/a/%2e:id", "."), ("/a/:id:id", ".")]
    {
        let message = json!({"path_params": {"id": value}}).to_string();
        assert_eq!(
            refused(&format!("https://example.com{path}"), &message),
            "path_params lead out of the path: a segment would be . or .."
        );
    }
}

#[test]
fn host_port_and_query_have_no_placeholders() {
    let params = json!({"8080": "9", "name": "evil.example", "id": 1});
    let filled = url("http://example.com:8080/:id?name=:name&id=:id", "path_params", params);
    assert_eq!(filled, "http://example.com:8080/1?name=:name&id=:id");
}

#[test]
fn the_query_is_as_pythons_requests_would_have_it() {
    let cases = [
        ("/", json!({"a": 1, "b": "x y&z=ä"}), "/?a=1&b=x+y%26z%3D%C3%A4"),
        ("/?v=1", json!({"a": [1, "2", null, true]}), "/?v=1&a=1&a=2&a=True"),
        ("/?", json!({"a": null}), "/?"),
        ("/", json!({"a": null, "b": []}), "/"),
        ("/", json!({"a": true, "b": false}), "/?a=True&b=False"),
        ("/", json!({"#": "/?", "a": ""}), "/?%23=%2F%3F&a="),
        ("/", json!({"a": {"x": 1, "y": [2]}, "b": {}}), "/?a=x&a=y"),
        ("/?v=1", json!([["a", 1], ["b", "x y"], ["a", [2, 3]]]), "/?v=1&a=1&b=x+y&a=2&a=3"),
        ("/", json!("a=1&b=x%20y"), "/?a=1&b=x%20y"),
        ("/", json!("a=1\n2\t3\r\n"), "/?a=1%0A2%093%0D%0A"),
        ("/?v=1#top", json!("a=ä b#c"), "/?v=1&a=%C3%A4%20b%23c"),
    ];
    for (path, params, expected) in cases {
        let filled = url(&format!("https://example.com{path}"), "query_params", params);
        assert_eq!(filled, format!("https://example.com{expected}"));
    }
    // Members in their order, the later of two values in the place of the first
    let message = r#"{"query_params": {"z": 2.50, "a": 12345678901234567890, "z": 1E2}}"#;
    let request = made("https://example.com/", message).ok().unwrap();
    assert_eq!(request.url.as_str(), "https://example.com/?z=100.0&a=12345678901234567890");
}

/// What Python 3 prints for `str(json.loads(written))`.
#[test]
fn numbers_are_the_text_that_python_makes_of_them() {
    for (written, expected) in [
        ("7", "7"),
        ("-0", "0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("2.50", "2.5"),
        ("1.0", "1.0"),
        ("-0.0", "-0.0"),
        ("1E2", "100.0"),
        ("-15e-1", "-1.5"),
        ("1e15", "1000000000000000.0"),
        ("9999999999999998.0", "9999999999999998.0"),
        ("1e16", "1e+16"),
        ("-1.25E+22", "-1.25e+22"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("5e-324", "5e-324"),
        ("1e400", "inf"),
        ("9007199254740993.0", "9007199254740992.0"),
        // As near to the number is 86141752645518.63, and 728234061877927.3
        ("86141752645518.63", "86141752645518.62"),
        ("728234061877927.25", "728234061877927.2"),
    ] {
        let message = format!(
            r#"{{"query_params":{{"n":{written}}},"path_params":{{"n":{written}}},"headers":{{"x-n":{written}}}}}"#
        );
        let request = made("https://example.com/:n", &message).ok().unwrap();
        let query = request.url.query_pairs().next().unwrap().1.into_owned();
        let path = percent_decode_str(&request.url.path()[1..]).decode_utf8().unwrap().into_owned();
        assert_eq!(
            (&*query, &*path, request.headers["x-n"].to_str().unwrap()),
            (expected, expected, expected),
            "{written}"
        );
    }
}

#[test]
fn headers_of_the_connection_are_left_out() {
    let names = [
        "Host",
        "host",
        "Content-Length",
        "TRANSFER-ENCODING",
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "Proxy-Authenticate",
        "TE",
        "Trailer",
        "Upgrade",
        "HTTP2-Settings",
        "Expect",
        "Webhook-Id",
        "webhook-timestamp",
        "WEBHOOK-SIGNATURE",
    ];
    for name in names {
        assert_eq!(header(json!({ name: "x" }), name), None, "{name}");
    }
    let named = json!({"Connection": "close, X-Secret", "x-secret": "1", "x-other": "2"});
    assert_eq!(header(named.clone(), "x-secret"), None);
    assert_eq!(header(named, "x-other"), Some("2".to_owned()));
}

#[test]
fn headers_are_text_and_the_later_of_two_counts() {
    assert_eq!(header(json!({"X-A": 7}), "x-a"), Some("7".to_owned()));
    assert_eq!(header(json!({"X-A": null}), "x-a"), None);
    assert_eq!(header(json!({"X-A": " \ta b "}), "x-a"), Some("a b".to_owned()));
    assert_eq!(header(json!({"Content-Type": "text/plain"}), "content-type"), Some("text/plain".to_owned()));
    let request = sent("https://example.com/", json!({"headers": {"X-A": "ä"}}));
    assert_eq!(request.headers["x-a"].as_bytes(), "ä".as_bytes());
    let request = made("https://example.com/", r#"{"headers": {"X-A": "1", "x-a": "2"}}"#).ok().unwrap();
    assert_eq!(request.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["2"]);
}

#[test]
fn what_cannot_be_sent_is_refused_and_its_value_not_told() {
    let shape = "the message is not in switch's shape: ";
    let cases = [
        (r#"[{"a":1}]"#, format!("{shape}it is no JSON object")),
        ("", format!("{shape}it is no JSON object")),
        (r#"{"headers": ["a"]}"#, format!("{shape}headers is no object")),
        (r#"{"query_params": ["s3cret"]}"#, format!("{shape}query_params is neither an object nor a list of pairs")),
        (r#"{"query_params": 7}"#, format!("{shape}query_params is no object")),
        (r#"{"path_params": 5}"#, format!("{shape}path_params is no object")),
        (r#"{"path_params": {"id": {"a": 1}}}"#, r#"path_params."id" must be text or a number"#.into()),
        (r#"{"path_params": {"id": true}}"#, r#"path_params."id" must be text or a number"#.into()),
        (r#"{"path_params": {"id": null}}"#, r#"path_params."id" must be text or a number"#.into()),
        (r#"{"query_params": {"q": [{}]}}"#, r#"query_params."q" must be text or a number"#.into()),
        (r#"{"headers": {"a": true}}"#, r#"headers."a" must be text or a number"#.into()),
        (r#"{"http_method": 5}"#, "http_method must be the name of a method, and neither CONNECT nor TRACE".into()),
    ];
    for (message, expected) in cases {
        assert_eq!(refused("https://example.com/:id", message), expected, "{message}");
    }
    for method in ["connect", "TRACE", "GET /x HTTP/1.1\r\nA: ", "G T", "GET\n", "Ä"] {
        let message = json!({ "http_method": method }).to_string();
        assert!(refused("https://example.com/", &message).starts_with("http_method must be"), "{method:?}");
    }
    let pairs = [
        ("a b", "x"),
        ("", "x"),
        ("a:b", "x"),
        ("a\r\nb", "x"),
        ("ä", "x"),
        ("a", "s3cret\r\nX-B: 1"),
        ("a", "s3cret\0"),
    ];
    for (name, value) in pairs {
        let error = refused("https://example.com/", &json!({"headers": {name: value}}).to_string());
        assert!(error.ends_with("its name or its value has characters that none may have"), "{error}");
        assert!(!error.contains("s3cret") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_message_of_a_hundred_thousand_headers_is_refused() {
    for field in ["headers", "query_params", "path_params"] {
        let many: Vec<String> = (0..100_000).map(|number| format!(r#""a{number}":1"#)).collect();
        let message = format!(r#"{{"{field}": {{{}}}}}"#, many.join(","));
        assert_eq!(refused("https://example.com/", &message), format!("{field} has more than 256 members"));
    }
}

proptest! {
    #[test]
    fn no_message_leads_to_another_host_or_adds_a_segment(
        name in "[a-z]{1,3}", value: String, other: String, method in "[a-zA-Z]{0,7}", key: String,
    ) {
        let url = format!("https://example.com:8443/a/:{name}/b?q=1");
        let message = json!({
            "path_params": {&name: value, &key: "1"},
            "query_params": {&key: &other},
            "http_method": method,
            "body": other,
        });
        let Ok(request) = made(&url, &message.to_string()) else { return Ok(()) };
        prop_assert_eq!(request.url.scheme(), "https");
        prop_assert_eq!(request.url.host_str(), Some("example.com"));
        prop_assert_eq!(request.url.port(), Some(8443));
        prop_assert_eq!(request.url.username(), "");
        let segments: Vec<&str> = request.url.path_segments().unwrap().collect();
        prop_assert_eq!(segments.len(), 3);
        prop_assert_eq!((segments[0], segments[2]), ("a", "b"));
        let first = request.url.query_pairs().next().unwrap();
        prop_assert_eq!((&*first.0, &*first.1), ("q", "1"));
    }

    #[test]
    fn whatever_a_message_is_it_is_judged(message: Vec<u8>, text in "\\PC{0,200}") {
        let target = Target::parse("https://example.com/:a", &Allowed::default()).unwrap();
        let _ = request(&target, &message);
        let _ = request(&target, text.as_bytes());
    }
}
