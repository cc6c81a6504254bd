//! Look-ups in a file whose content is kept ready and taken anew when it changes, whatever its format.

use std::{path::Path, time::Duration};

use super::{
    Cache, Keys, Lookup, Membership, ReadAt, Value, Values,
    lines::Layout,
    watch::{Content, INTERVAL, Watched},
};

/// Value by key.
pub struct Map<C>(pub(super) Watched<C>);

/// A list.
pub struct Set<C>(Watched<C>);

impl<C: Content> Map<C> {
    /// Opens `path`, and again whenever it changes. [`Misconfigured`](crate::error::Misconfigured) where it is missing,
    /// cannot be read, is malformed, damaged, or of another layout.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::open_looking_each(INTERVAL, path)
    }

    /// The same with another time between two looks.
    pub fn open_looking_each(interval: Duration, path: &Path) -> anyhow::Result<Self> {
        Watched::open(interval, path, Layout::Pair).map(Self)
    }
}

impl<C: Content> Set<C> {
    /// As [`Map::open`].
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::open_looking_each(INTERVAL, path)
    }

    /// The same with another time between two looks.
    pub fn open_looking_each(interval: Duration, path: &Path) -> anyhow::Result<Self> {
        Watched::open(interval, path, Layout::Single).map(Self)
    }
}

impl<C: Content> Cache for Map<C> {
    fn read_at(&self) -> Option<ReadAt> {
        Some(self.0.read_at.clone())
    }
}

impl<C: Content> Cache for Set<C> {
    fn read_at(&self) -> Option<ReadAt> {
        Some(self.0.read_at.clone())
    }
}

impl<C: Content> Lookup for Map<C> {
    fn get(&mut self, keys: &Keys, values: &mut Values) -> anyhow::Result<()> {
        let content = self.0.current.load();
        values.clear();
        content.each(keys, |value| values.push(value.map_or(Value::Missing, Value::Found)))
    }
}

impl<C: Content> Membership for Set<C> {
    fn contains(&mut self, keys: &Keys, listed: &mut Vec<bool>) -> anyhow::Result<()> {
        let content = self.0.current.load();
        listed.clear();
        content.each(keys, |value| listed.push(value.is_some()))
    }
}
