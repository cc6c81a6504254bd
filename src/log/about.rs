//! What of a message comes into a line that is about one: its id and its place; with `log.redact = false` also its key, the
//! beginning of its value, and the whole of a reason.

use std::borrow::Cow;

/// The bytes of a key or a value that a line has.
const SHOWN: usize = 1024;

/// Whether payloads and keys are kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redaction(bool);

impl Redaction {
    pub fn new(redact: bool) -> Self {
        Self(redact)
    }

    /// The beginning of a key or a value as text, where it may be told.
    pub fn shown<'a>(&self, bytes: Option<&'a [u8]>) -> Option<Cow<'a, str>> {
        let bytes = bytes.filter(|_| !self.0)?;
        Some(String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]))
    }

    /// As much of a reason as may be told: what stands behind its first colon may be of the payload.
    pub fn reason<'a>(&self, reason: &'a str) -> &'a str {
        match self.0 {
            true => reason.split(':').next().unwrap_or_default().trim_end(),
            false => reason,
        }
    }
}

impl Default for Redaction {
    fn default() -> Self {
        Self(true)
    }
}

/// Tells about one message: `about!(warn, stop's letters, redaction, record, id, reason, fields…, "what happened")`.
macro_rules! about {
    ($level:ident, $letters:expr, $redaction:expr, $record:expr, $id:expr, $reason:expr, $($what:tt)*) => {
        tracing::$level!(
            stop = $letters.stop,
            id = $id.as_deref(),
            topic = %$letters.topic,
            partition = $record.partition,
            offset = $record.offset,
            reason = $redaction.reason($reason),
            key = $redaction.shown($record.key).as_deref(),
            value = $redaction.shown($record.value).as_deref(),
            $($what)*
        )
    };
}
pub(crate) use about;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_message_is_shown_unless_asked_for_and_then_not_without_end() {
        let long = vec![b'x'; 5000];
        let redacted = Redaction::default();
        assert_eq!((redacted.shown(Some(&long)), redacted.reason("no email: a@b")), (None, "no email"));
        let open = Redaction::new(false);
        assert_eq!(open.shown(Some(&long)).map(|shown| shown.len()), Some(SHOWN));
        assert_eq!((open.shown(None), open.reason("no email: a@b")), (None, "no email: a@b"));
        assert_eq!(open.shown(Some(b"\xff1")).as_deref(), Some("\u{fffd}1"));
    }
}
