use std::sync::mpsc;

use smallvec::smallvec;

use super::*;
use crate::{
    bus::{Reader, memory::MemoryBus},
    gateway::budget::Budget,
    http::exposition::Exposition,
    slip::Limits,
};

const DEADLINE: Duration = Duration::from_secs(30);

fn topic() -> Topic {
    Topic::new("Source").unwrap()
}

fn event(body: &str) -> Event {
    Event::new(&topic(), body.as_bytes(), &Limits::default()).unwrap()
}

fn options(waiting: usize, timeout: Duration) -> Options {
    Options { lanes: 1, waiting, timeout, connect_timeout: None, topics: vec![topic()] }
}

fn lanes(bus: Arc<dyn Bus>, options: Options) -> (Lanes, Shutdown) {
    let shutdown = Shutdown::default();
    (Lanes::start(options, bus, Arc::default(), shutdown.clone()).unwrap(), shutdown)
}

fn publish(lanes: &Lanes, events: Events) -> Result<oneshot::Receiver<Answer>, Unpublished> {
    lanes.publish(events, Budget::new(1).hold())
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn values(bus: &dyn Bus) -> Vec<String> {
    let mut reader: Box<dyn Reader> = bus.reader(&topic(), 1000).unwrap();
    let batch = reader.poll(1000, Duration::from_millis(10)).unwrap();
    batch.iter().map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()).collect()
}

/// A bus whose publisher waits for a word before each lot, and whose word may be that it fails.
struct Slow {
    bus: Arc<MemoryBus>,
    words: Mutex<Option<mpsc::Receiver<Word>>>,
}

enum Word {
    Take,
    Away,
    Fatal,
    /// The record of this index is not what the bus takes.
    Refuse(usize),
    /// It takes the records, and refuses those of these numbers then.
    RefuseLater(Vec<usize>),
}

struct SlowPublisher {
    inner: Box<dyn Publisher>,
    words: mpsc::Receiver<Word>,
    refused: Vec<Refusal>,
    /// How many were refused after they were taken over.
    count: u64,
}

fn slow() -> (Arc<Slow>, mpsc::Sender<Word>) {
    let (send, words) = mpsc::channel();
    (Arc::new(Slow { bus: Arc::default(), words: Mutex::new(Some(words)) }), send)
}

impl Bus for Slow {
    fn guarantee(&self) -> crate::bus::Guarantee {
        self.bus.guarantee()
    }

    fn connect(&self) -> Result<(), BusError> {
        self.bus.connect()
    }

    fn create_topics(&self, topics: &[Topic]) -> Result<(), BusError> {
        self.bus.create_topics(topics)
    }

    fn subscribe(
        &self,
        letters: &crate::dead_letter::DeadLetters,
    ) -> Result<Box<dyn crate::bus::Subscription>, BusError> {
        self.bus.subscribe(letters)
    }

    fn publisher(&self) -> Result<Box<dyn Publisher>, BusError> {
        let words = self.words.lock().unwrap().take().unwrap();
        Ok(Box::new(SlowPublisher { inner: self.bus.publisher()?, words, refused: Vec::new(), count: 0 }))
    }

    fn fenced_publisher(&self, name: &str) -> Result<Box<dyn crate::bus::FencedPublisher>, BusError> {
        self.bus.fenced_publisher(name)
    }

    fn reader(&self, topic: &Topic, last: u64) -> Result<Box<dyn Reader>, BusError> {
        self.bus.reader(topic, last)
    }

    fn reader_from(&self, topic: &Topic, offsets: &[(i32, i64)]) -> Result<Box<dyn Reader>, BusError> {
        self.bus.reader_from(topic, offsets)
    }

    fn topics(&self) -> Result<Vec<crate::bus::TopicInfo>, BusError> {
        self.bus.topics()
    }
}

impl Publisher for SlowPublisher {
    fn publish(&mut self, outbox: &Outbox) -> Result<(), BusError> {
        self.inner.publish(outbox)
    }

    fn refusals(&mut self, _outbox: &Outbox) -> Result<Vec<Refusal>, BusError> {
        match self.words.recv() {
            Ok(Word::Take) | Err(_) => Ok(Vec::new()),
            Ok(Word::Away) => Err(BusError::Unavailable(anyhow!("away"))),
            Ok(Word::Fatal) => Err(BusError::Fatal(anyhow!("the disk is full"))),
            Ok(Word::Refuse(output)) => Ok(vec![Refusal { output, reason: "too long".to_owned() }]),
            Ok(Word::RefuseLater(outputs)) => {
                self.count += outputs.len() as u64;
                let refusal = |output| Refusal { output, reason: "too long".to_owned() };
                self.refused = outputs.into_iter().map(refusal).collect();
                Ok(Vec::new())
            }
        }
    }

    fn refused(&mut self) -> Vec<Refusal> {
        std::mem::take(&mut self.refused)
    }

    fn flush(&mut self, deadline: Instant) -> Result<u64, BusError> {
        Ok(self.inner.flush(deadline)? - self.count)
    }
}

/// Has the events of all `requests` published in one lot.
fn publish_together(lanes: &Lanes, requests: impl IntoIterator<Item = Events>) -> Vec<oneshot::Receiver<Answer>> {
    let mut answers = Vec::new();
    let mut queue = lanes.shared.lock();
    for events in requests {
        let (answer, answered) = oneshot::channel();
        let came = Instant::now();
        queue.events += events.len();
        queue.jobs.push_back(Job { events, came, late: came + DEADLINE, answer, _hold: Budget::new(1).hold() });
        answers.push(answered);
    }
    drop(queue);
    lanes.shared.more.notify_one();
    answers
}

#[test]
fn what_waits_is_published_together_and_answered_when_it_is_there() {
    let (bus, say) = slow();
    let (lanes, _) = lanes(bus.clone(), options(100, DEADLINE));
    let first = publish(&lanes, smallvec![event(r#"{"n":0}"#)]).unwrap();
    wait_until("the first to be taken", || lanes.shared.lock().jobs.is_empty());
    let rest: Vec<_> =
        (1..10).map(|n| publish(&lanes, smallvec![event(&format!(r#"{{"n":{n}}}"#))]).unwrap()).collect();
    assert_eq!(lanes.waiting(), 10);
    // One word for the first, one for all others
    say.send(Word::Take).unwrap();
    say.send(Word::Take).unwrap();
    assert_eq!(first.blocking_recv().unwrap(), Ok(()));
    for answer in rest {
        assert_eq!(answer.blocking_recv().unwrap(), Ok(()));
    }
    let expected: Vec<_> = (0..10).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    assert_eq!(values(&*bus), expected);
    drop(say);
    lanes.finish(Instant::now() + DEADLINE).unwrap();
    assert_eq!(lanes.waiting(), 0);
}

#[test]
fn beyond_what_may_wait_there_is_no_place() {
    let (bus, say) = slow();
    let (lanes, _) = lanes(bus, options(3, DEADLINE));
    let held = publish(&lanes, smallvec![event("{}"), event("{}")]).unwrap();
    assert_eq!(publish(&lanes, smallvec![event("{}"), event("{}")]).unwrap_err(), Unpublished::Full);
    let third = publish(&lanes, smallvec![event("{}")]).unwrap();
    drop(say);
    assert_eq!(held.blocking_recv().unwrap(), Ok(()));
    assert_eq!(third.blocking_recv().unwrap(), Ok(()));
    wait_until("nothing to wait", || lanes.waiting() == 0);
    let most = publish(&lanes, (0..5).map(|_| event("{}")).collect()).unwrap();
    assert_eq!(
        most.blocking_recv().unwrap(),
        Ok(()),
        "one that is more than may wait is taken where nothing else does"
    );
}

#[test]
fn what_waited_too_long_is_given_up_and_a_bus_that_is_away_is_told_at_once() {
    let (bus, say) = slow();
    let (lanes, _) = lanes(bus.clone(), options(100, Duration::from_millis(200)));
    let late = publish(&lanes, smallvec![event(r#"{"late":1}"#)]).unwrap();
    wait_until("the lane to be connected", || lanes.ready().is_ok());
    say.send(Word::Away).unwrap();
    let waiting = lanes.shared.clone();
    let word = std::thread::spawn(move || {
        wait_until("the job to be late", || waiting.started.elapsed() > Duration::from_millis(300));
        let _ = say.send(Word::Away);
        say
    });
    assert_eq!(late.blocking_recv().unwrap(), Err(Unpublished::Late));
    assert_eq!(values(&*bus), Vec::<String>::new());
    let say = word.join().unwrap();
    // A lane that has waited for longer than a job may says so
    let stuck = publish(&lanes, smallvec![event("{}")]).unwrap();
    let away = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_millis(500);
        while Instant::now() < end {
            let _ = say.send(Word::Away);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(stuck.blocking_recv().unwrap(), Err(Unpublished::Late));
    away.join().unwrap();
}

#[test]
fn what_the_bus_refuses_is_refused_with_its_request_and_no_other_is() {
    let (bus, say) = slow();
    let (lanes, _) = lanes(bus.clone(), options(100, DEADLINE));
    let requests: [Events; 3] = [
        smallvec![event(r#"{"n":0}"#)],
        smallvec![event(r#"{"n":1}"#), event(r#"{"n":2}"#)],
        smallvec![event(r#"{"n":3}"#)],
    ];
    let answers = publish_together(&lanes, requests);
    say.send(Word::Refuse(2)).unwrap();
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.blocking_recv().unwrap()).collect();
    assert_eq!(answers, [Ok(()), Err(Unpublished::Refused("too long".to_owned())), Ok(())]);
    assert_eq!(values(&*bus), [r#"{"n":0}"#, r#"{"n":3}"#]);
}

#[test]
fn what_the_bus_refuses_once_it_has_it_is_told_apart_from_the_other_events_of_its_request() {
    let (bus, say) = slow();
    let (lanes, _) = lanes(bus, options(100, DEADLINE));
    // The numbers of what is refused go on behind this one
    let before = publish(&lanes, smallvec![event("{}")]).unwrap();
    say.send(Word::Take).unwrap();
    assert_eq!(before.blocking_recv().unwrap(), Ok(()));
    let requests = [1, 3, 2, 1].map(|events| (0..events).map(|_| event("{}")).collect::<Events>());
    let answers = publish_together(&lanes, requests);
    say.send(Word::RefuseLater(vec![4, 2, 5, 6])).unwrap();
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.blocking_recv().unwrap()).collect();
    let reason = "too long".to_owned();
    let partly = Unpublished::Partly { refused: vec![0, 2], reason: reason.clone() };
    assert_eq!(answers, [Ok(()), Err(partly), Err(Unpublished::Refused(reason)), Ok(())]);
    let mut metrics = Exposition::default();
    lanes.shared.stats.tell(&mut metrics, 0);
    let metrics = metrics.into_text();
    // One before, and of the seven of the lot three
    assert!(metrics.contains("metrobus_gateway_published_messages_total 4\n"), "{metrics}");
    assert!(metrics.contains("metrobus_gateway_confirm_duration_seconds_count 4\n"), "{metrics}");
}

#[test]
fn a_bus_that_fails_for_good_ends_the_process_and_answers_nobody_with_yes() {
    let (bus, say) = slow();
    let (lanes, shutdown) = lanes(bus, options(100, DEADLINE));
    let first = publish(&lanes, smallvec![event("{}")]).unwrap();
    wait_until("the first to be taken", || lanes.shared.lock().jobs.is_empty());
    let second = publish(&lanes, smallvec![event("{}")]).unwrap();
    say.send(Word::Fatal).unwrap();
    // Whoever waits finds that nobody answers, which is no yes
    assert!(!matches!(first.blocking_recv(), Ok(Ok(()))));
    assert_eq!(second.blocking_recv().unwrap(), Err(Unpublished::Ended));
    wait_until("the end to be asked for", || shutdown.requested());
    assert_eq!(publish(&lanes, smallvec![event("{}")]).unwrap_err(), Unpublished::Ended);
    assert_eq!(lanes.finish(Instant::now()).unwrap_err().to_string(), "the disk is full");
}

#[test]
fn at_the_end_what_waits_is_published_first() {
    let (bus, say) = slow();
    let (lanes, _) = lanes(bus.clone(), options(100, DEADLINE));
    let answers: Vec<_> = (0..3).map(|_| publish(&lanes, smallvec![event("{}")]).unwrap()).collect();
    let ending = std::thread::spawn(move || lanes.finish(Instant::now() + DEADLINE).map(|()| lanes));
    drop(say);
    for answer in answers {
        assert_eq!(answer.blocking_recv().unwrap(), Ok(()));
    }
    let lanes = ending.join().unwrap().unwrap();
    assert_eq!(publish(&lanes, smallvec![event("{}")]).unwrap_err(), Unpublished::Ended);
    assert_eq!(values(&*bus).len(), 3);
}
