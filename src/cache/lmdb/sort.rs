//! Records in the order of the hashes of their keys, however many: sorted in pieces that fit into memory, each written
//! to a file of its own, a *run*, and merged from there.
//!
//! Records of the same hash stay together as a group, in which a key is there once, with its last value.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use super::format::{Record, append_record};

/// A piece is full with this many bytes or records, whichever comes first: some 80 MB with the index.
const PIECE_BYTES: usize = 48 << 20;
const PIECE_RECORDS: usize = 2_000_000;

/// Most runs that are read at once.
const RUNS: usize = 256;

/// For each run that is read or written.
const BUFFER: usize = 128 << 10;

/// Records of one hash.
#[derive(Debug, Default)]
pub struct Group {
    pub records: Vec<u8>,
    pub count: u64,
}

impl Group {
    fn clear(&mut self) {
        self.records.clear();
        self.count = 0;
    }

    /// Adds records, which come after those that it has.
    fn add(&mut self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            let record = Record::first(records).ok_or_else(broken)?;
            self.remove(record.key)?;
            self.records.extend_from_slice(&records[..records.len() - record.rest.len()]);
            self.count += 1;
            records = record.rest;
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while at < self.records.len() {
            let record = Record::first(&self.records[at..]).ok_or_else(broken)?;
            let end = self.records.len() - record.rest.len();
            if record.key == key {
                self.records.drain(at..end);
                self.count -= 1;
                return Ok(());
            }
            at = end;
        }
        Ok(())
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a file of the build has changed")
}

/// Records in memory.
pub struct Piece {
    records: Vec<u8>,
    /// Hash and place of each.
    index: Vec<(u64, u32)>,
}

impl Piece {
    pub fn new() -> Self {
        Self { records: Vec::with_capacity(PIECE_BYTES), index: Vec::with_capacity(PIECE_RECORDS) }
    }

    pub fn push(&mut self, hash: u64, key: &str, value: &str) {
        // There is room for one more: a line has far less than 4 GB
        self.index.push((hash, self.records.len() as u32));
        append_record(&mut self.records, key.as_bytes(), value.as_bytes());
    }

    pub fn is_full(&self) -> bool {
        self.records.len() >= PIECE_BYTES || self.index.len() >= PIECE_RECORDS
    }

    /// Of its records.
    pub fn bytes(&self) -> u64 {
        self.records.len() as u64
    }

    /// Sorts it, and writes it as a run.
    pub fn write(mut self, path: &Path) -> io::Result<()> {
        self.index.sort_unstable();
        let mut out = RunWriter::create(path)?;
        let mut group = Group::default();
        for same in self.index.chunk_by(|a, b| a.0 == b.0) {
            group.clear();
            for (hash, start) in same {
                let records = &self.records[*start as usize..];
                let record = Record::first(records).ok_or_else(broken)?;
                let record = &records[..records.len() - record.rest.len()];
                if same.len() == 1 {
                    out.write(*hash, record)?;
                } else {
                    group.add(record)?;
                }
            }
            if same.len() > 1 {
                out.write(same[0].0, &group.records)?;
            }
        }
        out.finish()
    }
}

struct RunWriter(BufWriter<File>);

impl RunWriter {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(BufWriter::with_capacity(BUFFER, File::create_new(path)?)))
    }

    fn write(&mut self, hash: u64, records: &[u8]) -> io::Result<()> {
        let mut head = [0; 12];
        head[..8].copy_from_slice(&hash.to_le_bytes());
        head[8..].copy_from_slice(&(records.len() as u32).to_le_bytes());
        self.0.write_all(&head)?;
        self.0.write_all(records)
    }

    fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A run that is being read.
struct Run {
    input: BufReader<File>,
    hash: u64,
    records: Vec<u8>,
}

impl Run {
    fn open(path: &Path) -> io::Result<Self> {
        let input = BufReader::with_capacity(BUFFER, File::open(path)?);
        Ok(Self { input, hash: 0, records: Vec::new() })
    }

    /// Takes the next group; `false` at the end.
    fn advance(&mut self) -> io::Result<bool> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let mut head = [0; 12];
        self.input.read_exact(&mut head)?;
        let [hash @ .., a, b, c, d] = head;
        self.hash = u64::from_le_bytes(hash);
        self.records.resize(u32::from_le_bytes([a, b, c, d]) as usize, 0);
        self.input.read_exact(&mut self.records)?;
        Ok(true)
    }
}

/// Reads runs as one.
pub struct Merge {
    runs: Vec<Run>,
    /// The hash that each run is at, and its number: of equal ones the earlier run comes first.
    heap: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Merge {
    /// Takes runs in the order of their lines. More than can be read at once are merged by groups first, in `folder`;
    /// `step` is asked now and then whether to go on.
    pub fn open(
        mut paths: Vec<PathBuf>,
        folder: &Path,
        step: &mut dyn FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let mut level = 0;
        while paths.len() > RUNS {
            level += 1;
            let mut merged = Vec::new();
            for (number, some) in paths.chunks(RUNS).enumerate() {
                let path = folder.join(format!("merged-{level}-{number}"));
                let (mut all, mut out) = (Self::of(some)?, RunWriter::create(&path)?);
                let mut group = Group::default();
                while let Some(hash) = all.next(&mut group)? {
                    out.write(hash, &group.records)?;
                    if hash.is_multiple_of(1 << 14) {
                        step()?;
                    }
                }
                out.finish()?;
                some.iter().try_for_each(std::fs::remove_file)?;
                merged.push(path);
            }
            paths = merged;
        }
        Ok(Self::of(&paths)?)
    }

    fn of(paths: &[PathBuf]) -> io::Result<Self> {
        let mut runs = paths.iter().map(|path| Run::open(path)).collect::<io::Result<Vec<_>>>()?;
        let mut heap = BinaryHeap::with_capacity(runs.len());
        for (number, run) in runs.iter_mut().enumerate() {
            if run.advance()? {
                heap.push(Reverse((run.hash, number)));
            }
        }
        Ok(Self { runs, heap })
    }

    /// Replaces `group` by the next one and gives its hash; `None` at the end.
    pub fn next(&mut self, group: &mut Group) -> io::Result<Option<u64>> {
        group.clear();
        let Some(Reverse((hash, _))) = self.heap.peek().copied() else { return Ok(None) };
        while let Some(mut top) = self.heap.peek_mut() {
            let Reverse((next, number)) = *top;
            if next != hash {
                break;
            }
            let run = &mut self.runs[number];
            group.add(&run.records)?;
            match run.advance()? {
                true => *top = Reverse((run.hash, number)),
                false => drop(PeekMut::pop(top)),
            }
        }
        Ok(Some(hash))
    }

    /// The hash of the next group.
    pub fn peek(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((hash, _))| *hash)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Merges these pieces; keys and values by hash.
    fn merged(pieces: &[Vec<(u64, String, String)>]) -> BTreeMap<u64, BTreeMap<String, String>> {
        let folder = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (number, records) in pieces.iter().enumerate() {
            let mut piece = Piece { records: Vec::new(), index: Vec::new() };
            records.iter().for_each(|(hash, key, value)| piece.push(*hash, key, value));
            paths.push(folder.path().join(number.to_string()));
            piece.write(&paths[number]).unwrap();
        }
        let mut merge = Merge::open(paths, folder.path(), &mut || Ok(())).unwrap();
        let (mut found, mut group, mut last) = (BTreeMap::new(), Group::default(), None);
        while let Some(hash) = merge.next(&mut group).unwrap() {
            assert!(last.replace(hash) < Some(hash), "in order, each once");
            let (mut records, mut rest) = (BTreeMap::new(), group.records.as_slice());
            while let Some(record) = Record::first(rest) {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                assert!(records.insert(text(record.key), text(record.value)).is_none(), "a key is there twice");
                rest = record.rest;
            }
            assert_eq!(group.count, records.len() as u64);
            found.insert(hash, records);
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// With few hashes and few keys there is a lot that comes together.
        #[test]
        fn the_last_value_of_a_key_counts(
            pieces in prop::collection::vec(prop::collection::vec((0..5_u64, "[ab]{0,2}", "[a-z]{0,3}"), 0..30), 0..6),
        ) {
            let mut expected: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
            for (hash, key, value) in pieces.iter().flatten() {
                expected.entry(*hash).or_default().insert(key.clone(), value.clone());
            }
            prop_assert_eq!(merged(&pieces), expected);
        }
    }

    #[test]
    fn more_runs_than_can_be_open_are_merged_in_steps() {
        let record = |n: u64| (n % 7, (n % 100).to_string(), n.to_string());
        let pieces: Vec<_> = (0..2 * RUNS as u64 + 5).map(|n| vec![record(n)]).collect();
        let mut expected: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
        for (hash, key, value) in pieces.iter().flatten() {
            expected.entry(*hash).or_default().insert(key.clone(), value.clone());
        }
        assert_eq!(merged(&pieces), expected);
    }
}
