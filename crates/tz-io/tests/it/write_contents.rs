//! What stands in a file that was written: alignment, hashes, counters.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tz_crypto::{FileSealer, Key, SealSecret};
use tz_format::{Element, HashKind, TensorHash, TensorSpec};
use tz_io::testing::{PaintedTensors, paint};
use tz_io::{Location, MemorySource, WriteOptions, write};

use crate::model::{Model, all, load, open_memory, readers, write_options};
use crate::write::to;

#[test]
fn data_begins_where_the_alignment_says() {
    let model = Model::of_lens(&[1, 100, 0, 5000, 0, 3]);
    for alignment in [1, 2, 64, 512, 4096, 2 << 20] {
        let mut options = write_options();
        options.alignment = alignment;
        let bytes = model.file(&options);
        let file = open_memory(&bytes).expect("valid");
        for entry in file.entries().iter().filter(|entry| entry.data_len > 0) {
            assert_eq!(entry.data_offset % alignment, 0, "{}", entry.path);
        }
        assert_eq!(load(&file, &readers(2)).expect("valid"), model.contents());
        let end = file.front().data_end();
        assert_eq!(bytes.len() as u64, end + 8, "terminated");
        assert_eq!(bytes[bytes.len() - 8..], [0; 8]);
    }
}

/// Lengths around the pieces of every memory limit.
fn lens() -> Vec<u64> {
    let mut lens = vec![0, 1, 1024, 4097];
    for piece in [64 << 10, 1 << 20, 4 << 20] {
        lens.extend([piece - 1, piece, piece + 1, 2 * piece, 3 * piece + 5]);
    }
    lens
}

#[test]
fn the_digest_of_a_file_is_made_of_the_bytes_on_their_way() {
    let model = Model::of_lens(&lens());
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.tensors");
    let key = || SealSecret::Key(Key::from_bytes(&[7; 32]).expect("32 bytes"));
    let compat = || FileSealer::compat(&key(), 64 << 10).ok();
    let sealed = || FileSealer::sealed(&[key()], 64 << 10).ok();
    let ways: [&dyn Fn() -> Option<FileSealer>; 3] = [&|| None, &compat, &sealed];
    for seal in ways {
        for (alignment, hash) in [(4096, HashKind::Crc32), (1, HashKind::Sha256)] {
            let mut options = write_options();
            (options.alignment, options.hashes) = (alignment, vec![hash]);
            (options.workers, options.memory_limit) = (Some(3), Some(3 << 20));
            (options.file_digest, options.seal) = (true, seal().map(Arc::new));
            let stats = write(&model.source(), &Location::File(path.clone()), &options);
            let digest = stats.expect("written").file_digest;
            let expected = blake3::hash(&fs::read(&path).expect("read"));
            assert_eq!(digest, Some(*expected.as_bytes()), "{alignment} {hash:?}");
        }
    }
    let stats = write(&model.source(), &Location::File(path), &write_options());
    assert_eq!(stats.expect("written").file_digest, None, "only where it is asked for");
}

#[test]
fn hashes_of_the_file_are_plain_hashes_of_header_and_data() {
    let model = Model::of_lens(&lens());
    for hashes in [
        vec![],
        vec![HashKind::Crc32],
        vec![HashKind::Sha256],
        vec![HashKind::Sha256, HashKind::Crc32],
    ] {
        for limit in [Some(128 << 10), Some(3 << 20), None] {
            let mut options = write_options();
            options.hashes = hashes.clone();
            options.memory_limit = limit;
            options.blake3 = true;
            options.workers = Some(3);
            let bytes = model.file(&options);
            let file = open_memory(&bytes).expect("valid");
            let digests = file.front().extension.blake3.as_ref().expect("asked for");
            for (i, entry) in file.entries().iter().enumerate() {
                assert_eq!(digests[i], *blake3::hash(&model.data[i]).as_bytes(), "{}", entry.path);
                let header = file.header(i).expect("valid");
                let kinds: Vec<_> = header.hashes.iter().map(TensorHash::kind).collect();
                assert_eq!(kinds, hashes);
                let at = |offset: u64| usize::try_from(offset).expect("small");
                let stored = &bytes[at(entry.header_offset)..at(entry.data_offset)];
                let covered = [header.hashed_bytes(stored), model.data[i].clone()].concat();
                for hash in header.hashes {
                    let expected = match hash {
                        TensorHash::Crc32(_) => TensorHash::Crc32(crc32fast::hash(&covered)),
                        TensorHash::Sha256(_) => {
                            TensorHash::Sha256(Sha256::digest(&covered).into())
                        }
                    };
                    assert_eq!(hash, expected, "{}", entry.path);
                }
            }
            assert_eq!(file.verify(&all(), &readers(2)).expect("valid"), []);
        }
    }
}

#[test]
fn long_headers_without_data_are_written_in_little_memory() {
    let long = |letter: &str| letter.repeat(65_535);
    let mut meta = TensorSpec::new(long("m"), Element::Float32, vec![3]);
    meta.meta = true;
    let model = Model::painted(vec![
        TensorSpec::new(long("e"), Element::Uint8, vec![0]),
        meta,
        TensorSpec::new(long("d"), Element::Uint8, vec![1]),
        TensorSpec::new(long("l"), Element::Uint8, vec![200_000]),
    ]);
    for hashes in [vec![HashKind::Crc32], vec![HashKind::Sha256], vec![]] {
        for workers in [1, 2] {
            let mut options = write_options();
            options.hashes = hashes.clone();
            options.blake3 = true;
            options.workers = Some(workers);
            options.memory_limit = Some(500 << 10);
            let file = open_memory(&model.file(&options)).expect("valid");
            assert_eq!(load(&file, &readers(1)).expect("valid"), model.contents());
            assert_eq!(file.verify(&all(), &readers(1)).expect("valid"), []);
        }
    }
}

#[test]
fn many_small_tensors() {
    let lens: Vec<u64> = (0..20_000).map(|i| i % 7).collect();
    let model = Model::of_lens(&lens);
    for alignment in [1, 64] {
        let mut options = write_options();
        options.alignment = alignment;
        options.memory_limit = Some(1 << 20);
        options.workers = Some(4);
        let written = model.write(&options);
        let file = written.open();
        assert_eq!(load(&file, &readers(3)).expect("valid"), model.contents());
        assert_eq!(file.verify(&all(), &readers(3)).expect("valid"), []);
    }
}

#[test]
fn any_number_of_workers_writes_the_same_file() {
    let model = Model::of_lens(&[10, 9 << 20, 0, 300_000, 10]);
    let mut options = write_options();
    options.blake3 = true;
    let expected = model.file(&options);
    for workers in [1, 2, 7, usize::MAX] {
        for limit in [128 << 10, 1 << 20, 1 << 30] {
            options.workers = Some(workers);
            options.memory_limit = Some(limit);
            assert!(model.file(&options) == expected, "{workers} workers in {limit} bytes");
        }
    }
}

#[test]
fn progress_and_counters_tell_what_was_written() {
    let model = Model::of_lens(&[10, 9 << 20, 0]);
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("model.tensors");
    let options = WriteOptions::default();
    let stats = write(&model.source(), &Location::File(path.clone()), &options).expect("written");
    assert_eq!(stats.file_bytes, fs::metadata(&path).expect("written").len());
    assert_eq!(stats.tensor_bytes, 10 + (9 << 20));
    let done = options.progress.bytes();
    assert!((stats.tensor_bytes..=stats.file_bytes).contains(&done), "{done}");
    assert!(stats.sync.as_nanos() > 0, "it waited for the disk");
}

#[test]
fn the_front_of_an_old_file_is_never_that_of_a_new_one() {
    // A reader that opened the old file goes on reading it, byte for byte, while the new one takes its name.
    let old = Model::of_lens(&[2 << 20]);
    let written = old.write(&write_options());
    let reader = written.open();
    let new = Model::painted(vec![TensorSpec::new("other", Element::Uint8, vec![3 << 20])]);
    to(&written.path, &new.source(), &write_options()).expect("written");
    assert_eq!(load(&reader, &readers(2)).expect("the old file"), old.contents());
    assert_eq!(load(&written.open(), &readers(2)).expect("the new file"), new.contents());
}

#[test]
fn memory_source_refuses_data_of_another_length() {
    let data = paint(0, 10);
    let mut source = MemorySource::new();
    let mut push = |shape: Vec<u64>, meta: bool, data| {
        let mut spec = TensorSpec::new("t", Element::Float16, shape);
        spec.meta = meta;
        source.push(spec, data).map_err(|error| error.kind())
    };
    let refused = Err(io::ErrorKind::InvalidInput);
    assert_eq!(push(vec![5], false, &data), Ok(()));
    assert_eq!(push(vec![4], false, &data), refused);
    assert_eq!(push(vec![u64::MAX, u64::MAX], false, &data), refused);
    assert_eq!(push(vec![u64::MAX, u64::MAX, 0], false, &[]), Ok(()));
    assert_eq!(push(vec![5], true, &[]), Ok(()));
    assert_eq!(push(vec![5], true, &data), refused);
}

#[test]
fn heap_of_a_write_to_a_stream_does_not_grow_with_padding() {
    let count = 5000;
    let specs = (0..count).map(|i| TensorSpec::new(format!("t{i}"), Element::Uint8, vec![1]));
    let source = PaintedTensors::new(specs.collect());
    let mut options = write_options();
    options.workers = Some(1);
    options.memory_limit = Some(1 << 20);
    let measured = allocation_counter::measure(|| {
        to(Path::new("/dev/null"), &source, &options).expect("takes everything");
    });
    // 20 MB of padded headers; what is known of a tensor takes some hundred bytes.
    let most = (1 << 20) + (1 << 20) + count * 1000;
    assert!(measured.bytes_max < most, "{} of {most}", measured.bytes_max);
    io::stdout().flush().expect("flushed");
}
