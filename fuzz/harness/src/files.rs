//! Valid `.tensors` files to damage, and the secrets that open them. Owns [`Seed`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tz_crypto::testing::{seal_file, seeded_sealer};
use tz_crypto::{FileSealer, Key, Passphrase, SealSecret, Secret};
use tz_format::{Element, Extension, Front, FrontDecoder, Limits, Step, TensorSpec, testing};
use tz_io::OpenOptions;

use crate::headers;

/// Fixtures that are longer only repeat what shorter ones show, and cost time.
const MAX_LEN: u64 = 400 << 10;

/// A valid file.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) front: Front,
    /// Authenticates the front again after a change, as a hostile writer who holds the key can.
    pub(crate) sealer: Option<FileSealer>,
}

impl Seed {
    fn new(bytes: Vec<u8>, sealer: Option<FileSealer>) -> Option<Self> {
        match FrontDecoder::new(Limits::default()).step(&bytes) {
            Ok(Step::Done(front)) => Some(Self { bytes, front, sealer }),
            _ => None,
        }
    }
}

/// The repository's fixtures.
#[must_use]
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// Names and contents of the `.tensors` fixtures of a folder, in order of name.
///
/// # Panics
/// Where they cannot be read.
#[must_use]
pub fn tensors_in(folder: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(fixtures().join(folder)).expect("fixtures");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("fixture").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "tensors"));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        (name, fs::read(path).expect("fixture"))
    };
    let short = |path: &PathBuf| path.metadata().is_ok_and(|file| file.len() <= MAX_LEN);
    paths.into_iter().filter(short).map(read).collect()
}

/// Every fixture whose front can be read, and one file of each kind of our own.
pub(crate) static SEEDS: LazyLock<Vec<Seed>> = LazyLock::new(|| {
    let own = (0..3).map(|flavour| (testing::build(specs(), headers::options(flavour)), None));
    let sealed = std::iter::once_with(|| {
        let sealer = sealer();
        let bytes = seal_file(specs(), &sealer, 1, Extension::default()).expect("writable");
        (bytes, Some(sealer))
    });
    let foreign = ["foreign", "valid", "sealed"].into_iter().flat_map(tensors_in);
    let all = own.chain(sealed).chain(foreign.map(|(_, bytes)| (bytes, None)));
    all.filter_map(|(bytes, sealer)| Seed::new(bytes, sealer)).collect()
});

/// How many files the target `damage` chooses from: the second byte of its input is a number of one.
#[must_use]
pub fn seeds() -> usize {
    SEEDS.len()
}

fn specs() -> Vec<TensorSpec> {
    let mut meta = TensorSpec::new("meta", Element::Float16, vec![2, 3]);
    meta.meta = true;
    vec![
        TensorSpec::new("a", Element::Bfloat16, vec![8, 4]),
        TensorSpec::new("b", Element::Uint8, vec![5000]),
        meta,
        TensorSpec::new("e", Element::Int64, vec![0, 7]),
    ]
}

/// Seals with the key that [`secrets`] begin with.
pub(crate) fn sealer() -> FileSealer {
    seeded_sealer("fuzz", &[SealSecret::Key(key(0x10))], 4096, 4).expect("chunk size")
}

fn key(first: u8) -> Key {
    let bytes: Vec<u8> = (first..first + 32).collect();
    Key::from_bytes(&bytes).expect("32 bytes")
}

/// What opens the fixtures: their keys, and the passphrase of the rest.
pub(crate) fn secrets() -> Vec<Secret> {
    let keys = [0x10, 0x20, 0x00].map(|first| Secret::Key(key(first)));
    let passphrase = Secret::Passphrase(Passphrase::new("pässwörd 日本"));
    keys.into_iter().chain([passphrase]).collect()
}

/// Bounds of passphrases that leave time for other inputs.
pub(crate) fn open_options(with_secrets: bool) -> OpenOptions {
    let mut options = OpenOptions::default();
    options.kdf_limits.memory = KDF_MEMORY;
    options.kdf_limits.passes = 2;
    options.kdf_limits.derivations = 2;
    if with_secrets {
        options.secrets = secrets();
    }
    options
}

/// Most memory of a key derivation.
pub(crate) const KDF_MEMORY: u64 = 64 << 10;
