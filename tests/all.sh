#!/usr/bin/env bash
# Runs all tests, after installing the packages that they need. A fresh Debian or Ubuntu with cargo needs no other
# preparation.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

source tests/packages.sh
command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }

# The same selection everywhere: another one would select other features of dependencies, and rebuild them.
all=(--workspace --features tower-respond-async/full,transcode/s3)

# One more than the cores, since most tests wait part of the time.
threads=$(($(nproc) + 1))
export NEXTEST_TEST_THREADS=${NEXTEST_TEST_THREADS:-$threads} RUST_TEST_THREADS=${RUST_TEST_THREADS:-$threads}

say "unit and integration tests, all features"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run "${all[@]}" --no-fail-fast
else
    cargo build "${all[@]}" --examples # some tests start them
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
