//! Signatures of webhooks by [Standard Webhooks](https://www.standardwebhooks.com), version 1.0.0.
//!
//! What is signed is `{id}.{timestamp}.{body}`, with the seconds since 1970 for a timestamp. The request carries the three as its
//! headers `webhook-id`, `webhook-timestamp` and `webhook-signature`; the last one holds a signature for each key, with a space
//! between two, so that a receiver may know the old key or the new one while keys are changed.
//!
//! | signature | by | key of the sender | key of the receiver |
//! | --- | --- | --- | --- |
//! | `v1,…` | HMAC-SHA256 | `whsec_…`, 24 to 64 bytes | the same |
//! | `v1a,…` | Ed25519 | `whsk_…`, 32 bytes, or 64 with the public key behind them | `whpk_…`, 32 bytes |
//!
//! All of them are base64.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use ring::{
    hmac,
    signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey},
};

pub const ID: HeaderName = HeaderName::from_static("webhook-id");
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// How far a timestamp may be from the receiver's clock.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// The keys in `text`, one a line, as `parse` reads them; empty lines and those that begin with # are passed over. The error names
/// the line.
pub fn keys<K>(text: &str, parse: impl Fn(&str) -> Result<K, BadKey>) -> Result<Vec<K>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(index, line)| parse(line).map_err(|error| format!("line {}: {error}", index + 1))).collect()
}

/// More signatures than this are not looked at: whoever sends them makes the receiver work.
const SIGNATURES: usize = 32;

/// Why a key is none. The text never has the key in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    #[error("a key to sign with begins with whsec_ or whsk_")]
    NotSecret,
    #[error("a key to verify with begins with whsec_ or whpk_")]
    NotVerifying,
    #[error("what follows {0} must be base64")]
    Encoding(&'static str),
    #[error("behind whsec_ there must be 24 to 64 bytes, in base64")]
    SecretLength,
    #[error("behind whsk_ there must be 32 bytes, or 64 of which the last are the public key, in base64")]
    PrivateKey,
    #[error("behind whpk_ there must be 32 bytes, in base64")]
    PublicKey,
}

fn decoded(text: &str, prefix: &'static str) -> Option<Result<Vec<u8>, BadKey>> {
    let encoded = text.strip_prefix(prefix)?;
    Some(BASE64_STANDARD.decode(encoded).map_err(|_| BadKey::Encoding(prefix)))
}

fn shared(bytes: &[u8]) -> Result<hmac::Key, BadKey> {
    match bytes.len() {
        24..=64 => Ok(hmac::Key::new(hmac::HMAC_SHA256, bytes)),
        _ => Err(BadKey::SecretLength),
    }
}

/// A key to sign with.
pub struct Secret(Signing);

enum Signing {
    Shared(hmac::Key),
    Private(Box<Ed25519KeyPair>),
}

impl Secret {
    /// From `whsec_…` or `whsk_…`.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        if let Some(bytes) = decoded(text, "whsec_") {
            return Ok(Self(Signing::Shared(shared(&bytes?)?)));
        }
        let bytes = decoded(text, "whsk_").ok_or(BadKey::NotSecret)??;
        let pair = match bytes.split_at_checked(32) {
            Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
            Some((seed, public)) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
            None => return Err(BadKey::PrivateKey),
        };
        Ok(Self(Signing::Private(Box::new(pair.map_err(|_| BadKey::PrivateKey)?))))
    }

    fn sign(&self, signed: &[u8]) -> String {
        match &self.0 {
            Signing::Shared(key) => format!("v1,{}", BASE64_STANDARD.encode(hmac::sign(key, signed))),
            Signing::Private(pair) => format!("v1a,{}", BASE64_STANDARD.encode(pair.sign(signed))),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A key to verify with.
pub struct Verifying(Checking);

enum Checking {
    Shared(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

impl Verifying {
    /// From `whsec_…` or `whpk_…`.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        if let Some(bytes) = decoded(text, "whsec_") {
            return Ok(Self(Checking::Shared(shared(&bytes?)?)));
        }
        let bytes = decoded(text, "whpk_").ok_or(BadKey::NotVerifying)??;
        match bytes.len() {
            32 => Ok(Self(Checking::Public(UnparsedPublicKey::new(&ED25519, bytes)))),
            _ => Err(BadKey::PublicKey),
        }
    }

    /// Takes as long for a wrong signature as for a right one.
    fn accepts(&self, signed: &[u8], version: &str, signature: &[u8]) -> bool {
        match &self.0 {
            Checking::Shared(key) => version == "v1" && hmac::verify(key, signed, signature).is_ok(),
            Checking::Public(key) => version == "v1a" && key.verify(signed, signature).is_ok(),
        }
    }
}

impl fmt::Debug for Verifying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifying(***)")
    }
}

/// An id that cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a webhook must be 1 to 256 visible characters of ASCII, without a full stop")]
pub struct BadId;

/// The headers of a webhook with this body, signed with each of `secrets`.
///
/// The `id` is of the message, and the same each time that it is sent; the time is of this attempt. An id with a full stop is
/// refused: behind it, what is signed could be read as another id, timestamp and body.
pub fn sign(
    secrets: &[Secret],
    id: &str,
    at: SystemTime,
    body: &[u8],
) -> Result<[(HeaderName, HeaderValue); 3], BadId> {
    let fits = (1..=256).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.');
    if !fits {
        return Err(BadId);
    }
    let timestamp = seconds(at);
    let signed = content(id, &timestamp.to_string(), body);
    let signatures: Vec<String> = secrets.iter().map(|secret| secret.sign(&signed)).collect();
    Ok([
        (ID, HeaderValue::from_str(id).map_err(|_| BadId)?),
        (TIMESTAMP, HeaderValue::from(timestamp)),
        (SIGNATURE, HeaderValue::from_str(&signatures.join(" ")).map_err(|_| BadId)?),
    ])
}

fn content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Why a webhook is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    #[error("the header {0} is missing, or no text, or there more than once")]
    Header(HeaderName),
    #[error("the header webhook-timestamp is no number of seconds since 1970")]
    Timestamp,
    #[error("the webhook is {0} s old, more than 5 minutes: it was held back, or a clock is wrong")]
    Old(u64),
    #[error("the webhook is from {0} s ahead, more than 5 minutes: a clock is wrong")]
    Ahead(u64),
    #[error("no signature is by a key that is known here: another key, or the body was changed on its way")]
    Signature,
}

/// Checks that a webhook is from whoever has one of `keys`, with exactly these bytes, and no older than [`TOLERANCE`].
///
/// Gives its id, for which a receiver should look whether it has been here before: within the tolerance, and when a sender
/// tries again, it can come more than once.
pub fn verify<'a>(
    keys: &[Verifying],
    headers: &'a HeaderMap,
    body: &[u8],
    now: SystemTime,
) -> Result<&'a str, Unverified> {
    let [id, timestamp, signatures] = [text(headers, ID)?, text(headers, TIMESTAMP)?, text(headers, SIGNATURE)?];
    judge_time(timestamp, now)?;
    let signed = content(id, timestamp, body);
    let signatures = signatures.split(' ').take(SIGNATURES).filter_map(|signature| signature.split_once(','));
    for (version, encoded) in signatures {
        let Ok(signature) = BASE64_STANDARD.decode(encoded) else { continue };
        if keys.iter().any(|key| key.accepts(&signed, version, &signature)) {
            return Ok(id);
        }
    }
    Err(Unverified::Signature)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Result<&str, Unverified> {
    let mut values = headers.get_all(&name).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(text), None) if !text.is_empty() => Ok(text),
        _ => Err(Unverified::Header(name)),
    }
}

fn judge_time(timestamp: &str, now: SystemTime) -> Result<(), Unverified> {
    // What parses takes a plus sign too
    let digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
    let timestamp: u64 = timestamp.parse().ok().filter(|_| digits).ok_or(Unverified::Timestamp)?;
    let now = seconds(now);
    let tolerance = TOLERANCE.as_secs();
    if now.saturating_sub(timestamp) > tolerance {
        Err(Unverified::Old(now - timestamp))
    } else if timestamp.saturating_sub(now) > tolerance {
        Err(Unverified::Ahead(timestamp - now))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// Signed by others: scripts/webhooks/record-signatures.py.
    #[derive(Deserialize)]
    struct Recorded {
        secret: String,
        public: String,
        id: String,
        timestamp: u64,
        body: String,
        signature: String,
    }

    impl Recorded {
        fn all() -> Vec<Self> {
            serde_json::from_str(include_str!("signatures.json")).unwrap()
        }

        fn at(&self) -> SystemTime {
            UNIX_EPOCH + Duration::from_secs(self.timestamp)
        }

        fn headers(&self) -> HeaderMap {
            headers(&self.id, &self.timestamp.to_string(), &self.signature)
        }

        fn verify(&self, headers: &HeaderMap, body: &str, now: SystemTime) -> Result<String, Unverified> {
            let keys = [Verifying::parse(&self.public).unwrap()];
            verify(&keys, headers, body.as_bytes(), now).map(str::to_owned)
        }
    }

    fn headers(id: &str, timestamp: &str, signature: &str) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        [(ID, value(id)), (TIMESTAMP, value(timestamp)), (SIGNATURE, value(signature))].into_iter().collect()
    }

    #[test]
    fn what_others_signed_verifies_and_what_is_signed_here_is_the_same() {
        let recorded = Recorded::all();
        assert_eq!(recorded.iter().filter(|vector| vector.signature.starts_with("v1,")).count(), 5);
        assert_eq!(recorded.iter().filter(|vector| vector.signature.starts_with("v1a,")).count(), 5);
        for vector in recorded {
            assert_eq!(vector.verify(&vector.headers(), &vector.body, vector.at()).as_ref(), Ok(&vector.id));
            let secret = Secret::parse(&vector.secret).unwrap();
            let signed = sign(&[secret], &vector.id, vector.at(), vector.body.as_bytes()).unwrap();
            assert_eq!(signed.into_iter().collect::<HeaderMap>(), vector.headers());
        }
    }

    #[test]
    fn the_example_of_the_specification_of_svix_verifies() {
        let keys = [Verifying::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()];
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let headers = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", signature);
        let at = UNIX_EPOCH + Duration::from_secs(1_614_265_330);
        assert_eq!(verify(&keys, &headers, br#"{"test": 2432232314}"#, at), Ok("msg_p5jXN8AQM9LWM0D4loKWxJek"));
    }

    #[test]
    fn a_change_of_anything_is_noticed() {
        for vector in Recorded::all() {
            let mut body = vector.body.clone();
            body.push(' ');
            assert_eq!(vector.verify(&vector.headers(), &body, vector.at()), Err(Unverified::Signature));
            let (version, encoded) = vector.signature.split_once(',').unwrap();
            let mut bytes = BASE64_STANDARD.decode(encoded).unwrap();
            bytes[7] ^= 1;
            let flipped = format!("{version},{}", BASE64_STANDARD.encode(&bytes));
            let other = if version == "v1" { "v1a" } else { "v1" };
            let [time, later] = [vector.timestamp, vector.timestamp + 1].map(|time| time.to_string());
            for (id, time, signature) in [
                ("another", &time, vector.signature.clone()),
                (&vector.id, &later, vector.signature.clone()),
                (&vector.id, &time, flipped),
                (&vector.id, &time, format!("{other},{encoded}")),
                (&vector.id, &time, format!("v2,{encoded}")),
                (&vector.id, &time, encoded.to_owned()),
                (&vector.id, &time, format!("{version},")),
                (&vector.id, &time, format!("{version},{}", &encoded[..encoded.len() - 4])),
            ] {
                let refused = vector.verify(&headers(id, time, &signature), &vector.body, vector.at());
                assert_eq!(refused, Err(Unverified::Signature), "{signature}");
            }
        }
    }

    #[test]
    fn what_is_too_old_or_from_ahead_is_not_believed() {
        let vector = &Recorded::all()[0];
        let judge = |now: SystemTime| vector.verify(&vector.headers(), &vector.body, now).map(drop);
        let second = Duration::from_secs(1);
        assert_eq!(judge(vector.at() + TOLERANCE), Ok(()));
        assert_eq!(judge(vector.at() - TOLERANCE), Ok(()));
        assert_eq!(judge(vector.at() + TOLERANCE + second), Err(Unverified::Old(301)));
        assert_eq!(judge(vector.at() - TOLERANCE - second), Err(Unverified::Ahead(301)));
        for timestamp in ["soon", "1700000000.5", "-1", "+1700000000", "99999999999999999999999", " 1700000000"] {
            let headers = headers(&vector.id, timestamp, &vector.signature);
            assert_eq!(vector.verify(&headers, &vector.body, vector.at()), Err(Unverified::Timestamp), "{timestamp}");
        }
    }

    #[test]
    fn each_header_has_to_be_there_once() {
        let vector = &Recorded::all()[0];
        for name in [ID, TIMESTAMP, SIGNATURE] {
            let mut twice = vector.headers();
            twice.append(&name, vector.headers()[&name].clone());
            let mut missing = vector.headers();
            missing.remove(&name);
            for headers in [twice, missing] {
                let refused = vector.verify(&headers, &vector.body, vector.at());
                assert_eq!(refused, Err(Unverified::Header(name.clone())));
            }
        }
    }

    #[test]
    fn while_keys_are_changed_either_verifies() {
        let vectors = Recorded::all();
        let secrets: Vec<Secret> = [0, 1, 5].map(|at: usize| Secret::parse(&vectors[at].secret).unwrap()).into();
        let now = vectors[0].at();
        let headers: HeaderMap = sign(&secrets, "m1", now, b"{}").unwrap().into_iter().collect();
        assert_eq!(headers[SIGNATURE].to_str().unwrap().split(' ').count(), 3);
        for vector in [&vectors[0], &vectors[1], &vectors[5]] {
            assert_eq!(vector.verify(&headers, "{}", now), Ok("m1".to_owned()));
        }
        assert_eq!(vectors[2].verify(&headers, "{}", now), Err(Unverified::Signature));
    }

    #[test]
    fn a_public_key_is_no_shared_secret() {
        let vector = &Recorded::all()[5];
        let public = vector.public.replace("whpk_", "whsec_");
        let forged = sign(&[Secret::parse(&public).unwrap()], "m1", vector.at(), b"{}").unwrap();
        let forged = vector.verify(&forged.into_iter().collect(), "{}", vector.at());
        assert_eq!(forged, Err(Unverified::Signature));
    }

    #[test]
    fn what_is_no_key_is_refused_with_a_reason() {
        let encoded = |prefix: &str, length: usize| format!("{prefix}{}", BASE64_STANDARD.encode(vec![7; length]));
        let secret = |text: &str| Secret::parse(text).map(drop);
        assert_eq!(secret("hunter2"), Err(BadKey::NotSecret));
        assert_eq!(secret(&encoded("whpk_", 32)), Err(BadKey::NotSecret));
        assert_eq!(secret("whsec_hunter2"), Err(BadKey::Encoding("whsec_")));
        assert_eq!(secret(&encoded("whsec_", 23)), Err(BadKey::SecretLength));
        assert_eq!(secret(&encoded("whsec_", 65)), Err(BadKey::SecretLength));
        for length in [0, 31, 33, 63, 64, 65] {
            assert_eq!(secret(&encoded("whsk_", length)), Err(BadKey::PrivateKey), "{length}");
        }
        let verifying = |text: &str| Verifying::parse(text).map(drop);
        assert_eq!(verifying(&encoded("whsk_", 32)), Err(BadKey::NotVerifying));
        assert_eq!(verifying(&encoded("whpk_", 31)), Err(BadKey::PublicKey));
    }

    #[test]
    fn secrets_are_not_printed() {
        for vector in Recorded::all() {
            assert_eq!(format!("{:?}", Secret::parse(&vector.secret).unwrap()), "Secret(***)");
            assert_eq!(format!("{:?}", Verifying::parse(&vector.public).unwrap()), "Verifying(***)");
        }
    }

    #[test]
    fn an_id_that_could_be_read_in_two_ways_is_not_signed() {
        for id in ["", "a.b", "a b", "a\nb", "ä", &"x".repeat(257)] {
            assert_eq!(sign(&[], id, UNIX_EPOCH, b"").map(drop), Err(BadId), "{id}");
        }
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(seed: [u8; 32], id in "[!-\\-/-~]{1,256}", body: Vec<u8>, time in 0..1u64 << 40) {
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
            let encoded = |prefix: &str, bytes: &[u8]| format!("{prefix}{}", BASE64_STANDARD.encode(bytes));
            let public = ring::signature::KeyPair::public_key(&pair).as_ref();
            let at = UNIX_EPOCH + Duration::from_secs(time);
            for (private, public) in [
                (encoded("whsec_", &seed), encoded("whsec_", &seed)),
                (encoded("whsk_", &seed), encoded("whpk_", public)),
            ] {
                let secrets = [Secret::parse(&private).unwrap()];
                let headers: HeaderMap = sign(&secrets, &id, at, &body).unwrap().into_iter().collect();
                let keys = [Verifying::parse(&public).unwrap()];
                prop_assert_eq!(verify(&keys, &headers, &body, at), Ok(id.as_str()));
            }
        }

        #[test]
        fn whatever_arrives_is_judged(signature in "[ -~]{0,200}", time in "[ -~]{0,30}") {
            let vector = &Recorded::all()[0];
            let refused = vector.verify(&headers("m1", &time, &signature), "{}", vector.at()).is_err();
            prop_assert!(refused);
        }
    }
}
