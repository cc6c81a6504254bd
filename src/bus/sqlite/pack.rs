//! Many records in one row, as a Kafka record batch holds them: what a settle sends to a topic costs SQLite one row,
//! not one a record.
//!
//! A pack is a checksum (u64) and the records one after the other: timestamp (i64), the lengths of key, headers and
//! value (u32 each, `u32::MAX` for null), their bytes. All numbers are little endian; offsets are the row's to tell.

use crate::bus::{Headers, Record};

/// Bytes before the first record, and beside the fields of each: what a pack is longer than the fields in it.
pub(super) const HEAD: usize = 8;
pub(super) const RECORD_HEAD: usize = 20;

/// Records on their way into one row: pushed, then sealed.
pub struct Pack {
    count: i64,
    bytes: Vec<u8>,
}

impl Default for Pack {
    fn default() -> Self {
        Self { count: 0, bytes: vec![0; HEAD] }
    }
}

impl Pack {
    /// Records in it.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// Takes timestamp, key, headers and value of `record`.
    pub fn push(&mut self, record: &Record<'_>) {
        let headers = Some(record.headers.encoded()).filter(|headers| !headers.is_empty());
        let fields = [record.key, headers, record.value];
        let mut head = [0; RECORD_HEAD];
        head[..8].copy_from_slice(&record.timestamp.to_le_bytes());
        for (length, field) in head[8..].chunks_exact_mut(4).zip(fields) {
            length.copy_from_slice(&field.map_or(u32::MAX, |field| field.len() as u32).to_le_bytes());
        }
        self.bytes.extend_from_slice(&head);
        for field in fields.into_iter().flatten() {
            self.bytes.extend_from_slice(field);
        }
        self.count += 1;
    }

    /// Writes the checksum, once all are in.
    pub fn seal(&mut self) {
        let sum = checksum(&self.bytes[HEAD..]);
        self.bytes[..HEAD].copy_from_slice(&sum.to_le_bytes());
    }

    /// The bytes of a row, once sealed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The records of a row, the first of which has offset `first`; `None` where the bytes are not as they were written.
pub(super) fn unpack(bytes: &[u8], first: i64) -> Option<Records<'_>> {
    let (sum, rest) = bytes.split_first_chunk::<HEAD>()?;
    (u64::from_le_bytes(*sum) == checksum(rest)).then_some(Records { rest, offset: first })
}

/// Walks the records of a row.
pub(super) struct Records<'a> {
    rest: &'a [u8],
    offset: i64,
}

impl<'a> Records<'a> {
    fn field(&mut self, length: &[u8; 4]) -> Option<Option<&'a [u8]>> {
        let length = u32::from_le_bytes(*length);
        if length == u32::MAX {
            return Some(None);
        }
        let (field, rest) = self.rest.split_at_checked(length as usize)?;
        self.rest = rest;
        Some(Some(field))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (timestamp, rest) = self.rest.split_first_chunk::<8>()?;
        let (lengths, rest) = rest.split_first_chunk::<12>()?;
        self.rest = rest;
        let ([key, headers, value], _) = lengths.as_chunks::<4>() else { return None };
        let record = Record {
            partition: 0,
            offset: self.offset,
            timestamp: i64::from_le_bytes(*timestamp),
            key: self.field(key)?,
            headers: Headers::from_encoded(self.field(headers)?.unwrap_or_default()),
            value: self.field(value)?,
        };
        self.offset += 1;
        Some(record)
    }
}

/// Every change within one word shows for certain, any other but for one in 2^64. Four sums side by side, because a
/// processor works on them at once.
fn checksum(bytes: &[u8]) -> u64 {
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    let mut sums = [bytes.len() as u64; 4];
    let (words, rest) = bytes.as_chunks::<8>();
    for block in words.chunks(4) {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = mix(*sum, u64::from_le_bytes(*word));
        }
    }
    for byte in rest {
        sums[0] = mix(sums[0], u64::from(*byte));
    }
    sums.into_iter().fold(0, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record<'a>(timestamp: i64, key: Option<&'a [u8]>, headers: &'a [u8], value: Option<&'a [u8]>) -> Record<'a> {
        Record { partition: 0, offset: 0, timestamp, key, headers: Headers::from_encoded(headers), value }
    }

    fn packed() -> Pack {
        let mut headers = Vec::new();
        Headers::push(&mut headers, "name", Some(b"1"));
        let mut pack = Pack::default();
        pack.push(&record(1, Some(b"key"), &headers, Some(b"value")));
        pack.push(&record(i64::MAX, None, &[], None));
        pack.push(&record(-1, Some(b""), &[], Some(b"")));
        pack.push(&record(2, None, &[], Some(&[7; 300])));
        pack.seal();
        pack
    }

    #[test]
    fn what_is_packed_comes_out() {
        let pack = packed();
        assert_eq!(pack.count(), 4);
        let all: Vec<_> = unpack(pack.bytes(), 40).unwrap().collect();
        assert_eq!(all.iter().map(|record| record.offset).collect::<Vec<_>>(), [40, 41, 42, 43]);
        assert_eq!(all.iter().map(|record| record.timestamp).collect::<Vec<_>>(), [1, i64::MAX, -1, 2]);
        assert_eq!(all.iter().map(|record| record.key).collect::<Vec<_>>(), [Some(&b"key"[..]), None, Some(b""), None]);
        assert_eq!(all[0].headers.get("name"), Some(&b"1"[..]));
        assert!(all[1..].iter().all(|record| record.headers.is_empty()));
        let values = [Some(&b"value"[..]), None, Some(b""), Some(&[7; 300])];
        assert_eq!(all.iter().map(|record| record.value).collect::<Vec<_>>(), values);
    }

    #[test]
    fn a_pack_is_as_long_as_its_fields_and_heads() {
        let mut pack = Pack::default();
        pack.push(&record(1, Some(b"key"), &[], Some(b"value")));
        pack.push(&record(1, None, &[], Some(b"v")));
        assert_eq!(pack.bytes().len(), HEAD + 2 * RECORD_HEAD + 9);
    }

    #[test]
    fn damage_shows() {
        let bytes = packed().bytes().to_vec();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(unpack(&damaged, 0).is_none(), "byte {at}");
            assert!(unpack(&bytes[..at], 0).is_none(), "cut at {at}");
        }
    }
}
