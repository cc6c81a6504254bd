#!/usr/bin/env bash
# with-services.sh COMMAND...: runs COMMAND beside a Redis and a Kafka that are started for it, on free ports of
# 127.0.0.1 and in a temporary folder, and ended with it. COMMAND finds them through METROBUS_TEST_REDIS,
# METROBUS_TEST_REDIS_SERVER, METROBUS_TEST_KAFKA, METROBUS_TEST_KAFKA_LIBS and METROBUS_TEST_JAVA; what tests start for
# themselves through METROBUS_TEST_OPENSEARCH_LIBS (the jars) and METROBUS_TEST_CHROMIUM (a browser); promtool, which only
# looks at files, through METROBUS_TEST_PROMTOOL; a Python with the library of Standard Webhooks through METROBUS_TEST_WEBHOOKS.
# Its exit code is passed on. Where COMMAND fails, what the services said is kept in target/services/logs.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 COMMAND..." >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { echo "with-services: $*" >&2; }

"$root/scripts/services.sh"
REDIS_SERVER='' JAVA='' KAFKA_LIBS='' OPENSEARCH_LIBS='' CHROMIUM='' PROMTOOL='' WEBHOOKS='' SKIPPED=''
# shellcheck source=/dev/null
. "$root/target/services/found"

tmp=$(mktemp -d)
pids=()
# shellcheck disable=SC2317 # called by the trap
finish() {
    local code=$?
    trap - EXIT
    if [ "${#pids[@]}" -gt 0 ]; then
        # Their data is thrown away: no reason to wait for an orderly end.
        kill -KILL "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    if [ "$code" -ne 0 ] && [ "${#pids[@]}" -gt 0 ]; then
        mkdir -p "$root/target/services/logs"
        cp "$tmp"/*.log "$root/target/services/logs/"
        say "what the services said is in target/services/logs"
    fi
    rm -rf "$tmp"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A port below the range from which the kernel gives ports to clients: none of them can take it in passing.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# until_ready PID SECONDS COMMAND...: true once COMMAND is true, false if PID ends first or the time is up.
until_ready() {
    local pid=$1 end=$((SECONDS + $2))
    shift 2
    while [ "$SECONDS" -lt "$end" ]; do
        kill -0 "$pid" 2>/dev/null || return 1
        "$@" && return 0
        sleep 0.05
    done
    return 1
}

# shellcheck disable=SC2317 # called by until_ready
redis_answers() {
    local answer=
    # In a subshell: a refused connection must not end the script.
    { answer=$(exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'PING\r\n' >&3 && read -r -t 1 line <&3 && echo "$line"); } 2>/dev/null || true
    [ "${answer%$'\r'}" = +PONG ]
}

start_redis() {
    local port attempt
    for attempt in 1 2 3; do
        port=$(free_port)
        mkdir -p "$tmp/redis"
        # Many databases: each test gets an empty one of its own.
        "$REDIS_SERVER" --bind 127.0.0.1 --port "$port" --dir "$tmp/redis" --save '' --appendonly no \
            --databases 10000 >"$tmp/redis.log" 2>&1 </dev/null &
        pids+=("$!")
        if until_ready "$!" 20 redis_answers "$port"; then
            export METROBUS_TEST_REDIS=redis://127.0.0.1:$port
            return 0
        fi
        say "Redis did not start on port $port (attempt $attempt): $(tail -n 1 "$tmp/redis.log")"
    done
    return 1
}

start_kafka() {
    local attempt port controller config=$tmp/kafka.properties
    # Quick to start, unless METROBUS_TEST_KAFKA_JVM asks for something else; split at spaces
    local jvm=${METROBUS_TEST_KAFKA_JVM:--XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xms512m -Xmx1g}
    # shellcheck disable=SC2206
    local java=("$JAVA" $jvm
        -Dlog4j2.configurationFile="$root/scripts/kafka/log4j2.properties" -cp "$KAFKA_LIBS/*")
    for attempt in 1 2 3; do
        port=$(free_port)
        controller=$(free_port)
        rm -rf "$tmp/kafka"
        {
            cat "$root/scripts/kafka/server.properties"
            echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller"
            echo "advertised.listeners=PLAINTEXT://127.0.0.1:$port"
            echo "controller.quorum.voters=1@127.0.0.1:$controller"
            echo "log.dirs=$tmp/kafka"
        } >"$config"
        "${java[@]}" kafka.tools.StorageTool format -t metrobus-test -c "$config" >"$tmp/kafka.log" 2>&1 </dev/null ||
            { say "Kafka's storage could not be formatted: $(tail -n 1 "$tmp/kafka.log")"; return 1; }
        "${java[@]}" kafka.Kafka "$config" >"$tmp/kafka.log" 2>&1 </dev/null &
        pids+=("$!")
        if until_ready "$!" 60 grep -q 'Kafka Server started' "$tmp/kafka.log"; then
            export METROBUS_TEST_KAFKA=127.0.0.1:$port
            return 0
        fi
        say "Kafka did not start on port $port (attempt $attempt): $(tail -n 1 "$tmp/kafka.log")"
    done
    return 1
}

unset METROBUS_TEST_REDIS METROBUS_TEST_KAFKA METROBUS_TEST_REDIS_SERVER METROBUS_TEST_KAFKA_LIBS METROBUS_TEST_JAVA \
    METROBUS_TEST_OPENSEARCH_LIBS METROBUS_TEST_CHROMIUM METROBUS_TEST_PROMTOOL
[ -z "$PROMTOOL" ] || export METROBUS_TEST_PROMTOOL=$PROMTOOL
[ -z "$WEBHOOKS" ] || export METROBUS_TEST_WEBHOOKS=$WEBHOOKS
if [ -n "$REDIS_SERVER" ]; then
    export METROBUS_TEST_REDIS_SERVER=$REDIS_SERVER
    start_redis
fi
if [ -n "$KAFKA_LIBS" ]; then
    export METROBUS_TEST_KAFKA_LIBS=$KAFKA_LIBS METROBUS_TEST_JAVA=$JAVA
    start_kafka
fi
if [ -n "$OPENSEARCH_LIBS" ]; then
    export METROBUS_TEST_OPENSEARCH_LIBS=$OPENSEARCH_LIBS METROBUS_TEST_JAVA=$JAVA
fi
if [ -n "$CHROMIUM" ]; then
    export METROBUS_TEST_CHROMIUM=$CHROMIUM
fi
say "Redis ${METROBUS_TEST_REDIS:-none}, Kafka ${METROBUS_TEST_KAFKA:-none}, ready after $SECONDS s"

code=0
"$@" || code=$?
[ -z "$SKIPPED" ] || say "the tests that need $SKIPPED were SKIPPED, the services are missing here"
exit "$code"
