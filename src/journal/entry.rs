//! An entry: hops of one batch, at one stop, out of one partition, in one record.
//!
//! Of one partition only, because the bus settles by partition: where one has gone to another member meanwhile, its hops
//! are that one's to tell.
//!
//! # Format, version 1
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | `mbj` and the version, 1 |
//! | 4 | how many hops follow |
//! | 4 | microseconds that the batch took |
//! | 8 | when it was begun, microseconds since the epoch, signed |
//! | number | the partition |
//! | text | the stop, as its role is called |
//! | text | the topic that it reads |
//! | the rest | the hops, by offset |
//!
//! A hop is:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | bits 0 to 3: how many bytes a UUID shares with the one before it, at their beginning; bits 4 and 5: the id is none (0), a UUID (1), text (2); bit 6: another outcome than before; bit 7: more |
//! | 1 | with bit 7: bit 0: the offset is not the next one; bit 1: a key; bit 2: fields |
//! | number | with another outcome: its index among those of the entry, from 0. One that is not there yet follows: its code (1 byte; forwarded 0, finished 1, dropped 2, rejected 3, replayed 4, discarded 5), attempts (a number), and as references reason, next topic and rule |
//! | number | with another offset: the distance from the next one, zigzag |
//! | rest of a UUID, or text | with an id |
//! | bytes | with a key |
//! | number, … | with fields: how many, then each one's name (a reference) and value (text) |
//!
//! A number is LEB128; a text, and bytes, are their length (a number) and themselves; what has 4 or 8 bytes is little endian.
//! A reference is 0 for none, or one more than an index among the texts of the entry; one that is not there yet follows.
//!
//! What is done with dead letters (`repairs`) is in entries of its own: the stop is the one that rejected them, topic,
//! partition and offset are those of the dead letter, and attempts count the replays of the message.
//!
//! What a batch forwards to one topic takes a byte a hop, and of its ids (which begin with the time, and count) some six.

use std::{borrow::Cow, ops::Range};

use smallvec::SmallVec;

use super::{Id, Outcome};

const MAGIC: [u8; 4] = *b"mbj\x01";

/// Bytes before the partition.
const HEAD: usize = 20;

/// Bytes from which on an entry is closed.
const FULL: usize = 400_000;

/// Outcomes, and texts, that are looked through for one that is there already; those before them are written again.
const LOOKED_THROUGH: usize = 16;

const SHARED: u8 = 0x0f;
const UUID: u8 = 0x10;
const TEXT: u8 = 0x20;
const ID: u8 = 0x30;
const OUTCOME: u8 = 0x40;
const MORE: u8 = 0x80;
const OFFSET: u8 = 1;
const KEY: u8 = 2;
const FIELDS: u8 = 4;

/// What happened to one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop<'a> {
    pub offset: i64,
    pub id: Id<'a>,
    pub outcome: Outcome,
    /// How often the handler has tried, from 1.
    pub attempts: u32,
    pub reason: Option<&'a str>,
    /// The topic that it was published to: of the next stop, or of dead letters.
    pub next: Option<&'a str>,
    /// The rule that gave it its route.
    pub rule: Option<&'a str>,
    /// Where its journey begins, or where it has no id.
    pub key: Option<&'a [u8]>,
    /// Name and value, where its journey begins; values are as text where they are text, else as JSON.
    pub fields: SmallVec<[(&'a str, Cow<'a, str>); 1]>,
}

/// An entry being written, by a stop or by another program that takes part in journeys.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    hops: u32,
    /// The offset after the last.
    next: i64,
    uuid: [u8; 16],
    outcomes: Vec<Known>,
    /// Index of the last hop's.
    outcome: usize,
    texts: Vec<Range<usize>>,
}

/// An outcome that stands in the entry; texts by reference.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    outcome: Outcome,
    attempts: u32,
    texts: [usize; 3],
}

impl Writer {
    /// Begins an entry, in the memory of the last one. `time` is when the batch was begun, microseconds since the epoch.
    pub fn begin(&mut self, stop: &str, topic: &str, partition: i32, time: i64) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&MAGIC);
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&time.to_le_bytes());
        number(&mut self.bytes, partition as u32 as u64);
        bytes(&mut self.bytes, stop.as_bytes());
        bytes(&mut self.bytes, topic.as_bytes());
        self.hops = 0;
        self.next = 0;
        self.uuid = [0; 16];
        self.outcomes.clear();
        self.texts.clear();
    }

    /// Whether the entry is to be closed, and another one begun: with one hop more it is still far below what a topic of
    /// Kafka takes.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// The entry as it is to be published. `took` is in microseconds.
    pub fn finish(&mut self, took: u32) -> &[u8] {
        self.bytes[4..8].copy_from_slice(&self.hops.to_le_bytes());
        self.bytes[8..12].copy_from_slice(&took.to_le_bytes());
        &self.bytes
    }

    pub fn push(&mut self, hop: &Hop<'_>) {
        let same = self.outcomes.get(self.outcome).is_some_and(|known| self.is(known, hop));
        let more = (if hop.offset == self.next { 0 } else { OFFSET })
            | (if hop.key.is_some() { KEY } else { 0 })
            | (if hop.fields.is_empty() { 0 } else { FIELDS });
        let mut head = (if same { 0 } else { OUTCOME }) | (if more == 0 { 0 } else { MORE });
        let mut shared = 0;
        match hop.id {
            Id::None => {}
            Id::Uuid(uuid) => {
                let differ = u128::from_be_bytes(uuid) ^ u128::from_be_bytes(self.uuid);
                shared = (differ.leading_zeros() as usize / 8).min(15);
                self.uuid = uuid;
                head |= UUID | shared as u8;
            }
            Id::Text(_) => head |= TEXT,
        }
        self.bytes.push(head);
        if more > 0 {
            self.bytes.push(more);
        }
        if !same {
            self.change_outcome(hop);
        }
        if more & OFFSET > 0 {
            let distance = hop.offset.wrapping_sub(self.next);
            number(&mut self.bytes, (distance << 1 ^ distance >> 63) as u64);
        }
        match hop.id {
            Id::None => {}
            Id::Uuid(uuid) => self.bytes.extend_from_slice(&uuid[shared..]),
            Id::Text(text) => bytes(&mut self.bytes, text.as_bytes()),
        }
        if let Some(key) = hop.key {
            bytes(&mut self.bytes, key);
        }
        if !hop.fields.is_empty() {
            number(&mut self.bytes, hop.fields.len() as u64);
            for (name, value) in &hop.fields {
                self.reference(Some(name));
                bytes(&mut self.bytes, value.as_bytes());
            }
        }
        self.next = hop.offset.wrapping_add(1);
        self.hops += 1;
    }

    fn is(&self, known: &Known, hop: &Hop<'_>) -> bool {
        let is = |reference: usize, text: Option<&str>| match (reference.checked_sub(1), text) {
            (None, None) => true,
            (Some(index), Some(text)) => &self.bytes[self.texts[index].clone()] == text.as_bytes(),
            _ => false,
        };
        let [reason, next, rule] = known.texts;
        known.outcome == hop.outcome
            && known.attempts == hop.attempts
            && is(reason, hop.reason)
            && is(next, hop.next)
            && is(rule, hop.rule)
    }

    fn change_outcome(&mut self, hop: &Hop<'_>) {
        let from = self.outcomes.len().saturating_sub(LOOKED_THROUGH);
        let found = self.outcomes[from..].iter().position(|known| self.is(known, hop));
        self.outcome = found.map_or(self.outcomes.len(), |index| from + index);
        number(&mut self.bytes, self.outcome as u64);
        if found.is_none() {
            self.bytes.push(hop.outcome.code());
            number(&mut self.bytes, u64::from(hop.attempts));
            let texts = [hop.reason, hop.next, hop.rule].map(|text| self.reference(text));
            self.outcomes.push(Known { outcome: hop.outcome, attempts: hop.attempts, texts });
        }
    }

    /// Writes a reference to `text`, and gives it.
    fn reference(&mut self, text: Option<&str>) -> usize {
        let Some(text) = text else {
            self.bytes.push(0);
            return 0;
        };
        let from = self.texts.len().saturating_sub(LOOKED_THROUGH);
        let is = |range: &Range<usize>| &self.bytes[range.clone()] == text.as_bytes();
        let found = self.texts[from..].iter().position(is).map(|index| from + index);
        let index = found.unwrap_or(self.texts.len());
        number(&mut self.bytes, index as u64 + 1);
        if found.is_none() {
            bytes(&mut self.bytes, text.as_bytes());
            self.texts.push(self.bytes.len() - text.len()..self.bytes.len());
        }
        index + 1
    }
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// An entry being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The stop, as its role is called.
    pub stop: &'a str,
    /// The topic that it reads.
    pub topic: &'a str,
    pub partition: i32,
    /// When the batch was begun, microseconds since the epoch.
    pub time: i64,
    /// Microseconds that it took.
    pub took: u32,
    /// How many hops there are.
    pub len: u32,
    hops: &'a [u8],
}

/// A record, or a part of one, that is no entry of the journal, or not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an entry of the journal, or damaged")]
pub struct Damaged;

impl<'a> Entry<'a> {
    /// Takes the value of a record; what its hops are worth shows when they are read.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or(Damaged)?;
        let mut head = Cursor(head);
        if head.array()? != MAGIC {
            return Err(Damaged);
        }
        let len = u32::from_le_bytes(head.array()?);
        let took = u32::from_le_bytes(head.array()?);
        let time = i64::from_le_bytes(head.array()?);
        let mut rest = Cursor(rest);
        let partition = u32::try_from(rest.number()?).map_err(|_| Damaged)? as i32;
        Ok(Self { stop: rest.text()?, topic: rest.text()?, partition, time, took, len, hops: rest.0 })
    }

    pub fn hops(&self) -> Hops<'a> {
        Hops {
            rest: Cursor(self.hops),
            left: self.len,
            next: 0,
            uuid: [0; 16],
            outcomes: Vec::new(),
            outcome: 0,
            texts: Vec::new(),
        }
    }
}

/// Walks the hops of an entry, up to the first that is damaged.
pub struct Hops<'a> {
    rest: Cursor<'a>,
    left: u32,
    next: i64,
    uuid: [u8; 16],
    outcomes: Vec<(Outcome, u32, [Option<&'a str>; 3])>,
    outcome: usize,
    texts: Vec<&'a str>,
}

impl<'a> Iterator for Hops<'a> {
    type Item = Result<Hop<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            // Nothing is behind the last
            return (!std::mem::take(&mut self.rest).0.is_empty()).then_some(Err(Damaged));
        }
        self.left -= 1;
        let hop = self.hop();
        if hop.is_err() {
            self.left = 0;
            self.rest = Cursor::default();
        }
        Some(hop)
    }
}

impl<'a> Hops<'a> {
    fn hop(&mut self) -> Result<Hop<'a>, Damaged> {
        let head = self.rest.byte()?;
        let more = if head & MORE > 0 { self.rest.byte()? } else { 0 };
        if head & OUTCOME > 0 {
            self.change_outcome()?;
        }
        if more & OFFSET > 0 {
            let zigzag = self.rest.number()?;
            self.next = self.next.wrapping_add((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
        }
        let offset = self.next;
        self.next = offset.wrapping_add(1);
        let id = match head & ID {
            0 => Id::None,
            UUID => {
                let shared = usize::from(head & SHARED);
                self.uuid[shared..].copy_from_slice(self.rest.take(16 - shared)?);
                Id::Uuid(self.uuid)
            }
            TEXT => Id::Text(self.rest.text()?),
            _ => return Err(Damaged),
        };
        let key = if more & KEY > 0 { Some(self.rest.bytes()?) } else { None };
        let mut fields = SmallVec::new();
        if more & FIELDS > 0 {
            for _ in 0..self.rest.number()? {
                let name = self.reference()?.ok_or(Damaged)?;
                fields.push((name, Cow::Borrowed(self.rest.text()?)));
            }
        }
        let (outcome, attempts, [reason, next, rule]) = *self.outcomes.get(self.outcome).ok_or(Damaged)?;
        Ok(Hop { offset, id, outcome, attempts, reason, next, rule, key, fields })
    }

    fn change_outcome(&mut self) -> Result<(), Damaged> {
        self.outcome = usize::try_from(self.rest.number()?).map_err(|_| Damaged)?;
        if self.outcome == self.outcomes.len() {
            let outcome = Outcome::from_code(self.rest.byte()?).ok_or(Damaged)?;
            let attempts = u32::try_from(self.rest.number()?).map_err(|_| Damaged)?;
            let texts = [self.reference()?, self.reference()?, self.reference()?];
            self.outcomes.push((outcome, attempts, texts));
        }
        Ok(())
    }

    fn reference(&mut self) -> Result<Option<&'a str>, Damaged> {
        let Some(index) = self.rest.number()?.checked_sub(1) else { return Ok(None) };
        if index == self.texts.len() as u64 {
            self.texts.push(self.rest.text()?);
        }
        let text = usize::try_from(index).ok().and_then(|index| self.texts.get(index));
        text.map(|text| Some(*text)).ok_or(Damaged)
    }
}

/// Bytes that are yet to be read.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damaged)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let length = usize::try_from(self.number()?).map_err(|_| Damaged)?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damaged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    /// The parts of a hop, owned.
    #[derive(Clone, Debug)]
    struct Parts {
        offset: i64,
        uuid: Option<[u8; 16]>,
        id: String,
        outcome: usize,
        attempts: u32,
        texts: [Option<String>; 3],
        key: Option<Vec<u8>>,
        fields: Vec<(String, String)>,
    }

    impl Parts {
        fn hop(&self) -> Hop<'_> {
            let id = self.uuid.map_or_else(|| Id::new(&self.id), Id::Uuid);
            let [reason, next, rule] = [&self.texts[0], &self.texts[1], &self.texts[2]].map(|text| text.as_deref());
            let fields =
                self.fields.iter().map(|(name, value)| (name.as_str(), Cow::Borrowed(value.as_str()))).collect();
            let (outcome, key) = (Outcome::ALL[self.outcome], self.key.as_deref());
            Hop { offset: self.offset, id, outcome, attempts: self.attempts, reason, next, rule, key, fields }
        }
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let offset = prop_oneof![0..50_i64, any::<i64>()];
        let uuid = option::of(prop_oneof![
            any::<[u8; 16]>(),
            (0..3_u8).prop_map(|last| {
                let mut uuid = [7; 16];
                uuid[15] = last;
                uuid
            })
        ]);
        let text = || option::of(prop_oneof!["[a-c]", ".{0,30}"]);
        let fields = vec(("[a-c]{1,3}", ".{0,8}"), 0..3);
        let rest =
            (0..Outcome::ALL.len(), 1..3_u32, [text(), text(), text()], option::of(vec(any::<u8>(), 0..9)), fields);
        (offset, uuid, ".{0,20}", rest).prop_map(|(offset, uuid, id, (outcome, attempts, texts, key, fields))| Parts {
            offset,
            uuid,
            id,
            outcome,
            attempts,
            texts,
            key,
            fields,
        })
    }

    fn written(writer: &mut Writer, hops: &[Parts]) -> Vec<u8> {
        writer.begin("contactpoint", "AddEmail", 3, 1_700_000_000_000_001);
        hops.iter().for_each(|parts| writer.push(&parts.hop()));
        writer.finish(250).to_vec()
    }

    proptest! {
        #[test]
        fn an_entry_reads_back_the_same(hops in vec(parts(), 0..60), before in vec(parts(), 0..5)) {
            let mut writer = Writer::default();
            written(&mut writer, &before);
            let bytes = written(&mut writer, &hops);
            let entry = Entry::read(&bytes).unwrap();
            prop_assert_eq!((entry.stop, entry.topic, entry.partition), ("contactpoint", "AddEmail", 3));
            prop_assert_eq!((entry.time, entry.took, entry.len as usize), (1_700_000_000_000_001, 250, hops.len()));
            let found: Vec<_> = entry.hops().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(found, hops.iter().map(Parts::hop).collect::<Vec<_>>());
        }

        #[test]
        fn damage_is_found_or_harmless(
            hops in vec(parts(), 1..20), cut: prop::sample::Index, at: prop::sample::Index, byte: u8,
        ) {
            let bytes = written(&mut Writer::default(), &hops);
            let all = |bytes: &[u8]| Entry::read(bytes).and_then(|entry| entry.hops().try_for_each(|hop| hop.map(drop)));
            all(&bytes).unwrap();
            prop_assert_eq!(all(&bytes[..cut.index(bytes.len())]), Err(Damaged));
            let mut longer = bytes.clone();
            longer.push(byte);
            prop_assert_eq!(all(&longer), Err(Damaged));
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] = byte;
            let _ = all(&changed);
        }

        #[test]
        fn no_bytes_panic(mut bytes in vec(any::<u8>(), 0..200), ours: bool) {
            if ours {
                bytes.splice(0..0, MAGIC);
            }
            if let Ok(entry) = Entry::read(&bytes) {
                prop_assert!(entry.hops().count() <= bytes.len() + 1);
            }
        }
    }

    #[test]
    fn a_forwarded_message_takes_few_bytes() {
        let mut writer = Writer::default();
        writer.begin("contactpoint", "AddEmail", 0, 0);
        for offset in 0..1000 {
            let id = Id::Uuid(*uuid::Uuid::now_v7().as_bytes());
            let (outcome, next) = (Outcome::Forwarded, Some("WhiteList"));
            let (reason, rule, key, fields) = (None, None, None, SmallVec::new());
            writer.push(&Hop { offset, id, outcome, attempts: 1, reason, next, rule, key, fields });
        }
        assert!(writer.finish(0).len() < 10_000, "{}", writer.bytes.len());
    }
}
