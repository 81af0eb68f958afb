//! Both directions over real servers: objects that `tz-cli` wrote straight to S3, and files on nginx,
//! are read by the reference with boto3 and curl; objects that it wrote are read by us.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Result, bail};

use super::tensors::{Tensor, same, seen_by_us};
use super::{Bench, lent};
use crate::product;
use crate::report::Checks;
use crate::servers::{Nginx, S3};

/// The reference's plain path and its parallel one.
const READERS: [&str; 2] = ["1", "4"];

/// Small: contents, not speed, are compared here.
const SYNTHETIC_BYTES: u64 = 16 << 20;

pub(super) fn check(bench: &Bench<'_>, checks: &mut Checks) {
    let mut s3 = None;
    checks.check("remote: an S3 server starts", || {
        let started = S3::start(bench.folder)?;
        let name = started.name;
        s3 = Some(started);
        Ok(name.into())
    });
    let Some(s3) = s3 else {
        return;
    };
    let product = bench.product.with_environment(s3.environment());
    let python = bench.python.with_environment(s3.environment());
    let bench = Bench { product: &product, python: &python, folder: bench.folder };

    let checkpoint = bench.folder.join("remote");
    let file = bench.folder.join("remote.tensors");
    checks.check("remote: a synthetic checkpoint is made and saved to a file", || {
        let arguments = product::synth(SYNTHETIC_BYTES, &checkpoint);
        product::succeeded(product.run(&arguments)?, &arguments)?;
        let arguments = ["serialize".as_ref(), checkpoint.as_os_str(), file.as_os_str()];
        product::succeeded(product.run(&arguments)?, &arguments)?;
        Ok(product::line(&arguments))
    });
    let source = ["digests".as_ref(), checkpoint.as_os_str()];
    let expected: Result<Vec<Tensor>> = python.json("checkpoint.py", &source);
    let object = s3.uri("ours.tensors");
    checks.check("remote: serialize straight to S3, verify there", || {
        for arguments in [
            vec!["serialize".as_ref(), checkpoint.as_os_str(), object.as_ref()],
            vec!["verify".as_ref(), OsStr::new(&object)],
        ] {
            product::succeeded(product.run(&arguments)?, &arguments)?;
        }
        Ok(object.clone())
    });
    read_by_reference(&bench, checks, s3.name, &object, &expected);

    let theirs = s3.uri("theirs.tensors");
    checks.check(
        format!("remote: {}: an object that the reference wrote, read by us", s3.name),
        || {
            let written: Vec<Tensor> = python.json("remote.py", &["write", &theirs])?;
            let arguments = ["verify", &theirs];
            product::succeeded(product.run(&arguments)?, &arguments)?;
            same(&written, &seen_by_us(&product, Path::new(&theirs))?)
        },
    );

    match Nginx::start(bench.folder) {
        Ok(Some(nginx)) => {
            let url = nginx.url("remote.tensors");
            read_by_reference(&bench, checks, "nginx", &url, &expected);
            checks.check("remote: nginx: the same file, read by us", || {
                let arguments = ["diff".as_ref(), checkpoint.as_os_str(), url.as_ref()];
                product::succeeded(product.run(&arguments)?, &arguments)?;
                Ok("diff finds none".into())
            });
        }
        Ok(None) => checks.check("remote: nginx", || bail!("not installed: Debian's nginx-light")),
        Err(error) => checks.check("remote: nginx", || Err(error)),
    }
}

/// One row for each number of readers.
fn read_by_reference(
    bench: &Bench<'_>,
    checks: &mut Checks,
    server: &str,
    uri: &str,
    expected: &Result<Vec<Tensor>>,
) {
    for readers in READERS {
        checks.check(
            format!("remote: {server}: ours, read by the reference with {readers}"),
            || {
                let arguments = ["read", "--readers", readers, uri];
                let mut found: Vec<Tensor> = bench.python.json("remote.py", &arguments)?;
                for tensor in &mut found {
                    // Loaded as a tree, where the reference no longer tells the kinds apart.
                    tensor.kind = "state_dict".into();
                }
                same(lent(expected)?, &found)
            },
        );
    }
}
