//! Reports about adapters as text.

use std::io::{self, Write};

use serde_json::Value;

use super::{align_right, counted, decimal, plain, table};
use crate::report::{Adapted, AdapterFacts, AdapterWritten};

/// The data of the report.
pub(super) fn report(out: &mut dyn Write, report: &Adapted) -> io::Result<()> {
    let facts = match report {
        Adapted::Written(_) => return Ok(()),
        Adapted::Inspected(facts) => facts,
    };
    let AdapterFacts { tensors, tensor_bytes, refusals, .. } = facts;
    for (name, value) in summary_of(facts) {
        writeln!(out, "{name:<9} {value}")?;
    }
    let all = counted(tensors.len(), "tensor");
    writeln!(out, "{:<9} {all}, {}\n", "size", decimal(*tensor_bytes))?;
    let mut rows = table(&["name", "dtype", "shape", "bytes"]);
    for tensor in tensors {
        rows.add_row([
            plain(&tensor.name),
            tensor.dtype.to_owned(),
            format!("{:?}", tensor.shape),
            tensor.bytes.to_string(),
        ]);
    }
    align_right(&mut rows, &[3]);
    writeln!(out, "{}", rows.trim_fmt())?;
    if !refusals.is_empty() {
        writeln!(out, "\nvLLM would not apply it:")?;
    }
    for refused in refusals {
        writeln!(out, "  {}\n    {}", plain(&refused.message), refused.advice)?;
    }
    Ok(())
}

fn summary_of(facts: &AdapterFacts) -> Vec<(&'static str, String)> {
    let number = |value: Option<String>| value.unwrap_or_else(|| "missing".to_owned());
    let targets = match &facts.target_modules {
        Value::Array(list) => {
            let names =
                list.iter().map(|name| name.as_str().map_or_else(|| name.to_string(), plain));
            names.collect::<Vec<_>>().join(", ")
        }
        Value::String(pattern) => plain(pattern),
        _ => "missing".to_owned(),
    };
    let encrypted = if facts.encrypted { ", encrypted" } else { "" };
    vec![
        ("adapter", plain(&facts.location)),
        ("form", format!("{}{encrypted}", facts.form)),
        ("base", facts.base_model.as_deref().map_or_else(|| "not named".to_owned(), plain)),
        ("rank", number(facts.rank.map(|rank| rank.to_string()))),
        ("alpha", number(facts.alpha.map(|alpha| alpha.to_string()))),
        ("scaling", number(facts.scaling.map(|scaling| scaling.to_string()))),
        ("targets", targets),
    ]
}

/// The words of the report.
pub(super) fn summary(report: &Adapted) -> Option<String> {
    let Adapted::Written(AdapterWritten {
        destination, rank, tensors, bytes, files, usage, ..
    }) = report
    else {
        return None;
    };
    let rank = rank.map_or_else(String::new, |rank| format!("rank {rank}, "));
    let (all, bytes) = (counted(*tensors, "tensor"), decimal(*bytes));
    let mut lines = vec![format!("wrote {}: {rank}{all}, {bytes}", plain(destination))];
    lines.extend(
        files.iter().map(|file| format!("  {} ({})", plain(&file.location), decimal(file.bytes))),
    );
    lines.extend(usage.iter().map(|line| plain(line)));
    Some(lines.join("\n"))
}
