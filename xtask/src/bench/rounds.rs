//! Contenders in alternation: every round runs each of them once in a fresh process, starting with
//! another one each time, so that drift of the machine falls on all alike.

use anyhow::{Result, bail};
use comfy_table::Table;
use serde::Serialize;

use crate::report::{as_f64, gigabytes_per_second, mebibytes, table};

/// One thing to measure: a name and how to run it once.
pub(crate) struct Contender<'a> {
    pub(super) name: String,
    pub(super) run: Box<dyn Fn() -> Result<Sample> + 'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: &str, run: impl Fn() -> Result<Sample> + 'a) -> Self {
        Self { name: name.to_owned(), run: Box::new(run) }
    }

    /// The same under another name.
    pub(super) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }
}

/// One run of one contender.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    /// Seconds of the work itself, by the contender's own clock.
    pub(crate) seconds: f64,
    /// Seconds of the whole process.
    pub(crate) process_seconds: f64,
    pub(crate) peak_bytes: u64,
}

/// All runs of one contender.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    pub(super) name: String,
    pub(super) samples: Vec<Sample>,
    /// Why the contender took part no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<String>,
}

/// Runs everything `rounds` times; the first failure ends it.
pub(crate) fn alternate(contenders: &[Contender<'_>], rounds: u32) -> Result<Vec<Series>> {
    let series = alternate_after(contenders, rounds, || Ok(()))?;
    check_all(&series)?;
    Ok(series)
}

/// The first failure among the contenders.
pub(super) fn check_all(series: &[Series]) -> Result<()> {
    let failed = series.iter().find_map(|series| Some((&series.name, series.failure.as_ref()?)));
    failed.map_or(Ok(()), |(name, why)| bail!("{name}: {why}"))
}

/// Runs everything `rounds` times, with `before` called before each run, outside every clock. A contender that fails
/// takes part no longer, and keeps the others' figures from nobody: see [`check_all`]. Samples are printed as they come.
pub(super) fn alternate_after(
    contenders: &[Contender<'_>],
    rounds: u32,
    before: impl Fn() -> Result<()>,
) -> Result<Vec<Series>> {
    let mut series: Vec<Series> = contenders
        .iter()
        .map(|contender| Series {
            name: contender.name.clone(),
            samples: Vec::new(),
            failure: None,
        })
        .collect();
    for (round, shift) in (1..=rounds).zip((0..contenders.len()).cycle()) {
        eprintln!("round {round} of {rounds}");
        for step in 0..contenders.len() {
            let at = (step + shift) % contenders.len();
            let (contender, series) = (&contenders[at], &mut series[at]);
            if series.failure.is_some() {
                continue;
            }
            before()?;
            match (contender.run)() {
                Ok(sample) => {
                    eprintln!("  {:.4} s  {}", sample.seconds, contender.name);
                    series.samples.push(sample);
                }
                Err(error) => {
                    eprintln!("  failed    {}: {error:#}", contender.name);
                    series.failure = Some(format!("{error:#}"));
                }
            }
        }
    }
    Ok(series)
}

impl Series {
    pub(crate) fn median_seconds(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.seconds).collect())
    }

    pub(super) fn median_process_seconds(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.process_seconds).collect())
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.samples.iter().map(|sample| sample.peak_bytes).max().unwrap_or(0)
    }

    pub(super) fn range(&self) -> (f64, f64) {
        let seconds = || self.samples.iter().map(|sample| sample.seconds);
        (seconds().fold(f64::INFINITY, f64::min), seconds().fold(0.0, f64::max))
    }
}

/// The series as a table; rates are over the tensor bytes that all of them handled.
pub(super) fn render(series: &[Series], bytes: u64) -> Table {
    let mut table = table(&["", "median s", "min - max", "GB/s", "whole process s", "peak memory"]);
    for series in series {
        if let Some(why) = &series.failure {
            table.add_row([&*series.name, "failed", why]);
            continue;
        }
        let (low, high) = series.range();
        let median = series.median_seconds();
        table.add_row([
            &*series.name,
            &format!("{median:.3}"),
            &format!("{low:.3} - {high:.3}"),
            &format!("{:.2}", gigabytes_per_second(bytes, median)),
            &format!("{:.2}", series.median_process_seconds()),
            &mebibytes(series.peak_bytes()),
        ]);
    }
    table
}

/// A figure that a task set, and what was measured.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    pub(super) what: String,
    pub(super) wanted: String,
    pub(super) measured: f64,
    pub(super) met: bool,
}

impl Target {
    /// A ratio that must be at least this.
    pub(super) fn at_least(what: &str, bound: f64, measured: f64) -> Self {
        let wanted = format!("at least {bound}");
        Self { what: what.to_owned(), wanted, measured, met: measured >= bound }
    }

    /// A ratio that must be at most this.
    pub(super) fn at_most(what: &str, bound: f64, measured: f64) -> Self {
        let wanted = format!("at most {bound}");
        Self { what: what.to_owned(), wanted, measured, met: measured <= bound }
    }

    /// A byte count that must be at most this, in MiB.
    pub(super) fn at_most_mebibytes(what: &str, bound: u64, measured: u64) -> Self {
        Self {
            what: what.to_owned(),
            wanted: format!("at most {}", mebibytes(bound)),
            measured: as_f64(measured) / f64::from(1 << 20),
            met: measured <= bound,
        }
    }
}

/// The targets with PASS or MISS.
pub(super) fn render_targets(targets: &[Target]) -> Table {
    let mut table = table(&["", "target", "wanted", "measured"]);
    for target in targets {
        table.add_row([
            if target.met { "PASS" } else { "MISS" },
            &target.what,
            &target.wanted,
            &format!("{:.2}", target.measured),
        ]);
    }
    table
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle.wrapping_sub(1)), values.get(middle)) {
        (Some(low), Some(high)) if values.len().is_multiple_of(2) => (low + high) / 2.0,
        (_, Some(middle)) => *middle,
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![1.0]), 1.0);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn a_contender_that_fails_leaves_the_figures_of_the_others() {
        let runs = RefCell::new(0);
        let good = Contender::new("good", || {
            Ok(Sample { seconds: 1.0, process_seconds: 2.0, peak_bytes: 3 })
        });
        let bad = Contender::new("bad", || {
            *runs.borrow_mut() += 1;
            bail!("it exited with 1")
        });
        let contenders = [good, bad];
        let series = alternate_after(&contenders, 3, || Ok(())).unwrap();
        assert_eq!((series[0].samples.len(), *runs.borrow()), (3, 1));
        assert!(render(&series, 1).to_string().contains("it exited with 1"));
        assert_eq!(check_all(&series).unwrap_err().to_string(), "bad: it exited with 1");
        assert!(alternate(&contenders, 1).is_err());
    }

    #[test]
    fn every_round_runs_all_and_starts_elsewhere() {
        let order = RefCell::new(String::new());
        let contender = |name: &'static str| {
            let order = &order;
            Contender::new(name, move || {
                order.borrow_mut().push_str(name);
                Ok(Sample { seconds: 1.0, process_seconds: 2.0, peak_bytes: 3 })
            })
        };
        let series = alternate(&[contender("a"), contender("b"), contender("c")], 4).unwrap();
        assert_eq!(*order.borrow(), "abcbcacababc");
        assert!(series.iter().all(|series| series.samples.len() == 4));
    }
}
