//! What it costs to be looked at: a hop whose numbers are asked for while the page is open, and the page itself.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use metrobus::{
    Topic,
    bus::Outbox,
    journal::{Hop, Id, Outcome, Writer},
};

use crate::{
    client::free_address,
    hop,
    kafka::{Broker, unique},
    process::{DEADLINE, Running, metrobus, until},
    report::{
        Target::{self, AtLeast, AtMost},
        Unit,
    },
    run::{Bench, median},
    sqlite,
};

/// What a hop keeps of its speed.
const KEPT: Target = AtLeast(0.97);

/// Between two questions for the numbers: far more often than a Prometheus asks.
const SCRAPE: Duration = Duration::from_secs(1);

/// The bus of the made-up traffic, and what is on it.
const BUSY: &str = "busy.db";
const STOPS: usize = 50;
const RATE: usize = 300_000;

/// Entries of a stop a second.
const ENTRIES: usize = 5;

/// Pages that are open at once.
const PAGES: usize = 200;

/// Where the parts of the page lie.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/page");

pub fn run(bench: &mut Bench) {
    on_sqlite(bench);
    match bench.broker.take() {
        Some(broker) => {
            on_kafka(bench, &broker);
            bench.broker = Some(broker);
        }
        None => bench.report.missing("Kafka hop, watched : alone", "there is no broker"),
    }
    page(bench);
    busy(bench);
}

/// A page, and who asks a stop for its numbers.
struct Watchers {
    _web: Running,
    end: Arc<AtomicBool>,
    listen: String,
}

impl Watchers {
    fn start(bench: &Bench, settings: &[(&str, &str)]) -> Self {
        let page = free_address();
        let web = start_web(bench, page, settings);
        let end = Arc::new(AtomicBool::new(false));
        let numbers = free_address();
        follow(page, &end, |_| {});
        let ended = Arc::clone(&end);
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                // The stop may not be there yet, or no longer
                let _ = get(numbers, "/metrics").and_then(|_| get(numbers, "/healthcheck"));
                thread::sleep(SCRAPE);
            }
        });
        Self { _web: web, end, listen: numbers.to_string() }
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Both in turns; the same topic anew for each.
fn on_sqlite(bench: &mut Bench) {
    let messages = bench.setup.on_sqlite();
    sqlite::write_messages(bench, messages);
    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    for _ in 0..bench.setup.runs {
        for (is_watched, rates) in [(false, &mut alone), (true, &mut watched)] {
            sqlite::remove(bench, sqlite::FILE);
            sqlite::push(bench, sqlite::MESSAGES, "AddEmail");
            let watchers = is_watched.then(|| Watchers::start(bench, &[("SQLITE__PATH", sqlite::FILE)]));
            let listen = watchers.as_ref().map(|watchers| ("HTTP__LISTEN", watchers.listen.as_str()));
            rates.push(sqlite::hop(bench, messages, listen.as_slice()).0);
        }
    }
    sqlite::remove(bench, sqlite::FILE);
    let (alone, watched) = (median(alone), median(watched));
    let show = |rate| Unit::PerSecond.show(rate);
    let what = "SQLite hop, watched (/metrics each second, the page open) : alone";
    bench.report.ratio(what, &show(watched), &show(alone), watched / alone, KEPT);
}

fn on_kafka(bench: &mut Bench, broker: &Broker) {
    let input = broker.topic(&unique("in"), 4);
    input.fill(bench.setup.messages);
    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    for _ in 0..bench.setup.runs {
        for (is_watched, runs) in [(false, &mut alone), (true, &mut watched)] {
            let bus = [("BUS", "kafka"), ("KAFKA__BROKERS", broker.address.as_str())];
            let watchers = is_watched.then(|| Watchers::start(bench, &bus));
            let listen = watchers.as_ref().map(|watchers| ("HTTP__LISTEN", watchers.listen.as_str()));
            runs.push(hop::contactpoint(bench, broker, &input, bench.setup.messages, listen.as_slice()));
        }
    }
    let [alone, watched] = [alone, watched].map(|runs| hop::Run::median(&runs));
    let what = "Kafka hop, watched (/metrics each second, the page open) : alone, 4 partitions";
    bench.report.ratio(what, &watched.text(), &alone.text(), watched.rate / alone.rate, KEPT);
}

/// How large the page is, and how soon it shows what happens.
fn page(bench: &mut Bench) {
    sqlite::remove(bench, BUSY);
    let address = free_address();
    let web = start_web(bench, address, &[("SQLITE__PATH", BUSY)]);
    let parts = fs::read_dir(PAGE).expect("the parts of the page").map(|part| part.expect("a part").file_name());
    let names = parts.map(|name| name.to_string_lossy().replace("index.html", ""));
    let part = |name: String| get(address, &format!("/{name}")).expect("a part of the page");
    let bytes: usize = names.map(|name| part(name).len()).sum();
    bench.report.figure("the page, all it loads", bytes as f64 / 1e3, Unit::Kilobytes, AtMost(150.0));
    let seen = Arc::new(AtomicU64::new(0));
    let end = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&seen);
    follow(address, &end, move |event| theirs.store(hops(event), Ordering::Relaxed));
    let traffic = Traffic::new(bench);
    let mut times = Vec::new();
    for nth in 1..=20_u64 {
        // At any moment of the page's own rhythm
        thread::sleep(Duration::from_millis(700 + nth * 37 % 500));
        let start = Instant::now();
        traffic.publish(1, 1);
        until("the page shows it", || seen.load(Ordering::Relaxed) >= nth);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    end.store(true, Ordering::Relaxed);
    let most = times.iter().copied().fold(0.0, f64::max);
    let what = "from a hop on the bus to the page, the slowest of 20";
    bench.report.figure(what, most, Unit::Millis, AtMost(1000.0));
    web.stop();
}

/// Many pages open on many stops with much traffic: what the pages cost beside one that is open.
fn busy(bench: &mut Bench) {
    sqlite::remove(bench, BUSY);
    let address = free_address();
    let traffic = Traffic::new(bench);
    let end = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&end);
    let sending = thread::spawn(move || traffic.keep_up(&ended));
    let web = start_web(bench, address, &[("SQLITE__PATH", BUSY)]);
    let measured = Duration::from_secs(bench.setup.seconds.min(10));
    let share = || {
        thread::sleep(Duration::from_secs(3));
        let before = web.cpu_exactly();
        thread::sleep(measured);
        (web.cpu_exactly() - before) / measured.as_secs_f64() * 100.0
    };
    let events = Arc::new(AtomicU64::new(0));
    let open = |count: usize| {
        for _ in 0..count {
            let events = Arc::clone(&events);
            follow(address, &end, move |_| _ = events.fetch_add(1, Ordering::Relaxed));
        }
    };
    open(1);
    let one = share();
    open(PAGES - 1);
    let before = events.load(Ordering::Relaxed);
    let start = Instant::now();
    let all = share();
    let told = (events.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64() / PAGES as f64;
    let memory = web.memory("VmRSS");
    end.store(true, Ordering::Relaxed);
    let kept_up = sending.join().expect("the traffic");
    web.stop();
    sqlite::remove(bench, BUSY);
    assert!(told > 1.0, "a page was told {told:.2} times a second");
    let what = format!("`web`, {STOPS} stops, {}k messages/s, one page open: of a core", RATE / 1000);
    bench.report.figure(&what, one, Unit::Percent, Target::None);
    let what = format!("what {PAGES} open pages cost beside one: of a core");
    bench.report.figure(&what, all - one, Unit::Percent, AtMost(10.0));
    bench.report.figure("`web` then: memory", memory, Unit::Megabytes, Target::None);
    assert!(kept_up > 0.95, "the made-up traffic was at {kept_up:.2} of its rate");
}

/// Entries of the journal, as stops write them.
struct Traffic {
    bus: Box<dyn metrobus::bus::Bus>,
    journal: Topic,
}

impl Traffic {
    fn new(bench: &Bench) -> Self {
        let bus = sqlite::open(bench, BUSY);
        let journal = Topic::new("Journal").expect("a topic");
        bus.connect().and_then(|()| bus.create_topics(std::slice::from_ref(&journal))).expect("create the journal");
        Self { bus, journal }
    }

    /// An entry of each of so many stops, about so many messages.
    fn publish(&self, stops: usize, messages: usize) {
        let mut outbox = Outbox::default();
        self.add(&mut outbox, stops, messages, 0);
        let mut publisher = self.bus.publisher().expect("a publisher");
        publisher.publish(&outbox).and_then(|()| publisher.flush(Instant::now() + DEADLINE)).expect("publish");
    }

    fn add(&self, outbox: &mut Outbox, stops: usize, messages: usize, round: usize) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970");
        let mut writer = Writer::default();
        for stop in 0..stops {
            let (name, topic, next) = (format!("stop{stop}"), format!("Topic{stop}"), format!("Topic{}", stop + 1));
            writer.begin(&name, &topic, 0, now.as_micros() as i64);
            for nth in 0..messages {
                let offset = (round * messages + nth) as i64;
                let mut uuid = ((now.as_millis() << 80) | 0x7000_8000_0000_0000_0000_u128 | nth as u128).to_be_bytes();
                uuid[15] ^= offset as u8;
                let dropped = nth % 10 == 9;
                let (outcome, reason, next) = match dropped {
                    true => (Outcome::Dropped, Some("unknown account"), None),
                    false => (Outcome::Forwarded, None, Some(next.as_str())),
                };
                let (id, attempts, rule, key) = (Id::Uuid(uuid), 1, None, None);
                let fields = Default::default();
                writer.push(&Hop { offset, id, outcome, attempts, reason, next, rule, key, fields });
            }
            outbox.publish(&self.journal, -1, None, Some(writer.finish(250)));
        }
    }

    /// Publishes at the rate until the end; gives what of that was reached.
    fn keep_up(&self, end: &AtomicBool) -> f64 {
        let mut publisher = self.bus.publisher().expect("a publisher");
        let (start, mut round) = (Instant::now(), 0);
        while !end.load(Ordering::Relaxed) {
            let mut outbox = Outbox::default();
            self.add(&mut outbox, STOPS, RATE / STOPS / ENTRIES, round);
            publisher.publish(&outbox).expect("publish");
            round += 1;
            let due = Duration::from_secs_f64(round as f64 / ENTRIES as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
        round as f64 / ENTRIES as f64 / start.elapsed().as_secs_f64()
    }
}

/// Starts `metrobus web`, and waits until it answers.
fn start_web(bench: &Bench, address: SocketAddr, settings: &[(&str, &str)]) -> Running {
    let listen = address.to_string();
    let settings: Vec<_> = settings.iter().copied().chain([("WEB__LISTEN", listen.as_str())]).collect();
    let web = Running::start(metrobus(bench, &["web"], &settings));
    until("the page answers", || get(address, "/api/map").is_some());
    web
}

/// Gives each event of the stream to `take`, in a thread of its own, until the end.
fn follow(address: SocketAddr, end: &Arc<AtomicBool>, mut take: impl FnMut(&str) + Send + 'static) {
    let stream = ask(address, "/api/events").expect("the stream of events");
    let end = Arc::clone(end);
    let follow = move || {
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(line)) = lines.next().filter(|_| !end.load(Ordering::Relaxed)) {
            if let Some(event) = line.strip_prefix("data:") {
                take(event);
            }
        }
    };
    thread::Builder::new().stack_size(128 << 10).spawn(follow).expect("start a thread");
}

/// The number of hops that an event tells of.
fn hops(event: &str) -> u64 {
    let event: serde_json::Value = serde_json::from_str(event).expect("JSON");
    event["journal"]["hops"].as_u64().expect("a number of hops")
}

fn ask(address: SocketAddr, path: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    Some(stream)
}

/// The body of an answer; `None` where there is none.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut answer = String::new();
    ask(address, path)?.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}
