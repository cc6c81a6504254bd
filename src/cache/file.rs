//! Caches from a text file: held compactly, reread when the file changes.
//!
//! In memory is the file as it is, in one buffer, and a hash table of where its lines start, 5 to 10 bytes a line: a
//! whitelist of 500,000 emails costs some 20 MB. On a repeated key the last line counts. A file may have up to
//! 4 GB; what is larger belongs into another cache.
//!
//! A thread looks at the file each second. When it has changed (another file was renamed over it, or it was rewritten
//! in place or cut), the new one is loaded beside the old one and takes its place at once: look-ups never pause, a
//! batch sees one version throughout, and for that moment both are in memory. What looks half-written is left alone:
//!
//! - Size and times have to be the same over two looks, and after it was read.
//! - A file that does not end in a newline, an empty one too, has to stay the same over five looks.
//! - A malformed line, or a file that is gone, is an error in the log, once, and the old content stays.
//!
//! A writer that pauses for seconds after a whole line still gets past this. So files are best replaced by rename, as
//! `metrobus make-data` does.

mod pages;
mod table;
mod watch;

use self::table::Table;
use super::kept;

/// Value by key, from a file with `key,value` a line.
pub type Map = kept::Map<Table>;

/// A list, from a file with a key a line.
pub type Set = kept::Set<Table>;

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::cache::{Keys, Lookup, Membership, Value, Values, real_redis::until};

    const FAST: Duration = Duration::from_millis(1);

    fn write(path: &Path, version: u32) {
        let beside = path.with_extension("new");
        let text: String = (0..1000).map(|key| format!("{key},{key}@{version}.example\n")).collect();
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, path).unwrap();
    }

    #[test]
    fn look_ups_go_on_while_the_file_is_reread_and_a_batch_sees_one_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("emails.dat");
        write(&path, 0);
        let mut map = Map::open_looking_each(FAST, &path).unwrap();
        let mut keys = Keys::default();
        (0..1000).for_each(|key| keys.push(Some(&key.to_string())));
        let mut values = Values::default();
        for version in 1..=10 {
            write(&path, version);
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                map.get(&keys, &mut values).unwrap();
                let domains: std::collections::BTreeSet<&str> = values
                    .iter()
                    .map(|value| match value {
                        Value::Found(email) => email.split_once('@').unwrap().1,
                        other => panic!("{other:?}"),
                    })
                    .collect();
                assert_eq!((values.len(), domains.len()), (1000, 1), "{domains:?}");
                if domains.contains(format!("{version}.example").as_str()) {
                    break;
                }
                assert!(Instant::now() < deadline, "version {version} was not taken");
            }
        }
    }

    #[test]
    fn a_message_without_a_key_keeps_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dat");
        fs::write(&path, "1,a@x\n").unwrap();
        let mut keys = Keys::default();
        [None, Some("1"), Some("2")].into_iter().for_each(|key| keys.push(key));
        let mut values = Values::default();
        for _ in 0..2 {
            Map::open(&path).unwrap().get(&keys, &mut values).unwrap();
            assert_eq!(values.iter().collect::<Vec<_>>(), [Value::Missing, Value::Found("a@x"), Value::Missing]);
        }
        fs::write(&path, "1@x\n2@x\n").unwrap();
        keys.clear();
        [Some("2@x"), None, Some("3@x")].into_iter().for_each(|key| keys.push(key));
        let mut listed = vec![true; 9];
        Set::open(&path).unwrap().contains(&keys, &mut listed).unwrap();
        assert_eq!(listed, [true, false, false]);
    }

    #[test]
    fn the_thread_ends_with_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("emails.dat");
        write(&path, 0);
        let map = Map::open_looking_each(FAST, &path).unwrap();
        let current = Arc::downgrade(&map.0.current);
        drop(map);
        until("the thread lets go of the content", || current.upgrade().is_none().then_some(()));
    }
}
