//! A miniature model on disk that tests may change before they convert it.

use serde_json::Value;
use tempfile::TempDir;
use tz_model::{Checkpoint, Preset, Refusal, TensorDecl, VllmLayout, VllmModel, VllmOptions};

use crate::support::{painted, raw, write};

/// All bytes of one of vLLM's tensors.
pub(crate) fn bytes_of(model: &VllmModel<'_>, tensor: usize) -> Vec<u8> {
    let spec = &model.specs()[tensor];
    let len = spec.shape.iter().product::<u64>() * spec.dtype.size();
    let mut bytes = vec![0xee; usize::try_from(len).expect("fits")];
    model.read_at(tensor, 0, &mut bytes).expect("read");
    bytes
}

/// A model's configuration and tensors, before they are written.
pub(crate) struct Draft {
    pub(crate) config: Value,
    pub(crate) tensors: Vec<TensorDecl>,
}

impl Draft {
    pub(crate) fn of(preset: &str) -> Self {
        let preset = Preset::named(preset).expect("preset");
        Self { config: preset.config().clone(), tensors: preset.tensors().to_vec() }
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut TensorDecl {
        let found = self.tensors.iter_mut().find(|tensor| tensor.name == name);
        found.expect("tensor")
    }

    /// Writes the tensors with painted data.
    pub(crate) fn write(&self) -> (TempDir, Checkpoint) {
        let mut header = String::from("{");
        let mut end = 0;
        for (i, tensor) in self.tensors.iter().enumerate() {
            let dtype = tz_model::to_safetensors(tensor.dtype).expect("dtype");
            let begin = end;
            end += tensor.shape.iter().product::<u64>() * tensor.dtype.size();
            let comma = if i == 0 { "" } else { "," };
            header += &format!(
                r#"{comma}"{}":{{"dtype":"{dtype}","shape":{:?},"data_offsets":[{begin},{end}]}}"#,
                tensor.name, tensor.shape
            );
        }
        header.push('}');
        let dir = tempfile::tempdir().expect("directory");
        let file = raw(&header, usize::try_from(end).expect("fits"));
        write(dir.path(), "model.safetensors", &file);
        let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
        (dir, checkpoint)
    }

    /// Why the draft is not converted.
    #[track_caller]
    pub(crate) fn refusal(&self, options: &VllmOptions) -> Refusal {
        let (_dir, checkpoint) = self.write();
        VllmLayout::prove(&checkpoint, &self.config, options).expect_err("refused")
    }

    /// Names of the converted tensors.
    #[track_caller]
    pub(crate) fn names(&self, options: &VllmOptions) -> Vec<String> {
        let (_dir, checkpoint) = self.write();
        let layout = VllmLayout::prove(&checkpoint, &self.config, options).expect("proof");
        let model = layout.rank(0).expect("rank");
        model.specs().iter().map(|spec| spec.path.to_string()).collect()
    }
}

/// The painted bytes from `offset` on.
pub(crate) fn painted_from(offset: u64, len: usize) -> Vec<u8> {
    let offset = usize::try_from(offset).expect("fits");
    painted(offset + len)[offset..].to_vec()
}
