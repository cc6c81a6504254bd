use std::time::Duration;

use axum::http::HeaderValue;
use serde_json::json;

use super::*;
use crate::gateway::jwt::tests::{NOW, SECRET, recorded, signed, tokens};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(NOW)
}

fn headers(authorization: &[&str]) -> HeaderMap {
    authorization.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
}

fn known(name: &str, keys: &[&ApiKey], subject: Option<&str>) -> Known {
    let caller = Caller { name: name.into(), topics: Topics::Only(vec![name.to_uppercase()]) };
    Known { caller, keys: keys.iter().map(|key| key.hash()).collect(), subject: subject.map(str::to_owned) }
}

#[test]
fn a_key_and_a_token_name_their_caller() {
    let [old, new, other] = [ApiKey::generate(), ApiKey::generate(), ApiKey::generate()];
    let known = vec![known("orders", &[&old, &new], Some("orders")), known("stock", &[&other], None)];
    let callers = Callers::new(known, Some(tokens("HS256", SECRET)));
    let token = &recorded().good["HS256"].token;
    let cases = [(old.reveal(), "orders"), (new.reveal(), "orders"), (other.reveal(), "stock"), (token, "orders")];
    for (credential, name) in cases {
        for scheme in ["Bearer ", "bearer ", "BEARER  "] {
            let caller = callers.authenticate(&headers(&[&format!("{scheme}{credential}")]), now()).unwrap();
            assert_eq!(caller.name, name);
            assert!(caller.topics.contain(&name.to_uppercase()) && !caller.topics.contain("Source"));
        }
    }
    assert!(Topics::All.contain("Source"));
}

#[test]
fn whoever_is_not_known_is_told_what_to_do() {
    let key = ApiKey::generate();
    let callers = Callers::new(vec![known("stock", &[&key], None)], Some(tokens("HS256", SECRET)));
    let keys_only = Callers::new(vec![known("stock", &[&key], None)], None);
    let token = &recorded().good["HS256"].token;
    let bearer = |credential: &str| headers(&[&format!("Bearer {credential}")]);
    let refused = |callers: &Callers, headers: &HeaderMap| callers.authenticate(headers, now()).unwrap_err();
    assert_eq!(refused(&callers, &HeaderMap::new()), Unauthorized::Missing);
    let reveal = key.reveal();
    for value in
        ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", reveal, "Bearer a b", "Bearer a,b", "Token x", "Bearer\tx"]
    {
        assert_eq!(refused(&callers, &headers(&[value])), Unauthorized::Malformed, "{value}");
    }
    let good = format!("Bearer {reveal}");
    assert_eq!(refused(&callers, &headers(&[&good, &good])), Unauthorized::Malformed);
    assert_eq!(refused(&callers, &headers(&["", &good])), Unauthorized::Malformed);
    let other = ApiKey::generate();
    for credential in [other.reveal(), "mbk_", &reveal[..46], &format!("{reveal}x"), "garbage", &key.hash().to_string()]
    {
        assert_eq!(refused(&callers, &bearer(credential)), Unauthorized::Invalid, "{credential}");
    }
    assert_eq!(refused(&callers, &bearer(token)), Unauthorized::Unknown);
    assert_eq!(refused(&keys_only, &bearer(token)), Unauthorized::Invalid);
    assert_eq!(refused(&callers, &bearer(&"x".repeat(MAX_BYTES + 1))), Unauthorized::Oversized);
    assert_eq!(Unauthorized::Missing.challenge(), "Bearer");
    assert_eq!(Unauthorized::Expired.challenge(), r#"Bearer error="invalid_token""#);
}

#[test]
fn a_token_without_a_subject_is_nobody() {
    let callers = Callers::new(vec![known("stock", &[], None)], Some(tokens("HS256", SECRET)));
    let claims = json!({"iss": "https://login.example", "aud": "metrobus", "exp": NOW + 60.0}).to_string();
    let token = signed(SECRET.as_bytes(), r#"{"alg":"HS256"}"#, &claims);
    let refused = callers.authenticate(&headers(&[&format!("Bearer {token}")]), now()).unwrap_err();
    assert_eq!(refused, Unauthorized::Unknown);
}

fn by_switch(secret: &str, header: &str, claims: serde_json::Value) -> Result<String, Unauthorized> {
    let switch = Switch::new(b"short", Topics::All).unwrap();
    let token = signed(secret.as_bytes(), header, &claims.to_string());
    switch.authenticate(&headers(&[&format!("bearer {token}")]), now()).map(|caller| caller.name)
}

const HS256: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

#[test]
fn tokens_of_switch_name_their_author_in_either_case() {
    for (claims, name) in [
        (json!({"author": "me"}), "me"),
        (json!({"Author": "me"}), "me"),
        (json!({"Author": "me", "exp": NOW + 1.0, "iat": 1}), "me"),
        (json!({"author": ""}), "switch"),
        (json!({}), "switch"),
    ] {
        assert_eq!(by_switch("short", HS256, claims.clone()), Ok(name.to_owned()), "{claims}");
    }
}

#[test]
fn tokens_of_switch_are_held_to_what_they_say() {
    let me = json!({"author": "me"});
    for (secret, header, claims, expected) in [
        ("other", HS256, me.clone(), Unauthorized::Invalid),
        ("", HS256, me.clone(), Unauthorized::Invalid),
        ("short", r#"{"alg":"none"}"#, me.clone(), Unauthorized::Invalid),
        ("short", r#"{"alg":"HS512"}"#, me.clone(), Unauthorized::Invalid),
        ("short", r#"{"alg":"RS256"}"#, me.clone(), Unauthorized::Invalid),
        ("short", r#"{"alg":"HS256","crit":["x"]}"#, me, Unauthorized::Invalid),
        ("short", HS256, json!({"author": "me", "exp": NOW - 60.0}), Unauthorized::Expired),
        ("short", HS256, json!({"author": "me", "nbf": NOW + 61.0}), Unauthorized::Early),
        ("short", HS256, json!({"author": "me", "exp": "never"}), Unauthorized::Invalid),
        ("short", HS256, json!({"author": "me", "Author": "you"}), Unauthorized::Invalid),
        ("short", HS256, json!({"author": 5}), Unauthorized::Invalid),
        ("short", HS256, json!({"author": "me\nerror: you"}), Unauthorized::Invalid),
        ("short", HS256, json!({"author": "x".repeat(201)}), Unauthorized::Invalid),
        ("short", HS256, json!({"author": "x".repeat(9000)}), Unauthorized::Oversized),
        ("short", HS256, json!(["me"]), Unauthorized::Invalid),
    ] {
        assert_eq!(by_switch(secret, header, claims.clone()), Err(expected), "{header} {claims}");
    }
    assert_eq!(Switch::new(b"", Topics::All).err(), Some(NoSecret));
}

#[test]
fn a_token_of_switch_opens_nothing_else() {
    let callers = Callers::new(vec![known("me", &[], Some("me"))], Some(tokens("HS256", SECRET)));
    let token = signed(SECRET.as_bytes(), HS256, &json!({"author": "me", "sub": "me"}).to_string());
    let refused = callers.authenticate(&headers(&[&format!("Bearer {token}")]), now()).unwrap_err();
    assert_eq!(refused, Unauthorized::Claims);
}

#[test]
fn what_is_printed_holds_no_secret() {
    let key = ApiKey::generate();
    let callers = Callers::new(vec![known("stock", &[&key], None)], Some(tokens("HS256", SECRET)));
    let printed = format!("{callers:?} {:?}", Switch::new(b"hunter2", Topics::All).unwrap());
    for secret in [key.reveal(), SECRET, "hunter2"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}
