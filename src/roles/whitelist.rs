//! The whitelist: lets messages pass whose email is listed.

use serde::Deserialize;

use super::{Context, Kind, Role, otherwise::Otherwise};
use crate::{
    bus::Topic,
    cache::{Counted, Keys, Membership},
    handler::{Handler, Verdict},
    slip::Message,
    stop::{Retry, Stop},
};

pub const ROLE: Role = Role {
    name: "whitelist",
    about: "Let messages pass whose email is listed, drop the others",
    kind: Kind::Stop(build),
};

/// `[whitelist]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    pub topic: Topic,
    pub cache: super::CacheKind,
    /// An email a line; for `cache = "file"`.
    pub file: std::path::PathBuf,
    /// What `metrobus cache build` made of such lines; for `cache = "lmdb"`.
    pub lmdb: std::path::PathBuf,
    /// For `cache = "redis"`.
    pub set: String,
    /// Where messages go whose email is not listed, in place of what is ahead of them; they are dropped where it is empty.
    pub unlisted: Vec<Topic>,
    pub retry: Retry,
}

fn build(context: &Context) -> anyhow::Result<Stop> {
    let options: Options = context.config.section(ROLE.name)?;
    let source = context.source(options.cache, &options.file, &options.lmdb, &options.set);
    let unlisted = Otherwise::new(&context.config, "whitelist.unlisted", &options.unlisted, &options.topic)?;
    let (listed, counts) = Counted::membership(source.membership()?);
    let handler = Whitelist { listed, emails: Keys::default(), found: Vec::new(), unlisted };
    Ok(Stop::new(ROLE.name, &options.topic, handler, context.settings()).retry(options.retry).cache(counts))
}

struct Whitelist {
    listed: Box<dyn Membership>,
    emails: Keys,
    found: Vec<bool>,
    unlisted: Otherwise,
}

impl Whitelist {
    fn collect(&mut self, messages: &[Message<'_>]) {
        self.emails.clear();
        for message in messages {
            self.emails.push(message.payload.text("email").as_deref());
        }
    }
}

impl Handler for Whitelist {
    fn handle(&mut self, messages: &mut [Message<'_>]) -> anyhow::Result<Vec<Verdict>> {
        self.collect(messages);
        self.listed.contains(&self.emails, &mut self.found)?;
        let judge = |((message, email), listed): ((&mut Message<'_>, Option<&str>), &bool)| match (email, listed) {
            (None, _) if message.payload.get("email").is_none() => Verdict::drop("email is missing"),
            (None, _) => Verdict::drop("email is not text"),
            (Some(_), false) => self.unlisted.verdict(message, "email is not on the whitelist"),
            (Some(_), true) => match message.payload.set("whitelist", &true) {
                Ok(()) => Verdict::Forward,
                Err(error) => Verdict::reject(format!("set whitelist: {error}")),
            },
        };
        Ok(messages.iter_mut().zip(self.emails.iter()).zip(&self.found).map(judge).collect())
    }

    fn prepares(&self) -> bool {
        self.listed.takes_a_while()
    }

    fn prepare(&mut self, messages: &[Message<'_>]) {
        self.collect(messages);
        self.listed.ask(&self.emails);
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        self.listed.connect()
    }
}
