//! Who calls, by the headers of a request, and which topics they may publish to.
//!
//! A caller shows an API key or a token, as `Authorization: Bearer …`. A token counts for whoever its `sub` names in the
//! configuration: an issuer can say who somebody is, and not what they may do here. switch's own tokens are believed by [`Switch`]
//! alone, on switch's paths.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use serde::Deserialize;

use super::{
    api_key::{ApiKey, KeyHash, PREFIX},
    jwt::{self, Flaw, Key, LEEWAY, MAX_BYTES, Tokens},
};

/// The longest name that a token may give its caller, in bytes: it stands in logs and metrics.
const NAME_BYTES: usize = 200;

/// Topics that a caller may publish to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topics {
    All,
    Only(Vec<String>),
}

impl Topics {
    pub fn contain(&self, topic: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|name| name == topic),
        }
    }
}

/// Somebody who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub name: String,
    pub topics: Topics,
}

/// A caller, and by what they are known.
#[derive(Debug, Clone)]
pub struct Known {
    pub caller: Caller,
    /// Hashes of their API keys; several while keys are changed.
    pub keys: Vec<KeyHash>,
    /// The `sub` of their tokens.
    pub subject: Option<String>,
}

/// Why somebody may not call: 401. The text says what to do, and nothing about what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    #[error("nobody is named: send the header Authorization: Bearer, with an API key or a token behind it")]
    Missing,
    #[error("the header Authorization must be there once, as Bearer with an API key or a token behind it")]
    Malformed,
    #[error("the token is too long: get a shorter one")]
    Oversized,
    #[error("the token has expired: get a new one")]
    Expired,
    #[error("the token is not valid yet: use it later, or set the clock of its issuer right")]
    Early,
    #[error("the token is not meant for this server: get one with exp, and with its iss and aud")]
    Claims,
    #[error("the API key or the token is not valid here: get another one")]
    Invalid,
    #[error("whoever the token names is not known here: have its sub added to the callers of this server")]
    Unknown,
}

impl Unauthorized {
    /// What to answer as WWW-Authenticate (RFC 6750): who named nobody is told how, and no more.
    pub fn challenge(self) -> &'static str {
        match self {
            Self::Missing => "Bearer",
            Self::Malformed => r#"Bearer error="invalid_request""#,
            _ => r#"Bearer error="invalid_token""#,
        }
    }
}

impl From<Flaw> for Unauthorized {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Invalid => Self::Invalid,
            Flaw::Oversized => Self::Oversized,
            Flaw::Expired => Self::Expired,
            Flaw::Early => Self::Early,
            Flaw::Claims => Self::Claims,
        }
    }
}

/// All who may call.
#[derive(Debug)]
pub struct Callers {
    known: Vec<Known>,
    tokens: Option<Tokens>,
}

impl Callers {
    /// Where there are no `tokens`, API keys are the only way.
    pub fn new(known: Vec<Known>, tokens: Option<Tokens>) -> Self {
        Self { known, tokens }
    }

    /// Finds out who sends these headers.
    pub fn authenticate(&self, headers: &HeaderMap, now: SystemTime) -> Result<&Caller, Unauthorized> {
        let credential = bearer(headers)?;
        if credential.starts_with(PREFIX) {
            return self.by_key(credential);
        }
        let tokens = self.tokens.as_ref().ok_or(Unauthorized::Invalid)?;
        let subject = tokens.verify(credential, seconds(now))?;
        let of_subject = |known: &&Known| known.subject.as_ref().is_some_and(|name| *name == subject);
        self.known.iter().find(of_subject).map(|known| &known.caller).ok_or(Unauthorized::Unknown)
    }

    /// Compares with all keys, also when one has fitted: how long it takes tells nothing.
    fn by_key(&self, credential: &str) -> Result<&Caller, Unauthorized> {
        let key: ApiKey = credential.parse().map_err(|_| Unauthorized::Invalid)?;
        let (hash_of_key, mut found) = (key.hash(), None);
        for known in &self.known {
            for hash in &known.keys {
                if *hash == hash_of_key {
                    found = Some(&known.caller);
                }
            }
        }
        found.ok_or(Unauthorized::Invalid)
    }
}

/// What stands behind `Bearer` in the one header Authorization.
fn bearer(headers: &HeaderMap) -> Result<&str, Unauthorized> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Unauthorized::Missing)?;
    if values.next().is_some() {
        return Err(Unauthorized::Malformed);
    }
    let (scheme, credential) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Unauthorized::Malformed)?;
    let credential = credential.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || credential.is_empty() || credential.contains([' ', ',', '\t']) {
        return Err(Unauthorized::Malformed);
    }
    Ok(credential)
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Callers of switch's own paths: whoever has a token that is signed with the one secret, HS256.
///
/// Its SDKs write `author` or `Author` and no `exp`, and its secret may be short. So such a token is worth less than one that
/// [`Callers`] believes, and what it opens is switch's paths alone.
#[derive(Debug)]
pub struct Switch {
    key: Key,
    topics: Topics,
}

/// An empty secret would let everybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("SWITCH_JWT_SECRET must not be empty")]
pub struct NoSecret;

/// Of what switch's tokens may hold; the SDKs do not agree on the name.
#[derive(Deserialize)]
struct Author {
    #[serde(alias = "Author")]
    author: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

impl Switch {
    /// With `secret` of SWITCH_JWT_SECRET; all its callers may publish to `topics`.
    pub fn new(secret: &[u8], topics: Topics) -> Result<Self, NoSecret> {
        if secret.is_empty() {
            return Err(NoSecret);
        }
        Ok(Self { key: Key::of_switch(secret), topics })
    }

    /// Finds out who sends these headers: the author of the token, or `switch` where it has none.
    pub fn authenticate(&self, headers: &HeaderMap, now: SystemTime) -> Result<Caller, Unauthorized> {
        let claims = jwt::claims(&self.key, bearer(headers)?, MAX_BYTES)?;
        let claims: Author = jwt::object(&claims).ok_or(Unauthorized::Invalid)?;
        jwt::judge_time(claims.exp, claims.nbf, seconds(now), LEEWAY)?;
        let name = claims.author.filter(|name| !name.is_empty()).unwrap_or_else(|| "switch".to_owned());
        if name.len() > NAME_BYTES || name.chars().any(char::is_control) {
            return Err(Unauthorized::Invalid);
        }
        Ok(Caller { name, topics: self.topics.clone() })
    }
}

#[cfg(test)]
mod tests;
