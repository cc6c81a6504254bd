//! Why a record is no message.

/// Why a record's value is no message; the text is the dead letter's reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("tombstone: the record has no value")]
    Tombstone,
    #[error("empty value")]
    Empty,
    #[error("{bytes} bytes, more than limits.message_bytes = {limit}")]
    TooLong { bytes: usize, limit: usize },
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    #[error("not JSON: {0}")]
    NotJson(String),
    #[error("not a JSON object")]
    NotObject,
    #[error("payload is not a JSON object")]
    PayloadNotObject,
    #[error("{0} occurs twice")]
    Twice(&'static str),
    #[error("nested deeper than limits.depth = {0}")]
    TooDeep(usize),
    #[error("slip: {0}")]
    Slip(String),
    #[error("slip: {hops} hops, more than limits.hops = {limit}")]
    TooManyHops { hops: usize, limit: usize },
    #[error("slip: unknown stop {0:?}: no stop here reads it and `stops` does not list it")]
    UnknownStop(String),
}

impl Malformed {
    /// The reason without its particulars, under which it is counted: one of few, and nothing of the record in it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::Empty => "empty value",
            Self::TooLong { .. } => "longer than limits.message_bytes",
            Self::NotUtf8(_) => "not UTF-8",
            Self::NotJson(_) => "not JSON",
            Self::NotObject => "not a JSON object",
            Self::PayloadNotObject => "payload is not a JSON object",
            Self::Twice(_) => "header or payload occurs twice",
            Self::TooDeep(_) => "nested deeper than limits.depth",
            Self::Slip(_) => "slip is broken",
            Self::TooManyHops { .. } => "slip has more stops than limits.hops",
            Self::UnknownStop(_) => "slip names an unknown stop",
        }
    }
}
