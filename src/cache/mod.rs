//! Look-ups by key, a batch at a time: what a handler asks about its messages.
//!
//! Two questions: a [`Lookup`] gives the value of a key (account to email), a [`Membership`] says whether a key is
//! listed. Both take the [`Keys`] of a whole batch, so that a cache across the network costs one round trip a batch,
//! and answer into buffers that the caller keeps, so that a message costs no allocation.
//!
//! | cache | holds | answers |
//! | --- | --- | --- |
//! | [`mod@file`] | a text file, compactly in memory; reread when it changes | always |
//! | [`mod@lmdb`] | a file of LMDB, for tens of millions of keys; opened anew when it is replaced | always |
//! | [`mod@redis`] | a hash or a set of a Redis server | while the server is there |
//!
//! A new cache is a file beside these, which implements both traits, and an arm in [`Source::lookup`] and in
//! [`Source::membership`]. It has to keep this:
//!
//! - An `Err` means that it cannot answer now. The stop backs off and asks again for the same batch, without end, and
//!   no message is dropped for it. So a cache reports as missing only what it knows to be missing.
//! - It does not wait or retry for long by itself: within its timeout it answers, or gives the `Err`.
//! - All answers of one call come from one version of the data, as far as the service behind it can say so.
//! - What cannot be right at start (no such file, a malformed line, a bad URL) is a
//!   [`Misconfigured`](crate::error::Misconfigured) when it is opened, and names the place, never the data: emails are
//!   personal, and errors get into logs.

mod counted;
mod counters;
pub mod file;
mod kept;
pub mod lines;
pub mod lmdb;
#[cfg(test)]
pub(crate) mod real_redis;
pub mod redis;
mod watch;

use std::{ops::Range, path::PathBuf, time::Duration};

pub use counted::{Counted, Counts};
pub use counters::{CounterErrors, Counters};
pub use watch::ReadAt;

/// What every cache has, whatever it is asked.
pub trait Cache: Send {
    /// Whether an answer takes so long that it is better asked for with [`Cache::ask`].
    fn takes_a_while(&self) -> bool {
        false
    }

    /// Tells that it will be asked about `keys`, after what it was told before; so it may begin, and does not wait.
    fn ask(&mut self, _keys: &Keys) {}

    /// Tries once whether it could answer now; `Err` where not.
    fn connect(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// When what it answers from was read, where it reads something and keeps it.
    fn read_at(&self) -> Option<ReadAt> {
        None
    }
}

/// Values by key.
pub trait Lookup: Cache {
    /// Replaces `values` by the value of each of `keys`, in their order; a key that is `None` is missing.
    ///
    /// `Err` where the cache cannot answer now; what `values` holds then is of no use.
    fn get(&mut self, keys: &Keys, values: &mut Values) -> anyhow::Result<()>;
}

/// A list that keys are on or not.
pub trait Membership: Cache {
    /// Replaces `listed` by whether each of `keys` is on the list, in their order; a key that is `None` is not.
    ///
    /// `Err` where the cache cannot answer now; what `listed` holds then is of no use.
    fn contains(&mut self, keys: &Keys, listed: &mut Vec<bool>) -> anyhow::Result<()>;
}

/// Where the data of a cache is.
#[derive(Clone)]
pub enum Source {
    /// A file: `key,value` a line for a [`Lookup`], a key a line for a [`Membership`].
    File(PathBuf),
    /// A file that [`lmdb::build`] made of such lines.
    Lmdb(PathBuf),
    /// A key of a Redis server: a hash for a [`Lookup`], a set for a [`Membership`].
    Redis {
        url: String,
        key: String,
        /// For connecting, and for each answer.
        timeout: Duration,
    },
}

impl Source {
    /// Opens it for values by key. A file is read here, a server is not asked yet.
    pub fn lookup(&self) -> anyhow::Result<Box<dyn Lookup>> {
        Ok(match self {
            Self::File(path) => Box::new(file::Map::open(path)?),
            Self::Lmdb(path) => Box::new(lmdb::Map::open(path)?),
            Self::Redis { url, key, timeout } => Box::new(redis::Hash::open(url, key, *timeout)?),
        })
    }

    /// Opens it for a list. A file is read here, a server is not asked yet.
    pub fn membership(&self) -> anyhow::Result<Box<dyn Membership>> {
        Ok(match self {
            Self::File(path) => Box::new(file::Set::open(path)?),
            Self::Lmdb(path) => Box::new(lmdb::Set::open(path)?),
            Self::Redis { url, key, timeout } => Box::new(redis::Set::open(url, key, *timeout)?),
        })
    }
}

/// The keys of a batch in one buffer. A message that has no key keeps its place with `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    buffer: String,
    spans: Vec<Option<Range<usize>>>,
}

impl Keys {
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.spans.clear();
    }

    pub fn push(&mut self, key: Option<&str>) {
        self.spans.push(key.map(|key| append(&mut self.buffer, key)));
    }

    /// How many were pushed, those without a key too.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<&str>> {
        self.spans.iter().map(|span| span.clone().map(|span| &self.buffer[span]))
    }
}

/// What a [`Lookup`] found for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Found(&'a str),
    Missing,
    /// There is a value, and it is of no use because it is not UTF-8.
    NotText,
}

/// The values of a batch in one buffer, in the order of their keys.
#[derive(Debug, Default)]
pub struct Values {
    buffer: String,
    entries: Vec<Entry>,
}

#[derive(Debug)]
enum Entry {
    Found(Range<usize>),
    Missing,
    NotText,
}

impl Values {
    /// How many were found, of use or not.
    pub fn found(&self) -> usize {
        self.entries.iter().filter(|entry| !matches!(entry, Entry::Missing)).count()
    }

    pub fn clear(&mut self) {
        self.buffer.clear();
        self.entries.clear();
    }

    pub fn push(&mut self, value: Value<'_>) {
        self.entries.push(match value {
            Value::Found(text) => Entry::Found(append(&mut self.buffer, text)),
            Value::Missing => Entry::Missing,
            Value::NotText => Entry::NotText,
        });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Value<'_>> {
        self.entries.iter().map(|entry| match entry {
            Entry::Found(span) => Value::Found(&self.buffer[span.clone()]),
            Entry::Missing => Value::Missing,
            Entry::NotText => Value::NotText,
        })
    }
}

fn append(buffer: &mut String, text: &str) -> Range<usize> {
    let start = buffer.len();
    buffer.push_str(text);
    start..buffer.len()
}
