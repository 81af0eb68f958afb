"""Writes files of many kinds with the reference package and prints what each holds, as JSON."""

import argparse
import json
import warnings
from pathlib import Path

import reference
import torch
from reference import random

# Every dtype that the reference stores.
DTYPES = (
    "uint8 int8 int16 int32 int64 uint16 uint32 uint64 float16 bfloat16 float32 float64 "
    "complex32 complex64 complex128 bool float8_e4m3fn float8_e5m2 float8_e4m3fnuz "
    "float8_e5m2fnuz float8_e8m0fnu bits8 bits16 bits1x8 bits2x4 bits4x2 "
    "uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 int7"
).split()


def state_dict_dtypes():
    return {name: random(name, 3, 5) for name in DTYPES} | {
        f"{name}.scalar": random(name) for name in DTYPES
    }


def state_dict_shapes():
    shapes = [(), (0,), (1,), (7, 0, 3), (1, 1, 1, 1, 1, 1, 1, 1), (2, 3, 5, 7), (1 << 18, 3)]
    tensors = {f"f32.{i}": random("float32", *shape) for i, shape in enumerate(shapes)}
    tensors["bf16.empty"] = random("bfloat16", 0, 4)
    tensors["transposed"] = random("float16", 6, 4).T
    tensors["every.other"] = random("int64", 10)[::2]
    tensors["tied.a"] = tensors["tied.b"] = random("bfloat16", 8, 8)
    tensors["näme ünïcode 日本"] = random("uint8", 5)
    tensors["n" * 40_000] = random("uint8", 3)
    return tensors


def nested():
    return {
        "model": {
            "layers": [{"weight": random("bfloat16", 4, 4), "bias": random("float32", 4)}] * 3,
            "with/slash": {"with.dot": random("int8", 9), 'with "quote"': random("int8", 9)},
        },
        "plain.name": random("float64", 2, 2),
    }


def sequence():
    return [random("float32", 2), (random("bool", 5), {"a": random("float32")})]


def meta():
    return {
        "real": random("float32", 5),
        "meta.f32": torch.empty(5, 7, device="meta"),
        "meta.bf16": torch.empty(64, 64, dtype=torch.bfloat16, device="meta"),
        "after": random("bfloat16", 3),
    }


def long_dimension():
    return {"long": torch.empty((1 << 32) + 5, 0), "short": random("float32", 6)}


class Module(torch.nn.Module):
    """Parameters and buffers at the root and below it, persistent and not, tied and frozen."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(random("float32", 2))
        self.register_buffer("steps", random("int64"))
        self.register_buffer("mask", random("bool", 4, 4), persistent=False)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Linear(3, 5, dtype=torch.bfloat16) for _ in range(2)
        )
        self.norm = torch.nn.BatchNorm1d(5)
        self.frozen = torch.nn.Parameter(random("uint8", 16), requires_grad=False)


def module_rows(module):
    """What `write_module` stores: `<module path>.<attribute>`, a leading dot at the root."""
    for prefix, part in module.named_modules():
        for name, tensor in part.named_parameters(recurse=False):
            yield reference.describe(f"{prefix}.{name}", tensor, "param")
        for name, tensor in part.named_buffers(recurse=False):
            yield reference.describe(f"{prefix}.{name}", tensor, "buffer")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    reference.add_argument(parser)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    tensorizer = reference.use(arguments.reference)
    torch.manual_seed(20)
    warnings.filterwarnings("ignore", message=".*support is experimental.*")

    trees = [state_dict_dtypes, state_dict_shapes, nested, sequence, meta]
    if arguments.reference != "2.10.1":  # which knows no version 5
        trees.append(long_dimension)
    files = {}
    for make in trees:
        path = str(arguments.folder / f"{make.__name__}.tensors")
        tree = make()
        serializer = tensorizer.TensorSerializer(path)
        serializer.write_state_dict(tree)
        serializer.close()
        files[path] = list(reference.state_dict_rows(tree))

    path = str(arguments.folder / "module.tensors")
    module = Module()
    serializer = tensorizer.TensorSerializer(path)
    serializer.write_module(module)
    serializer.close()
    files[path] = list(module_rows(module))
    print(json.dumps([{"file": path, "tensors": rows} for path, rows in files.items()]))


if __name__ == "__main__":
    main()
