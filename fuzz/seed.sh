#!/bin/sh
# Writes the seeds of every target into fuzz/corpus, or the folder given. Then, for example:
#   RUSTC_BOOTSTRAP=1 cargo fuzz run front -- -max_total_time=60
set -eu
cd "$(dirname "$0")"
exec cargo run --quiet -p fuzz-harness --manifest-path ../Cargo.toml --example seed -- "${1:-corpus}"
