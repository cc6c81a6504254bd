//! Which inputs may be acknowledged: per partition, all up to the first whose outputs are not all delivered.
//!
//! Inputs are booked by runs, not one by one. A run is a stretch of settled inputs of one batch and partition; it counts
//! its outputs that are in flight. Each output carries a token, the run's number and the index of the input that caused
//! it, so a delivery report costs one subtraction.
//!
//! A partition is a queue of segments by offset: handed out and not settled, or settled in some run. The watermark moves
//! over segments at the front whose run is done. A segment has no gap in its offsets, so what is missing in the topic
//! (markers of transactions, compacted records) is never taken for something that was not settled.

use std::{collections::BTreeMap, collections::VecDeque, ops::Range, sync::Arc};

use crate::bus::Batch;

/// Bits of a token for the index in the batch; a batch is never longer.
const INDEX_BITS: u32 = 24;
pub const LONGEST_BATCH: usize = 1 << INDEX_BITS;

/// All partitions that this member reads at present.
#[derive(Default)]
pub struct Watermarks {
    epoch: u64,
    partitions: BTreeMap<i32, Partition>,
    runs: VecDeque<Run>,
    /// Number of the first in `runs`; those before it are done.
    first: u64,
    /// Batches that are done with, for their memory.
    spare: Vec<Batch>,
}

struct Partition {
    /// When it was assigned, or set back; batches of before are stale.
    epoch: u64,
    /// The first offset that was handed out.
    begin: Option<i64>,
    /// The next offset to be handed out, once one was.
    next: Option<i64>,
    /// All before it is settled and delivered; the first that was handed out at least.
    confirmed: Option<i64>,
    /// What the bus knows of `confirmed`.
    committed: Option<i64>,
    /// What it was last told.
    sent: Option<i64>,
    /// All before it has been handed out, or is not for readers.
    end: Option<i64>,
    segments: VecDeque<Segment>,
}

struct Segment {
    start: i64,
    end: i64,
    /// `None` while it is handed out and not settled.
    run: Option<u64>,
}

struct Run {
    pending: u32,
    batch: Option<Arc<Batch>>,
}

/// What a settle opened: the runs of its inputs, for the tokens of their outputs.
pub struct Settled {
    /// Input indices with the number of their run; inputs in none of them were passed over.
    runs: Vec<(Range<usize>, u64)>,
    cursor: usize,
}

impl Settled {
    /// The token for an output of `input`; `None` where the input is another member's now.
    pub fn token(&mut self, input: usize) -> Option<u64> {
        if !self.runs.get(self.cursor)?.0.contains(&input) {
            self.cursor = self.runs.iter().position(|(inputs, _)| inputs.contains(&input)).unwrap_or(self.cursor);
        }
        let (inputs, run) = &self.runs[self.cursor];
        inputs.contains(&input).then_some(run << INDEX_BITS | input as u64)
    }
}

impl Watermarks {
    /// An empty batch, in the memory of one that is done with where there is one.
    pub fn blank(&mut self) -> Batch {
        let mut batch = self.spare.pop().unwrap_or_default();
        batch.clear();
        batch.epoch = self.epoch;
        batch
    }

    /// For [`Batch::epoch`] of what is handed out from now on.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn assign(&mut self, partitions: &[i32]) {
        self.epoch += 1;
        for &partition in partitions {
            let state = Partition {
                epoch: self.epoch,
                begin: None,
                next: None,
                confirmed: None,
                committed: None,
                sent: None,
                end: None,
                segments: VecDeque::new(),
            };
            self.partitions.insert(partition, state);
        }
    }

    pub fn revoke(&mut self, partitions: &[i32]) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
    }

    pub fn assigned(&self) -> Vec<i32> {
        self.partitions.keys().copied().collect()
    }

    /// Takes note that a record is handed out; false where it must not be: it was before, or is not this member's.
    pub fn hand_out(&mut self, partition: i32, offset: i64) -> bool {
        let Some(state) = self.partitions.get_mut(&partition) else { return false };
        if state.next.is_some_and(|next| offset < next) {
            return false;
        }
        state.next = Some(offset + 1);
        state.begin.get_or_insert(offset);
        state.confirmed.get_or_insert(offset);
        match state.segments.back_mut() {
            Some(Segment { end, run: None, .. }) if *end == offset => *end += 1,
            _ => state.segments.push_back(Segment { start: offset, end: offset + 1, run: None }),
        }
        true
    }

    /// Partitions of which it is not known where they are read.
    pub fn untouched(&self) -> impl Iterator<Item = i32> {
        let untouched = self.partitions.iter().filter(|(_, state)| state.next.is_none() && state.end.is_none());
        untouched.map(|(&partition, _)| partition)
    }

    /// Takes note that all before `offset` has been handed out, or is not for readers.
    pub fn passed(&mut self, partition: i32, offset: i64) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.end = Some(offset);
        }
    }

    /// Opens the runs of the inputs that are still this member's. Each counts one pending more until
    /// [`Watermarks::release`].
    pub fn settle(&mut self, batch: &Arc<Batch>, inputs: Range<usize>) -> Settled {
        let mut runs = Vec::new();
        let mut start = inputs.start;
        while start < inputs.end {
            let first = batch.get(start);
            let mut last = first.offset;
            let mut end = start + 1;
            while end < inputs.end {
                let next = batch.get(end);
                if next.partition != first.partition {
                    break;
                }
                last = next.offset;
                end += 1;
            }
            let number = self.first + self.runs.len() as u64;
            if let Some(state) = self.partitions.get_mut(&first.partition)
                && state.epoch <= batch.epoch
                && state.settle(first.offset, last, number)
            {
                self.runs.push_back(Run { pending: 1, batch: Some(batch.clone()) });
                runs.push((start..end, number));
            }
            start = end;
        }
        Settled { runs, cursor: 0 }
    }

    /// Takes note of an output in flight.
    pub fn sent(&mut self, token: u64) {
        if let Some(run) = self.run(token) {
            run.pending += 1;
        }
    }

    /// Takes note that an output is delivered.
    pub fn delivered(&mut self, token: u64) {
        if let Some(run) = self.run(token) {
            run.pending = run.pending.saturating_sub(1);
            if run.pending == 0 {
                let last = run.batch.take().and_then(Arc::into_inner);
                self.spare.extend(last);
            }
        }
    }

    /// All outputs of what was settled are on their way.
    pub fn release(&mut self, settled: &Settled) {
        for (_, number) in &settled.runs {
            self.delivered(number << INDEX_BITS);
        }
    }

    fn run(&mut self, token: u64) -> Option<&mut Run> {
        let index = (token >> INDEX_BITS).checked_sub(self.first)?;
        self.runs.get_mut(index as usize)
    }

    /// The input that caused an output that is in flight.
    pub fn input(&mut self, token: u64) -> Option<(Arc<Batch>, usize)> {
        let index = (token & (LONGEST_BATCH as u64 - 1)) as usize;
        Some((self.run(token)?.batch.clone()?, index))
    }

    /// Moves the watermarks over what is done.
    pub fn advance(&mut self) {
        let done = |number: u64| number < self.first || self.runs[(number - self.first) as usize].pending == 0;
        for state in self.partitions.values_mut() {
            while let Some(segment) = state.segments.front()
                && segment.run.is_some_and(done)
            {
                state.confirmed = Some(segment.end);
                state.segments.pop_front();
            }
        }
        while self.runs.front().is_some_and(|run| run.pending == 0) {
            self.runs.pop_front();
            self.first += 1;
        }
    }

    /// Whether all settled inputs of `partitions` are delivered.
    pub fn idle(&self, partitions: &[i32]) -> bool {
        let states = partitions.iter().filter_map(|partition| self.partitions.get(partition));
        states.flat_map(|state| &state.segments).all(|segment| segment.run.is_none())
    }

    /// Whether something is settled behind something that is not: then no offset tells what is settled.
    pub fn has_holes(&self) -> bool {
        let front = |state: &Partition| state.segments.front().is_some_and(|segment| segment.run.is_none());
        let settled = |state: &Partition| state.segments.iter().any(|segment| segment.run.is_some());
        self.partitions.values().any(|state| front(state) && settled(state))
    }

    /// Offsets to commit that were not sent yet. Where all that was handed out is settled,
    /// it is the position: what lies between is not for readers.
    pub fn unsent(&self) -> Vec<(i32, i64)> {
        let unsent = |(&partition, state): (&i32, &Partition)| {
            let position = state.position()?;
            (Some(position) > state.sent).then_some((partition, position))
        };
        self.partitions.iter().filter_map(unsent).collect()
    }

    pub fn sent_offsets(&mut self, offsets: &[(i32, i64)]) {
        for (partition, offset) in offsets {
            if let Some(state) = self.partitions.get_mut(partition) {
                state.sent = Some(*offset);
            }
        }
    }

    /// The bus has taken the offset.
    pub fn committed(&mut self, partition: i32, offset: i64) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.committed = state.committed.max(Some(offset));
        }
    }

    /// The bus has not taken what was sent last: it is to be sent again.
    pub fn not_committed(&mut self, partition: i32) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.sent = state.committed;
        }
    }

    /// Whether the bus has taken all that can be committed.
    pub fn all_committed(&self) -> bool {
        self.partitions.values().all(|state| state.position() <= state.committed)
    }

    /// Forgets all that was settled or handed out and not committed; gives where each partition has to be read on.
    pub fn set_back(&mut self) -> Vec<(i32, i64)> {
        self.epoch += 1;
        self.first += self.runs.len() as u64;
        self.runs.clear();
        let mut positions = Vec::new();
        for (&partition, state) in &mut self.partitions {
            state.epoch = self.epoch;
            state.segments.clear();
            // `confirmed` may be ahead: what is delivered in a transaction counts only when that is committed
            if let Some(position) = state.committed.or(state.begin) {
                state.next = Some(position);
                state.confirmed = Some(position);
                state.sent = state.committed;
                state.end = None;
                positions.push((partition, position));
            }
        }
        positions
    }

    /// Per partition: the next offset that is neither handed out nor past the end that was seen; `None` where that is not
    /// known, or where something handed out is not settled and delivered.
    pub fn positions(&self) -> impl Iterator<Item = (i32, Option<i64>)> {
        self.partitions.iter().map(|(&partition, state)| {
            let position = state.next.max(state.end);
            (partition, position.filter(|_| state.segments.is_empty()))
        })
    }

    /// Per partition: the first offset that is not settled and delivered; `None` where nothing was read yet.
    pub fn unacknowledged(&self) -> impl Iterator<Item = (i32, Option<i64>)> {
        self.partitions.iter().map(|(&partition, state)| {
            let end = state.end.filter(|_| state.segments.is_empty());
            (partition, state.confirmed.max(end))
        })
    }
}

impl Partition {
    /// Gives the segments from `first` to `last` to a run; false where they are not there to be settled.
    fn settle(&mut self, first: i64, last: i64, run: u64) -> bool {
        let Some(index) = self.segments.iter().rposition(|segment| segment.start <= first) else { return false };
        let segment = &mut self.segments[index];
        if segment.run.is_some() || segment.end <= first {
            return false;
        }
        let mut index = index;
        if segment.start < first {
            let rest = Segment { start: first, end: segment.end, run: None };
            segment.end = first;
            index += 1;
            self.segments.insert(index, rest);
        }
        while let Some(segment) = self.segments.get_mut(index)
            && segment.start <= last
            && segment.run.is_none()
        {
            segment.run = Some(run);
            if last + 1 < segment.end {
                let rest = Segment { start: last + 1, end: segment.end, run: None };
                segment.end = last + 1;
                self.segments.insert(index + 1, rest);
            }
            index += 1;
        }
        true
    }

    /// What may be committed; `None` where nothing was read.
    fn position(&self) -> Option<i64> {
        self.confirmed.max(self.end.filter(|_| self.segments.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bus::Record;

    /// Hands out the offsets and gives their batch.
    fn hand_out(marks: &mut Watermarks, offsets: &[(i32, i64)]) -> Arc<Batch> {
        let mut batch = Batch::with_epoch(marks.epoch());
        for &(partition, offset) in offsets {
            assert!(marks.hand_out(partition, offset));
            let (key, headers, value) = (None, Default::default(), None);
            batch.push(Record { partition, offset, timestamp: 0, key, headers, value });
        }
        Arc::new(batch)
    }

    /// Settles the inputs, each with one output in flight; gives the tokens.
    fn settle(marks: &mut Watermarks, batch: &Arc<Batch>, inputs: Range<usize>) -> Vec<u64> {
        let mut settled = marks.settle(batch, inputs.clone());
        let tokens: Vec<_> = inputs.filter_map(|input| settled.token(input)).collect();
        tokens.iter().for_each(|&token| marks.sent(token));
        marks.release(&settled);
        marks.advance();
        tokens
    }

    fn deliver(marks: &mut Watermarks, tokens: &[u64]) {
        tokens.iter().for_each(|&token| marks.delivered(token));
        marks.advance();
    }

    fn confirmed(marks: &Watermarks, partition: i32) -> Option<i64> {
        marks.unacknowledged().find(|(id, _)| *id == partition).and_then(|(_, offset)| offset)
    }

    #[test]
    fn nothing_is_confirmed_past_what_is_in_flight() {
        let mut marks = Watermarks::default();
        marks.assign(&[0, 1]);
        let batch = hand_out(&mut marks, &[(0, 5), (0, 6), (1, 0), (1, 1), (0, 7)]);
        let first = settle(&mut marks, &batch, 0..2);
        let second = settle(&mut marks, &batch, 2..5);
        assert_eq!((confirmed(&marks, 0), confirmed(&marks, 1)), (Some(5), Some(0)));
        deliver(&mut marks, &second);
        assert_eq!((confirmed(&marks, 0), confirmed(&marks, 1)), (Some(5), Some(2)));
        deliver(&mut marks, &first[..1]);
        assert_eq!(confirmed(&marks, 0), Some(5));
        deliver(&mut marks, &first[1..]);
        assert_eq!(confirmed(&marks, 0), Some(8));
        assert_eq!(marks.runs.len(), 0);
    }

    #[test]
    fn an_input_without_outputs_waits_for_those_before_it() {
        let mut marks = Watermarks::default();
        marks.assign(&[0]);
        let batch = hand_out(&mut marks, &[(0, 0), (0, 1)]);
        let tokens = settle(&mut marks, &batch, 0..1);
        let dropped = marks.settle(&batch, 1..2);
        marks.release(&dropped);
        marks.advance();
        assert_eq!(confirmed(&marks, 0), Some(0));
        deliver(&mut marks, &tokens);
        assert_eq!(confirmed(&marks, 0), Some(2));
        assert_eq!(marks.unsent(), [(0, 2)]);
    }

    #[test]
    fn what_went_to_another_member_is_passed_over() {
        let mut marks = Watermarks::default();
        marks.assign(&[0, 1]);
        let batch = hand_out(&mut marks, &[(0, 0), (1, 0)]);
        marks.revoke(&[0]);
        let mut settled = marks.settle(&batch, 0..2);
        assert_eq!((settled.token(0), settled.token(1).is_some()), (None, true));
        marks.release(&settled);
        // Back again, and read from the same place: the old batch stays stale
        marks.assign(&[0]);
        let again = hand_out(&mut marks, &[(0, 0)]);
        assert_eq!(marks.settle(&batch, 0..1).token(0), None);
        assert!(marks.settle(&again, 0..1).token(0).is_some());
    }

    #[test]
    fn a_late_delivery_of_a_revoked_partition_moves_nothing() {
        let mut marks = Watermarks::default();
        marks.assign(&[0]);
        let batch = hand_out(&mut marks, &[(0, 0)]);
        let tokens = settle(&mut marks, &batch, 0..1);
        marks.revoke(&[0]);
        marks.assign(&[0]);
        hand_out(&mut marks, &[(0, 0)]);
        deliver(&mut marks, &tokens);
        assert_eq!(confirmed(&marks, 0), Some(0));
    }

    #[test]
    fn an_undone_transaction_goes_back_to_what_is_committed() {
        let mut marks = Watermarks::default();
        marks.assign(&[0, 1]);
        let batch = hand_out(&mut marks, &[(0, 3), (0, 4), (1, 8)]);
        let tokens = settle(&mut marks, &batch, 0..1);
        deliver(&mut marks, &tokens);
        marks.committed(0, 4);
        settle(&mut marks, &batch, 1..3);
        assert_eq!(marks.set_back(), [(0, 4), (1, 8)]);
        assert_eq!(marks.settle(&batch, 0..3).token(1), None, "stale");
        let again = hand_out(&mut marks, &[(0, 4), (1, 8)]);
        let tokens = settle(&mut marks, &again, 0..2);
        deliver(&mut marks, &tokens);
        assert_eq!(marks.unsent(), [(0, 5), (1, 9)]);
    }

    #[test]
    fn settled_out_of_order_is_a_hole() {
        let mut marks = Watermarks::default();
        marks.assign(&[0]);
        let first = hand_out(&mut marks, &[(0, 0), (0, 1)]);
        let second = hand_out(&mut marks, &[(0, 2)]);
        let tokens = settle(&mut marks, &second, 0..1);
        deliver(&mut marks, &tokens);
        assert!(marks.has_holes());
        assert_eq!(confirmed(&marks, 0), Some(0));
        let tokens = settle(&mut marks, &first, 0..2);
        deliver(&mut marks, &tokens);
        assert!(!marks.has_holes());
        assert_eq!(confirmed(&marks, 0), Some(3));
    }

    #[test]
    fn the_end_counts_only_when_all_before_it_is_done() {
        let mut marks = Watermarks::default();
        marks.assign(&[0]);
        let batch = hand_out(&mut marks, &[(0, 0)]);
        marks.passed(0, 2); // one marker behind the record
        assert_eq!((confirmed(&marks, 0), marks.positions().collect::<Vec<_>>()), (Some(0), vec![(0, None)]));
        let tokens = settle(&mut marks, &batch, 0..1);
        deliver(&mut marks, &tokens);
        assert_eq!((confirmed(&marks, 0), marks.positions().collect::<Vec<_>>()), (Some(2), vec![(0, Some(2))]));
    }

    proptest! {
        /// Against a model that knows each record: gaps in the offsets, batches in parts, deliveries in any order.
        #[test]
        fn confirmed_is_the_first_that_is_not_delivered(
            gaps in prop::collection::vec((0..3i32, 1..4i64), 1..60),
            cuts in prop::collection::vec(1..7usize, 1..60),
            order in prop::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let mut marks = Watermarks::default();
            marks.assign(&[0, 1, 2]);
            let mut next = [0; 3];
            let offsets: Vec<_> = gaps
                .iter()
                .map(|&(partition, gap)| {
                    next[partition as usize] += gap;
                    (partition, next[partition as usize])
                })
                .collect();
            let mut cuts = cuts.into_iter().cycle();
            let mut order = order.into_iter();
            let mut flying: Vec<(u64, (i32, i64))> = Vec::new();
            let mut open: Vec<(i32, i64)> = Vec::new();
            let mut rest = &offsets[..];
            let mut seen: [bool; 3] = [false; 3];
            let check = |marks: &Watermarks, open: &[(i32, i64)], seen: &[bool; 3]| {
                for partition in (0..3).filter(|&partition| seen[partition as usize]) {
                    let first = open.iter().filter(|(id, _)| *id == partition).map(|(_, offset)| *offset).min();
                    let found = confirmed(marks, partition);
                    match first {
                        // Between a delivered record and the next may be a gap
                        Some(first) => prop_assert!(found.is_some_and(|found| found <= first), "{found:?} {first}"),
                        None => {
                            let last = offsets.iter().filter(|(id, _)| *id == partition);
                            let handed = marks.positions().find(|(id, _)| *id == partition).and_then(|(_, at)| at);
                            prop_assert_eq!(found, handed);
                            prop_assert!(last.map(|(_, offset)| offset + 1).max() >= handed);
                        }
                    }
                }
                Ok(())
            };
            while !rest.is_empty() || !flying.is_empty() {
                if !rest.is_empty() {
                    let (now, later) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                    rest = later;
                    let batch = hand_out(&mut marks, now);
                    now.iter().for_each(|(partition, _)| seen[*partition as usize] = true);
                    open.extend(now);
                    let cut = cuts.next().unwrap_or(1).min(batch.len());
                    for part in [0..cut, cut..batch.len()] {
                        let tokens = settle(&mut marks, &batch, part.clone());
                        flying.extend(tokens.into_iter().zip(now[part].iter().copied()));
                        check(&marks, &open, &seen)?;
                    }
                }
                for _ in 0..3 {
                    if let Some(index) = order.next().filter(|_| !flying.is_empty()).map(|index| index.index(flying.len())) {
                        let (token, record) = flying.swap_remove(index);
                        open.retain(|other| *other != record);
                        deliver(&mut marks, &[token]);
                        check(&marks, &open, &seen)?;
                    } else if rest.is_empty() && let Some((token, record)) = flying.pop() {
                        open.retain(|other| *other != record);
                        deliver(&mut marks, &[token]);
                        check(&marks, &open, &seen)?;
                    }
                }
            }
            prop_assert_eq!(marks.runs.len(), 0);
        }
    }
}
