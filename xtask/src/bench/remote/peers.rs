//! The rows of `bench remote --peers`: loaders of safetensors, of the same tensors on the same servers.
//!
//! The Run:ai Model Streamer reads S3 alone. fastsafetensors reads neither server. safetensors itself reads files: curl
//! brings them, one after the other, and safetensors makes copies of what came.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::super::local::timed;
use super::super::rounds::Contender;
use super::{Bench, HTTP, S3_READS};
use crate::product;
use crate::servers::{BUCKET, Nginx, S3};

pub(super) const CURL: &str = "curl, then safetensors";
pub(super) const RUNAI: &str = "Run:ai Model Streamer, cloned";
/// Where the checkpoint lies below the folder that nginx serves, and below the bucket.
pub(super) const FOLDER: &str = "checkpoint";

/// Where the files of the checkpoint are found.
pub(super) struct Shards {
    http: Vec<OsString>,
    objects: Vec<OsString>,
    signed: Vec<OsString>,
}

impl Shards {
    /// Installs what is compared and puts the files of the checkpoint into the bucket.
    pub(super) fn publish(bench: &Bench, nginx: &Nginx, s3: &S3) -> Result<Self> {
        bench.python.add_peers()?;
        println!("fastsafetensors reads neither HTTP nor S3 and has no rows");
        let mut shards = Self { http: Vec::new(), objects: Vec::new(), signed: Vec::new() };
        for path in files(bench)? {
            let name = path.file_name().and_then(OsStr::to_str).context("a name in UTF-8")?;
            let key = format!("{FOLDER}/{name}");
            let object = s3.uri(&key);
            let arguments = ["copy".as_ref(), path.as_os_str(), object.as_ref()];
            product::succeeded(bench.product.run(&arguments)?, &arguments)?;
            let signed: String = bench.python.json("bucket.py", &["signed-read", BUCKET, &key])?;
            shards.http.push(nginx.url(&key).into());
            shards.objects.push(object.into());
            shards.signed.push(signed.into());
        }
        Ok(shards)
    }

    pub(super) fn over_http<'a>(&self, bench: &'a Bench) -> Vec<Contender<'a>> {
        vec![loaded(bench, HTTP, CURL, "curl", &self.http)]
    }

    pub(super) fn over_s3<'a>(&self, bench: &'a Bench) -> Vec<Contender<'a>> {
        vec![
            loaded(bench, S3_READS, RUNAI, "runai", &self.objects),
            loaded(bench, S3_READS, CURL, "curl", &self.signed),
        ]
    }
}

/// The safetensors files of the checkpoint.
fn files(bench: &Bench) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(&bench.checkpoint).context("the checkpoint")? {
        files.push(entry?.path());
    }
    files.retain(|path| path.extension() == Some(OsStr::new("safetensors")));
    files.sort();
    Ok(files)
}

fn loaded<'a>(
    bench: &'a Bench,
    server: &str,
    name: &str,
    peer: &str,
    sources: &[OsString],
) -> Contender<'a> {
    let mut arguments: Vec<OsString> = ["peer", peer].map(OsString::from).into();
    arguments.extend(sources.iter().cloned());
    Contender::new(&format!("{server}: {name}"), move || {
        timed(&bench.python, bench.bytes, &arguments)
    })
}
