//! How vLLM serves what was written. Owns [`ServeLines`]: the command, the Python form, and what else must be known.
//!
//! vLLM's releases differ in what they take (docs/VLLM.md has the table), so lines are made for one of them.

use serde_json::{Map, Value, json};

use super::tensors_template;
use crate::layout::VllmVersion;

/// The first release that takes a directory as the model and finds the tensors in it.
const TAKES_DIRECTORIES: VllmVersion = VllmVersion::new(0, 10, 0);
/// The first release after the one in which an `s3://` directory was seen to be taken.
const S3_UNCHECKED: VllmVersion = VllmVersion::new(0, 11, 0);
/// The first release that loads no adapter through Tensorizer.
const NO_TENSOR_ADAPTERS: VllmVersion = VllmVersion::new(0, 32, 0);
/// The rank that vLLM takes adapters up to when it is told nothing, and the larger ones that it can be told.
const LORA_RANKS: &[u64] = &[16, 32, 64, 128, 256, 320, 512];

/// A published directory, as far as serving it depends on it.
#[derive(Debug, Clone)]
pub struct Served<'a> {
    /// The directory: an absolute path or a URI.
    pub dir: &'a str,
    /// What vLLM takes configuration and tokenizer from where it cannot take them from the directory: a Hugging Face id
    /// or an absolute path.
    pub model: &'a str,
    /// The release that will serve it.
    pub version: VllmVersion,
    /// Number of ranks.
    pub tensor_parallel: u32,
    /// Absolute path or URI of the key.
    pub keyfile: Option<&'a str>,
    /// Endpoint of S3, as far as it is known.
    pub s3_endpoint: Option<&'a str>,
    /// The adapter beside the model.
    pub adapter: Option<Adapter<'a>>,
}

/// An adapter that stands beside the model.
#[derive(Debug, Clone, Copy)]
pub struct Adapter<'a> {
    /// Name to serve it under.
    pub name: &'a str,
    /// Its rank.
    pub rank: u64,
    /// Folder of the directory that holds it as PEFT saved it; `None` where it is there as tensors alone.
    pub plain: Option<&'a str>,
}

/// What to type.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ServeLines {
    /// For a shell.
    pub serve: String,
    /// For Python.
    pub python: String,
    /// What the lines cannot say.
    pub notes: Vec<String>,
}

impl ServeLines {
    /// The lines for one directory and one release.
    #[must_use]
    pub fn new(served: &Served<'_>) -> Self {
        let is_remote = served.dir.contains("://");
        let directory_will_do = served.tensor_parallel == 1
            && served.version >= TAKES_DIRECTORIES
            && (!is_remote || served.version < S3_UNCHECKED);
        let model = if !is_remote || directory_will_do { served.dir } else { served.model };
        let extra = served.extra_config(!directory_will_do);
        let mut lines = Self { serve: String::new(), python: String::new(), notes: Vec::new() };
        let mut options: Vec<String> = vec!["--load-format tensorizer".to_owned()];
        let mut arguments = vec![text(model), "load_format=\"tensorizer\"".to_owned()];
        if served.tensor_parallel > 1 {
            options.push(format!("--tensor-parallel-size {}", served.tensor_parallel));
            arguments.push(format!("tensor_parallel_size={}", served.tensor_parallel));
        }
        if !extra.is_empty() {
            let extra = Value::Object(extra);
            options.push(format!("--model-loader-extra-config {}", quoted(&extra.to_string())));
            arguments.push(format!("model_loader_extra_config={}", python(&extra)));
        }
        let mut request = None;
        if let Some(adapter) = &served.adapter {
            request = served.with_adapter(adapter, is_remote, &mut options, &mut lines.notes);
            if request.is_some() || served.version >= NO_TENSOR_ADAPTERS && adapter.plain.is_some()
            {
                arguments.push("enable_lora=True".to_owned());
                arguments
                    .extend(max_rank(adapter.rank).map(|rank| format!("max_lora_rank={rank}")));
            }
        }
        lines.serve = format!("vllm serve {} \\\n    {}", quoted(model), options.join(" \\\n    "));
        lines.python = format!("llm = LLM(\n    {},\n)", arguments.join(",\n    "));
        if let Some(request) = request {
            lines.python = format!("{}\nadapter = {request}", lines.python);
        }
        if is_remote {
            lines.notes.extend(served.remote_notes());
        }
        lines
    }
}

impl Served<'_> {
    /// `model_loader_extra_config`: its keys are flat, and unknown ones would be ignored without a word.
    fn extra_config(&self, with_uri: bool) -> Map<String, Value> {
        let mut extra = Map::new();
        // In order of their names, which is the order of a map in some builds of `serde_json` and not in others.
        if let Some(keyfile) = self.keyfile {
            extra.insert("encryption_keyfile".to_owned(), keyfile.into());
        }
        extra.extend(self.s3_config());
        if with_uri {
            let uri = format!("{}/{}", self.dir, tensors_template(self.tensor_parallel));
            extra.insert("tensorizer_uri".to_owned(), uri.into());
        }
        extra
    }

    /// Tensorizer refuses an endpoint without TLS unless it is told to take one.
    fn s3_config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        let is_s3 = self.dir.starts_with("s3://");
        if let Some(endpoint) = self.s3_endpoint.filter(|_| is_s3) {
            config.insert("s3_endpoint".to_owned(), endpoint.into());
            if endpoint.starts_with("http://") && self.version >= TAKES_DIRECTORIES {
                config.insert("stream_kwargs".to_owned(), json!({ "force_http": true }));
            }
        }
        config
    }

    /// Adds what serves the adapter; gives the request that Python makes where there is one.
    fn with_adapter(
        &self,
        adapter: &Adapter<'_>,
        is_remote: bool,
        options: &mut Vec<String>,
        notes: &mut Vec<String>,
    ) -> Option<String> {
        let enable = |options: &mut Vec<String>| {
            options.push("--enable-lora".to_owned());
            options.extend(max_rank(adapter.rank).map(|rank| format!("--max-lora-rank {rank}")));
        };
        if self.version < NO_TENSOR_ADAPTERS {
            enable(options);
            let sealed = Served {
                keyfile: self.keyfile.filter(|_| adapter.plain.is_none()),
                ..self.clone()
            };
            let config = python(&Value::Object(sealed.extra_config(true)));
            notes.push(
                "the adapter is loaded by LoRARequest alone: no option or route of the server takes it".to_owned(),
            );
            if is_remote {
                notes.push(
                    "keys for the adapter's bucket are looked for in AWS_* or ~/.s3cfg, not in the configuration"
                        .to_owned(),
                );
            }
            let (name, dir) = (text(adapter.name), text(self.dir));
            return Some(format!("LoRARequest({name}, 1, {dir}, tensorizer_config_dict={config})"));
        }
        match adapter.plain {
            Some(folder) if !is_remote => {
                enable(options);
                let module = format!("{}={}/{folder}", adapter.name, self.dir);
                options.push(format!("--lora-modules {}", quoted(&module)));
            }
            Some(folder) => {
                enable(options);
                notes.push(format!(
                    "vLLM {} takes adapters from its own disk: copy {}/{folder}/ there and add \
                     --lora-modules {}=FOLDER",
                    self.version, self.dir, adapter.name
                ));
            }
            None => notes.push(format!(
                "vLLM {} reads adapters in clear alone, and this one is encrypted: `tz-cli lora unpack` makes the form \
                 that it reads",
                self.version
            )),
        }
        None
    }

    fn remote_notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.dir.starts_with("s3://") {
            notes.push("vLLM reads s3://, http:// and https:// alone".to_owned());
            return notes;
        }
        notes.push(
            "vLLM finds S3's keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.s3cfg, not in S3_*".to_owned(),
        );
        match self.s3_endpoint {
            None => notes.push(
                "without an endpoint, Tensorizer asks accel-object.ord1.coreweave.com: for another add \"s3_endpoint\""
                    .to_owned(),
            ),
            Some(endpoint) if endpoint.starts_with("http://") && self.version < TAKES_DIRECTORIES => {
                notes.push(format!(
                    "set AWS_ENDPOINT_URL_S3={endpoint} for vLLM: this release takes no endpoint without TLS otherwise"
                ));
            }
            Some(_) => {}
        }
        notes
    }
}

/// The bound to ask for, where an adapter's rank is above what vLLM takes unasked.
fn max_rank(rank: u64) -> Option<u64> {
    let fitting = LORA_RANKS.iter().copied().find(|&bound| bound >= rank);
    fitting.filter(|&bound| Some(&bound) != LORA_RANKS.first())
}

/// A word of a shell's command line.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A string of Python: its escapes are those of JSON.
fn text(text: &str) -> String {
    Value::from(text).to_string()
}

/// A value of JSON as Python writes it.
fn python(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        Value::Object(entries) => {
            let entries =
                entries.iter().map(|(key, value)| format!("{}: {}", text(key), python(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
