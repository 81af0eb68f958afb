//! The LoRA adapter beside a model: checked against it, then in every form that some release of vLLM reads. Owns
//! [`LoraAdapter`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tz_crypto::{DEFAULT_COMPAT_CHUNK_SIZE, FileSealer, Key, SealSecret};
use tz_io::{TemporaryFolder, WriteOptions};
use tz_lora::{
    Adapter, ArtifactDir, BaseModel, CONFIG_FILE, Forms, PACKED_FILE, PLAIN_FILE, Rules,
};
use tz_model::Publication;

use super::ModelArgs;
use super::model::{self, Files};
use crate::error::Failure;
use crate::job::Session;

/// Folder of the adapter's plain form, below the model's directory.
const PLAIN_FOLDER: &str = "lora";
/// The largest rank that vLLM can be told to take.
const MAX_RANK: u64 = 512;

/// An adapter that was found to fit its model.
#[derive(Debug)]
pub(super) struct LoraAdapter {
    adapter: Adapter,
    name: String,
}

impl LoraAdapter {
    /// Opens the adapter of `--lora-path`, and refuses what vLLM would refuse later.
    pub(super) fn find(
        args: &ModelArgs,
        base: &Path,
        session: &Session,
    ) -> Result<Option<Self>, Failure> {
        let Some(text) = args.lora_path.as_deref() else { return Ok(None) };
        let (dir, _) = model::find("--lora-path", text, None, Files::Adapter, session)?;
        let adapter = Adapter::open(&dir)?;
        let mut rules = Rules::default().with_max_lora_rank(MAX_RANK);
        // Of a family that is not known, names and shapes of layers cannot be judged.
        rules.base = BaseModel::read(base).ok();
        adapter.validate(&rules)?;
        let name = model::name_of(text, &dir)?;
        let name = name.rsplit('/').next().unwrap_or(&name).to_owned();
        Ok(Some(Self { adapter, name }))
    }

    /// Writes both forms beside the model. Under a key there is no plain form: it would be in clear.
    pub(super) fn publish(
        &self,
        publication: &mut Publication<'_>,
        key: Option<&Key>,
        options: &WriteOptions,
    ) -> Result<(), Failure> {
        let failed = |error| Failure::io("temporary folder", "create", &error);
        let folder =
            TemporaryFolder::create_in(&std::env::temp_dir(), ".tz-lora-").map_err(failed)?;
        let place =
            folder.path().to_str().ok_or_else(|| failed(std::io::ErrorKind::InvalidData.into()))?;
        let mut options = options.clone();
        options.fsync = false;
        if let Some(key) = key {
            let secret = SealSecret::Key(key.clone());
            let sealer = FileSealer::compat(&secret, DEFAULT_COMPAT_CHUNK_SIZE)?;
            options.seal = Some(Arc::new(sealer));
        }
        let forms = Forms { plain: key.is_none(), packed: true };
        self.adapter.publish(&ArtifactDir::parse(place)?, forms, &options)?;
        let made = |name: &str| -> PathBuf { folder.path().join(name) };
        publication.copy(&made(CONFIG_FILE), CONFIG_FILE)?;
        publication.copy(&made(PACKED_FILE), PACKED_FILE)?;
        if forms.plain {
            for name in [CONFIG_FILE, PLAIN_FILE] {
                publication.copy(&made(name), &format!("{PLAIN_FOLDER}/{name}"))?;
            }
        }
        Ok(())
    }

    /// The adapter as the lines that serve it name it.
    pub(super) fn served(&self, encrypted: bool) -> tz_model::Adapter<'_> {
        tz_model::Adapter {
            name: &self.name,
            rank: self.adapter.config().rank().unwrap_or(0),
            plain: (!encrypted).then_some(PLAIN_FOLDER),
        }
    }
}
