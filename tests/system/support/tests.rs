//! The support does what its docs say: a test that rests on a broker which was not really killed proves nothing.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;

use super::*;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn ports_are_not_given_twice() {
    let ports: HashSet<u16> = (0..50).map(|_| free_port()).collect();
    assert_eq!(ports.len(), 50);
}

#[test]
fn waiting_ends_at_the_deadline() {
    let mut calls = 0;
    assert_eq!(
        try_until(Duration::ZERO, || {
            calls += 1;
            None::<()>
        }),
        None
    );
    assert_eq!(calls, 1);
    assert_eq!(
        try_until(SOON, || {
            calls += 1;
            (calls > 3).then_some(calls)
        }),
        Some(4)
    );
}

#[test]
fn a_shared_redis_gives_each_test_an_empty_database() {
    let (Some(one), Some(other)) = (Redis::shared(), Redis::shared()) else { return };
    set(&one, "whitelist", "one");
    assert_eq!(get(&one, "whitelist").as_deref(), Some("one"));
    assert_eq!(get(&other, "whitelist"), None);
}

#[test]
fn a_private_redis_comes_back_on_its_port_with_its_data() {
    let Some(mut redis) = Redis::start() else { return };
    let url = redis.url();
    set(&redis, "key", "before");
    redis.kill();
    assert!(!answers(&redis), "it answers after a kill");
    redis.restart();
    assert_eq!((redis.url(), get(&redis, "key")), (url, Some("before".to_owned())));
    redis.stop();
    assert!(!answers(&redis), "it answers after a stop");
    redis.restart();
    assert_eq!(get(&redis, "key").as_deref(), Some("before"));
}

#[test]
fn records_come_back_as_they_were_produced() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.unique_topic("support", 3);
    let sent = NewRecord::new([0xff, 0x00]).key("k").header("a", "1").header("a", "2").partition(2).timestamp(1_234);
    kafka.produce(&topic, [sent, NewRecord::tombstone().key("t").partition(0), NewRecord::new("x").partition(2)]);

    let records = kafka.read_all(&topic, true);
    let places: Vec<_> = records.iter().map(|r| (r.partition, r.offset)).collect();
    assert_eq!(places, [(0, 0), (2, 0), (2, 1)]);
    assert_eq!((&records[0].value, records[0].key.as_deref()), (&None, Some(&b"t"[..])));
    assert_eq!(records[1].value.as_deref(), Some(&[0xff, 0x00][..]));
    assert_eq!((records[1].timestamp, records[1].header("a")), (1_234, Some("1".to_owned())));
    assert_eq!(records[1].headers[1], ("a".to_owned(), Some(b"2".to_vec())));
    assert_eq!(records[2].text(), "x");
    assert_eq!(kafka.end_offsets(&topic), [(0, 1), (1, 0), (2, 2)].into());
    assert_eq!(kafka.lag("nobody", &topic), 3);
    kafka.delete_topic(&topic);
    wait_until("the topic to go", SOON, || kafka.partitions(&topic).is_none().then_some(()));
}

#[test]
fn a_record_that_the_topic_refuses_is_an_error() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = unique("small");
    kafka.create_topic(&topic, 1, &[("max.message.bytes", "2000")]);
    let large = NewRecord::new(vec![b'x'; 10_000]);
    let error = produce_with(&kafka.client(), &topic, [large]).expect_err("10 kB were taken");
    assert!(error.to_string().contains("MessageSizeTooLarge"), "{error}");
    assert_eq!(kafka.read_all(&topic, false), []);
}

#[test]
fn a_private_kafka_comes_back_on_its_port_with_its_records() {
    let Some(mut kafka) = Kafka::start() else { return };
    let topic = kafka.unique_topic("support", 2);
    kafka.produce(&topic, (0..100).map(|n| NewRecord::new(n.to_string())));
    let before = kafka.read_all(&topic, true);
    assert_eq!(before.len(), 100);
    kafka.kill();
    assert!(std::net::TcpStream::connect(kafka.brokers()).is_err(), "it answers after a kill");
    let start = Instant::now();
    kafka.restart();
    say(&format!("a killed broker was back after {:?}", start.elapsed()));
    assert_eq!(kafka.read_all(&topic, true), before);
    kafka.restart();
    assert_eq!(kafka.read_all(&topic, true), before);
}

#[test]
fn a_secure_kafka_lets_in_who_has_the_password_and_trusts_the_authority() {
    let Some(kafka) = Kafka::start_secure() else { return };
    let topic = kafka.unique_topic("secure", 1);
    let secure = kafka.secure();
    produce_with(&secure.client(), &topic, [NewRecord::new("over TLS")]).expect("produce over TLS");
    let records = read_all_with(&secure.client(), &topic, true).expect("read over TLS");
    assert_eq!(records[0].text(), "over TLS");

    let refused = |change: &dyn Fn(&mut ClientConfig)| {
        let mut config = secure.client();
        config.set("message.timeout.ms", "3000").set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        change(&mut config);
        produce_with(&config, &topic, [NewRecord::new("intruder")]).expect_err("it was let in")
    };
    refused(&|config| {
        config.set("sasl.password", "wrong");
    });
    refused(&|config| {
        config.remove("ssl.ca.location");
    });
    refused(&|config| {
        config.set("security.protocol", "PLAINTEXT");
    });
    assert_eq!(kafka.read_all(&topic, false).len(), 1);
}

#[test]
fn the_binary_gives_its_code_and_output() {
    let output = Metrobus::new().arg("--version").run().assert_code(0);
    assert!(output.stdout_text().starts_with("metrobus "), "{output:?}");
    let output = Metrobus::new().arg("no-such-command").run().assert_code(2);
    assert!(!output.stderr.is_empty());
}

fn set(redis: &Redis, key: &str, value: &str) {
    let mut connection = redis.connection();
    let () = ::redis::cmd("SET").arg(key).arg(value).query(&mut connection).expect("SET");
}

fn get(redis: &Redis, key: &str) -> Option<String> {
    ::redis::cmd("GET").arg(key).query(&mut redis.connection()).expect("GET")
}

fn answers(redis: &Redis) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", redis.port())).is_ok()
}
