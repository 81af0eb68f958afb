"""One timed load by another loader, in this process alone; prints one JSON object.

    compare.py safetensors FOLDER DEVICE
    compare.py tensorizer FILE.tensors DEVICE [READERS]
    compare.py pinned DEVICE

Starting Python, importing and starting CUDA are not counted.
"""

import json
import pathlib
import sys
import time

import torch


def report(what, count, seconds, **facts):
    print(json.dumps({"what": what, "bytes": count, "seconds": seconds, "gb_s": count / 1e9 / seconds, **facts}))


def size(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def safetensors(folder, device):
    from safetensors.torch import load_file

    files = sorted(pathlib.Path(folder).glob("*.safetensors"))
    start, tensors = time.perf_counter(), {}
    for file in files:
        tensors.update(load_file(file, device=device))
    torch.cuda.synchronize(device)
    report("safetensors load_file", size(tensors.values()), time.perf_counter() - start)


def tensorizer(path, device, readers=None):
    from tensorizer import TensorDeserializer

    options = {"num_readers": int(readers)} if readers else {}
    start = time.perf_counter()
    tensors = TensorDeserializer(path, device=device, lazy_load=False, **options)
    count = size(tensors.values())
    torch.cuda.synchronize(device)
    report("tensorizer", count, time.perf_counter() - start, readers=readers)


def pinned(device):
    """PyTorch's own view of the bus: copies of 256 MiB from pinned memory."""
    source = torch.empty(256 << 20, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device=device)
    target.copy_(source, non_blocking=True)
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(32):
        target.copy_(source, non_blocking=True)
    torch.cuda.synchronize(device)
    report("pinned copy by PyTorch", 32 * (256 << 20), time.perf_counter() - start)


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    torch.zeros(1, device=rest[-1] if kind != "tensorizer" else rest[1])
    {"safetensors": safetensors, "tensorizer": tensorizer, "pinned": pinned}[kind](*rest)
