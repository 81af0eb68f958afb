//! Seeds of the codec's targets, from `fixtures/foreign`. Indices are written again without their 256 KiB of zeros,
//! because a fuzzer spends its time on small inputs.

use std::io;

use fuzz_harness::{header, of_entry, options, tensors_in};
use tz_format::{FrontDecoder, Limits, Step, TensorSpec, testing};

use crate::Corpus;

pub(crate) fn write(corpus: &Corpus) -> io::Result<()> {
    for (name, file) in tensors_in("foreign") {
        of_fixture(corpus, &name, &file)?;
    }
    for flavour in 0..4 {
        let name = format!("flavour-{flavour}");
        let (_, _, header) = header(flavour);
        corpus.seed("tensor_header", &name, &[&[flavour], header.as_slice()].concat())?;
        corpus.seed(
            "crypt_info",
            &name,
            &[&[flavour + 2], &header[27..header.len() - 8]].concat(),
        )?;
        corpus.seed("front", &name, &testing::build(testing::specs(), options(flavour)))?;
        corpus.seed("round_trip", &name, &testing::paint(200 * u64::from(flavour)))?;
    }
    let mut options = options(0);
    options.extension.writer = Some("tz".to_owned());
    options.extension.blake3 = Some(vec![[1; 32]; 2]);
    let metadata = "{\"a\":[1,2.5,true,null,{\"b\":\"\\u00e9\"}]}";
    options.extension.user_metadata = serde_json::from_str(metadata).ok();
    let block = testing::encode_extension(&options.extension);
    corpus.seed("extension", "plain", &[&[2], &*block].concat())?;
    let sealed = testing::encode_extension(&fuzz_harness::options(3).extension);
    corpus.seed("extension", "sealed", &[&[2], &*sealed].concat())
}

fn of_fixture(corpus: &Corpus, name: &str, file: &[u8]) -> io::Result<()> {
    let Ok(Step::Done(front)) = FrontDecoder::new(Limits::default()).step(file) else {
        panic!("{name} is a valid file");
    };
    let mut specs = Vec::new();
    for (i, entry) in front.entries.iter().enumerate() {
        corpus.seed("tensor_path", &format!("{name}-{i}"), &entry.path.to_wire())?;
        let dtype = entry.dtype.to_wire();
        corpus.seed("tensor_path", &format!("{name}-{i}-dtype"), dtype.as_bytes())?;
        let bytes = of_entry(file, entry);
        let flavour = u8::from(front.header.flags.encrypted);
        corpus.seed("tensor_header", &format!("{name}-{i}"), &[&[flavour], bytes].concat())?;
        if front.header.flags.encrypted {
            let block = &bytes[crypt_block_at(bytes)..bytes.len() - 8];
            corpus.seed("crypt_info", &format!("{name}-{i}"), &[&[0], block].concat())?;
        }
        let mut spec = TensorSpec::new(entry.path.clone(), entry.dtype, entry.shape.clone());
        spec.kind = entry.kind;
        specs.push(spec);
    }
    let small = specs.into_iter().filter(|spec| spec.shape.iter().product::<u64>() < 300).collect();
    let file = testing::build(small, options(0));
    corpus.seed("front", name, &file)?;
    corpus.seed("read", name, &[&[0], &*file].concat())
}

/// Behind name, dtype, shape and hash block of a header with short dimensions.
fn crypt_block_at(header: &[u8]) -> usize {
    let u16_at = |at: usize| usize::from(header[at]) | usize::from(header[at + 1]) << 8;
    let dtype_at = 13 + u16_at(11);
    let rank_at = dtype_at + 1 + usize::from(header[dtype_at]);
    let hashes_at = rank_at + 1 + 4 * usize::from(header[rank_at]);
    hashes_at + 2 + u16_at(hashes_at)
}
