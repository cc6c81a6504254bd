use std::borrow::Cow;

use smallvec::SmallVec;

use super::*;
use crate::{
    bus::{Headers, Topic},
    dead_letter::now_ms,
    journal::{Hop, Level, Outcome, entry::Writer},
};

fn options(folder: &Path) -> Options {
    Options {
        level: Level::All,
        topic: Topic::new("Journal").unwrap(),
        fields: vec!["account".to_owned()],
        index: folder.join("made/index.db"),
        retention: Duration::ZERO,
        retention_bytes: 0,
    }
}

fn hop(offset: i64, id: Id<'_>, outcome: Outcome) -> Hop<'_> {
    let (reason, next) = match outcome {
        Outcome::Forwarded => (None, Some("Next")),
        Outcome::Finished => (None, None),
        Outcome::Dropped => (Some("unknown account: 5"), None),
        Outcome::Rejected => (Some("broken"), Some("Error")),
        Outcome::Replayed => (Some("broken"), Some("Next")),
        Outcome::Discarded => (Some("broken"), None),
    };
    Hop { offset, id, outcome, attempts: 1, reason, next, rule: None, key: None, fields: SmallVec::new() }
}

fn entry(stop: &str, topic: &str, time: i64, hops: &[Hop<'_>]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.begin(stop, topic, 0, time);
    hops.iter().for_each(|hop| writer.push(hop));
    writer.finish(10).to_vec()
}

/// Records of the topic from `offset` on.
fn records(offset: i64, values: &[Vec<u8>]) -> Batch {
    let mut batch = Batch::default();
    for (offset, value) in (offset..).zip(values) {
        let (key, headers) = (None, Headers::default());
        batch.push(Record { partition: 0, offset, timestamp: 0, key, headers, value: Some(value) });
    }
    batch
}

fn uuid(n: u8) -> Id<'static> {
    let mut bytes = [1; 16];
    (bytes[6], bytes[15]) = (0x70, n);
    Id::Uuid(bytes)
}

#[test]
fn hops_are_found_by_id_key_field_and_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::open(&options(folder.path())).unwrap();
    let mut first = hop(3, uuid(1), Outcome::Forwarded);
    first.key = Some(b"\xff odd");
    first.fields.push(("account", Cow::Borrowed("1000001")));
    let nameless = Hop { key: Some(b"k"), ..hop(5, Id::None, Outcome::Dropped) };
    index
        .take(&records(
            0,
            &[
                // Ids that share a mark are told apart
                entry(
                    "busdriver",
                    "Source",
                    1_000_000,
                    &[first.clone(), hop(4, uuid(2), Outcome::Forwarded), nameless],
                ),
                entry("whitelist", "Next", 2_000_000, &[hop(0, uuid(1), Outcome::Dropped)]),
                entry("whitelist", "Next", 3_000_000, &[hop(1, Id::Text("other/way"), Outcome::Finished)]),
            ],
        ))
        .unwrap();
    let places = |found: Result<Vec<Found>>| found.unwrap().iter().map(Found::place).collect::<Vec<_>>();
    assert_eq!(places(index.hops_of(&uuid(1).to_string())), ["Source/0/3", "Next/0/0"]);
    assert_eq!(places(index.hops_of(&uuid(2).to_string())), ["Source/0/4"]);
    assert_eq!(places(index.hops_of("other/way")), ["Next/0/1"]);
    assert_eq!(places(index.hops_with_key(b"\xff odd")), ["Source/0/3"]);
    assert_eq!(places(index.hops_with_key(b"k")), ["Source/0/5"]);
    assert_eq!(places(index.hops_with_field("account", "1000001")), ["Source/0/3"]);
    assert_eq!(places(index.hops_at("Source", 0, 5)), ["Source/0/5"]);
    for nothing in [
        index.hops_of(&uuid(3).to_string()),
        index.hops_of(""),
        index.hops_with_key(b""),
        index.hops_with_field("account", "1"),
        index.hops_at("Source", 0, 6),
        index.hops_at("Source", 1, 5),
        index.hops_at("Nowhere", 0, 5),
    ] {
        assert_eq!(nothing.unwrap(), []);
    }
    let found = index.hops_of(&uuid(1).to_string()).unwrap().remove(0);
    assert_eq!((found.stop.as_str(), found.outcome, found.time), ("busdriver", Outcome::Forwarded, 1_000_000));
    assert_eq!((found.key, found.next.as_deref()), (Some(b"\xff odd".to_vec()), Some("Next")));
    assert_eq!(found.fields, [("account".to_owned(), "1000001".to_owned())]);
}

#[test]
fn counts_are_by_stop_outcome_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::open(&options(folder.path())).unwrap();
    let dropped = |offset, n| hop(offset, uuid(n), Outcome::Dropped);
    let early = entry("a", "A", 5_000_000, &[dropped(0, 1), dropped(1, 2), hop(2, uuid(3), Outcome::Finished)]);
    let late = entry("b", "B", 9_500_000, &[dropped(0, 4), hop(1, Id::None, Outcome::Rejected)]);
    index.take(&records(0, &[early, late])).unwrap();
    let counts = |filter: Filter| {
        let row = |count: Count| (count.stop, count.outcome, count.reason, count.count, count.samples);
        index.counts(&filter, 2).unwrap().into_iter().map(row).collect::<Vec<_>>()
    };
    let text = |text: &str| Some(text.to_owned());
    let id = |n| uuid(n).to_string();
    let all = vec![
        ("a".to_owned(), Outcome::Finished, None, 1, vec![id(3)]),
        ("a".to_owned(), Outcome::Dropped, text("unknown account"), 2, vec![id(1), id(2)]),
        ("b".to_owned(), Outcome::Dropped, text("unknown account"), 1, vec![id(4)]),
        ("b".to_owned(), Outcome::Rejected, text("broken"), 1, vec!["B/0/1".to_owned()]),
    ];
    assert_eq!(counts(Filter::default()), all);
    assert_eq!(counts(Filter { stop: text("b"), ..Filter::default() }), all[2..]);
    assert_eq!(counts(Filter { outcome: Some(Outcome::Dropped), ..Filter::default() }), all[1..3]);
    assert_eq!(counts(Filter { reason: text("ACCOUNT"), ..Filter::default() }), all[1..3]);
    assert_eq!(counts(Filter { since: Some(9), ..Filter::default() }), all[2..]);
    assert_eq!(counts(Filter { reason: text("%"), ..Filter::default() }), []);
}

#[test]
fn what_is_in_it_already_is_passed_over_and_what_is_damaged_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let one = entry("a", "A", 0, &[hop(0, uuid(1), Outcome::Finished)]);
    let two = entry("a", "A", 0, &[hop(1, uuid(2), Outcome::Finished)]);
    let cut = two[..two.len() - 1].to_vec();
    let mut index = Index::open(&options).unwrap();
    index.take(&records(0, &[one.clone(), b"{\"json\":1}".to_vec(), cut])).unwrap();
    let mut other = Index::open(&options).unwrap();
    other.take(&records(0, &[one, b"{\"json\":1}".to_vec(), Vec::new(), two.clone(), Vec::new()])).unwrap();
    assert_eq!(index.damaged().unwrap(), 3);
    assert_eq!(index.counts(&Filter::default(), 9).unwrap().iter().map(|count| count.count).sum::<u64>(), 2);
    assert_eq!(index.positions().unwrap()[&0].next, 5);
    other.clear().unwrap();
    // Whoever was in the middle of the topic would leave a hole
    assert!(!index.take(&records(5, std::slice::from_ref(&two))).unwrap());
    assert!(index.positions().unwrap().is_empty() && index.hops_of(&uuid(1).to_string()).unwrap().is_empty());
    assert!(index.take(&records(7, &[two])).unwrap());
    assert_eq!(index.hops_of(&uuid(2).to_string()).unwrap().len(), 1, "texts are known anew");
}

#[test]
fn another_layout_is_made_anew_and_another_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let mut index = Index::open(&options).unwrap();
    index.take(&records(0, &[entry("a", "A", 0, &[hop(0, uuid(1), Outcome::Finished)])])).unwrap();
    index.connection.pragma_update(None, "user_version", LAYOUT.version + 1).unwrap();
    drop(index);
    assert!(Index::open(&options).unwrap().positions().unwrap().is_empty());

    let theirs = Options { index: folder.path().join("theirs.db"), ..options.clone() };
    Connection::open(&theirs.index).unwrap().execute_batch("CREATE TABLE entries (a)").unwrap();
    let error = Index::open(&theirs).err().unwrap().to_string();
    assert!(error.ends_with("is a database of another program; set journal.index to a file of its own"), "{error}");
    let damaged = Options { index: folder.path().join("damaged.db"), ..options };
    fs::write(&damaged.index, vec![b'x'; 5000]).unwrap();
    let error = Index::open(&damaged).err().unwrap().to_string();
    assert!(error.contains("remove it, and it is made anew"), "{error}");
}

#[test]
fn retention_takes_the_oldest_with_all_that_leads_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let old = now_ms() * 1000 - 3_600_000_000;
    let entries: Vec<_> = (0..100_i64)
        .map(|n| {
            let id = Id::Text(if n < 40 { "old" } else { "new" });
            let time = if n < 40 { old } else { now_ms() * 1000 };
            entry("a", "A", time, &[hop(n, id, Outcome::Dropped)])
        })
        .collect();
    let aged = Options { retention: Duration::from_secs(60), ..options(folder.path()) };
    let mut index = Index::open(&aged).unwrap();
    index.take(&records(0, &entries)).unwrap();
    assert_eq!(index.retain().unwrap(), 40);
    assert_eq!((index.hops_of("old").unwrap().len(), index.hops_of("new").unwrap().len()), (0, 60));
    assert_eq!(index.counts(&Filter::default(), 0).unwrap()[0].count, 60);
    let rows = |table: &str| {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        index.connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!((rows("entries"), rows("marks")), (60, 60));
    assert_eq!(index.retain().unwrap(), 0);

    let (limit, large) = (300_000, vec![b'x'; 1000]);
    let sized = Options { retention_bytes: limit, index: folder.path().join("sized.db"), ..options(folder.path()) };
    let mut index = Index::open(&sized).unwrap();
    let entries: Vec<_> = (0..2000_i64)
        .map(|n| entry("a", "A", n, &[Hop { key: Some(&large), ..hop(n, Id::None, Outcome::Dropped) }]))
        .collect();
    index.take(&records(0, &entries)).unwrap();
    assert!(index.bytes().unwrap() > 2_000_000);
    assert!(index.retain().unwrap() > 1000);
    assert!(index.bytes().unwrap() <= limit);
    assert!(fs::metadata(&sized.index).is_ok());
    assert!(index.hops_at("A", 0, 0).unwrap().is_empty());
}
