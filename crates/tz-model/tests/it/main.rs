//! One binary: checkpoints in, safetensors out, synthesis.

mod agreement;
mod directories;
mod hostile;
mod support;
mod synthesis;
mod torch;
mod torch_hostile;
mod writing;
