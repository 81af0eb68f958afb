//! Models and settings that the tests share.

use std::fs;
use std::path::Path;

use tz_model::hub::{HubOptions, Token};

use crate::server::{COMMIT, File, Listing, Model, Server};

pub(crate) const ID: &str = "facebook/opt-tiny";

/// A safetensors file of one tensor of `len` bytes.
pub(crate) fn safetensors(name: &str, len: usize) -> Vec<u8> {
    let header =
        format!("{{\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{len}],\"data_offsets\":[0,{len}]}}}}");
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..=250).cycle().take(len));
    file
}

pub(crate) fn model(files: Vec<File>) -> Model {
    Model {
        id: ID,
        revisions: vec!["main"],
        files,
        token: None,
        etag: None,
        commit_of_files: COMMIT,
        sign: "",
        listing: Listing::Usual,
    }
}

/// What most models have, and what nobody needs.
pub(crate) fn usual() -> Model {
    model(vec![
        File::new(".gitattributes", "*.bin filter=lfs"),
        File::new("README.md", "# A model"),
        File::new("config.json", "{\"model_type\": \"opt\"}"),
        File::new("tokenizer.json", "{}"),
        File::large("model.safetensors", safetensors("w", 100_000)),
        File::large("pytorch_model.bin", "old"),
        File::large("tf_model.h5", "other"),
        File::large("onnx/model.onnx", "other"),
    ])
}

pub(crate) fn options(cache: &Path, server: &Server) -> HubOptions {
    let mut options = HubOptions::default();
    options.cache = Some(cache.to_owned());
    options.endpoint = Some(server.endpoint());
    options
}

pub(crate) fn with_token(mut options: HubOptions, token: &str) -> HubOptions {
    options.token = Some(Token::new(token));
    options
}

/// Every path below a folder, sorted.
pub(crate) fn tree(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() {
                walk(&path, root, found);
            } else {
                let name = path.strip_prefix(root).expect("below").to_str().expect("UTF-8");
                found.push(name.to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

/// Names in a folder, sorted; none where there is no folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("UTF-8")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}
