//! Asks everything of a file that may be hostile. Owns [`exercise`], for property tests and fuzzing.

use crate::buffer::HeapPool;
use crate::error::IoError;
use crate::file::TensorFile;
use crate::options::{OpenOptions, ReadOptions};
use crate::plan::{PlanOptions, Selection};
use crate::scan::Algorithm;
use crate::source::RangeRead;
use crate::stream::Piece;

/// Most zeros of meta tensors that are hashed: a few bytes of a file can ask for any number.
const MAX_ZEROS: u64 = 1 << 20;

/// Opens the file that `make` gives, once for each thing that can be done with it, and does it. Errors are what a
/// hostile file should give: they are printed and forgotten. Gives whether the file opened.
///
/// # Panics
/// Where what was read contradicts itself: tensors of another length than their entries say.
pub fn exercise(make: impl Fn() -> Box<dyn RangeRead>, options: &OpenOptions) -> bool {
    let open = || TensorFile::from_source_with(make(), options).map_err(|error| print(&error)).ok();
    let Some(file) = open() else { return false };
    let all = Selection::all();
    let reading = ReadOptions { readers: Some(1), ..ReadOptions::default() };
    let trusting = ReadOptions { verify: false, ..reading.clone() };

    let _ = format!("{:?}", file.front());
    for entry in file.entries() {
        assert!(entry.data_len == entry.byte_len() || entry.is_meta(), "{}", entry.path);
    }
    note(file.plan(&all, &PlanOptions::local().staged(4096)));
    for tensor in 0..file.entries().len().min(20) {
        note(open().map_or(Ok(()), |file| file.header(tensor).map(drop)));
    }
    for reading in [&reading, &trusting] {
        if let Some(loaded) = open().and_then(|file| note(file.load(&all, reading))) {
            for tensor in loaded.iter() {
                assert_eq!(tensor.bytes().len() as u64, tensor.entry().byte_len());
            }
        }
        let Ok(pool) = HeapPool::new(8192, 1) else { return true };
        let consume = |piece: Piece| {
            for (part, bytes) in piece.parts() {
                assert_eq!(part.len, bytes.len());
            }
            Ok(())
        };
        note(open().map_or(Ok(()), |file| file.stream(&all, reading, &pool, &consume).map(drop)));
    }
    note(open().map_or(Ok(()), |file| file.verify(&all, &reading).map(drop)));
    let zeros = file.entries().iter().filter(|entry| entry.is_meta());
    let zeros = zeros.fold(0_u64, |sum, entry| sum.saturating_add(entry.byte_len()));
    if zeros <= MAX_ZEROS {
        let digests = |file: TensorFile| file.checksum(&all, Algorithm::Crc32, &reading).map(drop);
        note(open().map_or(Ok(()), digests));
    }
    if let Some(mapped) = note(file.map(&all)) {
        for tensor in mapped.iter() {
            assert_eq!(tensor.bytes().len() as u64, tensor.entry().data_len);
        }
    }
    if let Some(name) = file.entries().first().map(|entry| entry.path.to_string()) {
        note(open().map_or(Ok(()), |file| file.load_one(&name, &reading).map(drop)));
    }
    true
}

/// Prints an error: that must not fail either.
fn print(error: &IoError) {
    let _ = format!("{error} {error:?}");
}

fn note<T>(result: Result<T, IoError>) -> Option<T> {
    result.map_err(|error| print(&error)).ok()
}
