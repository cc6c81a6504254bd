#!/usr/bin/env bash
# fuzz.sh [SECONDS [TARGET...]]: runs the fuzz targets of fuzz/, one after another, each for SECONDS (600 unless given).
# Needs a stable Rust toolchain and a C++ compiler for libFuzzer, and no cargo-fuzz: what that one sets is set here, but for the
# sanitizers, which only a nightly compiler has. Ends with 1 where a target fails; what made it fail is kept in target/fuzz.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
seconds=${1:-600}
shift || true
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || targets=(slip filter_python filter_cel template)
out=$root/target/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
say() { echo "fuzz: $*" >&2; }

command -v c++ >/dev/null 2>&1 || { say "a C++ compiler is missing; get it with: apt-get install g++"; exit 1; }

# The coverage that libFuzzer steers by. With --target these flags are for the targets alone, not for build scripts.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
CXX=c++ RUSTFLAGS="$flags" CARGO_TARGET_DIR="$out/build" \
    cargo build --release --locked --manifest-path "$root/fuzz/Cargo.toml" --target "$host" --bins
[ "$seconds" -gt 0 ] || exit 0

"$root/scripts/fuzz/seeds.pl" "$out/seeds"
failed=0
for target in "${targets[@]}"; do
    mkdir -p "$out/corpus/$target" "$out/failures/$target"
    say "$target for $seconds s"
    # -timeout: no input of this size may take seconds. Memory that grows without bounds is a failure as well.
    nice -n 10 "$out/build/$host/release/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 -max_len=6000 \
        -print_final_stats=1 -verbosity=1 -use_value_profile=1 -dict="$root/fuzz/$target.dict" -artifact_prefix="$out/failures/$target/" \
        "$out/corpus/$target" "$out/seeds/$target" 2>"$out/$target.log" || failed=1
    grep -E '^stat::(number_of_executed_units|average_exec_per_sec|new_units_added|peak_rss_mb)|panicked|ERROR|Test unit' "$out/$target.log" >&2 || true
    grep -E 'cov: ' "$out/$target.log" | tail -n 1 >&2
done
[ "$failed" = 0 ] || { say "FAILED: inputs are in target/fuzz/failures, logs in target/fuzz"; exit 1; }
say "clean"
