//! What was done with dead letters by hand, noted in the act that did it.
//!
//! An entry is of one stop that had rejected them, and of one partition of the topic of dead letters: its hops are records
//! there. Where one was replayed, `attempts` counts the replays of the message.

use smallvec::SmallVec;

use super::{Hop, Id, Level, Options, Outcome, entry::Writer, id::LONGEST, now_us};
use crate::{
    bus::{Outbox, Record, Topic},
    dead_letter::{Letter, shorten},
};

/// What became of a letter.
pub(crate) struct Repair<'a> {
    /// `Replayed` or `Discarded`.
    pub outcome: Outcome,
    /// The id that the message has from now on.
    pub id: Option<&'a str>,
    /// The topic that it was sent to.
    pub next: Option<&'a str>,
    /// The rule that gave it its new route.
    pub rule: Option<&'a str>,
    /// How often it has been replayed.
    pub replays: u32,
}

/// The notes of one act.
pub(crate) struct Repairs<'a> {
    options: &'a Options,
    letters: &'a Topic,
    /// Microseconds since the epoch.
    time: i64,
    pages: Vec<Page>,
}

struct Page {
    stop: String,
    partition: i32,
    entry: Writer,
}

impl<'a> Repairs<'a> {
    /// Notes about records of `letters`, the topic of dead letters.
    pub fn new(options: &'a Options, letters: &'a Topic) -> Self {
        let time = now_us();
        Self { options, letters, time, pages: Vec::new() }
    }

    /// Notes what became of `letter`, which is `record`, unless the journal is off.
    pub fn note(&mut self, letter: &Letter, record: &Record<'_>, repair: &Repair<'_>) {
        if self.options.level == Level::Off {
            return;
        }
        let hop = Hop {
            offset: letter.offset,
            id: repair.id.map_or(Id::None, Id::new),
            outcome: repair.outcome,
            attempts: repair.replays,
            reason: letter.reason.as_deref().map(shorten),
            next: repair.next,
            rule: repair.rule,
            key: record.key.filter(|key| key.len() <= LONGEST),
            fields: SmallVec::new(),
        };
        let stop = letter.stop.as_deref().unwrap_or("-");
        let open = |page: &Page| page.stop == stop && page.partition == letter.partition && !page.entry.is_full();
        let index = self.pages.iter().rposition(open).unwrap_or_else(|| {
            let mut page = Page { stop: stop.to_owned(), partition: letter.partition, entry: Writer::default() };
            page.entry.begin(stop, self.letters.as_str(), letter.partition, self.time);
            self.pages.push(page);
            self.pages.len() - 1
        });
        self.pages[index].entry.push(&hop);
    }

    /// Adds the notes to `outbox`.
    pub fn publish(mut self, outbox: &mut Outbox) {
        for page in &mut self.pages {
            outbox.publish(&self.options.topic, self.time / 1000, None, Some(page.entry.finish(0)));
        }
    }
}
