//! What is planned and written is what is read: random tensors, names and options.

use proptest::prelude::*;
use tz_format::{
    CipherPlan, Dtype, Element, Extension, HashKind, LayoutOptions, PathKey, Profile, TensorKind,
    TensorPath, TensorSpec, Version, testing,
};

use crate::files::{argon2id, compat, plain_extension, seal};
use crate::manifest::{data, front, header, header_bytes};

/// Names that have gone wrong somewhere: quotes, controls, marks, non-ASCII, and anything else.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,8}(\\.[a-z0-9]{1,6}){0,4}",
        "[\\x00-\\x1f\"\\\\/\u{7f}é名\u{1f600}]{0,12}",
        any::<String>(),
    ]
}

fn key() -> impl Strategy<Value = PathKey> {
    prop_oneof![name().prop_map(PathKey::Name), any::<u64>().prop_map(PathKey::Index)]
}

/// Shapes that paint quickly; a zero somewhere allows dimensions of any size beside it.
fn shape() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        4 => prop::collection::vec(0..5_u64, 0..5),
        1 => prop::collection::vec(1..2_u64, 255),
        1 => prop::collection::vec(any::<u64>(), 1..4).prop_map(|mut dims| {
            dims.push(0);
            dims
        }),
    ]
}

fn dtype() -> impl Strategy<Value = Dtype> {
    let big = ">f4,>f8,>i2,>u8,>c16".split(',').map(|text| Dtype::from_wire(text).expect(text));
    let all = Element::ALL.iter().copied().map(Dtype::from).chain(big);
    prop::sample::select(all.collect::<Vec<_>>())
}

/// Specs whose paths cannot conflict, because each begins with a name of its own.
fn specs() -> impl Strategy<Value = Vec<TensorSpec>> {
    let kinds = [TensorKind::Parameter, TensorKind::Buffer, TensorKind::StateDict];
    let spec = (
        name(),
        prop::collection::vec(key(), 0..4),
        prop::sample::select(kinds.to_vec()),
        any::<u16>(),
        dtype(),
        shape(),
        any::<bool>(),
    );
    prop::collection::vec(spec, 1..6).prop_map(|rows| {
        let build = |(i, row): (usize, _)| {
            let (name, rest, kind, module_index, dtype, shape, meta): (
                String,
                Vec<_>,
                _,
                _,
                _,
                Vec<u64>,
                _,
            ) = row;
            let mut keys = vec![PathKey::Name(format!("{name}{i}"))];
            keys.extend(rest);
            let path = TensorPath::new(keys).expect("keys");
            let kind = if path.plain().is_some() { kind } else { TensorKind::StateDict };
            let meta = meta && !shape.is_empty() && !shape.contains(&0);
            TensorSpec { path, kind, module_index, dtype, shape, meta }
        };
        rows.into_iter().enumerate().map(build).collect()
    })
}

fn options(tensors: usize) -> impl Strategy<Value = LayoutOptions> {
    let alignment = prop::sample::select(vec![1_u64, 2, 64, 512, 4096]);
    let hashes = prop::sample::subsequence(vec![HashKind::Sha256, HashKind::Crc32], 0..=2);
    (alignment, hashes, 0..4_u8, any::<bool>()).prop_map(
        move |(alignment, hashes, cipher, extended)| {
            let mut options = LayoutOptions::default();
            options.alignment = alignment;
            options.hashes = hashes;
            if extended {
                options.extension = plain_extension(tensors);
            }
            match cipher {
                0 => {}
                1 => options.cipher = Some(compat(None)),
                2 => options.cipher = Some(compat(Some(argon2id()))),
                _ => {
                    options.extension.blake3 = None;
                    seal(&mut options);
                }
            }
            options
        },
    )
}

/// The lowest version that may hold the specs, by the table of `docs/FORMAT.md`.
fn lowest_version(specs: &[TensorSpec], options: &LayoutOptions) -> Version {
    let mut lowest = Version::V1;
    for spec in specs {
        let needs = [
            (spec.dtype.is_opaque(), Version::V2),
            (spec.meta, Version::V4),
            (spec.shape.iter().any(|&dim| dim >= 1 << 32), Version::V5),
        ];
        lowest = needs.into_iter().filter(|(yes, _)| *yes).map(|(_, v)| v).fold(lowest, Ord::max);
    }
    match options.cipher {
        None => lowest,
        Some(CipherPlan::Sealed { .. }) => lowest.max(Version::V4),
        Some(CipherPlan::XSalsa20Chunked { .. }) => lowest.max(Version::V3),
    }
}

fn file() -> impl Strategy<Value = (Vec<TensorSpec>, LayoutOptions)> {
    specs().prop_flat_map(|specs| {
        let tensors = specs.len();
        (Just(specs), options(tensors))
    })
}

proptest! {
    #[test]
    fn f05_what_is_planned_is_what_is_read((specs, options) in file()) {
        let file = testing::build(specs.clone(), options.clone());
        let front = front(&file);
        prop_assert_eq!(front.header.version, lowest_version(&specs, &options));
        prop_assert_eq!(front.header.flags.encrypted, options.cipher.is_some());
        prop_assert_eq!(&front.extension, &options.extension);
        prop_assert_eq!(front.data_end() + 8, file.len() as u64);
        prop_assert_eq!(front.entries.len(), specs.len());
        for (entry, spec) in front.entries.iter().zip(&specs) {
            prop_assert_eq!(
                (&entry.path, entry.kind, entry.dtype, &entry.shape),
                (&spec.path, spec.kind, spec.dtype, &spec.shape)
            );
            prop_assert_eq!(entry.is_meta(), spec.meta);
            prop_assert_eq!(data(&file, entry), testing::paint(entry.data_len));
            if entry.data_len > 0 {
                prop_assert_eq!(entry.data_offset % options.alignment, 0);
            }
            let header = header(&file, entry, front.header.flags);
            prop_assert_eq!(header.module_index, spec.module_index);
            let kinds: Vec<_> = header.hashes.iter().map(tz_format::TensorHash::kind).collect();
            prop_assert_eq!(&kinds, &options.hashes);
            let template = options.cipher.as_ref().map(|plan| plan.template(entry.data_len));
            prop_assert_eq!(&header.crypt, &template);
        }
    }

    #[test]
    fn what_is_read_is_written_back((specs, options) in file()) {
        let file = testing::build(specs, options);
        let front = front(&file);
        prop_assert!(file.starts_with(&testing::encode_front(&front)));
        for entry in &front.entries {
            let header = header(&file, entry, front.header.flags);
            let written = testing::encode_header(&header, entry);
            prop_assert_eq!(written.as_deref(), Ok(header_bytes(&file, entry)));
        }
    }

    #[test]
    fn floats_of_user_metadata_survive(float in prop::num::f64::NORMAL) {
        let mut extension = Extension::default();
        extension.user_metadata = serde_json::json!({ "k": float }).as_object().cloned();
        let read = testing::decode_extension(&testing::encode_extension(&extension), 1);
        prop_assert_eq!(read, Ok(extension));
    }

    #[test]
    fn f06_every_path_survives_its_wire_form(keys in prop::collection::vec(key(), 1..6)) {
        let path = TensorPath::new(keys).expect("keys");
        let wire = path.to_wire();
        prop_assert_eq!(TensorPath::from_wire(&wire), Ok(path.clone()));
        let plain = path.plain().filter(|name| !name.is_empty() && !name.starts_with('\u{1e}'));
        match plain {
            Some(name) => prop_assert_eq!(wire, name.as_bytes()),
            None => prop_assert!(wire.starts_with(b"\x1e[") && wire.is_ascii()),
        }
    }
}

#[test]
fn f07_lengths_at_their_widths_survive() {
    let longest = "n".repeat(65_535);
    let mut deep = TensorSpec::new("deep", Element::Uint8, vec![1; 255]);
    deep.shape[254] = u64::from(u32::MAX);
    deep.meta = true;
    let specs = vec![TensorSpec::new(longest.clone(), Element::Int64, vec![3]), deep.clone()];
    let file = testing::build(specs, LayoutOptions::default());
    let front = front(&file);
    assert_eq!(front.entries[0].path.plain(), Some(&*longest));
    assert_eq!(front.entries[1].shape, deep.shape);
    for entry in &front.entries {
        header(&file, entry, front.header.flags);
    }
}

#[test]
fn extension_offsets_point_at_the_bytes() {
    let mut options = LayoutOptions::default();
    options.extension.writer = Some("tz".to_owned());
    seal(&mut options);
    let expect: Extension = options.extension.clone();
    let file = testing::build(testing::specs(), options);
    let front = front(&file);
    assert_eq!(front.header.flags.profile(), Profile::Sealed);
    let bytes = |range: Option<std::ops::Range<u64>>| {
        let range = range.expect("sealed");
        file[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()].to_vec()
    };
    assert_eq!(Some(bytes(front.key_slots_at())), expect.key_slots);
    assert_eq!(bytes(front.metadata_mac_at()), expect.metadata_mac.expect("mac"));
    assert_eq!(front.metadata_mac_at().map(|range| range.end), Some(front.header.front_len()));
}
