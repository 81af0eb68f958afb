#!/bin/sh
# Makes a directory that vLLM serves from a checkpoint, then checks what stands at the destination.
# Exits as tz-cli does: 0 only where everything is published and verified.
#
#   publish.sh MODEL NAME DIRECTORY SUFFIX
#   publish.sh facebook/opt-125m facebook/opt-125m s3://models v1
#
# With TZ_KEYFILE in the environment, tensors are encrypted with the key in that file.
set -eu
model=$1 name=$2 directory=$3 suffix=$4

# The first process of a container passes no signal on by itself: tell tz-cli, and wait until it has cleaned up.
work=
trap '[ -z "$work" ] || kill -TERM "$work" || :; wait; exit 143' TERM INT
tz() {
    tz-cli "$@" &
    work=$!
    wait "$work"
}

tz vllm serialize --model "$model" --served-model-name "$name" \
    --serialized-directory "$directory" --suffix "$suffix" ${TZ_KEYFILE:+--reuse-key}
tz verify "$directory/vllm/$name/$suffix/"
