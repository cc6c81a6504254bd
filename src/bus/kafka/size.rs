//! How long a record is on the wire, which is what `max.message.bytes` of a topic limits.

use super::raw::Outgoing;

/// Of a batch (<https://kafka.apache.org/documentation/#recordbatch>) before its first record.
const BATCH_HEADER: usize = 61;

/// Bytes of an uncompressed batch that holds nothing but `record`.
pub fn batch_of_one(record: &Outgoing<'_>) -> usize {
    let field = |bytes: Option<&[u8]>| match bytes {
        // Null is a length of -1
        None => varint(-1),
        Some(bytes) => varint(bytes.len() as i64) + bytes.len(),
    };
    let mut count = 0;
    let mut headers = 0;
    for (name, value) in record.headers {
        count += 1;
        headers += field(Some(name.as_bytes())) + field(value);
    }
    // Attributes, and the differences to time and offset of the batch, which are 0: one byte each
    let body = 3 + field(record.key) + field(record.value) + varint(count) + headers;
    BATCH_HEADER + varint(body as i64) + body
}

/// Bytes of `number` as a zigzag varint.
fn varint(number: i64) -> usize {
    let zigzag = ((number << 1) ^ (number >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Headers;

    #[test]
    fn varints_are_as_long_as_the_protocol_says() {
        let lengths = [(0, 1), (-1, 1), (63, 1), (64, 2), (-64, 1), (-65, 2), (8191, 2), (8192, 3), (1 << 20, 4)];
        for (number, length) in lengths {
            assert_eq!(varint(number), length, "{number}");
        }
    }

    #[test]
    fn a_batch_of_one_adds_up() {
        let mut headers = Vec::new();
        Headers::push(&mut headers, "ab", Some(b"c"));
        Headers::push(&mut headers, "d", None);
        let record = Outgoing {
            key: Some(b"key"),
            value: Some(&[0; 100]),
            headers: Headers::from_encoded(&headers),
            timestamp: 1,
        };
        // 61, length 2, 3, key 1 + 3, value 2 + 100, headers 1 + (1 + 2 + 1 + 1) + (1 + 1 + 1)
        assert_eq!(batch_of_one(&record), 61 + 2 + 3 + 4 + 102 + 9);
        let bare = Outgoing { key: None, value: None, headers: Headers::default(), timestamp: 1 };
        assert_eq!(batch_of_one(&bare), 61 + 1 + 3 + 1 + 1 + 1);
    }
}
