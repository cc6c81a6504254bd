//! Keys and values as a person reads them: on one line, as TOML, without secrets.

use std::fmt::Write;

use toml::Value;

/// What stands in place of a secret.
const MASK: &str = "***";

/// A value longer than this, in characters, is cut where an error quotes it.
const QUOTED: usize = 80;

/// Keys with one of these in their name hold a secret.
const SECRETS: &[&str] = &[
    "password",
    "passphrase",
    "secret",
    "token",
    "key.pem",
    "ssl_key",
    "oauthbearer.config",
    "jaas.config",
    // Headers of requests
    "authorization",
    "api-key",
    "cookie",
];

/// `path` as a TOML key: bare names where they can be, `kafka.properties."group.id"` else.
pub(super) fn dotted<S: AsRef<str>>(path: &[S]) -> String {
    let mut out = String::new();
    for name in path {
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(&name_text(name.as_ref()));
    }
    out
}

/// One name of a key, quoted where TOML wants it.
pub(crate) fn name_text(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { name.to_owned() } else { quoted(name) }
}

/// `text` as a basic string of TOML, on one line and free of control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(&text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// `text` with its control characters written as TOML writes them, so that it cannot leave its line.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => write!(out, "\\u{:04X}", u32::from(c)).expect("a string takes all"),
            c => out.push(c),
        }
    }
    out
}

/// `value` as TOML on one line.
pub(crate) fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(value_text).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let item = |(name, value): (&String, &Value)| format!("{} = {}", name_text(name), value_text(value));
            format!("{{ {} }}", table.iter().map(item).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// The value of a key that ends in `name` as an error quotes it: masked, and cut where it is long.
pub(super) fn shown(name: &str, value: &Value) -> String {
    let text = match value {
        Value::Table(_) => return "a table".into(),
        value => value_text(&masked(name, value.clone())),
    };
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `value` without its secret, where keys that end in `name` hold one. A secret that is empty stays.
pub(super) fn masked(name: &str, value: Value) -> Value {
    let name = name.to_lowercase();
    match value {
        // What one is called tells nothing of how secret it is
        Value::Table(headers) if is_headers(&name) => {
            Value::Table(headers.into_iter().map(|(name, _)| (name, MASK.into())).collect())
        }
        _ if is_headers(&name) => MASK.into(),
        Value::String(text) if name == "output" && text.contains("://") => mask_url(&text).into(),
        Value::String(text) if name == "url" || name.ends_with(".url") || name.ends_with("_url") => {
            mask_url(&text).into()
        }
        Value::String(text) if text.is_empty() || name.ends_with("_file") => text.into(),
        _ if SECRETS.iter().any(|secret| name.contains(secret)) => MASK.into(),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| masked(&name, item)).collect()),
        Value::Table(table) => {
            let member = |(name, value): (String, Value)| {
                let value = masked(&name, value);
                (name, value)
            };
            Value::Table(table.into_iter().map(member).collect())
        }
        value => value,
    }
}

fn is_headers(name: &str) -> bool {
    name == "headers" || name.ends_with(".headers")
}

/// `url` with the password masked, and every parameter but those that are known to be harmless.
///
/// What is no URL is masked too: somebody who mistypes one has still typed a password. So this looks for marks in the
/// text, from the first that may begin a password to the last that may end it.
fn mask_url(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (login, rest) = match url[start..].rfind('@') {
        Some(at) => url[start..].split_at(at),
        None => ("", &url[start..]),
    };
    let mut out = url[..start].to_owned();
    match login.find(':') {
        Some(colon) => {
            out.push_str(&login[..=colon]);
            out.push_str(MASK);
        }
        None => out.push_str(login),
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    out.push_str(place);
    for (i, parameter) in query.split('&').enumerate().filter(|_| !query.is_empty()) {
        out.push(if i == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            Some((name, _)) if !matches!(name, "db" | "protocol" | "user") => {
                out.push_str(name);
                out.push('=');
                out.push_str(MASK);
            }
            _ => out.push_str(parameter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_of_a_url_is_shown() {
        for (url, expected) in [
            ("redis://localhost:6379", "redis://localhost:6379"),
            ("redis://localhost:6379/2?protocol=resp3", "redis://localhost:6379/2?protocol=resp3"),
            ("redis://metro:s3cret@host:1/0", "redis://metro:***@host:1/0"),
            ("redis://:s3cret@host", "redis://:***@host"),
            ("redis://metro@host", "redis://metro@host"),
            ("redis://:s3/c:r@e?t@host", "redis://:***@host"),
            ("redis:/metro:s3cret@host", "redis:***@host"),
            ("metro:s3cret@host", "metro:***@host"),
            ("unix:///run/redis.sock?db=1&user=metro&pass=s3cret", "unix:///run/redis.sock?db=1&user=metro&pass=***"),
            ("unix:///run/redis.sock?p%61ss=s3#cret&db=1", "unix:///run/redis.sock?p%61ss=***&db=1"),
            ("", ""),
        ] {
            assert_eq!(mask_url(url), expected);
        }
    }

    #[test]
    fn secrets_are_known_by_the_name_of_their_key() {
        for (name, secret) in [
            ("sasl.password", true),
            ("ssl.key.password", true),
            ("ssl.keystore.password", true),
            ("ssl.key.pem", true),
            ("ssl_key", true),
            ("sasl.oauthbearer.client.secret", true),
            ("sasl.oauthbearer.config", true),
            ("sasl.oauthbearer.assertion.private.key.passphrase", true),
            ("SASL.PASSWORD", true),
            ("api_token", true),
            ("token_file", false),
            ("sasl.oauthbearer.token.endpoint.url", false),
            ("sasl.username", false),
            ("ssl.key.location", false),
            ("brokers", false),
        ] {
            let masked = masked(name, Value::from("v"));
            assert_eq!(masked.as_str(), Some(if secret { "***" } else { "v" }), "{name}");
        }
        let of = "name = 'a'\nsecrets = ['v']\nurl = 'http://a/b?c=v'\nheaders = { Authorization = 'v', x-shop = 'v' }";
        let subscriber: toml::Table = toml::from_str(of).unwrap();
        // A list where a table is meant holds the same
        assert_eq!(masked("deliver.subscriber[0].headers", Value::from(vec!["x-shop: v"])).as_str(), Some("***"));
        let shown_list = value_text(&masked("subscriber", Value::Array(vec![subscriber.into()])));
        let expected = r#"[{ headers = { Authorization = "***", x-shop = "***" }, name = "a", secrets = "***", url = "http://a/b?c=***" }]"#;
        assert_eq!(shown_list, expected);
        assert_eq!(shown("password", &Value::from(5)), "\"***\"");
        assert_eq!(shown("password", &Value::from("")), "\"\"");
        assert_eq!(shown("output", &Value::from("http://me:s3cret@x")), "\"http://me:***@x\"");
        assert_eq!(shown("output", &Value::from("a:b@c?d=e")), "\"a:b@c?d=e\"", "the name of a file");
    }

    #[test]
    fn values_stay_on_one_line_of_toml() {
        for text in ["", "plain", "a\nb\r\n\t\"c\" \\n \u{0}\u{7f}\u{85}", "'''\"\"\"", "ünï ✓"] {
            let line = value_text(&Value::from(text));
            assert!(!line.contains(['\n', '\r']), "{line}");
            assert_eq!(toml::from_str::<toml::Table>(&format!("a = {line}")).unwrap()["a"].as_str(), Some(text));
        }
        assert_eq!(dotted(&["kafka", "properties", "group.id"]), "kafka.properties.\"group.id\"");
        assert_eq!(dotted(&["a\nb", ""]), "\"a\\nb\".\"\"");
        assert_eq!(shown("a", &Value::from("é".repeat(100))), format!("\"{}…", "é".repeat(79)));
    }
}
