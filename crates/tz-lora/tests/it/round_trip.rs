//! What was packed comes back: the same files for safetensors, the same tensors for everything else.

use std::path::Path;

use tz_io::{OpenOptions, ReadOptions, WriteOptions};
use tz_lora::{Adapter, Error, Forms, PackedAdapter};
use tz_model::Checkpoint;

use crate::support::{CONFIG, Peft, Tensor, at, listing, read, safetensors, tensors, with_header};

fn there_and_back(peft: &Peft) -> std::path::PathBuf {
    let (packed, back) = (peft.beside("packed"), peft.beside("back"));
    let adapter = Adapter::open(&peft.dir).expect("adapter");
    adapter.pack(&at(&packed), &WriteOptions::default()).expect("pack");
    unpack(&packed, &back).expect("unpack");
    back
}

fn unpack(packed: &Path, back: &Path) -> Result<(), Error> {
    let packed = PackedAdapter::open(&at(packed), &OpenOptions::default())?;
    packed.unpack(&at(back), &ReadOptions::default(), &WriteOptions::default())?;
    Ok(())
}

#[track_caller]
fn comes_back(config: &str, weights: &[u8]) -> Peft {
    let peft = Peft::new(config, weights);
    let back = there_and_back(&peft);
    assert_eq!(listing(&back), ["adapter_config.json", "adapter_model.safetensors"]);
    assert_eq!(read(&back, "adapter_config.json"), config.as_bytes());
    assert_eq!(read(&back, "adapter_model.safetensors"), weights);
    peft
}

/// Length of the front of the packed file: shows whether a header is kept in it.
fn index_len(peft: &Peft) -> u64 {
    let folder = at(&peft.beside("packed"));
    let packed = PackedAdapter::open(&folder, &OpenOptions::default()).expect("adapter");
    packed.file().front().header.index_len
}

#[test]
fn the_librarys_own_file_needs_no_header_kept() {
    let peft = comes_back(CONFIG, &safetensors(&tensors()));
    let folder = at(&peft.beside("packed"));
    let packed = PackedAdapter::open(&folder, &OpenOptions::default()).unwrap();
    let metadata = packed.file().front().extension.user_metadata.clone().unwrap();
    assert_eq!(serde_json::Value::Object(metadata), serde_json::json!({"format": "pt"}));
}

#[test]
fn dtypes_of_several_widths_come_back_in_the_librarys_order() {
    let mut list = tensors();
    list[1].1 = "F32";
    list[3].1 = "F8_E4M3";
    // By falling width of the dtype.
    list.swap(0, 1);
    comes_back(CONFIG, &safetensors(&list));
}

#[test]
fn headers_of_other_libraries_come_back() {
    let usual = peft_index_len();
    let a = r#""q.lora_A.weight": {"shape": [1, 2], "dtype": "F16", "data_offsets": [4, 8]}"#;
    let b = r#""q.lora_B.weight": {"shape": [2, 1], "dtype": "F16", "data_offsets": [0, 4]}"#;
    let metadata = r#""__metadata__": {"z": "1", "a": "2"}"#;
    for header in [
        format!("{{{a}, {b}}}"),
        format!("{{{b}, {a}, {metadata}}}   "),
        format!("{{\n {metadata},\n {a},\n {b}\n}}"),
    ] {
        let peft = comes_back(CONFIG, &with_header(&header, 8));
        assert!(index_len(&peft) < usual + 1024, "two tensors and a short header");
    }
}

fn peft_index_len() -> u64 {
    let peft = Peft::usual();
    there_and_back(&peft);
    index_len(&peft)
}

#[test]
fn a_file_without_metadata_comes_back_without() {
    let header = r#"{"q.lora_A.weight":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]}}"#;
    comes_back(CONFIG, &with_header(&format!("{header:<72}"), 4));
}

#[test]
fn empty_tensors_come_back() {
    let mut list = tensors();
    list.insert(0, ("a.lora_A.weight".to_owned(), "BF16", vec![0, 4]));
    list.push(("z.lora_B.weight".to_owned(), "BF16", vec![4, 0]));
    comes_back(CONFIG, &safetensors(&list));
}

#[test]
fn a_header_too_long_to_keep_gives_equal_tensors() {
    let mut list: Vec<Tensor> = Vec::new();
    for i in 0..9000 {
        list.push((format!("m{i:05}.{}.lora_A.weight", "x".repeat(40)), "F16", vec![1, 1]));
    }
    let library = safetensors(&list);
    let (len, rest) = library.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(usize::try_from(u64::from_le_bytes(*len)).unwrap());
    // Spaces where the library has none.
    let header = format!("{}        ", std::str::from_utf8(header).unwrap());
    let weights = with_header(&header, data.len() as u64);
    let peft = Peft::new(CONFIG, &weights);
    let back = there_and_back(&peft);
    assert_ne!(read(&back, "adapter_model.safetensors"), weights);
    same_tensors(
        &peft.dir.join("adapter_model.safetensors"),
        &back.join("adapter_model.safetensors"),
    );
}

#[track_caller]
fn same_tensors(a: &Path, b: &Path) {
    let (a, b) =
        (Checkpoint::open(a).expect("checkpoint"), Checkpoint::open(b).expect("checkpoint"));
    assert_eq!(a.tensors().len(), b.tensors().len());
    for (i, tensor) in a.tensors().iter().enumerate() {
        let other = b.find(&tensor.name).expect("found");
        let spec = |checkpoint: &Checkpoint, at: usize| checkpoint.specs()[at].clone();
        assert_eq!(spec(&a, i), spec(&b, other));
        let content = |checkpoint: &Checkpoint, at: usize| {
            let mut bytes = vec![0; usize::try_from(tensor.byte_len).expect("fits")];
            checkpoint.read_at(at, 0, &mut bytes).expect("read");
            bytes
        };
        assert_eq!(content(&a, i), content(&b, other), "{}", tensor.name);
    }
}

/// A file of real torch in the place of an adapter's weights; its tensors are no pairs, but nothing here asks.
#[test]
fn weights_of_torch_become_one_and_the_same_safetensors_file() {
    let torch =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/foreign/torch/state_dict.bin");
    let peft = Peft::usual();
    std::fs::remove_file(peft.dir.join("adapter_model.safetensors")).unwrap();
    std::fs::copy(&torch, peft.dir.join("adapter_model.bin")).unwrap();
    let both = peft.beside("both");
    let adapter = Adapter::open(&peft.dir).unwrap();
    adapter.publish(&at(&both), Forms::BOTH, &WriteOptions::default()).unwrap();
    same_tensors(&torch, &both.join("adapter_model.safetensors"));
    let back = peft.beside("back");
    unpack(&both, &back).unwrap();
    let name = "adapter_model.safetensors";
    assert_eq!(read(&back, name), read(&both, name));
}

#[test]
fn a_header_of_other_tensors_is_refused() {
    let peft = Peft::usual();
    let header = |text: &str| {
        let mut options = WriteOptions::default();
        let metadata = serde_json::json!({"tz-lora.safetensors-header": text});
        options.user_metadata = Some(metadata.as_object().unwrap().clone());
        let packed = peft.beside("packed");
        let adapter = Adapter::open(&peft.dir).unwrap();
        adapter.pack(&at(&packed), &options).unwrap();
        unpack(&packed, &peft.beside("back")).unwrap_err().to_string()
    };
    let good =
        String::from_utf8_lossy(&read(&peft.dir, "adapter_model.safetensors")[8..]).into_owned();
    let good = good.split_inclusive('}').take(6).collect::<String>();
    for (text, expect) in [
        ("{".to_owned(), "is damaged"),
        (good.replace("q_proj", "k_proj"), "names other tensors"),
        (good.replacen("BF16", "F16", 1), "another type or shape"),
        (good.replacen("[4,24]", "[24,4]", 1), "another type or shape"),
        (good.replacen("[0,192]", "[0,190]", 1), "is damaged"),
    ] {
        let error = header(&text);
        assert!(error.contains(expect), "{text}: {error}");
        assert_eq!(listing(&peft.beside("back")), [""; 0], "{text}");
    }
}
