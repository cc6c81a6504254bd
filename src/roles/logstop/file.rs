//! A file of lines, for several processes at once.
//!
//! Whoever writes holds a lock on the file, and looks first whether it still is the file of that name: so another
//! process, or a program like logrotate, may put it aside at any time. A write that fails is taken back, and what a
//! process that died left of a line is cut off: the messages are written again by whoever reads them next.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, bail};
use tracing::warn;

use super::rotation::{self, Rotation};

/// How often a file is opened before a write is given up: others may put it aside in between.
const TURNS: usize = 100;

pub(super) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    file: Option<File>,
    /// What is written already of lines whose writing failed, and stays.
    written: Vec<u8>,
}

impl LogFile {
    /// Opens the file, and makes it and its folder where they are missing.
    pub fn open(path: PathBuf, rotation: Rotation) -> io::Result<Self> {
        match path.parent().map(fs::create_dir_all) {
            // Where a file stands in the way, opening says so better
            Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let file = Some(open(&path)?);
        Ok(Self { path, rotation, file, written: Vec::new() })
    }

    /// Appends whole lines, each to one file.
    ///
    /// All or none, as far as the file system lets it: where it fails, the same lines can be written again, and none is
    /// there twice then.
    pub fn write(&mut self, lines: &[u8], now: SystemTime) -> anyhow::Result<()> {
        let mut done = if lines.starts_with(&self.written) { self.written.len() } else { 0 };
        self.written.clear();
        while done < lines.len() {
            match self.append(&lines[done..], now) {
                Ok(length) => done += length,
                Err(error) => {
                    self.written.extend_from_slice(&lines[..done]);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Appends as many of the lines as go to one file; gives how many bytes that were.
    fn append(&mut self, lines: &[u8], now: SystemTime) -> anyhow::Result<usize> {
        for _ in 0..TURNS {
            let file = match self.file.take() {
                Some(file) => file,
                None => open(&self.path).with_context(|| format!("open {}", self.path.display()))?,
            };
            let lock = Lock::of(&file).context("lock the output file")?;
            let metadata = file.metadata().context("look at the output file")?;
            if !self.is_still(&metadata) {
                continue;
            }
            let length = whole_lines(&file, &metadata, &self.path).context("end the last line of the output file")?;
            let written = metadata.modified().unwrap_or(now);
            let rotates = metadata.is_file();
            if rotates && self.rotation.is_due(length, written, rotation::first_line(lines), now) {
                rotation::put_aside(&self.path, written)
                    .with_context(|| format!("put {} aside", self.path.display()))?;
                self.remove_oldest();
                continue;
            }
            let fitting = if rotates { self.rotation.fitting(lines, length) } else { lines.len() };
            let appended = append(&file, length, &lines[..fitting]);
            drop(lock);
            self.file = Some(file);
            return appended.context("write to the output file").map(|()| fitting);
        }
        bail!("{} is another file each time that it is opened", self.path.display())
    }

    /// Whether the open file still is the one of its name.
    fn is_still(&self, metadata: &Metadata) -> bool {
        fs::metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == (metadata.dev(), metadata.ino()))
    }

    fn remove_oldest(&self) {
        if self.rotation.keep == 0 {
            return;
        }
        // Lines matter more than that there be few files
        if let Err(error) = rotation::remove_oldest(&self.path, self.rotation.keep) {
            warn!("cannot remove old files of {}: {error}", self.path.display());
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    // To see how the last line ends; a pipe that is read here would never lose its last reader
    if fs::metadata(path).map_or(true, |metadata| metadata.is_file())
        && let Ok(file) = options.clone().read(true).open(path)
    {
        return Ok(file);
    }
    options.open(path)
}

/// Keeps others from writing to a file until it is dropped.
struct Lock<'a>(&'a File);

impl<'a> Lock<'a> {
    fn of(file: &'a File) -> io::Result<Self> {
        match file.lock() {
            // A file system without locks: as well as it goes
            Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
            _ => Ok(Self(file)),
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn append(mut file: &File, length: u64, lines: &[u8]) -> io::Result<()> {
    file.write_all(lines).inspect_err(|_| {
        let _ = file.set_len(length);
    })
}

/// Sees to it that the file ends with the end of a line; gives its length then.
fn whole_lines(mut file: &File, metadata: &Metadata, path: &Path) -> io::Result<u64> {
    let length = metadata.len();
    let mut last = [0];
    // A file that we may not read ends as it does
    if !metadata.is_file() || length == 0 || file.read_exact_at(&mut last, length - 1).is_err() || last == *b"\n" {
        return Ok(length);
    }
    let start = last_line(file, length)?;
    let mut first = [0];
    file.read_exact_at(&mut first, start)?;
    if first != *b"{" {
        // No message of ours, so not ours to cut
        file.write_all(b"\n")?;
        return Ok(length + 1);
    }
    file.set_len(start)?;
    warn!("{} ended within a line; cut it off, {} bytes", path.display(), length - start);
    Ok(start)
}

/// Where the last line of a file begins.
fn last_line(file: &File, length: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 << 10];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let block = &mut block[..(end - start) as usize];
        file.read_exact_at(block, start)?;
        if let Some(at) = memchr::memrchr(b'\n', block) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    struct Scratch {
        folder: tempfile::TempDir,
        path: PathBuf,
    }

    impl Scratch {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("out/log.ndjson");
            Self { folder, path }
        }

        fn open(&self, rotation: Rotation) -> LogFile {
            LogFile::open(self.path.clone(), rotation).unwrap()
        }

        /// Names and contents of all files, the one that is written to first.
        fn files(&self) -> Vec<(String, String)> {
            let read = |entry: io::Result<fs::DirEntry>| {
                let path = entry.unwrap().path();
                (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
            };
            let mut files: Vec<_> = fs::read_dir(self.folder.path().join("out")).unwrap().map(read).collect();
            files.sort();
            files
        }

        fn contents(&self) -> Vec<String> {
            self.files().into_iter().map(|(_, content)| content).collect()
        }
    }

    fn now() -> SystemTime {
        SystemTime::now()
    }

    #[test]
    fn files_are_no_longer_than_they_may_be_and_no_line_is_torn() {
        let scratch = Scratch::new();
        let rotation = Rotation { bytes: 12, ..Rotation::default() };
        let mut file = scratch.open(rotation);
        file.write(b"aaa\nbbb\nccc\nddd\n", now()).unwrap();
        file.write(b"a line that is too long\n", now()).unwrap();
        drop(file);
        scratch.open(rotation).write(b"e\n", now()).unwrap();
        assert_eq!(scratch.contents(), ["e\n", "aaa\nbbb\nccc\n", "ddd\n", "a line that is too long\n"]);
    }

    #[test]
    fn each_day_has_its_file_called_after_it() {
        let scratch = Scratch::new();
        let mut file = scratch.open(Rotation { daily: true, ..Rotation::default() });
        let lines = ["a\n", "b\n", "c\n"];
        for (index, lines) in lines.into_iter().enumerate() {
            let time = UNIX_EPOCH + 2 * DAY * index as u32;
            file.write(lines.as_bytes(), time).unwrap();
            // The file system has a clock of its own
            File::options().write(true).open(&scratch.path).unwrap().set_modified(time).unwrap();
            file.write(lines.as_bytes(), time + DAY - Duration::from_secs(1)).unwrap();
            File::options().write(true).open(&scratch.path).unwrap().set_modified(time).unwrap();
        }
        let name = |day| format!("log.ndjson.{day}.000001");
        let files =
            [("log.ndjson".to_owned(), "c\nc\n"), (name("1970-01-01"), "a\na\n"), (name("1970-01-03"), "b\nb\n")];
        assert_eq!(scratch.files(), files.map(|(name, content)| (name, content.to_owned())));
    }

    #[test]
    fn only_so_many_files_are_kept() {
        let scratch = Scratch::new();
        let mut file = scratch.open(Rotation { bytes: 1, keep: 2, ..Rotation::default() });
        file.write(b"a\nb\nc\nd\ne\n", now()).unwrap();
        assert_eq!(scratch.contents(), ["e\n", "c\n", "d\n"]);
    }

    #[test]
    fn several_may_write_and_put_aside_at_once() {
        const EACH: usize = 300;
        let scratch = Scratch::new();
        let rotation = Rotation { bytes: 100, ..Rotation::default() };
        let write = &|name: char| {
            let mut file = scratch.open(rotation);
            for number in 0..EACH {
                file.write(format!("{name}{number}\n{name}{number}+\n").as_bytes(), now()).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for name in ['x', 'y', 'z'] {
                scope.spawn(move || write(name));
            }
        });
        let contents = scratch.contents();
        assert!(contents.iter().all(|content| content.len() <= 100 && content.ends_with('\n')), "{contents:?}");
        let mut lines: Vec<_> = contents.iter().flat_map(|content| content.lines()).collect();
        lines.sort_unstable();
        let both = |number| ['x', 'y', 'z'].map(|name| [format!("{name}{number}"), format!("{name}{number}+")]);
        let mut expected: Vec<_> = (0..EACH).flat_map(both).flatten().collect();
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_file_that_was_moved_away_is_left_and_a_new_one_begun() {
        let scratch = Scratch::new();
        let mut file = scratch.open(Rotation::default());
        file.write(b"a\n", now()).unwrap();
        fs::rename(&scratch.path, scratch.path.with_extension("old")).unwrap();
        file.write(b"b\n", now()).unwrap();
        assert_eq!(scratch.contents(), ["b\n", "a\n"]);
    }

    #[test]
    fn what_a_dead_process_left_of_a_line_is_cut_off() {
        let long = format!("{{\"pad\":\"{}", "x".repeat(200_000));
        for (left, then) in [
            ("{\"a\":1}\n{\"b\":", "{\"a\":1}\n{}\n"),
            ("{\"a\":1}", "{}\n"),
            (&long, "{}\n"),
            ("{\"a\":1}\n", "{\"a\":1}\n{}\n"),
            ("of somebody else", "of somebody else\n{}\n"),
        ] {
            let scratch = Scratch::new();
            let mut file = scratch.open(Rotation::default());
            fs::write(&scratch.path, left).unwrap();
            file.write(b"{}\n", now()).unwrap();
            assert_eq!(scratch.contents(), [then], "{:.40}", left);
        }
    }

    #[test]
    fn lines_that_failed_to_be_written_in_the_middle_are_there_once() {
        let mut scratch = Scratch::new();
        // A name so long that the file can be written and cannot be put aside
        scratch.path.set_file_name("x".repeat(250));
        let mut file = scratch.open(Rotation { bytes: 4, ..Rotation::default() });
        let lines = b"a\nb\nc\n";
        let error = file.write(lines, now()).unwrap_err();
        assert!(format!("{error:#}").contains("aside: File name too long"), "{error:#}");
        assert_eq!(scratch.contents(), ["a\nb\n"]);
        file.rotation.bytes = 0;
        file.write(lines, now()).unwrap();
        file.write(lines, now()).unwrap();
        assert_eq!(scratch.contents(), ["a\nb\nc\na\nb\nc\n"]);
    }
}
