//! The contactpoint: adds to each message the email of its account, from a cache.

use std::borrow::Cow;

use serde::Deserialize;

use super::{Context, Kind, Role, otherwise::Otherwise};
use crate::{
    bus::Topic,
    cache::{Counted, Keys, Lookup, Value, Values},
    handler::{Handler, Verdict},
    payload::Payload,
    slip::Message,
    stop::{Retry, Stop},
};

pub const ROLE: Role = Role {
    name: "contactpoint",
    about: "Add the email of each message's account, or drop it",
    kind: Kind::Stop(build),
};

/// `[contactpoint]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    pub topic: Topic,
    pub cache: super::CacheKind,
    /// `account,email` a line; for `cache = "file"`.
    pub file: std::path::PathBuf,
    /// What `metrobus cache build` made of such lines; for `cache = "lmdb"`.
    pub lmdb: std::path::PathBuf,
    /// For `cache = "redis"`.
    pub hash: String,
    /// Where messages of unknown accounts go in place of what is ahead of them; they are dropped where it is empty.
    pub unknown: Vec<Topic>,
    pub retry: Retry,
}

fn build(context: &Context) -> anyhow::Result<Stop> {
    let options: Options = context.config.section(ROLE.name)?;
    let source = context.source(options.cache, &options.file, &options.lmdb, &options.hash);
    let unknown = Otherwise::new(&context.config, "contactpoint.unknown", &options.unknown, &options.topic)?;
    let (emails, counts) = Counted::lookup(source.lookup()?);
    let handler = Contactpoint::new(emails, unknown);
    Ok(Stop::new(ROLE.name, &options.topic, handler, context.settings()).retry(options.retry).cache(counts))
}

struct Contactpoint {
    emails: Box<dyn Lookup>,
    accounts: Keys,
    found: Values,
    unknown: Otherwise,
}

impl Contactpoint {
    fn new(emails: Box<dyn Lookup>, unknown: Otherwise) -> Self {
        Self { emails, accounts: Keys::default(), found: Values::default(), unknown }
    }
}

impl Contactpoint {
    /// Collects the accounts, and what is odd about a message where it has none.
    fn collect(&mut self, messages: &[Message<'_>]) -> Vec<Option<&'static str>> {
        self.accounts.clear();
        let collect = |message: &Message<'_>| {
            let account = account(&message.payload);
            self.accounts.push(account.as_deref().ok());
            account.err()
        };
        messages.iter().map(collect).collect()
    }
}

impl Handler for Contactpoint {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        let odd = self.collect(messages);
        self.emails.get(&self.accounts, &mut self.found)?;
        let judge = |((message, odd), email): ((&mut Message<'_>, Option<&'static str>), Value<'_>)| match (odd, email)
        {
            (Some(reason), _) => Verdict::drop(reason),
            (None, Value::Missing) => self.unknown.verdict(message, "unknown account"),
            (None, Value::NotText) => Verdict::drop("email in the cache is not UTF-8"),
            (None, Value::Found(email)) => match message.payload.set("email", email) {
                Ok(()) => Verdict::Forward,
                Err(error) => Verdict::reject(format!("set email: {error}")),
            },
        };
        Ok(messages.iter_mut().zip(odd).zip(self.found.iter()).map(judge).collect())
    }

    fn prepares(&self) -> bool {
        self.emails.takes_a_while()
    }

    fn prepare(&mut self, messages: &[Message<'_>]) {
        self.collect(messages);
        self.emails.ask(&self.accounts);
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        self.emails.connect()
    }
}

/// The account number of a payload as the cache knows it: whole numbers as they are spelt, text as it reads.
fn account<'a>(payload: &Payload<'a>) -> Result<Cow<'a, str>, &'static str> {
    let json = payload.get("account_number").ok_or("account_number is missing")?;
    let odd = "account_number is neither a whole number nor text";
    if json.starts_with('"') {
        return payload.text("account_number").filter(|text| !text.is_empty()).ok_or(odd);
    }
    let digits = json.strip_prefix('-').unwrap_or(&json);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { Ok(json) } else { Err(odd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_whole_numbers_or_text() {
        let account = |raw: &str| account(&Payload::new(raw).unwrap()).map(Cow::into_owned);
        assert_eq!(account(r#"{"account_number":1000001}"#).as_deref(), Ok("1000001"));
        assert_eq!(account(r#"{"account_number":"1000001"}"#).as_deref(), Ok("1000001"));
        assert_eq!(account(r#"{"account_number":"1\u0030"}"#).as_deref(), Ok("10"));
        assert_eq!(account(r#"{"account_number":99999999999999999999}"#).as_deref(), Ok("99999999999999999999"));
        assert_eq!(account("{}"), Err("account_number is missing"));
        for odd in ["1.5", "1e6", "null", "true", "[1]", "{}", "\"\"", r#""\ud800""#] {
            let raw = format!(r#"{{"account_number":{odd}}}"#);
            assert_eq!(account(&raw), Err("account_number is neither a whole number nor text"), "{odd}");
        }
    }
}
