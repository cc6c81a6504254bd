use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::*;

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "rating": {"type": "number", "maximum": 5},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+$"}},
        "read": {"type": "string", "format": "date"}
    },
    "required": ["rating"],
    "additionalProperties": false
}"#;

fn command(name: &str, method: &str, path: &str, schema: &str) -> String {
    format!(
        "[[gateway.command]]\nname = '{name}'\nmethod = '{method}'\npath = '{path}'\nschema = '''{schema}'''\ntopic = 'Source'\n"
    )
}

fn config(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrobus.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), std::iter::empty::<(String, String)>()).unwrap()
}

fn commands(text: &str) -> Commands {
    Commands::new(&config(text)).unwrap()
}

fn finished() -> Commands {
    commands(&command("book.finished", "POST", "/books/{id}/finished", SCHEMA))
}

/// What becomes of a request.
fn request(commands: &Commands, method: Method, path: &str, body: &str) -> Result<Event, Invalid> {
    let Found::Command(command, parameters) = commands.find(&method, path) else {
        panic!("no command at {method} {path}")
    };
    command.event(&parameters, body.as_bytes(), &Limits::default())
}

fn faults(invalid: &Invalid) -> Vec<(&str, &str)> {
    invalid.errors.iter().map(|fault| (fault.pointer.as_str(), fault.detail.as_str())).collect()
}

#[test]
fn a_valid_command_is_an_event_of_exactly_six_fields() {
    let event = request(&finished(), Method::POST, "/books/7/finished", r#" {"rating":4.50,"tags":["a"]} "#).unwrap();
    let text = std::str::from_utf8(event.value()).unwrap();
    let fields: Map<String, Value> = serde_json::from_str(text).unwrap();
    let created = fields["created"].as_str().unwrap();
    let id = event.id;
    let expected = format!(
        r#"{{"id":"{id}","name":"book.finished","created":"{created}","safe":false,"idempotent":false,"payload":{{"id":7,"rating":4.50,"tags":["a"]}}}}"#
    );
    assert_eq!(text, expected);
    assert_eq!(event.topic.as_str(), "Source");
    assert_eq!((created.len(), &created[10..11], &created[19..20], &created[23..]), (24, "T", ".", "Z"));
    let age = SystemTime::now().duration_since(humantime::parse_rfc3339(created).unwrap()).unwrap();
    assert!(age.as_secs() < 60, "{created}");
    let again = event.with_id(Uuid::nil());
    assert_eq!(again.value(), expected.replace(&id.to_string(), &Uuid::nil().to_string()).as_bytes());
}

#[test]
fn safe_and_idempotent_are_those_of_the_method() {
    for (method, safe, idempotent) in [
        ("GET", true, true),
        ("HEAD", true, true),
        ("OPTIONS", true, true),
        ("TRACE", true, true),
        ("put", false, true),
        ("DELETE", false, true),
        ("POST", false, false),
        ("PATCH", false, false),
    ] {
        let commands = commands(&command("a", method, "/a", "{}"));
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let event = request(&commands, method, "/a", "").unwrap();
        let value: Value = serde_json::from_slice(event.value()).unwrap();
        assert_eq!((&value["safe"], &value["idempotent"]), (&json!(safe), &json!(idempotent)));
        assert_eq!(value["payload"], json!({}));
    }
}

#[test]
fn an_invalid_one_is_told_by_pointer_what_the_schema_says() {
    let invalid =
        request(&finished(), Method::POST, "/books/x/finished", r#"{"tags":["a","B",3],"read":"soon","more":1}"#);
    let invalid = invalid.unwrap_err();
    assert_eq!(invalid.status, 400);
    assert_eq!(invalid.detail, "the command is not valid: see errors");
    let mut found = faults(&invalid);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("", "\"rating\" is a required property"),
            ("", "Additional properties are not allowed ('more' was unexpected)"),
            ("/id", "\"x\" is not of type \"integer\""),
            ("/read", "\"soon\" is not a \"date\""),
            ("/tags/1", "\"B\" does not match \"^[a-z]+$\""),
            ("/tags/2", "3 is not of type \"string\""),
        ]
    );
}

#[test]
fn the_body_may_repeat_a_parameter_and_not_say_another() {
    let commands = finished();
    let event = request(&commands, Method::POST, "/books/7/finished", r#"{"id":7,"rating":1}"#).unwrap();
    assert!(event.value().ends_with(br#""payload":{"id":7,"rating":1}}"#));
    for body in [r#"{"id":8,"rating":1}"#, r#"{"id":null,"rating":1}"#] {
        let invalid = request(&commands, Method::POST, "/books/7/finished", body).unwrap_err();
        assert_eq!(faults(&invalid), [("/id", "is another one than in the path")]);
    }
    // What is said is judged as it was said
    let invalid = request(&commands, Method::POST, "/books/7/finished", r#"{"id":"7","rating":1}"#).unwrap_err();
    assert_eq!(faults(&invalid), [("/id", "\"7\" is not of type \"integer\"")]);
}

#[test]
fn parameters_are_what_the_schema_calls_them() {
    let schema =
        r#"{"properties":{"n":{"type":["null","number"]},"b":{"type":"boolean"},"s":{"type":["integer","string"]}}}"#;
    let commands = commands(&command("a", "POST", "/a/{n}/{b}/{s}/{other}", schema));
    for (path, payload) in [
        ("/a/-1.5/true/7/%E2%82%AC%2F%22", json!({ "n": -1.5, "b": true, "s": "7", "other": "€/\"" })),
        ("/a/10/false/x/null", json!({ "n": 10, "b": false, "s": "x", "other": "null" })),
    ] {
        let event = request(&commands, Method::POST, path, "{ }").unwrap();
        assert_eq!(serde_json::from_slice::<Value>(event.value()).unwrap()["payload"], payload);
    }
    for path in ["/a/007/true/1/1", "/a/1e2/true/1/1", "/a/[1]/true/1/1", "/a/1/True/1/1"] {
        assert_eq!(request(&commands, Method::POST, path, "").unwrap_err().errors.len(), 1, "{path}");
    }
}

#[test]
fn a_name_that_is_there_twice_gets_past_no_schema() {
    for body in
        [r#"{"rating":1,"rating":9}"#, r#"{"rating":1,"r\u0061ting":9}"#, r#"{"rating":1,"tags":[{"a":1,"a":2}]}"#]
    {
        let invalid = request(&finished(), Method::POST, "/books/7/finished", body).unwrap_err();
        assert!(invalid.detail.contains("is there twice"), "{}", invalid.detail);
    }
}

#[test]
fn what_is_no_object_is_refused() {
    let long = Limits { message_bytes: 20, ..Limits::default() };
    let commands = finished();
    for (body, limits, status) in [
        ("[]", Limits::default(), 400),
        ("{\"rating\":}", Limits::default(), 400),
        ("{\"rating\":1e400}", Limits::default(), 400),
        ("{\"rating\":1, \"a\":1}", long, 400),
        ("{\"rating\":1}", long, 413),
        ("{\"rating\":1,      \"id\":1}", long, 413),
    ] {
        let Found::Command(command, parameters) = commands.find(&Method::POST, "/books/7/finished") else { panic!() };
        let invalid = command.event(&parameters, body.as_bytes(), &limits).unwrap_err();
        assert_eq!((invalid.status.as_u16(), invalid.errors.len()), (status, 1), "{body}: {}", invalid.detail);
    }
}

#[test]
fn of_very_much_that_is_wrong_little_is_told() {
    let commands = finished();
    let few = format!(r#"{{"rating":1,"tags":[{}0]}}"#, "0,".repeat(1000));
    let invalid = request(&commands, Method::POST, "/books/7/finished", &few).unwrap_err();
    assert_eq!(
        (invalid.errors.len(), invalid.detail.as_str()),
        (20, "the command is not valid: see errors; there are more")
    );
    let many = format!(r#"{{"rating":1,"tags":[{}0]}}"#, "0,".repeat(100_000));
    assert_eq!(request(&commands, Method::POST, "/books/7/finished", &many).unwrap_err().errors.len(), 1);
    let long = format!(r#"{{"rating":"{}"}}"#, "é".repeat(100_000));
    let invalid = request(&commands, Method::POST, "/books/7/finished", &long).unwrap_err();
    assert!(invalid.errors[0].detail.ends_with("é…") && invalid.errors[0].detail.len() <= 303, "{invalid:?}");
    let schema = r#"{"additionalProperties":{"type":"string"}}"#;
    let invalid = request(
        &super::tests::commands(&command("a", "POST", "/a", schema)),
        Method::POST,
        "/a",
        &format!(r#"{{"{}":1}}"#, "k".repeat(100_000)),
    );
    assert!(invalid.unwrap_err().errors[0].pointer.len() <= 503);
}

#[test]
fn the_more_definite_path_counts_whatever_their_order() {
    let text = [
        command("any", "POST", "/books/{id}", "{}"),
        command("read", "GET", "/books/{id}", "{}"),
        command("new", "POST", "/books/new", "{}"),
        command("deep", "POST", "/books/{id}/ünï", "{}"),
    ];
    let commands = commands(&text.concat());
    let found = |method: Method, path: &str| match commands.find(&method, path) {
        Found::Command(command, parameters) => format!("{} {parameters:?}", command.name()),
        Found::MethodNotAllowed(allow) => allow,
        Found::None => "none".to_owned(),
    };
    assert_eq!(found(Method::POST, "/books/new"), "new []");
    assert_eq!(found(Method::POST, "/books/%6Eew"), "new []");
    assert_eq!(found(Method::GET, "/books/new"), r#"read [("id", "new")]"#);
    assert_eq!(found(Method::POST, "/books/a%2Fb"), r#"any [("id", "a/b")]"#);
    assert_eq!(found(Method::POST, "/books/7/%C3%BCn%C3%AF"), r#"deep [("id", "7")]"#);
    assert_eq!(found(Method::DELETE, "/books/7"), "POST, GET");
    for path in ["", "/", "books/7", "/books", "/books/", "/books/7/", "//7", "/books/%FF", "/Books/7"] {
        assert_eq!(found(Method::POST, path), "none", "{path}");
    }
}

#[test]
fn what_cannot_work_is_found_when_it_is_read() {
    let good = command("good", "POST", "/good/{id}", "{}");
    let remote = r#"{"properties":{"a":{"$ref":"http://127.0.0.1:9/a.json"}}}"#;
    let closed = r#"{"properties":{"a":{}},"additionalProperties":false}"#;
    for (wrong, says) in [
        (command("a b", "POST", "/a", "{}"), "name: \"a b\" is no name"),
        (command("a", "CONNECT", "/a", "{}"), "method: \"CONNECT\" is none of GET, HEAD, POST"),
        (command("a", "POST", "/good/{other}", "{}"), "path: POST /good/{other} is that of the command good already"),
        (command("a", "POST", "a", "{}"), "path: \"a\" must begin with /"),
        (command("a", "POST", "/a/", "{}"), "path: \"/a/\" has an empty segment, or ends with /"),
        (command("a", "POST", "/a/x{id}", "{}"), "path: \"/a/x{id}\" has a parameter beside other text"),
        (command("a", "POST", "/a/{i-d}", "{}"), "path: \"/a/{i-d}\" has a parameter whose name"),
        (command("a", "POST", "/a/{b}/{b}", "{}"), "path: \"/a/{b}/{b}\" has two parameters of one name"),
        (command("a", "POST", "/a/..", "{}"), "path: \"/a/..\" has a segment . or .."),
        (command("a", "POST", "/topics/{id}", "{}"), "path: \"/topics/{id}\" is below /topics, which is taken"),
        (command("a", "GET", "/refresh", "{}"), "path: \"/refresh\" is below /refresh, which is taken"),
        (command("a", "POST", "/{id}", "{}"), "path: \"/{id}\" begins with a parameter"),
        (command("a", "POST", "/a", "{,}"), "schema: it is no JSON: key must be a string at line 1 column 2"),
        (command("a", "POST", "/a", "no-such.json"), "schema: cannot read \"no-such.json\": No such file"),
        (
            command("a", "POST", "/a", r#"{"properties":{"a":{"type":"strin"}}}"#),
            "schema: it is no JSON Schema: at /properties/a/type: \"strin\" is not valid under any of the schemas",
        ),
        (
            command("a", "POST", "/a", r#"{"pattern":"(?=a)"}"#),
            "\"(?=a)\" is not a \"regex\"; a pattern has no lookaround",
        ),
        (command("a", "POST", "/a", remote), "nothing is fetched: put it below $defs"),
        (command("a", "POST", "/a/{id}", closed), "schema: the path has {id}, and the schema allows no such property"),
        (
            good.replace("'Source'", "'Log'").replace("/good", "/a"),
            "topic: Log is not among gateway.topics: add it there",
        ),
        (
            good.replace("'''{}'''", "7").replace("/good", "/a"),
            "schema: must be the path of a file, or the schema itself",
        ),
    ] {
        let config = config(&(good.clone() + &wrong));
        let Misconfigured(error) = Commands::new(&config).unwrap_err();
        assert!(error.contains("gateway.command[1].") && error.contains(says), "{error}\n{wrong}");
        assert_eq!(Commands::check(&config).len(), 1);
    }
    assert!(Commands::check(&config(&good)).is_empty());
}

#[test]
fn a_schema_is_a_file_or_a_table_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("book.json");
    std::fs::write(&file, SCHEMA).unwrap();
    let text = command("book.finished", "POST", "/books/{id}", &file.display().to_string());
    assert!(request(&commands(&text), Method::POST, "/books/1", "{}").is_err());
    let table =
        text.replace(&format!("'''{}'''", file.display()), "{ type = 'object', required = ['a'], minProperties = 2 }");
    let commands = commands(&table);
    assert!(request(&commands, Method::POST, "/books/1", r#"{"a":1}"#).is_ok());
    assert!(request(&commands, Method::POST, "/books/1", r#"{"b":1}"#).is_err());
    std::fs::write(&file, "{").unwrap();
    let Misconfigured(error) = Commands::new(&config(&text)).unwrap_err();
    assert!(error.contains("book.json: it is no JSON: EOF"), "{error}");
}

proptest! {
    #[test]
    fn no_request_panics(path: String, body: Vec<u8>, text: String, number: f64) {
        let commands = finished();
        let _ = commands.find(&Method::POST, &path);
        let _ = Template::parse(&path);
        let Found::Command(command, parameters) = commands.find(&Method::POST, "/books/7/finished") else { panic!() };
        let _ = command.event(&parameters, &body, &Limits::default());
        let parameters = [("id".to_owned(), text.clone())];
        let body = json!({ "rating": number, "id": text, "tags": [text] }).to_string();
        let _ = command.event(&parameters, body.as_bytes(), &Limits::default());
    }

    #[test]
    fn what_is_published_is_what_was_judged(text in "\\PC*", other in "\\PC{1,9}", number: i32) {
        let commands = commands(&command("a", "POST", "/a/{id}", "{}"));
        let Found::Command(command, _) = commands.find(&Method::POST, "/a/x") else { panic!() };
        let body = json!({ (other.clone()): { (text.clone()): number } });
        prop_assume!(other != "id");
        let event = command.event(&[("id".to_owned(), text.clone())], body.to_string().as_bytes(), &Limits::default()).unwrap();
        let value: Value = serde_json::from_slice(event.value()).unwrap();
        prop_assert_eq!(&value["payload"], &json!({ "id": text, (other): { (text.clone()): number } }));
    }
}
