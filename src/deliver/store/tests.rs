use std::collections::{HashMap, HashSet};

use super::*;
use crate::bus::{Headers, Record, Topic, sqlite::Synchronous};

struct Case {
    folder: tempfile::TempDir,
    store: Deliveries,
    topic: Topic,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Self::open(&folder).unwrap();
        Self { folder, store, topic: Topic::new("Events").unwrap() }
    }

    fn open(folder: &tempfile::TempDir) -> Option<Deliveries> {
        Deliveries::open(&folder.path().join("data/deliveries.db"), Synchronous::Normal).unwrap()
    }

    fn again(self) -> Self {
        let Self { folder, store, topic } = self;
        drop(store);
        Self { store: Self::open(&folder).unwrap(), folder, topic }
    }

    fn register(&self, name: &str) -> i64 {
        self.store.register(&[name]).unwrap()[0].0
    }

    /// Takes records of these offsets, the value of each its offset and `value`; how many deliveries may go.
    fn take(&self, offsets: &[i64], value: &str, wants: &[Want]) -> usize {
        let values: Vec<_> = offsets.iter().map(|offset| format!("{{\"{value}\":{offset}}}")).collect();
        let incoming = |(offset, value): (&i64, &String)| Incoming {
            record: Record {
                partition: (*offset % 2) as i32,
                offset: *offset,
                timestamp: 5,
                key: Some(b"k"),
                headers: Headers::default(),
                value: Some(Vec::leak(value.clone().into_bytes())),
            },
            id: format!("id-{value}"),
            body: 0..value.len(),
            wants: wants.to_vec(),
        };
        let incoming: Vec<_> = offsets.iter().zip(&values).map(incoming).collect();
        self.store.take(&self.topic, &incoming).unwrap().offers.len()
    }

    fn due(&self, subscriber: i64) -> Vec<Delivery> {
        let due = self.store.due(subscriber, milliseconds(SystemTime::now()), &HashSet::new(), 100).unwrap();
        assert!(!due.more);
        due.now
    }

    fn offsets(&self, subscriber: i64) -> Vec<i64> {
        self.due(subscriber).iter().map(|delivery| delivery.message.offset).collect()
    }

    fn settle(&self, subscriber: i64, delivery: &Delivery, came: Came) -> Vec<i64> {
        let Delivery { message, due, key, .. } = delivery;
        let settled = Settled { subscriber, due: *due, message: message.number, key: *key, came };
        self.store.settle(&[settled], &HashMap::new()).unwrap()
    }

    fn count(&self, table: &str) -> i64 {
        let store = Store::open(&self.folder.path().join("data/deliveries.db")).unwrap();
        store.connection.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }
}

fn want(subscriber: i64) -> Want {
    Want { subscriber, ordered: false }
}

#[test]
fn a_record_is_taken_once_and_a_topic_that_was_made_anew_is_another_one() {
    let case = Case::new();
    let all = [want(case.register("a")), want(case.register("b"))];
    assert_eq!(case.take(&[0, 1, 2, 3, 5], "n", &all), 10);
    assert_eq!(case.take(&[2, 3, 5], "n", &all), 0);
    // The batches need not begin where they began before
    assert_eq!(case.take(&[3, 4, 5, 6, 7], "n", &all), 6);
    let case = case.again();
    assert_eq!(case.take(&[0, 1, 2, 3, 4, 5, 6, 7], "n", &all), 0);
    assert_eq!(case.take(&[0, 1], "other", &all), 4);
    assert_eq!(case.take(&[0, 1], "other", &all), 0);
    assert_eq!(case.offsets(all[0].subscriber), [0, 1, 2, 3, 5, 4, 6, 7, 0, 1]);
}

#[test]
fn a_message_is_kept_byte_for_byte_until_all_have_it() {
    let case = Case::new();
    let (a, b) = (case.register("a"), case.register("b"));
    case.take(&[7], "n", &[want(a), want(b)]);
    let case = case.again();
    let delivery = case.due(a).remove(0);
    let message = &delivery.message;
    assert_eq!((&message.value[..], message.id.as_str()), (&b"{\"n\":7}"[..], "id-{\"n\":7}"));
    assert_eq!((message.key.as_deref(), message.timestamp, message.partition), (Some(&b"k"[..]), 5, 1));
    case.settle(a, &delivery, Came::Done);
    assert_eq!((case.count("messages"), case.count("deliveries")), (1, 1));
    // Told twice, as after a crash, it counts once
    case.settle(a, &delivery, Came::Done);
    assert_eq!(case.count("messages"), 1);
    case.settle(b, &case.due(b)[0], Came::Done);
    assert_eq!((case.count("messages"), case.count("deliveries")), (0, 0));
}

#[test]
fn what_failed_is_due_later_and_all_is_due_at_once_for_who_is_enabled() {
    let case = Case::new();
    let a = case.register("a");
    case.take(&[0, 1], "n", &[want(a)]);
    let first = case.due(a).remove(0);
    let later = milliseconds(SystemTime::now()) + 100_000;
    case.settle(a, &first, Came::Again { due: later, failed: 3, history: "[]".into() });
    let due = case.store.due(a, later - 1, &HashSet::new(), 100).unwrap();
    assert_eq!((due.now.len(), due.next, due.more), (1, Some(later), false));
    let due = case.store.due(a, later, &HashSet::from([due.now[0].message.number]), 100).unwrap();
    assert_eq!((due.now[0].failed, due.now[0].history.as_deref()), (3, Some("[]")));
    assert!(case.store.due(a, later, &HashSet::new(), 1).unwrap().more);

    let at = time(milliseconds(SystemTime::now()));
    let failing = Some(Failing { since: at, last: at });
    let standing = Standing { failing, disabled: Some("410 Gone".into()), enabled: 0 };
    case.store.settle(&[], &HashMap::from([(a, standing)])).unwrap();
    let mut other = Store::existing(&case.folder.path().join("data/deliveries.db")).unwrap().unwrap();
    let disabled = Some("410 Gone".to_owned());
    assert_eq!(other.states().unwrap(), [State { name: "a".into(), failing, disabled, waiting: 2 }]);
    assert!(other.enable("a").unwrap());
    assert!(!other.enable("a").unwrap() && !other.enable("b").unwrap());
    // Within one millisecond both became due at the same time
    let mut offsets = case.offsets(a);
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 1]);
    assert_eq!(case.store.register(&["a"]).unwrap(), [(a, Standing { enabled: 2, ..Standing::default() }, 2)]);
    let changed = case.store.changed().unwrap().unwrap();
    assert_eq!((changed[0].1.enabled, case.store.changed().unwrap()), (2, None), "{changed:?}");
    // One that was under way when all became due again
    let again = case.due(a).into_iter().find(|delivery| delivery.message.number == first.message.number);
    let under_way = Delivery { due: later, ..again.unwrap() };
    case.settle(a, &under_way, Came::Done);
    assert_eq!(case.offsets(a), [1]);
}

#[test]
fn messages_of_a_key_wait_for_the_one_before() {
    let case = Case::new();
    let (a, b) = (case.register("a"), case.register("b"));
    let ordered = Want { subscriber: a, ordered: true };
    assert_eq!(case.take(&[0, 2, 4], "n", &[ordered, want(b)]), 4);
    assert_eq!((case.offsets(a), case.offsets(b)), (vec![0], vec![0, 2, 4]));
    let first = case.due(a).remove(0);
    let later = milliseconds(SystemTime::now()) + 100_000;
    assert!(case.settle(a, &first, Came::Again { due: later, failed: 1, history: String::new() }).is_empty());
    assert!(case.offsets(a).is_empty());
    assert_eq!(
        case.store.due(a, 0, &HashSet::new(), 100).unwrap().next,
        Some(later),
        "what waits for another is not due"
    );
    assert_eq!(case.settle(a, &Delivery { due: later, ..first }, Came::Done), [a]);
    let case = case.again();
    assert_eq!(case.offsets(a), [2]);
    case.settle(a, &case.due(a)[0], Came::Done);
    case.settle(a, &case.due(a)[0], Came::Done);
    assert_eq!(case.take(&[6], "n", &[ordered]), 1);
}

#[test]
fn who_is_gone_leaves_nothing_behind() {
    let case = Case::new();
    let (a, b) = (case.register("a"), case.register("b"));
    case.take(&[0, 1], "n", &[want(a), want(b)]);
    case.take(&[2], "n", &[want(a)]);
    assert_eq!(case.store.remove(a).unwrap(), 3);
    assert_eq!((case.count("messages"), case.count("deliveries"), case.count("subscribers")), (2, 2, 1));
    assert_eq!(case.store.remove(b).unwrap(), 2);
    assert_eq!((case.count("messages"), case.count("deliveries")), (0, 0));
}

#[test]
fn one_process_owns_the_file_and_it_is_no_other_programs() {
    let case = Case::new();
    assert!(Case::open(&case.folder).is_none());
    let case = case.again();
    let path = case.folder.path().join("other.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let error = format!("{:#}", Store::open(&path).err().unwrap());
    assert!(error.ends_with("it is a database of another program; set deliver.store to a file of its own"), "{error}");
    assert!(Store::existing(&case.folder.path().join("none.db")).unwrap().is_none());
}
