//! What is in the file: records in buckets by the hash of their key, and a footer that says so.
//!
//! A bucket is a record of LMDB, by its number, 4 bytes with the highest first: so few and large ones, of some 50 KB,
//! that LMDB's tree stays in the processor's caches. In a bucket are [`SLOTS`] slots, of some ten records each: first
//! where each of them begins and the last one ends, 4 bytes with the lowest first, then their records. A record holds
//! its whole key, which is what answers go by; a hash only leads there. Buckets that would be empty are left out.
//!
//! Behind the pages of LMDB, which knows nothing of it, stands the footer.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use serde::{Deserialize, Serialize};

use crate::cache::lines::Layout;

/// Another number for every change of what is written here.
const FORMAT: u32 = 1;

/// The length of a footer, with which a file ends.
pub const FOOTER_BYTES: u64 = 512;

/// Slots of a bucket.
pub const SLOTS: usize = 128;

const MAGIC: &str = "metrobus lookups ";

/// Where a file of LMDB has its own magic number, and what that is.
const LMDB_MAGIC: (usize, [u8; 4]) = (16, 0xBEEF_C0DE_u32.to_ne_bytes());

/// What is hashed from the beginning of the file: LMDB's two meta pages, whatever the size of a page, at most.
const HEAD_BYTES: u64 = 1 << 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    format: u32,
    pub layout: Layout,
    /// Lines that it was built from, less those whose key has another one further down.
    pub lines: u64,
    pub buckets: u32,
    /// Of the hash of keys.
    pub seed: u64,
    /// How long the file is without this.
    pub bytes: u64,
    /// Hash of the beginning of the file.
    head: u64,
}

/// Why a file is none that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It was not made by metrobus.
    Foreign,
    /// It was made by metrobus, and something is missing.
    Damaged,
    /// It was made by another version of metrobus.
    Other,
}

impl Footer {
    /// The footer for `file`, whose pages of LMDB are all there.
    pub fn of(file: &mut File, layout: Layout, lines: u64, buckets: u32, seed: u64) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        Ok(Self { format: FORMAT, layout, lines, buckets, seed, bytes, head: hash(0, &head(file, bytes)?) })
    }

    /// As it stands in the file.
    pub fn to_bytes(self) -> io::Result<Vec<u8>> {
        let json = serde_json::to_string(&self)?;
        let mut text = format!("{MAGIC}{:016x} {json}", hash(0, json.as_bytes())).into_bytes();
        text.resize(FOOTER_BYTES as usize - 1, b' ');
        text.push(b'\n');
        Ok(text)
    }

    /// Reads that of `file`; the inner error says what is wrong with the file.
    pub fn read(file: &mut File) -> io::Result<Result<Self, Unusable>> {
        let size = file.metadata()?.len();
        let bytes = size.saturating_sub(FOOTER_BYTES);
        let head = head(file, bytes)?;
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(bytes))?;
        file.take(FOOTER_BYTES).read_to_end(&mut text)?;
        let Some(text) = std::str::from_utf8(&text).ok().and_then(|text| text.strip_prefix(MAGIC)) else {
            let (at, magic) = LMDB_MAGIC;
            let is_lmdb = self::head(file, size)?.get(at..at + magic.len()) == Some(&magic);
            return Ok(Err(if is_lmdb { Unusable::Damaged } else { Unusable::Foreign }));
        };
        let Some((sum, json)) = text.trim_end().split_once(' ') else { return Ok(Err(Unusable::Damaged)) };
        if sum != format!("{:016x}", hash(0, json.as_bytes())) {
            return Ok(Err(Unusable::Damaged));
        }
        // What another version writes may have other fields
        let Ok(footer) = serde_json::from_str::<Self>(json) else { return Ok(Err(Unusable::Other)) };
        if footer.format != FORMAT {
            return Ok(Err(Unusable::Other));
        }
        let whole = footer.bytes == bytes && footer.head == hash(0, &head);
        Ok(if whole { Ok(footer) } else { Err(Unusable::Damaged) })
    }

    /// Where `key` is.
    pub fn place(&self, key: &[u8]) -> Place {
        Place::of(hash(self.seed, key), self.buckets)
    }
}

fn head(file: &mut File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.rewind()?;
    file.take(bytes.min(HEAD_BYTES)).read_to_end(&mut head)?;
    Ok(head)
}

/// Where the records of a hash are: the greater the hash, the further on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub bucket: u32,
    slot: usize,
}

impl Place {
    pub fn of(hash: u64, buckets: u32) -> Self {
        let slots = u128::from(buckets) * SLOTS as u128;
        let number = ((u128::from(hash) * slots) >> 64) as u64;
        Self { bucket: (number / SLOTS as u64) as u32, slot: number as usize % SLOTS }
    }

    /// The records of its slot in `bucket`; `Err` where that is no bucket.
    pub fn records(self, bucket: &[u8]) -> Result<&[u8], Unusable> {
        let (starts, _) = bucket.as_chunks::<4>();
        let start = |slot: usize| starts.get(slot).map(|start| u32::from_le_bytes(*start) as usize);
        let records = start(self.slot).zip(start(self.slot + 1)).and_then(|(start, end)| bucket.get(start..end));
        records.ok_or(Unusable::Damaged)
    }
}

/// A bucket that is being filled.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Room for the starts, then the records.
    bytes: Vec<u8>,
    starts: Vec<u32>,
}

impl Bucket {
    pub fn clear(&mut self) {
        self.starts.clear();
        self.bytes.clear();
        self.bytes.resize(4 * (SLOTS + 1), 0);
    }

    /// Adds records of `place`, which is no further to the front than the last one.
    pub fn push(&mut self, place: Place, records: &[u8]) {
        self.starts.resize(place.slot + 1, self.bytes.len() as u32);
        self.bytes.extend_from_slice(records);
    }

    /// As it stands in the file.
    pub fn as_bytes(&mut self) -> &[u8] {
        self.starts.resize(SLOTS + 1, self.bytes.len() as u32);
        for (room, start) in self.bytes.as_chunks_mut::<4>().0.iter_mut().zip(&self.starts) {
            *room = start.to_le_bytes();
        }
        &self.bytes
    }
}

/// A hash that stays the same over machines and versions, by multiplications whose halves are folded. Nobody who does
/// not know the seed can tell which keys go together, and if they do, answers take longer and are still right.
pub fn hash(seed: u64, bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let mut words = bytes.chunks_exact(8);
    let mut state = fold(seed ^ bytes.len() as u64 ^ FACTOR, FACTOR.rotate_left(32));
    for word in &mut words {
        state = fold(state ^ u64::from_le_bytes(word.try_into().unwrap_or_default()), FACTOR);
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    state = fold(state ^ u64::from_le_bytes(last), FACTOR);
    fold(state ^ seed, FACTOR.rotate_left(16))
}

/// Appends a record: the lengths of key and value, 7 bits a byte, then both.
pub fn append_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    for mut length in [key.len(), value.len()] {
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
    }
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// The first of these records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    /// The records behind it.
    pub rest: &'a [u8],
}

impl<'a> Record<'a> {
    /// `None` where `records` does not begin with a whole record.
    pub fn first(records: &'a [u8]) -> Option<Self> {
        let (key, records) = length(records)?;
        let (value, records) = length(records)?;
        let (key, records) = records.split_at_checked(key)?;
        let (value, rest) = records.split_at_checked(value)?;
        Some(Self { key, value, rest })
    }
}

fn length(mut bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0;
    for shift in (0..35).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        length |= usize::from(first & 0x7f) << shift;
        bytes = rest;
        if first & 0x80 == 0 {
            return Some((length, bytes));
        }
    }
    None
}

/// The value of `key` among these records; `Err` where they are no records.
pub fn find<'a>(mut records: &'a [u8], key: &[u8]) -> Result<Option<&'a [u8]>, Unusable> {
    while !records.is_empty() {
        let record = Record::first(records).ok_or(Unusable::Damaged)?;
        if record.key == key {
            return Ok(Some(record.value));
        }
        records = record.rest;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_are_found_by_their_whole_key(
            records in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..300), "[a-z]{0,200}", 0..20),
            other in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = Vec::new();
            records.iter().for_each(|(key, value)| append_record(&mut bytes, key, value.as_bytes()));
            for (key, value) in &records {
                prop_assert_eq!(find(&bytes, key), Ok(Some(value.as_bytes())));
            }
            prop_assert_eq!(find(&bytes, &other), Ok(records.get(&other).map(|value| value.as_bytes())));
        }

        #[test]
        fn what_is_no_record_is_no_answer(bytes: Vec<u8>, key: Vec<u8>) {
            let _ = find(&bytes, &key);
        }
    }

    #[test]
    fn a_hash_stays_the_same_and_spreads() {
        // Files built by an older metrobus rest on these
        assert_eq!(hash(0, b""), 0x5c84_742f_e62c_b43b);
        assert_eq!(hash(1, b"1000000"), 0xd7e6_5f15_4c41_7773);
        assert_eq!(hash(u64::MAX, "jürgen@hilltop-labs.example".as_bytes()), 0x0488_46fb_be3c_6446);
        let mut counts = vec![0; 8 * SLOTS];
        for account in 1_000_000..1_016_384 {
            let place = Place::of(hash(7, account.to_string().as_bytes()), 8);
            counts[place.bucket as usize * SLOTS + place.slot] += 1;
        }
        // 16 each, give or take what chance does
        assert!(counts.iter().all(|count| (1..=45).contains(count)), "{:?}", counts.iter().max());
    }

    #[test]
    fn a_bucket_gives_each_slot_its_records() {
        let mut bucket = Bucket::default();
        for filled in [vec![], vec![0], vec![0, 3, 3, 7, 127], vec![127], vec![64, 65]] {
            bucket.clear();
            let mut expected = vec![Vec::new(); SLOTS];
            for (number, slot) in filled.into_iter().enumerate() {
                let record = number.to_string();
                expected[slot].extend_from_slice(record.as_bytes());
                bucket.push(Place { bucket: 0, slot }, record.as_bytes());
            }
            let bytes = bucket.as_bytes();
            for (slot, expected) in expected.iter().enumerate() {
                assert_eq!(Place { bucket: 0, slot }.records(bytes), Ok(expected.as_slice()), "slot {slot}");
            }
            for cut in [0, 5, 4 * SLOTS + 3] {
                let place = Place { bucket: 0, slot: SLOTS - 1 };
                assert_eq!(place.records(&bytes[..cut]), Err(Unusable::Damaged), "{cut}");
            }
        }
    }

    #[test]
    fn a_footer_tells_its_own_file_from_others() {
        let mut file = tempfile::tempfile().unwrap();
        let write = |file: &mut File, bytes: &[u8]| {
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            file.write_all(bytes).unwrap();
        };
        let mut pages = vec![7; 300_000];
        pages[LMDB_MAGIC.0..][..4].copy_from_slice(&LMDB_MAGIC.1);
        write(&mut file, &pages);
        let footer = Footer::of(&mut file, Layout::Pair, 5, 2, u64::MAX).unwrap();
        let whole = [pages.as_slice(), &footer.to_bytes().unwrap()].concat();
        write(&mut file, &whole);
        assert_eq!(Footer::read(&mut file).unwrap(), Ok(footer));
        for cut in [0, 1, 511, 512, 513, 299_999] {
            write(&mut file, &whole[..whole.len() - 1 - cut]);
            assert_eq!(Footer::read(&mut file).unwrap(), Err(Unusable::Damaged), "{cut}");
        }
        for changed in [0, 4096, 131_071, 300_020, 300_050] {
            let mut bytes = whole.clone();
            bytes[changed] ^= 1;
            write(&mut file, &bytes);
            assert_eq!(Footer::read(&mut file).unwrap(), Err(Unusable::Damaged), "{changed}");
        }
        write(&mut file, &[&whole[..300_000], &whole[299_000..]].concat());
        assert_eq!(Footer::read(&mut file).unwrap(), Err(Unusable::Damaged), "longer");
        for foreign in [b"".as_slice(), b"1,a@x\n", &[0; 5000]] {
            write(&mut file, foreign);
            assert_eq!(Footer::read(&mut file).unwrap(), Err(Unusable::Foreign));
        }
        let newer = Footer { format: FORMAT + 1, ..footer };
        write(&mut file, &[pages.as_slice(), &newer.to_bytes().unwrap()].concat());
        assert_eq!(Footer::read(&mut file).unwrap(), Err(Unusable::Other));
    }
}
