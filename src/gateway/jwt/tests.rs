use std::collections::BTreeMap;

use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use super::*;

pub(in crate::gateway) const NOW: f64 = 1_800_000_000.0;
pub(in crate::gateway) const SECRET: &str = "a secret of the tests, thirty-two bytes or more";

#[derive(Deserialize)]
pub(in crate::gateway) struct Good {
    pub(in crate::gateway) key: String,
    pub(in crate::gateway) token: String,
}

/// Made by another library: scripts/gateway/record-tokens.py.
#[derive(Deserialize)]
pub(in crate::gateway) struct Recorded {
    pub(in crate::gateway) good: BTreeMap<String, Good>,
    others: BTreeMap<String, String>,
    keys: BTreeMap<String, String>,
}

pub(in crate::gateway) fn recorded() -> Recorded {
    serde_json::from_str(include_str!("../tokens.json")).unwrap()
}

pub(in crate::gateway) fn tokens(algorithm: &str, key: &str) -> Tokens {
    Tokens {
        key: Key::parse(algorithm.parse().unwrap(), key.as_bytes()).unwrap(),
        issuer: "https://login.example".into(),
        audiences: vec!["other".into(), "metrobus".into()],
        leeway: LEEWAY,
        max_bytes: MAX_BYTES,
    }
}

/// A token of `header` and `claims`, as they are written, signed with `secret` by HMAC with SHA-256.
pub(in crate::gateway) fn signed(secret: &[u8], header: &str, claims: &str) -> String {
    let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn good_claims() -> Value {
    json!({"iss": "https://login.example", "aud": "metrobus", "sub": "orders", "exp": NOW + 300.0})
}

/// The good claims with others in place of some; null takes one out.
fn claims(changed: Value) -> String {
    let mut claims = good_claims();
    for (name, value) in changed.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims.to_string()
}

fn verify(token: &str) -> Result<String, Flaw> {
    tokens("HS256", SECRET).verify(token, NOW)
}

/// With the good claims.
fn verify_header(header: &str) -> Result<String, Flaw> {
    verify(&signed(SECRET.as_bytes(), header, &claims(json!({}))))
}

fn verify_claims(claims: &str) -> Result<String, Flaw> {
    verify(&signed(SECRET.as_bytes(), HEADER, claims))
}

#[test]
fn tokens_of_another_library_verify_by_each_algorithm() {
    let recorded = recorded();
    assert_eq!(recorded.good.keys().collect::<Vec<_>>(), ["ES256", "EdDSA", "HS256", "RS256"]);
    for (algorithm, good) in recorded.good {
        assert_eq!(tokens(&algorithm, &good.key).verify(&good.token, NOW), Ok("orders".into()), "{algorithm}");
    }
}

#[test]
fn a_token_of_one_algorithm_is_none_for_the_key_of_another() {
    let recorded = recorded();
    for (algorithm, good) in &recorded.good {
        let tokens = tokens(algorithm, &good.key);
        let others = recorded.good.iter().filter(|(other, _)| *other != algorithm).map(|(_, other)| &other.token);
        for token in others.chain(recorded.others.values()) {
            assert_eq!(tokens.verify(token, NOW), Err(Flaw::Invalid), "{token} by {algorithm}");
        }
    }
}

#[test]
fn a_public_key_signs_nothing() {
    for (algorithm, good) in recorded().good.into_iter().filter(|(algorithm, _)| algorithm != "HS256") {
        let tokens = tokens(&algorithm, &good.key);
        let (_, der) = Document::from_pem(&good.key).unwrap();
        // As it stands in its file, without the line's end, and what is in it
        for secret in [good.key.as_bytes(), good.key.trim_end().as_bytes(), der.as_bytes()] {
            for alg in ["HS256", algorithm.as_str()] {
                let token = signed(secret, &json!({ "alg": alg }).to_string(), &claims(json!({})));
                assert_eq!(tokens.verify(&token, NOW), Err(Flaw::Invalid), "{alg} by {algorithm}");
            }
        }
    }
}

#[test]
fn no_header_talks_its_way_in() {
    let [good_key, bad_key] = [SECRET.as_bytes(), b"another secret, of the attacker's own making"];
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"NONE"}"#,
        r#"{"alg":"nOnE"}"#,
        r#"{"alg":""}"#,
        r#"{"alg":null}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS256 "}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"typ":"JWT"}"#,
        r#"{}"#,
        r#"[]"#,
        r#"["HS256"]"#,
        r#"["HS256",null]"#,
        r#""HS256""#,
        r#"null"#,
        "",
        r#"{"alg":"HS256""#,
        r#"{"alg":"HS256"}x"#,
        r#"{"alg":"HS256"}{"alg":"none"}"#,
        // What one reader takes for the algorithm and another does not
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"HS256","\u0061lg":"none"}"#,
        r#"{"Alg":"HS256"}"#,
        r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":null}"#,
    ] {
        assert_eq!(verify_header(header), Err(Flaw::Invalid), "{header}");
    }
    // What names a key names none here: the configured key counts, with it and without it
    for name in ["kid", "jku", "x5u", "jwk", "x5c", "x5t"] {
        for value in [
            json!("../../../../dev/null"),
            json!("/proc/self/environ"),
            json!("' UNION SELECT 'x' --"),
            json!("http://127.0.0.1:1/keys.json"),
            json!("file:///etc/passwd"),
            json!("key.pem\u{0}"),
            json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode(bad_key)}),
            json!(["x"]),
            json!(""),
        ] {
            let header = json!({"alg": "HS256", name: value}).to_string();
            let token = |key: &[u8]| signed(key, &header, &claims(json!({})));
            assert_eq!(verify(&token(bad_key)), Err(Flaw::Invalid), "{header}");
            assert_eq!(verify(&token(b"")), Err(Flaw::Invalid), "{header}");
            assert_eq!(verify(&token(good_key)), Ok("orders".into()), "{header}");
        }
    }
}

#[test]
fn a_token_that_was_touched_is_none() {
    let good = signed(SECRET.as_bytes(), HEADER, &claims(json!({})));
    assert_eq!(verify(&good), Ok("orders".into()));
    let [header, body, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let other = BASE64_URL_SAFE_NO_PAD.encode(claims(json!({"sub": "admin"})));
    let none = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    for token in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "garbage".into(),
        "a.b.c".into(),
        format!("{header}.{body}"),
        format!("{header}.{body}."),
        format!("{none}.{body}."),
        format!("{none}.{body}"),
        format!("{none}.{body}.{signature}"),
        format!("{header}.{other}.{signature}"),
        format!("{header}..{signature}"),
        format!(".{body}.{signature}"),
        format!("{header}.{body}.{signature}.{signature}"),
        format!("{header}.{body}.x.y.{signature}"),
        format!("{header}=.{body}.{signature}"),
        format!("{header}.{body}=.{signature}"),
        format!("{header}.{body}.{signature}="),
        format!("{header}.{body}.{signature}=="),
        format!("{header}.{body}.{}", &signature[..42]),
        format!("{header}.{body}.{signature}A"),
        format!("{header}.{body}.{}", signature.to_lowercase()),
        format!("{header} .{body}.{signature}"),
        format!("{header}.{body}\n.{signature}"),
        format!(" {good}"),
        format!("{good} "),
    ] {
        assert_eq!(verify(&token), Err(Flaw::Invalid), "{token}");
    }
}

#[test]
fn the_alphabet_of_a_token_is_the_one_for_urls() {
    // A signature with a character that the two alphabets write in different ways
    let token = (0..1000)
        .map(|number| signed(SECRET.as_bytes(), HEADER, &claims(json!({"sub": number.to_string()}))))
        .find(|token| token.rsplit('.').next().unwrap().contains(['-', '_']))
        .unwrap();
    assert!(verify(&token).is_ok());
    assert_eq!(verify(&token.replace('-', "+").replace('_', "/")), Err(Flaw::Invalid));
}

#[test]
fn a_token_that_is_too_long_is_not_even_looked_at() {
    let sized = |bytes: usize| {
        let filled = |length| signed(SECRET.as_bytes(), HEADER, &claims(json!({"x": "x".repeat(length)})));
        (bytes * 3 / 4 - 400..).map(filled).find(|token| token.len() >= bytes).unwrap()
    };
    assert_eq!(sized(MAX_BYTES).len(), MAX_BYTES);
    assert_eq!(verify(&sized(MAX_BYTES)), Ok("orders".into()));
    assert_eq!(verify(&sized(MAX_BYTES + 2)), Err(Flaw::Oversized));
    assert_eq!(verify(&"x".repeat(10_000_000)), Err(Flaw::Oversized));
}

#[test]
fn times_count_with_the_leeway() {
    for (changed, expected) in [
        (json!({"exp": NOW - 59.0}), None),
        (json!({"exp": NOW - 60.0}), Some(Flaw::Expired)),
        (json!({"exp": NOW - 1e6}), Some(Flaw::Expired)),
        (json!({"exp": 0}), Some(Flaw::Expired)),
        (json!({"exp": -1}), Some(Flaw::Expired)),
        (json!({"nbf": NOW + 60.0}), None),
        (json!({"nbf": NOW + 60.5}), Some(Flaw::Early)),
        (json!({"nbf": 1e18}), Some(Flaw::Early)),
        (json!({"exp": 1e18, "nbf": 0}), None),
    ] {
        assert_eq!(verify_claims(&claims(changed.clone())).err(), expected, "{changed}");
    }
}

#[test]
fn exp_iss_and_aud_have_to_be_there_and_right() {
    for changed in [
        json!({"exp": null}),
        json!({"iss": null}),
        json!({"aud": null}),
        json!({"exp": "4102444800"}),
        json!({"exp": true}),
        json!({"exp": [4102444800u64]}),
        json!({"nbf": "soon"}),
        json!({"iss": "https://login.example/"}),
        json!({"iss": "https://LOGIN.example"}),
        json!({"iss": ["https://login.example"]}),
        json!({"iss": ""}),
        json!({"aud": "metro"}),
        json!({"aud": "metrobus "}),
        json!({"aud": "metrobus other"}),
        json!({"aud": ""}),
        json!({"aud": []}),
        json!({"aud": ["stranger", "another"]}),
        json!({"aud": ["metrobus", 5]}),
        json!({"aud": [["metrobus"]]}),
        json!({"aud": {"metrobus": 1}}),
        json!({"aud": {"$ne": ""}}),
        json!({"sub": 5}),
    ] {
        assert_eq!(verify_claims(&claims(changed.clone())), Err(Flaw::Claims), "{changed}");
    }
    for written in [
        r#"{"iss":"https://login.example","aud":"metrobus","exp":null}"#,
        r#"{"iss":"https://login.example","aud":"metrobus","exp":1e400}"#,
        r#"{"iss":"https://login.example","aud":"metrobus","exp":1,"exp":4102444800}"#,
        r#"{"iss":"x","iss":"https://login.example","aud":"metrobus","exp":4102444800}"#,
        r#"{"iss":"https://login.example","aud":"x","aud":"metrobus","exp":4102444800}"#,
        r#"{"iss":"https://login.example","aud":"metrobus","exp":4102444800,"sub":"a","sub":"b"}"#,
        r#"["https://login.example","metrobus",4102444800,null,"orders"]"#,
        "[]",
        "null",
        "garbage",
        "",
    ] {
        assert_eq!(verify_claims(written), Err(Flaw::Claims), "{written}");
    }
    // RFC 7519: one of several audiences is enough
    for audience in [json!("other"), json!(["metrobus"]), json!(["stranger", "metrobus"])] {
        assert_eq!(verify_claims(&claims(json!({"aud": audience}))), Ok("orders".into()));
    }
    assert_eq!(verify_claims(&claims(json!({"sub": null}))), Ok(String::new()));
}

/// A public key in PEM, of its DER.
fn pem(der: &[u8]) -> String {
    let lines = BASE64_STANDARD.encode(der);
    let lines: Vec<_> = lines.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

#[test]
fn a_key_has_to_fit_its_algorithm() {
    let recorded = recorded();
    let parse = |algorithm: Algorithm, key: &str| Key::parse(algorithm, key.as_bytes()).map(drop);
    let all = [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
    for (name, good) in recorded.good.iter().filter(|(name, _)| *name != "HS256") {
        for algorithm in all {
            let expected = match algorithm {
                Algorithm::Hs256 => Err(BadKey::Pem),
                algorithm if algorithm.name() == name => Ok(()),
                algorithm => Err(BadKey::Another(algorithm.name())),
            };
            assert_eq!(parse(algorithm, &good.key), expected, "{name}");
        }
    }
    assert_eq!(parse(Algorithm::Rs256, &recorded.keys["rsa_1024"]), Err(BadKey::Bits));
    assert_eq!(parse(Algorithm::Rs256, &recorded.keys["pkcs1"]), Err(BadKey::NotPublic));
    assert_eq!(parse(Algorithm::Es256, &recorded.keys["p384"]), Err(BadKey::Another("ES256")));
    // Which ring takes for no key, so that nobody would be let in
    let whole = Document::from_pem(recorded.good["ES256"].key.trim()).unwrap().1;
    let (start, point) = whole.as_bytes().split_at(whole.as_bytes().len() - 65);
    let compressed =
        [&[start[0], start[1] - 32][..], &start[2..start.len() - 2], &[34, 0, 2 | point[64] & 1], &point[1..33]];
    assert_eq!(parse(Algorithm::Es256, &pem(&compressed.concat())), Err(BadKey::Compressed));
    let short = [&[start[0], start[1] - 1][..], &start[2..start.len() - 2], &[65, 0], &point[..64]];
    assert_eq!(parse(Algorithm::Es256, &pem(&short.concat())), Err(BadKey::NotPublic));
    let ed = Document::from_pem(recorded.good["EdDSA"].key.trim()).unwrap().1;
    let (start, point) = ed.as_bytes().split_at(ed.as_bytes().len() - 32);
    let short = [&[start[0], start[1] - 1][..], &start[2..start.len() - 2], &[32, 0], &point[..31]];
    assert_eq!(parse(Algorithm::EdDsa, &pem(&short.concat())), Err(BadKey::NotPublic));
    for text in ["", "garbage", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", SECRET] {
        assert_eq!(parse(Algorithm::Rs256, text), Err(BadKey::NotPublic), "{text}");
    }
    assert_eq!(parse(Algorithm::Hs256, &"x".repeat(31)), Err(BadKey::Short));
    assert_eq!(parse(Algorithm::Hs256, &format!("{}\n\n", "x".repeat(31))), Err(BadKey::Short));
    assert_eq!(parse(Algorithm::Hs256, &"x".repeat(32)), Ok(()));
    assert_eq!("HS512".parse::<Algorithm>(), Err(UnknownAlgorithm));
    assert_eq!("none".parse::<Algorithm>(), Err(UnknownAlgorithm));
}

#[test]
fn a_key_is_read_from_its_file_and_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, format!("{SECRET}\r\n")).unwrap();
    let key = Key::read(Algorithm::Hs256, &path).unwrap();
    assert_eq!(format!("{key:?}"), "Key(HS256, ***)");
    let mut read = tokens("HS256", SECRET);
    read.key = key;
    assert_eq!(read.verify(&recorded().good["HS256"].token, NOW), Ok("orders".into()));
    let error = Key::read(Algorithm::Es256, &path).unwrap_err().to_string();
    assert!(error.contains("secret has no key: it must be a public key in PEM"), "{error}");
    assert!(!error.contains(SECRET), "{error}");
    let error = Key::read(Algorithm::Es256, &folder.path().join("gone")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read ") && error.contains("gone: "), "{error}");
}

proptest! {
    #[test]
    fn whatever_is_sent_is_judged(token in "[A-Za-z0-9._=-]{0,200}", other: String, claims: String, header: String) {
        prop_assert!(verify(&token).is_err());
        prop_assert!(verify(&other).is_err());
        prop_assert!(verify_claims(&claims).is_err());
        prop_assert!(verify_header(&header).is_err());
    }

    #[test]
    fn no_other_key_signs(seed: [u8; 32]) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let good = &recorded().good["EdDSA"];
        let (signed, _) = good.token.rsplit_once('.').unwrap();
        let forged = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
        prop_assert_eq!(tokens("EdDSA", &good.key).verify(&forged, NOW), Err(Flaw::Invalid));
        prop_assert_eq!(pair.public_key().as_ref().len(), 32);
    }
}
