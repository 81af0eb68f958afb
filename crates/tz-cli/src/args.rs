//! What was typed. Owns the options that commands share and the forms of their values; each command's own options
//! stand in its file.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser};
use tz_format::Element;

use crate::access::AccessArgs;
use crate::commands::Command;
use crate::exit::Exit;

const ABOUT: &str =
    "Saves, loads and checks model tensors in CoreWeave's .tensors format, without Python";

const LONG_ABOUT: &str = "\
Saves, loads and checks model tensors in CoreWeave's .tensors format, without Python.

A SOURCE is a .tensors file, a .safetensors file, a checkpoint directory, hf://ORGANISATION/NAME[@REVISION] for a model \
of Hugging Face (from HF_HOME, else downloaded), or `-` for a .tensors stream on standard input. .tensors files may be \
local, https://, s3://, gs:// or az://. Data goes to standard output, words and progress go to standard error.";

const EXAMPLES: &str = "\
Examples:
  tz-cli synth demo --preset llama-tiny           make a small checkpoint to play with
  tz-cli serialize demo demo.tensors              save it in the .tensors format
  tz-cli inspect demo.tensors                     see what is in the file
  tz-cli verify demo.tensors                      check every stored hash
  tz-cli deserialize demo.tensors                 load it, with figures
  tz-cli deserialize demo.tensors --to back       write it out as safetensors
  tz-cli diff demo back                           compare two models, whatever their format
  tz-cli encrypt demo.tensors s.tensors --keyfile k --generate-key
  tz-cli copy demo.tensors s3://bucket/demo.tensors";

const SETTINGS: &str = "\
Settings: an option wins over its environment variable (shown in each command's help), which wins over the file
given with --config, which wins over the default. In the file, options stand by their long names:
  num-readers = 4
  memory-limit = \"512MiB\"
  verify = true
  filter = [\"model.layers.*\"]
  dtype = \"bfloat16\"
  limit-cpu-concurrency = 2
  keyfile = \"model.key\"
  s3-endpoint = \"https://storage.example\"
  stall-timeout = \"30s\"
  retries = 8
  deadline = \"10m\"
  json = false
  quiet = false";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "tz-cli",
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = EXAMPLES,
    after_long_help = after_long_help(),
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn after_long_help() -> String {
    format!("{EXAMPLES}\n\n{SETTINGS}\n\n{}", Exit::help())
}

/// How to speak. Every command takes these.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OutputArgs {
    /// Print results, and errors, as one JSON object on standard output
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,
    /// No progress and no words on standard error, errors excepted
    #[arg(long, short, global = true, help_heading = "Output")]
    pub(crate) quiet: bool,
    /// Say more about the work done: counters and times
    #[arg(long, short, global = true, help_heading = "Output", conflicts_with = "quiet")]
    pub(crate) verbose: bool,
    /// Take settings from this file
    #[arg(
        long,
        global = true,
        value_name = "tz.toml",
        env = "TZ_CONFIG",
        hide_env_values = true,
        help_heading = "Output"
    )]
    pub(crate) config: Option<PathBuf>,
    /// Most time for the whole command, for example 90s or 10m; then it ends with code 3 and leaves nothing half-written
    /// [default: none]
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        value_parser = duration,
        env = "TZ_DEADLINE",
        hide_env_values = true,
        help_heading = "Effort",
        hide_short_help = true
    )]
    pub(crate) deadline: Option<Duration>,
}

/// How much of the machine to use.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EffortArgs {
    /// Readers at work at once [default: one per core, at most 16]
    #[arg(
        long,
        value_name = "N",
        value_parser = count,
        env = "TZ_NUM_READERS",
        hide_env_values = true,
        help_heading = "Effort"
    )]
    pub(crate) num_readers: Option<usize>,
    /// Most processor cores to keep busy [default: all]
    #[arg(
        long,
        value_name = "N",
        value_parser = count,
        env = "TZ_LIMIT_CPU_CONCURRENCY",
        hide_env_values = true,
        help_heading = "Effort"
    )]
    pub(crate) limit_cpu_concurrency: Option<usize>,
    /// Most memory for tensor data on its way, for example 64MiB or 1GB [default: 256MiB]
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = size,
        env = "TZ_MEMORY_LIMIT",
        hide_env_values = true,
        help_heading = "Effort"
    )]
    pub(crate) memory_limit: Option<u64>,
}

/// Which tensors to take.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only tensors whose name matches GLOB; may be repeated. `*` matches dots and slashes too
    #[arg(
        long,
        value_name = "GLOB",
        env = "TZ_FILTER",
        hide_env_values = true,
        help_heading = "Tensors"
    )]
    pub(crate) filter: Vec<String>,
}

/// Whether to trust the bytes.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct VerifyArgs {
    /// Check stored hashes while reading; this is the default [env: TZ_VERIFY=true or false]
    #[arg(long, overrides_with = "no_verify", help_heading = "Tensors")]
    verify: bool,
    /// Do not check stored hashes
    #[arg(long, help_heading = "Tensors")]
    no_verify: bool,
}

impl VerifyArgs {
    /// What was typed, if anything.
    pub(crate) fn choice(self) -> Option<bool> {
        match (self.verify, self.no_verify) {
            (false, false) => None,
            (verify, _) => Some(verify),
        }
    }
}

/// What to turn elements into.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct DtypeArgs {
    /// Cast tensors of floating point numbers to NAME: float16, bfloat16, float32 or float64. Tensors of integers,
    /// and of 8-bit floats, whose scales would no longer fit, stay as they are
    #[arg(
        long,
        value_name = "NAME",
        value_parser = float,
        env = "TZ_DTYPE",
        hide_env_values = true,
        help_heading = "Tensors"
    )]
    pub(crate) dtype: Option<Element>,
}

/// A number of at least one.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number of at least 1 is needed".to_owned()),
        Ok(count) => Ok(count),
    }
}

/// Element types that casts lead to, with torch's names.
pub(crate) fn float(name: &str) -> Result<Element, String> {
    let known = [Element::Float16, Element::Bfloat16, Element::Float32, Element::Float64];
    let name = name.strip_prefix("torch.").unwrap_or(name);
    let found = known.into_iter().find(|&element| tz_format::Dtype::from(element).name() == name);
    found.ok_or_else(|| "one of float16, bfloat16, float32, float64 is needed".to_owned())
}

/// A time: `30s`, `500ms`, `2m`, `1h`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write 30s, 500ms, 10m or 1h");
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let millis = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(millis) {
        Some(0) => Err("a time of at least 1ms is needed".to_owned()),
        // Beyond what clocks can add.
        Some(millis) if millis <= MAX_MILLIS => Ok(Duration::from_millis(millis)),
        _ => Err(format!("{text} is too long")),
    }
}

/// Longest time that can be asked for: a hundred years.
const MAX_MILLIS: u64 = 100 * 366 * 24 * 3_600_000;

const UNITS: &[(&str, u64)] = &[
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    // As dd, curl and docker read them.
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
];

/// A number of bytes: `64MiB`, `1.5GB`, `512k`, `4096`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let scale = UNITS.iter().find(|(name, _)| *name == unit);
    let &(_, scale) = scale.ok_or_else(|| format!("unknown unit {unit:?}; write 64MiB or 1GB"))?;
    let wrong = || format!("{text:?} is not a size; write 64MiB or 1GB");
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let too_large = || format!("{text} is more than 2^64 bytes");
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let digits = u32::try_from(fraction.len()).ok().filter(|&digits| digits <= 9);
    let power = 10_u64.pow(digits.ok_or_else(wrong)?);
    let fraction: u64 = fraction.parse().map_err(|_| wrong())?;
    let part = u128::from(fraction) * u128::from(scale) / u128::from(power);
    let bytes = u128::from(whole) * u128::from(scale) + part;
    u64::try_from(bytes).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("1GB", 1_000_000_000),
            ("512k", 512 << 10),
            ("1.5 GiB", 3 << 29),
            ("0", 0),
            ("2g", 2 << 30),
            ("100B", 100),
            ("0.5kb", 500),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.2.3", "1.", ".5", "5 parsecs", "99999999999GiB", "1e9"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, millis) in
            [("30", 30_000), ("30s", 30_000), ("500 ms", 500), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "1.5s", "3 weeks", "0", "0ms", "99999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn floats_by_torch_name() {
        assert_eq!(float("bfloat16"), Ok(Element::Bfloat16));
        assert_eq!(float("torch.float32"), Ok(Element::Float32));
        for name in ["int8", "bf16", "float8_e4m3fn", ""] {
            assert!(float(name).is_err(), "{name}");
        }
    }
}
