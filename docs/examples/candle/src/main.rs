//! A Llama on candle, with weights that `tz` loads from disk or S3: one forward pass, and the next token.
//!
//! ```sh
//! tz-cli synth demo --preset llama-tiny && tz-cli serialize demo demo.tensors
//! cargo run -- demo/config.json demo.tensors 1 2 3
//! cargo run -- demo/config.json s3://bucket/demo.tensors 1 2 3
//! ```

mod llama;
mod weights;

use std::error::Error;

use candle_core::{Device, IndexOp};

use llama::{Config, Llama};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, model, prompt @ ..] = &*arguments else {
        return Err("usage: tz-candle-example CONFIG.JSON MODEL.TENSORS TOKEN...".into());
    };
    let config: Config = serde_json::from_slice(&std::fs::read(config)?)?;
    let prompt: Vec<u32> = prompt.iter().map(|token| token.parse()).collect::<Result<_, _>>()?;

    let weights = weights::load(model, &Device::Cpu)?;
    let logits = Llama::new(config, weights).forward(&prompt)?;
    let last = logits.i(prompt.len().saturating_sub(1))?;
    let next = last.argmax(0)?.to_scalar::<u32>()?;
    let largest = last.max(0)?.to_scalar::<f32>()?;
    if !largest.is_finite() {
        return Err("the logits are not numbers".into());
    }
    println!("logits {:?}, next token {next} at {largest:.6}", logits.dims());
    Ok(())
}
