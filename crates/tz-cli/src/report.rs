//! What commands return: values, not text. Owns [`Report`] and the shapes that `--json` prints.

mod gpu;
mod lora;
mod slots;
mod vllm;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use tz_format::{PathKey, TensorKind, TensorPath};
use tz_io::{Corruption, ReadStats, WriteStats};

use crate::exit::Exit;

pub(crate) use gpu::{DeviceBenchmark, DeviceFacts, DeviceRound, DeviceStalls, device_phases};
pub(crate) use lora::{Adapted, AdapterFacts, AdapterRow, AdapterWritten, Refused, WrittenFile};
pub(crate) use slots::{KdfFacts, Rewrapped, Slot};
pub(crate) use vllm::{
    DirectoryVerification, ModelLoaded, ModelPublished, RankLoaded, RankWritten,
};

/// The result of one command. `--json` prints it as it stands here.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Report {
    Serialize(Written),
    Deserialize(Loading),
    Inspect(Inspection),
    Verify(Verification),
    VerifyDirectory(DirectoryVerification),
    Checksum(Checksums),
    Diff(Differences),
    Synth(Synthesised),
    Bench(Benchmark),
    BenchDevice(Box<DeviceBenchmark>),
    Copy(Copied),
    Rewrap(Rewrapped),
    Lora(Adapted),
    VllmSerialize(Box<ModelPublished>),
    VllmDeserialize(ModelLoaded),
    Done(Done),
    /// Text for a program: completions, manual pages. Never JSON.
    Text(String),
}

impl Report {
    pub(crate) fn exit(&self) -> Exit {
        let fine = match self {
            Self::Verify(report) => report.ok,
            Self::VerifyDirectory(report) => report.ok,
            Self::Diff(report) => report.equal,
            _ => true,
        };
        if fine { Exit::Done } else { Exit::CheckFailed }
    }
}

/// `copy`: what was copied.
#[derive(Debug, Serialize)]
pub(crate) struct Copied {
    pub(crate) destination: String,
    pub(crate) bytes: u64,
    /// Tensors whose hash was checked on the way.
    pub(crate) tensors_checked: usize,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
}

/// How a file is encrypted, as far as it says so without a key. Nothing here is authenticated.
#[derive(Debug, Serialize)]
pub(crate) struct Encryption {
    pub(crate) cipher: &'static str,
    /// `null` where no tensor has data, where it is encrypted in one piece, or where a stream cannot be asked.
    pub(crate) chunk_bytes: Option<u64>,
    /// Of a compat file that takes a passphrase; `null` for one that takes a key.
    pub(crate) key_derivation: Option<KdfFacts>,
    /// Of a sealed file.
    pub(crate) slots: Vec<Slot>,
}

/// A command that makes one small file.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    pub(crate) path: String,
    #[serde(skip)]
    pub(crate) words: String,
}

/// `serialize`, `encrypt`, `decrypt`: what was written.
#[derive(Debug, Serialize)]
pub(crate) struct Written {
    pub(crate) destination: String,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) peak_host_bytes: u64,
    pub(crate) phases: Phases,
}

/// Seconds per phase, summed over the threads that worked at once, so they may exceed the time that passed.
pub(crate) type Phases = BTreeMap<&'static str, f64>;

/// `deserialize`: what was loaded.
#[derive(Debug, Serialize)]
pub(crate) struct Loading {
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) peak_host_bytes: u64,
    pub(crate) device: String,
    pub(crate) phases: Phases,
    /// Whether the tensors went through bounded memory instead of staying in it.
    pub(crate) streamed: bool,
    pub(crate) verified: bool,
    pub(crate) readers: usize,
    /// Where they were written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination: Option<String>,
    #[serde(flatten)]
    pub(crate) gpu: Option<DeviceFacts>,
}

/// `inspect`: the front of a file. `serialize --dry-run` prints the same of a file that is not there yet.
#[derive(Debug, Serialize)]
pub(crate) struct Inspection {
    pub(crate) format: &'static str,
    pub(crate) schema: u32,
    pub(crate) version: u32,
    pub(crate) profile: &'static str,
    pub(crate) encrypted: bool,
    /// `null` where the file is a stream.
    pub(crate) file_bytes: Option<u64>,
    pub(crate) index_bytes: u64,
    pub(crate) tensor_count: usize,
    pub(crate) tensor_bytes: u64,
    pub(crate) extension: ExtensionRecords,
    /// Of an encrypted file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encryption: Option<Box<Encryption>>,
    pub(crate) tensors: Vec<InspectedTensor>,
    #[serde(skip)]
    pub(crate) location: String,
    #[serde(skip)]
    pub(crate) flags: Vec<&'static str>,
}

/// What our own files say beyond the format.
#[derive(Debug, Serialize)]
pub(crate) struct ExtensionRecords {
    pub(crate) writer: Option<String>,
    pub(crate) metadata: Option<Map<String, Value>>,
    /// Whether the front holds a BLAKE3 digest of every tensor.
    pub(crate) blake3: bool,
    /// Types of records that this version does not know.
    pub(crate) unknown: Vec<u16>,
}

/// One row of the tensor table.
#[derive(Debug, Serialize)]
pub(crate) struct InspectedTensor {
    pub(crate) path: Vec<Value>,
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) meta: bool,
    pub(crate) header_offset: u64,
    pub(crate) data_offset: u64,
    pub(crate) data_bytes: u64,
    /// By algorithm; those in tensor headers only where they were asked for.
    pub(crate) hashes: BTreeMap<&'static str, String>,
}

/// `verify`: what was found.
#[derive(Debug, Serialize)]
pub(crate) struct Verification {
    pub(crate) location: String,
    pub(crate) ok: bool,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    /// Tensors that no stored hash covers: only their structure was checked. `null` where that is not known.
    pub(crate) unhashed: Option<usize>,
    /// Whether the journal of an interrupted `rewrap` follows a sealed file.
    pub(crate) ends_in_journal: bool,
    pub(crate) seconds: f64,
    pub(crate) failures: Vec<FailedTensor>,
}

/// A tensor whose data is not what was written.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct FailedTensor {
    pub(crate) name: String,
    pub(crate) checks: Vec<&'static str>,
    pub(crate) data_offset: u64,
}

impl FailedTensor {
    /// One entry per tensor, in file order.
    pub(crate) fn group(mut failures: Vec<Corruption>) -> Vec<Self> {
        failures.sort_by_key(|failure| failure.data_offset);
        let mut grouped: Vec<Self> = Vec::new();
        for Corruption { tensor, check, data_offset } in failures {
            match grouped.last_mut() {
                Some(last) if last.name == tensor => last.checks.push(check),
                _ => grouped.push(Self { name: tensor, checks: vec![check], data_offset }),
            }
        }
        grouped
    }
}

/// `checksum`: one digest per tensor.
#[derive(Debug, Serialize)]
pub(crate) struct Checksums {
    pub(crate) algorithm: &'static str,
    pub(crate) tensors: Vec<Checksum>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Checksum {
    pub(crate) path: Vec<Value>,
    pub(crate) name: String,
    pub(crate) digest: String,
}

/// `diff`: how two sources differ.
#[derive(Debug, Serialize)]
pub(crate) struct Differences {
    pub(crate) equal: bool,
    /// Tensors that both have and that were compared.
    pub(crate) compared: usize,
    pub(crate) bytes: u64,
    pub(crate) differences: Vec<Difference>,
}

/// One tensor that differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) what: What,
}

/// In which respect a tensor differs; the first that does is told.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum What {
    OnlyInA,
    OnlyInB,
    Dtype {
        a: &'static str,
        b: &'static str,
    },
    Shape {
        a: Vec<u64>,
        b: Vec<u64>,
    },
    /// `offset` is the first byte of the tensor that differs.
    Contents {
        offset: u64,
    },
}

/// `synth`: what was made.
#[derive(Debug, Serialize)]
pub(crate) struct Synthesised {
    pub(crate) destination: String,
    pub(crate) preset: String,
    pub(crate) seed: u64,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

/// `bench`: every round, and their medians.
#[derive(Debug, Serialize)]
pub(crate) struct Benchmark {
    pub(crate) location: String,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    pub(crate) readers: usize,
    pub(crate) verified: bool,
    pub(crate) rounds: Vec<Round>,
    pub(crate) median_seconds: f64,
    pub(crate) median_raw_seconds: f64,
    /// On a busy machine, the best round says most about the program.
    pub(crate) best_seconds: f64,
    pub(crate) best_raw_seconds: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) raw_bytes_per_second: f64,
    /// Speed of the load over speed of the raw read, by medians.
    pub(crate) ratio: f64,
    pub(crate) peak_host_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) seconds: f64,
    pub(crate) raw_seconds: f64,
    pub(crate) phases: Phases,
}

/// Phases of a read that took place after `open`.
pub(crate) fn phases(open: Duration, stats: &ReadStats) -> Phases {
    Phases::from([
        ("open", open.as_secs_f64()),
        ("fetch", stats.fetch.as_secs_f64()),
        ("verify", stats.verify.as_secs_f64()),
        ("wait", stats.wait.as_secs_f64()),
        ("consume", stats.consume.as_secs_f64()),
    ])
}

/// Phases of a write.
pub(crate) fn write_phases(stats: &WriteStats) -> Phases {
    Phases::from([
        ("read", stats.read.as_secs_f64()),
        ("hash", stats.hash.as_secs_f64()),
        ("encrypt", stats.encrypt.as_secs_f64()),
        ("write", stats.write.as_secs_f64()),
        ("sync", stats.sync.as_secs_f64()),
    ])
}

/// Bytes per second; 0 where no time passed.
pub(crate) fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { as_f64(bytes) / seconds } else { 0.0 }
}

/// A count as a float: exact up to 2^53.
pub(crate) fn as_f64(count: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "figures for people and rates need no more than 53 bits"
    )]
    let float = count as f64;
    float
}

pub(crate) fn path_json(path: &TensorPath) -> Vec<Value> {
    let key = |key: &PathKey| match key {
        PathKey::Name(name) => Value::from(name.as_str()),
        PathKey::Index(index) => Value::from(*index),
    };
    path.keys().iter().map(key).collect()
}

pub(crate) fn kind_name(kind: TensorKind) -> &'static str {
    match kind {
        TensorKind::Parameter => "param",
        TensorKind::Buffer => "buffer",
        TensorKind::StateDict => "state_dict",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_grouped_by_tensor() {
        let failure = |tensor: &str, check, data_offset| Corruption {
            tensor: tensor.to_owned(),
            check,
            data_offset,
        };
        let grouped = FailedTensor::group(vec![
            failure("b", "crc32", 9),
            failure("a", "crc32", 4),
            failure("a", "sha256", 4),
        ]);
        let expected = |name: &str, checks: &[&'static str], data_offset| FailedTensor {
            name: name.to_owned(),
            checks: checks.to_vec(),
            data_offset,
        };
        assert_eq!(grouped, [expected("a", &["crc32", "sha256"], 4), expected("b", &["crc32"], 9)]);
    }
}
