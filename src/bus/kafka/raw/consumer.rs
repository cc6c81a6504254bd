//! Records on their way in.

use std::{
    ffi::{CStr, c_void},
    ptr::{self, NonNull},
    slice,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use rdkafka::bindings as c;

use super::{Answer, Client, Error, Kind, List, cooperative, elements, member_id, millis, text};
use crate::bus::{Headers, kafka::health::Health};

/// A change of the assignment that waits for [`Consumer::assign`] or [`Consumer::unassign`].
#[derive(Debug)]
pub struct Rebalance {
    pub assign: bool,
    /// The partitions are gone already, another member may have them.
    pub lost: bool,
    pub partitions: Vec<i32>,
}

/// Offset that stands for "where the group left off".
const STORED: i64 = -1001;

/// Longest wait for a change of the group's assignment that is under way at the end.
const UNSUBSCRIBE: Duration = Duration::from_secs(5);

/// Shortest time at the end in which librdkafka may tell of a change of the assignment.
const HEARD: Duration = Duration::from_millis(100);

/// What a consumer hands out at once.
const CHUNK: usize = 1000;

/// A member of a group, or a reader without one, of one topic.
pub struct Consumer {
    topic: String,
    queue: NonNull<c::rd_kafka_queue_t>,
    /// Where the results of commits come.
    commits: NonNull<c::rd_kafka_queue_t>,
    chunk: Box<[*mut c::rd_kafka_message_t; CHUNK]>,
    /// It has a name, under which it comes back: it does not leave the group at the end.
    stays_a_member: bool,
    closed: bool,
    client: Client,
}

// SAFETY: queues are thread-safe; the chunk holds no message outside of `consume`
unsafe impl Send for Consumer {}

impl Consumer {
    /// A consumer for `topic`, neither subscribed nor assigned yet. The error is one of the configuration.
    pub fn new(topic: &str, properties: &[(String, String)], health: &Arc<Health>) -> Result<Self, String> {
        let client = Client::new(Kind::Consumer, properties, health)?;
        // SAFETY: the handle lives; the queues are ours, freed in drop before it
        unsafe {
            c::rd_kafka_poll_set_consumer(client.rk());
            let queue = NonNull::new(c::rd_kafka_queue_get_consumer(client.rk()));
            let commits = NonNull::new(c::rd_kafka_queue_new(client.rk()));
            let (Some(queue), Some(commits)) = (queue, commits) else {
                return Err("a consumer needs a group.id".to_owned());
            };
            let chunk = Box::new([ptr::null_mut(); CHUNK]);
            let stays_a_member = properties.iter().any(|(name, _)| name == "group.instance.id");
            Ok(Self { topic: topic.to_owned(), queue, commits, chunk, stays_a_member, closed: false, client })
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn list(&self, partitions: impl IntoIterator<Item = (i32, i64)>) -> List {
        List::new(partitions.into_iter().map(|(partition, offset)| (self.topic.as_str(), partition, offset)))
    }

    /// Joins the group; assignments come by [`Consumer::rebalances`].
    pub fn subscribe(&self) -> Result<(), Error> {
        // SAFETY: the list lives during the call
        Error::check(unsafe { c::rd_kafka_subscribe(self.client.rk(), self.list([(-1, STORED)]).0.as_ptr()) })
    }

    /// What the group calls this member; empty before it has joined.
    pub fn member_id(&self) -> String {
        // SAFETY: the handle lives
        unsafe { member_id(self.client.rk()) }
    }

    /// Whether the session has ended, by its own time-out, and no other has begun.
    pub fn has_expired(&self) -> bool {
        self.client.shared.expired.load(Ordering::Relaxed)
    }

    /// Whether [`Consumer::rebalances`] has something.
    pub fn rebalancing(&self) -> bool {
        self.client.shared.rebalancing.load(Ordering::Acquire)
    }

    /// Changes of the assignment since the last call, for [`Consumer::assign`] and [`Consumer::unassign`] in this order.
    pub fn rebalances(&self) -> Vec<Rebalance> {
        let mut rebalances = self.client.shared.rebalances.lock().unwrap_or_else(PoisonError::into_inner);
        self.client.shared.rebalancing.store(false, Ordering::Release);
        std::mem::take(&mut *rebalances)
    }

    /// Takes partitions in, where the group left off.
    pub fn assign(&self, partitions: &[i32]) -> Result<(), Error> {
        let list = self.list(partitions.iter().map(|&partition| (partition, STORED)));
        // SAFETY: the list lives during the calls
        unsafe {
            match cooperative(self.client.rk()) {
                true => Error::take(c::rd_kafka_incremental_assign(self.client.rk(), list.0.as_ptr())),
                false => Error::check(c::rd_kafka_assign(self.client.rk(), list.0.as_ptr())),
            }
        }
    }

    /// Gives partitions up.
    pub fn unassign(&self, partitions: &[i32]) -> Result<(), Error> {
        let list = self.list(partitions.iter().map(|&partition| (partition, STORED)));
        // SAFETY: the list lives during the calls
        unsafe {
            match cooperative(self.client.rk()) {
                true => Error::take(c::rd_kafka_incremental_unassign(self.client.rk(), list.0.as_ptr())),
                false => Error::check(c::rd_kafka_assign(self.client.rk(), ptr::null())),
            }
        }
    }

    /// Reads the partitions from the offsets, outside of any group.
    pub fn read_from(&self, offsets: &[(i32, i64)]) -> Result<(), Error> {
        let list = self.list(offsets.iter().copied());
        // SAFETY: the list lives during the call
        Error::check(unsafe { c::rd_kafka_assign(self.client.rk(), list.0.as_ptr()) })
    }

    /// Per partition the offset behind what was consumed last, records or markers of transactions; `None` where nothing
    /// was since it was assigned.
    pub fn positions(&self, partitions: &[i32]) -> Result<Vec<Option<i64>>, Error> {
        let list = self.list(partitions.iter().map(|&partition| (partition, STORED)));
        // SAFETY: the list lives during the call
        Error::check(unsafe { c::rd_kafka_position(self.client.rk(), list.0.as_ptr()) })?;
        Ok(list.offsets()?.into_iter().map(|offset| (offset >= 0).then_some(offset)).collect())
    }

    /// Stops fetching, or goes on with it where it stopped.
    pub fn pause(&self, partitions: &[i32], pause: bool) -> Result<(), Error> {
        let list = self.list(partitions.iter().map(|&partition| (partition, STORED)));
        // SAFETY: the list lives during the calls
        Error::check(unsafe {
            match pause {
                true => c::rd_kafka_pause_partitions(self.client.rk(), list.0.as_ptr()),
                false => c::rd_kafka_resume_partitions(self.client.rk(), list.0.as_ptr()),
            }
        })
    }

    /// Continues at other offsets; nothing of before comes any more once this has returned.
    pub fn seek(&self, offsets: &[(i32, i64)], wait: Duration) -> Result<(), Error> {
        if offsets.is_empty() {
            return Ok(());
        }
        let list = self.list(offsets.iter().copied());
        // SAFETY: the list lives during the call
        unsafe { Error::take(c::rd_kafka_seek_partitions(self.client.rk(), list.0.as_ptr(), millis(wait)))? };
        list.offsets().map(drop)
    }

    /// Hands what has come, `max` messages or [`CHUNK`] at most, to `each`; waits up to `wait` for the first. Gives how
    /// many there were, errors among them.
    pub fn consume(&mut self, max: usize, wait: Duration, mut each: impl FnMut(&Message<'_>)) -> usize {
        let max = max.min(CHUNK);
        let mut count = self.consume_ready(max, &mut each);
        if count == 0 && !wait.is_zero() && !self.rebalancing() {
            // SAFETY: null or a message that is ours, read and then destroyed once
            unsafe {
                self.client.shared.waiting.store(true, Ordering::Relaxed);
                let message = c::rd_kafka_consumer_poll(self.client.rk(), millis(wait));
                self.client.shared.waiting.store(false, Ordering::Relaxed);
                if let Some(borrowed) = message.as_ref() {
                    each(&Message(borrowed));
                    c::rd_kafka_message_destroy(message);
                    count = 1 + self.consume_ready(max - 1, &mut each);
                }
            }
        }
        count
    }

    fn consume_ready(&mut self, max: usize, each: &mut impl FnMut(&Message<'_>)) -> usize {
        // SAFETY: the chunk has room for `max`; as many of its pointers as the call tells are messages that are ours,
        // each read and then destroyed once
        unsafe {
            let count = c::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, self.chunk.as_mut_ptr(), max);
            let count = count.max(0) as usize;
            for &message in &self.chunk[..count] {
                each(&Message(&*message));
                c::rd_kafka_message_destroy(message);
            }
            count
        }
    }

    /// Commits the offsets (each the next to be read); the result comes by [`Consumer::commit_result`].
    pub fn commit(&self, offsets: &[(i32, i64)]) -> Result<(), Error> {
        let list = self.list(offsets.iter().copied());
        // SAFETY: list and queue live; librdkafka copies the list
        Error::check(unsafe {
            let (rk, queue) = (self.client.rk(), self.commits.as_ptr());
            c::rd_kafka_commit_queue(rk, list.0.as_ptr(), queue, None, ptr::null_mut())
        })
    }

    /// Waits up to `wait` for the result of a commit; gives what each partition of it came to.
    pub fn commit_result(&self, wait: Duration) -> Option<Vec<(i32, Result<i64, Error>)>> {
        // SAFETY: null or an event that is ours, whose list is read before it is destroyed once
        unsafe {
            let event = c::rd_kafka_queue_poll(self.commits.as_ptr(), millis(wait));
            if event.is_null() {
                return None;
            }
            let all = Error::check(c::rd_kafka_event_error(event));
            let list = c::rd_kafka_event_topic_partition_list(event);
            let list = if list.is_null() { &[] } else { elements(list) };
            let result = list.iter().map(|element| {
                let offset = all.clone().and_then(|()| Error::check(element.err)).map(|()| element.offset);
                (element.partition, offset)
            });
            let result = result.collect();
            c::rd_kafka_event_destroy(event);
            Some(result)
        }
    }

    /// Leaves the group, so that others take over at once; gives up at the deadline, and the group notices by itself.
    pub fn close(&mut self, deadline: Instant) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.answer(Answer::AtOnce);
        // What waited for an answer gets it: librdkafka would wait for it
        for Rebalance { assign, partitions, .. } in self.rebalances() {
            let _ = if assign { self.assign(&partitions) } else { self.unassign(&partitions) };
        }
        let left = !self.stays_a_member && self.unsubscribe(deadline.min(Instant::now() + UNSUBSCRIBE));
        // From here on any answer gives all partitions up, and ends what librdkafka waits for
        self.answer(if left { Answer::Nobody } else { Answer::Last });
        // SAFETY: handle and queue live
        let closing = unsafe { Error::take(c::rd_kafka_consumer_close_queue(self.client.rk(), self.queue.as_ptr())) };
        if closing.is_ok() {
            // Late as it may be, librdkafka has to be heard: it would not let go of what waits for an answer
            let heard = Instant::now() + HEARD;
            // SAFETY: the handle lives
            while unsafe { c::rd_kafka_consumer_closed(self.client.rk()) == 0 } {
                self.consume(CHUNK, Duration::from_millis(10), |_| ());
                if Instant::now() >= deadline.max(heard) {
                    break;
                }
            }
        }
    }

    fn answer(&self, answer: Answer) {
        *self.client.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Asks to leave the group, and waits until that is on its way; false at the deadline.
    ///
    /// Closing alone (2.12) leaves it not where a cooperative member has nothing to read, and then the others wait for it
    /// until its session ends.
    fn unsubscribe(&mut self, deadline: Instant) -> bool {
        // SAFETY: the handle lives
        if Error::check(unsafe { c::rd_kafka_unsubscribe(self.client.rk()) }).is_err() {
            return false;
        }
        while !self.member_id().is_empty() {
            if Instant::now() >= deadline {
                return false;
            }
            self.consume(CHUNK, Duration::from_millis(10), |_| ());
        }
        true
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.close(Instant::now() + Duration::from_secs(1));
        // SAFETY: ours, the last use, and before the handle goes
        unsafe {
            c::rd_kafka_queue_destroy(self.queue.as_ptr());
            c::rd_kafka_queue_destroy(self.commits.as_ptr());
        }
    }
}

/// A message, or an error in its place.
pub struct Message<'a>(pub(super) &'a c::rd_kafka_message_t);

impl Message<'_> {
    pub fn error(&self) -> Option<Error> {
        let error = Error::check(self.0.err).err()?;
        // SAFETY: gives a text that lives as long as the message
        let text = unsafe { text(c::rd_kafka_message_errstr(self.0)) };
        Some(Error { text, ..error })
    }

    pub fn partition(&self) -> i32 {
        self.0.partition
    }

    pub fn offset(&self) -> i64 {
        self.0.offset
    }

    /// Milliseconds since the epoch, -1 for none.
    pub fn timestamp(&self) -> i64 {
        // SAFETY: the message lives; the type of the time is not asked for
        unsafe { c::rd_kafka_message_timestamp(self.0, ptr::null_mut()) }
    }

    pub fn key(&self) -> Option<&[u8]> {
        // SAFETY: null or as many bytes as told, alive as long as the message
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    pub fn value(&self) -> Option<&[u8]> {
        // SAFETY: as for the key
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    /// Appends the headers to `buffer`, encoded as [`Headers`].
    pub fn headers(&self, buffer: &mut Vec<u8>) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives, and with it the headers, their names (C strings) and values
        unsafe {
            if Error::check(c::rd_kafka_message_headers(self.0, &raw mut headers)).is_err() {
                return;
            }
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            let mut index = 0;
            let ok = c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            while c::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size) == ok {
                Headers::push(buffer, &CStr::from_ptr(name).to_string_lossy(), bytes(value, size));
                index += 1;
            }
        }
    }
}

/// # Safety
/// `pointer` is null or goes to `length` bytes that live and do not change during `'a`.
unsafe fn bytes<'a>(pointer: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: promised by the caller
    (!pointer.is_null()).then(|| unsafe { slice::from_raw_parts(pointer.cast(), length) })
}
