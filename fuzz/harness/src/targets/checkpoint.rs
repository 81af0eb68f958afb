//! Checkpoints as users have them, by `tz-model`: safetensors, PyTorch's archives, indices of shards.

use std::path::Path;

use tz_model::Checkpoint;

use crate::guard::Bound;
use crate::scratch::Scratch;
use crate::target::Target;
use crate::zip;

/// Most bytes of a tensor that are read.
const MAX_READ: u64 = 4096;

/// Any bytes as a safetensors file; the first chooses between them and a file with them as its header.
pub const SAFETENSORS: Target = Target {
    name: "safetensors",
    run: safetensors,
    bound: Bound { base: 256 << 10, per_byte: 128, resident: false },
};

fn safetensors(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let scratch = Scratch::new();
    let path = scratch.write(
        "model.safetensors",
        if how & 1 == 0 { rest.to_vec() } else { with_header(how, rest) },
    );
    open_and_read(&path);
}

/// A file with this header and some zeros as data.
pub(crate) fn with_header(data_len: u8, header: &[u8]) -> Vec<u8> {
    let data = vec![0; usize::from(data_len & !1)];
    [&(header.len() as u64).to_le_bytes(), header, &data].concat()
}

/// Opens a checkpoint and reads the ends of every tensor.
fn open_and_read(path: &Path) {
    let checkpoint = match Checkpoint::open(path) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return drop(format!("{error} {error:?}")),
    };
    let files: u64 = checkpoint.files().iter().map(|file| file.byte_len()).sum();
    let mut buf = Vec::new();
    for (i, (tensor, spec)) in checkpoint.tensors().iter().zip(checkpoint.specs()).enumerate() {
        assert!(tensor.byte_len <= files, "{} is longer than its file", tensor.name);
        assert_eq!(checkpoint.find(&tensor.name), Some(i));
        assert_eq!(spec.shape, tensor.shape);
        buf.resize(usize::try_from(tensor.byte_len.min(MAX_READ)).expect("small"), 0);
        checkpoint.read_at(i, 0, &mut buf).expect("within the file");
        let end = tensor.byte_len - buf.len() as u64;
        checkpoint.read_at(i, end, &mut buf).expect("within the file");
        let beyond = checkpoint.read_at(i, end, &mut vec![0; buf.len() + 1]);
        assert!(beyond.is_err(), "{}: a byte beyond the tensor", tensor.name);
    }
}

/// Any bytes as PyTorch's archive; the first chooses between them and an archive with them as its pickle.
pub const TORCH: Target = Target {
    name: "torch",
    run: torch,
    // A pickle may name one value often: up to 256 MiB of names and visits (`MAX_BYTES` of its flattening).
    bound: Bound { base: 512 << 20, per_byte: 256, resident: false },
};

fn torch(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let scratch = Scratch::new();
    let file = if how & 1 == 0 {
        rest.to_vec()
    } else {
        let storage = [0; 256];
        let entries: [(&str, &[u8]); 5] = [
            ("m/data.pkl", rest),
            ("m/byteorder", b"little"),
            ("m/data/0", &storage),
            ("m/data/1", &storage),
            ("m/data/2", &storage[..8]),
        ];
        zip::stored(&entries)
    };
    open_and_read(&scratch.write("model.bin", file));
}

/// Any bytes as the index of two valid shards.
pub const SHARD_INDEX: Target = Target {
    name: "shard_index",
    run: shard_index,
    bound: Bound { base: 256 << 10, per_byte: 128, resident: false },
};

fn shard_index(data: &[u8]) {
    let scratch = Scratch::new();
    for (shard, names) in [("a.safetensors", ["x", "y"]), ("b.safetensors", ["z", "w"])] {
        let tensor = |(at, name)| {
            format!(
                "\"{name}\":{{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[{},{}]}}",
                at * 2,
                at * 2 + 2
            )
        };
        let header: Vec<String> = names.iter().enumerate().map(tensor).collect();
        scratch.write(shard, with_header(4, format!("{{{}}}", header.join(",")).as_bytes()));
    }
    scratch.write("model.safetensors.index.json", data);
    open_and_read(scratch.path());
}
