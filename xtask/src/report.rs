//! What xtask prints: check rows with their verdict, sizes, rates, tables.

use anyhow::{Result, bail};
use comfy_table::{Table, presets};

/// A list of checks, each printed when it is done and once more in the table at the end.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: String,
    verdict: Result<String, String>,
}

impl Checks {
    /// Runs one check: `Ok` carries what was seen, `Err` what was wrong.
    pub(crate) fn check(&mut self, name: impl Into<String>, run: impl FnOnce() -> Result<String>) {
        let row = Row { name: name.into(), verdict: run().map_err(|error| format!("{error:#}")) };
        eprintln!("{}  {}", row.word(), row.name);
        self.rows.push(row);
    }

    /// Prints the table; fails if any row did, or if there is none.
    pub(crate) fn finish(self) -> Result<()> {
        let mut table = table(&["", "check", "seen"]);
        for row in &self.rows {
            let seen = match &row.verdict {
                Ok(seen) | Err(seen) => seen.as_str(),
            };
            table.add_row([row.word(), &row.name, seen]);
        }
        println!("{table}");
        let failed = self.rows.iter().filter(|row| row.verdict.is_err()).count();
        if failed > 0 || self.rows.is_empty() {
            bail!("{failed} of {} checks failed", self.rows.len());
        }
        println!("all {} checks passed", self.rows.len());
        Ok(())
    }
}

impl Row {
    fn word(&self) -> &'static str {
        if self.verdict.is_ok() { "PASS" } else { "FAIL" }
    }
}

/// An empty table with these column heads.
pub(crate) fn table(heads: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(heads);
    table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
    // Without a terminal, long words of one row would otherwise widen all of them.
    if table.width().is_none() {
        table.set_width(140);
    }
    table
}

/// Bytes per second in the unit that every table here uses.
pub(crate) fn gigabytes_per_second(bytes: u64, seconds: f64) -> f64 {
    as_f64(bytes) / seconds / 1e9
}

/// A byte count in MiB, for people.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", as_f64(bytes) / f64::from(1 << 20))
}

/// A count as a float; exact up to 2^53, far above any byte count met here.
pub(crate) fn as_f64(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
    let float = count as f64;
    float
}

/// Parses `256MiB`, `2GiB`, `1GB` or a plain byte count.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        other => return Err(format!("unknown unit {other:?}; write for example 256MiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a size"))?;
    number.checked_mul(scale).ok_or_else(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_their_units() {
        assert_eq!(parse_size("256MiB"), Ok(256 << 20));
        assert_eq!(parse_size("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_size("12"), Ok(12));
        assert!(parse_size("12 parsecs").is_err());
        assert!(parse_size("MiB").is_err());
        assert!(parse_size("99999999999GiB").is_err());
    }

    #[test]
    fn one_failed_check_fails_all_and_none_at_all_fails_too() {
        let mut checks = Checks::default();
        checks.check("good", || Ok("seen".into()));
        checks.check("bad", || bail!("no"));
        assert!(checks.finish().is_err());
        assert!(Checks::default().finish().is_err());
    }
}
