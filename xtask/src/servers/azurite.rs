//! Azurite, Microsoft's own emulator of Azure's blob storage, from npm into the user's cache. Needs Node.js.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{Running, free_port, is_installed, tied};
use crate::{sys, workspace};

/// The container that is there from the start.
pub(crate) const CONTAINER: &str = "tz-check";

const NAME: &str = "azurite";
/// The newest that runs on the Node.js of today's distributions.
const VERSION: &str = "3.35.0";
const PROGRAM: &str = "node_modules/azurite/dist/src/blob/main.js";

/// An account of a server that only this machine reaches and that ends with the check.
const ACCOUNT: &str = "tzcheck";
const KEY: &str = "dHotY2hlY2sgaXMgbm8gc2VjcmV0IG9mIGFueWJvZHk=";

/// Makes the container and prints a signature that lets its bearer read, write and create in it for an hour.
const PREPARE: &str = r#"
const { createHmac } = require("crypto");
const [port, account, key, container] = process.argv.slice(1);
const version = "2021-08-06";
const sign = (lines) => createHmac("sha256", Buffer.from(key, "base64")).update(lines.join("\n")).digest("base64");
const date = new Date().toUTCString();
const resource = `/${account}/${account}/${container}\nrestype:container`;
const lines = ["PUT", ...Array(11).fill(""), `x-ms-date:${date}`, `x-ms-version:${version}`, resource];
const end = new Date(Date.now() + 3600e3).toISOString().slice(0, 19) + "Z";
const fields = ["rcw", "", end, `/blob/${account}/${container}`, "", "", "", version, "c", ...Array(7).fill("")];
const sas = new URLSearchParams({ sp: "rcw", se: end, sv: version, sr: "c", sig: sign(fields) });
fetch(`http://127.0.0.1:${port}/${account}/${container}?restype=container`, {
  method: "PUT",
  headers: { "x-ms-date": date, "x-ms-version": version, Authorization: `SharedKey ${account}:${sign(lines)}` },
}).then(async (answer) => {
  console.log(sas.toString());
  if (!answer.ok) throw new Error(await answer.text());
});
"#;

/// A running Azurite with one empty container.
#[derive(Debug)]
pub(crate) struct Azurite {
    running: Running,
    sas: String,
    _folder: TempDir,
}

impl Azurite {
    /// Starts it, installing it first if the cache has none: a minute at most.
    pub(crate) fn start() -> Result<Self> {
        let node = Path::new("node");
        if !is_installed(node) {
            bail!("Node.js is not installed");
        }
        let program = installed()?;
        let folder = tempfile::Builder::new().prefix("tz-azurite-").tempdir()?;
        let port = free_port()?.to_string();
        let mut command = tied(node);
        command.arg(program).args(["--silent", "--disableTelemetry", "--inMemoryPersistence"]);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port]);
        command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}")).current_dir(folder.path());
        let log = folder.path().join("log");
        let running = Running::start("Azurite", &mut command, port.parse()?, &log)?;
        let mut prepare = Command::new(node);
        prepare.args(["-e", PREPARE, &port, ACCOUNT, KEY, CONTAINER]);
        let finished = sys::run_measured(&mut prepare)?;
        if !finished.status.success() {
            bail!("making a container: {}", finished.stderr.trim());
        }
        Ok(Self { running, sas: finished.stdout.trim().to_owned(), _folder: folder })
    }

    /// The URI of an object in the container.
    #[expect(clippy::unused_self, reason = "an object's URI means nothing without its server")]
    pub(crate) fn uri(&self, key: &str) -> String {
        format!("az://{CONTAINER}/{key}")
    }

    /// What leads a client to this server through its environment, with the account's key.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        self.with(("AZURE_STORAGE_ACCOUNT_KEY", KEY))
    }

    /// The same with a signature instead of the key.
    pub(crate) fn environment_of_a_bearer(&self) -> Vec<(&'static str, String)> {
        self.with(("AZURE_STORAGE_SAS_TOKEN", &self.sas))
    }

    /// The same with a key that is not the account's.
    pub(crate) fn environment_of_a_stranger(&self) -> Vec<(&'static str, String)> {
        self.with(("AZURE_STORAGE_ACCOUNT_KEY", &KEY.replace("dHot", "bm8t")))
    }

    /// Words that no message may hold.
    pub(crate) fn secrets(&self) -> [&str; 2] {
        [KEY, "sig="]
    }

    fn with(&self, (name, value): (&'static str, &str)) -> Vec<(&'static str, String)> {
        vec![
            ("AZURE_STORAGE_USE_EMULATOR", "true".into()),
            ("AZURITE_BLOB_STORAGE_URL", format!("http://{}", self.running.address)),
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.into()),
            (name, value.to_owned()),
        ]
    }
}

/// The program in the cache. Installed beside its final folder and renamed: either it is whole or it is not there.
fn installed() -> Result<PathBuf> {
    let cache = workspace::cache()?;
    let folder = cache.join(format!("{NAME}-{VERSION}"));
    if !folder.exists() {
        fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
        let partial = tempfile::Builder::new().prefix("azurite-partial-").tempdir_in(&cache)?;
        let package = format!("{NAME}@{VERSION}");
        eprintln!("$ npm install {package}");
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
        let finished = sys::run_measured(npm.arg(partial.path()).arg(package))?;
        if !finished.status.success() {
            bail!("npm: {}: {}", finished.status, finished.stderr.trim());
        }
        let done = fs::rename(partial.path(), &folder);
        // Another run may have been quicker.
        if !folder.exists() {
            done.with_context(|| folder.display().to_string())?;
        }
    }
    Ok(folder.join(PROGRAM))
}
