//! Writes the seed corpus from `fixtures/foreign`: `fuzz/seed.sh` runs it. Indices are written again without their
//! 256 KiB of zeros, because a fuzzer spends its time on small inputs.

use std::fs;
use std::path::Path;

use tz_format::{FrontDecoder, Limits, Step, TensorSpec, testing};

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seed = |target: &str, name: &str, bytes: &[u8]| {
        let folder = root.join("corpus").join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)
    };
    for fixture in fs::read_dir(root.join("../fixtures/foreign"))? {
        let path = fixture?.path();
        if path.extension().is_none_or(|extension| extension != "tensors") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file = fs::read(&path)?;
        let Ok(Step::Done(front)) = FrontDecoder::new(Limits::default()).step(&file) else {
            panic!("{name} is a valid file");
        };
        let mut specs = Vec::new();
        for (i, entry) in front.entries.iter().enumerate() {
            seed("tensor_path", &format!("{name}-{i}"), &entry.path.to_wire())?;
            seed("tensor_path", &format!("{name}-{i}-dtype"), entry.dtype.to_wire().as_bytes())?;
            let bytes = file.get(entry.header_offset as usize..entry.data_offset as usize);
            let bytes = bytes.unwrap_or_default();
            let flavour = u8::from(front.header.flags.encrypted);
            seed("tensor_header", &format!("{name}-{i}"), &[&[flavour], bytes].concat())?;
            if front.header.flags.encrypted {
                let block = &bytes[crypt_block_at(bytes)..bytes.len() - 8];
                seed("crypt_info", &format!("{name}-{i}"), &[&[0], block].concat())?;
            }
            let mut spec = TensorSpec::new(entry.path.clone(), entry.dtype, entry.shape.clone());
            spec.kind = entry.kind;
            specs.push(spec);
        }
        let small =
            specs.into_iter().filter(|spec| spec.shape.iter().product::<u64>() < 300).collect();
        seed("front", &name, &testing::build(small, tz_fuzz::options(0)))?;
    }
    for flavour in 0..4 {
        let name = format!("flavour-{flavour}");
        let (_, _, header) = tz_fuzz::header(flavour);
        seed("tensor_header", &name, &[&[flavour], header.as_slice()].concat())?;
        seed("crypt_info", &name, &[&[flavour + 2], &header[27..header.len() - 8]].concat())?;
        seed("front", &name, &testing::build(testing::specs(), tz_fuzz::options(flavour)))?;
        seed("round_trip", &name, &testing::paint(200 * u64::from(flavour)))?;
    }
    let mut options = tz_fuzz::options(0);
    options.extension.writer = Some("tz".to_owned());
    options.extension.blake3 = Some(vec![[1; 32]; 2]);
    let metadata = "{\"a\":[1,2.5,true,null,{\"b\":\"\\u00e9\"}]}";
    options.extension.user_metadata = serde_json::from_str(metadata).ok();
    let block = testing::encode_extension(&options.extension);
    seed("extension", "plain", &[&[2], &*block].concat())?;
    let sealed = testing::encode_extension(&tz_fuzz::options(3).extension);
    seed("extension", "sealed", &[&[2], &*sealed].concat())
}

/// Behind name, dtype, shape and hash block of a header with short dimensions.
fn crypt_block_at(header: &[u8]) -> usize {
    let u16_at = |at: usize| usize::from(header[at]) | usize::from(header[at + 1]) << 8;
    let dtype_at = 13 + u16_at(11);
    let rank_at = dtype_at + 1 + usize::from(header[dtype_at]);
    let hashes_at = rank_at + 1 + 4 * usize::from(header[rank_at]);
    hashes_at + 2 + u16_at(hashes_at)
}
