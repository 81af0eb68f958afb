#!/bin/sh
# Packs a folder of inputs as the kept corpus of TARGET: `corpus/TARGET.tar.gz`, the same bytes for the same inputs.
# Inputs with names of their own, such as findings, are kept as files in `corpus/TARGET`.
#   fuzz/pack.sh TARGET FOLDER
set -eu
target=$1
folder=$(cd "$2" && pwd)
cd "$(dirname "$0")/corpus"
# Names as libFuzzer gives them: the SHA-1 of the input.
(cd "$folder" && find . -maxdepth 1 -type f -printf '%f\n' | grep -E '^[0-9a-f]{40}$' | LC_ALL=C sort) |
    tar --create --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 \
        --directory="$folder" --files-from=- | gzip --no-name --best >"$target.tar.gz"
