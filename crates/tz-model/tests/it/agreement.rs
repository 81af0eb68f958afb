//! The `safetensors` library is the judge: what it accepts is accepted, what it refuses is refused.

use proptest::prelude::*;
use safetensors::SafeTensors;
use tz_model::{Checkpoint, to_safetensors};

use crate::support::{bytes_file, contents, write};

/// A valid file with a few bytes of its header or length changed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let file = bytes_file(&[("a", 3), ("bb", 0), ("c", 5)]);
    let len = file.len();
    let replacement =
        prop_oneof![any::<u8>(), prop::sample::select(b"0123456789[]{}\",:abUFI ".to_vec()),];
    let changes = prop::collection::vec((0..len, replacement), 0..3);
    (changes, 0..4_usize).prop_map(move |(changes, cut)| {
        let mut file = file.clone();
        for (at, byte) in changes {
            file[at] = byte;
        }
        file.truncate(len - cut / 3);
        file
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn same_verdict_and_same_bytes(file in mutated()) {
        let dir = tempfile::tempdir().expect("directory");
        write(dir.path(), "model.safetensors", &file);
        let own = Checkpoint::open(dir.path());
        match SafeTensors::deserialize(&file) {
            Err(_) => prop_assert!(own.is_err(), "{:?}", own.map(|c| c.tensors().to_vec())),
            Ok(judge) => {
                // The library lets the last of two equal names win; such a file is refused here.
                let Ok(own) = own else {
                    let text = String::from_utf8_lossy(&file);
                    prop_assert!(text.contains("F4") || text.contains("F6") || twice(&text));
                    return Ok(());
                };
                prop_assert_eq!(own.tensors().len(), judge.len());
                for (i, tensor) in own.tensors().iter().enumerate() {
                    let view = judge.tensor(&tensor.name).expect("same names");
                    prop_assert_eq!(to_safetensors(tensor.dtype), Some(view.dtype()));
                    prop_assert_eq!(contents(&own, i), view.data());
                }
            }
        }
    }
}

fn twice(text: &str) -> bool {
    ["\"a\":{", "\"bb\":{", "\"c\":{"].iter().any(|key| text.matches(key).count() > 1)
}
