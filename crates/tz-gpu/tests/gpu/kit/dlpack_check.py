"""Takes every tensor of a .tensors file through DLPack into PyTorch and compares it with the same tensor from
safetensors, bit for bit.

    dlpack_check.py LIBRARY FILE.tensors SAFETENSORS DEVICE

LIBRARY is the C interface of tz-gpu, SAFETENSORS a file or a folder with the same tensors, DEVICE cpu or cuda:N.
"""

import ctypes
import gc
import pathlib
import sys

import torch
from safetensors import safe_open

ERROR_LEN = 1000
# Tensors are freed when the allocation is; other users of the device blur the figure by less than this.
SLACK = 64 << 20


def bind(path):
    library = ctypes.CDLL(path)
    pointer, text, index = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    for name, result, arguments in [
        ("tz_gpu_load", pointer, [text, text, text, index]),
        ("tz_gpu_count", index, [pointer]),
        ("tz_gpu_name", text, [pointer, index]),
        ("tz_gpu_dtype", text, [pointer, index]),
        ("tz_gpu_dlpack", pointer, [pointer, index]),
        ("tz_gpu_dlpack_versioned", pointer, [pointer, index]),
        ("tz_gpu_free", None, [pointer]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def capsule(address, name):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(address, name, None)


def load(library, path, device):
    error = ctypes.create_string_buffer(ERROR_LEN)
    tensors = library.tz_gpu_load(path.encode(), device.encode(), error, ERROR_LEN)
    if not tensors:
        sys.exit(f"tz_gpu_load: {error.value.decode()}")
    return tensors


def take(library, handle, versioned):
    """Every tensor that DLPack and this PyTorch have a type for, by name; and the names of the others."""
    taken, refused = {}, []
    for index in range(library.tz_gpu_count(handle)):
        name = library.tz_gpu_name(handle, index).decode()
        export = library.tz_gpu_dlpack_versioned if versioned else library.tz_gpu_dlpack
        address = export(handle, index)
        if not address:
            refused.append((name, library.tz_gpu_dtype(handle, index).decode()))
            continue
        label = b"dltensor_versioned" if versioned else b"dltensor"
        taken[name] = torch.utils.dlpack.from_dlpack(capsule(address, label))
    return taken, refused


def references(path):
    path = pathlib.Path(path)
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                yield name, tensors.get_tensor(name)


def as_bytes(tensor):
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def check(library, path, reference, device, versioned):
    handle = load(library, path, device)
    taken, refused = take(library, handle, versioned)
    # Exports keep the memory: the list may go first.
    library.tz_gpu_free(handle)
    compared = 0
    for name, expect in references(reference):
        if name not in taken:
            continue
        tensor = taken[name]
        assert str(tensor.device) == device, (name, tensor.device)
        assert tensor.dtype == expect.dtype and tensor.shape == expect.shape, name
        assert tensor.is_contiguous(), name
        assert torch.equal(as_bytes(tensor), as_bytes(expect)), name
        compared += 1
    assert compared > 0 and compared + len(refused) >= len(taken), (compared, len(taken))
    if taken and device != "cpu":
        largest = max(taken.values(), key=torch.Tensor.numel)
        if largest.is_floating_point():
            largest.mul_(2)  # the memory is PyTorch's to write
            torch.cuda.synchronize(device)
    return compared, refused


def main(library, path, reference, device):
    library = bind(library)
    on_gpu = device != "cpu"
    if on_gpu:
        torch.zeros(1, device=device)
        before = torch.cuda.mem_get_info(device)[0]
    for versioned in [False, True]:
        label = "DLPack 1" if versioned else "DLPack 0"
        try:
            compared, refused = check(library, path, reference, device, versioned)
        except (RuntimeError, ValueError, TypeError) as error:
            if not versioned:
                raise
            print(f"{label}: this PyTorch does not take it ({error})")
            continue
        print(f"{label}: {compared} tensors equal, no type for {refused}")
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
            after = torch.cuda.mem_get_info(device)[0]
            assert after + SLACK >= before, f"{before - after} bytes were not freed"
    print("dlpack_check: passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
