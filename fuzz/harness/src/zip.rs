//! Zip archives of stored entries, as `torch.save` makes them. Owns nothing.

/// An archive of these entries. Sums of their bytes are left out: no reader of checkpoints looks at them.
pub(crate) fn stored(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let small = |len: usize| u32::try_from(len).expect("a small archive").to_le_bytes();
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let offset = small(file.len());
        let mut common = [0; 10].to_vec();
        common.extend([0; 4]);
        common.extend([small(data.len()), small(data.len())].concat());
        common.extend([&small(name.len())[..2], &[0; 2]].concat());
        directory
            .extend([b"PK\x01\x02\0\0", &*common, &[0; 10], &offset, name.as_bytes()].concat());
        file.extend([b"PK\x03\x04", &*common, name.as_bytes(), data].concat());
    }
    let count = &small(entries.len())[..2];
    let (len, start) = (small(directory.len()), small(file.len()));
    file.extend([&*directory, b"PK\x05\x06\0\0\0\0", count, count, &len, &start, &[0; 2]].concat());
    file
}
