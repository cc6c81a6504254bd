//! JSON Web Tokens (RFC 7519), verified with one key and one algorithm that the configuration names.
//!
//! A token chooses nothing: not its algorithm, which has to be the configured one; not its key, so `kid`, `jku`, `jwk` and `x5u` are
//! not even read; and what it says is critical (`crit`) is refused, as nothing is known here that could be. What is said of
//! pitfalls in RFC 8725 is kept to. Signatures are checked by ring, which TLS needs anyway. What is around them is little and stands
//! here: the crate jsonwebtoken passes over `crit`, takes tokens of any size, and brings a second set of algorithms.

use std::{fmt, fs, ops::RangeInclusive, path::Path, str::FromStr, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use spki::{
    ObjectIdentifier, SubjectPublicKeyInfoRef,
    der::{Decode, Document},
};

use crate::error::Misconfigured;

/// No token is longer, in bytes, unless the configuration says so.
pub const MAX_BYTES: usize = 8 * 1024;

/// How far the clock of whoever issues tokens may be from this one.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// How tokens are signed (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with SHA-256: whoever can verify can sign as well.
    Hs256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 to 8192 bits.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// As `alg` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A name of none of the algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the algorithm must be HS256, RS256, ES256 or EdDSA")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        let all = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];
        all.into_iter().find(|algorithm| algorithm.name() == name).ok_or(UnknownAlgorithm)
    }
}

/// A key, with the one algorithm that it is used for.
pub struct Key {
    algorithm: Algorithm,
    material: Material,
}

enum Material {
    Shared(hmac::Key),
    Public(UnparsedPublicKey<Vec<u8>>),
}

/// Why a key is none for its algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    #[error("a secret for HS256 must be 32 bytes or more: `openssl rand -base64 32` makes one")]
    Short,
    #[error("a key in PEM is none for HS256: who knows a public key could sign with it")]
    Pem,
    #[error(
        "it must be a public key in PEM, which begins with -----BEGIN PUBLIC KEY-----: \
         `openssl pkey -in private.pem -pubout` makes it of a private one"
    )]
    NotPublic,
    #[error("it is a public key for another algorithm than {0}")]
    Another(&'static str),
    #[error("the RSA key must have 2048 to 8192 bits")]
    Bits,
    #[error("its point must not be compressed: `openssl ec -pubin -in key.pem -conv_form uncompressed` makes it whole")]
    Compressed,
}

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ED: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// From the shortest public key of RSA with 2048 bits to the longest with 8192, in bytes of DER.
const RSA_BYTES: RangeInclusive<usize> = 268..=1040;

/// A point of P-256, not compressed: one byte that says so, and its coordinates.
const P256_BYTES: usize = 65;

const ED_BYTES: usize = 32;

impl Key {
    /// For HS256 the secret itself, without the ends of lines behind it; else a public key in PEM (SubjectPublicKeyInfo).
    pub fn parse(algorithm: Algorithm, content: &[u8]) -> Result<Self, BadKey> {
        let material = match algorithm {
            Algorithm::Hs256 => Material::Shared(shared(content)?),
            _ => Material::Public(public(algorithm, content)?),
        };
        Ok(Self { algorithm, material })
    }

    /// From a file.
    pub fn read(algorithm: Algorithm, path: &Path) -> Result<Self, Misconfigured> {
        let name = path.display();
        let content = fs::read(path).map_err(|error| Misconfigured(format!("cannot read {name}: {error}")))?;
        Self::parse(algorithm, &content).map_err(|error| Misconfigured(format!("{name} has no key: {error}")))
    }

    /// For tokens of switch, whose secret may have any length.
    pub(super) fn of_switch(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::Hs256, material: Material::Shared(hmac::Key::new(hmac::HMAC_SHA256, secret)) }
    }

    /// Takes as long for a wrong signature as for a right one.
    fn accepts(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Shared(key) => hmac::verify(key, signed, signature).is_ok(),
            Material::Public(key) => key.verify(signed, signature).is_ok(),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, ***)", self.algorithm.name())
    }
}

fn shared(content: &[u8]) -> Result<hmac::Key, BadKey> {
    let end = content.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
    let secret = &content[..end];
    if secret.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(BadKey::Pem);
    }
    if secret.len() < 32 {
        return Err(BadKey::Short);
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

fn public(algorithm: Algorithm, content: &[u8]) -> Result<UnparsedPublicKey<Vec<u8>>, BadKey> {
    let text = std::str::from_utf8(content).map_err(|_| BadKey::NotPublic)?;
    let (label, document) = Document::from_pem(text.trim()).map_err(|_| BadKey::NotPublic)?;
    if label != "PUBLIC KEY" {
        return Err(BadKey::NotPublic);
    }
    let info = SubjectPublicKeyInfoRef::from_der(document.as_bytes()).map_err(|_| BadKey::NotPublic)?;
    let bytes = info.subject_public_key.as_bytes().ok_or(BadKey::NotPublic)?;
    let oid = info.algorithm.oid;
    let curve = info.algorithm.parameters_oid().ok();
    let verification: &'static dyn VerificationAlgorithm = match algorithm {
        // What is refused here would else let nobody in, and no word about why
        Algorithm::Rs256 if oid == RSA && !RSA_BYTES.contains(&bytes.len()) => return Err(BadKey::Bits),
        Algorithm::Es256 if matches!(bytes.first(), Some(2 | 3)) && curve == Some(P256) => {
            return Err(BadKey::Compressed);
        }
        Algorithm::Es256 if curve == Some(P256) && bytes.len() != P256_BYTES => return Err(BadKey::NotPublic),
        Algorithm::EdDsa if oid == ED && bytes.len() != ED_BYTES => return Err(BadKey::NotPublic),
        Algorithm::Rs256 if oid == RSA => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Es256 if oid == EC && curve == Some(P256) => &ECDSA_P256_SHA256_FIXED,
        Algorithm::EdDsa if oid == ED => &ED25519,
        _ => return Err(BadKey::Another(algorithm.name())),
    };
    Ok(UnparsedPublicKey::new(verification, bytes.to_owned()))
}

/// What is wrong with a token. Nothing of the token is told, and nothing of what would have been right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It is no token, or not signed with the key that is configured.
    Invalid,
    Oversized,
    Expired,
    /// Its `nbf` is still to come.
    Early,
    /// `exp`, `iss` or `aud` is missing or is not what is wanted.
    Claims,
}

/// What a JOSE header has that counts. Two `alg` are an error of parsing.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// Whether there is a field, whatever its value, null too.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// The claims of a token that is signed with `key`, as JSON.
///
/// Nothing inside of the claims is looked at before that.
pub(super) fn claims(key: &Key, token: &str, max_bytes: usize) -> Result<Vec<u8>, Flaw> {
    if token.len() > max_bytes {
        return Err(Flaw::Oversized);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Flaw::Invalid)?;
    // A further dot is in neither alphabet, so a token of five parts, which would be an encrypted one, does not decode
    let (header, claims) = signed.split_once('.').ok_or(Flaw::Invalid)?;
    let decode = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Flaw::Invalid);
    let header: Header = object(&decode(header)?).ok_or(Flaw::Invalid)?;
    if header.alg != key.algorithm.name() || header.crit || !key.accepts(signed.as_bytes(), &decode(signature)?) {
        return Err(Flaw::Invalid);
    }
    decode(claims)
}

/// Reads a JSON object, and nothing that is none.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    // What reads an object takes a list of its values as well
    let is_object = json.trim_ascii_start().first() == Some(&b'{');
    serde_json::from_slice(json).ok().filter(|_| is_object)
}

/// Whether a token may be used at `now`, in seconds since 1970.
pub(super) fn judge_time(exp: Option<f64>, nbf: Option<f64>, now: f64, leeway: Duration) -> Result<(), Flaw> {
    if exp.is_some_and(|exp| now >= exp + leeway.as_secs_f64()) {
        return Err(Flaw::Expired);
    }
    if nbf.is_some_and(|nbf| now < nbf - leeway.as_secs_f64()) {
        return Err(Flaw::Early);
    }
    Ok(())
}

/// Which tokens are believed.
#[derive(Debug)]
pub struct Tokens {
    pub key: Key,
    /// `iss` has to be this.
    pub issuer: String,
    /// `aud` has to be one of these or, where it is a list, to have one of them in it.
    pub audiences: Vec<String>,
    /// [`LEEWAY`] by default.
    pub leeway: Duration,
    /// [`MAX_BYTES`] by default.
    pub max_bytes: usize,
}

/// Two of one claim are an error of parsing.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    exp: f64,
    nbf: Option<f64>,
    sub: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Tokens {
    /// The subject (`sub`) of a token that is believed at `now`, in seconds since 1970; empty where it names none.
    pub fn verify(&self, token: &str, now: f64) -> Result<String, Flaw> {
        let claims = claims(&self.key, token, self.max_bytes)?;
        let claims: Claims = object(&claims).ok_or(Flaw::Claims)?;
        judge_time(Some(claims.exp), claims.nbf, now, self.leeway)?;
        let audience = match claims.aud {
            Audience::One(name) => vec![name],
            Audience::Many(names) => names,
        };
        if claims.iss != self.issuer || !audience.iter().any(|name| self.audiences.contains(name)) {
            return Err(Flaw::Claims);
        }
        Ok(claims.sub.unwrap_or_default())
    }
}

#[cfg(test)]
pub(super) mod tests;
