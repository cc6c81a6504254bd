//! The two text files that caches are filled from, a line at a time: what is right, and what is wrong with the rest.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::error::Misconfigured;

/// The longest line that a [`Reader`] takes, in bytes with its newline: what it holds of the file stays small.
const LONGEST: u64 = 1 << 20;

/// What a line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `account,email`, as in emails.dat.
    Pair,
    /// An email, as in whitelist.dat.
    Single,
}

/// A line that is not of its layout. Says what is wrong and where, not what it holds: that is personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Counted from 1.
    pub line: u64,
    pub why: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl Malformed {
    /// The same as an error of `path`.
    pub fn of(self, path: &Path) -> Misconfigured {
        Misconfigured(format!("{}: {self}", path.display()))
    }
}

impl Layout {
    /// What ends the key in a line.
    pub(super) fn key_end(self) -> u8 {
        match self {
            Self::Pair => b',',
            Self::Single => b'\n',
        }
    }

    /// Takes `line`, without its newline, apart into key and value (`""` with [`Layout::Single`]), or says what is
    /// wrong with it. A carriage return at its end is no part of it.
    pub fn split(self, line: &[u8]) -> Result<(&str, &str), &'static str> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| "is not UTF-8")?;
        if line.trim().is_empty() {
            return Err("is blank");
        }
        // Without an early exit the compiler makes vectors of it
        let plain = line.bytes().fold(true, |plain, b| plain & (b' '..0x7f).contains(&b));
        if !plain && line.contains(char::is_control) {
            return Err("holds a control character");
        }
        let (key, value, email) = match self {
            Self::Pair => {
                let (account, email) = pair(line)?;
                (account, email, email)
            }
            Self::Single if line.contains(',') => return Err("holds a comma, an email alone is expected"),
            Self::Single => (line, "", line),
        };
        if !email.contains('@') {
            return Err("has an email without @");
        }
        if is_padded(key) || is_padded(value) || key.starts_with('\u{feff}') {
            return Err("holds white space or a byte order mark around an account or email");
        }
        Ok((key, value))
    }
}

fn is_padded(text: &str) -> bool {
    let ends = [text.chars().next(), text.chars().next_back()];
    ends.into_iter().flatten().any(char::is_whitespace)
}

fn pair(line: &str) -> Result<(&str, &str), &'static str> {
    match line.split_once(',') {
        None => Err("has no comma, `account,email` is expected"),
        Some((_, email)) if email.contains(',') => Err("has more than one comma"),
        Some(("", _)) => Err("has no account before the comma"),
        Some((_, "")) => Err("has no email after the comma"),
        Some(pair) => Ok(pair),
    }
}

/// What to say of a file that cannot be read.
pub(crate) fn unreadable(path: &Path, kind: io::ErrorKind) -> Misconfigured {
    let path = path.display();
    Misconfigured(match kind {
        io::ErrorKind::NotFound => format!("{path}: no such file, run `metrobus make-data`"),
        io::ErrorKind::InvalidInput => format!("{path}: is not a regular file"),
        kind => format!("{path}: cannot be read: {kind}; `metrobus make-data` writes one"),
    })
}

/// Reads a file line by line, whatever its size.
pub struct Reader {
    path: PathBuf,
    layout: Layout,
    input: BufReader<File>,
    text: Vec<u8>,
    line: u64,
    bytes: u64,
}

impl Reader {
    pub fn open(path: &Path, layout: Layout) -> Result<Self, Misconfigured> {
        let file = File::open(path).map_err(|error| unreadable(path, error.kind()))?;
        let input = BufReader::with_capacity(1 << 16, file);
        Ok(Self { path: path.into(), layout, input, text: Vec::new(), line: 0, bytes: 0 })
    }

    /// Key and value of the next line; `None` at the end. The first line that is not right is the error.
    pub fn read(&mut self) -> Result<Option<(&str, &str)>, Misconfigured> {
        self.text.clear();
        let read = (&mut self.input).take(LONGEST).read_until(b'\n', &mut self.text);
        self.bytes += read.map_err(|error| unreadable(&self.path, error.kind()))? as u64;
        if self.text.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        if self.text.len() as u64 == LONGEST && !self.text.ends_with(b"\n") {
            return Err(Malformed { line: self.line, why: "is longer than 1 MiB" }.of(&self.path));
        }
        let line = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        let split = self.layout.split(line);
        split.map(Some).map_err(|why| Malformed { line: self.line, why }.of(&self.path))
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_counts_lines_and_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("emails.dat");
        std::fs::write(&path, "1,a@x\r\n2,b@x\n3").unwrap();
        let mut reader = Reader::open(&path, Layout::Pair).unwrap();
        assert_eq!(reader.read().unwrap(), Some(("1", "a@x")));
        assert_eq!(reader.read().unwrap(), Some(("2", "b@x")));
        assert_eq!(reader.bytes(), 13);
        let error = reader.read().unwrap_err().to_string();
        assert_eq!(error, format!("{}: line 3: has no comma, `account,email` is expected", path.display()));
        std::fs::write(&path, "1,a@x").unwrap();
        let mut reader = Reader::open(&path, Layout::Pair).unwrap();
        assert_eq!(reader.read().unwrap(), Some(("1", "a@x")));
        assert_eq!(reader.read().unwrap(), None);
        let error = Reader::open(folder.path(), Layout::Pair).unwrap().read().unwrap_err().to_string();
        assert!(error.ends_with(": cannot be read: is a directory; `metrobus make-data` writes one"), "{error}");
    }

    #[test]
    fn a_pair_and_a_single_are_taken_apart() {
        assert_eq!(Layout::Pair.split(b"1000000,a@b.example"), Ok(("1000000", "a@b.example")));
        assert_eq!(Layout::Pair.split(b"1000000,a@b.example\r"), Ok(("1000000", "a@b.example")));
        assert_eq!(Layout::Single.split("jürgen@b.example\r".as_bytes()), Ok(("jürgen@b.example", "")));
    }

    #[test]
    fn every_malformed_line_gets_its_reason() {
        let pairs: &[(&[u8], &str)] = &[
            (b"", "is blank"),
            (b"\r", "is blank"),
            (b"  ", "is blank"),
            (b"1000000", "has no comma, `account,email` is expected"),
            (b",a@b", "has no account before the comma"),
            (b"1000000,", "has no email after the comma"),
            (b",", "has no account before the comma"),
            (b"1000000,a@b,", "has more than one comma"),
            (b"1000000,a@b,c@d", "has more than one comma"),
            (b"1000000,ab", "has an email without @"),
            (b"1000000,a\xff@b", "is not UTF-8"),
            (b"1000000,a\0@b", "holds a control character"),
            (b"1000000,a\t@b", "holds a control character"),
            (b"1000000,a@b\r\r", "holds a control character"),
            (b"1000000,a@b\x7f", "holds a control character"),
            ("1000000,a@b\u{85}".as_bytes(), "holds a control character"),
            (b"1000000, a@b", "holds white space or a byte order mark around an account or email"),
            (b"1000000 ,a@b", "holds white space or a byte order mark around an account or email"),
            ("\u{feff}1000000,a@b".as_bytes(), "holds white space or a byte order mark around an account or email"),
        ];
        for (line, why) in pairs {
            assert_eq!(Layout::Pair.split(line), Err(*why), "{}", line.escape_ascii());
        }
        let singles: &[(&[u8], &str)] = &[
            (b"", "is blank"),
            (b" ", "is blank"),
            (b"ab", "has an email without @"),
            (b"1000000,a@b", "holds a comma, an email alone is expected"),
            (b"\xffa@b", "is not UTF-8"),
            (b"a@b\x1b", "holds a control character"),
            (b"a@b ", "holds white space or a byte order mark around an account or email"),
        ];
        for (line, why) in singles {
            assert_eq!(Layout::Single.split(line), Err(*why), "{}", line.escape_ascii());
        }
    }
}
