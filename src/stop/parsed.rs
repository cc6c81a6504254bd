//! Part of a batch, taken apart, in memory that is used again. Its messages can outlive the poll of the next batch.

use std::{cell::OnceCell, ops::Range, sync::Arc};

use self_cell::self_cell;

use crate::{
    bus::Batch,
    dead_letter::now_ms,
    json::scan::Tape,
    slip::{Checked, Limits, Malformed, Message, Parts, Stops},
};

/// How values are read.
pub struct Terms {
    pub limits: Limits,
    pub stops: Arc<Stops>,
    /// Whether journeys begin here, see [`Message::parse_untrusted`].
    pub beginning: bool,
}

/// What came of the inputs, in their order.
#[derive(Default)]
pub struct Messages<'a> {
    /// For the handler.
    pub messages: Vec<Message<'a>>,
    /// Inputs that no handler is asked about.
    pub refused: Vec<(usize, Refused<'a>)>,
}

/// What no handler is asked about.
pub enum Refused<'a> {
    Malformed(Malformed),
    /// Its deadline has passed, which is this, in milliseconds since the epoch.
    Late(Box<Message<'a>>, i64),
}

/// What messages borrow from.
pub struct Source {
    pub batch: Arc<Batch>,
    pub inputs: Range<usize>,
    stops: Arc<Stops>,
    tape: OnceCell<Tape>,
}

self_cell!(
    pub struct Parsed {
        owner: Source,
        #[not_covariant]
        dependent: Messages,
    }
);

/// What one batch leaves to the next.
#[derive(Default)]
pub struct Memory {
    tape: Tape,
    /// Empty.
    messages: Messages<'static>,
}

impl Parsed {
    /// Takes `inputs` of `batch` apart.
    pub fn read(batch: Arc<Batch>, inputs: Range<usize>, terms: &Terms, memory: &mut Memory) -> Self {
        let source = Source { batch, inputs, stops: terms.stops.clone(), tape: OnceCell::new() };
        Self::new(source, |Source { batch, inputs, stops, tape }| {
            let mut memory = std::mem::take(memory);
            let checked = |index| Checked::new(batch.get(index).value, &terms.limits, &mut memory.tape);
            let checked: Vec<_> = inputs.clone().map(checked).collect();
            let tape = tape.get_or_init(|| memory.tape);
            let Messages { mut messages, mut refused } = memory.messages.recycled();
            let mut now = None;
            for (index, checked) in inputs.clone().zip(checked) {
                let message = checked.and_then(|checked| {
                    let (record, parts) = (batch.get(index), Parts::new(&checked, Some(tape))?);
                    match terms.beginning {
                        true => Message::at_its_beginning(record, parts),
                        false => Message::on_its_way(record, parts, &terms.limits, stops, messages.last()),
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
            Messages { messages, refused }
        })
    }

    /// What is left of it: memory.
    pub fn memory(mut self) -> Memory {
        let messages = self.with_dependent_mut(|_, messages| std::mem::take(messages).recycled());
        let mut tape = self.into_owner().tape.into_inner().unwrap_or_default();
        tape.clear();
        Memory { tape, messages }
    }
}

impl Messages<'_> {
    /// None, in the memory of these.
    fn recycled<'a>(mut self) -> Messages<'a> {
        self.messages.clear();
        // An iterator over a vector collects in place, whatever the lifetimes
        let messages = self.messages.into_iter().map(|_| unreachable!("it is empty")).collect();
        Messages { messages, refused: Vec::new() }
    }
}
