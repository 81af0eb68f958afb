"""Reads `.tensors` files with the reference package and prints what it found, as JSON."""

import argparse
import json
from collections.abc import Mapping

import reference

KINDS = ("param", "buffer", "state_dict")


def leaves(tree, prefix=()):
    """The paths and tensors of a deserializer, nested levels included."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def read(tensorizer, path, readers, verify, encryption):
    """Loads the file twice, as users do and entry by entry; both must give the same tensors."""
    options = {"device": "cpu", "num_readers": readers, "verify_hash": verify}
    with tensorizer.TensorDeserializer(path, encryption=encryption, **options) as file:
        loaded = {path: reference.describe(path, tensor) for path, tensor in leaves(file)}
    tensors = []
    lazy = tensorizer.TensorDeserializer(path, encryption=encryption, lazy_load=True, **options)
    with lazy as file:
        for _, kind, name, tensor in file.read_tensors():
            row = reference.describe(name, tensor)
            if loaded.pop(tuple(row["path"])) != row:
                raise ValueError(f"{name}: loaded at once and read alone it differs")
            tensors.append({**row, "kind": KINDS[kind]})
    if loaded:
        raise ValueError(f"only loaded at once: {sorted(loaded)}")
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    reference.add_argument(parser)
    parser.add_argument("--readers", type=int, action="append", help="may be repeated")
    parser.add_argument("--no-verify", action="store_true")
    parser.add_argument("--key-hex", help="the 32-byte key of a test file")
    parser.add_argument("--password", help="the password of a test file")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    tensorizer = reference.use(arguments.reference)

    encryption = None
    if arguments.key_hex:
        encryption = tensorizer.DecryptionParams.from_key(bytes.fromhex(arguments.key_hex))
    elif arguments.password:
        encryption = tensorizer.DecryptionParams.from_string(arguments.password)

    results = []
    for path in arguments.files:
        for readers in arguments.readers or [1]:
            result = {"file": path, "readers": readers, "verified": not arguments.no_verify}
            try:
                result["tensors"] = read(
                    tensorizer, path, readers, not arguments.no_verify, encryption
                )
            except Exception as error:  # whatever the reference raises is its verdict
                result["error"] = f"{type(error).__name__}: {error}"
            results.append(result)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
