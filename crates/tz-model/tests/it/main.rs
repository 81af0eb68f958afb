//! One binary: checkpoints in, safetensors out, synthesis.

mod agreement;
mod directories;
mod hostile;
mod layout_dumps;
mod layout_refusals;
mod layout_slicing;
mod layout_support;
mod support;
mod synthesis;
mod torch;
mod torch_hostile;
mod writing;
