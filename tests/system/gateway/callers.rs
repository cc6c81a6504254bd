//! Who may call, and how much.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

use super::{Served, fleet, id};
use crate::{
    fleet::{DEADLINE, Engine, Fleet},
    web::client::Answer,
};

/// A caller's key and its hash.
fn key(fleet: &Fleet) -> (String, String) {
    let output = fleet.metrobus(&["gateway", "key"]).run().assert_code(0);
    let text = String::from_utf8(output.stdout).expect("text");
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).trim().to_owned()
    };
    (of("key"), of("hash"))
}

fn serve(fleet: &Fleet, toml: &str) -> Served {
    let path = fleet.scratch.write("metrobus.toml", toml);
    let mut process = fleet.metrobus(&["gateway", "--config", &path.display().to_string()]).spawn();
    let address = super::address(&mut process, "gateway on http://");
    Served { process, client: crate::web::client::Client::new(address) }
}

fn send(served: &Served, topic: &str, credential: &str) -> Answer {
    let bearer = format!("Bearer {credential}");
    served.post(&format!("/topics/{topic}"), "{}", &[("Authorization", &bearer)])
}

#[test]
fn callers_are_known_by_their_keys_and_kept_to_their_topics() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    fleet.set("GATEWAY__TOPICS", "Source,Other");
    let ((shop, shop_hash), (all, all_hash), (stranger, _)) = (key(&fleet), key(&fleet), key(&fleet));
    let served = serve(
        &fleet,
        &format!(
            "[[gateway.caller]]\nname = \"shop\"\ntopics = [\"Other\"]\nkey_hashes = [\"{shop_hash}\"]\n\
             [[gateway.caller]]\nname = \"all\"\nkey_hashes = [\"{all_hash}\"]\n"
        ),
    );
    id(&send(&served, "Other", &shop));
    id(&send(&served, "Source", &all));
    assert!(send(&served, "Source", &shop).problem(403).contains("may not publish to Source"));
    send(&served, "Journal", &shop).problem(404);
    let missing = served.post("/topics/Other", "{}", &[]);
    missing.problem(401);
    assert_eq!(missing.header("www-authenticate"), "Bearer");
    for wrong in [&stranger, &shop[..20], "x", "a.b.c"] {
        let answer = send(&served, "Other", wrong);
        answer.problem(401);
        assert_eq!(answer.header("www-authenticate"), r#"Bearer error="invalid_token""#, "{wrong}");
    }
    let basic = served.post("/topics/Other", "{}", &[("Authorization", "Basic eDp5")]);
    assert_eq!(basic.header("www-authenticate"), r#"Bearer error="invalid_request""#);
    served.client.get("/journeys/01a2004e-5f55-717d-a6b8-3ec2b6819fe9").problem(401);
    // Keys of different callers have nothing to do with each other
    let with = |credential: &str| {
        let bearer = format!("Bearer {credential}");
        id(&served.post("/topics/Other", "{}", &[("Authorization", &bearer), ("Idempotency-Key", "1")]))
    };
    assert_ne!(with(&shop), with(&all));
    let said = served.end().stderr;
    assert!(!said.contains("mbk_") && !said.contains("there are no callers"), "{said}");
}

#[test]
fn who_sends_too_much_has_to_wait_and_a_quota_outlives_a_restart() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let ((fast, fast_hash), (much, much_hash)) = (key(&fleet), key(&fleet));
    let toml = format!(
        "[[gateway.caller]]\nname = \"fast\"\nrate = 1\nburst = 3\nkey_hashes = [\"{fast_hash}\"]\n\
         [[gateway.caller]]\nname = \"much\"\nquota = 4\nkey_hashes = [\"{much_hash}\"]\n"
    );
    let served = serve(&fleet, &toml);
    let lines = |credential: &str, lines: &str| {
        let bearer = format!("Bearer {credential}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/x-ndjson")];
        served.post("/topics/Source", lines, &headers)
    };
    assert!(lines(&fast, "{}\n{}\n{}\n{}").problem(413).contains("more than the 3"));
    assert_eq!(lines(&fast, "{}\n{}\n{}").status, 202);
    let wait = lines(&fast, "{}\n{}\n{}");
    wait.problem(429);
    assert!((1..=3).contains(&wait.header("retry-after").parse().expect("seconds")), "{}", wait.header("retry-after"));
    assert_eq!(lines(&much, "{}\n{}\n{}").status, 202);
    assert!(lines(&much, "{}\n{}").problem(429).contains("quota"));
    served.end();

    let served = serve(&fleet, &toml);
    id(&send(&served, "Source", &much));
    let wait = send(&served, "Source", &much);
    wait.problem(429);
    let seconds: u64 = wait.header("retry-after").parse().expect("seconds");
    assert!((1..=24 * 3600).contains(&seconds), "{seconds}");
    served.end();
    assert_eq!(fleet.values("Source").len(), 7);
}

/// Else who got no answer to the last event of a day could not find out before the next one.
#[test]
fn a_repeat_is_answered_whatever_its_caller_has_used_up() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let ((fast, fast_hash), (much, much_hash)) = (key(&fleet), key(&fleet));
    let served = serve(
        &fleet,
        &format!(
            "[[gateway.caller]]\nname = \"fast\"\nrate = 1\nkey_hashes = [\"{fast_hash}\"]\n\
             [[gateway.caller]]\nname = \"much\"\nquota = 2\nkey_hashes = [\"{much_hash}\"]\n"
        ),
    );
    let keyed = |credential: &str, key: &str, body: &str| {
        let bearer = format!("Bearer {credential}");
        served.post("/topics/Source", body, &[("Authorization", &bearer), ("Idempotency-Key", key)])
    };
    let event = |credential: &str, event: &str| {
        let bearer = format!("Bearer {credential}");
        let about = [("ce-specversion", "1.0"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-id", event)];
        served.post("/topics/Source", "{}", &[&about[..], &[("Authorization", bearer.as_str())]].concat())
    };
    let first = id(&keyed(&much, "1", "{}"));
    let second = id(&event(&much, "2"));
    assert!(keyed(&much, "3", "{}").problem(429).contains("quota"));
    assert_eq!((id(&keyed(&much, "1", "{}")), id(&event(&much, "2"))), (first, second));
    keyed(&much, "1", "{\"n\":1}").problem(429);
    event(&much, "3").problem(429);
    let known = id(&keyed(&fast, "1", "{}"));
    (0..100).find(|n| keyed(&fast, &format!("new {n}"), "{}").status == 429).expect("the rate");
    assert_eq!(id(&keyed(&fast, "1", "{}")), known);
    served.end();
}

const SECRET: &str = "a secret of this test, 32 bytes or more of it";

/// A token of `header` and `claims`, signed with `secret` by HMAC with SHA-256.
fn hs256(secret: &[u8], header: &Value, claims: &Value) -> String {
    let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Good claims, with others in place of some; null takes one out.
fn claims(changed: &Value) -> Value {
    let mut claims = json!({"iss": "https://login.example", "aud": "metrobus", "sub": "orders", "exp": now() + 300});
    for (name, value) in changed.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    claims
}

fn tokens(algorithm: &str, key_file: &str) -> String {
    format!(
        "[gateway.tokens]\nalgorithm = \"{algorithm}\"\nkey_file = \"{key_file}\"\nissuer = \"https://login.example\"\n\
         audiences = [\"metrobus\"]\n[[gateway.caller]]\nname = \"orders\"\nsubject = \"orders\"\n"
    )
}

#[test]
fn a_token_that_is_not_wholly_right_opens_nothing() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    fleet.scratch.write("secret", SECRET);
    let served = serve(&fleet, &tokens("HS256", "secret"));
    let (header, good) = (json!({"alg": "HS256", "typ": "JWT"}), claims(&json!({})));
    let sign = |header: &Value, claims: &Value| hs256(SECRET.as_bytes(), header, claims);
    id(&send(&served, "Source", &sign(&header, &good)));
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = |alg: &str| format!("{}.{}.", encode(&json!({ "alg": alg })), encode(&good));
    let (head, signature) = {
        let token = sign(&header, &good);
        let (head, signature) = token.rsplit_once('.').expect("parts");
        (head.to_owned(), signature.to_owned())
    };
    let altered = format!(
        "{}.{}.{signature}",
        head.split('.').next().expect("a header"),
        encode(&claims(&json!({"sub": "admin"})))
    );
    for (what, token) in [
        ("none", unsigned("none")),
        ("None", unsigned("None")),
        ("no signature", unsigned("HS256")),
        ("wrong algorithm", sign(&json!({"alg": "HS512"}), &good)),
        ("an algorithm of another key", sign(&json!({"alg": "RS256"}), &good)),
        ("another secret", hs256(b"another secret, which is as long as it has to be", &header, &good)),
        ("an empty secret", hs256(b"", &json!({"alg": "HS256", "kid": "/dev/null"}), &good)),
        ("a kid that leads elsewhere", hs256(b"x", &json!({"alg": "HS256", "kid": "../../../../dev/null"}), &good)),
        ("a kid that is SQL", hs256(b"x", &json!({"alg": "HS256", "kid": "x' UNION SELECT 'x"}), &good)),
        ("a key of its own", hs256(b"x", &json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "eA"}}), &good)),
        ("a key from elsewhere", hs256(b"x", &json!({"alg": "HS256", "jku": "http://127.0.0.1:1/keys"}), &good)),
        ("crit", sign(&json!({"alg": "HS256", "crit": ["exp"]}), &good)),
        ("altered claims", altered),
        ("expired", sign(&header, &claims(&json!({"exp": now() - 120})))),
        ("without exp", sign(&header, &claims(&json!({"exp": null})))),
        ("not yet valid", sign(&header, &claims(&json!({"nbf": now() + 120})))),
        ("wrong aud", sign(&header, &claims(&json!({"aud": "other"})))),
        ("without aud", sign(&header, &claims(&json!({"aud": null})))),
        ("wrong iss", sign(&header, &claims(&json!({"iss": "https://evil.example"})))),
        ("somebody else", sign(&header, &claims(&json!({"sub": "stranger"})))),
        ("oversized", sign(&header, &claims(&json!({"x": "x".repeat(9000)})))),
        ("five parts", format!("{}.e30.e30", sign(&header, &good))),
        ("of switch", sign(&header, &json!({"author": "orders"}))),
    ] {
        let answer = send(&served, "Source", &token);
        assert_eq!(answer.status, 401, "{what}: {}", answer.body);
        assert_eq!(answer.header("www-authenticate"), r#"Bearer error="invalid_token""#, "{what}");
    }
    served.end();
    assert_eq!(fleet.values("Source"), ["{}"]);
}

/// Whoever knows a public key could sign with it, were the token to choose the algorithm.
#[test]
fn a_public_key_is_no_secret_to_sign_with() {
    let fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    let recorded: Value = serde_json::from_str(include_str!("../../../src/gateway/tokens.json")).expect("JSON");
    for algorithm in ["RS256", "ES256", "EdDSA"] {
        let pem = recorded["good"][algorithm]["key"].as_str().expect("a key");
        fleet.scratch.write("key.pem", pem);
        let served = serve(&fleet, &tokens(algorithm, "key.pem"));
        id(&send(&served, "Source", recorded["good"][algorithm]["token"].as_str().expect("a token")));
        for secret in [pem.as_bytes(), pem.trim_end().as_bytes()] {
            for alg in ["HS256", algorithm] {
                let token = hs256(secret, &json!({ "alg": alg }), &claims(&json!({})));
                assert_eq!(send(&served, "Source", &token).status, 401, "{algorithm} {alg}");
            }
        }
        served.end();
    }
}

#[test]
fn nobody_serves_everybody_by_mistake() {
    let mut fleet = fleet(Engine::Sqlite).expect("SQLite is always there");
    fleet.set("GATEWAY__LISTEN", "0.0.0.0:0");
    let said = fleet.metrobus(&["gateway"]).deadline(DEADLINE).run().assert_code(78).stderr;
    assert!(said.contains("METROBUS__GATEWAY__LISTEN") && said.contains("gateway.open = true"), "{said}");
}
