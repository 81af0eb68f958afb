//! An S3 server: Garage where the cache has it, otherwise `s3s-fs`, which shows that requests are
//! understood but is slow and knows no conditions on reads.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{Running, free_port, tied};
use crate::workspace;

/// The bucket that is there from the start.
pub(crate) const BUCKET: &str = "tz-check";

/// Keys of a server that only this machine reaches and that ends with the check.
const ACCESS_KEY_ID: &str = "GK31c2f218a2e44f485b94239e";
const SECRET_ACCESS_KEY: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";

/// The version that `peers.md` measured.
const GARAGE: [&str; 3] = ["garage", "--version", "2.5.0"];

/// A running S3 server with one empty bucket.
#[derive(Debug)]
pub(crate) struct S3 {
    /// `Garage` or `s3s-fs`.
    pub(crate) name: &'static str,
    running: Running,
    region: &'static str,
    /// Removed after the server has ended: fields are dropped in order.
    _folder: TempDir,
}

impl S3 {
    /// Starts Garage if there is one, otherwise s3s-fs. `parent` is where objects are kept.
    pub(crate) fn start(parent: &Path) -> Result<Self> {
        let program = garage_program()?;
        if program.exists() { Self::garage(&program, parent) } else { Self::s3s_fs(parent) }
    }

    /// Starts Garage, which takes ten minutes to build the first time.
    pub(crate) fn start_garage(parent: &Path) -> Result<Self> {
        let program = garage_program()?;
        if !program.exists() {
            let folder = workspace::cache()?.join("garage");
            eprintln!("$ cargo install {} --root {}", GARAGE.join(" "), folder.display());
            let mut install = workspace::cargo();
            install.arg("install").args(GARAGE).args(["--locked", "--root"]).arg(folder);
            if !install.status().context("starting cargo install")?.success() {
                bail!("Garage does not build");
            }
        }
        Self::garage(&program, parent)
    }

    fn garage(program: &Path, parent: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tz-garage-").tempdir_in(parent)?;
        let (port, internal_port) = (free_port()?, free_port()?);
        let configuration = format!(
            "metadata_dir = \"{folder}/meta\"\ndata_dir = \"{folder}/data\"\n\
             db_engine = \"sqlite\"\nblock_size = \"16M\"\ncompression_level = \"none\"\n\
             replication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{internal_port}\"\n\
             rpc_public_addr = \"127.0.0.1:{internal_port}\"\nrpc_secret = \"{}\"\n\
             [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{port}\"\n\
             root_domain = \".s3.garage.localhost\"\n",
            "5a".repeat(32),
            folder = folder.path().display(),
        );
        let file = folder.path().join("garage.toml");
        fs::write(&file, configuration)?;
        let mut command = tied(program);
        command.arg("-c").arg(&file).args(["server", "--single-node", "--default-bucket"]);
        command
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY_ID)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET_ACCESS_KEY)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET);
        let running = Running::start("Garage", &mut command, port, &folder.path().join("log"))?;
        Ok(Self { name: "Garage", running, region: "garage", _folder: folder })
    }

    fn s3s_fs(parent: &Path) -> Result<Self> {
        let arguments = ["build", "--quiet", "-p", "xtask-s3-server"];
        eprintln!("$ cargo {}", arguments.join(" "));
        if !workspace::cargo().args(arguments).status().context("starting cargo")?.success() {
            bail!("xtask-s3-server does not build");
        }
        let folder = tempfile::Builder::new().prefix("tz-s3s-fs-").tempdir_in(parent)?;
        let buckets = folder.path().join("buckets");
        fs::create_dir_all(buckets.join(BUCKET))?;
        let port = free_port()?;
        let mut command = tied(&workspace::target()?.join("debug/xtask-s3-server"));
        command
            .arg(&buckets)
            .arg(port.to_string())
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
        let running =
            Running::start("xtask-s3-server", &mut command, port, &folder.path().join("log"))?;
        Ok(Self { name: "s3s-fs", running, region: "us-east-1", _folder: folder })
    }

    /// The URI of an object in the bucket.
    #[expect(clippy::unused_self, reason = "an object's URI means nothing without its server")]
    pub(crate) fn uri(&self, key: &str) -> String {
        format!("s3://{BUCKET}/{key}")
    }

    /// What leads a client to this server, and no other, through its environment.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL_S3", format!("http://{}", self.running.address)),
            ("AWS_REGION", self.region.into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY.into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("AWS_CONFIG_FILE", "/dev/null".into()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".into()),
        ]
    }
}

fn garage_program() -> Result<PathBuf> {
    Ok(workspace::cache()?.join("garage/bin/garage"))
}
