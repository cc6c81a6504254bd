//! When a file of lines is put aside for a new one, what it is called then, and how many of those stay.
//!
//! `log.ndjson` becomes `log.ndjson.2026-11-21.000001`: the day, by UTC, on which it was last written to, and a number
//! that goes up within the day. So names sort in the order of what is in the files.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Deserialize;

/// `[logstop.rotate]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// Most bytes of a file, unless a single line is longer; 0 is no limit.
    pub bytes: u64,
    /// A file holds lines of one day, by UTC.
    pub daily: bool,
    /// How many of the files before this one are kept; 0 is all.
    pub keep: usize,
}

impl Rotation {
    /// Whether a file of `length` bytes, last written to at `written`, is to be put aside before more is written at `now`.
    pub fn is_due(&self, length: u64, written: SystemTime, next_line: usize, now: SystemTime) -> bool {
        let full = self.bytes > 0 && length.saturating_add(next_line as u64) > self.bytes;
        // A clock that was set back makes no new day
        let over = self.daily && day(written) < day(now);
        length > 0 && (full || over)
    }

    /// How many bytes of `lines`, which are whole lines, go to a file of `length` bytes: all that fit, and at least one.
    pub fn fitting(&self, lines: &[u8], length: u64) -> usize {
        let room = usize::try_from(self.bytes.saturating_sub(length)).unwrap_or(usize::MAX);
        if self.bytes == 0 || lines.len() <= room {
            return lines.len();
        }
        match memchr::memrchr(b'\n', &lines[..room]) {
            Some(end) => end + 1,
            None => first_line(lines),
        }
    }
}

/// The length of the first of some lines.
pub(super) fn first_line(lines: &[u8]) -> usize {
    memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1)
}

/// The day of a time, by UTC, as 2026-11-21. Times before 1970 and behind 9999, which a file may claim, are of the first and
/// the last day.
pub(super) fn day(time: SystemTime) -> String {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
    let mut text = humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string();
    text.truncate("2026-11-21".len());
    text
}

/// Puts the file at `path`, last written to at `written`, aside under a name that no other has or had.
pub(super) fn put_aside(path: &Path, written: SystemTime) -> io::Result<()> {
    let day = day(written);
    let last = aside(path)?.into_iter().filter(|other| other.day == day).map(|other| other.number).max();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{day}.{:06}", last.unwrap_or(0) + 1));
    fs::rename(path, PathBuf::from(name))
}

/// Removes the oldest of the files that were put aside, so that `keep` stay.
pub(super) fn remove_oldest(path: &Path, keep: usize) -> io::Result<()> {
    let mut aside: Vec<_> = aside(path)?.into_iter().filter(|other| other.own).collect();
    aside.sort();
    let excess = aside.len().saturating_sub(keep);
    aside[..excess].iter().try_for_each(|other| fs::remove_file(&other.path))
}

/// A file that was put aside.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Aside {
    day: String,
    number: u64,
    /// As it was left; else somebody has added to its name, as compressors do.
    own: bool,
    path: PathBuf,
}

fn aside(path: &Path) -> io::Result<Vec<Aside>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(name) = path.file_name() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some((day, number, own)) = parse(&entry.file_name(), name) {
            found.push(Aside { day, number, own, path: entry.path() });
        }
    }
    Ok(found)
}

/// Day and number of the file called `other`, and whether nothing is behind them, where it was `name` once.
fn parse(other: &OsStr, name: &OsStr) -> Option<(String, u64, bool)> {
    let rest = other.to_str()?.strip_prefix(name.to_str()?)?.strip_prefix('.')?;
    let (day, rest) = rest.split_once('.')?;
    let (number, behind) = rest.split_once('.').map_or((rest, None), |(number, behind)| (number, Some(behind)));
    let is_day = day.len() == 10 && day.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let is_number = number.len() >= 6 && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_day && is_number).then_some((day.to_owned(), number.parse().ok()?, behind.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const DAY: u64 = 86_400;

    #[test]
    fn a_file_is_put_aside_when_it_is_full_or_its_day_is_over() {
        let by_size = Rotation { bytes: 100, ..Rotation::default() };
        for (length, next_line, due) in [(0, 200, false), (1, 100, true), (60, 40, false), (60, 41, true)] {
            assert_eq!(by_size.is_due(length, at(0), next_line, at(9 * DAY)), due, "{length} and {next_line}");
        }
        let daily = Rotation { daily: true, ..Rotation::default() };
        assert!(!daily.is_due(1, at(0), 1, at(DAY - 1)) && daily.is_due(1, at(DAY - 1), 1, at(DAY)));
        assert!(!daily.is_due(0, at(0), 1, at(DAY)), "an empty file has no day");
        assert!(!daily.is_due(1, at(DAY), 1, at(DAY - 1)), "a clock that is set back makes no new day");
        assert!(!Rotation::default().is_due(u64::MAX, at(0), 1, at(DAY)));
    }

    #[test]
    fn a_day_is_one_of_utc_and_any_time_has_one() {
        assert_eq!(day(at(20_000 * DAY - 1)), "2024-10-03");
        assert_eq!(day(at(20_000 * DAY)), "2024-10-04");
        assert_eq!(day(UNIX_EPOCH - Duration::from_secs(9)), "1970-01-01");
        assert_eq!(day(at(9_999_999_999_999)), "9999-12-31");
    }

    #[test]
    fn whole_lines_go_to_a_file_and_at_least_one() {
        let rotation = Rotation { bytes: 10, ..Rotation::default() };
        for (lines, length, fit) in [
            ("aaa\nbbb\nccc\n", 0, 8),
            ("aaa\nbbb\nccc\n", 6, 4),
            ("aaa\nbbb\n", 2, 8),
            ("aaa\n", 9, 4),
            ("a line that is too long\nb\n", 0, 24),
        ] {
            assert_eq!(rotation.fitting(lines.as_bytes(), length), fit, "{lines:?} behind {length}");
        }
        assert_eq!(Rotation::default().fitting(b"a\nb\n", u64::MAX), 4);
    }

    #[test]
    fn names_go_up_and_none_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.ndjson");
        let names = || {
            let mut names: Vec<_> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        for compressed in [false, true, false] {
            fs::write(&path, "x\n").unwrap();
            put_aside(&path, at(0)).unwrap();
            if compressed {
                let name = |end| folder.path().join(format!("log.ndjson.1970-01-01.000002{end}"));
                fs::rename(name(""), name(".gz")).unwrap();
            }
        }
        fs::write(&path, "x\n").unwrap();
        put_aside(&path, at(DAY)).unwrap();
        let all = [
            "log.ndjson.1970-01-01.000001",
            "log.ndjson.1970-01-01.000002.gz",
            "log.ndjson.1970-01-01.000003",
            "log.ndjson.1970-01-02.000001",
        ];
        assert_eq!(names(), all);
        for other in
            ["log.ndjson.bak", "log.ndjson.1970-01-01.1", "log.ndjson.old.000001", "my.log.ndjson.1970-01-01.000001"]
        {
            fs::write(folder.path().join(other), "").unwrap();
        }
        remove_oldest(&path, 1).unwrap();
        let left = names();
        assert_eq!(left.len(), 2 + 4, "{left:?}");
        assert!(left.contains(&all[1].to_owned()) && left.contains(&all[3].to_owned()), "{left:?}");
    }
}
