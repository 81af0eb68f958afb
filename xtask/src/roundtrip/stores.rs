//! Where the saved model lies for the round trip: a file, nginx, an S3 server; and copies between them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::words;
use crate::product::{self, Product};
use crate::servers::{Nginx, S3};

/// The model's name everywhere.
pub(super) const FILE: &str = "model.tensors";

/// The servers that could be started.
pub(super) struct Stores {
    nginx: Option<Nginx>,
    pub(super) s3: S3,
}

impl Stores {
    /// Serves `folder` over HTTP and an empty bucket over S3, by Garage for certain if `garage`.
    pub(super) fn start(folder: &Path, garage: bool) -> Result<Self> {
        let s3 = if garage { S3::start_garage(folder)? } else { S3::start(folder)? };
        Ok(Self { nginx: Nginx::start(folder)?, s3 })
    }

    /// Where a transport finds the model; `None` if its server is not installed.
    pub(super) fn source(&self, transport: &str, saved: &Path) -> Option<OsString> {
        match transport {
            "stdin" => Some("-".into()),
            "http" => self.nginx.as_ref().map(|nginx| nginx.url(FILE).into()),
            "s3" => Some(self.s3.uri(FILE).into()),
            _ => Some(saved.as_os_str().to_owned()),
        }
    }

    /// Who serves a transport, for the table.
    pub(super) fn server(&self, transport: &str) -> &'static str {
        match transport {
            "http" if self.nginx.is_none() => "nginx is not installed: left out",
            "http" => "nginx",
            "s3" => self.s3.name,
            _ => "-",
        }
    }

    /// Copies the model from store to store and compares each copy's bytes; says what was copied.
    pub(super) fn copy_around(
        &self,
        product: &Product,
        saved: &Path,
        folder: &Path,
    ) -> Result<Vec<String>> {
        let expected = digest(saved)?;
        let (uploaded, back) = (self.s3.uri("copies/a.tensors"), folder.join("copied.tensors"));
        let mut steps = vec![
            ("file", "S3", saved.as_os_str().to_owned(), OsString::from(&uploaded)),
            ("S3", "file", OsString::from(&uploaded), back.clone().into_os_string()),
        ];
        if let Some(nginx) = &self.nginx {
            let again = OsString::from(self.s3.uri("copies/b.tensors"));
            steps.push(("HTTP", "S3", nginx.url(FILE).into(), again.clone()));
            steps.push(("S3", "file", again, back.clone().into_os_string()));
        }
        let mut done = Vec::new();
        for (from, to, source, destination) in steps {
            let arguments = [OsStr::new("copy"), &source, &destination];
            product::succeeded(product.run(&arguments)?, &arguments)?;
            if to == "file" {
                if digest(&back)? != expected {
                    bail!("{}: the copy differs from the file", product::line(&arguments));
                }
                fs::remove_file(&back)?;
            }
            done.push(format!("{from} -> {to}"));
        }
        // A second writer must be able to refuse to overwrite the first one's object.
        let create_only = words(["copy", "--if-none-match"], [saved, Path::new(&uploaded)]);
        if product.run(&create_only)?.status.success() {
            bail!("{}: replaced an object that is there", product::line(&create_only));
        }
        Ok(done)
    }
}

fn digest(path: &Path) -> Result<blake3::Hash> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Ok(blake3::Hasher::new().update_reader(file)?.finalize())
}
