//! What comes of a benchmark: tables for people, JSON and a picture where they were asked for.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::rounds::{Series, Target, check_all, render, render_targets};
use super::{Common, chart};
use crate::report::mebibytes;

/// All figures of one benchmark.
#[derive(Debug, Serialize)]
pub(super) struct Outcome<'a> {
    schema: u32,
    /// What rates are over.
    bytes: u64,
    /// Processes that wanted to run in the minute before; above 1 the figures mean little.
    load_before: f64,
    folder: &'a Path,
    series: Vec<Series>,
    targets: Vec<Target>,
    #[serde(skip)]
    how: &'a str,
}

impl<'a> Outcome<'a> {
    /// To be made before the machine is put to work: it notes how busy it is. `how` is what tables and picture say of
    /// the cache or the servers.
    pub(super) fn expected(folder: &'a Path, how: &'a str) -> Self {
        let (series, targets) = (Vec::new(), Vec::new());
        let load_before = load_average();
        Self { schema: 1, bytes: 0, load_before, folder, series, targets, how }
    }

    /// Prints the figures, and saves them where that was asked for; then a contender that failed is an error.
    pub(super) fn publish(
        self,
        common: &Common,
        bytes: u64,
        series: Vec<Series>,
        targets: Vec<Target>,
    ) -> Result<()> {
        let outcome = Self { bytes, series, targets, ..self };
        let Self { series, targets, how, folder, load_before, .. } = &outcome;
        let (size, rounds) = (mebibytes(bytes), common.rounds);
        println!(
            "{size} of tensors in {}, {rounds} rounds, medians; {how}; fresh process every time",
            folder.display(),
        );
        println!("{}\n{}", render(series, bytes), render_targets(targets));
        if *load_before > 1.0 {
            println!(
                "The machine was busy before it began (load {load_before}): do not quote this run."
            );
        }
        if let Some(path) = &common.chart {
            let title = format!("{size} of tensors, {how}, seconds");
            fs::write(path, chart::svg(&title, series))
                .with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &common.json {
            fs::write(path, serde_json::to_string_pretty(&outcome)?)
                .with_context(|| path.display().to_string())?;
        }
        check_all(series)
    }
}

/// The one-minute load average; unknown counts as idle.
fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
