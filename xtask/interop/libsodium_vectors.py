"""Writes what libsodium makes of known inputs, as JSON: the oracle of tz-crypto's tests."""

import ctypes
import ctypes.util
import hashlib
import json

# Every length up to two cipher blocks, then the sizes around which vector code changes its stride.
LENGTHS = [*range(130)]
LENGTHS += [size + step for size in (256, 512, 1024, 2048, 4096, 65_536) for step in (-1, 0, 1)]
LENGTHS += [10_000, (1 << 20) - 1, 1 << 20, (2 << 20) + 1]
KEY = bytes(range(32))
FIRST_NONCES = [bytes(24), bytes(range(24)), b"\xff" * 24, b"\xff" * 8 + bytes(16)]
PWHASH = [
    ("correct horse battery staple", 1, 8192),
    ("correct horse battery staple", 4, 8192 + 1023),
    ("pässwörd 日本", 3, 1 << 20),
    ("x" * 1000, 2, 64 << 20),
    ("pässwörd 日本", 3, 256 << 20),
]


def paint(length):
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def main():
    sodium = ctypes.CDLL(ctypes.util.find_library("sodium"))
    sodium.sodium_init()
    sodium.sodium_version_string.restype = ctypes.c_char_p
    size = ctypes.c_ulonglong

    def secretbox(length, nonce):
        sealed, tag = ctypes.create_string_buffer(length), ctypes.create_string_buffer(16)
        message = paint(length)
        if sodium.crypto_secretbox_detached(sealed, tag, message, size(length), nonce, KEY):
            raise RuntimeError("crypto_secretbox_detached")
        return {
            "length": length,
            "nonce": nonce.hex(),
            "tag": tag.raw.hex(),
            "sealed_sha256": hashlib.sha256(sealed.raw[:length]).hexdigest(),
        }

    def increment(nonce):
        buffer = ctypes.create_string_buffer(nonce, 24)
        values = []
        for _ in range(4):
            values.append(buffer.raw.hex())
            sodium.sodium_increment(buffer, ctypes.c_size_t(24))
        return values

    def pwhash(passphrase, passes, memory):
        key, salt, data = ctypes.create_string_buffer(32), bytes(range(16)), passphrase.encode()
        cost = size(passes), ctypes.c_size_t(memory), ctypes.c_int(2)
        if sodium.crypto_pwhash(key, size(32), data, size(len(data)), salt, *cost):
            raise RuntimeError("crypto_pwhash")
        return {
            "passphrase": passphrase,
            "passes": passes,
            "memory": memory,
            "salt": salt.hex(),
            "key": key.raw.hex(),
        }

    vectors = {
        "made_by": f"libsodium {sodium.sodium_version_string().decode()}",
        "key": KEY.hex(),
        "secretbox": [
            secretbox(length, FIRST_NONCES[i % len(FIRST_NONCES)])
            for i, length in enumerate(LENGTHS)
        ],
        "increment": [increment(nonce) for nonce in FIRST_NONCES],
        "pwhash": [pwhash(*row) for row in PWHASH],
    }
    print(json.dumps(vectors, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
