//! The published files under `fixtures/`, each with its verdict in the manifest: the reference's
//! files through `tz-cli`, ours through `tz-cli` and through the reference.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::reference::{all_equal, read};
use super::tensors::{same, seen_by_us};
use super::{Bench, REFERENCES, lent};
use crate::fixtures::{Expect, Fixture, Manifest};
use crate::product::{Product, Verification};
use crate::report::Checks;
use crate::sys::Finished;

/// Exit codes of the command line.
const CHECK_SAID_NO: i32 = 1;
const MALFORMED: i32 = 4;
const KEY_NEEDED: i32 = 5;

pub(super) fn check(bench: &Bench<'_>, checks: &mut Checks) {
    let manifest = match Manifest::load() {
        Ok(manifest) => manifest,
        Err(error) => return checks.check("published: the manifest", || Err(error)),
    };
    for fixture in &manifest.fixtures {
        checks.check(format!("published: {}", fixture.file), || {
            verdict(bench.product, fixture).with_context(|| fixture.shows.clone())
        });
    }
    for version in REFERENCES {
        let read_by = |fixture: &&Fixture| fixture.read_by.iter().any(|by| by == version);
        let fixtures: Vec<&Fixture> = manifest.fixtures.iter().filter(read_by).collect();
        let files: Vec<_> = fixtures.iter().map(|fixture| fixture.path()).collect();
        let readings = read(bench.python, version, &files);
        for fixture in fixtures {
            checks.check(format!("published: {} read by {version}", fixture.file), || {
                let (file, tensors) = (fixture.path(), fixture.tensors()?);
                let readings = lent(&readings)?.iter().filter(|reading| reading.file == file);
                all_equal(&tensors, readings)
            });
        }
    }
}

fn verdict(product: &Product, fixture: &Fixture) -> Result<String> {
    let file = fixture.path();
    match fixture.expect {
        Expect::Ok => {
            exits(&run(product, "verify", &file)?, &[0], &[])?;
            same(&fixture.tensors()?, &seen_by_us(product, &file)?)
        }
        Expect::Faults => {
            let arguments = ["verify".as_ref(), file.as_os_str(), "--json".as_ref()];
            let finished = product.run(&arguments)?;
            exits(&finished, &[CHECK_SAID_NO], &[])?;
            let report: Verification = serde_json::from_str(&finished.stdout)?;
            let failed: Vec<String> = report.failures.into_iter().map(|row| row.name).collect();
            if failed != fixture.names {
                bail!("verify reports {failed:?}, expected {:?}", fixture.names);
            }
            let equal = same(&fixture.tensors()?, &seen_by_us(product, &file)?)?;
            Ok(format!("{equal}; verify exits {CHECK_SAID_NO} naming {failed:?}"))
        }
        Expect::Refused => {
            exits(&run(product, "verify", &file)?, &[CHECK_SAID_NO, MALFORMED], &fixture.names)?;
            let load = run(product, "deserialize", &file)?;
            exits(&load, &[CHECK_SAID_NO, MALFORMED], &fixture.names)
        }
        Expect::Key => {
            exits(&run(product, "deserialize", &file)?, &[KEY_NEEDED], &["key".into()])?;
            exits(&run(product, "checksum", &file)?, &[KEY_NEEDED], &["key".into()])
        }
    }
}

fn run(product: &Product, command: &str, file: &Path) -> Result<Finished> {
    product.run(&[command.as_ref(), file.as_os_str()])
}

/// Expects one of these exit codes and, in what was printed, one of these words.
fn exits(finished: &Finished, codes: &[i32], words: &[String]) -> Result<String> {
    let said = format!("{}{}", finished.stdout, finished.stderr);
    let code = finished.status.code().context("killed by a signal")?;
    if !codes.contains(&code) {
        bail!("exit {code}, expected {codes:?}: {}", said.trim());
    }
    if !words.is_empty() && !words.iter().any(|word| said.contains(word)) {
        bail!("exit {code}, but its words name none of {words:?}: {}", said.trim());
    }
    let first = said.lines().find(|line| words.iter().any(|word| line.contains(word)));
    Ok(format!("exit {code} {}", first.unwrap_or_default().trim()))
}
