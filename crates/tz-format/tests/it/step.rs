//! The front decoder needs no more than it says, and any split of the input gives the same result.

use tz_format::{Fault, FormatError, FrontDecoder, Limits, Step, TensorHeader};

use crate::files::generated;
use crate::manifest::{fixtures, front, header_bytes};

fn every_file() -> Vec<(String, Vec<u8>)> {
    let ours = generated().into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
    ours.chain(fixtures().into_iter().map(|fixture| (fixture.name, fixture.bytes))).collect()
}

#[test]
fn f08_every_prefix_of_a_valid_file_is_a_step() {
    let decoder = FrontDecoder::new(Limits::default());
    for (name, file) in every_file() {
        let expect = front(&file);
        let front_len = usize::try_from(expect.header.front_len()).unwrap();
        // Byte by byte; the reference's indices are mostly zeros, which are fed in larger bites.
        let bites =
            (0..front_len).filter(|len| *len < 4096 || len % 251 == 0 || len + 64 > front_len);
        for len in bites {
            let Ok(Step::Need(range)) = decoder.step(&file[..len]) else {
                panic!("{name}: {len} of {front_len} bytes: {:?}", decoder.step(&file[..len]));
            };
            // Always the file's first bytes, more than are there, and never more than the front.
            let need = if len < 73 { 73 } else { front_len };
            assert_eq!(range, 0..need as u64, "{name}: {len}");
        }
        for len in [front_len, front_len + 1, file.len()] {
            assert_eq!(decoder.step(&file[..len]), Ok(Step::Done(expect.clone())), "{name}: {len}");
        }
    }
}

/// The first byte is enough: nothing more is fetched of what cannot be a file of this format.
#[test]
fn another_kind_of_file_is_refused_at_its_first_byte() {
    let decoder = FrontDecoder::new(Limits::default());
    for prefix in [&b"P"[..], b"|T-", b"|TZR_"] {
        assert_eq!(decoder.step(prefix), Err(FormatError::NotTensors), "{prefix:?}");
    }
}

#[test]
fn the_loop_ends_after_two_needs() {
    for (name, file) in every_file() {
        let decoder = FrontDecoder::new(Limits::default());
        let (mut have, mut needs) = (0, 0);
        let done = loop {
            match decoder.step(&file[..have]).expect(&name) {
                Step::Need(range) => {
                    (have, needs) = (usize::try_from(range.end).unwrap(), needs + 1)
                }
                Step::Done(front) => break front,
            }
        };
        assert_eq!((done, needs), (front(&file), 2), "{name}");
    }
}

/// Wherever a file is cut: before the end of the front the decoder asks for more, after it the tensors that are
/// not all there are named, and a header cut short is refused.
#[test]
fn f09_every_truncation_is_noticed() {
    for (name, file) in every_file() {
        let front = front(&file);
        // Every length of a small file, the places where something changes of a large one.
        let edges = front.entries.iter().flat_map(|entry| {
            [entry.header_offset, entry.data_offset, entry.data_end()]
                .into_iter()
                .flat_map(|edge| edge.saturating_sub(1)..edge + 2)
        });
        let small = file.len() < 100_000;
        let all = front.header.front_len()..front.data_end();
        let cuts: Vec<u64> = if small { all.clone().collect() } else { edges.collect() };
        for len in cuts.into_iter().filter(|len| all.contains(len)) {
            let cut = front.entries.iter().find(|entry| entry.data_end() > len).expect("cut");
            match front.check_file_len(len) {
                Err(FormatError::Malformed(malformed)) => {
                    assert_eq!(malformed.tensor, Some(cut.path.to_string()), "{name}: {len}");
                    let fault = Fault::OutOfFile { end: cut.data_end(), file_len: len };
                    assert_eq!(malformed.fault, fault, "{name}: {len}");
                }
                other => panic!("{name}: {len}: {other:?}"),
            }
        }
        for len in front.data_end()..front.data_end() + 9 {
            assert_eq!(front.check_file_len(len), Ok(()), "{name}: the terminator is not needed");
        }
        if name == "truncated_data.tensors" {
            continue;
        }
        for entry in &front.entries {
            let header = header_bytes(&file, entry);
            for len in 0..header.len().min(300) {
                let cut = TensorHeader::decode(&header[..len], entry, front.header.flags);
                assert!(matches!(cut, Err(FormatError::Malformed(_))), "{name}: {len}: {cut:?}");
            }
        }
    }
}
