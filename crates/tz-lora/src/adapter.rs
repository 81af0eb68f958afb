//! An adapter as PEFT saved it. Owns [`Adapter`]: opening, checking, and writing either form of it.

use std::path::{Path, PathBuf};

use serde_json::Map;
use tz_format::{Dtype, TensorSpec};
use tz_io::{Location, WriteOptions, copy, write};
use tz_model::{ArtifactDir, Checkpoint, SourceTensor};

use crate::config::AdapterConfig;
use crate::error::Error;
use crate::image::{self, Image};
use crate::refusal::Refusal;
use crate::rules::Rules;
use crate::stage::{Published, Stage};
use crate::{CONFIG_FILE, PACKED_FILE, PLAIN_FILE};

/// Names of the weights, in the order in which vLLM looks for them.
const WEIGHTS: [&str; 3] = [PLAIN_FILE, "adapter_model.bin", "adapter_model.pt"];

/// One tensor of an adapter, in either form.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterTensor {
    /// Name as PEFT gave it.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Bytes of data.
    pub byte_len: u64,
    /// Whether the name is one, not a path of keys.
    pub(crate) is_plain: bool,
}

impl From<(&TensorSpec, &SourceTensor)> for AdapterTensor {
    fn from((spec, tensor): (&TensorSpec, &SourceTensor)) -> Self {
        Self {
            name: tensor.name.clone(),
            dtype: spec.dtype,
            shape: spec.shape.clone(),
            byte_len: tensor.byte_len,
            is_plain: spec.path.plain().is_some(),
        }
    }
}

/// Which forms of an adapter to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forms {
    /// `adapter_model.safetensors`: PEFT, and vLLM of any version.
    pub plain: bool,
    /// `adapter_model.tensors`: vLLM up to 0.31, through tensorizer.
    pub packed: bool,
}

impl Forms {
    /// The packed form alone.
    pub const PACKED: Self = Self { plain: false, packed: true };
    /// The plain form alone.
    pub const PLAIN: Self = Self { plain: true, packed: false };
    /// Both, beside one configuration.
    pub const BOTH: Self = Self { plain: true, packed: true };
}

/// An open PEFT directory: `adapter_config.json` and the weights. Headers are read, tensor data is not.
#[derive(Debug)]
pub struct Adapter {
    weights: PathBuf,
    config: AdapterConfig,
    checkpoint: Checkpoint,
    tensors: Vec<AdapterTensor>,
}

impl Adapter {
    /// Opens a directory with `adapter_config.json` and `adapter_model.safetensors` (or `.bin`, `.pt`).
    ///
    /// # Errors
    /// [`Error::NotAnAdapter`] where one of them is missing, [`Error::Config`] and [`Error::Checkpoint`] where one
    /// cannot be read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let missing = |reason| Error::NotAnAdapter { location: dir.display().to_string(), reason };
        let config = dir.join(CONFIG_FILE);
        if !dir.is_dir() {
            return Err(missing("it is no directory"));
        }
        if !config.is_file() {
            return Err(missing("it has no adapter_config.json"));
        }
        let config = AdapterConfig::read(&Location::File(config), &Default::default())?;
        let weights = WEIGHTS.iter().map(|name| dir.join(name)).find(|path| path.is_file());
        let weights =
            weights.ok_or_else(|| missing("it has no adapter_model.safetensors, .bin or .pt"))?;
        let checkpoint = Checkpoint::open(&weights)?;
        let tensors = checkpoint.specs().iter().zip(checkpoint.tensors()).map(Into::into).collect();
        Ok(Self { weights, config, checkpoint, tensors })
    }

    /// Whether a directory holds what [`Self::open`] opens.
    #[must_use]
    pub fn is_at(dir: &Path) -> bool {
        dir.join(CONFIG_FILE).is_file() && WEIGHTS.iter().any(|name| dir.join(name).is_file())
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// The tensors, in file order.
    #[must_use]
    pub fn tensors(&self) -> &[AdapterTensor] {
        &self.tensors
    }

    /// The file that holds them.
    #[must_use]
    pub fn weights(&self) -> &Path {
        &self.weights
    }

    /// Everything for which vLLM would refuse the adapter, or compute something else with it.
    #[must_use]
    pub fn refusals(&self, rules: &Rules) -> Vec<Refusal> {
        rules.refusals(&self.config, &self.tensors)
    }

    /// Fails where there is anything.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn validate(&self, rules: &Rules) -> Result<(), Error> {
        rules.validate(&self.config, &self.tensors, || {
            self.weights.parent().unwrap_or(&self.weights).display().to_string()
        })
    }

    /// Writes the packed form: [`Self::publish`] with [`Forms::PACKED`].
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn pack(&self, folder: &ArtifactDir, options: &WriteOptions) -> Result<Published, Error> {
        self.publish(folder, Forms::PACKED, options)
    }

    /// Writes the configuration, byte for byte, then the forms asked for, the packed one last; an old file of the same
    /// name is replaced. On disk all of them are whole before the first one appears. In an object store each appears
    /// whole, in this order.
    ///
    /// `options` are those of the packed file. It is encrypted only where [`WriteOptions::seal`] says so; the plain
    /// form never is.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Checkpoint`] where the weights cannot be read.
    pub fn publish(
        &self,
        folder: &ArtifactDir,
        forms: Forms,
        options: &WriteOptions,
    ) -> Result<Published, Error> {
        let mut stage = Stage::new(folder, options)?;
        let wanted = [(CONFIG_FILE, true), (PLAIN_FILE, forms.plain), (PACKED_FILE, forms.packed)];
        let wanted: Vec<&str> =
            wanted.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name).collect();
        stage.require_absent(&wanted)?;
        stage.put(CONFIG_FILE, self.config.bytes())?;
        if forms.plain {
            self.write_plain(&mut stage, options)?;
        }
        if forms.packed {
            let options = self.packed_options(options)?;
            let target = stage.target(PACKED_FILE)?;
            let stats = write(&self.checkpoint, &target, &options)?;
            stage.written(PACKED_FILE, stats.file_bytes);
        }
        stage.finish()
    }

    /// Safetensors as it is; of a PyTorch file, what the safetensors library would write.
    fn write_plain(&self, stage: &mut Stage<'_>, options: &WriteOptions) -> Result<(), Error> {
        if self.is_safetensors() {
            let source = Location::File(self.weights.clone());
            let report = copy(&source, &stage.target(PLAIN_FILE)?, options)?;
            stage.written(PLAIN_FILE, report.bytes);
            return Ok(());
        }
        let image = Image::canonical(&self.weights, &self.tensors, &Map::new())?;
        let path = stage.path(PLAIN_FILE);
        image.write_from(&path, &self.checkpoint, &self.tensors, &options.cancel)?;
        stage.staged(PLAIN_FILE)
    }

    fn is_safetensors(&self) -> bool {
        self.weights.extension().is_some_and(|ending| ending == "safetensors")
    }

    /// The caller's options, and what it takes to make the very same safetensors file again.
    fn packed_options(&self, options: &WriteOptions) -> Result<WriteOptions, Error> {
        let mut options = options.clone();
        let mut metadata = options.user_metadata.take().unwrap_or_default();
        if self.is_safetensors() {
            let own = self.checkpoint.files().iter().flat_map(|file| file.user_metadata());
            metadata.extend(own.map(|(key, text)| (key.clone(), text.as_str().into())));
            let start = self.checkpoint.tensors().first().map(|tensor| tensor.offset);
            let kept = image::header_to_keep(&self.weights, start, &self.tensors, &metadata)?;
            metadata.extend(kept.map(|text| (image::KEPT_HEADER.to_owned(), text.into())));
        }
        options.user_metadata = Some(metadata).filter(|metadata| !metadata.is_empty());
        Ok(options)
    }
}
