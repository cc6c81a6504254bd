//! What becomes of the messages of a batch: taken apart, handled, and their verdicts carried out into an outbox.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tracing::warn;

use super::{Scratch, Settings, Stop};
use crate::{
    bus::{Batch, Outbox, Record, Topic},
    dead_letter::{history::History, now_ms},
    handler::Verdict,
    journal::{Notes, Outcome, What},
    slip::{Checked, Malformed, Message, Parts},
    stats::{Reason, Tally, tally},
    terminal::moment,
};

/// Outputs of one settle, and bytes of them that are copies: what is more waits for the next one.
const MOST_OUTPUTS: usize = 100_000;
const MOST_COPIED: usize = 64 << 20;

impl Stop {
    /// Handles `range` of a batch, the first message after what was tried with it before, and fills the outbox with what
    /// comes of it, up to the first message that is to be tried again. Calls `prepared` once the handler has prepared.
    pub(super) fn judge(
        &mut self,
        batch: &Batch,
        range: std::ops::Range<usize>,
        first: &Tries,
        scratch: &mut Scratch,
        prepared: impl FnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Judged> {
        let (limits, stops) = (self.settings.limits, Arc::clone(&self.settings.stops));
        let Scratch { tape, outbox, messages: memory, notes, .. } = scratch;
        tape.clear();
        outbox.clear();
        let checked: Vec<_> = range.clone().map(|index| Checked::new(batch.get(index).value, &limits, tape)).collect();
        let mut messages = recycled(std::mem::take(memory));
        let (mut refused, mut now) = (Vec::new(), None);
        for (index, checked) in range.clone().zip(checked) {
            let message = checked.and_then(|checked| {
                let (record, parts) = (batch.get(index), Parts::new(&checked, Some(tape))?);
                match self.handler.begins_journeys() {
                    true => Message::at_its_beginning(record, parts),
                    false => Message::on_its_way(record, parts, &limits, &stops, messages.last()),
                }
            });
            match message {
                Ok(message) => match message.deadline() {
                    Some(end) if end < *now.get_or_insert_with(now_ms) => {
                        refused.push((index, Refused::Late(Box::new(message), end)));
                    }
                    _ => messages.push(message),
                },
                Err(reason) => refused.push((index, Refused::Malformed(reason))),
            }
        }
        self.prepare(&messages);
        prepared(self)?;
        // The batch before is none of its time
        notes.begin(self.handler.begins_journeys());
        let verdicts = match self.ask(&mut messages) {
            Answer::Verdicts(verdicts) => verdicts,
            Answer::Away(error) => return Ok(Judged::Away(error)),
            Answer::Panicked if messages.len() > 1 => return Ok(Judged::Panicked),
            Answer::Panicked => messages.iter().map(|_| Verdict::retry("handler panicked")).collect(),
        };
        let mut refused = refused.into_iter().peekable();
        let mut judged = messages.iter().zip(verdicts);
        let (mut counts, fresh) = (Tally::default(), Tries::default());
        for index in range.clone() {
            let tries = if index == range.start { first } else { &fresh };
            if let Some((_, refused)) = refused.next_if(|(at, _)| *at == index) {
                self.refuse(index, batch.get(index), refused, tries, (outbox, notes), &mut counts);
                continue;
            }
            let Some((message, verdict)) = judged.next() else { break };
            let attempt = tries.attempt;
            let verdict = match verdict {
                Verdict::Retry(reason) if attempt < self.settings.retry.max_attempts => {
                    notes.publish(&self.settings.journal, outbox);
                    return Ok(Judged::Up { to: index, tally: counts, retry: Some(reason) });
                }
                Verdict::Retry(reason) => Verdict::reject(format!("{reason}; gave up after {attempt} attempts")),
                verdict => verdict,
            };
            self.carry_out(index, message, verdict, tries, (outbox, notes), &mut counts);
            if counts.copied_bytes > MOST_COPIED || outbox.len() > MOST_OUTPUTS {
                // Messages that are sent many times over are settled a few at a time
                notes.publish(&self.settings.journal, outbox);
                return Ok(Judged::Up { to: index + 1, tally: counts, retry: None });
            }
        }
        notes.publish(&self.settings.journal, outbox);
        *memory = recycled(messages);
        Ok(Judged::Up { to: range.end, tally: counts, retry: None })
    }

    /// Has the handler begin what takes a while. Where it panics it will when it is asked, and that is dealt with there.
    fn prepare(&mut self, messages: &[Message<'_>]) {
        let handler = &mut self.handler;
        if handler.prepares() && !messages.is_empty() {
            let _ = catch_unwind(AssertUnwindSafe(|| handler.prepare(messages)));
        }
    }

    fn ask(&mut self, messages: &mut [Message<'_>]) -> Answer {
        if messages.is_empty() {
            return Answer::Verdicts(Vec::new());
        }
        let handler = &mut self.handler;
        // A handler is asked again after a panic; what state it left itself in is its own to mind
        match catch_unwind(AssertUnwindSafe(|| handler.handle(messages))) {
            Ok(Ok(verdicts)) if verdicts.len() == messages.len() => Answer::Verdicts(verdicts),
            Ok(Ok(verdicts)) => {
                let reason = format!("handler gave {} verdicts on {} messages", verdicts.len(), messages.len());
                Answer::Verdicts(messages.iter().map(|_| Verdict::reject(reason.clone())).collect())
            }
            Ok(Err(error)) => Answer::Away(error),
            Err(_) => {
                warn!(stop = self.letters.stop, "handler panicked");
                Answer::Panicked
            }
        }
    }

    /// Makes a dead letter of what no handler is asked about.
    fn refuse(
        &self,
        index: usize,
        record: Record<'_>,
        refused: Refused<'_>,
        tries: &Tries,
        (outbox, notes): (&mut Outbox, &mut Notes),
        counts: &mut Tally,
    ) {
        match refused {
            Refused::Malformed(reason) => {
                let text = reason.to_string();
                counts.read += 1;
                self.letters.write(outbox, index, &record, &text, 1);
                notes.record(&self.settings.journal, &self.letters, index, &record, &self.rejected(&text, 1));
                tally(&mut counts.rejected, reason.kind().into());
            }
            Refused::Late(message, deadline) => {
                let reason = format!("its deadline has passed: {}", moment(deadline));
                // It is not tried again
                let tries = Tries { attempt: (tries.attempt - 1).max(1), failed: tries.failed.clone() };
                self.carry_out(index, &message, Verdict::reject(reason), &tries, (outbox, notes), counts);
            }
        }
    }

    fn carry_out(
        &self,
        index: usize,
        message: &Message<'_>,
        verdict: Verdict,
        tries: &Tries,
        (outbox, notes): (&mut Outbox, &mut Notes),
        counts: &mut Tally,
    ) {
        counts.read += 1;
        let attempts = tries.attempt;
        let record = &message.record;
        let mut note = |what: What<'_>| notes.message(&self.settings.journal, &self.letters, index, message, &what);
        let finished = What { outcome: Outcome::Finished, attempts, reason: None, next: None };
        let reason: Reason = match verdict {
            Verdict::Drop(reason) => {
                note(What { outcome: Outcome::Dropped, attempts, reason: Some(&reason), next: None });
                return tally(&mut counts.dropped, label(reason));
            }
            Verdict::Finish => {
                note(finished);
                return counts.finished.push(record.timestamp);
            }
            Verdict::Forward => match self.forward(index, message, outbox, counts) {
                Ok(None) => {
                    note(finished);
                    return counts.finished.push(record.timestamp);
                }
                Ok(Some(next)) => {
                    note(What { outcome: Outcome::Forwarded, attempts, reason: None, next: Some(next.as_str()) });
                    for copy in message.copies() {
                        notes.copy(&self.settings.journal, &self.letters, index, message, &copy);
                    }
                    counts.forwarded += 1;
                    return;
                }
                Err(reason) => reason.into(),
            },
            Verdict::Reject(reason) | Verdict::Retry(reason) => reason,
        };
        self.letters.write_after(&tries.failed, outbox, index, record, &reason, attempts);
        note(self.rejected(&reason, attempts));
        tally(&mut counts.rejected, label(reason));
    }

    /// Sends a message on to its next stop, and its copies to theirs. Gives where it goes, if anywhere, or why it cannot.
    fn forward<'m>(
        &self,
        index: usize,
        message: &'m Message<'_>,
        outbox: &mut Outbox,
        counts: &mut Tally,
    ) -> Result<Option<&'m Topic>, String> {
        let Settings { limits, stops, .. } = &self.settings;
        if let Some(reason) = message.refused_revision(limits, stops) {
            return Err(reason);
        }
        let Some(next) = message.next_stop() else { return Ok(None) };
        let mut longest = outbox.forward(index, next, |out| message.write_next_from(&self.letters.stop, out));
        let (mut sent, mut copied) = (1, 0);
        for copy in message.copies() {
            let Some(next) = copy.next_stop() else { continue };
            let bytes = outbox.forward(index, next, |out| message.write_copy(&copy, out));
            (longest, sent, copied) = (longest.max(bytes), sent + 1, copied + bytes);
        }
        let limit = limits.message_bytes;
        if longest > limit {
            (0..sent).for_each(|_| outbox.pop());
            return Err(format!("output is longer than limits.message_bytes = {limit}: {longest} bytes"));
        }
        counts.copied += sent - 1;
        counts.copied_bytes += copied;
        Ok(Some(next))
    }

    fn rejected<'a>(&'a self, reason: &'a str, attempts: u32) -> What<'a> {
        let next = Some(self.letters.error.as_str());
        What { outcome: Outcome::Rejected, attempts, reason: Some(reason), next }
    }
}

/// What a reason is counted under: as it is where it is fixed, else up to its first colon, so that particulars neither
/// make it many nor come into the log.
fn label(reason: Reason) -> Reason {
    match reason {
        Reason::Owned(text) => text.split(':').next().unwrap_or_default().trim_end().to_owned().into(),
        fixed => fixed,
    }
}

/// What no handler is asked about.
enum Refused<'a> {
    Malformed(Malformed),
    /// Its deadline has passed, which is this, in milliseconds since the epoch.
    Late(Box<Message<'a>>, i64),
}

/// How often a message has been tried, with this time.
pub(super) struct Tries {
    pub attempt: u32,
    /// What went wrong before.
    pub failed: History,
}

impl Default for Tries {
    fn default() -> Self {
        Self { attempt: 1, failed: History::default() }
    }
}

/// An empty vector in the memory of another one, whose messages may have been of other batches.
fn recycled<'a>(mut messages: Vec<Message<'_>>) -> Vec<Message<'a>> {
    messages.clear();
    // An iterator over a vector collects in place, whatever the lifetimes
    messages.into_iter().map(|_| unreachable!("it is empty")).collect()
}

/// What came of handling a range of a batch.
pub(super) enum Judged {
    /// All up to `to` may be settled; then `retry` says why the next one is to be tried again.
    Up { to: usize, tally: Tally, retry: Option<std::borrow::Cow<'static, str>> },
    /// One of several messages made the handler panic.
    Panicked,
    /// What the handler needs is away.
    Away(anyhow::Error),
}

enum Answer {
    Verdicts(Vec<Verdict>),
    Panicked,
    Away(anyhow::Error),
}
