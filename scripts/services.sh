#!/usr/bin/env bash
# Finds or installs the services that the tests start: a Redis server, a Java, the jars of a Kafka broker and those of
# OpenSearch, a browser; promtool, by which Prometheus checks what it is to read; and a Python with the official library of
# Standard Webhooks, which checks signatures.
# Writes what it found to target/services/found, for scripts/with-services.sh. Run again, it does only what is missing.
# What cannot be had is named in one line; with CI=true that is a failure.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=$root/target/services
kafka_image=apache/kafka:4.1.1 # as kafka_2.13 in scripts/kafka/pom.xml
java_image=eclipse-temurin:21-jre
redis_image=redis:7-bookworm
webhooks_package=standardwebhooks==1.1.0
prometheus_image=prom/prometheus:v3.5.0
mkdir -p "$dir"

say() { echo "services: $*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# Installs the first of the named system packages that there is: as root, or in CI through a sudo that asks nothing.
apt_install() {
    local package as_root=() round
    have apt-get || return 1
    if [ "$(id -u)" -ne 0 ]; then
        [ "${CI:-}" = true ] || return 1
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    for round in 1 2; do
        for package in "$@"; do
            say "installing $package with apt-get"
            # RUNLEVEL=1 keeps the package from starting a server of its own.
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
                apt-get install -y -qq --no-install-recommends "$package" >"$dir/apt.log" 2>&1 </dev/null && return 0
        done
        [ "$round" = 2 ] || "${as_root[@]}" apt-get update -qq >"$dir/apt.log" 2>&1 </dev/null || true
    done
    say "apt-get could not install $*: $(tail -n 1 "$dir/apt.log")"
    return 1
}

# A container engine serves as a source of files: what runs is an ordinary process, which tests can signal by its id.
engine() {
    local name
    for name in docker podman; do
        if have "$name" && timeout 20 "$name" info >/dev/null 2>&1; then
            echo "$name"
            return 0
        fi
    done
    return 1
}

# Copies PATH out of IMAGE to TARGET: the whole of it or nothing.
from_image() {
    local image=$1 path=$2 target=$3 tool id
    tool=$(engine) || return 1
    say "copying $path out of the image $image"
    id=$("$tool" create "$image" 2>"$dir/image.log") || { say "$image: $(tail -n 1 "$dir/image.log")"; return 1; }
    rm -rf "$target.part"
    "$tool" cp "$id:$path" "$target.part" >>"$dir/image.log" 2>&1 || { say "$image: $(tail -n 1 "$dir/image.log")"; }
    "$tool" rm "$id" >/dev/null 2>&1 || true
    [ -e "$target.part" ] || return 1
    rm -rf "$target"
    mv "$target.part" "$target"
}

find_redis() {
    local candidate
    for candidate in "$(command -v redis-server || true)" /usr/bin/redis-server "$dir/redis-server"; do
        if [ -n "$candidate" ] && "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

get_redis() {
    find_redis && return 0
    apt_install redis-server && find_redis && return 0
    from_image "$redis_image" /usr/local/bin/redis-server "$dir/redis-server" && find_redis && return 0
    return 1
}

# The first Java of version 17 or newer, by its real path, so that keytool lies beside it.
find_java() {
    local candidate version
    for candidate in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)" /usr/lib/jvm/*/bin/java "$dir/jdk/bin/java"; do
        [ -x "$candidate" ] || continue
        version=$("$candidate" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
        if [ "${version:-0}" -ge 17 ]; then
            readlink -f "$candidate"
            return 0
        fi
    done
    return 1
}

get_java() {
    find_java && return 0
    apt_install openjdk-21-jre-headless openjdk-17-jre-headless default-jre-headless && find_java && return 0
    from_image "$java_image" /opt/java/openjdk "$dir/jdk" && find_java && return 0
    return 1
}

# jars NAME IMAGE PATH: the jars that scripts/NAME/pom.xml names in target/services/NAME/libs, by Maven, else out of the
# folder PATH of a container image, where IMAGE is none of "-". They are complete exactly if their folder carries the
# checksum of the pom.
jars() {
    local name=$1 image=$2 path=$3 pom libs stamp
    pom=$root/scripts/$name/pom.xml
    libs=$dir/$name/libs
    stamp=$(cksum <"$pom")
    [ "$(cat "$libs/.complete" 2>/dev/null)" = "$stamp" ] && return 0
    mkdir -p "$dir/$name"
    jars_by_maven "$name" "$pom" "$libs" || { [ "$image" != - ] && from_image "$image" "$path" "$libs"; } || return 1
    echo "$stamp" >"$libs/.complete"
}

jars_by_maven() {
    have mvn || apt_install maven || return 1
    local name=$1 pom=$2 libs=$3 part
    part=$(mktemp -d "$dir/$name/part.XXXXXX")
    say "copying the jars of $name with Maven"
    if ! JAVA_HOME=${java%/bin/java} mvn -q -B --strict-checksums -f "$pom" dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$part" >"$dir/mvn.log" 2>&1 </dev/null; then
        say "mvn failed: $(grep -m 1 '^\[ERROR\]' "$dir/mvn.log" || tail -n 1 "$dir/mvn.log")"
        rm -rf "$part"
        return 1
    fi
    rm -rf "$libs"
    mv "$part" "$libs"
}

get_opensearch() {
    opensearch_libs=
    if [ -n "$java" ] && jars opensearch - -; then
        opensearch_libs=$dir/opensearch/libs
        return 0
    fi
    skip OpenSearch "Java 17 or newer and Maven for the jars of OpenSearch; get them with: apt-get install openjdk-17-jre-headless maven (or dnf install java-21-openjdk-headless maven, brew install openjdk maven)"
}

find_chromium() {
    local name candidate
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        candidate=$(command -v "$name") || continue
        # What only tells how to install it is none.
        if "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

get_chromium() {
    find_chromium && return 0
    apt_install chromium chromium-browser && find_chromium && return 0
    return 1
}

# The tool alone, taken out of its package: the package itself would bring a server that runs from then on.
find_promtool() {
    local candidate
    for candidate in "$(command -v promtool || true)" "$dir/prometheus/usr/bin/promtool"; do
        if [ -n "$candidate" ] && "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

promtool_of_package() {
    local part
    have apt-get && have dpkg-deb || return 1
    part=$(mktemp -d "$dir/prometheus.XXXXXX")
    say "copying promtool out of the package prometheus"
    # Twice, because the list of packages may be old, which root alone can renew
    (cd "$part" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
        dpkg-deb -x prometheus_*.deb .) >"$dir/apt.log" 2>&1 </dev/null || { rm -rf "$part"; return 1; }
    rm -rf "$dir/prometheus" "$part"/*.deb
    mv "$part" "$dir/prometheus"
}

get_promtool() {
    find_promtool && return 0
    promtool_of_package && find_promtool && return 0
    from_image "$prometheus_image" /bin/promtool "$dir/promtool" || return 1
    mkdir -p "$dir/prometheus/usr/bin"
    mv "$dir/promtool" "$dir/prometheus/usr/bin/promtool"
    find_promtool
}

# The first Python that has the library.
find_webhooks() {
    local candidate
    for candidate in "$dir/webhooks/bin/python" "$(command -v python3 || true)"; do
        if [ -n "$candidate" ] && "$candidate" -c 'import standardwebhooks' >/dev/null 2>&1; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

get_webhooks() {
    find_webhooks && return 0
    have python3 || apt_install python3 || return 1
    say "installing $webhooks_package with pip"
    rm -rf "$dir/webhooks"
    if ! python3 -m venv "$dir/webhooks" >"$dir/pip.log" 2>&1; then
        rm -rf "$dir/webhooks"
        apt_install python3-venv && python3 -m venv "$dir/webhooks" >"$dir/pip.log" 2>&1 || return 1
    fi
    "$dir/webhooks/bin/pip" install -q --disable-pip-version-check "$webhooks_package" >"$dir/pip.log" 2>&1 </dev/null ||
        { say "pip failed: $(tail -n 1 "$dir/pip.log")"; return 1; }
    find_webhooks
}

skipped=
skip() {
    skipped+="${skipped:+ and }$1"
    say "MISSING: $2"
}

redis_server=$(get_redis) || {
    redis_server=
    skip Redis "redis-server; get it with: apt-get install redis-server (or dnf install redis, brew install redis)"
}
kafka_libs=
if ! java=$(get_java); then
    java=
    skip Kafka "Java 17 or newer for Kafka; get it with: apt-get install openjdk-17-jre-headless (or dnf install java-21-openjdk-headless, brew install openjdk)"
elif jars kafka "$kafka_image" /opt/kafka/libs; then
    kafka_libs=$dir/kafka/libs
elif have mvn; then
    skip Kafka "the jars of Kafka, Maven could not fetch them (target/services/mvn.log) and no container engine runs"
else
    skip Kafka "Maven for the jars of Kafka; get it with: apt-get install maven (or dnf install maven, brew install maven)"
fi
get_opensearch
chromium=$(get_chromium) || {
    chromium=
    skip "a browser" "Chromium for the tests of the page; get it with: apt-get install chromium (or dnf install chromium, brew install --cask chromium)"
}
promtool=$(get_promtool) || {
    promtool=
    skip promtool "promtool of Prometheus; get it with: apt-get install prometheus (or dnf install golang-github-prometheus, brew install prometheus)"
}
webhooks=$(get_webhooks) || {
    webhooks=
    skip "the library of Standard Webhooks" "a Python with standardwebhooks; get it with: pip install standardwebhooks"
}

{
    printf 'REDIS_SERVER=%q\n' "$redis_server"
    printf 'JAVA=%q\n' "$java"
    printf 'KAFKA_LIBS=%q\n' "$kafka_libs"
    printf 'OPENSEARCH_LIBS=%q\n' "$opensearch_libs"
    printf 'CHROMIUM=%q\n' "$chromium"
    printf 'PROMTOOL=%q\n' "$promtool"
    printf 'WEBHOOKS=%q\n' "$webhooks"
    printf 'SKIPPED=%q\n' "$skipped"
} >"$dir/found.$$"
mv "$dir/found.$$" "$dir/found"

if [ -n "$skipped" ]; then
    if [ "${CI:-}" = true ]; then
        say "FAILED: CI=true and no $skipped"
        exit 1
    fi
    say "every test that needs $skipped will be SKIPPED"
fi
