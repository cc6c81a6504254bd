//! Another way for messages that a stop would drop.

use crate::{
    bus::Topic,
    config::Config,
    error::Misconfigured,
    handler::Verdict,
    slip::{Message, Revision},
};

/// The stops that take the place of what is ahead of such a message; without any it is dropped.
pub(super) struct Otherwise(Vec<Topic>);

impl Otherwise {
    /// The stops under `key`, for the stop that reads `own`. Fails where a journey cannot take them to their end.
    pub fn new(config: &Config, key: &str, stops: &[Topic], own: &Topic) -> Result<Self, Misconfigured> {
        if !stops.is_empty() {
            config.check_stops(key, stops)?;
        }
        match stops.contains(own) {
            true => Err(config.error(key, format_args!("names \"{own}\", which this stop reads: it would come back"))),
            false => Ok(Self(stops.to_vec())),
        }
    }

    /// Drops the message for `reason`, or sends it the other way, with the reason as a remark in the journal.
    pub fn verdict(&self, message: &mut Message<'_>, reason: &'static str) -> Verdict {
        if self.0.is_empty() {
            return Verdict::drop(reason);
        }
        message.revise(Revision::Replace(self.0.clone()));
        message.remark(reason);
        Verdict::Forward
    }
}
