//! An adapter as `.tensors` file. Owns [`PackedAdapter`]: loading it, and giving the PEFT directory back.

use tz_format::{Dtype, TensorEntry};
use tz_io::{HostTensors, IoError, OpenOptions, ReadOptions, Selection, TensorFile, WriteOptions};
use tz_model::{ArtifactDir, Checkpoint};

use crate::adapter::AdapterTensor;
use crate::config::AdapterConfig;
use crate::error::Error;
use crate::image::{Image, KEPT_HEADER};
use crate::refusal::Refusal;
use crate::rules::Rules;
use crate::stage::{Published, Stage};
use crate::{CONFIG_FILE, PACKED_FILE, PLAIN_FILE};

/// An open packed adapter. The configuration and the table of tensors are read, tensor data is not.
#[derive(Debug)]
pub struct PackedAdapter {
    config: AdapterConfig,
    file: TensorFile,
    tensors: Vec<AdapterTensor>,
}

impl PackedAdapter {
    /// Opens a folder with `adapter_config.json` and `adapter_model.tensors`.
    ///
    /// # Errors
    /// [`Error::Io`] where one of them cannot be read, [`Error::Config`].
    pub fn open(folder: &ArtifactDir, options: &OpenOptions) -> Result<Self, Error> {
        let config = AdapterConfig::read(&folder.join(CONFIG_FILE)?, &options.remote)?;
        let file = TensorFile::open_with(&folder.join(PACKED_FILE)?, options)?;
        let tensor = |entry: &TensorEntry| AdapterTensor {
            name: entry.path.to_string(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            byte_len: entry.byte_len(),
            is_plain: entry.path.plain().is_some(),
        };
        let tensors = file.entries().iter().map(tensor).collect();
        Ok(Self { config, file, tensors })
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

    /// The file itself: for loading onto a device, by a loader that takes any `.tensors` file.
    #[must_use]
    pub fn file(&self) -> &TensorFile {
        &self.file
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
        rules.validate(&self.config, &self.tensors, || self.file.location().to_owned())
    }

    /// Loads every tensor into owned memory, by one plan.
    ///
    /// # Errors
    /// As [`TensorFile::load`].
    pub fn load(&self, options: &ReadOptions) -> Result<HostTensors, Error> {
        Ok(self.file.load(&Selection::all(), options)?)
    }

    /// Writes the PEFT directory: the configuration byte for byte, then `adapter_model.safetensors`, with the very
    /// bytes that were packed where this crate packed them. On disk both are whole before one appears.
    ///
    /// A file that PyTorch, Python's tensorizer or another program packed gives equal tensors in the file that the
    /// safetensors library would make of them. Of `options`, those on durability, cancelling and servers apply.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Header`] where the file carries a header that is not its own; [`Error::Checkpoint`]
    /// where safetensors lacks an element type.
    pub fn unpack(
        &self,
        folder: &ArtifactDir,
        read: &ReadOptions,
        options: &WriteOptions,
    ) -> Result<Published, Error> {
        self.file.require_unlocked()?;
        let metadata = self.file.front().extension.user_metadata.clone().unwrap_or_default();
        let mut stage = Stage::new(folder, options)?;
        stage.require_absent(&[CONFIG_FILE, PLAIN_FILE])?;
        let path = stage.path(PLAIN_FILE);
        let image = match metadata.get(KEPT_HEADER).and_then(|text| text.as_str()) {
            Some(text) => Image::with_header(text, &self.tensors),
            None => Image::canonical(&path, &self.tensors, &metadata)?,
        };
        if let Some(meta) = self.file.entries().iter().find(|entry| entry.is_meta()) {
            return Err(IoError::Unsupported {
                location: format!("{}: tensor {:?}", self.file.location(), meta.path.to_string()),
                why: "a tensor without data is no part of an adapter",
            }
            .into());
        }
        image.write_packed(&path, &self.file, read)?;
        self.check(&path)?;
        stage.put(CONFIG_FILE, self.config.bytes())?;
        stage.staged(PLAIN_FILE)?;
        stage.finish()
    }

    /// What was made must be what the table says: a header that came with the file is a stranger's word.
    fn check(&self, path: &std::path::Path) -> Result<(), Error> {
        let header = |reason| Error::Header { location: self.file.location().to_owned(), reason };
        let made = Checkpoint::open(path).map_err(|_| header("is damaged"))?;
        if made.tensors().len() != self.tensors.len() {
            return Err(header("names another number of tensors"));
        }
        for tensor in &self.tensors {
            let found = made.find(&tensor.name).and_then(|at| made.tensors().get(at));
            let found = found.ok_or_else(|| header("names other tensors"))?;
            // Safetensors is little-endian whatever the header says.
            let dtype: Dtype = tensor.dtype.element().into();
            if (found.dtype, &found.shape) != (dtype, &tensor.shape) {
                return Err(header("gives a tensor another type or shape"));
            }
        }
        Ok(())
    }
}
