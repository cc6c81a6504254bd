//! Records on their way in and out, a batch at a time.
//!
//! A [`Batch`] is what one poll brought; an [`Outbox`] is what a stop made of it. Both keep the bytes of all their
//! records in one growing buffer, so a message costs no allocation of its own, and an output that repeats its input
//! (key, headers, timestamp, the value of a dead letter) refers to it instead of copying it.

use std::ops::Range;

use super::Topic;

/// Where in its buffer a field lies; `None` is Kafka's null, which is not the same as empty.
type Span = Option<Range<usize>>;

fn slice<'a>(buffer: &'a [u8], span: &Span) -> Option<&'a [u8]> {
    span.clone().map(|range| &buffer[range])
}

fn append(buffer: &mut Vec<u8>, bytes: Option<&[u8]>) -> Span {
    let start = buffer.len();
    buffer.extend_from_slice(bytes?);
    Some(start..buffer.len())
}

/// One record as it lies on a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub partition: i32,
    /// Position in its partition, counted from 0.
    pub offset: i64,
    /// Milliseconds since the epoch, as its first producer set it; -1 where the bus does not know.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub headers: Headers<'a>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

/// Record headers: names and values in order, names may repeat, a value may be null.
///
/// Held in one encoding everywhere (in memory and in SQLite): per header the length of the name (u32, little endian),
/// the name, the length of the value (u32, `u32::MAX` for null), the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// Takes bytes that [`Headers::push`] made; what does not decode ends the iteration.
    pub fn from_encoded(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn encoded(&self) -> &'a [u8] {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends one header to `buffer` in the encoding above.
    pub fn push(buffer: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
        buffer.extend_from_slice(&(name.len() as u32).to_le_bytes());
        buffer.extend_from_slice(name.as_bytes());
        let length = value.map_or(u32::MAX, |value| value.len() as u32);
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(value.unwrap_or_default());
    }

    /// The value of the last header of that name; `None` where there is none or its value is null.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.into_iter().filter(|(n, _)| *n == name).last()?.1
    }
}

impl<'a> IntoIterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        HeadersIter(self.0)
    }
}

/// Walks [`Headers`] in order.
pub struct HeadersIter<'a>(&'a [u8]);

impl<'a> HeadersIter<'a> {
    fn field(&mut self) -> Option<Option<&'a [u8]>> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        if length == u32::MAX {
            self.0 = rest;
            return Some(None);
        }
        let (field, rest) = rest.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(Some(field))
    }
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let name = std::str::from_utf8(self.field()??).ok()?;
        let value = self.field()?;
        Some((name, value))
    }
}

struct Entry {
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Span,
    headers: Span,
    value: Span,
}

/// What one poll brought, in the order in which it is to be handled: per partition, by offset.
#[derive(Default)]
pub struct Batch {
    /// The engine's mark of when it was read: what it uses to tell records that are no longer its to settle.
    pub epoch: u64,
    buffer: Vec<u8>,
    entries: Vec<Entry>,
}

impl Batch {
    pub fn with_epoch(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// Forgets its records and keeps their memory for others.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.entries.clear();
    }

    /// Makes room for that much more, so that growing does not move what is there.
    pub fn reserve(&mut self, records: usize, bytes: usize) {
        self.entries.reserve(records);
        self.buffer.reserve(bytes);
    }

    /// Appends a copy of `record`.
    pub fn push(&mut self, record: Record<'_>) {
        let headers = (!record.headers.is_empty()).then(|| record.headers.encoded());
        self.entries.push(Entry {
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: append(&mut self.buffer, record.key),
            headers: append(&mut self.buffer, headers),
            value: append(&mut self.buffer, record.value),
        });
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of keys, headers and values together.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The record at `index`; panics past the end, as a slice does.
    pub fn get(&self, index: usize) -> Record<'_> {
        let entry = &self.entries[index];
        Record {
            partition: entry.partition,
            offset: entry.offset,
            timestamp: entry.timestamp,
            key: slice(&self.buffer, &entry.key),
            headers: Headers(slice(&self.buffer, &entry.headers).unwrap_or_default()),
            value: slice(&self.buffer, &entry.value),
        }
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// From where an output takes a field: the input record that caused it, or the outbox's own buffer.
enum Field {
    Input,
    Own(Span),
}

struct Output {
    input: usize,
    /// Index in the topics of the outbox.
    topic: usize,
    /// Key and timestamp always travel along; a new record (no input) brings its own.
    key: Field,
    headers: Field,
    value: Field,
    timestamp: Option<i64>,
}

/// What is to be published: for a stop, caused by the records of one [`Batch`]; for the pusher, new records.
#[derive(Default)]
pub struct Outbox {
    buffer: Vec<u8>,
    outputs: Vec<Output>,
    topics: Vec<Topic>,
}

/// One output, its fields resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputRef<'a> {
    /// Index in the batch of the record that caused it (0 for new records).
    pub input: usize,
    pub topic: &'a Topic,
    /// Milliseconds since the epoch; -1 lets the bus stamp it.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub headers: Headers<'a>,
    pub value: Option<&'a [u8]>,
}

impl Outbox {
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.outputs.clear();
        self.topics.clear();
    }

    /// The topics that its outputs go to, each once; more where an output was taken back.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    fn topic(&mut self, topic: &Topic) -> usize {
        // Few, and mostly the one of the last time
        self.topics.iter().rposition(|known| known == topic).unwrap_or_else(|| {
            self.topics.push(topic.clone());
            self.topics.len() - 1
        })
    }

    pub fn len(&self) -> usize {
        self.outputs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// Sends input `input` on to `topic` with the value that `write` appends: key, headers and timestamp travel along.
    /// Gives the value's size in bytes; [`Outbox::pop`] takes the output back.
    pub fn forward(&mut self, input: usize, topic: &Topic, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = self.buffer.len();
        write(&mut self.buffer);
        let value = start..self.buffer.len();
        let size = value.len();
        let topic = self.topic(topic);
        self.outputs.push(Output {
            input,
            topic,
            key: Field::Input,
            headers: Field::Input,
            value: Field::Own(Some(value)),
            timestamp: None,
        });
        size
    }

    /// Sends input `input` to `topic` byte for byte, with the headers that `write` appends in place of its own.
    pub fn repeat(&mut self, input: usize, topic: &Topic, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.buffer.len();
        write(&mut self.buffer);
        let headers = start..self.buffer.len();
        let topic = self.topic(topic);
        self.outputs.push(Output {
            input,
            topic,
            key: Field::Input,
            headers: Field::Own(Some(headers)),
            value: Field::Input,
            timestamp: None,
        });
    }

    /// Appends a record that no input caused.
    pub fn publish(&mut self, topic: &Topic, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.publish_with(topic, timestamp, key, Headers::default(), value);
    }

    /// The same with record headers.
    pub fn publish_with(
        &mut self,
        topic: &Topic,
        timestamp: i64,
        key: Option<&[u8]>,
        headers: Headers<'_>,
        value: Option<&[u8]>,
    ) {
        let key = append(&mut self.buffer, key);
        let headers = append(&mut self.buffer, Some(headers.encoded()).filter(|encoded| !encoded.is_empty()));
        let value = append(&mut self.buffer, value);
        let topic = self.topic(topic);
        self.outputs.push(Output {
            input: 0,
            topic,
            key: Field::Own(key),
            headers: Field::Own(headers),
            value: Field::Own(value),
            timestamp: Some(timestamp),
        });
    }

    /// Appends a record about inputs, of which `input` is one: it is published where that one is settled.
    pub fn note(&mut self, input: usize, topic: &Topic, timestamp: i64, value: &[u8]) {
        self.publish(topic, timestamp, None, Some(value));
        if let Some(output) = self.outputs.last_mut() {
            output.input = input;
        }
    }

    /// Gives what input `input` has caused, where that was added last, other record headers: those that `rewrite` appends
    /// for the ones that it had, `of_input` where they were the input's.
    pub fn rewrite_headers(
        &mut self,
        input: usize,
        of_input: Headers<'_>,
        rewrite: impl Fn(Headers<'_>, &mut Vec<u8>),
    ) {
        let first = self.outputs.iter().rposition(|output| output.input != input).map_or(0, |other| other + 1);
        let mut headers = Vec::new();
        for output in &mut self.outputs[first..] {
            headers.clear();
            match &output.headers {
                Field::Input => rewrite(of_input, &mut headers),
                Field::Own(span) => rewrite(Headers(slice(&self.buffer, span).unwrap_or_default()), &mut headers),
            }
            output.headers = Field::Own(append(&mut self.buffer, Some(&headers)));
        }
    }

    /// Takes the last output back.
    pub fn pop(&mut self) {
        self.outputs.pop();
    }

    /// Bytes of all values together, or somewhat more where outputs were taken back or headers are its own.
    pub fn bytes(&self, batch: &Batch) -> usize {
        let repeated = self.outputs.iter().filter(|output| matches!(output.value, Field::Input));
        let repeated = repeated.map(|output| batch.get(output.input).value.map_or(0, <[u8]>::len));
        self.buffer.len() + repeated.sum::<usize>()
    }

    /// The outputs in order; `batch` is the one whose records caused them (an empty one for new records).
    pub fn iter<'a>(&'a self, batch: &'a Batch) -> impl ExactSizeIterator<Item = OutputRef<'a>> {
        self.outputs.iter().map(|output| self.resolve(output, batch))
    }

    fn resolve<'a>(&'a self, output: &'a Output, batch: &'a Batch) -> OutputRef<'a> {
        // New records have no input
        let input = (output.input < batch.len()).then(|| batch.get(output.input));
        let field = |field: &'a Field, of_input: Option<&'a [u8]>| match field {
            Field::Input => of_input,
            Field::Own(span) => slice(&self.buffer, span),
        };
        OutputRef {
            input: output.input,
            topic: &self.topics[output.topic],
            timestamp: output.timestamp.or(input.map(|input| input.timestamp)).unwrap_or(-1),
            key: field(&output.key, input.and_then(|input| input.key)),
            headers: Headers(field(&output.headers, input.map(|input| input.headers.encoded())).unwrap_or_default()),
            value: field(&output.value, input.and_then(|input| input.value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &[u8]) -> Record<'_> {
        Record {
            partition: 1,
            offset: 7,
            timestamp: 5,
            key: Some(b"k"),
            headers: Headers::default(),
            value: Some(value),
        }
    }

    #[test]
    fn headers_keep_order_repeats_and_nulls() {
        let mut bytes = Vec::new();
        Headers::push(&mut bytes, "a", Some(b"1"));
        Headers::push(&mut bytes, "b", None);
        Headers::push(&mut bytes, "a", Some(b""));
        let headers = Headers::from_encoded(&bytes);
        let all: Vec<_> = headers.into_iter().collect();
        assert_eq!(all, [("a", Some(&b"1"[..])), ("b", None), ("a", Some(&b""[..]))]);
        assert_eq!(headers.get("a"), Some(&b""[..]));
        assert_eq!(headers.get("c"), None);
    }

    #[test]
    fn damaged_headers_end_and_do_not_panic() {
        let mut bytes = Vec::new();
        Headers::push(&mut bytes, "a", Some(b"123"));
        for cut in 0..bytes.len() {
            assert_eq!(Headers::from_encoded(&bytes[..cut]).into_iter().count(), 0);
        }
    }

    #[test]
    fn a_forward_carries_key_and_timestamp_and_a_dead_letter_its_value_too() {
        let mut batch = Batch::default();
        batch.push(record(b"in"));
        let (next, error) = (Topic::new("Next").unwrap(), Topic::new("Error").unwrap());
        let mut outbox = Outbox::default();
        assert_eq!(outbox.forward(0, &next, |out| out.extend_from_slice(b"out")), 3);
        outbox.repeat(0, &error, |out| Headers::push(out, "reason", Some(b"why")));
        let all: Vec<_> = outbox.iter(&batch).collect();
        assert_eq!((all[0].key, all[0].timestamp, all[0].value), (Some(&b"k"[..]), 5, Some(&b"out"[..])));
        assert_eq!((all[1].key, all[1].timestamp, all[1].value), (Some(&b"k"[..]), 5, Some(&b"in"[..])));
        assert_eq!(all[1].headers.get("reason"), Some(&b"why"[..]));
    }

    #[test]
    fn all_that_an_input_caused_is_given_other_headers_and_nothing_else_is() {
        let (mut batch, mut own) = (Batch::default(), Vec::new());
        Headers::push(&mut own, "of", Some(b"input"));
        batch.push(Record { headers: Headers::from_encoded(&own), ..record(b"0") });
        batch.push(Record { headers: Headers::from_encoded(&own), ..record(b"1") });
        let (next, error) = (Topic::new("Next").unwrap(), Topic::new("Error").unwrap());
        let mut outbox = Outbox::default();
        outbox.forward(0, &next, |out| out.push(b'a'));
        outbox.forward(1, &next, |out| out.push(b'b'));
        outbox.forward(1, &next, |out| out.push(b'c'));
        outbox.repeat(1, &error, |out| Headers::push(out, "reason", Some(b"why")));
        outbox.rewrite_headers(1, batch.get(1).headers, |headers, out| {
            Headers::push(out, "new", None);
            headers.into_iter().for_each(|(name, value)| Headers::push(out, name, value));
        });
        let names = |output: OutputRef<'_>| output.headers.into_iter().map(|(name, _)| name.to_owned()).collect();
        let all: Vec<Vec<String>> = outbox.iter(&batch).map(names).collect();
        assert_eq!(all, [vec!["of"], vec!["new", "of"], vec!["new", "of"], vec!["new", "reason"]]);
        let values: Vec<_> = outbox.iter(&batch).map(|output| output.value.unwrap()).collect();
        assert_eq!(values, [b"a", b"b", b"c", b"1"]);
    }
}
