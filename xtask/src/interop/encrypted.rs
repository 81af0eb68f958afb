//! Encryption, both ways: files that `tz-cli encrypt` wrote are read by both versions of the reference, theirs are
//! read by `tz-cli`; the published ones open with their secret and with no other; sealed files open in an
//! independent decoder and are refused by the reference.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::reference::{all_equal, read, read_with};
use super::tensors::{Tensor, same, seen_by_us_with};
use super::{Bench, REFERENCES, lent};
use crate::fixtures::{Expect, Fixture, Manifest};
use crate::product::{self, Checksums, Inspection};
use crate::report::Checks;
use crate::workspace;

/// What an exit code of the command line means: a key is missing or wrong, or authentication failed.
const KEY: i32 = 5;

/// Chunk sizes that we write for the reference: the least that it reads, a common one, its own, one beyond.
const CHUNKS: [&str; 4] = ["1KiB", "64KiB", "2MiB", "16MiB"];
const PRESETS: [&str; 4] = ["min", "interactive", "moderate", "sensitive"];

/// What opens a file, as manifests and scripts give it.
#[derive(Debug, Clone, Deserialize)]
struct Secret {
    key_hex: Option<String>,
    passphrase: Option<String>,
}

/// One file as `encrypted.py` wrote it.
#[derive(Debug, Deserialize)]
struct Written {
    file: PathBuf,
    name: String,
    tensors: Vec<Tensor>,
    #[serde(flatten)]
    secret: Secret,
}

pub(super) fn check(bench: &Bench<'_>, checks: &mut Checks) {
    for version in REFERENCES {
        let mut files: Vec<Written> = Vec::new();
        checks.check(format!("encrypted: {version} writes its files"), || {
            let folder = bench.folder.join(format!("encrypted-by-{version}"));
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            let arguments = ["--reference".as_ref(), version.as_ref(), folder.as_os_str()];
            files = bench.python.json("encrypted.py", &arguments)?;
            Ok(format!("{} files", files.len()))
        });
        for written in &files {
            checks.check(format!("encrypted: {version}: {} by us", written.name), || {
                let secret = options(bench, &written.secret)?;
                opens(bench, &written.file, &secret, &written.tensors)
            });
        }
        if version == REFERENCES[0]
            && let Some(plain) = files.iter().find(|written| written.name == "plain")
        {
            ours(bench, checks, plain);
        }
    }
    published(bench, checks);
    sealed(bench, checks);
}

/// The rows of one plain file that we encrypt in every way that the reference knows.
fn ours(bench: &Bench<'_>, checks: &mut Checks, plain: &Written) {
    let key = Secret { key_hex: Some("5a".repeat(32)), passphrase: None };
    let passphrase = Secret { key_hex: None, passphrase: Some("ein Paßwort für Tests".into()) };
    let ways = CHUNKS.map(|chunk| (format!("chunks-{chunk}"), ["--chunk-size", chunk], &key));
    let presets = PRESETS.map(|kdf| (format!("kdf-{kdf}"), ["--kdf", kdf], &passphrase));
    let mut files: Vec<(PathBuf, &Secret)> = Vec::new();
    for (name, how, secret) in ways.into_iter().chain(presets) {
        checks.check(format!("encrypted: ours: {name}: encrypt, verify"), || {
            let file = bench.folder.join(format!("ours-{name}.tensors"));
            let secret_options = options(bench, secret)?;
            let mut arguments =
                vec!["encrypt".into(), plain.file.clone().into(), file.clone().into()];
            arguments.extend(how.map(OsString::from));
            arguments.extend(secret_options.iter().cloned());
            product::succeeded(bench.product.run(&arguments)?, &arguments)?;
            files.push((file.clone(), secret));
            opens(bench, &file, &secret_options, &plain.tensors)
        });
    }
    for version in REFERENCES {
        for secret in [&key, &passphrase] {
            let of_secret = |file: &&(PathBuf, &Secret)| std::ptr::eq(file.1, secret);
            let paths: Vec<PathBuf> =
                files.iter().filter(of_secret).map(|file| file.0.clone()).collect();
            let readings = read_with(bench.python, version, &paths, &script_options(secret));
            for path in &paths {
                let name = path.file_stem().unwrap_or_default().display();
                checks.check(format!("encrypted: {name} read by {version}"), || {
                    let of_file = lent(&readings)?.iter().filter(|reading| reading.file == *path);
                    all_equal(&plain.tensors, of_file)
                });
            }
        }
    }
}

/// The reference's published files, with their secret, with others, with none.
fn published(bench: &Bench<'_>, checks: &mut Checks) {
    let manifest = match Manifest::load() {
        Ok(manifest) => manifest,
        Err(error) => return checks.check("encrypted: the manifest", || Err(error)),
    };
    let encrypted = manifest.fixtures.iter().filter(|fixture| fixture.expect == Expect::Key);
    for fixture in encrypted {
        let (file, secret) = (fixture.path(), secret_of(fixture));
        checks.check(format!("encrypted: {} with its secret", fixture.file), || {
            opens(bench, &file, &options(bench, &secret)?, &fixture.tensors()?)
        });
        checks.check(format!("encrypted: {} with no or another secret", fixture.file), || {
            let key = options(bench, &Secret { key_hex: Some("0f".repeat(32)), passphrase: None })?;
            let passphrase = Some("another".to_owned());
            let passphrase = options(bench, &Secret { key_hex: None, passphrase })?;
            for secret in [&[][..], &key, &passphrase] {
                refused_by_us(bench, &file, secret)?;
            }
            Ok(format!("exit {KEY}, one line, nothing left; no, a wrong key, a wrong passphrase"))
        });
    }
}

/// Our sealed vectors: the independent decoder, `tz-cli` and the reference.
fn sealed(bench: &Bench<'_>, checks: &mut Checks) {
    #[derive(Deserialize)]
    struct Vector {
        expect: String,
        secrets: Vec<Secret>,
        tensors: Vec<Stored>,
    }
    #[derive(Deserialize)]
    struct Stored {
        name: String,
        sha256: String,
        bytes: u64,
    }
    let folder = workspace::root().join("fixtures/sealed");
    checks.check("sealed: every vector through the independent decoder", || {
        let arguments = [OsStr::new("--vectors"), folder.as_os_str()];
        let lines = decoded(bench, &arguments)?;
        Ok(format!("{} verdicts, as they must be", lines.lines().count()))
    });
    let vectors = fs::read(folder.join("manifest.json")).context("fixtures/sealed/manifest.json");
    let vectors =
        vectors.and_then(|text| Ok(serde_json::from_slice::<BTreeMap<String, Vector>>(&text)?));
    let vectors = match vectors {
        Ok(vectors) => vectors,
        Err(error) => return checks.check("sealed: the manifest", || Err(error)),
    };
    for (name, vector) in &vectors {
        let file = folder.join(name);
        checks.check(format!("sealed: {name}: {}", vector.expect), || {
            for secret in &vector.secrets {
                let secret = options(bench, secret)?;
                if vector.expect != "opens" {
                    refused_by_us(bench, &file, &secret)?;
                    continue;
                }
                let sums = checksums(bench, &file, &secret)?;
                if sums.tensors.len() != vector.tensors.len() {
                    bail!("{} tensors of {}", sums.tensors.len(), vector.tensors.len());
                }
                for (found, stored) in sums.tensors.iter().zip(&vector.tensors) {
                    // A tensor without stored bytes may be a meta tensor, which loads as zeros.
                    if found.name != stored.name
                        || (stored.bytes > 0 && found.digest != stored.sha256)
                    {
                        bail!("{} is not {} as it was sealed", found.name, stored.name);
                    }
                }
            }
            Ok(format!("with each of {} secrets", vector.secrets.len()))
        });
    }
    let secret = Secret { key_hex: Some("5a".repeat(32)), passphrase: None };
    let fresh = bench.folder.join("fresh-sealed.tensors");
    checks.check("sealed: a fresh file through the independent decoder", || {
        let plain = folder.join("chunks.tensors");
        let key = vectors.get("chunks.tensors").and_then(|vector| vector.secrets.first());
        let key = options(bench, key.context("no key for chunks.tensors")?)?;
        let decrypted = bench.folder.join("decrypted.tensors");
        let mut arguments = vec!["decrypt".into(), plain.into(), decrypted.clone().into()];
        arguments.extend(key);
        product::succeeded(bench.product.run(&arguments)?, &arguments)?;
        let mut arguments = vec!["encrypt".into(), decrypted.into(), fresh.clone().into()];
        arguments.extend(["--profile".into(), "sealed".into()]);
        let options = options(bench, &secret)?;
        arguments.extend(options.iter().cloned());
        product::succeeded(bench.product.run(&arguments)?, &arguments)?;
        let key = secret.key_hex.clone().unwrap_or_default();
        let lines = decoded(bench, &[fresh.as_os_str(), "--key-hex".as_ref(), key.as_ref()])?;
        let sums = checksums(bench, &fresh, &options)?;
        let ours: Vec<String> =
            sums.tensors.iter().map(|row| format!("{} {}", row.digest, row.name)).collect();
        if ours.is_empty() || !lines.lines().eq(ours.iter()) {
            bail!("the decoder says {lines:?}");
        }
        Ok(format!("{} tensors equal", ours.len()))
    });
    for version in REFERENCES {
        checks.check(format!("sealed: refused by {version}"), || {
            let files = [folder.join("key.tensors"), fresh.clone()];
            for reading in read(bench.python, version, &files)? {
                match reading.error {
                    Some(error) if error.contains("Unsupported feature flags") => {}
                    other => bail!("{}: {other:?}", reading.file.display()),
                }
            }
            Ok("Unsupported feature flags".into())
        });
    }
}

/// Expects `verify` to find nothing and the contents to be these.
fn opens(
    bench: &Bench<'_>,
    file: &Path,
    secret: &[OsString],
    expected: &[Tensor],
) -> Result<String> {
    let mut arguments = vec!["verify".into(), file.as_os_str().to_owned()];
    arguments.extend(secret.iter().cloned());
    product::succeeded(bench.product.run(&arguments)?, &arguments)?;
    same(expected, &seen_by_us_with(bench.product, file, secret)?)
}

/// Expects every command that reads tensors to end with the exit code for keys, one line on the fault, one on what to
/// try, and nothing written anywhere.
fn refused_by_us(bench: &Bench<'_>, file: &Path, secret: &[OsString]) -> Result<()> {
    let folder = tempfile::tempdir_in(bench.folder)?;
    let output = folder.path().join("out");
    // Safetensors lacks some complex dtypes, which `--to` says before it needs a key.
    let table: Inspection =
        bench.product.json(&["inspect".as_ref(), file.as_os_str(), "--json".as_ref()])?;
    let (complex, others): (Vec<_>, Vec<_>) =
        table.tensors.iter().partition(|tensor| tensor.dtype.starts_with("complex"));
    let names = others
        .iter()
        .filter(|_| !complex.is_empty())
        .filter_map(|tensor| tensor.path.first()?.as_str());
    let filters: Vec<&OsStr> =
        names.flat_map(|name| ["--filter".as_ref(), name.as_ref()]).collect();
    let export = [&["--to".as_ref(), output.as_os_str()][..], &filters].concat();
    let jobs: [(&str, &[&OsStr]); 5] = [
        ("deserialize", &[]),
        ("deserialize", &export),
        ("decrypt", &[output.as_os_str()]),
        ("serialize", &[output.as_os_str()]),
        ("checksum", &[]),
    ];
    for (command, more) in jobs {
        let mut arguments: Vec<OsString> = vec![command.into(), file.into()];
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        arguments.extend(secret.iter().cloned());
        let finished = bench.product.run(&arguments)?;
        let said = finished.stderr.trim();
        let line = product::line(&arguments);
        if finished.status.code() != Some(KEY) || !said.starts_with("error (key): ") {
            bail!("{line}: {}, expected exit {KEY}: {said}", finished.status);
        }
        if said.lines().count() != 2 || !finished.stdout.is_empty() {
            bail!("{line}: more than one line and a hint: {said} {}", finished.stdout);
        }
        if folder.path().read_dir()?.next().is_some() {
            bail!("{line}: leaves something");
        }
    }
    Ok(())
}

fn checksums(bench: &Bench<'_>, file: &Path, secret: &[OsString]) -> Result<Checksums> {
    let words = ["--algorithm", "sha256", "--json"].map(OsString::from);
    let mut arguments = vec!["checksum".into(), file.as_os_str().to_owned()];
    arguments.extend(words.into_iter().chain(secret.iter().cloned()));
    bench.product.json(&arguments)
}

fn decoded(bench: &Bench<'_>, arguments: &[&OsStr]) -> Result<String> {
    let finished = bench.python.run("sealed_decoder.py", arguments)?;
    if !finished.status.success() || finished.stdout.is_empty() {
        bail!("sealed_decoder.py: {}: {}", finished.status, finished.stderr.trim());
    }
    Ok(finished.stdout)
}

fn secret_of(fixture: &Fixture) -> Secret {
    Secret { key_hex: fixture.key_hex.clone(), passphrase: fixture.passphrase.clone() }
}

/// The options of `tz-cli` for a secret, which it takes from files that nobody else can read.
fn options(bench: &Bench<'_>, secret: &Secret) -> Result<Vec<OsString>> {
    let (option, name, content) = match (&secret.key_hex, &secret.passphrase) {
        (Some(hex), None) => ("--keyfile", "key", bytes(hex)?),
        (None, Some(passphrase)) => {
            ("--passphrase-file", "passphrase", passphrase.clone().into_bytes())
        }
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => bail!("two secrets for one file"),
    };
    let number = fs::read_dir(bench.folder)?.count();
    let path = bench.folder.join(format!("{name}-{number}"));
    fs::write(&path, content).with_context(|| path.display().to_string())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(vec![option.into(), path.into()])
}

/// The options of `read.py` for a secret: those of tests may stand on a command line.
fn script_options(secret: &Secret) -> Vec<&str> {
    let key = secret.key_hex.iter().flat_map(|key| ["--key-hex", key]);
    let passphrase = secret.passphrase.iter().flat_map(|text| ["--password", text]);
    key.chain(passphrase).collect()
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs.map(|pair| u8::from_str_radix(pair, 16).with_context(|| hex.to_owned())).collect()
}
