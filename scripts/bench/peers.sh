#!/usr/bin/env bash
# Finds or builds what `make bench` measures metrobus beside: the hops in benches/peers, on Kafka Streams and on
# confluent-kafka-python. Called after scripts/services.sh, whose Java it uses. Writes what it has to target/bench/found.
# What cannot be had is said in one line; its rows then say "missing".
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
dir=$root/target/bench
peers=$root/benches/peers
mkdir -p "$dir"

say() { echo "peers: $*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# As root only: a bench asks nobody for a password.
apt_install() {
    have apt-get && [ "$(id -u)" -eq 0 ] || return 1
    say "installing $1 with apt-get"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >"$dir/apt.log" 2>&1 </dev/null && return 0
    apt-get update -qq >"$dir/apt.log" 2>&1 </dev/null || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >"$dir/apt.log" 2>&1 </dev/null
}

find_javac() {
    local candidate
    for candidate in "${JAVA%/java}/javac" "$(command -v javac || true)" /usr/lib/jvm/*/bin/javac; do
        # Another one may make what this Java is too old to run; --release prevents it from 17 on
        if [ -x "$candidate" ] && "$candidate" --release 17 -version >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

# The folder is complete for these sources exactly if it carries their checksum.
streams() {
    local stamp javac part
    stamp=$(cat "$peers/streams/pom.xml" "$peers/streams/Hop.java" | cksum)
    [ "$(cat "$dir/streams/.complete" 2>/dev/null)" = "$stamp" ] && return 0
    [ -n "$JAVA" ] || { say "MISSING: Java 17 or newer, for Kafka Streams"; return 1; }
    javac=$(find_javac) || { apt_install openjdk-17-jdk-headless && javac=$(find_javac); } ||
        { say "MISSING: javac, for Kafka Streams; get it with: apt-get install openjdk-17-jdk-headless"; return 1; }
    have mvn || apt_install maven || { say "MISSING: Maven, for Kafka Streams; get it with: apt-get install maven"; return 1; }
    say "building the hop on Kafka Streams"
    part=$(mktemp -d "$dir/streams.XXXXXX")
    if JAVA_HOME=${javac%/bin/javac} mvn -q -B --strict-checksums -f "$peers/streams/pom.xml" \
        dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$part/libs" >"$dir/mvn.log" 2>&1 </dev/null &&
        "$javac" --release 17 -cp "$part/libs/*" -d "$part/classes" "$peers/streams/Hop.java" >"$dir/javac.log" 2>&1; then
        echo "$stamp" >"$part/.complete"
        rm -rf "$dir/streams"
        mv "$part" "$dir/streams"
    else
        rm -rf "$part"
        say "MISSING: the hop on Kafka Streams could not be built, see target/bench/mvn.log and javac.log"
        return 1
    fi
}

python() {
    local stamp
    stamp=$(cksum <"$peers/python/requirements.txt")
    [ "$(cat "$dir/python/.complete" 2>/dev/null)" = "$stamp" ] && return 0
    have python3 || apt_install python3 || { say "MISSING: Python 3, for confluent-kafka"; return 1; }
    rm -rf "$dir/python"
    python3 -m venv "$dir/python" >"$dir/pip.log" 2>&1 ||
        { apt_install python3-venv && python3 -m venv --clear "$dir/python" >"$dir/pip.log" 2>&1; } ||
        { say "MISSING: Python's venv, for confluent-kafka; get it with: apt-get install python3-venv"; return 1; }
    say "installing confluent-kafka"
    if ! "$dir/python/bin/python" -m pip install -q --only-binary :all: --disable-pip-version-check \
        -r "$peers/python/requirements.txt" >"$dir/pip.log" 2>&1 </dev/null; then
        say "MISSING: confluent-kafka, pip could not install it: $(tail -n 1 "$dir/pip.log")"
        return 1
    fi
    echo "$stamp" >"$dir/python/.complete"
}

JAVA=''
# shellcheck source=/dev/null
. "$root/target/services/found"
streams && has_streams=yes || has_streams=
python && has_python=yes || has_python=
{
    printf 'export METROBUS_BENCH_STREAMS=%q\n' "${has_streams:+$dir/streams/classes:$dir/streams/libs/*}"
    printf 'export METROBUS_BENCH_PYTHON=%q\n' "${has_python:+$dir/python/bin/python}"
} >"$dir/found"
