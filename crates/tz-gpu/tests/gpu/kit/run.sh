#!/usr/bin/env bash
# Everything that a GPU machine is asked, in stages. Needs no Rust: this folder holds what it runs.
#
#   run.sh OUT [STAGE...]        stages: facts suite dlpack sanitizer cli bus model warm disk     (default: all)
#
# Each stage writes its log to OUT; the last lines say which failed. Environment:
#   DEVICE=0               ordinal of the device
#   PRESET=llama-8b        preset of the model for `warm` and `disk`
#   MODEL=/dev/shm/tz-gpu  where the model is made and kept: memory, so that the bus is what is measured
#   DISK=$PWD/tz-gpu-disk  where `disk` puts a copy of it
#   REPEATS=5              loads of each kind, five at least
set -uo pipefail
kit=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: run.sh OUT [STAGE...]}
shift
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(facts suite dlpack sanitizer cli bus model warm disk)
device=${DEVICE:-0}
model=${MODEL:-/dev/shm/tz-gpu}
disk=${DISK:-$PWD/tz-gpu-disk}
repeats=${REPEATS:-5}
mkdir -p "$out" "$model"
python=$(command -v python3)
# Wheels are unpacked beside what the machine has, which comes first.
if compgen -G "$kit/wheels/*.whl" >/dev/null && [ ! -d "$model/wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --target "$model/wheels" "$kit"/wheels/*.whl
fi
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$model/wheels"

facts() {
    date -u
    nvidia-smi
    nvidia-smi --query-gpu=name,driver_version,pcie.link.gen.current,pcie.link.width.current --format=csv
    lscpu | grep -E 'Model name|^CPU\(s\)|NUMA'
    free -g
    df -h /dev/shm .
    "$python" -c 'import torch, safetensors; print("torch", torch.__version__, "safetensors", safetensors.__version__)'
}

suite() {
    "$kit/gpu" --device "$device" --fixtures "$kit/fixtures"
}

# A checkpoint of every shape of name and a matching file, small enough to compare bit for bit.
small() {
    [ -d "$model/small" ] || "$kit/tz-cli" synth "$model/small" --preset llama-tiny &&
        { [ -e "$model/small.tensors" ] || "$kit/tz-cli" serialize "$model/small" "$model/small.tensors"; }
}

dlpack() {
    small && "$python" "$kit/dlpack_check.py" "$kit/libdlpack.so" "$model/small.tensors" "$model/small" "cuda:$device"
}

sanitizer() {
    local tool
    tool=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -1)
    if [ -z "$tool" ]; then
        echo "compute-sanitizer is not installed here"
        return 1
    fi
    "$tool" --tool memcheck --leak-check full --error-exitcode 9 "$kit/gpu" --device "$device"
}

# The command line there and back: digests of what came back from the device, plain, encrypted, sealed and cast.
cli() {
    small || return
    local tz="$kit/tz-cli" status=0 file
    [ -e "$model/key" ] || "$tz" keygen "$model/key" || return
    "$tz" encrypt "$model/small.tensors" "$model/small-compat.tensors" --keyfile "$model/key" || return
    "$tz" encrypt "$model/small.tensors" "$model/small-sealed.tensors" --profile sealed --keyfile "$model/key" || return
    for file in small small-compat small-sealed; do
        local key=()
        [ "$file" = small ] || key=(--keyfile "$model/key")
        there_and_back "$file" "${key[@]}" || status=1
        there_and_back "$file" "${key[@]}" --dtype float32 || status=1
    done
    "$tz" deserialize "$model/small.tensors" --device "cuda:$device" --json || status=1
    "$tz" bench "$model/small.tensors" --device "cuda:$device" --rounds 3 || status=1
    # No such device: exit 3, and a word on what to do.
    "$tz" deserialize "$model/small.tensors" --device cuda:99
    [ $? -eq 3 ] || { echo "cuda:99 did not end with exit code 3"; status=1; }
    return $status
}

there_and_back() { # there_and_back FILE OPTION...
    local tz="$kit/tz-cli" file=$1
    shift
    "$tz" deserialize "$model/$file.tensors" "$@" --to "$model/gpu.safetensors" --device "cuda:$device" &&
        "$tz" deserialize "$model/$file.tensors" "$@" --to "$model/cpu.safetensors" -q >/dev/null &&
        "$tz" diff "$model/gpu.safetensors" "$model/cpu.safetensors"
}

bus() {
    "$kit/copy" --device "$device" && "$python" "$kit/compare.py" pinned "cuda:$device"
}

model() {
    [ -d "$model/checkpoint" ] || "$kit/tz-cli" synth "$model/checkpoint" --preset "${PRESET:-llama-8b}" || return
    [ -e "$model/model.tensors" ] || "$kit/tz-cli" serialize "$model/checkpoint" "$model/model.tensors" || return
    ls -l "$model/model.tensors" "$model/checkpoint"
}

# Ours and the others' alternate, so that a slow minute of the machine meets all of them: `cargo xtask bench gpu`, with
# the figures once more as JSON and as a picture.
contest() { # contest NAME TENSORS CHECKPOINT OPTION...
    local name=$1 tensors=$2 checkpoint=$3
    shift 3
    TZ_CLI="$kit/tz-cli" "$kit/xtask" bench gpu --device "$device" --dir "$model" --model "$tensors" \
        --checkpoint "$checkpoint" --python "$python" --rounds "$repeats" \
        --json "$out/$name.json" --chart "$out/$name.svg" "$@"
}

warm() {
    model >/dev/null || return
    contest warm "$model/model.tensors" "$model/checkpoint"
    local status=$?
    "$kit/tz-cli" deserialize "$model/model.tensors" --device "cuda:$device" --json || status=1
    "$kit/tz-cli" bench "$model/model.tensors" --device "cuda:$device" --rounds "$repeats" --json || status=1
    "$kit/tz-cli" bench "$model/model.tensors" --device "cuda:$device" --rounds "$repeats" --no-verify --json || status=1
    "$kit/copy" --device "$device" --repeats "$repeats" "$model/model.tensors" || status=1
    return $status
}

disk() {
    model >/dev/null || return
    mkdir -p "$disk" && cp -rn "$model/model.tensors" "$model/checkpoint" "$disk" || return
    contest disk "$disk/model.tensors" "$disk/checkpoint" --cold
}

failed=()
for stage in "${stages[@]}"; do
    echo "== $stage"
    if "$stage" >"$out/$stage.log" 2>&1; then
        tail -3 "$out/$stage.log"
    else
        failed+=("$stage")
        tail -15 "$out/$stage.log"
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}; logs are in $out"
    exit 1
fi
echo "all passed; logs are in $out"
