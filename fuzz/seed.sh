#!/bin/sh
# Fills fuzz/corpus from fixtures/foreign. Then, for example:
#   RUSTC_BOOTSTRAP=1 cargo fuzz run front -- -max_total_time=60
set -eu
cd "$(dirname "$0")"
exec cargo run --quiet --example seed
