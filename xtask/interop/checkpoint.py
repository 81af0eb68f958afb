"""Safetensors checkpoints for interop: writes one of 6,000 tensors, digests any, tries the reference."""

import argparse
import json
from pathlib import Path

import reference
import safetensors.torch
import torch

# Every dtype that safetensors writes from torch; the reference reads them all.
DTYPES = (
    "bool uint8 int8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 "
    "complex64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2"
).split()

# The reference reader cannot size an empty tensor of a dtype that numpy lacks.
NUMPY_LACKS = ("bfloat16", "float8", "float4")

SHAPES = ((), (1,), (5,), (0,), (3, 7), (4, 0, 2), (2, 3, 4, 5), (1025,))


def many(count):
    """`count` tensors over every dtype and shape, with names as long as those of large models."""
    torch.manual_seed(6000)
    cases = [
        (dtype, *shape)
        for shape in SHAPES
        for dtype in DTYPES
        if 0 not in shape or not dtype.startswith(NUMPY_LACKS)
        if shape or not dtype.startswith("float4")  # packed in pairs, so never a scalar
    ]
    names = (f"model.layers.{i // 100}.mlp.experts.{i % 100}.down_proj.weight" for i in range(count))
    return {name: reference.random(*cases[i % len(cases)]) for i, name in enumerate(names)}


def digests(source):
    """Every tensor of a file or of all shards in a folder, read with the safetensors package."""
    paths = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
    for path in paths:
        with safetensors.safe_open(path, framework="pt") as file:
            for name in file.keys():
                yield reference.describe(name, file.get_tensor(name), "state_dict")


def overflow(version, source, destination):
    """What the reference says when it is asked to serialize this checkpoint."""
    tensorizer = reference.use(version)
    try:
        serializer = tensorizer.TensorSerializer(str(destination))
        serializer.write_state_dict(safetensors.torch.load_file(source))
        serializer.close()
    except Exception as error:  # the failure is the result
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": None}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    write = jobs.add_parser("write")
    write.add_argument("--count", type=int, default=6000)
    write.add_argument("destination", type=Path)
    digest = jobs.add_parser("digests")
    digest.add_argument("source", type=Path)
    fail = jobs.add_parser("overflow")
    reference.add_argument(fail)
    fail.add_argument("source", type=Path)
    fail.add_argument("destination", type=Path)
    arguments = parser.parse_args()

    if arguments.job == "write":
        safetensors.torch.save_file(many(arguments.count), arguments.destination)
    elif arguments.job == "digests":
        print(json.dumps(list(digests(arguments.source))))
    else:
        result = overflow(arguments.reference, arguments.source, arguments.destination)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
