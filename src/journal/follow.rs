//! Reads the journal's topic into the index.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracing::{info, warn};

use super::{
    Options,
    index::{Index, Position, checksum},
};
use crate::{
    backoff::persist,
    bus::{Batch, Bus, Reader},
    shutdown::Shutdown,
};

/// Records in one go, and in one transaction of the index.
const BATCH: usize = 1000;

const POLL: Duration = Duration::from_millis(100);

/// Between two rounds of retention.
const RETENTION_ROUND: Duration = Duration::from_secs(60);

/// Catching up is told of where it takes longer.
const LONG: Duration = Duration::from_secs(2);

/// A reader of the topic that writes the index.
pub struct Follower<'a> {
    bus: &'a dyn Bus,
    options: &'a Options,
    connect_timeout: Option<Duration>,
    /// How long the bus is waited for where it goes away later.
    patience: Option<Duration>,
    shutdown: &'a Shutdown,
    index: Index,
    reader: Option<Box<dyn Reader>>,
    /// Where each partition stood in the index when the reader was opened; gone once its first record has come.
    expected: HashMap<i32, Position>,
    retained: Instant,
    /// Records read since the reader was opened.
    read: u64,
}

impl<'a> Follower<'a> {
    /// Opens the index; the bus is reached for later.
    pub fn open(
        bus: &'a dyn Bus,
        options: &'a Options,
        connect_timeout: Option<Duration>,
        shutdown: &'a Shutdown,
    ) -> Result<Self> {
        let mut index = Index::open(options)?;
        index.retain()?;
        Ok(Self {
            bus,
            options,
            connect_timeout,
            patience: None,
            shutdown,
            index,
            reader: None,
            expected: HashMap::new(),
            retained: Instant::now(),
            read: 0,
        })
    }

    /// Waits no longer than this for a bus that has gone away; it fails then, and may be called again.
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Takes in all that the topic holds now; less where the end of the process is asked for meanwhile.
    pub fn catch_up(&mut self) -> Result<()> {
        let begun = Instant::now();
        let damaged = self.index.damaged()?;
        while !self.shutdown.requested() && !self.at_end()? {
            self.step()?;
        }
        if begun.elapsed() > LONG {
            info!(topic = %self.options.topic, "read the journal up to its end in {:.1?}", begun.elapsed());
        }
        self.tell_damaged(damaged)
    }

    /// Takes in what the topic holds, until `deadline` at most; whether that was all that it held when this was called.
    pub fn catch_up_until(&mut self, deadline: Instant) -> Result<bool> {
        // What a reader that is open already takes for the end is that of an earlier time
        let mut is_old = self.reader.is_some();
        loop {
            if self.at_end()? {
                self.reader = None;
                if !std::mem::take(&mut is_old) {
                    self.retain()?;
                    return Ok(true);
                }
            } else if self.shutdown.requested() || Instant::now() >= deadline {
                return Ok(false);
            } else {
                self.step()?;
            }
        }
    }

    /// Records read of late, where what there was has not all been read yet.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Takes in what comes, until the end of the process is asked for.
    pub fn follow(&mut self) -> Result<()> {
        let mut damaged = self.index.damaged()?;
        while !self.shutdown.requested() {
            self.step()?;
            if self.retain()? {
                self.tell_damaged(damaged)?;
                damaged = self.index.damaged()?;
            }
        }
        Ok(())
    }

    /// Lets old hops go, now and then; whether this time.
    fn retain(&mut self) -> Result<bool> {
        if self.retained.elapsed() <= RETENTION_ROUND {
            return Ok(false);
        }
        self.retained = Instant::now();
        self.index.retain()?;
        Ok(true)
    }

    fn tell_damaged(&self, before: u64) -> Result<()> {
        let new = self.index.damaged()?.saturating_sub(before);
        if new > 0 {
            warn!("{new} records of {} are no entries of the journal, or damaged: skipped", self.options.topic);
        }
        Ok(())
    }

    /// Whether all has been read that the topic held when the reader was opened.
    fn at_end(&mut self) -> Result<bool> {
        self.open_reader()?;
        Ok(self.reader.as_ref().is_some_and(|reader| reader.at_end()))
    }

    /// Reads once, and takes in what has come.
    fn step(&mut self) -> Result<()> {
        self.open_reader()?;
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let batch = persist("the bus", self.patience, self.shutdown, || reader.poll(BATCH, POLL))?;
        let Some(batch) = batch.filter(|batch| !batch.is_empty()) else { return Ok(()) };
        self.read += batch.len() as u64;
        if self.is_of_another(&batch) {
            warn!("the topic {} is another one than it was: the index is made anew", self.options.topic);
            self.reader = None;
            return self.index.clear();
        }
        if !self.index.take(&batch)? {
            self.reader = None;
        }
        Ok(())
    }

    /// Opens the reader where it is not open, at the last record of each partition that is in the index.
    fn open_reader(&mut self) -> Result<()> {
        if self.reader.is_some() {
            return Ok(());
        }
        self.read = 0;
        self.expected = self.index.positions()?;
        let last = |(partition, position): (&i32, &Position)| (*partition, position.next - 1);
        let offsets: Vec<_> = self.expected.iter().map(last).collect();
        let topic = &self.options.topic;
        self.reader = persist("the bus", self.connect_timeout, self.shutdown, || {
            self.bus.connect()?;
            self.bus.create_topics(std::slice::from_ref(topic))?;
            self.bus.reader_from(topic, &offsets)
        })?;
        Ok(())
    }

    /// Whether the first record of a partition shows that the index was made from another topic: it is not the last one
    /// that was read there, nor one behind it, as where retention has taken that.
    fn is_of_another(&mut self, batch: &Batch) -> bool {
        batch.iter().any(|record| {
            self.expected.remove(&record.partition).is_some_and(|position| {
                let last = position.next - 1;
                record.offset < last || (record.offset == last && checksum(&record) != position.checksum)
            })
        })
    }
}
