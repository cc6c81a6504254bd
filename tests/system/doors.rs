//! Nothing accepted is lost between the two doors, whatever dies on the way.
//!
//! 50,000 messages are posted over many connections, each under an Idempotency-Key and again until it is answered 202, while
//! `gateway` and `deliver` are killed and started again at random, and the broker with them where there is one. Each id
//! that a 202 named has to arrive as a webhook-id, at least once, and each webhook-id is of one message only.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::RngExt;
use serde_json::{Value, json};

use crate::{
    faults::random,
    fleet::{DEADLINE, Engine, Fleet},
    support::{Arrival, Kafka, Process, Signal, Sink, free_port, say, try_until, wait_until},
};

/// METROBUS_TEST_POSTS is another number of them.
const POSTS: usize = 50_000;

const CONNECTIONS: usize = 48;

/// One arrival in so many is answered 503, and has to come again.
const REFUSED: usize = 97;

/// Each of these tests fills the machine.
static ALONE: Mutex<()> = Mutex::new(());

/// What the receiver answered 200.
#[derive(Default)]
struct Ledger {
    /// By webhook-id: the messages that came under it, each with how often.
    delivered: HashMap<String, BTreeMap<usize, usize>>,
    arrivals: usize,
}

impl Ledger {
    fn note(&mut self, arrival: &Arrival) -> u16 {
        self.arrivals += 1;
        if self.arrivals.is_multiple_of(REFUSED) {
            return 503;
        }
        let id = arrival.header("webhook-id").unwrap_or("none").to_owned();
        let message: Value = serde_json::from_slice(&arrival.body).unwrap_or_default();
        let number = message["n"].as_u64().map_or(usize::MAX, |number| number as usize);
        *self.delivered.entry(id).or_default().entry(number).or_default() += 1;
        200
    }

    /// Ids that were promised and have not arrived.
    fn missing<'a>(&self, posted: &'a Posted) -> Vec<&'a String> {
        posted.ids.keys().filter(|id| !self.delivered.contains_key(*id)).collect()
    }
}

/// A connection to the gateway, made anew where it broke.
struct Door {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Door {
    /// Posts a message and gives the answer; `None` where the connection broke, and nobody knows whether it was taken.
    fn post(&mut self, number: usize) -> Option<(u16, Vec<u8>)> {
        let answer = self.ask(number);
        if answer.is_none() {
            self.stream = None;
        }
        answer
    }

    fn ask(&mut self, number: usize) -> Option<(u16, Vec<u8>)> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
                stream.set_nodelay(true).ok()?;
                stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
                none.insert(BufReader::new(stream))
            }
        };
        let body = json!({"n": number, "account_number": 1_000_000 + number % 500}).to_string();
        let request = format!(
            "POST /topics/Orders?key={} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n\
             idempotency-key: post-{number}\r\ncontent-length: {}\r\n\r\n{body}",
            number % 500,
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        answer(stream)
    }
}

fn answer(stream: &mut impl BufRead) -> Option<(u16, Vec<u8>)> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((status, body))
}

/// What became of the posts.
#[derive(Default)]
struct Posted {
    /// The id of each message that was answered 202.
    ids: HashMap<String, usize>,
    answers: BTreeMap<u16, usize>,
    broken: usize,
}

/// Posts all messages, each until it is taken.
fn post(port: u16, posts: usize, done: &AtomicUsize) -> Posted {
    let (posted, next) = (Mutex::new(Posted::default()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut door = Door { port, stream: None };
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= posts {
                        return;
                    }
                    post_until_taken(&mut door, number, &posted);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    posted.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn post_until_taken(door: &mut Door, number: usize, posted: &Mutex<Posted>) {
    wait_until("a 202", DEADLINE, || {
        let answer = door.post(number);
        let mut posted = posted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((status, body)) = answer else {
            posted.broken += 1;
            return None;
        };
        *posted.answers.entry(status).or_default() += 1;
        match status {
            202 => {
                let body: Value = serde_json::from_slice(&body).expect("a 202 is JSON");
                let id = body["id"].as_str().expect("a 202 names the id").to_owned();
                if let Some(other) = posted.ids.insert(id.clone(), number) {
                    panic!("{id} was given to the messages {other} and {number}");
                }
                Some(())
            }
            // Under way still, or not to be kept for now
            409 | 429 | 503 => None,
            _ => panic!("message {number}: {status} {}", String::from_utf8_lossy(&body)),
        }
    });
}

struct Doors<'a> {
    fleet: &'a Fleet,
    running: BTreeMap<&'static str, Process>,
    kills: BTreeMap<&'static str, usize>,
}

const ROLES: [&str; 2] = ["gateway", "deliver"];

impl<'a> Doors<'a> {
    fn open(fleet: &'a Fleet) -> Self {
        let running = ROLES.iter().map(|role| (*role, start(fleet, role))).collect();
        Self { fleet, running, kills: BTreeMap::new() }
    }

    fn kill_and_restart(&mut self, role: &'static str) {
        if let Some(process) = self.running.get_mut(role) {
            assert!(process.is_running(), "{role} ended by itself:\n{}", process.stderr_text());
            process.kill9();
        }
        self.running.insert(role, start(self.fleet, role));
        *self.kills.entry(role).or_default() += 1;
    }

    /// Asks both to end, which each does with 0.
    fn close(mut self) {
        for process in self.running.values_mut() {
            process.signal(Signal::TERM);
        }
        for process in self.running.into_values() {
            process.wait(DEADLINE).assert_code(0);
        }
    }
}

fn start(fleet: &Fleet, role: &str) -> Process {
    fleet.metrobus(&["--config", "metrobus.toml", role]).env("METROBUS__KAFKA__INSTANCE", "a").spawn()
}

fn nothing_accepted_is_lost(engine: Engine) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut fleet) = Fleet::new(engine) else { return };
    let mut kafka = fleet.kafka.take();
    let mut restarted = None;
    let posts = std::env::var("METROBUS_TEST_POSTS").map_or(POSTS, |posts| posts.parse().expect("a number of posts"));
    let ledger: Arc<Mutex<Ledger>> = Arc::default();
    let noted = Arc::clone(&ledger);
    let sink = Sink::forgetful(move |arrival| (noted.lock().unwrap_or_else(PoisonError::into_inner).note(arrival), ""));
    let port = free_port();
    fleet.set("GATEWAY__LISTEN", port.to_string());
    let config = format!(
        "[gateway]\ntopics = [\"Orders\"]\n[deliver]\nallowed_networks = [\"127.0.0.1\"]\nconcurrency = 32\nwaits = [{}]\n\
         [[deliver.subscriber]]\nname = \"sink\"\ntopic = \"Orders\"\nurl = \"{}\"\n",
        ["\"200ms\""; 20].join(", "),
        sink.url()
    );
    fleet.scratch.write("metrobus.toml", config);
    let what = format!("doors, {engine:?}");
    let mut random = random(&what);
    let mut doors = Doors::open(&fleet);
    let done = AtomicUsize::new(0);
    let posted = std::thread::scope(|scope| {
        let posting = scope.spawn(|| post(port, posts, &done));
        while !posting.is_finished() {
            // The moment is the fault's, not the test's: any will do
            std::thread::sleep(Duration::from_millis(random.random_range(50..900)));
            doors.kill_and_restart(ROLES[random.random_range(0..ROLES.len())]);
            if let Some(broker) = kafka.take_if(|_| done.load(Ordering::Relaxed) > posts / 3) {
                restarted = Some(killed_and_restarted(broker));
            }
        }
        posting.join().expect("all are posted")
    });
    let locked = || ledger.lock().unwrap_or_else(PoisonError::into_inner);
    try_until(DEADLINE, || locked().missing(&posted).is_empty().then_some(()));
    let kills = doors.kills.clone();
    doors.close();

    assert_eq!(posted.ids.len(), posts, "{what}: each message has one id");
    let ledger = locked();
    let lost = ledger.missing(&posted);
    assert!(lost.is_empty(), "{what}: {} accepted and never delivered: {:?}", lost.len(), lost.iter().take(5));
    for (id, messages) in &ledger.delivered {
        assert_eq!(messages.len(), 1, "{what}: {id} is the id of the messages {messages:?}");
        let number = messages.keys().next();
        assert_eq!(posted.ids.get(id), number, "{what}: {id} was promised for another message, or nobody");
    }
    let deliveries: usize = ledger.delivered.values().flat_map(BTreeMap::values).sum();
    assert_eq!(restarted.is_some(), engine != Engine::Sqlite, "{what}: the broker was killed once");
    assert!(kills.values().sum::<usize>() >= 5, "{what}: only {kills:?} were killed");
    say(&format!(
        "{what}: {posts} posted, answers {:?}, {} connections broken, killed {kills:?}; {deliveries} delivered, {} of them again, {} refused",
        posted.answers,
        posted.broken,
        deliveries - posts,
        ledger.arrivals - deliveries,
    ));
}

fn killed_and_restarted(mut kafka: Kafka) -> Kafka {
    kafka.kill();
    std::thread::sleep(Duration::from_secs(2));
    kafka.restart();
    kafka
}

#[test]
fn nothing_accepted_is_lost_when_the_doors_are_killed_on_sqlite() {
    nothing_accepted_is_lost(Engine::Sqlite);
}

#[test]
fn nothing_accepted_is_lost_when_the_doors_and_the_broker_are_killed_on_kafka() {
    nothing_accepted_is_lost(Engine::AtLeastOnce);
}
