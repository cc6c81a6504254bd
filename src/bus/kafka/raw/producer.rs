//! Records on their way out.

use std::{
    ffi::{c_int, c_void},
    ptr::{self, NonNull},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rdkafka::bindings as c;

use super::{Client, Code, Consumer, Error, Kind, Message, cstring, millis, text};
use crate::bus::{Headers, kafka::health::Health};

/// A record on its way out.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
    /// Milliseconds since the epoch; below 1 librdkafka takes the present.
    pub timestamp: i64,
}

/// What became of a record that was produced.
pub struct Delivery<'a> {
    message: Message<'a>,
    /// As given to [`Producer::produce`].
    pub token: u64,
    pub error: Option<Code>,
}

impl Delivery<'_> {
    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        self.message.0.key_len + self.message.0.len
    }

    pub fn message(&self) -> &Message<'_> {
        &self.message
    }

    /// Of the topic, as [`Producer::topic`] gave it.
    pub fn topic_name(&self) -> String {
        // SAFETY: the message lives, and with it its topic
        unsafe { text(c::rd_kafka_topic_name(self.message.0.rkt)) }
    }
}

/// A producer, transactional where its properties say so.
pub struct Producer {
    queue: NonNull<c::rd_kafka_queue_t>,
    topics: Vec<NonNull<c::rd_kafka_topic_t>>,
    pusher: Pusher,
    client: Client,
}

// SAFETY: queues and topics are thread-safe
unsafe impl Send for Producer {}

impl Producer {
    /// The error is one of the configuration.
    pub fn new(properties: &[(String, String)], health: &Arc<Health>) -> Result<Self, String> {
        let client = Client::new(Kind::Producer, properties, health)?;
        // SAFETY: the handle lives; the queue is ours, freed in drop before it
        let queue = unsafe { NonNull::new(c::rd_kafka_queue_get_main(client.rk())) };
        let queue = queue.ok_or("no queue")?;
        let pusher = Pusher::start(&client).map_err(|error| error.to_string())?;
        Ok(Self { queue, topics: Vec::new(), pusher, client })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A number for the topic, counted from 0; the same name gives a new one.
    pub fn topic(&mut self, name: &str) -> Result<usize, Error> {
        // SAFETY: the handle lives; the topic is ours, freed in drop before it
        let topic = unsafe { c::rd_kafka_topic_new(self.client.rk(), cstring(name).as_ptr(), ptr::null_mut()) };
        // SAFETY: reads what the failed call has left for this thread
        let topic = NonNull::new(topic).ok_or_else(|| Error::new(unsafe { c::rd_kafka_last_error() }))?;
        self.topics.push(topic);
        Ok(self.topics.len() - 1)
    }

    /// Takes a copy of the record over; its [`Delivery`] brings `token` back.
    pub fn produce(&self, topic: usize, record: &Outgoing<'_>, token: u64) -> Result<(), Error> {
        use c::rd_kafka_vtype_t as V;
        let part = |bytes: Option<&[u8]>| {
            bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr().cast::<c_void>(), bytes.len()))
        };
        let ((key, key_len), (value, value_len)) = (part(record.key), part(record.value));
        self.pusher.finish();
        // SAFETY: the argument list has the types that each tag asks for and an end; librdkafka copies key and value
        // during the call. Headers are its own where the call succeeds, else still ours.
        unsafe {
            let headers = headers(record.headers);
            let code = c::rd_kafka_producev(
                self.client.rk(),
                V::RD_KAFKA_VTYPE_RKT as c_int,
                self.topics[topic].as_ptr(),
                V::RD_KAFKA_VTYPE_KEY as c_int,
                key,
                key_len,
                V::RD_KAFKA_VTYPE_VALUE as c_int,
                value,
                value_len,
                V::RD_KAFKA_VTYPE_TIMESTAMP as c_int,
                record.timestamp.max(0),
                V::RD_KAFKA_VTYPE_MSGFLAGS as c_int,
                c::RD_KAFKA_MSG_F_COPY as c_int,
                V::RD_KAFKA_VTYPE_OPAQUE as c_int,
                ptr::without_provenance_mut::<c_void>(token as usize),
                V::RD_KAFKA_VTYPE_HEADERS as c_int,
                headers,
                V::RD_KAFKA_VTYPE_END as c_int,
            );
            let result = Error::check(code);
            if result.is_err() && !headers.is_null() {
                c::rd_kafka_headers_destroy(headers);
            }
            result
        }
    }

    /// Has all that waits for `linger.ms` leave now.
    pub fn push(&self) {
        self.pusher.push();
    }

    /// Hands the deliveries that have come to `each`, having waited up to `wait` for the first; gives a fatal error where
    /// there is one.
    pub fn deliveries(&self, mut wait: Duration, mut each: impl FnMut(&Delivery<'_>)) -> Option<Error> {
        loop {
            // SAFETY: null or an event that is ours; its messages are read before it is destroyed once
            unsafe {
                let event = c::rd_kafka_queue_poll(self.queue.as_ptr(), millis(wait));
                wait = Duration::ZERO;
                if event.is_null() {
                    return None;
                }
                let mut fatal = None;
                match c::rd_kafka_event_type(event) {
                    c::RD_KAFKA_EVENT_DR => {
                        while let Some(message) = c::rd_kafka_event_message_next(event).as_ref() {
                            let error = Error::check(message.err).err().map(|error| error.code);
                            let token = message._private.addr() as u64;
                            each(&Delivery { message: Message(message), token, error });
                        }
                    }
                    c::RD_KAFKA_EVENT_ERROR => {
                        let code = c::rd_kafka_event_error(event);
                        let reason = text(c::rd_kafka_event_error_string(event));
                        if c::rd_kafka_event_error_is_fatal(event) != 0 {
                            fatal = Some(Error { fatal: true, text: reason, ..Error::new(code) });
                        } else {
                            let down = c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
                            self.client.shared.health.trouble(code == down, &reason);
                        }
                    }
                    _ => {}
                }
                c::rd_kafka_event_destroy(event);
                if fatal.is_some() {
                    return fatal;
                }
            }
        }
    }

    /// Gets the transactional id for this producer; an older one with the same id is fenced.
    pub fn init_transactions(&self, wait: Duration) -> Result<(), Error> {
        // SAFETY: the handle lives
        unsafe { Error::take(c::rd_kafka_init_transactions(self.client.rk(), millis(wait))) }
    }

    pub fn begin_transaction(&self) -> Result<(), Error> {
        // SAFETY: the handle lives
        unsafe { Error::take(c::rd_kafka_begin_transaction(self.client.rk())) }
    }

    /// Makes the offsets of the consumer's group part of the transaction, on its present terms of membership.
    pub fn send_offsets(&self, consumer: &Consumer, offsets: &[(i32, i64)], wait: Duration) -> Result<(), Error> {
        let list = consumer.list(offsets.iter().copied());
        // SAFETY: all live during the call; the group's metadata is ours, destroyed once
        unsafe {
            let group = c::rd_kafka_consumer_group_metadata(consumer.client().rk());
            if group.is_null() {
                return Err(Error::new(c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__UNKNOWN_GROUP));
            }
            let (rk, list) = (self.client.rk(), list.0.as_ptr());
            let result = Error::take(c::rd_kafka_send_offsets_to_transaction(rk, list, group, millis(wait)));
            c::rd_kafka_consumer_group_metadata_destroy(group);
            result
        }
    }

    /// After all deliveries have been seen; after a timeout the call is to be repeated.
    pub fn commit_transaction(&self, wait: Duration) -> Result<(), Error> {
        // SAFETY: the handle lives
        unsafe { Error::take(c::rd_kafka_commit_transaction(self.client.rk(), millis(wait))) }
    }

    /// Undoes the transaction. Waits for what is in flight, so `serve` is called over and over to take the deliveries.
    pub fn abort_transaction(&self, wait: Duration, mut serve: impl FnMut()) -> Result<(), Error> {
        let client = &self.client;
        std::thread::scope(|scope| {
            // SAFETY: the handle lives during the scope and may be used from any thread
            let abort =
                scope.spawn(|| unsafe { Error::take(c::rd_kafka_abort_transaction(client.rk(), millis(wait))) });
            while !abort.is_finished() {
                serve();
            }
            abort.join().unwrap_or(Ok(()))
        })
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.pusher.end();
        // SAFETY: ours, the last use, and before the handle goes
        unsafe {
            for topic in &self.topics {
                c::rd_kafka_topic_destroy(topic.as_ptr());
            }
            c::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// Has what waits leave, by rd_kafka_flush: librdkafka's threads learn of it while that call lasts, which waits for deliveries that
/// are for [`Producer::deliveries`] to take. So it is made in a thread of its own, for a millisecond at most.
///
/// What is produced meanwhile would leave at once too, record by record, with a thread that spins while they wait for each
/// other. So who produces waits for its end.
struct Pusher {
    pushing: Arc<Pushing>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Pushing {
    asked: Mutex<Asked>,
    changed: Condvar,
    /// Something is asked for, or under way.
    busy: AtomicBool,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Asked {
    #[default]
    Nothing,
    Push,
    End,
}

impl Pusher {
    /// The pusher has to be ended before the client is dropped.
    fn start(client: &Client) -> std::io::Result<Self> {
        struct Handle(*mut c::rd_kafka_t);
        // SAFETY: librdkafka's handles are thread-safe
        unsafe impl Send for Handle {}
        let (handle, pushing) = (Handle(client.rk()), Arc::<Pushing>::default());
        let shared = Arc::clone(&pushing);
        let thread = std::thread::Builder::new().name("push".into()).spawn(move || {
            // All of it, not the pointer alone, which is not Send
            let handle = handle;
            while shared.next() {
                // SAFETY: the handle lives until this thread has ended
                unsafe { c::rd_kafka_flush(handle.0, 1) };
            }
        })?;
        Ok(Self { pushing, thread: Some(thread) })
    }

    /// Has a push begin after this.
    fn push(&self) {
        self.pushing.ask(Asked::Push);
    }

    /// Waits for the end of what is under way.
    fn finish(&self) {
        if self.pushing.busy.load(Ordering::Relaxed) {
            let mut asked = self.pushing.lock();
            while self.pushing.busy.load(Ordering::Relaxed) {
                asked = self.pushing.wait(asked);
            }
        }
    }

    fn end(&mut self) {
        self.pushing.ask(Asked::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Pushing {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, asked: MutexGuard<'a, Asked>) -> MutexGuard<'a, Asked> {
        self.changed.wait(asked).unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, what: Asked) {
        let mut asked = self.lock();
        self.busy.store(true, Ordering::Relaxed);
        *asked = what;
        drop(asked);
        self.changed.notify_all();
    }

    /// Waits until a push is asked for; false at the end.
    fn next(&self) -> bool {
        let mut asked = self.lock();
        if *asked == Asked::Nothing {
            self.busy.store(false, Ordering::Relaxed);
            self.changed.notify_all();
        }
        while *asked == Asked::Nothing {
            asked = self.wait(asked);
        }
        std::mem::take(&mut *asked) == Asked::Push
    }
}

/// librdkafka's form of headers, null for none.
///
/// # Safety
/// The caller destroys it, or gives it to a call that takes it over.
unsafe fn headers(headers: Headers<'_>) -> *mut c::rd_kafka_headers_t {
    if headers.is_empty() {
        return ptr::null_mut();
    }
    // SAFETY: name and value are as long as told and copied during the call
    unsafe {
        let list = c::rd_kafka_headers_new(8);
        for (name, value) in headers {
            let (start, length) = value.map_or((ptr::null(), -1), |value| (value.as_ptr(), value.len() as isize));
            c::rd_kafka_header_add(list, name.as_ptr().cast(), name.len() as isize, start.cast(), length);
        }
        list
    }
}
