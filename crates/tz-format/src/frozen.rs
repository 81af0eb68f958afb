//! The numbers of the format that can never change. Owns every magic value and fixed width.
//!
//! Facts of the reference implementation (`tensorizer` 2.12.1) unless the line says `tz`, in which case
//! they are ours and published in `docs/FORMAT.md`. A test pins each of them.

/// First five bytes of every file.
pub const MAGIC: &[u8; 5] = b"|TZR|";
/// Bytes before the index: magic, version, flags, tensor bytes, padding, tensor count, index length.
pub const FILE_HEADER_LEN: u64 = 73;
/// Length of the feature-flag field.
pub const FLAGS_LEN: usize = 32;
/// Feature flag bit: tensors are encrypted (data version 4 on).
pub const FLAG_ENCRYPTED: u32 = 0;
/// Feature flag bit: every index entry is preceded by its version (data version 5 on).
pub const FLAG_VERSIONED_ENTRIES: u32 = 1;
/// Feature flag bit: sealed profile (`tz`); the reference refuses the file.
pub const FLAG_SEALED: u32 = 128;
/// Index entry version with 32-bit dimensions.
pub const ENTRY_VERSION_SHORT: u32 = 1;
/// Index entry version with 64-bit dimensions.
pub const ENTRY_VERSION_LONG: u32 = 5;
/// First byte of a structured tensor path (ASCII record separator).
pub const PATH_MARK: u8 = 0x1e;
/// Hash type: CRC-32 (zlib polynomial), 4 bytes, little-endian.
pub const HASH_CRC32: u8 = 0;
/// Hash type: SHA-256, 32 bytes.
pub const HASH_SHA256: u8 = 1;
/// Crypt chunk: key derivation.
pub const CRYPT_KEY_DERIVATION: u16 = 1;
/// Crypt chunk: XSalsa20-Poly1305 in chunks.
pub const CRYPT_XSALSA20_CHUNKED: u16 = 2;
/// Crypt chunk: XSalsa20-Poly1305 over the whole tensor.
pub const CRYPT_XSALSA20_WHOLE: u16 = 3;
/// Crypt chunk: AES-256-GCM tags of the sealed profile (`tz`).
pub const CRYPT_SEALED: u16 = 0x5a01;
/// Key-derivation method: Argon2id by libsodium's `crypto_pwhash`.
pub const KDF_ARGON2ID: u16 = 1;
/// libsodium's number for Argon2id 1.3.
pub const KDF_ALG_ARGON2ID13: i32 = 2;
/// XSalsa20 nonce length.
pub const XSALSA20_NONCE_LEN: usize = 24;
/// Poly1305 and GCM tag length.
pub const TAG_LEN: usize = 16;
/// Smallest XSalsa20 chunk, and the quantum that chunk sizes are a multiple of.
pub const XSALSA20_CHUNK_MIN: u64 = 1024;
/// Chunk sizes of the reference are a multiple of this.
pub const XSALSA20_CHUNK_QUANTUM: u64 = 64;
/// Most chunks of one sealed tensor (`tz`): what one key may seal.
pub const SEALED_CHUNKS_MAX: u64 = 1 << 32;
/// First eight bytes of the extension block (`tz`).
pub const EXTENSION_MAGIC: &[u8; 8] = b"tz-ext\0\x01";
/// Extension record: BLAKE3 digest of every tensor's stored data (`tz`).
pub const EXT_BLAKE3: u16 = 1;
/// Extension record: name and version of the writer, UTF-8 (`tz`).
pub const EXT_WRITER: u16 = 2;
/// Extension record: the user's own metadata, a JSON object (`tz`).
pub const EXT_USER_METADATA: u16 = 3;
/// Extension record: file salt and key slots (`tz`).
pub const EXT_KEY_SLOTS: u16 = 4;
/// Extension record: keyed BLAKE3 over the whole front (`tz`).
pub const EXT_METADATA_MAC: u16 = 5;
/// Longest user metadata, in bytes (`tz`).
pub const EXT_USER_METADATA_MAX: u64 = 1 << 20;
/// Most JSON values in user metadata, counted by commas and opening brackets (`tz`).
pub const EXT_USER_METADATA_VALUES_MAX: u64 = 16_384;
/// An extension record with this bit must be refused by a reader that does not know its type (`tz`).
pub const EXT_CRITICAL: u16 = 0x8000;
/// Default alignment of tensor data from the start of the file (`tz`).
pub const DATA_ALIGNMENT: u64 = 4096;
/// Header length field, where a zero terminates the file.
pub const TERMINATOR_LEN: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f29_forever_constant() {
        assert_eq!(MAGIC, b"|TZR|");
        assert_eq!(FILE_HEADER_LEN, 5 + 4 + 32 + 8 + 8 + 8 + 8);
        assert_eq!(
            (FLAGS_LEN, FLAG_ENCRYPTED, FLAG_VERSIONED_ENTRIES, FLAG_SEALED),
            (32, 0, 1, 128)
        );
        assert_eq!((ENTRY_VERSION_SHORT, ENTRY_VERSION_LONG, PATH_MARK), (1, 5, 0x1e));
        assert_eq!((HASH_CRC32, HASH_SHA256), (0, 1));
        assert_eq!(
            [CRYPT_KEY_DERIVATION, CRYPT_XSALSA20_CHUNKED, CRYPT_XSALSA20_WHOLE, CRYPT_SEALED],
            [1, 2, 3, 0x5a01]
        );
        assert_eq!((KDF_ARGON2ID, KDF_ALG_ARGON2ID13), (1, 2));
        assert_eq!((XSALSA20_NONCE_LEN, TAG_LEN), (24, 16));
        assert_eq!((XSALSA20_CHUNK_MIN, XSALSA20_CHUNK_QUANTUM), (1024, 64));
        assert_eq!(EXTENSION_MAGIC, b"tz-ext\0\x01");
        assert_eq!(
            [EXT_BLAKE3, EXT_WRITER, EXT_USER_METADATA, EXT_KEY_SLOTS, EXT_METADATA_MAC],
            [1, 2, 3, 4, 5]
        );
        assert_eq!(
            [SEALED_CHUNKS_MAX, EXT_USER_METADATA_MAX, EXT_USER_METADATA_VALUES_MAX],
            [4_294_967_296, 1_048_576, 16_384]
        );
        assert_eq!((EXT_CRITICAL, DATA_ALIGNMENT, TERMINATOR_LEN), (0x8000, 4096, 8));
    }
}
