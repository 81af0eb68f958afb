"""Picks the version of the reference package and describes tensors as `tz-cli checksum` does."""

import ctypes
import hashlib
import sys
from pathlib import Path

import torch

VERSIONS = ("2.10.1", "2.12.1")


def use(version):
    """Imports tensorizer in exactly this version; the older one lives in a folder of its own."""
    if version == "2.10.1":
        sys.path.insert(0, str(Path(sys.prefix) / "tensorizer-2.10.1"))
    import tensorizer

    found = sys.modules["tensorizer._version"].__version__
    if found != version:
        raise SystemExit(f"wanted tensorizer {version}, found {found} in {tensorizer.__file__}")
    return tensorizer


def add_argument(parser):
    """Adds the option that every script with a choice of reference takes."""
    parser.add_argument("--reference", choices=VERSIONS, required=True)


def raw_bytes(tensor):
    """The tensor's elements in row-major order, for every dtype: torch cannot view all of them."""
    tensor = tensor.detach().contiguous()
    length = tensor.numel() * tensor.element_size()
    return ctypes.string_at(tensor.data_ptr(), length) if length else b""


def describe(path, tensor, kind=None):
    """One tensor as JSON: path, dtype, shape, SHA-256 of its bytes, kind where it is known."""
    row = {
        "path": [path] if isinstance(path, (str, int)) else list(path),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "sha256": hashlib.sha256(raw_bytes(tensor)).hexdigest(),
    }
    if kind is not None:
        row["kind"] = kind
    return row


def state_dict_rows(tree, prefix=()):
    """Meta tensors load as zeros, so that is what is expected of them."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        path = (*prefix, key)
        if isinstance(value, torch.Tensor):
            value = torch.zeros_like(value, device="cpu") if value.is_meta else value
            yield describe(path, value, "state_dict")
        else:
            yield from state_dict_rows(value, path)


def random(dtype, *shape):
    """A tensor of random bytes, so that NaN payloads and subnormals travel too."""
    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    size = tensor.numel() * tensor.element_size()
    noise = torch.randint(0, 2 if dtype == "bool" else 256, (size,), dtype=torch.uint8)
    if size:
        tensor.untyped_storage().copy_(noise.untyped_storage())
    return tensor
