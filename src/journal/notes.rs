//! What a stop notes while it judges a batch, and publishes in the settle of that batch.

use std::time::Instant;

use smallvec::SmallVec;

use super::{Hop, Id, Level, Options, Outcome, PARENT, entry::Writer, id::LONGEST, now_us};
use crate::{
    bus::{Outbox, Record, Topic},
    dead_letter::{DeadLetters, shorten},
    slip::{self, Copy, Message},
};

/// What became of a message, beside what the message tells itself.
pub(crate) struct What<'a> {
    pub outcome: Outcome,
    /// How often its handler has tried.
    pub attempts: u32,
    pub reason: Option<&'a str>,
    /// The topic that it was published to.
    pub next: Option<&'a str>,
}

/// The notes of one stop; its memory serves batch after batch.
#[derive(Default)]
pub(crate) struct Notes {
    pages: Vec<Page>,
    /// How many of the pages are in use.
    used: usize,
    begun: Option<Begun>,
}

#[derive(Clone, Copy)]
struct Begun {
    /// Microseconds since the epoch.
    time: i64,
    at: Instant,
    /// Journeys begin at this stop.
    journeys: bool,
}

/// An entry, and an input that it is about.
#[derive(Default)]
struct Page {
    partition: i32,
    input: usize,
    entry: Writer,
}

impl Notes {
    /// Forgets what was noted: a range of a batch is about to be judged. `journeys` tells whether journeys begin here.
    pub fn begin(&mut self, journeys: bool) {
        let time = now_us();
        self.begun = Some(Begun { time, at: Instant::now(), journeys });
        self.used = 0;
    }

    /// Notes what became of `record`, input `input` of the batch, where it is no message, or none that can go on: the id in
    /// its slip, if it has one, is believed where slips are.
    pub fn record(
        &mut self,
        options: &Options,
        here: &DeadLetters,
        input: usize,
        record: &Record<'_>,
        what: &What<'_>,
    ) {
        let believed = self.begun.is_some_and(|begun| !begun.journeys);
        let id = record.value.filter(|_| believed).and_then(slip::id_of);
        self.note(options, here, input, record, what, id.as_deref().map_or(Id::None, Id::new), |_| {});
    }

    /// Notes what became of a message, input `input` of the batch.
    pub fn message(
        &mut self,
        options: &Options,
        here: &DeadLetters,
        input: usize,
        message: &Message<'_>,
        what: &What<'_>,
    ) {
        let id = match message.departs_with() {
            Some(id) => Id::Uuid(id.into_bytes()),
            None => message.id().map_or(Id::None, Id::new),
        };
        let remarked = message.remarked().map(|remark| with_remark(what.reason, remark));
        let what = What { reason: remarked.as_deref().or(what.reason), ..*what };
        self.note(options, here, input, &message.record, &what, id, |hop| {
            hop.rule = message.rule();
            add_fields(hop, options, message);
        });
    }

    /// Notes that a copy of a message, input `input` of the batch, has set out: under its own id, with that of its parent
    /// as the field [`PARENT`].
    pub fn copy(
        &mut self,
        options: &Options,
        here: &DeadLetters,
        input: usize,
        message: &Message<'_>,
        copy: &Copy<'_>,
    ) {
        let next = copy.next_stop().map(Topic::as_str);
        let what = What { outcome: Outcome::Forwarded, attempts: 1, reason: None, next };
        let (id, parent) = (Id::Uuid(copy.id.into_bytes()), copy.parent.to_string());
        self.note(options, here, input, &message.record, &what, id, |hop| {
            hop.rule = message.rule();
            add_fields(hop, options, message);
            hop.fields.push((PARENT, parent.into()));
        });
    }

    #[allow(clippy::too_many_arguments)] // its two callers are above
    fn note<'a>(
        &mut self,
        options: &'a Options,
        here: &DeadLetters,
        input: usize,
        record: &Record<'a>,
        what: &What<'a>,
        id: Id<'a>,
        add_fields: impl FnOnce(&mut Hop<'a>),
    ) {
        let Some(begun) = self.begun else { return };
        let noted = match options.level {
            Level::All => true,
            Level::Ends => what.outcome.is_end(),
            Level::Off => false,
        };
        if !noted {
            return;
        }
        // Where only ends are noted, the end is what there is to be found
        let findable = begun.journeys || options.level == Level::Ends;
        let mut hop = Hop {
            offset: record.offset,
            id,
            outcome: what.outcome,
            attempts: what.attempts,
            reason: what.reason.map(shorten),
            next: what.next,
            rule: None,
            key: record.key.filter(|key| (findable || id.is_none()) && key.len() <= LONGEST),
            fields: SmallVec::new(),
        };
        if findable {
            add_fields(&mut hop);
        }
        self.page(here, input, record.partition, begun.time).push(&hop);
    }

    /// The entry that takes what happened to input `input`.
    fn page(&mut self, here: &DeadLetters, input: usize, partition: i32, time: i64) -> &mut Writer {
        let open = |page: &Page| page.partition == partition && !page.entry.is_full();
        // The last ones first: records of a partition mostly come together
        let index = self.pages[..self.used].iter().rposition(open).unwrap_or_else(|| {
            if self.used == self.pages.len() {
                self.pages.push(Page::default());
            }
            let page = &mut self.pages[self.used];
            (page.partition, page.input) = (partition, input);
            page.entry.begin(&here.stop, here.topic.as_str(), partition, time);
            self.used += 1;
            self.used - 1
        });
        &mut self.pages[index].entry
    }

    /// Adds what was noted to the outbox of the inputs that it is about.
    pub fn publish(&mut self, options: &Options, outbox: &mut Outbox) {
        let Some(Begun { time, at, .. }) = self.begun.take() else { return };
        if self.used == 0 {
            return;
        }
        let took = u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX);
        for page in &mut self.pages[..self.used] {
            outbox.note(page.input, &options.topic, time / 1000, page.entry.finish(took));
        }
    }
}

/// The reason of a hop with what its handler remarks. What is before the first colon of a reason is what it is counted
/// under.
fn with_remark(reason: Option<&str>, remark: &str) -> String {
    match reason {
        None => remark.to_owned(),
        Some(reason) if reason.contains(':') => format!("{reason}; {remark}"),
        Some(reason) => format!("{reason}: {remark}"),
    }
}

/// Adds the fields of the payload by which journeys are found.
fn add_fields<'a>(hop: &mut Hop<'a>, options: &'a Options, message: &Message<'a>) {
    for name in &options.fields {
        let value = match message.payload.text(name) {
            Some(text) => Some(text),
            None => message.payload.get(name),
        };
        hop.fields.extend(value.filter(|value| value.len() <= LONGEST).map(|value| (name.as_str(), value)));
    }
}

/// Adds to `outbox` that `record`, input `input` of its batch, became a dead letter after it had been noted as sent: the
/// bus refused its output. `id` is the one in that output.
pub(crate) fn note_refused(
    options: &Options,
    here: &DeadLetters,
    outbox: &mut Outbox,
    input: usize,
    record: &Record<'_>,
    id: Option<&str>,
    reason: &str,
) {
    let mut notes = Notes::default();
    notes.begin(false);
    let (outcome, next) = (Outcome::Rejected, Some(here.error.as_str()));
    let what = What { outcome, attempts: 1, reason: Some(reason), next };
    notes.note(options, here, input, record, &what, id.map_or(Id::None, Id::new), |_| {});
    notes.publish(options, outbox);
}
