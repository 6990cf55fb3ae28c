#!/usr/bin/env bash
# Runs every test there is, after installing what they need: on a fresh Debian or Ubuntu with cargo, nothing else is to
# be done before.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

source tests/packages.sh
command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }

# One selection for all: with another one, the features of what it depends on are others, and it is built anew.
all=(--workspace --features tower-respond-async/full,transcode/s3)

# Most tests wait for something part of their time.
threads=$(($(nproc) + 1))
export NEXTEST_TEST_THREADS=${NEXTEST_TEST_THREADS:-$threads} RUST_TEST_THREADS=${RUST_TEST_THREADS:-$threads}

say "unit and integration tests, all features"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run "${all[@]}" --no-fail-fast
else
    cargo build "${all[@]}" --examples # tests start them
    cargo test "${all[@]}" --lib --bins --tests
fi

say "examples in the documentation"
cargo test "${all[@]}" --doc

say "the benches run, a moment each"
cargo test "${all[@]}" --benches

say "a process is killed under load, a moment"
cargo build "${all[@]}" --example crash_loop
"${CARGO_TARGET_DIR:-target}/debug/examples/crash_loop" --cycles 20

say "processes, their server and what is between them fail under load, a moment"
"${CARGO_TARGET_DIR:-target}/debug/examples/crash_loop" --store postgres --cycles 60

say "the transcoder, as somebody new would try it"
examples/transcode/demo.sh

say "all tests passed"
