//! Failures of devices.

use tz_gpu::{DeviceError, GpuError};

use super::Failure;
use crate::exit::Exit;

impl From<GpuError> for Failure {
    fn from(error: GpuError) -> Self {
        let message = error.to_string();
        let usage = |hint| Self::new(Exit::Usage, "usage", message.clone(), hint);
        match error {
            GpuError::Io(error) => error.into(),
            GpuError::Device(error) => error.into(),
            GpuError::UnsupportedCast { .. } => {
                usage("--dtype takes float16, bfloat16, float32 or float64")
            }
            GpuError::RingTooSmall { .. } => usage("raise --memory-limit"),
            GpuError::TooLarge { location } => {
                Self::new(Exit::Malformed, "format", message, "--filter GLOB leaves tensors out")
                    .at(location)
            }
            _ => Self::new(Exit::Io, "gpu", message, "run it again with -v"),
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        Self::new(Exit::Io, "gpu", error.to_string(), error.advice())
    }
}
