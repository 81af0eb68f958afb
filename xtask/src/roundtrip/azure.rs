//! The round trip over Azure's interface, as Azurite serves it: there and back, conditions, credentials, and an object
//! that is replaced while it is read.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::words;
use crate::product::{self, Inspection, Product};
use crate::servers::Azurite;
use crate::sys::Finished;

/// What `tz-cli` exits with when input, output or the network failed.
const IO: Option<i32> = Some(3);

/// Runs everything; says what was seen.
pub(super) fn check(
    azurite: &Azurite,
    product: &Product,
    checkpoint: &Path,
    saved: &Path,
    folder: &Path,
) -> Result<Vec<String>> {
    let owner = product.with_environment(azurite.environment());
    let bearer = product.with_environment(azurite.environment_of_a_bearer());
    let stranger = product.with_environment(azurite.environment_of_a_stranger());
    let (uri, small) = (azurite.uri("model.tensors"), azurite.uri("a b/small.tensors"));
    there_and_back(&owner, checkpoint, &uri, folder)?;
    let mut seen = vec!["serialized, inspected, loaded: all equal".to_owned()];

    let tiny = folder.join("tiny.tensors");
    let filter = words(["serialize", "--filter", "*norm*"], [checkpoint, &tiny]);
    product::succeeded(product.run(&filter)?, &filter)?;
    for (source, uri) in [(&*tiny, &small), (saved, &azurite.uri("created.tensors"))] {
        let create = words(["copy", "--if-none-match"], [source, Path::new(uri)]);
        product::succeeded(bearer.run(&create)?, &create)?;
        let verify = words(["verify"], [uri]);
        product::succeeded(bearer.run(&verify)?, &verify)?;
        refused(azurite, &bearer.run(&create)?, "exists", &create)?;
    }
    seen.push(
        "created once and not again, in one request and in blocks, by a shared access signature"
            .into(),
    );

    for arguments in [
        words(["inspect"], [&uri]),
        words(["copy"], [&*tiny, Path::new(&small)]),
        words(["copy"], [saved, Path::new(&uri)]),
    ] {
        refused(azurite, &stranger.run(&arguments)?, "403 Forbidden", &arguments)?;
    }
    seen.push("refused with a wrong key, which is not shown".into());

    replaced(azurite, &owner, &uri, &tiny)?;
    seen.push("replaced while it was read: noticed".into());
    Ok(seen)
}

fn there_and_back(product: &Product, checkpoint: &Path, uri: &str, folder: &Path) -> Result<()> {
    let serialize = words(["serialize"], [checkpoint, Path::new(uri)]);
    product::succeeded(product.run(&serialize)?, &serialize)?;
    let inspection: Inspection = product.json(&words(["inspect", "--json"], [uri]))?;
    if inspection.tensor_count == 0 {
        bail!("{uri}: no tensors");
    }
    let back = folder.join("azure.safetensors");
    let load = words(["deserialize"], [Path::new(uri)]);
    let load = [load, words(["--to"], [&back])].concat();
    product::succeeded(product.run(&load)?, &load)?;
    let diff = words(["diff"], [checkpoint, &back]);
    product::succeeded(product.run(&diff)?, &diff)?;
    std::fs::remove_file(back).context("removing what came back")
}

/// A run that must have failed over the network with these words, and without a secret.
fn refused(
    azurite: &Azurite,
    finished: &Finished,
    why: &str,
    arguments: &[OsString],
) -> Result<()> {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    if finished.status.code() != IO || !said.contains(why) {
        bail!("{}: {}, not {why:?}: {said}", product::line(arguments), finished.status);
    }
    if azurite.secrets().iter().any(|secret| said.contains(secret)) {
        bail!("{}: shows a secret", product::line(arguments));
    }
    Ok(())
}

/// Reads the object into a pipe that is full before all has come, and replaces it meanwhile.
fn replaced(azurite: &Azurite, product: &Product, uri: &str, successor: &Path) -> Result<()> {
    let arguments = ["copy", uri, "-", "--memory-limit", "32MiB", "--num-readers", "1"];
    let mut command = product.command(&arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("starting tz-cli")?;
    let mut output = child.stdout.take().context("its output")?;
    output.read_exact(&mut [0; 1]).context("the first byte")?;
    let replace = words(["copy"], [successor, Path::new(uri)]);
    let done = product.run(&replace).and_then(|done| product::succeeded(done, &replace));
    let drained = std::io::copy(&mut output, &mut std::io::sink());
    let ended = child.wait_with_output().context("waiting for tz-cli")?;
    done?;
    drained.context("reading what it copies")?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    if ended.status.code() != IO || !said.contains("replaced while it was being read") {
        bail!("{}: {}: {said}", product::line(&arguments), ended.status);
    }
    if azurite.secrets().iter().any(|secret| said.contains(secret)) {
        bail!("{}: shows a secret", product::line(&arguments.map(OsStr::new)));
    }
    Ok(())
}
