//! Writes the published vectors of the sealed profile and their manifest: `sealed_vectors fixtures/sealed`.
//!
//! A file that is there already must be equal: published vectors never change.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tz_crypto::Secret;
use tz_crypto::testing::{Expect, PASSPHRASE, Vector, contents, decode_front, vectors};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args().nth(1).ok_or("usage: sealed_vectors FOLDER")?;
    let mut files = serde_json::Map::new();
    for vector in vectors()? {
        let name = format!("{}.tensors", vector.name);
        let path = Path::new(&folder).join(&name);
        if !path.exists() {
            fs::write(&path, &vector.file)?;
        } else if fs::read(&path)? != vector.file {
            return Err(format!("{name} differs from what was published").into());
        }
        files.insert(name, describe(&vector)?);
    }
    let manifest = serde_json::to_string_pretty(&files)? + "\n";
    fs::write(Path::new(&folder).join("manifest.json"), manifest)?;
    Ok(())
}

fn describe(vector: &Vector) -> Result<Value, Box<dyn Error>> {
    let front = decode_front(&vector.file)?;
    let tensors = front.entries.iter().enumerate().map(|(index, entry)| {
        json!({
            "name": entry.path.to_string(),
            "bytes": entry.data_len,
            "sha256": hex(&Sha256::digest(contents(index, entry.data_len))),
        })
    });
    let tensors: Vec<Value> = match vector.expect {
        Expect::Opens => tensors.collect(),
        _ => Vec::new(),
    };
    Ok(json!({
        "shows": vector.shows,
        "expect": vector.expect.name(),
        "sha256": hex(&Sha256::digest(&vector.file)),
        "secrets": vector.secrets.iter().map(secret).collect::<Vec<_>>(),
        "tensors": tensors,
    }))
}

fn secret(secret: &Secret) -> Value {
    match secret {
        Secret::Key(key) => json!({ "key_hex": hex(key.as_bytes()) }),
        Secret::Passphrase(_) => json!({ "passphrase": PASSPHRASE }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
