//! API keys: made here, kept as hashes.
//!
//! A key is `mbk_` and 43 characters, 256 random bits in base64url. So its SHA-256 tells nothing about it, and there is nothing to
//! slow a guesser down for: no salt and no costly hash are needed, as they would be for a password.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What each key begins with; whoever finds one in a file knows what it opens.
pub const PREFIX: &str = "mbk_";

const ALGORITHM: &str = "sha256:";

/// A key, to be shown once to whoever is to have it.
pub struct ApiKey(String);

impl ApiKey {
    /// A new one.
    pub fn generate() -> Self {
        let random: [u8; 32] = rand::random();
        Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random)))
    }

    /// The key itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What to keep of it.
    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(&self.0).into())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an API key is mbk_ and 43 characters behind it")]
pub struct BadApiKey;

impl FromStr for ApiKey {
    type Err = BadApiKey;

    fn from_str(text: &str) -> Result<Self, BadApiKey> {
        let random = text.strip_prefix(PREFIX).and_then(|encoded| BASE64_URL_SAFE_NO_PAD.decode(encoded).ok());
        match random {
            Some(random) if random.len() == 32 => Ok(Self(text.to_owned())),
            _ => Err(BadApiKey),
        }
    }
}

/// The hash of a key, as a configuration has it: `sha256:` and 64 hexadecimal digits.
#[derive(Clone)]
pub struct KeyHash([u8; 32]);

/// Takes as long for another hash as for the same one.
impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

/// A text that is no hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hash of an API key is sha256: and 64 hexadecimal digits behind it; the key itself does not belong here")]
pub struct BadKeyHash;

impl FromStr for KeyHash {
    type Err = BadKeyHash;

    fn from_str(text: &str) -> Result<Self, BadKeyHash> {
        let digits = text.strip_prefix(ALGORITHM).ok_or(BadKeyHash)?;
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(BadKeyHash);
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| BadKeyHash)?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALGORITHM)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_hash_and_no_other_is() {
        let [key, other] = [ApiKey::generate(), ApiKey::generate()];
        assert_eq!(key.reveal().len(), 47);
        let hash: KeyHash = key.hash().to_string().parse().unwrap();
        assert_eq!(hash, key.reveal().parse::<ApiKey>().unwrap().hash());
        assert_ne!(hash, other.hash());
    }

    #[test]
    fn hashes_are_what_sha256sum_prints() {
        let key: ApiKey = "mbk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
        let expected = "sha256:5ab2a1c0466894f7e3df507acff2112f85651299c920cd2b828334ae14bfe64b";
        assert_eq!(key.hash().to_string(), expected);
        assert_eq!(expected.to_uppercase().replace("SHA256", "sha256").parse::<KeyHash>().unwrap(), key.hash());
    }

    #[test]
    fn what_is_no_key_or_no_hash_is_refused() {
        let key = ApiKey::generate().reveal().to_owned();
        for text in
            ["", "mbk_", &key[4..], &key[..46], &format!("{key}A"), &format!("{key}="), &key.replace("mbk", "MBK")]
        {
            assert_eq!(text.parse::<ApiKey>().map(drop), Err(BadApiKey), "{text}");
        }
        let hash = ApiKey::generate().hash().to_string();
        for text in [
            "",
            &hash[7..],
            &hash[..70],
            &format!("{hash}0"),
            &hash.replace("256", "512"),
            &key,
            &format!("sha256:{}", "+f".repeat(32)),
        ] {
            assert_eq!(text.parse::<KeyHash>().map(drop), Err(BadKeyHash), "{text}");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", ApiKey::generate()), "ApiKey(***)");
    }
}
