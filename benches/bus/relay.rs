//! The relay: how fast librdkafka moves values that nobody reads, the limit of a hop on Kafka.

use std::{
    ffi::{CStr, CString, c_char},
    ptr,
    time::{Duration, Instant},
};

use rdkafka::bindings as c;

/// Copies values and keys through the C interface, idempotent, acknowledging once a second after a flush. Arguments:
/// brokers, from, to, group.
pub fn run(arguments: &[String]) {
    let [brokers, from, to, group] = arguments else { panic!("relay BROKERS FROM TO GROUP") };
    let consumer = [
        ("bootstrap.servers", brokers.as_str()),
        ("group.id", group),
        ("auto.offset.reset", "earliest"),
        ("enable.auto.commit", "false"),
        ("fetch.queue.backoff.ms", "5"),
        ("queued.min.messages", "200000"),
    ];
    let producer = [
        ("bootstrap.servers", brokers.as_str()),
        ("enable.idempotence", "true"),
        ("linger.ms", "5"),
        ("queue.buffering.max.messages", "500000"),
    ];
    // SAFETY: each call is as librdkafka's header asks: handles come from the calls that make them and live as long as
    // the process; strings are CStrings that outlive their call; each message is destroyed once, after its last use.
    unsafe {
        let consumer = handle(c::rd_kafka_type_t::RD_KAFKA_CONSUMER, &consumer);
        let producer = handle(c::rd_kafka_type_t::RD_KAFKA_PRODUCER, &producer);
        c::rd_kafka_poll_set_consumer(consumer);
        let topics = c::rd_kafka_topic_partition_list_new(1);
        let (from, to) = (text(from), text(to));
        c::rd_kafka_topic_partition_list_add(topics, from.as_ptr(), -1);
        c::rd_kafka_subscribe(consumer, topics);
        let queue = c::rd_kafka_queue_get_consumer(consumer);
        let topic = c::rd_kafka_topic_new(producer, to.as_ptr(), ptr::null_mut());
        let mut batch = [ptr::null_mut::<c::rd_kafka_message_t>(); 1000];
        let (mut flushed, mut dirty) = (Instant::now(), false);
        loop {
            let count = c::rd_kafka_consume_batch_queue(queue, 20, batch.as_mut_ptr(), batch.len());
            for &message in &batch[..count.max(0) as usize] {
                let record = &*message;
                if record.err as i32 == 0 {
                    let copy = c::RD_KAFKA_MSG_F_COPY;
                    while c::rd_kafka_produce(
                        topic,
                        -1,
                        copy,
                        record.payload,
                        record.len,
                        record.key,
                        record.key_len,
                        ptr::null_mut(),
                    ) != 0
                    {
                        c::rd_kafka_poll(producer, 5);
                    }
                    dirty = true;
                }
                c::rd_kafka_message_destroy(message);
            }
            c::rd_kafka_poll(producer, 0);
            if dirty && flushed.elapsed() > Duration::from_secs(1) {
                c::rd_kafka_flush(producer, 30_000);
                c::rd_kafka_commit(consumer, ptr::null(), 0);
                (flushed, dirty) = (Instant::now(), false);
            }
        }
    }
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}

/// A client of librdkafka.
///
/// # Safety
/// As librdkafka's rd_kafka_new: the handle must not be used after it is destroyed; here it never is.
unsafe fn handle(kind: c::rd_kafka_type_t, properties: &[(&str, &str)]) -> *mut c::rd_kafka_t {
    let mut error: [c_char; 512] = [0; 512];
    // SAFETY: the configuration is made here and handed over to rd_kafka_new; the buffer has the size that is told.
    unsafe {
        let configuration = c::rd_kafka_conf_new();
        for (name, value) in properties {
            let (name, value) = (text(name), text(value));
            c::rd_kafka_conf_set(configuration, name.as_ptr(), value.as_ptr(), error.as_mut_ptr(), error.len());
        }
        let handle = c::rd_kafka_new(kind, configuration, error.as_mut_ptr(), error.len());
        assert!(!handle.is_null(), "{:?}", CStr::from_ptr(error.as_ptr()));
        handle
    }
}
