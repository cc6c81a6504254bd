//! One version of a file, ready for look-ups.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::RandomState;
use hashbrown::{HashTable, hash_table::Entry};

use crate::cache::{
    Keys,
    lines::{Layout, Malformed},
};

/// Look-ups whose waits for memory overlap; what they touch stays in the nearest cache of the processor.
const TOGETHER: usize = 64;

/// A text and where in it each key has its line.
pub struct Table {
    layout: Layout,
    /// Ends in a newline, unless it is empty.
    text: String,
    lines: u64,
    /// Per key where its last line starts.
    starts: HashTable<u32>,
    hasher: RandomState,
}

impl Table {
    /// The largest file whose lines a `u32` can point at, with room for a last newline.
    pub const MAX_BYTES: u64 = u32::MAX as u64;

    /// Takes `text`, which has at most [`Table::MAX_BYTES`]; a newline at its end may be missing.
    pub fn parse(mut text: Vec<u8>, layout: Layout) -> Result<Self, Malformed> {
        if text.last().is_some_and(|last| *last != b'\n') {
            text.push(b'\n');
        }
        let hasher = RandomState::default();
        let mut starts = HashTable::with_capacity(memchr::memchr_iter(b'\n', &text).count());
        let mut lines = 0;
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &text) {
            lines += 1;
            let (key, _) = layout.split(&text[start..end]).map_err(|why| Malformed { line: lines, why })?;
            let hash_of = |start: &u32| hash(&hasher, key_at(&text, *start, layout));
            match starts.entry(hash(&hasher, key.as_bytes()), |s| key_at(&text, *s, layout) == key.as_bytes(), hash_of)
            {
                Entry::Occupied(mut entry) => *entry.get_mut() = start as u32,
                Entry::Vacant(entry) => drop(entry.insert(start as u32)),
            }
            start = end + 1;
        }
        // Each line was checked to be UTF-8, so all of it is
        let text = String::from_utf8(text).map_err(|_| Malformed { line: lines, why: "is not UTF-8" })?;
        Ok(Self { layout, text, lines, starts, hasher })
    }

    /// The value of `key`, `""` with [`Layout::Single`]; `None` where no line has that key.
    #[cfg(test)]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.find(hash(&self.hasher, key.as_bytes()), key)
    }

    /// Calls `each` with the value of every key in turn, as [`Table::get`] would give it.
    ///
    /// A table is larger than any cache of a processor, so each look-up waits for memory three times: for its slots, for
    /// the place that they tell, for the line there. Here many keys go through one of these steps after another, so that
    /// the processor waits for many at once. What most likely is a key's line is touched, then it is looked up in earnest.
    pub fn get_all<'a>(&'a self, keys: &Keys, mut each: impl FnMut(Option<&'a str>)) {
        let bytes = self.text.as_bytes();
        let mut keys = keys.iter();
        let mut hashed: [(u64, Option<&str>); TOGETHER] = [(0, None); TOGETHER];
        let mut likely = [0; TOGETHER];
        while keys.len() > 0 {
            let count = keys.len().min(TOGETHER);
            for (hashed, key) in hashed.iter_mut().zip(keys.by_ref().take(count)) {
                *hashed = (key.map_or(0, |key| hash(&self.hasher, key.as_bytes())), key);
            }
            for (likely, (hash, _)) in likely.iter_mut().zip(&hashed[..count]) {
                *likely = self.starts.find(*hash, |_| true).map_or(0, |start| *start as usize);
            }
            let touched =
                likely[..count].iter().fold(0, |touched, start| touched ^ bytes.get(*start).map_or(0, |b| *b));
            std::hint::black_box(touched);
            for (hash, key) in &hashed[..count] {
                each(key.and_then(|key| self.find(*hash, key)));
            }
        }
    }

    fn find(&self, hash: u64, key: &str) -> Option<&str> {
        let bytes = self.text.as_bytes();
        // A key comes from a message and may hold anything; none of the file's holds what ends it there
        if key.bytes().any(|byte| byte == self.layout.key_end()) || key.ends_with('\r') {
            return None;
        }
        let is_key = |start: &u32| begins_with_key(&bytes[*start as usize..], key.as_bytes(), self.layout);
        let start = *self.starts.find(hash, is_key)? as usize;
        if self.layout == Layout::Single {
            return Some("");
        }
        let start = start + key.len() + 1;
        let value = &self.text[start..start + memchr::memchr(b'\n', &bytes[start..])?];
        Some(value.strip_suffix('\r').unwrap_or(value))
    }

    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Whether it was made of `text`.
    pub fn is_of(&self, text: &[u8]) -> bool {
        let own = self.text.as_bytes();
        own == text || own.strip_suffix(b"\n") == Some(text)
    }
}

fn hash(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// Whether the first of `lines` is that of `key`, which holds nothing that ends a key.
fn begins_with_key(lines: &[u8], key: &[u8], layout: Layout) -> bool {
    match lines.strip_prefix(key) {
        Some([end, ..]) if *end == layout.key_end() => true,
        Some([b'\r', b'\n', ..]) => layout == Layout::Single,
        _ => false,
    }
}

/// The key of the line at `start`.
fn key_at(text: &[u8], start: u32, layout: Layout) -> &[u8] {
    let rest = &text[start as usize..];
    let key = &rest[..memchr::memchr(layout.key_end(), rest).unwrap_or(rest.len())];
    if layout == Layout::Single { key.strip_suffix(b"\r").unwrap_or(key) } else { key }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> Table {
        Table::parse(text.into(), Layout::Pair).unwrap()
    }

    fn set(text: &str) -> Table {
        Table::parse(text.into(), Layout::Single).unwrap()
    }

    #[test]
    fn on_a_repeated_key_the_last_line_counts() {
        let table = map("1,a@x\n2,b@x\n1,c@x\n");
        assert_eq!((table.get("1"), table.get("2"), table.get("3")), (Some("c@x"), Some("b@x"), None));
        assert_eq!((table.lines(), table.starts.len()), (3, 2));
    }

    #[test]
    fn carriage_returns_and_a_missing_last_newline_are_no_part_of_a_line() {
        let table = map("1,a@x\r\n2,b@x");
        assert_eq!((table.get("1"), table.get("2")), (Some("a@x"), Some("b@x")));
        let table = set("a@x\r\nb@x");
        assert!(table.get("a@x").is_some() && table.get("b@x").is_some());
        assert!(table.is_of(b"a@x\r\nb@x") && !table.is_of(b"a@x\r\nb@y"));
        assert_eq!(map("").get(""), None);
    }

    #[test]
    fn a_key_with_commas_and_newlines_finds_no_line() {
        let (table, list) = (map("1,a@x\n2,b@x\n"), set("a@x\nb@x\n"));
        // Many tables, since each hashes in its own way
        for _ in 0..1000 {
            for key in ["1,a@x\n2", "1,a@x", "", ",", "1\n", "2,b@x\n"] {
                assert_eq!(table.get(key), None);
            }
            for key in ["a@x\nb@x", "a@x\n", "", "\n", "a@"] {
                assert_eq!(list.get(key), None);
            }
        }
    }

    #[test]
    fn the_first_malformed_line_is_named() {
        let error = |text: &[u8]| Table::parse(text.into(), Layout::Pair).err().map(|error| error.line);
        assert_eq!(error(b"1,a@x\n\n2,b@x\n"), Some(2));
        assert_eq!(error(b"1,a@x\n2,b\xff@x\nx\n"), Some(2));
        assert_eq!(error(b"1,a@x\n2,b@x\n3,"), Some(3));
        assert_eq!(error(b"\n"), Some(1));
        assert_eq!(error(b""), None);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map_of_the_standard_library(
            lines in proptest::collection::vec(("[0-9a-cé]{1,3}", "[a-c]{0,2}@[a-zé]{1,8}", "\r?\n"), 0..200),
            last_newline: bool,
            others in proptest::collection::vec("[0-9a-cé,\n]{0,4}", 0..50),
        ) {
            let mut text: String = lines.iter().map(|(key, value, end)| format!("{key},{value}{end}")).collect();
            if !last_newline && text.ends_with('\n') {
                text.pop();
            }
            let table = map(&text);
            let expected: HashMap<&str, &str> = lines.iter().map(|(k, v, _)| (k.as_str(), v.as_str())).collect();
            let asked: Vec<&str> = expected.keys().copied().chain(others.iter().map(String::as_str)).collect();
            let mut keys = Keys::default();
            for key in &asked {
                prop_assert_eq!(table.get(key), expected.get(key).copied());
                keys.push(Some(key));
                keys.push(None);
            }
            let mut answers = Vec::new();
            table.get_all(&keys, |answer| answers.push(answer));
            let answered: Vec<_> = asked.iter().flat_map(|key| [expected.get(key).copied(), None]).collect();
            prop_assert_eq!(answers, answered);
            prop_assert_eq!(table.starts.len(), expected.len());
        }

        #[test]
        fn what_is_listed_is_listed(
            lines in proptest::collection::btree_set("[a-cé]{0,2}@[a-c]{0,2}", 0..100),
            others in proptest::collection::vec("[a-cé]{0,2}@[a-c]{0,2}", 0..50),
        ) {
            let table = set(&lines.iter().map(|line| format!("{line}\n")).collect::<String>());
            for key in lines.iter().chain(&others) {
                prop_assert_eq!(table.get(key).is_some(), lines.contains(key));
            }
        }
    }
}
