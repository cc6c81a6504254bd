//! What a message is in an index: its document, the id of that and the index, as lines of the body of `_bulk`.
//!
//! The document is the message as its line in a file would have it, and `metrobus_inserted_timestamp` beside header and
//! payload: when it was sent, in milliseconds since the epoch.
//!
//! Who is killed before a batch is settled writes it again, so id and index are made of what stays the same then:
//!
//! - the id is the message's own. Where it has none, or one that cannot be an id there, it is the place of its record:
//!   `Log:0:4711:1795284000000`, topic, partition, offset and timestamp. Such a message may be there twice where the
//!   stop before this one sent it twice. Who may write to the topic may write any id, and so overwrite what is there.
//! - the index is of the day on which the message's id was given, which the id says where it is a UUID of version 7, as
//!   the busdriver's are. Where it says none, it is the day of the record's timestamp. Senders can write what they like
//!   there, and every day is an index: so what is longer ago than a week, or ahead by more than a day, is of today.

use std::{
    io::Write as _,
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use uuid::Uuid;

use super::{push_line, rotation::day};
use crate::{bus::Topic, dead_letter::milliseconds, payload::Payload, slip::Message};

/// When the document was sent.
const INSERTED: &str = "metrobus_inserted_timestamp";

/// An id of more bytes is refused, and the whole request with it.
const LONGEST_ID: usize = 512;

/// How far a message's own time may be from the present for its index to be that of its day.
const PAST: Duration = Duration::from_secs(7 * 86_400);
const AHEAD: Duration = Duration::from_secs(86_400);

const DAY_MS: i64 = 86_400_000;

/// The lines of a batch: two for each message.
#[derive(Default)]
pub(super) struct Documents {
    lines: Vec<u8>,
    ends: Vec<usize>,
    /// The index used last, and its day.
    index: Option<(i64, String)>,
}

impl Documents {
    /// Takes the messages of a batch; `prefix` is what indices begin with, `topic` where the messages are from.
    pub fn fill(&mut self, messages: &[Message<'_>], prefix: &str, topic: &Topic, now: SystemTime) {
        self.lines.clear();
        self.ends.clear();
        for message in messages {
            self.push_action(message, prefix, topic, now);
            push_line(&mut self.lines, |lines| write_document(message, now, lines));
            self.ends.push(self.lines.len());
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The lines of some of the messages.
    pub fn lines(&self, range: Range<usize>) -> &[u8] {
        &self.lines[self.start(range.start)..self.start(range.end)]
    }

    /// As many messages from `start` on as are `bytes` together, and one at least where there is one.
    pub fn fitting(&self, start: usize, bytes: usize) -> Range<usize> {
        let limit = self.start(start).saturating_add(bytes);
        let end = self.ends.partition_point(|end| *end <= limit);
        start..end.max(start + 1).min(self.len())
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    fn push_action(&mut self, message: &Message<'_>, prefix: &str, topic: &Topic, now: SystemTime) {
        let time = time_of(message, now);
        if self.index.as_ref().is_none_or(|(day, _)| *day != time / DAY_MS) {
            let name = format!("{prefix}-{}", day(UNIX_EPOCH + Duration::from_millis(time.unsigned_abs())));
            self.index = Some((time / DAY_MS, name));
        }
        let index = self.index.as_ref().map_or("", |(_, name)| name);
        // Neither holds what JSON would have to escape
        let _ = write!(self.lines, "{{\"index\":{{\"_index\":\"{index}\",\"_id\":");
        match own_id(message) {
            Some(id) => {
                let _ = serde_json::to_writer(&mut self.lines, &id);
            }
            None => {
                let record = &message.record;
                let (partition, offset, timestamp) = (record.partition, record.offset, record.timestamp);
                let _ = write!(self.lines, "\"{topic}:{partition}:{offset}:{timestamp}\"");
            }
        }
        self.lines.extend_from_slice(b"}}\n");
    }
}

fn write_document(message: &Message<'_>, now: SystemTime, out: &mut Vec<u8>) {
    let Some(mut document) = Payload::new(message.whole()) else { return };
    // It takes any number
    let _ = document.set(INSERTED, &milliseconds(now));
    document.write(out);
}

/// The id of the message, where it can be the id of a document.
fn own_id(message: &Message<'_>) -> Option<String> {
    let id: String = serde_json::from_str(&format!("\"{}\"", message.id()?)).ok()?;
    (1..=LONGEST_ID).contains(&id.len()).then_some(id)
}

/// The time whose day the index is of, in milliseconds since the epoch.
fn time_of(message: &Message<'_>, now: SystemTime) -> i64 {
    let now = milliseconds(now);
    let window = now - PAST.as_millis() as i64..=now + AHEAD.as_millis() as i64;
    let times = [message.id().and_then(time_of_id), Some(message.record.timestamp)];
    times.into_iter().flatten().find(|time| window.contains(time)).unwrap_or(now).max(0)
}

/// When a UUID of version 7 was made (RFC 9562, section 5.7).
fn time_of_id(id: &str) -> Option<i64> {
    let uuid = Uuid::try_parse(id).ok().filter(|uuid| uuid.get_version_num() == 7)?;
    i64::try_from(uuid.as_u128() >> 80).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        bus::Record,
        slip::{Limits, Stops},
    };

    /// 2026-11-21T18:40:00Z
    const NOW: u64 = 1_795_286_400_000;
    const DAY: u64 = DAY_MS as u64;

    fn record(value: &str) -> Record<'_> {
        let headers = Default::default();
        Record { partition: 1, offset: 4711, timestamp: -1, key: None, headers, value: Some(value.as_bytes()) }
    }

    /// The two lines of a message.
    fn text(record: Record<'_>) -> (String, String) {
        let stops = Stops::default();
        let message = Message::parse(record, &Limits::default(), &stops).unwrap();
        let mut documents = Documents::default();
        let now = UNIX_EPOCH + Duration::from_millis(NOW);
        documents.fill(&[message], "metro-bus", &Topic::new("Log").unwrap(), now);
        let text = String::from_utf8(documents.lines(0..1).to_vec()).unwrap();
        let (action, document) = text.strip_suffix('\n').unwrap().split_once('\n').unwrap();
        (action.to_owned(), document.to_owned())
    }

    /// The same read back.
    fn lines(record: Record<'_>) -> (Value, Value) {
        let (action, document) = text(record);
        let action: Value = serde_json::from_str(&action).unwrap();
        (action["index"].clone(), serde_json::from_str(&document).unwrap())
    }

    fn with_id(id: &str) -> String {
        let header = json!({"route": [], "original_route": [], "historical_route": [], "id": id});
        json!({"header": header, "payload": {"x": 1}}).to_string()
    }

    fn uuid_of(time: u64) -> String {
        uuid::Builder::from_unix_timestamp_millis(time, &[7; 10]).into_uuid().to_string()
    }

    #[test]
    fn a_document_is_the_message_and_the_time() {
        let value =
            "{\"header\":{\"route\":[],\"original_route\":[],\"historical_route\":[]},\n\"payload\":{\"x\":2.50}}";
        let (_, document) = lines(record(value));
        let header = json!({"route": [], "original_route": [], "historical_route": []});
        let expected = json!({"header": header, "payload": {"x": 2.5}, INSERTED: NOW});
        assert_eq!(document, expected);
        let (_, document) =
            lines(record(&format!("{{\"{INSERTED}\":1,\"x\":1,\"metrobus_inserted\\u005ftimestamp\":2}}")));
        assert_eq!(document, json!({"x": 1, INSERTED: NOW}), "nobody else sets it");
        let (_, document) = lines(record("{}"));
        assert_eq!(document, json!({INSERTED: NOW}));
    }

    #[test]
    fn an_id_that_can_be_one_is_that_of_the_document() {
        let longest = "é".repeat(256);
        for id in ["7", "a\"b\n{", longest.as_str(), &uuid_of(NOW)] {
            assert_eq!(lines(record(&with_id(id))).0["_id"], id);
        }
        let lone = with_id("ID").replace("ID", "\\ud800");
        for value in ["{}", &with_id(""), &with_id(&"x".repeat(513)), &with_id(&(longest + "x")), &lone] {
            assert!(text(record(value)).0.ends_with("\"_id\":\"Log:1:4711:-1\"}}"), "{value:.200}");
        }
    }

    #[test]
    fn the_index_is_of_the_day_of_the_id_then_of_the_record_then_today() {
        for (id, timestamp, index) in [
            (uuid_of(NOW - DAY), NOW as i64, "metro-bus-2026-11-20"),
            (uuid_of(NOW + DAY), -1, "metro-bus-2026-11-22"),
            (uuid_of(NOW - 8 * DAY), (NOW - 2 * DAY) as i64, "metro-bus-2026-11-19"),
            (uuid_of(NOW + 2 * DAY), (NOW + 2 * DAY) as i64, "metro-bus-2026-11-21"),
            ("no uuid".into(), (NOW - DAY) as i64, "metro-bus-2026-11-20"),
            ("67e55044-10b1-426f-9247-bb680e5fe0c8".into(), -1, "metro-bus-2026-11-21"),
            (uuid_of(0), i64::MAX, "metro-bus-2026-11-21"),
            (uuid_of(0), i64::MIN, "metro-bus-2026-11-21"),
        ] {
            let value = with_id(&id);
            let (action, _) = lines(Record { timestamp, ..record(&value) });
            assert_eq!(action["_index"], index, "{id} at {timestamp}");
        }
    }

    #[test]
    fn messages_are_counted_off_by_their_bytes() {
        let documents = Documents { lines: vec![b'x'; 60], ends: vec![10, 20, 50, 60], index: None };
        let ranges = [(0, 20, 0..2), (0, 19, 0..1), (2, 20, 2..3), (2, 40, 2..4), (3, 1, 3..4), (0, usize::MAX, 0..4)];
        for (start, bytes, range) in ranges {
            assert_eq!(documents.fitting(start, bytes), range);
        }
        assert_eq!(documents.lines(1..3).len(), 40);
    }
}
