//! A cache that counts its answers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{Cache, Keys, Lookup, Membership, ReadAt, Values};

/// How often a cache knew what it was asked. A message without a key asks nothing.
#[derive(Debug, Default)]
pub struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    /// When the cache read what it answers from; `None` for one that is asked across the network.
    pub read_at: Option<ReadAt>,
}

impl Counts {
    /// Keys that were found.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Keys that were not.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// Adds the answers to one batch.
    fn add(&self, keys: &Keys, found: usize) {
        let asked = keys.iter().flatten().count();
        self.hits.fetch_add(found as u64, Ordering::Relaxed);
        self.misses.fetch_add(asked.saturating_sub(found) as u64, Ordering::Relaxed);
    }
}

/// A [`Lookup`] or a [`Membership`] whose answers are counted.
pub struct Counted<C: ?Sized> {
    counts: Arc<Counts>,
    cache: Box<C>,
}

impl<C: Cache + ?Sized> Counted<C> {
    fn new(cache: Box<C>) -> Self {
        Self { counts: Arc::new(Counts { read_at: cache.read_at(), ..Counts::default() }), cache }
    }
}

impl Counted<dyn Lookup> {
    /// The same cache, and the counts of what it answers from now on.
    pub fn lookup(cache: Box<dyn Lookup>) -> (Box<dyn Lookup>, Arc<Counts>) {
        let counted = Self::new(cache);
        let counts = counted.counts.clone();
        (Box::new(counted), counts)
    }
}

impl Counted<dyn Membership> {
    /// The same cache, and the counts of what it answers from now on.
    pub fn membership(cache: Box<dyn Membership>) -> (Box<dyn Membership>, Arc<Counts>) {
        let counted = Self::new(cache);
        let counts = counted.counts.clone();
        (Box::new(counted), counts)
    }
}

impl<C: Cache + ?Sized> Cache for Counted<C> {
    fn takes_a_while(&self) -> bool {
        self.cache.takes_a_while()
    }

    fn ask(&mut self, keys: &Keys) {
        self.cache.ask(keys);
    }

    fn connect(&mut self) -> anyhow::Result<()> {
        self.cache.connect()
    }

    fn read_at(&self) -> Option<ReadAt> {
        self.cache.read_at()
    }
}

impl Lookup for Counted<dyn Lookup> {
    fn get(&mut self, keys: &Keys, values: &mut Values) -> anyhow::Result<()> {
        self.cache.get(keys, values)?;
        self.counts.add(keys, values.found());
        Ok(())
    }
}

impl Membership for Counted<dyn Membership> {
    fn contains(&mut self, keys: &Keys, listed: &mut Vec<bool>) -> anyhow::Result<()> {
        self.cache.contains(keys, listed)?;
        self.counts.add(keys, listed.iter().filter(|listed| **listed).count());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Source;

    fn keys(keys: &[Option<&str>]) -> Keys {
        let mut buffer = Keys::default();
        keys.iter().for_each(|key| buffer.push(*key));
        buffer
    }

    #[test]
    fn hits_and_misses_add_up_to_the_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("emails.dat");
        std::fs::write(&path, "1,a@example.com\n2,b@example.com\n").unwrap();
        let (mut emails, counts) = Counted::lookup(Source::File(path.clone()).lookup().unwrap());
        let mut values = Values::default();
        emails.get(&keys(&[Some("1"), None, Some("3"), Some("2")]), &mut values).unwrap();
        emails.get(&keys(&[Some("4")]), &mut values).unwrap();
        assert_eq!((counts.hits(), counts.misses()), (2, 2));
        assert!(counts.read_at.as_ref().is_some_and(|read| read.age().as_secs() < 60));

        std::fs::write(&path, "a@example.com\nb@example.com\n").unwrap();
        let (mut listed, counts) = Counted::membership(Source::File(path).membership().unwrap());
        listed.contains(&keys(&[Some("a@example.com"), None, Some("c")]), &mut Vec::new()).unwrap();
        assert_eq!((counts.hits(), counts.misses()), (1, 1));
    }
}
