# `make help` lists what there is.
.DEFAULT_GOAL := help
.PHONY: help check demo test lint services bench soak fuzz

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile | expand -t 12

check: ## name the tools that a build misses here
	@scripts/check.sh

demo: check ## build, then send 10,000 messages through all stops on the embedded bus
	cargo build --release --locked
	./target/release/metrobus demo

test: check ## run every test beside a real Redis and a real Kafka, started for it
	cargo test --locked --no-run
	scripts/with-services.sh cargo test --locked

lint: ## rustfmt, clippy, rustdoc and the dependencies' licences and sources, warnings are errors
	@scripts/check.sh lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	scripts/dependencies.pl

bench: check ## measure everything that BENCHMARKS.md has, beside other programs for the same work
	scripts/bench/run.sh

soak: check ## the fault tests ten times over, each with another seed
	cargo test --locked --no-run
	for run in 1 2 3 4 5 6 7 8 9 10; do scripts/with-services.sh cargo test --locked --test system -- faults doors || exit 1; done

fuzz: check ## ten minutes of fuzzing for each target in fuzz/
	scripts/fuzz.sh 600

services: ## install what the tests start, where it is missing
	@scripts/services.sh
