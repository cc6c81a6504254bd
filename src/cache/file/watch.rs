//! Taking the content of a text file once it is whole.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use super::{pages, table::Table};
use crate::{
    cache::{
        Keys,
        lines::{Layout, unreadable},
        watch::{Content, Stamp, Trouble},
    },
    error::Misconfigured,
};

/// Looks over which a file that does not end in a newline has to stay the same: most likely its writer is not done.
const LOOKS_WITHOUT_NEWLINE: u32 = 5;

impl Content for Table {
    fn read(
        path: &Path,
        layout: Layout,
        stamp: &Stamp,
        looks: u32,
        current: Option<&Self>,
    ) -> Result<Option<Self>, Trouble> {
        let text = read(path, stamp, looks >= LOOKS_WITHOUT_NEWLINE)?;
        if current.is_some_and(|current| current.is_of(&text)) {
            return Ok(None);
        }
        Table::parse(text, layout).map(Some).map_err(|malformed| Trouble::Wrong(malformed.of(path)))
    }

    fn each(&self, keys: &Keys, take: impl FnMut(Option<&str>)) -> anyhow::Result<()> {
        self.get_all(keys, take);
        Ok(())
    }

    fn lines(&self) -> u64 {
        self.lines()
    }

    fn unreadable(path: &Path, kind: io::ErrorKind) -> Misconfigured {
        unreadable(path, kind)
    }
}

/// The content of `path`, whose stamp was and stays `stamp`.
fn read(path: &Path, stamp: &Stamp, without_newline: bool) -> Result<Vec<u8>, Trouble> {
    if stamp.size > Table::MAX_BYTES - 1 {
        let path = path.display();
        return Err(Trouble::Wrong(Misconfigured(format!(
            "{path}: has more than 4 GB; set cache = \"lmdb\" and run `metrobus cache build`, or put it into Redis with \
             `metrobus cache load`"
        ))));
    }
    let mut file = File::open(path)?;
    let unchanged = |file: &File| file.metadata().map(|metadata| Stamp::of(&metadata) == *stamp);
    if !unchanged(&file)? || (!without_newline && !ends_in_newline(&mut file)?) {
        return Err(Trouble::Unsettled);
    }
    // One more for a newline at its end, and one to see that there is no more
    let mut text = Vec::with_capacity(stamp.size as usize + 2);
    pages::large(&mut text);
    (&file).take(stamp.size + 1).read_to_end(&mut text)?;
    if text.len() as u64 != stamp.size || !unchanged(&file)? {
        return Err(Trouble::Unsettled);
    }
    Ok(text)
}

fn ends_in_newline(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    file.rewind()?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::PathBuf,
        time::{Duration, Instant, UNIX_EPOCH},
    };

    use super::*;
    use crate::cache::watch::{Outcome, Watch, sight};

    const OLD: &str = "1,old@x.example\n2,old@x.example\n";
    const NEW: &str = "1,new@x.example\n2,new@x.example\n";

    struct Fixture {
        _folder: tempfile::TempDir,
        path: PathBuf,
        watch: Watch<Table>,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("emails.dat");
            fs::write(&path, OLD).unwrap();
            let watch = Watch::open(&path, Layout::Pair).unwrap();
            Self { _folder: folder, path, watch }
        }

        fn get(&self, key: &str) -> Option<String> {
            self.watch.current().load().get(key).map(str::to_owned)
        }

        /// Looks again until there is an answer.
        fn outcome(&mut self) -> Outcome {
            (0..10).map(|_| self.watch.look()).find(|outcome| *outcome != Outcome::Unsettled).unwrap()
        }

        fn rereads(&mut self, expected: u64) {
            match self.outcome() {
                Outcome::Reread { lines, .. } => assert_eq!(lines, expected),
                other => panic!("{other:?}"),
            }
        }

        fn fails(&mut self, why: &str) {
            let expected = format!("{}: {why}", self.path.display());
            assert_eq!(self.outcome(), Outcome::Failed(expected));
            for _ in 0..10 {
                assert_eq!(self.watch.look(), Outcome::Unchanged, "told twice");
            }
            assert_eq!(self.get("1").as_deref(), Some("old@x.example"), "the old content is gone");
        }
    }

    #[test]
    fn a_file_renamed_over_it_is_taken_at_the_second_look() {
        let mut fixture = Fixture::new();
        assert_eq!(fixture.outcome(), Outcome::Unchanged);
        let beside = fixture.path.with_extension("new");
        fs::write(&beside, NEW).unwrap();
        fs::rename(&beside, &fixture.path).unwrap();
        assert_eq!(fixture.watch.look(), Outcome::Unsettled);
        assert_eq!(fixture.get("1").as_deref(), Some("old@x.example"));
        fixture.rereads(2);
        assert_eq!(fixture.get("1").as_deref(), Some("new@x.example"));
        assert_eq!(fixture.watch.look(), Outcome::Unchanged);
    }

    #[test]
    fn a_file_written_in_place_in_two_halves_is_taken_whole() {
        let mut fixture = Fixture::new();
        let (first, second) = NEW.split_at(NEW.len() / 2);
        fs::write(&fixture.path, first).unwrap();
        assert_eq!(fixture.watch.look(), Outcome::Unsettled);
        fs::write(&fixture.path, format!("{first}{second}")).unwrap();
        assert_eq!(fixture.watch.look(), Outcome::Unsettled);
        assert_eq!(fixture.get("2").as_deref(), Some("old@x.example"));
        fixture.rereads(2);
        assert_eq!(fixture.get("2").as_deref(), Some("new@x.example"));
    }

    #[test]
    fn a_file_without_a_last_newline_has_to_stay_the_same_for_longer() {
        let mut fixture = Fixture::new();
        fs::write(&fixture.path, NEW.trim_end()).unwrap();
        for _ in 0..4 {
            assert_eq!(fixture.watch.look(), Outcome::Unsettled);
        }
        assert!(matches!(fixture.watch.look(), Outcome::Reread { lines: 2, .. }));
        fs::write(&fixture.path, "").unwrap();
        for _ in 0..4 {
            assert_eq!(fixture.watch.look(), Outcome::Unsettled);
            assert_eq!(fixture.get("2").as_deref(), Some("new@x.example"));
        }
        assert!(matches!(fixture.watch.look(), Outcome::Reread { lines: 0, .. }));
        assert_eq!(fixture.get("2"), None);
    }

    #[test]
    fn a_broken_file_is_told_once_and_its_mending_seen() {
        let mut fixture = Fixture::new();
        fs::write(&fixture.path, "1,a@x\nsecret\n").unwrap();
        fixture.fails("line 2: has no comma, `account,email` is expected");
        fs::write(&fixture.path, "1,a@x\n\n").unwrap();
        fixture.fails("line 2: is blank");
        fs::write(&fixture.path, NEW).unwrap();
        fixture.rereads(2);
        assert_eq!(fixture.get("1").as_deref(), Some("new@x.example"));
    }

    #[test]
    fn a_file_that_goes_is_told_once_and_its_return_seen() {
        let mut fixture = Fixture::new();
        fs::remove_file(&fixture.path).unwrap();
        fixture.fails("no such file, run `metrobus make-data`");
        fs::create_dir(&fixture.path).unwrap();
        fixture.fails("cannot be read: is a directory; `metrobus make-data` writes one");
        fs::remove_dir(&fixture.path).unwrap();
        fs::write(&fixture.path, OLD).unwrap();
        assert_eq!(fixture.outcome(), Outcome::Unchanged, "the same content again");
        fs::remove_file(&fixture.path).unwrap();
        fixture.fails("no such file, run `metrobus make-data`");
        fs::write(&fixture.path, NEW).unwrap();
        fixture.rereads(2);
    }

    #[test]
    fn another_content_of_the_same_size_and_modification_time_is_seen() {
        let mut fixture = Fixture::new();
        let modified = fs::metadata(&fixture.path).unwrap().modified().unwrap();
        fs::write(&fixture.path, NEW).unwrap();
        File::options().write(true).open(&fixture.path).unwrap().set_modified(modified).unwrap();
        fixture.rereads(2);
    }

    #[test]
    fn changes_faster_than_the_clock_of_the_file_system_are_seen() {
        let mut fixture = Fixture::new();
        for round in 0..200 {
            let text = format!("1,{round:03}@x.example\n2,{round:03}@x.example\n");
            fs::write(&fixture.path, &text).unwrap();
            // The second write may leave the same stamp behind as the first, which may have been taken
            fixture.watch.look();
            fixture.watch.look();
            fs::write(&fixture.path, text.replace('x', "y")).unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            while fixture.get("2").unwrap() != format!("{round:03}@y.eyample") {
                assert!(Instant::now() < deadline, "round {round}: the second write was not seen");
                fixture.watch.look();
            }
        }
    }

    #[test]
    fn a_stamp_lasts_once_the_clock_of_the_file_system_has_moved_on() {
        let fixture = Fixture::new();
        let stamp = sight(&fixture.path).unwrap();
        let changed = UNIX_EPOCH + Duration::new(stamp.changed.0 as u64, stamp.changed.1 as u32);
        for (after, lasting) in [(0, false), (19, false), (21, true), (60_000, true)] {
            assert_eq!(stamp.is_lasting(changed + Duration::from_millis(after)), lasting, "{after} ms");
        }
        assert!(
            stamp.is_lasting(changed - Duration::from_secs(60)),
            "a clock that is behind must not read it for ever"
        );
    }

    #[test]
    fn a_file_that_changed_since_the_look_is_left_alone() {
        let fixture = Fixture::new();
        let before = sight(&fixture.path).unwrap();
        fs::write(&fixture.path, format!("{NEW}{NEW}")).unwrap();
        assert!(matches!(read(&fixture.path, &before, true), Err(Trouble::Unsettled)));
        let shorter = Stamp { size: 5, ..before };
        assert!(matches!(read(&fixture.path, &shorter, true), Err(Trouble::Unsettled)));
        let large = Stamp { size: 1 << 32, ..before };
        assert!(matches!(read(&fixture.path, &large, true), Err(Trouble::Wrong(_))));
    }

    #[test]
    fn what_is_wrong_at_start_is_told_with_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whitelist.dat");
        let error = |path: &Path| Watch::<Table>::open(path, Layout::Single).err().unwrap().to_string();
        let name = path.display();
        assert_eq!(error(&path), format!("{name}: no such file, run `metrobus make-data`"));
        fs::write(&path, "a@x\nb@x\nsecret\n").unwrap();
        assert_eq!(error(&path), format!("{name}: line 3: has an email without @"));
        assert_eq!(
            error(&path.join("x")),
            format!("{name}/x: cannot be read: not a directory; `metrobus make-data` writes one")
        );
        assert_eq!(error(Path::new("/dev/null")), "/dev/null: is not a regular file");
    }
}
