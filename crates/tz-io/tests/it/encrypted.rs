//! Encrypted files through every way of reading: the reference's and our own, in both profiles.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "files of the tests are small, and valid unless a test says otherwise"
)]

use std::io::IoSliceMut;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tz_crypto::{
    CryptoError, DEFAULT_COMPAT_CHUNK_SIZE, DEFAULT_SEALED_CHUNK_SIZE, FileSealer, KdfPreset, Key,
    Passphrase, SealSecret, Secret,
};
use tz_format::testing::{CASES, paint};
use tz_format::{Element, HashKind, TensorSpec, hex};
use tz_io::testing::MemoryFile;
use tz_io::{
    Algorithm, FileSource, HeapPool, IoError, LocalFile, Location, MemorySource, OpenOptions,
    Piece, PlainFiles, RangeRead, ReadOptions, Selection, StreamSource, TensorFile,
    TensorSource as _, WriteOptions, write,
};

const KEY: [u8; 32] = [7; 32];

fn secrets(key: &[u8]) -> OpenOptions {
    let mut options = OpenOptions::default();
    options.secrets = vec![Secret::Key(Key::from_bytes(key).unwrap())];
    options
}

fn own_key() -> SealSecret {
    SealSecret::Key(Key::from_bytes(&KEY).unwrap())
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// SHA-256 of every tensor by name, read as a stream of pieces.
fn digests_by_stream(file: &TensorFile, buffer_len: usize) -> Vec<String> {
    let collected: Vec<Mutex<Vec<u8>>> =
        file.entries().iter().map(|entry| Mutex::new(vec![0; entry.byte_len() as usize])).collect();
    let pool = HeapPool::new(buffer_len, 2).unwrap();
    let consumer = |piece: Piece| {
        for (part, bytes) in piece.parts() {
            let at = part.offset as usize;
            collected[part.tensor].lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    };
    file.stream(&Selection::all(), &ReadOptions::default(), &pool, &consumer).unwrap();
    collected.iter().map(|bytes| hex(&Sha256::digest(&*bytes.lock().unwrap()))).collect()
}

#[track_caller]
fn check_digests(open: impl Fn() -> TensorFile, expect: &[String]) {
    let file = open();
    let loaded = file.load(&Selection::all(), &ReadOptions::default()).unwrap();
    let digests: Vec<String> =
        loaded.iter().map(|tensor| hex(&Sha256::digest(tensor.bytes()))).collect();
    assert_eq!(digests, expect, "load");
    if file.source().max_readers() > 1 {
        let sums =
            file.checksum(&Selection::all(), Algorithm::Sha256, &ReadOptions::default()).unwrap();
        assert_eq!(sums.into_iter().map(|(_, sum)| sum).collect::<Vec<_>>(), expect, "checksum");
        assert_eq!(file.verify(&Selection::all(), &ReadOptions::default()).unwrap(), [], "verify");
        assert_eq!(digests_by_stream(&file, 5 << 20), expect, "stream");
        // Short buffers force cuts that the larger chunks do not fit.
        assert_eq!(digests_by_stream(&open(), 512 << 10), expect, "stream, short buffers");
    }
}

#[test]
fn e21_a_plain_file_is_refused_by_the_options() {
    let fixture = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/foreign");
        Location::File(format!("{folder}/{name}").into())
    };
    for (given, plain, refused) in [
        (false, PlainFiles::RefusedWithSecrets, false),
        (false, PlainFiles::Accepted, false),
        (false, PlainFiles::Refused, true),
        (true, PlainFiles::RefusedWithSecrets, true),
        (true, PlainFiles::Accepted, false),
        (true, PlainFiles::Refused, true),
    ] {
        let mut options = if given { secrets(&KEY) } else { OpenOptions::default() };
        options.plain = plain;
        match TensorFile::open_with(&fixture("v4_meta.tensors"), &options) {
            Ok(_) => assert!(!refused, "{given} {plain:?}"),
            Err(IoError::Crypto { source: CryptoError::NotEncrypted, .. }) => {
                assert!(refused, "{given} {plain:?}");
            }
            Err(error) => panic!("{given} {plain:?}: {error}"),
        }
        TensorFile::open_with(&fixture("v3_enc_key.tensors"), &options).unwrap();
    }
    assert_eq!(OpenOptions::default().plain, PlainFiles::RefusedWithSecrets);
}

#[test]
fn files_of_the_reference_open_with_key_and_password() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/foreign");
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{folder}/manifest.json")).unwrap())
            .unwrap();
    let mut opened = 0;
    for (name, facts) in manifest["files"].as_object().unwrap() {
        if facts.get("encryption").is_none() {
            continue;
        }
        let tensors = facts["tensors"].as_array().unwrap();
        let expect: Vec<String> =
            tensors.iter().map(|t| t["sha256"].as_str().unwrap().to_owned()).collect();
        let path = std::path::PathBuf::from(format!("{folder}/{name}"));
        let location = Location::File(path.clone());
        let mut ways = vec![secrets(&unhex(facts["key_hex"].as_str().unwrap()))];
        if let Some(password) = facts.get("password") {
            let mut options = OpenOptions::default();
            options.secrets = vec![Secret::Passphrase(Passphrase::new(password.as_str().unwrap()))];
            ways.push(options);
        }
        for options in ways {
            check_digests(|| TensorFile::open_with(&location, &options).unwrap(), &expect);
            let stream = || {
                let source =
                    StreamSource::new(Box::new(std::fs::File::open(&path).unwrap()), "pipe");
                TensorFile::from_source_with(Box::new(source), &options).unwrap()
            };
            check_digests(stream, &expect);
            opened += 1;
        }
        let plain = TensorFile::open_with(&location, &OpenOptions::default()).unwrap();
        let error = plain.load(&Selection::all(), &ReadOptions::default()).unwrap_err();
        assert!(matches!(error, IoError::KeyMissing { .. }), "{name}: {error}");
        let wrong = TensorFile::open_with(&location, &secrets(&[9; 32])).unwrap();
        for error in [
            wrong.load(&Selection::all(), &ReadOptions::default()).unwrap_err(),
            wrong.verify(&Selection::all(), &ReadOptions::default()).unwrap_err(),
        ] {
            assert!(matches!(error, IoError::Crypto { .. }), "{name}: {error}");
        }
    }
    assert_eq!(opened, 7, "five files, two of them also by password");
}

/// Every boundary length, several chunks and pieces, an empty and a meta tensor.
fn specs() -> Vec<TensorSpec> {
    let lens = CASES.iter().copied().chain([5 << 20, (9 << 20) + 1]);
    let mut specs: Vec<TensorSpec> = lens
        .enumerate()
        .map(|(i, len)| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![len]))
        .collect();
    let mut meta = TensorSpec::new("meta", Element::Float32, vec![3]);
    meta.meta = true;
    specs.push(meta);
    specs
}

fn written(options: &WriteOptions) -> (tempfile::TempDir, Location, Vec<String>) {
    let specs = specs();
    let data: Vec<Vec<u8>> =
        specs.iter().map(|spec| paint(if spec.meta { 0 } else { spec.shape[0] })).collect();
    let mut source = MemorySource::new();
    for (spec, data) in specs.iter().zip(&data) {
        source.push(spec.clone(), data).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let location = Location::File(folder.path().join("sealed.tensors"));
    write(&source, &location, options).unwrap();
    let plain =
        specs.iter().zip(data).map(|(spec, data)| if spec.meta { vec![0; 12] } else { data });
    (folder, location, plain.map(|data| hex(&Sha256::digest(data))).collect())
}

fn sealing(sealer: FileSealer) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.seal = Some(Arc::new(sealer));
    options
}

#[test]
fn compat_files_of_every_chunk_size_read_back() {
    for chunk in [1024, 4096, 3 << 20, DEFAULT_COMPAT_CHUNK_SIZE, 16 << 20] {
        let mut options = sealing(FileSealer::compat(&own_key(), chunk).unwrap());
        options.hashes = vec![HashKind::Crc32, HashKind::Sha256];
        options.blake3 = true;
        let (_folder, location, expect) = written(&options);
        check_digests(|| TensorFile::open_with(&location, &secrets(&KEY)).unwrap(), &expect);
    }
}

#[test]
fn sealed_files_of_every_chunk_size_read_back() {
    for chunk in [4096, DEFAULT_SEALED_CHUNK_SIZE, 3 << 20, 64 << 20] {
        let slots = [own_key()];
        let options = sealing(FileSealer::sealed(&slots, chunk).unwrap());
        let (_folder, location, expect) = written(&options);
        check_digests(|| TensorFile::open_with(&location, &secrets(&KEY)).unwrap(), &expect);
        let error = TensorFile::open_with(&location, &secrets(&[9; 32])).unwrap_err();
        assert!(matches!(error, IoError::Crypto { tensor: None, .. }), "{error}");
    }
}

/// Offsets and lengths that no chunk boundary helps.
#[test]
fn a_sealed_file_is_a_source_at_any_offset() {
    let options = sealing(FileSealer::sealed(&[own_key()], 4096).unwrap());
    let (_folder, location, _) = written(&options);
    let file = TensorFile::open_with(&location, &secrets(&KEY)).unwrap();
    let all: Vec<usize> = (0..file.entries().len()).collect();
    let source = FileSource::new(&file, &all).unwrap();
    for (i, entry) in file.entries().iter().enumerate().filter(|(_, entry)| !entry.is_meta()) {
        let whole = paint(entry.data_len);
        for (from, to) in [(0, whole.len()), (1, whole.len()), (whole.len() / 3, whole.len() / 2)] {
            let from = from.min(to);
            let mut part = vec![0; to - from];
            source.read_at(i, from as u64, &mut part).unwrap();
            assert!(part == whole[from..to], "{} {from}..{to}", entry.path);
        }
        assert!(source.read_at(i, entry.data_len, &mut [0]).is_err());
    }
}

/// A file that had 40 bytes more when its length was read: the journal of a rewrap that ended meanwhile.
#[derive(Debug)]
struct Shortened(MemoryFile);

impl RangeRead for Shortened {
    fn len(&self) -> Option<u64> {
        self.0.len().map(|len| len + 40)
    }

    fn read_into(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<(), IoError> {
        self.0.read_into(offset, buffers)
    }

    fn max_readers(&self) -> usize {
        self.0.max_readers()
    }

    fn location(&self) -> &str {
        self.0.location()
    }
}

#[test]
fn e12_a_journal_that_is_removed_while_a_file_is_opened_is_none() {
    let options = sealing(FileSealer::sealed(&[own_key()], 4096).unwrap());
    let (_folder, location, expect) = written(&options);
    let bytes = std::fs::read(location.to_string()).unwrap();
    let open = |key: &[u8]| {
        let source = Shortened(MemoryFile::new(bytes.clone()));
        TensorFile::from_source_with(Box::new(source), &secrets(key))
    };
    check_digests(|| open(&KEY).unwrap(), &expect);
    assert!(!open(&KEY).unwrap().ends_in_journal());
    assert!(matches!(open(&[9; 32]).unwrap_err(), IoError::Crypto { tensor: None, .. }));
}

#[test]
fn a_plain_file_is_refused_where_a_key_is_given() {
    let (_folder, location, _) = written(&WriteOptions::default());
    let error = TensorFile::open_with(&location, &secrets(&KEY)).unwrap_err();
    assert!(matches!(error, IoError::Crypto { .. }), "{error}");
}

#[test]
fn altered_ciphertext_is_named_by_tensor() {
    let slots = [SealSecret::passphrase(Passphrase::new("pass"), KdfPreset::Min)];
    for sealer in
        [FileSealer::sealed(&slots, 4096).unwrap(), FileSealer::compat(&own_key(), 4096).unwrap()]
    {
        let (_folder, location, _) = written(&sealing(sealer));
        let Location::File(path) = &location else { unreachable!() };
        let mut options = secrets(&KEY);
        options.secrets.push(Secret::Passphrase(Passphrase::new("pass")));
        let entry = TensorFile::open_with(&location, &options).unwrap().entries()[13].clone();
        let mut bytes = std::fs::read(path).unwrap();
        bytes[entry.data_offset as usize + 5000] ^= 1;
        std::fs::write(path, bytes).unwrap();
        let file = TensorFile::open_with(&location, &options).unwrap();
        let error = file.load(&Selection::all(), &ReadOptions::default()).unwrap_err();
        assert!(
            matches!(&error, IoError::Crypto { tensor: Some(name), .. } if name == "t13"),
            "{error}"
        );
        let failed = file.verify(&Selection::all(), &ReadOptions::default()).unwrap();
        assert_eq!(
            failed.iter().map(|f| (f.tensor.as_str(), f.check)).collect::<Vec<_>>(),
            [("t13", "tag")]
        );
        assert!(file.load_one("t12", &ReadOptions::default()).is_ok());
    }
}

#[test]
fn an_encrypted_file_is_not_written_to_a_stream() {
    let options = sealing(FileSealer::compat(&own_key(), 4096).unwrap());
    let mut source = MemorySource::new();
    source.push(TensorSpec::new("a", Element::Uint8, vec![1]), &[1]).unwrap();
    let error = write(&source, &Location::File("/dev/null".into()), &options).unwrap_err();
    assert!(matches!(error, IoError::Unsupported { .. }), "{error}");
    assert!(LocalFile::open(std::path::Path::new("/dev/null")).unwrap().len() == Some(0));
}
