//! Where things are: the checkout, the target folder, the user's cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The root of the checkout that this xtask was compiled in.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// The cargo that runs this xtask, started in the checkout.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// `cargo metadata` with these extra arguments, as JSON text.
pub(crate) fn metadata(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = cargo()
        .args(["metadata", "--format-version=1"])
        .args(arguments)
        .output()
        .context("starting cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// The target folder, wherever the user's configuration puts it.
pub(crate) fn target() -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let metadata: Metadata = serde_json::from_slice(&metadata(&["--no-deps"])?)?;
    Ok(metadata.target_directory)
}

/// Our folder in the user's cache: what it holds outlives a checkout.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("tz"))
}

/// Bytes of the files that travel to a machine on loan: tracked ones, and untracked ones that git does not ignore.
pub(crate) fn travelling_bytes() -> Result<u64> {
    let output = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .output()
        .context("starting git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let names = output.stdout.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut bytes = 0;
    for name in names {
        use std::os::unix::ffi::OsStrExt as _;
        let path = root().join(std::ffi::OsStr::from_bytes(name));
        // A file that was removed and not yet committed does not travel.
        bytes += path.symlink_metadata().map(|meta| meta.len()).unwrap_or(0);
    }
    Ok(bytes)
}
