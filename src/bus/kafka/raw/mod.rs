//! librdkafka's C interface, as far as the engine uses it. All unsafe code of the engine is in this folder.
//!
//! Why not rdkafka's consumer and producer: they cannot consume in batches without losing their assignment, look a topic
//! up by name for each message and allocate for each. What is here keeps four rules, on which the `SAFETY` comments rest:
//!
//! 1. A handle ([`Client`]) lives as long as whatever was made from it: queues and topics are owned by [`Consumer`] and
//!    [`Producer`], whose `drop` frees them first.
//! 2. Pointers in a message or an event are read while that message or event lives, and never written.
//! 3. librdkafka's functions are thread-safe on one handle, but callbacks run on the thread that polls: they only add to
//!    a mutex-guarded list, or log. No callback can unwind.
//! 4. Texts go in as [`CString`]; the names of topics have no NUL byte by construction.

mod consumer;
mod producer;

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::bindings as c;
pub use rdkafka::types::RDKafkaErrorCode as Code;

pub use consumer::{Consumer, Message, Rebalance};
pub use producer::{Delivery, Outgoing, Producer};

use super::health::Health;

/// What librdkafka says went wrong, and what it says can be done.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    pub code: Code,
    /// The client is of no use any more.
    pub fatal: bool,
    /// The same call may be repeated.
    pub retriable: bool,
    /// The transaction has to be aborted.
    pub abort: bool,
    text: String,
}

impl Error {
    fn new(code: c::rd_kafka_resp_err_t) -> Self {
        // SAFETY: gives a static text for any code
        let text = unsafe { text(c::rd_kafka_err2str(code)) };
        let code = Code::from(code);
        Self { code, fatal: code == Code::Fatal, retriable: false, abort: false, text }
    }

    /// For a wait that came to nothing: the same again.
    pub fn again() -> Self {
        Self { retriable: true, ..Self::new(c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT) }
    }

    /// For a transaction that has to be undone, for a reason of ours.
    pub fn undo() -> Self {
        Self { abort: true, ..Self::new(c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL) }
    }

    /// Whether another producer, or member of the group, has taken the name of this one over.
    pub fn is_fenced(&self) -> bool {
        matches!(self.code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId)
    }

    fn check(code: c::rd_kafka_resp_err_t) -> Result<(), Self> {
        match code {
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            code => Err(Self::new(code)),
        }
    }

    /// Takes the error object over, null for none.
    ///
    /// # Safety
    /// `error` came from librdkafka and nobody else uses it.
    unsafe fn take(error: *mut c::rd_kafka_error_t) -> Result<(), Self> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: not null and ours; destroyed once, after the last use
        unsafe {
            let taken = Self {
                code: c::rd_kafka_error_code(error).into(),
                fatal: c::rd_kafka_error_is_fatal(error) != 0,
                retriable: c::rd_kafka_error_is_retriable(error) != 0,
                abort: c::rd_kafka_error_txn_requires_abort(error) != 0,
                text: text(c::rd_kafka_error_string(error)),
            };
            c::rd_kafka_error_destroy(error);
            Err(taken)
        }
    }
}

/// # Safety
/// `pointer` is null or a C string that lives during the call.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: promised by the caller
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

fn cstring(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn millis(wait: Duration) -> c_int {
    // A wait of half a millisecond is a wait, not a look
    wait.as_micros().div_ceil(1000).min(i32::MAX as u128) as c_int
}

/// What callbacks reach.
struct Shared {
    health: Arc<Health>,
    rebalances: Mutex<Vec<Rebalance>>,
    rebalancing: AtomicBool,
    /// The session ended without another member being the cause.
    expired: AtomicBool,
    /// A poll waits that a change of the assignment has to end.
    waiting: AtomicBool,
    answer: Mutex<Answer>,
}

/// Who answers a change of the assignment, for which librdkafka waits.
enum Answer {
    /// Who polls, by [`Consumer::assign`] or [`Consumer::unassign`].
    Caller,
    /// The callback: all was settled before, whatever the group wants.
    AtOnce,
    /// The callback, the next one, for all that are still to come: librdkafka takes it for the last.
    Last,
    /// Nobody: librdkafka does not wait for it. Its part of the group may have ended, which (2.12) throws away what it is
    /// asked, and who asked waits for ever.
    Nobody,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Consumer,
    Producer,
}

/// A handle of librdkafka with its threads and connections.
pub struct Client {
    rk: NonNull<c::rd_kafka_t>,
    shared: Box<Shared>,
}

// SAFETY: librdkafka's handles are thread-safe; `shared` is Sync by its mutex and atomics
unsafe impl Send for Client {}
// SAFETY: as above
unsafe impl Sync for Client {}

/// Checks name and value of one property; gives librdkafka's words where it does not like them.
pub fn check_property(name: &str, value: &str) -> Result<(), String> {
    // SAFETY: the new configuration is ours, and destroyed once
    unsafe {
        let conf = c::rd_kafka_conf_new();
        let result = set(conf, name, value);
        c::rd_kafka_conf_destroy(conf);
        result
    }
}

/// # Safety
/// `conf` is a live configuration.
unsafe fn set(conf: *mut c::rd_kafka_conf_t, name: &str, value: &str) -> Result<(), String> {
    let Ok(c_name) = CString::new(name) else { return Err(format!("{name:?} holds a NUL byte")) };
    let Ok(c_value) = CString::new(value) else { return Err(format!("the value of {name} holds a NUL byte")) };
    let mut buffer = [0; 512];
    // SAFETY: the strings live during the call; the buffer is as long as told, librdkafka ends it with NUL
    let result =
        unsafe { c::rd_kafka_conf_set(conf, c_name.as_ptr(), c_value.as_ptr(), buffer.as_mut_ptr(), buffer.len()) };
    match result {
        c::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK => Ok(()),
        // SAFETY: as above
        _ => Err(unsafe { text(buffer.as_ptr()) }),
    }
}

impl Client {
    fn new(kind: Kind, properties: &[(String, String)], health: &Arc<Health>) -> Result<Self, String> {
        let shared = Box::new(Shared {
            health: health.clone(),
            rebalances: Mutex::default(),
            rebalancing: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            answer: Mutex::new(Answer::Caller),
        });
        // SAFETY: `conf` is ours until rd_kafka_new takes it over, which it does where it succeeds. The opaque pointer
        // goes to a box that lives as long as the handle, see rule 1.
        unsafe {
            let conf = c::rd_kafka_conf_new();
            for (name, value) in properties {
                if let Err(error) = set(conf, name, value) {
                    c::rd_kafka_conf_destroy(conf);
                    return Err(error);
                }
            }
            c::rd_kafka_conf_set_opaque(conf, &raw const *shared as *mut c_void);
            c::rd_kafka_conf_set_log_cb(conf, Some(log));
            let kind = match kind {
                Kind::Consumer => {
                    c::rd_kafka_conf_set_rebalance_cb(conf, Some(rebalance));
                    c::rd_kafka_conf_set_error_cb(conf, Some(error));
                    c::rd_kafka_type_t::RD_KAFKA_CONSUMER
                }
                Kind::Producer => {
                    c::rd_kafka_conf_set_events(conf, c::RD_KAFKA_EVENT_DR | c::RD_KAFKA_EVENT_ERROR);
                    c::rd_kafka_type_t::RD_KAFKA_PRODUCER
                }
            };
            let mut buffer = [0; 512];
            let rk = c::rd_kafka_new(kind, conf, buffer.as_mut_ptr(), buffer.len());
            let Some(rk) = NonNull::new(rk) else {
                c::rd_kafka_conf_destroy(conf);
                return Err(text(buffer.as_ptr()));
            };
            Ok(Self { rk, shared })
        }
    }

    fn rk(&self) -> *mut c::rd_kafka_t {
        self.rk.as_ptr()
    }

    /// Whether a broker answers within `wait`.
    pub fn answers(&self, wait: Duration) -> bool {
        let mut metadata = ptr::null();
        // SAFETY: on success `metadata` is ours to destroy
        unsafe {
            let code = c::rd_kafka_metadata(self.rk(), 0, ptr::null_mut(), &raw mut metadata, millis(wait));
            if Error::check(code).is_ok() {
                c::rd_kafka_metadata_destroy(metadata);
                return true;
            }
        }
        false
    }

    /// The first (`Edge::Start`) or next (`Edge::End`) offset of each partition, in the order given. The end is that of
    /// the client's isolation level: the last stable offset where it reads committed records only.
    pub fn edges(&self, partitions: &[(&str, i32)], edge: Edge, wait: Duration) -> Result<Vec<i64>, Error> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let list = List::new(partitions.iter().map(|&(topic, partition)| (topic, partition, edge as i64)));
        // SAFETY: the list lives during the call
        Error::check(unsafe { c::rd_kafka_offsets_for_times(self.rk(), list.0.as_ptr(), millis(wait)) })?;
        list.offsets()
    }

    /// What the group of this consumer has committed for each partition, in the order given; `None` where nothing.
    pub fn committed(&self, partitions: &[(&str, i32)], wait: Duration) -> Result<Vec<Option<i64>>, Error> {
        let list = List::new(partitions.iter().map(|&(topic, partition)| (topic, partition, 0)));
        // SAFETY: the list lives during the call
        Error::check(unsafe { c::rd_kafka_committed(self.rk(), list.0.as_ptr(), millis(wait)) })?;
        Ok(list.elements().iter().map(|element| (element.offset >= 0).then_some(element.offset)).collect())
    }

    /// Why the client is of no use any more, where it is.
    pub fn fatal(&self) -> Option<Error> {
        let mut buffer = [0; 512];
        // SAFETY: the buffer is as long as told, librdkafka ends it with NUL
        let (code, text) = unsafe {
            let code = c::rd_kafka_fatal_error(self.rk(), buffer.as_mut_ptr(), buffer.len());
            (code, text(buffer.as_ptr()))
        };
        let error = Error::check(code).err()?;
        Some(Error { fatal: true, text, ..error })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: the last use; what was made from the handle is gone, see rule 1. The flag: a consumer was closed
        // before or has to go at once.
        unsafe { c::rd_kafka_destroy_flags(self.rk(), c::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE) };
    }
}

/// Which end of a partition; the numbers are those of the protocol.
#[derive(Clone, Copy)]
pub enum Edge {
    Start = -2,
    End = -1,
}

/// Writes librdkafka's log lines; it logs no payloads.
extern "C" fn log(_: *const c::rd_kafka_t, level: c_int, facility: *const c_char, message: *const c_char) {
    // SAFETY: both are C strings that live during the call
    let (facility, message) = unsafe { (text(facility), text(message)) };
    // One configuration serves consumer and producer, each ignores what is the other's
    if facility == "CONFWARN" && message.contains("will be ignored by this") {
        return;
    }
    match level {
        // Each attempt to connect that fails; Health says it once
        _ if facility == "FAIL" => tracing::debug!(target: "librdkafka", "{facility}: {message}"),
        ..=4 => tracing::warn!(target: "librdkafka", "{facility}: {message}"),
        5..=6 => tracing::debug!(target: "librdkafka", "{facility}: {message}"),
        _ => tracing::trace!(target: "librdkafka", "{facility}: {message}"),
    }
}

extern "C" fn error(_: *mut c::rd_kafka_t, code: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: the reason is a C string; `opaque` is what Client::new set, alive as long as the handle
    let (reason, shared) = unsafe { (text(reason), &*opaque.cast::<Shared>()) };
    shared.health.trouble(code == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN as c_int, &reason);
}

extern "C" fn rebalance(
    rk: *mut c::rd_kafka_t,
    code: c::rd_kafka_resp_err_t,
    partitions: *mut c::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: the handle, the list and `opaque` (see Client::new) live during the call
    unsafe {
        let shared = &*opaque.cast::<Shared>();
        let assign = code == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let mut answer = shared.answer.lock().unwrap_or_else(PoisonError::into_inner);
        match *answer {
            Answer::Caller => {}
            Answer::AtOnce => {
                let _ = match (cooperative(rk), assign) {
                    (true, true) => Error::take(c::rd_kafka_incremental_assign(rk, partitions)),
                    (true, false) => Error::take(c::rd_kafka_incremental_unassign(rk, partitions)),
                    (false, true) => Error::check(c::rd_kafka_assign(rk, partitions)),
                    (false, false) => Error::check(c::rd_kafka_assign(rk, ptr::null())),
                };
                return;
            }
            Answer::Last => {
                *answer = Answer::Nobody;
                let _ = Error::check(c::rd_kafka_assign(rk, ptr::null()));
                return;
            }
            Answer::Nobody => return,
        }
        let list = elements(partitions).iter().map(|element| element.partition).collect();
        let lost = c::rd_kafka_assignment_lost(rk) != 0;
        // librdkafka forgets who it was when a session ends by itself, and not where another took its name over
        shared.expired.store(!assign && lost && member_id(rk).is_empty(), Ordering::Relaxed);
        let event = Rebalance { assign, lost, partitions: list };
        shared.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        shared.rebalancing.store(true, Ordering::Release);
        // rd_kafka_consume_batch_queue (2.12) throws the message away that it takes next after a yield
        if shared.waiting.load(Ordering::Relaxed) {
            c::rd_kafka_yield(rk);
        }
    }
}

/// What the group calls this member.
///
/// # Safety
/// `rk` is a live consumer.
unsafe fn member_id(rk: *mut c::rd_kafka_t) -> String {
    // SAFETY: null or a text of librdkafka's allocator that is ours, freed once
    unsafe {
        let id = c::rd_kafka_memberid(rk);
        let member = text(id);
        c::rd_kafka_mem_free(rk, id.cast());
        member
    }
}

/// # Safety
/// `rk` is a live consumer.
unsafe fn cooperative(rk: *mut c::rd_kafka_t) -> bool {
    // SAFETY: gives a static text
    unsafe { text(c::rd_kafka_rebalance_protocol(rk)) == "COOPERATIVE" }
}

/// # Safety
/// `list` is a live list, which nobody changes while the slice is in use.
unsafe fn elements<'a>(list: *const c::rd_kafka_topic_partition_list_t) -> &'a [c::rd_kafka_topic_partition_t] {
    // SAFETY: promised by the caller; an empty list may have no elements at all
    unsafe {
        match (*list).cnt {
            ..=0 => &[],
            count => slice::from_raw_parts((*list).elems, count as usize),
        }
    }
}

/// Partitions of topics with an offset each.
struct List(NonNull<c::rd_kafka_topic_partition_list_t>);

impl List {
    fn new<'a>(partitions: impl IntoIterator<Item = (&'a str, i32, i64)>) -> Self {
        // SAFETY: the new list is ours; librdkafka copies the name and gives an element of the list
        unsafe {
            let list = c::rd_kafka_topic_partition_list_new(16);
            for (topic, partition, offset) in partitions {
                let element = c::rd_kafka_topic_partition_list_add(list, cstring(topic).as_ptr(), partition);
                (*element).offset = offset;
            }
            Self(NonNull::new_unchecked(list))
        }
    }

    fn elements(&self) -> &[c::rd_kafka_topic_partition_t] {
        // SAFETY: the list is ours and borrowed
        unsafe { elements(self.0.as_ptr()) }
    }

    /// The offsets, or the first error of a partition.
    fn offsets(&self) -> Result<Vec<i64>, Error> {
        self.elements().iter().map(|element| Error::check(element.err).map(|()| element.offset)).collect()
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: ours, and this is the last use
        unsafe { c::rd_kafka_topic_partition_list_destroy(self.0.as_ptr()) };
    }
}
