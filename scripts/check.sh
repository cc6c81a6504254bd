#!/usr/bin/env bash
# Names, in one line, every tool that is missing for a build (default) or also for the lints (`lint`).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

missing=()
need() { missing+=("$1 ($2)"); }
have() { command -v "$1" >/dev/null 2>&1; }

wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
if ! have cargo || ! have rustc; then
    need "a Rust toolchain $wanted or newer" "https://rustup.rs"
else
    found=$(rustc --version | sed 's/^rustc \([0-9.]*\).*/\1/')
    oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)
    [ "$oldest" = "$wanted" ] || need "Rust $wanted or newer, this is $found" "rustup update stable"
fi

have cc || have "${CC:-}" || need "a C compiler" "apt-get install build-essential, or xcode-select --install"
have make || need "make" "apt-get install make"
# OpenSSL's build and scripts/dependencies.pl use these modules; a bare perl-base lacks them.
if ! perl -MIPC::Cmd -MFindBin -MFile::Copy -MJSON::PP -e 1 >/dev/null 2>&1; then
    need "perl with its standard modules" "apt-get install perl, or dnf install perl"
fi

if [ "${1:-build}" = lint ] && have cargo; then
    cargo fmt --version >/dev/null 2>&1 || need "rustfmt" "rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 || need "clippy" "rustup component add clippy"
fi

if [ "${#missing[@]}" -gt 0 ]; then
    printf -v list '%s; ' "${missing[@]}"
    echo "metrobus cannot be built here, missing: ${list%; }" >&2
    exit 1
fi
