//! A Llama on candle, with weights that `tz` loads from disk or S3: one forward pass for each place that the model
//! is in, and the next token. Places that do not give the same logits, bit for bit, are an error.
//!
//! ```sh
//! tz-cli synth demo --preset llama-tiny
//! tz-cli serialize demo demo.tensors
//! tz-cli serialize demo s3://bucket/demo.tensors
//! cargo run -- demo/config.json 1,2,3 demo/model.safetensors demo.tensors s3://bucket/demo.tensors
//! ```
//!
//! A `.safetensors` file is read by candle itself: what it makes of the weights is what `tz` is compared with.

mod llama;
mod weights;

use std::error::Error;

use candle_core::{Device, IndexOp, Tensor};

use llama::{Config, Llama};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, tokens, models @ ..] = &*arguments else {
        return Err("usage: tz-candle-example CONFIG.JSON TOKEN,TOKEN... MODEL...".into());
    };
    let config: Config = serde_json::from_slice(&std::fs::read(config)?)?;
    let tokens: Vec<u32> = tokens.split(',').map(str::parse).collect::<Result<_, _>>()?;

    let mut first: Option<(&str, Vec<u32>)> = None;
    for model in models {
        let logits = logits(&config, model, &tokens)?;
        let last = logits.i(tokens.len().saturating_sub(1))?;
        let next = last.argmax(0)?.to_scalar::<u32>()?;
        let largest = last.max(0)?.to_scalar::<f32>()?;
        if !largest.is_finite() {
            return Err(format!("{model}: the logits are not numbers").into());
        }
        println!("{model}: logits {:?}, next token {next} at {largest:.6}", logits.dims());

        let bits = bits(&logits)?;
        match &first {
            Some((other, expected)) if *expected != bits => {
                return Err(format!("{model}: other logits than {other}").into());
            }
            Some(_) => {}
            None => first = Some((model, bits)),
        }
    }
    match models.len() {
        0 => Err("no model was given".into()),
        1 => Ok(()),
        count => Ok(println!("equal: {count} places, the same logits bit for bit")),
    }
}

fn logits(config: &Config, model: &str, tokens: &[u32]) -> Result<Tensor, Box<dyn Error>> {
    let weights = if model.ends_with(".safetensors") {
        weights::by_candle(model, &Device::Cpu)?
    } else {
        weights::by_tz(model, &Device::Cpu)?
    };
    Ok(Llama::new(config.clone(), weights).forward(tokens)?)
}

/// The numbers as they are in memory: what compares equal is equal to the last bit.
fn bits(logits: &Tensor) -> candle_core::Result<Vec<u32>> {
    Ok(logits.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
}
