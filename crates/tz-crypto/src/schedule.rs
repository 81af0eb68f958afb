//! Which key follows from which. Owns every BLAKE3 derivation of the sealed profile; `docs/ENCRYPTION.md` states
//! them.

use std::ops::Range;

use blake3::{Hash, Hasher};
use zeroize::{Zeroize, Zeroizing};

use crate::frozen::{
    FILE_SALT_LEN, KEY_ID_LABEL, KEY_ID_LEN, KEY_LEN, METADATA_KEY_CONTEXT, TENSOR_KEY_CONTEXT,
};
use crate::key::Key;

/// Names a key-encryption key without telling it.
pub type KeyId = [u8; KEY_ID_LEN];

/// The random key that encrypts one file, and the file's salt.
#[derive(Debug, Clone)]
pub(crate) struct FileKey {
    pub(crate) key: Key,
    pub(crate) salt: [u8; FILE_SALT_LEN],
}

impl FileKey {
    /// `derive_key(context, file key ‖ file salt ‖ u64 tensor index)`.
    pub(crate) fn tensor_key(&self, index: u64) -> Key {
        self.derive(TENSOR_KEY_CONTEXT, &index.to_le_bytes())
    }

    /// Keyed hash of `front` with the bytes at `mac_at` as zeros; `None` where `mac_at` lies outside.
    /// Comparing two hashes takes the same time whatever they hold.
    pub(crate) fn metadata_mac(&self, front: &[u8], mac_at: Range<usize>) -> Option<Hash> {
        let (before, after) = (front.get(..mac_at.start)?, front.get(mac_at.end..)?);
        let key = self.derive(METADATA_KEY_CONTEXT, &[]);
        let mut hasher = Hasher::new_keyed(key.as_bytes());
        hasher.update(before);
        hasher.update(&[0; KEY_LEN]);
        hasher.update(after);
        let mac = hasher.finalize();
        hasher.zeroize();
        Some(mac)
    }

    fn derive(&self, context: &str, rest: &[u8]) -> Key {
        let mut hasher = Hasher::new_derive_key(context);
        hasher.update(self.key.as_bytes());
        hasher.update(&self.salt);
        hasher.update(rest);
        let mut key = Key::zeroed();
        let mut output = hasher.finalize_xof();
        output.fill(key.as_mut());
        output.zeroize();
        hasher.zeroize();
        key
    }
}

/// First bytes of the label's hash keyed with `kek`.
pub(crate) fn key_id(kek: &Key) -> KeyId {
    let hash = Zeroizing::new(*blake3::keyed_hash(kek.as_bytes(), KEY_ID_LABEL).as_bytes());
    let mut id = KeyId::default();
    id.copy_from_slice(&hash[..KEY_ID_LEN]);
    id
}
