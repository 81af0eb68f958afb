//! Constants of the encryption that can never change: files depend on them. A test pins each.
//!
//! Those of the key-slot record and of the derivations are published in `docs/ENCRYPTION.md`.

/// Length of every key.
pub const KEY_LEN: usize = 32;
/// Length of the salt of a sealed file.
pub const FILE_SALT_LEN: usize = 32;
/// Length of a passphrase's salt: libsodium's `crypto_pwhash_SALTBYTES`.
pub const PWHASH_SALT_LEN: usize = 16;
/// Length of an AES-GCM nonce.
pub const GCM_NONCE_LEN: usize = 12;
/// Length of a key id.
pub const KEY_ID_LEN: usize = 8;
/// BLAKE3 context of a tensor key.
pub const TENSOR_KEY_CONTEXT: &str = "tz 2026-11 tensor key v1";
/// BLAKE3 context of the metadata key.
pub const METADATA_KEY_CONTEXT: &str = "tz 2026-11 metadata key v1";
/// What a key-encryption key is hashed over to give its id.
pub const KEY_ID_LABEL: &[u8] = b"tz 2026-11 key id v1";
/// First bytes of what authenticates a wrapped file key.
pub const SLOT_LABEL: &[u8] = b"tz 2026-11 key slot v1";
/// Slot kind: the key-encryption key is a raw key.
pub const SLOT_KEY: u16 = 1;
/// Slot kind: the key-encryption key is Argon2id of a passphrase.
pub const SLOT_PASSPHRASE: u16 = 2;
/// First bytes of the journal of a rewrap, which follows the terminator while the header is written.
pub const JOURNAL_MAGIC: &[u8; 8] = b"tz-jnl\0\x01";
/// Most chunks of one tensor, so that its key stays within what AES-GCM allows.
pub const SEALED_CHUNKS_MAX: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forever_constant() {
        assert_eq!((KEY_LEN, FILE_SALT_LEN, PWHASH_SALT_LEN), (32, 32, 16));
        assert_eq!((GCM_NONCE_LEN, KEY_ID_LEN), (12, 8));
        assert_eq!(TENSOR_KEY_CONTEXT, "tz 2026-11 tensor key v1");
        assert_eq!(METADATA_KEY_CONTEXT, "tz 2026-11 metadata key v1");
        assert_eq!(KEY_ID_LABEL, b"tz 2026-11 key id v1");
        assert_eq!(SLOT_LABEL, b"tz 2026-11 key slot v1");
        assert_eq!((SLOT_KEY, SLOT_PASSPHRASE), (1, 2));
        assert_eq!(JOURNAL_MAGIC, b"tz-jnl\x00\x01");
        assert_eq!(SEALED_CHUNKS_MAX, 4_294_967_296);
    }
}
