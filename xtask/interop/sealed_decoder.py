"""Opens sealed `.tensors` files as docs/ENCRYPTION.md describes them; shares no code with `tz`.

sealed_decoder.py FILE --key-hex HEX | --passphrase TEXT    prints each tensor's SHA-256 and name
sealed_decoder.py --vectors FOLDER                          checks every published vector
"""

import hashlib
import json
import struct
import sys
from os.path import commonprefix
from pathlib import Path

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id


class Refused(Exception):
    """The file does not open; the word is what the vectors' manifest expects."""


def check(condition, why):
    if not condition:
        raise Refused(why)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(len(self.data) - self.at >= count, "malformed: cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def int(self, size):
        return int.from_bytes(self.take(size), "little")


def read_entry(r, versioned):
    wide = 8 if versioned and r.int(4) == 5 else 4
    name, kind, dtype = r.take(r.int(2)), r.int(1), r.take(r.int(1))
    shape = [r.int(wide) for _ in range(r.int(1))]
    return [kind, name, dtype, shape], wide, r.int(8), r.int(8), r.int(8)


def read_front(data):
    """Index entries, key slots, position of the metadata MAC, length of the header, bytes that a rewrap changes."""
    r = Reader(data)
    check(r.take(5) == b"|TZR|" and r.int(4) in (4, 5), "malformed: magic or version")
    flags, _ = r.int(32), r.take(16)
    check(flags & ~2 == 1 << 128 | 1, "malformed: not a sealed file")
    count, index_len = r.int(8), r.int(8)
    front_len = r.at + index_len
    entries = [read_entry(r, flags & 2) for _ in range(count)]
    check(r.take(8) == b"tz-ext\0\1", "malformed: no extension block")
    end = r.int(4) + r.at
    places, records = {}, {}
    while r.at < end:
        kind, length = r.int(2), r.int(4)
        places[kind], records[kind] = r.at, r.take(length)
    check(records.keys() >= {4, 5}, "malformed: no key slots or metadata MAC")
    slots_at, mac_at = places[4], places[5]
    changed = max(slots_at + len(records[4]), mac_at + 32) - min(slots_at + 32, mac_at)
    return entries, records[4], mac_at, front_len, changed


def check_end(data, length, changed):
    """Nothing follows the terminator but the journal of a rewrap, whole or cut short."""
    tail, magic = data[length:], b"tz-jnl\0\1"
    part = len(commonprefix([tail, magic]))
    is_journal = part == len(magic) or not any(tail[part:])
    fits = len(data) >= length and len(tail) <= 64 + 2 * changed
    check(fits and is_journal, "wrong file length")


def find_file_key(record, key, passphrase):
    r = Reader(record)
    salt = r.take(32)
    for _ in range(r.int(2)):
        start, kind, length = r.at, r.int(2), r.int(2)
        slot, kek = Reader(r.take(length)), key if kind == 1 else None
        if kind == 2:
            passes, memory, pw_salt = slot.int(8), slot.int(8), slot.take(16)
            if passphrase is not None:
                cost = {"iterations": passes, "memory_cost": memory // 1024, "lanes": 1}
                kek = Argon2id(salt=pw_salt, length=32, **cost).derive(passphrase.encode())
        if kek and slot.take(8) == blake3(b"tz 2026-11 key id v1", key=kek).digest(8):
            aad = b"tz 2026-11 key slot v1" + salt + record[start : start + 4 + slot.at]
            return AESGCM(kek).decrypt(slot.take(12), slot.take(48), aad), salt
    raise Refused("wrong key")


def derive(context, *parts):
    return blake3(b"".join(parts), derive_key_context=context).digest()


def open_tensor(data, key, description, wide, header_at, data_at, data_len):
    header = data[header_at:data_at]
    r, aad = Reader(header), bytearray(header)
    check(r.int(8) == len(header), "malformed: header length")
    r.int(2)
    found = [r.int(1), r.take(r.int(2)), r.take(r.int(1)), [r.int(wide) for _ in range(r.int(1))]]
    check(found == description, "malformed: the header differs from the index")
    r.int(2)
    for _ in range(r.int(1)):  # hash values count as zeros
        _, size = r.int(1), r.int(1)
        aad[r.at : r.at + size] = bytes(size)
        r.take(size)
    block = r.int(8), r.int(2), r.int(8), r.int(2)  # length, one chunk, its length, its type
    check((block[1], block[3]) == (1, 0x5A01), "malformed: crypt block")
    chunk_size, count = r.int(8), r.int(8)
    check(count == -(-data_len // chunk_size), "malformed: tag count")
    tags = r.take(16 * count)
    del aad[r.at - len(tags) : r.at]
    aes, plain = AESGCM(key), b""
    for i in range(count):
        start, end = i * chunk_size, min((i + 1) * chunk_size, data_len)
        sealed = data[data_at + start : data_at + end] + tags[16 * i : 16 * i + 16]
        plain += aes.decrypt(struct.pack("<QI", i, i + 1 == count), sealed, bytes(aad))
    return plain


def open_file(data, key, passphrase):
    entries, record, mac_at, front_len, changed = read_front(data)
    key, salt = find_file_key(record, key, passphrase)
    front = data[:mac_at] + bytes(32) + data[mac_at + 32 : front_len]
    mac = blake3(front, key=derive("tz 2026-11 metadata key v1", key, salt)).digest()
    check(mac == data[mac_at : mac_at + 32], "front altered")
    check_end(data, entries[-1][3] + entries[-1][4] + 8, changed)
    for index, (description, *places) in enumerate(entries):
        tensor = derive("tz 2026-11 tensor key v1", key, salt, struct.pack("<Q", index))
        plain = open_tensor(data, tensor, description, *places)
        yield hashlib.sha256(plain).hexdigest(), description[1].decode()


def check_vectors(folder):
    for name, vector in json.loads((folder / "manifest.json").read_text()).items():
        for secret in vector["secrets"]:
            key, passphrase = secret.get("key_hex"), secret.get("passphrase")
            opened = open_file((folder / name).read_bytes(), key and bytes.fromhex(key), passphrase)
            try:
                verdict, digests = "opens", [digest for digest, _ in opened]
            except (Refused, InvalidTag) as refused:
                verdict, digests = str(refused) or "open fails", []
            if (verdict, digests) != (vector["expect"], [t["sha256"] for t in vector["tensors"]]):
                sys.exit(f"{name} with {secret}: {verdict}, expected {vector['expect']}")
            print(f"{name}: {verdict}, as it must")


match sys.argv[1:]:
    case ["--vectors", folder]:
        check_vectors(Path(folder))
    case [file, "--key-hex" | "--passphrase" as option, secret]:
        key = bytes.fromhex(secret) if option == "--key-hex" else None
        for line in open_file(Path(file).read_bytes(), key, None if key else secret):
            print(*line)
    case _:
        sys.exit(__doc__)
