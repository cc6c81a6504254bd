//! Caches for tens of millions of keys: a file of LMDB, which `metrobus cache build` makes of a text file.
//!
//! A stop maps the file and is ready at once, whatever its size; what is read of it is in the page cache of the system,
//! shared by all processes, and the stop's own memory stays small. Answers are exact: the whole key is compared.
//!
//! The file is only ever replaced, by another one that is renamed over it, as `metrobus cache build` does; a copy has to
//! be made under another name and renamed. So it is opened read-only and without a lock, and may be on a read-only
//! mount. A thread looks at the path each second, and a new file takes the place of the old one at once: look-ups never
//! pause, a batch sees one version throughout, and the old one is let go when nothing reads it any more. What is not
//! whole or not of its layout is an error in the log, once, and the old file stays in use.
//!
//! At each opening it is checked that the file was made by metrobus, has its full length, and that its beginning and
//! end are as they were written. Three things are not found: single bytes between them that a disk has changed; a file
//! that is overwritten or cut in place while it is open, which can end the process with SIGBUS; and a disk that cannot
//! read what is mapped, which does so as well.

mod build;
mod format;
mod raw;
mod sort;

use std::{fs::File, io, path::Path};

use anyhow::anyhow;

pub use self::build::{Built, Step, build};
use self::format::{FOOTER_BYTES, Footer, Place, Unusable, find};
use super::{
    Keys, kept,
    lines::Layout,
    watch::{Content, Stamp, Trouble},
};
use crate::error::Misconfigured;

/// Keys that are looked up together.
const TOGETHER: usize = 32;

/// Value by key, from a file that was built from `key,value` lines.
pub type Map = kept::Map<Table>;

/// A list, from a file that was built from a key a line.
pub type Set = kept::Set<Table>;

/// One version of the file.
pub struct Table {
    database: raw::Database,
    footer: Footer,
    name: String,
}

impl Table {
    fn read(&self) -> anyhow::Result<Read<'_>> {
        let read = self.database.read().map_err(|error| anyhow!("read {}: {error}", self.name))?;
        Ok(Read { table: self, read })
    }
}

/// A look into a version.
struct Read<'a> {
    table: &'a Table,
    read: raw::Read<'a>,
}

impl Read<'_> {
    fn each(&self, keys: &Keys, mut take: impl FnMut(Option<&str>)) -> anyhow::Result<()> {
        let damaged = |_| wrong(&self.table.name, Unusable::Damaged);
        let mut keys = keys.iter();
        let mut asked = Vec::with_capacity(TOGETHER);
        // What is read lies anywhere in the file, and each time the processor would wait for it. So some keys go
        // together, one step for all before the next: then it waits for all of them at once
        while keys.len() > 0 {
            asked.clear();
            for key in keys.by_ref().take(TOGETHER) {
                asked.push((key.unwrap_or_default(), key.map_or(Ok(None), |key| self.bucket(key))?));
            }
            let mut touched = 0;
            for (_, found) in &mut asked {
                if let Some((place, bytes)) = found {
                    *bytes = place.records(bytes).map_err(damaged)?;
                }
            }
            for (_, found) in &asked {
                touched ^= found.and_then(|(_, records)| records.first().copied()).unwrap_or_default();
            }
            std::hint::black_box(touched);
            for (key, found) in &asked {
                let value = found.map_or(Ok(None), |(_, records)| find(records, key.as_bytes())).map_err(damaged)?;
                // Only text was put into it
                take(value.map(std::str::from_utf8).transpose().map_err(|_| damaged(Unusable::Damaged))?);
            }
        }
        Ok(())
    }

    /// The bucket that `key` would be in, and its place there.
    fn bucket(&self, key: &str) -> anyhow::Result<Option<(Place, &[u8])>> {
        let place = self.table.footer.place(key.as_bytes());
        let bucket = self.read.get(&place.bucket.to_be_bytes());
        let bucket = bucket.map_err(|error| anyhow!("read {}: {error}", self.table.name))?;
        Ok(bucket.map(|bucket| (place, bucket)))
    }
}

impl Content for Table {
    fn read(path: &Path, layout: Layout, stamp: &Stamp, _: u32, _: Option<&Self>) -> Result<Option<Self>, Trouble> {
        let name = path.display().to_string();
        let mut file = File::open(path)?;
        let unusable = |why| Trouble::Wrong(wrong(&name, why));
        let footer = Footer::read(&mut file)?.map_err(unusable)?;
        if footer.layout != layout {
            return Err(Trouble::Wrong(Misconfigured(format!(
                "{name}: was built from {}, and {} is expected; name another file, or build it with `metrobus cache build`",
                of(footer.layout),
                of(layout),
            ))));
        }
        let opened = raw::Database::open(path);
        // By its name it may be another file by now: it has to be the one that was looked at, before and after
        let same = Stamp::of(&file.metadata()?) == *stamp && Stamp::of(&path.metadata()?) == *stamp;
        if !same || stamp.size != footer.bytes + FOOTER_BYTES {
            return Err(Trouble::Unsettled);
        }
        let database = opened.map_err(|error| Trouble::Wrong(Misconfigured(format!("{name}: {error}"))))?;
        if database.bytes() > footer.bytes {
            return Err(unusable(Unusable::Damaged));
        }
        Ok(Some(Self { database, footer, name }))
    }

    fn each(&self, keys: &Keys, take: impl FnMut(Option<&str>)) -> anyhow::Result<()> {
        self.read()?.each(keys, take)
    }

    fn lines(&self) -> u64 {
        self.footer.lines
    }

    fn unreadable(path: &Path, kind: io::ErrorKind) -> Misconfigured {
        let path = path.display();
        Misconfigured(match kind {
            io::ErrorKind::NotFound => format!("{path}: no such file, run `metrobus cache build`"),
            io::ErrorKind::InvalidInput => format!("{path}: is not a regular file"),
            kind => format!("{path}: cannot be read: {kind}; `metrobus cache build` writes one"),
        })
    }
}

fn of(layout: Layout) -> &'static str {
    match layout {
        Layout::Pair => "`account,email` a line",
        Layout::Single => "an email a line",
    }
}

fn wrong(name: &str, why: Unusable) -> Misconfigured {
    Misconfigured(match why {
        Unusable::Foreign => format!("{name}: is no database of metrobus, `metrobus cache build` writes one"),
        Unusable::Damaged => format!("{name}: is damaged or cut off, build it anew with `metrobus cache build`"),
        Unusable::Other => {
            format!("{name}: was built by another version of metrobus, build it anew with `metrobus cache build`")
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeSet, HashMap},
        fs,
        path::PathBuf,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::cache::{
        Lookup, Membership, Value, Values,
        watch::{Outcome, Watch, Watched},
    };

    const FAST: Duration = Duration::from_millis(1);

    struct Fixture {
        folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Fixture {
        /// Built from `text`.
        fn new(layout: Layout, text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let fixture = Self { path: folder.path().join("emails.lmdb"), folder };
            fixture.build(layout, text).unwrap();
            fixture
        }

        fn build(&self, layout: Layout, text: &str) -> anyhow::Result<Built> {
            let input = self.folder.path().join("input.dat");
            fs::write(&input, text).unwrap();
            build(&input, layout, &self.path, &mut |_| Ok(()))
        }

        /// What is in the folder beside the input.
        fn files(&self) -> BTreeSet<String> {
            let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.map(|name| name.into_string().unwrap()).filter(|name| name != "input.dat").collect()
        }

        fn error(&self, layout: Layout) -> String {
            let error = Watched::<Table>::open(FAST, &self.path, layout).err().unwrap();
            assert!(error.is::<Misconfigured>(), "{error:#}");
            error.to_string().replace(&self.path.display().to_string(), "FILE")
        }
    }

    fn keys<'a>(keys: impl IntoIterator<Item = Option<&'a str>>) -> Keys {
        let mut batch = Keys::default();
        keys.into_iter().for_each(|key| batch.push(key));
        batch
    }

    fn get(map: &mut Map, asked: &[Option<&str>]) -> Vec<Option<String>> {
        let mut values = Values::default();
        map.get(&keys(asked.iter().copied()), &mut values).unwrap();
        let text = |value| match value {
            Value::Found(text) => Some(text.to_owned()),
            Value::Missing => None,
            Value::NotText => panic!("only text was put into it"),
        };
        values.iter().map(text).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Long keys, keys that begin alike, repeated ones and other alphabets, in any order.
        #[test]
        fn answers_are_those_of_a_hash_map(
            lines in prop::collection::vec(("[a-c]{1,2}|[0-9]{7}|[a-zäß語]{1,9}|x{500,700}", "[a-z]{0,9}@[a-zö]{0,300}"), 0..200),
            others in prop::collection::vec("[a-c]{1,3}|x{500,700}|[a-z,]{0,3}", 0..20),
        ) {
            let text: String = lines.iter().map(|(key, value)| format!("{key},{value}\n")).collect();
            let fixture = Fixture::new(Layout::Pair, &text);
            let expected: HashMap<&str, &str> = lines.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let mut map = Map::open(&fixture.path).unwrap();
            let asked: Vec<_> = expected.keys().copied().chain(others.iter().map(String::as_str)).map(Some).collect();
            for (key, found) in asked.iter().zip(get(&mut map, &asked)) {
                prop_assert_eq!(found.as_deref(), expected.get(key.unwrap()).copied());
            }
            prop_assert_eq!(map.0.current.load().lines(), expected.len() as u64);
            prop_assert_eq!(fixture.files(), BTreeSet::from(["emails.lmdb".to_owned()]));
        }
    }

    #[test]
    fn many_keys_are_each_found_and_none_beside_them() {
        let text: String = (0..30_000).map(|n| format!("{n}@x\r\n")).collect();
        let fixture = Fixture::new(Layout::Single, &text);
        let mut set = Set::open(&fixture.path).unwrap();
        let asked: Vec<String> = (0..60_000).map(|n| format!("{n}@x")).collect();
        let mut listed = vec![true; 3];
        set.contains(&keys(asked.iter().map(|key| Some(key.as_str()))), &mut listed).unwrap();
        assert!(listed[..30_000].iter().all(|listed| *listed) && !listed[30_000..].iter().any(|listed| *listed));
        assert_eq!(listed.len(), 60_000);
        set.contains(&keys([None, Some("7@x"), None, Some("")]), &mut listed).unwrap();
        assert_eq!(listed, [false, true, false, false]);
    }

    #[test]
    fn a_message_without_a_key_keeps_its_place_and_an_empty_file_answers() {
        let fixture = Fixture::new(Layout::Pair, "1,a@x\n2,b@x\n1,c@x");
        let mut map = Map::open(&fixture.path).unwrap();
        let asked = [None, Some("1"), Some("3"), Some("2"), Some("1,"), Some("")];
        let found = |text: &str| Some(text.to_owned());
        assert_eq!(get(&mut map, &asked), [None, found("c@x"), None, found("b@x"), None, None]);
        assert_eq!(get(&mut map, &[]), [None; 0]);
        let fixture = Fixture::new(Layout::Pair, "");
        assert_eq!(get(&mut Map::open(&fixture.path).unwrap(), &asked), [const { None }; 6]);
    }

    #[test]
    fn two_stops_of_a_process_read_the_same_file() {
        let fixture = Fixture::new(Layout::Pair, "1,a@x\n");
        let (mut one, mut other) = (Map::open(&fixture.path).unwrap(), Map::open(&fixture.path).unwrap());
        assert_eq!(get(&mut one, &[Some("1")]), get(&mut other, &[Some("1")]));
        drop(one);
        assert_eq!(get(&mut other, &[Some("1")]), [Some("a@x".to_owned())]);
    }

    #[test]
    fn look_ups_go_on_while_the_file_is_replaced_and_a_batch_sees_one_version() {
        let text = |version| (0..1000).map(|key| format!("{key},{key}@{version}\n")).collect::<String>();
        let fixture = Fixture::new(Layout::Pair, &text(0));
        let mut map = Map::open_looking_each(FAST, &fixture.path).unwrap();
        let asked: Vec<String> = (0..1000).map(|key| key.to_string()).collect();
        let asked: Vec<Option<&str>> = asked.iter().map(|key| Some(key.as_str())).collect();
        for version in 1..=10 {
            fixture.build(Layout::Pair, &text(version)).unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                let found = get(&mut map, &asked);
                let versions: BTreeSet<&str> =
                    found.iter().map(|email| email.as_deref().unwrap().split_once('@').unwrap().1).collect();
                assert_eq!(versions.len(), 1, "{versions:?}");
                if versions.contains(version.to_string().as_str()) {
                    break;
                }
                assert!(Instant::now() < deadline, "version {version} was not taken");
            }
        }
    }

    #[test]
    fn a_broken_replacement_is_told_once_and_the_old_file_stays() {
        let fixture = Fixture::new(Layout::Pair, "1,old@x\n");
        let good = fs::read(&fixture.path).unwrap();
        let mut watch = Watch::<Table>::open(&fixture.path, Layout::Pair).unwrap();
        let current = watch.current();
        let replace = |bytes: &[u8]| {
            let beside = fixture.folder.path().join("new");
            fs::write(&beside, bytes).unwrap();
            fs::rename(&beside, &fixture.path).unwrap();
        };
        let mut outcome = || (0..10).map(|_| watch.look()).find(|outcome| *outcome != Outcome::Unsettled).unwrap();
        let name = fixture.path.display();
        let damaged = format!("{name}: is damaged or cut off, build it anew with `metrobus cache build`");
        for broken in [&good[..good.len() - 1], &good[..good.len() / 2], b"1,a@x\n", b""] {
            replace(broken);
            let Outcome::Failed(why) = outcome() else { panic!("it was taken") };
            assert!(why == damaged || why.ends_with("is no database of metrobus, `metrobus cache build` writes one"));
            assert_eq!(outcome(), Outcome::Unchanged, "told twice");
            let table = current.load();
            let mut found = None;
            table.read().unwrap().each(&keys([Some("1")]), |value| found = value.map(str::to_owned)).unwrap();
            assert_eq!(found.as_deref(), Some("old@x"));
        }
        fs::remove_file(&fixture.path).unwrap();
        assert_eq!(outcome(), Outcome::Failed(format!("{name}: no such file, run `metrobus cache build`")));
        fixture.build(Layout::Pair, "1,new@x\n2,b@x\n1,newer@x\n").unwrap();
        assert!(matches!(outcome(), Outcome::Reread { lines: 2, .. }));
    }

    #[test]
    fn what_is_wrong_at_start_is_told_with_the_place() {
        let fixture = Fixture::new(Layout::Single, &(0..5000).map(|n| format!("{n}@x\n")).collect::<String>());
        let good = fs::read(&fixture.path).unwrap();
        assert_eq!(
            fixture.error(Layout::Pair),
            "FILE: was built from an email a line, and `account,email` a line is expected; name another file, or build \
             it with `metrobus cache build`"
        );
        let damaged = "FILE: is damaged or cut off, build it anew with `metrobus cache build`";
        let foreign = "FILE: is no database of metrobus, `metrobus cache build` writes one";
        let mut changed = good.clone();
        changed[24] ^= 1;
        for (bytes, expected) in [
            (&good[..good.len() - 1], damaged),
            (&good[..good.len() - 512], damaged),
            (&good[..8192], damaged),
            (&changed, damaged),
            (&[&good[..8192], &good[12288..]].concat(), damaged),
            (b"1@x\n2@x\n", foreign),
            (b"", foreign),
            (&[0; 100_000], foreign),
        ] {
            fs::write(&fixture.path, bytes).unwrap();
            assert_eq!(fixture.error(Layout::Single), expected, "{} bytes", bytes.len());
        }
        fs::remove_file(&fixture.path).unwrap();
        assert_eq!(fixture.error(Layout::Single), "FILE: no such file, run `metrobus cache build`");
        fs::create_dir(&fixture.path).unwrap();
        assert_eq!(
            fixture.error(Layout::Single),
            "FILE: cannot be read: is a directory; `metrobus cache build` writes one"
        );
        let error = fixture.build(Layout::Single, "1@x\n").unwrap_err();
        assert!(error.is::<Misconfigured>() && error.to_string().contains("is a directory"), "{error:#}");
    }

    #[test]
    fn a_build_that_fails_leaves_the_old_file_and_nothing_beside_it() {
        let fixture = Fixture::new(Layout::Pair, "1,old@x\n");
        let long = format!("1,a@x\n2,{}@x\n", "y".repeat(1 << 20));
        let lines: String = (0..100_000).map(|n| format!("{n},{n}@x\n")).collect();
        for (text, why) in [
            ("1,a@x\n2,b@x\nsecret\n", "line 3: has no comma, `account,email` is expected"),
            (&format!("{lines}x"), "line 100001: has no comma, `account,email` is expected"),
            (&long, "line 2: is longer than 1 MiB"),
        ] {
            let error = fixture.build(Layout::Pair, text).unwrap_err();
            assert!(error.is::<Misconfigured>() && error.to_string().ends_with(why), "{error:#}");
            assert_eq!(get(&mut Map::open(&fixture.path).unwrap(), &[Some("1")]), [Some("old@x".to_owned())]);
            assert_eq!(fixture.files(), BTreeSet::from(["emails.lmdb".to_owned()]));
        }
        let input = fixture.folder.path().join("input.dat");
        fs::write(&input, lines).unwrap();
        for phase in [Step::Read(0), Step::Write { done: 0, of: 0 }] {
            let mut end = |step| match std::mem::discriminant(&step) == std::mem::discriminant(&phase) {
                true => Err(anyhow!("enough")),
                false => Ok(()),
            };
            let error = build(&input, Layout::Pair, &fixture.path, &mut end).unwrap_err();
            assert!(format!("{error:#}").ends_with("enough"), "{error:#}");
            assert_eq!(get(&mut Map::open(&fixture.path).unwrap(), &[Some("1")]), [Some("old@x".to_owned())]);
            assert_eq!(fixture.files(), BTreeSet::from(["emails.lmdb".to_owned()]));
        }
    }

    #[test]
    fn one_build_at_a_time_and_what_a_killed_one_left_is_no_matter() {
        let fixture = Fixture::new(Layout::Pair, "1,old@x\n");
        let input = fixture.folder.path().join("input.dat");
        fs::write(&input, (0..100_000).map(|n| format!("{n},{n}@x\n")).collect::<String>()).unwrap();
        let mut other = None;
        let built = build(&input, Layout::Pair, &fixture.path, &mut |_| {
            other.get_or_insert_with(|| build(&input, Layout::Pair, &fixture.path, &mut |_| Ok(())));
            Ok(())
        });
        assert_eq!(built.unwrap().lines, 100_000);
        let error = other.unwrap().unwrap_err().to_string();
        assert!(error.ends_with("emails.lmdb: another `metrobus cache build` is building it"), "{error}");
        // As a killed build leaves it
        let left = fixture.folder.path().join(".emails.lmdb.build");
        fs::create_dir(&left).unwrap();
        for name in ["lock", "run-0", "database"] {
            fs::write(left.join(name), "rubbish").unwrap();
        }
        fixture.build(Layout::Pair, "1,new@x\n").unwrap();
        assert_eq!(get(&mut Map::open(&fixture.path).unwrap(), &[Some("1"), Some("7")]), [Some("new@x".into()), None]);
        assert_eq!(fixture.files(), BTreeSet::from(["emails.lmdb".to_owned()]));
    }
}
