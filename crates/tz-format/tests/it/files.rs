//! Valid files of every kind that this crate writes, for the tests that want them all.

use tz_format::{
    CipherPlan, Element, Extension, HashKind, KeyDerivation, LayoutOptions, PathKey, TensorKind,
    TensorPath, TensorSpec, testing,
};

/// Every kind of file, small, by name.
pub(crate) fn generated() -> Vec<(&'static str, Vec<u8>)> {
    let float = |name: &str, shape: &[u64]| TensorSpec::new(name, Element::Float32, shape.to_vec());
    let plain = || vec![float("a", &[2, 3]), float("b", &[]), float("c", &[0, 7])];
    let mut meta = plain();
    meta[0].meta = true;
    let mut long = plain();
    long.push(float("long", &[0, 1 << 32]));
    let opaque = vec![TensorSpec::new("o", Element::Bfloat16, vec![5])];
    let file = |specs, change: fn(&mut LayoutOptions)| {
        let mut options = LayoutOptions::default();
        options.alignment = 64;
        change(&mut options);
        testing::build(specs, options)
    };
    vec![
        ("plain", file(plain(), |_| {})),
        ("packed", file(plain(), |options| options.alignment = 1)),
        ("opaque", file(opaque.clone(), |_| {})),
        ("no_hashes", file(plain(), |options| options.hashes.clear())),
        ("both_hashes", file(plain(), |options| options.hashes.push(HashKind::Sha256))),
        ("meta", file(meta.clone(), |_| {})),
        ("long_dims", file(long.clone(), |_| {})),
        ("nested", file(nested(), |_| {})),
        ("extension", file(plain(), |options| options.extension = plain_extension(3))),
        ("encrypted", file(plain(), |options| options.cipher = Some(compat(None)))),
        ("passphrase", file(opaque, |options| options.cipher = Some(compat(Some(argon2id()))))),
        ("encrypted_meta", file(meta.clone(), |options| options.cipher = Some(compat(None)))),
        ("encrypted_long", file(long.clone(), |options| options.cipher = Some(compat(None)))),
        ("sealed", file(meta, seal)),
        ("sealed_long", file(long, seal)),
    ]
}

fn nested() -> Vec<TensorSpec> {
    let path = |keys: &[PathKey]| TensorPath::new(keys.to_vec()).expect("keys");
    let spec = |path: TensorPath| TensorSpec::new(path, Element::Int8, vec![3]);
    let mut specs = vec![
        spec(path(&["model".into(), "layers".into(), 0.into()])),
        spec(path(&["model".into(), "layers".into(), 1.into()])),
        spec(path(&["model".into(), "n\u{e9}e".into()])),
        spec("plain".into()),
        spec("".into()),
        spec("\u{1e}mark".into()),
    ];
    specs[3].kind = TensorKind::Parameter;
    specs[3].module_index = 300;
    specs[5].kind = TensorKind::Buffer;
    specs
}

pub(crate) fn plain_extension(tensors: usize) -> Extension {
    let mut extension = Extension::default();
    extension.blake3 = Some(vec![[0xb3; 32]; tensors]);
    extension.writer = Some("tz test".to_owned());
    let map = serde_json::json!({ "model": "tiny", "deep": [1, { "x": null }] });
    extension.user_metadata = map.as_object().cloned();
    extension
}

pub(crate) fn argon2id() -> KeyDerivation {
    KeyDerivation { opslimit: 3, memlimit: 256 << 20, salt: (0..16).collect() }
}

pub(crate) fn compat(key_derivation: Option<KeyDerivation>) -> CipherPlan {
    CipherPlan::XSalsa20Chunked { chunk_size: 1024, key_derivation }
}

/// The sealed profile with placeholders where `tz-crypto` puts slots and MAC.
pub(crate) fn seal(options: &mut LayoutOptions) {
    options.hashes.clear();
    options.cipher = Some(CipherPlan::Sealed { chunk_size: 4096 });
    options.extension.key_slots = Some(vec![0x51; 40]);
    options.extension.metadata_mac = Some([0x3a; 32]);
}

/// `bytes` at `offset` of a file that is otherwise the same.
pub(crate) fn patch(mut file: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    file[offset..][..bytes.len()].copy_from_slice(bytes);
    file
}
