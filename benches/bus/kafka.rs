//! Kafka: pusher and hop beside values copied unread through librdkafka's C interface.

use std::{
    ffi::{CStr, CString, c_char},
    path::Path,
    process::{Child, Command, Stdio},
    ptr,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    bindings as c,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, Producer},
    types::RDKafkaErrorCode,
};

use super::{Report, Setup, median, metrobus, per_second, time, usage};

/// No single measurement takes longer.
const DEADLINE: Duration = Duration::from_secs(300);

/// One run of one peer.
#[derive(Clone, Copy)]
struct Run {
    /// Messages a second from the first output to the last.
    rate: f64,
    /// Microseconds of the peer's own processor time a message, start-up not counted.
    cpu: f64,
    /// Megabytes at most.
    peak: f64,
}

pub fn run(setup: &Setup, folder: &Path, report: &mut Report) {
    let Some(brokers) = std::env::var("METROBUS_TEST_KAFKA").ok().filter(|brokers| !brokers.is_empty()) else {
        eprintln!("SKIPPED: Kafka, as METROBUS_TEST_KAFKA names no broker; `make bench` starts one");
        return;
    };
    let bench = Bench { setup, folder, brokers: &brokers, watcher: watcher(&brokers) };
    bench.pusher(report);
    for partitions in [1, 4] {
        bench.hop(partitions, report);
    }
}

struct Bench<'a> {
    setup: &'a Setup,
    folder: &'a Path,
    brokers: &'a str,
    watcher: BaseConsumer,
}

impl Bench<'_> {
    fn pusher(&self, report: &mut Report) {
        let rate = self.setup.median(|| {
            let topic = format!("push-{}", unique());
            self.create(&topic, 4);
            let settings = [
                ("BUS", "kafka"),
                ("KAFKA__BROKERS", self.brokers),
                ("PUSHER__TOPIC", &topic),
                ("REDIS__COUNTERS", "off"),
            ];
            let count = self.setup.messages.to_string();
            let push = metrobus(self.folder, &["pusher", "--rate", "0", "--count", &count], &settings);
            self.setup.messages as f64 / time(push)
        });
        report.row("Kafka pusher, 4 partitions, start and end included", per_second(rate), "", "≥ 200k/s");
    }

    fn hop(&self, partitions: i32, report: &mut Report) {
        let input = format!("in-{partitions}-{}", unique());
        self.create(&input, partitions);
        self.load(&input);
        let (mut relays, mut hops, mut transactions) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.setup.runs {
            relays.push(self.measure(partitions, |output, group| self.start_relay(&input, output, group)));
            for (guarantee, runs) in [("at-least-once", &mut hops), ("exactly-once", &mut transactions)] {
                runs.push(self.measure(partitions, |output, group| self.start_hop(&input, output, group, guarantee)));
            }
        }
        let figure = |runs: &[Run], of: fn(&Run) -> f64| median(runs.iter().map(of).collect());
        let relay = figure(&relays, |run| run.rate);
        let mut tell = |name: &str, runs: &[Run], target: &str| {
            let (rate, cpu, peak) =
                (figure(runs, |run| run.rate), figure(runs, |run| run.cpu), figure(runs, |run| run.peak));
            let measured = format!("{}, {cpu:.2} µs CPU each, {peak:.0} MB", per_second(rate));
            let what = format!("Kafka {name}, {partitions} partition(s)");
            report.row(&what, measured, &format!("{:.2}", rate / relay), target);
        };
        tell("relay", &relays, "");
        tell("hop at least once", &hops, "≥ 0.25");
        tell("hop exactly once", &transactions, "");
    }

    fn start_relay(&self, input: &str, output: &str, group: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command.args(["relay", self.brokers, input, output, group]).stdout(Stdio::null());
        command
    }

    fn start_hop(&self, input: &str, output: &str, group: &str, guarantee: &str) -> Command {
        let settings = [
            ("BUS", "kafka"),
            ("KAFKA__BROKERS", self.brokers),
            ("KAFKA__GROUP", group),
            ("KAFKA__GUARANTEE", guarantee),
            ("CONTACTPOINT__TOPIC", input),
            ("WHITELIST__TOPIC", output),
            ("BUSDRIVER__ROUTE", output),
            ("REDIS__COUNTERS", "off"),
        ];
        metrobus(self.folder, &["contactpoint"], &settings)
    }

    /// Lets a peer copy the whole input to a new topic.
    fn measure(&self, partitions: i32, start: impl Fn(&str, &str) -> Command) -> Run {
        // Slips name this topic, so each run begins with an empty one
        let output = "WhiteList";
        self.recreate(output, partitions);
        let mut child = start(output, &format!("bench-{}", unique())).spawn().expect("start the peer");
        let begun = Instant::now();
        let mut first = None;
        loop {
            assert!(begun.elapsed() < DEADLINE, "the peer is too slow, or has ended");
            assert!(child.try_wait().is_ok_and(|ended| ended.is_none()), "the peer has ended");
            let (count, now) = (self.count(output, partitions), Instant::now());
            let (cpu, peak) = usage(&child).unwrap_or_default();
            let (at, cpu_before, count_before) = *first.get_or_insert((now, cpu, count));
            if count_before == 0 {
                first = None;
            }
            if count >= self.setup.messages as i64 {
                end(child);
                let passed = (count - count_before).max(1) as f64;
                let rate = passed / now.duration_since(at).as_secs_f64().max(1e-3);
                return Run { rate, cpu: (cpu - cpu_before) / passed * 1e6, peak };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn count(&self, topic: &str, partitions: i32) -> i64 {
        let high = |p| self.watcher.fetch_watermarks(topic, p, Duration::from_secs(10)).map_or(0, |(_, high)| high);
        (0..partitions).map(high).sum()
    }

    fn load(&self, topic: &str) {
        let mut config = client(self.brokers);
        config.set("linger.ms", "20").set("queue.buffering.max.messages", "1000000");
        let producer: BaseProducer = config.create().expect("a producer");
        for id in 0..self.setup.messages {
            let (key, value) = self.setup.message(id);
            while let Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) =
                producer.send(BaseRecord::to(topic).key(&key).payload(&value))
            {
                producer.poll(Duration::from_millis(10));
            }
        }
        producer.flush(DEADLINE).expect("all are delivered");
    }

    fn create(&self, topic: &str, partitions: i32) {
        let admin: AdminClient<_> = client(self.brokers).create().expect("an admin client");
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let created = futures(admin.create_topics([&new], &AdminOptions::new())).expect("ask for a topic");
        assert!(created.iter().all(Result::is_ok), "{created:?}");
    }

    fn recreate(&self, topic: &str, partitions: i32) {
        let admin: AdminClient<_> = client(self.brokers).create().expect("an admin client");
        let deleted = futures(admin.delete_topics(&[topic], &AdminOptions::new())).expect("ask for a deletion");
        let existed = deleted.iter().any(Result::is_ok);
        let begun = Instant::now();
        while existed && self.exists(topic) {
            assert!(begun.elapsed() < DEADLINE, "{topic} is not deleted");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.create(topic, partitions);
        while !self.exists(topic) || self.count(topic, partitions) != 0 {
            assert!(begun.elapsed() < DEADLINE, "{topic} is not there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn exists(&self, topic: &str) -> bool {
        let metadata = self.watcher.fetch_metadata(None, Duration::from_secs(10)).expect("ask for the topics");
        metadata.topics().iter().any(|found| found.name() == topic && !found.partitions().is_empty())
    }
}

fn futures<T>(future: impl Future<Output = T>) -> T {
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

fn watcher(brokers: &str) -> BaseConsumer {
    client(brokers).set("group.id", "bench-watch").create().expect("a consumer")
}

fn unique() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// The limit: copies values unread, as fast as librdkafka lets it. Arguments: brokers, from, to, group.
pub fn relay(arguments: &[String]) {
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
