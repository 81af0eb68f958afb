"""Writes the models of the encryption checks with the reference package; prints what each file holds, as JSON.

encrypted.py --reference VERSION FOLDER    a plain file to be encrypted by tz-cli, and one per way of encrypting
"""

import argparse
import json
import secrets
from pathlib import Path

import reference
import torch
from reference import random

PASSWORD = "pässwörd 日本 of a test"

# libsodium's presets: passes and bytes of memory of one guess at a password.
PRESETS = {
    "min": (1, 8 << 10),
    "interactive": (2, 64 << 20),
    "moderate": (3, 256 << 20),
    "sensitive": (4, 1 << 30),
}


def model():
    """Lengths around every chunk size that is written, up to more than one chunk of 16 MiB."""
    lengths = (1, 1023, 1024, 1025, 65536, 65537, (2 << 20) + 1, (16 << 20) + 5)
    tensors = {f"bytes.{length}": random("uint8", length) for length in lengths}
    tensors["scalar"] = random("float64")
    tensors["bf16"] = random("bfloat16", 33, 65)
    tensors["tied.a"] = tensors["tied.b"] = random("float16", 40, 40)
    tensors["nested"] = {"list": [random("int64", 7), random("bool", 9)]}
    return tensors


def with_empty(tensors):
    """What the reference's own writer cannot encrypt: empty tensors among the others."""
    meta = torch.empty(5, 7, device="meta")
    return {"empty": random("float32", 0, 3), **tensors, "meta": meta, "end.empty": random("int8", 0)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    reference.add_argument(parser)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    tensorizer = reference.use(arguments.reference)
    torch.manual_seed(7)
    files = []

    def write(name, tree, encryption=None, **secret):
        path = str(arguments.folder / f"{name}.tensors")
        serializer = tensorizer.TensorSerializer(path, encryption=encryption)
        serializer.write_state_dict(tree)
        serializer.close()
        files.append({"file": path, "name": name, "tensors": list(reference.state_dict_rows(tree)), **secret})

    params = tensorizer.EncryptionParams
    tensors = model()
    write("plain", with_empty(tensors))
    fresh = params.random()
    write("random", tensors, fresh, key_hex=fresh.key.hex())
    key = secrets.token_bytes(32)
    write("key", {**tensors, "meta": torch.empty(4, 4, device="meta")}, params(key), key_hex=key.hex())
    for name, (opslimit, memlimit) in PRESETS.items():
        derived = params.from_string(PASSWORD, opslimit=opslimit, memlimit=memlimit)
        write(f"password-{name}", tensors, derived, passphrase=PASSWORD)
    write("password-default", tensors, params.from_string(PASSWORD), passphrase=PASSWORD)
    print(json.dumps(files))


if __name__ == "__main__":
    main()
