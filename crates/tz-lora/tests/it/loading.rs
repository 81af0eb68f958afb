//! A packed adapter in memory, plain and encrypted.

use std::sync::Arc;

use tz_crypto::{DEFAULT_COMPAT_CHUNK_SIZE, FileSealer, Key, SealSecret, Secret};
use tz_io::{OpenOptions, PlanOptions, ReadOptions, Selection, WriteOptions};
use tz_lora::{Adapter, ArtifactDir, PackedAdapter};

use crate::support::{Peft, at, read, tensors};

/// Every tensor equals its part of the safetensors file.
#[track_caller]
fn loads(peft: &Peft, folder: &ArtifactDir, options: &OpenOptions) {
    let packed = PackedAdapter::open(folder, options).expect("adapter");
    let loaded = packed.load(&ReadOptions::default()).expect("load");
    let file = read(&peft.dir, "adapter_model.safetensors");
    let start =
        8 + usize::try_from(u64::from_le_bytes(file[..8].try_into().expect("fits"))).expect("fits");
    let mut data = &file[start..];
    for (name, ..) in tensors() {
        let bytes = loaded.get(&name).expect("tensor").bytes();
        let (expected, rest) = data.split_at(bytes.len());
        assert_eq!(bytes, expected, "{name}");
        data = rest;
    }
    assert!(data.is_empty());
}

fn packed(peft: &Peft, options: &WriteOptions) -> ArtifactDir {
    let folder = at(&peft.beside("packed"));
    Adapter::open(&peft.dir).expect("adapter").pack(&folder, options).expect("pack");
    folder
}

#[test]
fn a_load_is_one_plan_of_few_reads() {
    let peft = Peft::usual();
    let folder = packed(&peft, &WriteOptions::default());
    loads(&peft, &folder, &OpenOptions::default());
    let adapter = PackedAdapter::open(&folder, &OpenOptions::default()).unwrap();
    let plan = adapter.file().plan(&Selection::all(), &PlanOptions::local()).unwrap();
    assert_eq!(plan.fetches.len(), 1, "four small tensors are read at once");
}

#[test]
fn encryption_is_by_request_and_needs_the_key() {
    for sealed in [false, true] {
        let key = Key::from_bytes(&[7; 32]).unwrap();
        let secret = SealSecret::Key(key.clone());
        let sealer = if sealed {
            FileSealer::sealed(&[secret], 1 << 20)
        } else {
            FileSealer::compat(&secret, DEFAULT_COMPAT_CHUNK_SIZE)
        };
        let mut options = WriteOptions::default();
        options.seal = Some(Arc::new(sealer.unwrap()));
        let peft = Peft::usual();
        let folder = packed(&peft, &options);

        let mut open = OpenOptions::default();
        open.secrets = vec![Secret::Key(key)];
        loads(&peft, &folder, &open);
        let opened = PackedAdapter::open(&folder, &open).unwrap();
        let back = peft.beside("back");
        opened.unpack(&at(&back), &ReadOptions::default(), &WriteOptions::default()).unwrap();
        let name = "adapter_model.safetensors";
        assert_eq!(read(&back, name), read(&peft.dir, name));

        let closed = PackedAdapter::open(&folder, &OpenOptions::default()).unwrap();
        assert_eq!(closed.tensors().len(), 4, "the table needs no key");
        closed.load(&ReadOptions::default()).unwrap_err();
        let none = peft.beside("none");
        closed.unpack(&at(&none), &ReadOptions::default(), &WriteOptions::default()).unwrap_err();
        assert!(!none.exists(), "nothing is made before the key is known to be there");
    }
}

#[test]
fn damage_is_found_before_anything_appears() {
    let peft = Peft::usual();
    let folder = packed(&peft, &WriteOptions::default());
    let path = peft.beside("packed").join("adapter_model.tensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let packed = PackedAdapter::open(&folder, &OpenOptions::default()).unwrap();
    let byte = usize::try_from(packed.file().entries()[2].data_offset).unwrap();
    bytes[byte] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let packed = PackedAdapter::open(&folder, &OpenOptions::default()).unwrap();
    assert!(packed.load(&ReadOptions::default()).is_err());
    let back = peft.beside("back");
    packed.unpack(&at(&back), &ReadOptions::default(), &WriteOptions::default()).unwrap_err();
    assert_eq!(crate::support::listing(&back), [""; 0]);
}
