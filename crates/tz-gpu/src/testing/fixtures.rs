//! Every published file to the device and back: the device has to agree with the host. Owns [`run_fixtures`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tz_io::{Key, Location, OpenOptions, Passphrase, ReadOptions, Secret, Selection, TensorFile};

use super::loads;
use crate::device::Device;
use crate::loader::{GpuLoader, GpuOptions};

/// Folders of files under `fixtures/`, and where the secrets of those that are encrypted stand in their manifests.
const FOLDERS: &[(&str, Option<&str>)] =
    &[("valid", None), ("foreign", Some("files")), ("sealed", Some(""))];

/// Loads every file under `root` (`fixtures/` of the repository) to the host and onto `device`. Where the host takes a
/// file the device must have the same bytes; where the host refuses it, so must a load onto the device. Tells
/// `report` the name of each and whether they agree; gives how many were loaded, how many were refused, and how many
/// of either the two did not agree on.
///
/// # Panics
/// Where the folders or their manifests cannot be read.
pub fn run_fixtures<D: Device>(
    device: &D,
    root: &Path,
    mut report: impl FnMut(&str, bool),
) -> (usize, usize, usize) {
    let (mut loaded, mut refused, mut failed) = (0, 0, 0);
    let options = GpuOptions { memory_limit: Some(32 << 20), ..GpuOptions::local() };
    let mut loader = GpuLoader::new(device.clone(), options).expect("a loader");
    for (folder, place) in FOLDERS {
        let folder = root.join(folder);
        let secrets = place.map(|place| secrets(&folder.join("manifest.json"), place));
        let secrets = secrets.unwrap_or_default();
        for path in files(&folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut options = OpenOptions::default();
            options.secrets = secrets.get(&name).cloned().unwrap_or_default();
            let agreed = match agree(&mut loader, &path, &options) {
                Ok(true) => {
                    loaded += 1;
                    true
                }
                Ok(false) => {
                    refused += 1;
                    true
                }
                Err(_) => {
                    failed += 1;
                    false
                }
            };
            report(&name, agreed);
        }
    }
    (loaded, refused, failed)
}

/// Whether host and device both take the file, with the same bytes, or both refuse it; otherwise which tensor or side
/// differs.
fn agree<D: Device>(
    loader: &mut GpuLoader<D>,
    path: &Path,
    options: &OpenOptions,
) -> Result<bool, String> {
    let location = Location::File(path.to_owned());
    let Ok(file) = TensorFile::open_with(&location, options) else { return Ok(false) };
    let all = Selection::all();
    let on_host = file.load(&all, &ReadOptions::default());
    let on_device = loader.load(&file, &all, &ReadOptions::default());
    match (on_host, on_device) {
        (Ok(host), Ok(device)) => {
            let same = host.len() == device.len();
            let differs = host.iter().zip(&device).find(|(expect, tensor)| {
                tensor.to_host().ok() != Some(loads::little_endian(expect))
            });
            match differs {
                None if same => Ok(true),
                None => Err("number of tensors".to_owned()),
                Some((expect, _)) => Err(expect.entry().path.to_string()),
            }
        }
        (Err(_), Err(_)) => Ok(false),
        (Ok(_), Err(error)) => Err(error.to_string()),
        (Err(error), Ok(_)) => Err(error.to_string()),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder of the fixtures");
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "tensors")).collect();
    files.sort();
    files
}

/// Secrets by file name.
fn secrets(manifest: &Path, place: &str) -> BTreeMap<String, Vec<Secret>> {
    let text = std::fs::read_to_string(manifest).expect("the manifest of the fixtures");
    let manifest: Value = serde_json::from_str(&text).expect("a JSON manifest");
    let files = if place.is_empty() { Some(&manifest) } else { manifest.get(place) };
    let files = files.and_then(Value::as_object).expect("a list of files");
    let all = files.iter().map(|(name, facts)| {
        let listed = facts.get("secrets").and_then(Value::as_array);
        let secrets = match listed {
            Some(listed) => listed.iter().filter_map(secret).collect(),
            // A file of the reference is opened by its password where it has one, for the longer way.
            None => secret(facts).into_iter().collect(),
        };
        (name.clone(), secrets)
    });
    all.collect()
}

fn secret(facts: &Value) -> Option<Secret> {
    let text = |field| facts.get(field).and_then(Value::as_str);
    if let Some(password) = text("password").or_else(|| text("passphrase")) {
        return Some(Secret::Passphrase(Passphrase::new(password)));
    }
    let digits = text("key_hex")?;
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let bytes = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok());
    let bytes: Option<Vec<u8>> = bytes.collect();
    Some(Secret::Key(Key::from_bytes(&bytes?).ok()?))
}
