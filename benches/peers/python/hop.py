"""One hop on confluent-kafka: what contactpoint does, as a Python service would be written to be fast.

usage: hop.py BROKERS TOPIC GROUP EMAILS

Reads TOPIC in batches, takes the next stop off each slip, adds the email of the account from EMAILS (`account,email` a
line, held in a dict) and publishes to that stop, the key kept. At least once: once a second what was published is
flushed, then the offsets are committed.
"""

import json
import sys
import time

from confluent_kafka import Consumer, KafkaException, Producer

BATCH = 1000
COMMIT_SECONDS = 1.0


def main(brokers, topic, group, path):
    with open(path, encoding="utf-8") as lines:
        emails = dict(line.rstrip("\n").split(",", 1) for line in lines)
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        # Without it librdkafka waits a second once its queue was full
        "fetch.queue.backoff.ms": 5,
    })
    producer = Producer({
        "bootstrap.servers": brokers,
        "enable.idempotence": True,
        "linger.ms": 5,
        "queue.buffering.max.messages": 500_000,
    })
    consumer.subscribe([topic])
    committed, uncommitted = time.monotonic(), False
    while True:
        for record in consumer.consume(BATCH, 0.1):
            if record.error():
                raise KafkaException(record.error())
            uncommitted = True
            routed = route(json.loads(record.value()), emails)
            if routed is not None:
                stop, message = routed
                send(producer, stop, record.key(), json.dumps(message))
        producer.poll(0)
        if uncommitted and time.monotonic() - committed >= COMMIT_SECONDS:
            producer.flush()
            consumer.commit(asynchronous=False)
            committed, uncommitted = time.monotonic(), False


def route(message, emails):
    """The next stop and the message for it; None where the account is unknown."""
    email = emails.get(str(message["payload"]["account_number"]))
    if email is None:
        return None
    header = message["header"]
    stop = header["route"].pop()
    header["historical_route"].append(stop)
    message["payload"]["email"] = email
    return stop, message


def send(producer, topic, key, value):
    while True:
        try:
            return producer.produce(topic, value, key=key)
        except BufferError:
            producer.poll(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
