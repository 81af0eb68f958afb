//! Encryption of `.tensors` files: what Tensorizer reads and writes, and a profile that authenticates everything.
//!
//! Keys and chunks in memory: this crate opens no file, starts no thread, and neither asks for a secret nor prints
//! one. It refuses what it cannot authenticate, and hands out no plaintext of a chunk that does not.
//!
//! | | compat | sealed |
//! | --- | --- | --- |
//! | cipher | XSalsa20-Poly1305, as libsodium's `secretbox` | AES-256-GCM |
//! | readable by the reference | yes | no |
//! | authentic | each chunk by itself | every chunk in its place, every tensor, the whole front |
//! | keys | one key or passphrase | any number of either, changed without touching tensors |
//!
//! Reading: [`FileOpener::new`] takes the front of a file and the [`Secret`]s that may open it; of a sealed file it
//! checks the front before it returns. [`FileOpener::tensor`] gives a [`TensorOpener`], which opens chunks in any
//! order, from any thread. Writing: a [`FileSealer`] says what the layout needs, gives a [`TensorSealer`] per tensor
//! and authenticates the front at the end. [`rewrap()`] changes who can open a sealed file. How any of this stands in
//! the file, and what it protects, is in `docs/ENCRYPTION.md` of the repository.
//!
//! ```
//! use tz_crypto::{FileOpener, FileSealer, KdfLimits, Key, SealSecret, Secret};
//! use tz_format::{Element, FrontDecoder, Layout, LayoutOptions, Step, TensorHeader, TensorSpec};
//!
//! // Seal one tensor of 16 bytes: plan, encrypt, then authenticate the front.
//! let key = Key::random()?;
//! let sealer = FileSealer::sealed(&[SealSecret::Key(key.clone())], 4096)?;
//! let mut options = LayoutOptions::default();
//! options.hashes = Vec::new();
//! options.cipher = Some(sealer.cipher_plan());
//! sealer.extend(&mut options.extension);
//! let specs = vec![TensorSpec::new("embed.weight", Element::Float32, vec![4])];
//! let layout = Layout::plan(specs, options)?;
//!
//! let mut data = [7; 16];
//! let tensor = sealer.tensor(&layout, 0)?;
//! let tag = tensor.seal_chunk_in_place(0, &mut data)?;
//! let header = layout.encode_header(0, &[], Some(&tensor.finish(vec![tag])?))?;
//! let mut front = layout.encode_front(&layout.options().extension)?;
//! sealer.seal_front(&mut front, layout.metadata_mac_at().unwrap())?;
//!
//! // Open it again.
//! let Step::Done(decoded) = FrontDecoder::default().step(&front)? else { unreachable!() };
//! let opener = FileOpener::new(&decoded, &front, &[Secret::Key(key)], &KdfLimits::default())?;
//! let entry = &decoded.entries[0];
//! let parsed = TensorHeader::decode(&header, entry, decoded.header.flags)?;
//! let tensor = opener.tensor(0, entry, &parsed, &header)?;
//! let mut plain = [0; 16];
//! tensor.open_chunk(0, &data, &mut plain)?;
//! assert_eq!(plain, [7; 16]);
//! # Ok::<(), tz_crypto::CryptoError>(())
//! ```
#![forbid(unsafe_code)]

pub mod aead;
pub mod frozen;

mod chunks;
mod entropy;
mod error;
mod front;
mod journal;
mod kdf;
mod key;
mod open;
mod rewrap;
mod schedule;
mod seal;
mod secretbox;
mod slots;

#[cfg(test)]
mod oracle;
#[cfg(feature = "testing")]
pub mod testing;

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use error::{CryptoError, ErrorClass, Needs};
pub use journal::{Journal, JournalPlace, Outcome, Tail};
pub use kdf::{KdfCost, KdfLimits, KdfPreset};
pub use key::{Key, Passphrase, SealSecret, Secret};
pub use open::{FileOpener, TensorOpener};
pub use rewrap::{HeaderChange, SlotChange, rewrap};
pub use schedule::KeyId;
pub use seal::{
    DEFAULT_COMPAT_CHUNK_SIZE, DEFAULT_SEALED_CHUNK_SIZE, DEFAULT_SLOT_ROOM, FileSealer,
    TensorSealer,
};
pub use slots::{KeySlot, key_slots};
