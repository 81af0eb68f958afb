#!/bin/sh
# Writes the seeds of every target into the folder given, a folder a target.
#   fuzz/seed.sh FOLDER
set -eu
cd "$(dirname "$0")"
exec cargo run --quiet -p fuzz-harness --manifest-path ../Cargo.toml --example seed -- "$1"
