#!/usr/bin/env bash
# What `make bench` does: builds, sees to the peers, and measures beside a Redis and a Kafka of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo bench --locked --no-run --bench micro --bench bus
scripts/services.sh
scripts/bench/peers.sh
# shellcheck source=/dev/null
. target/bench/found
# The broker's files on a real disk: /tmp may be memory, and a long backlog takes gigabytes
export TMPDIR=$PWD/target/bench/tmp
mkdir -p "$TMPDIR"
# The broker as Kafka's own start script runs it, not as the tests do, whose broker is to start fast
export METROBUS_TEST_KAFKA_JVM='-server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -Xms1g -Xmx1g'
exec scripts/with-services.sh sh -c 'cargo bench --locked --bench micro && cargo bench --locked --bench bus'
