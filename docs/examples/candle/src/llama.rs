//! The Llama architecture: a forward pass over one sequence, without a cache.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor};

/// What `config.json` says, as far as it is needed.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Config {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    rms_norm_eps: f64,
    #[serde(default = "default_theta")]
    rope_theta: f32,
}

fn default_theta() -> f32 {
    10_000.0
}

/// A model ready to run.
pub struct Llama {
    config: Config,
    weights: HashMap<String, Tensor>,
}

impl Llama {
    pub fn new(config: Config, weights: HashMap<String, Tensor>) -> Self {
        Self { config, weights }
    }

    /// Logits for every place of the sequence.
    pub fn forward(&self, tokens: &[u32]) -> Result<Tensor> {
        let embedding = self.weight("model.embed_tokens.weight")?;
        let ids = Tensor::new(tokens, embedding.device())?;
        let mut x = embedding.index_select(&ids, 0)?;
        for layer in 0..self.config.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let normed = self.norm(&x, &name("input_layernorm"))?;
            x = (x + self.attention(&normed, &name("self_attn"))?)?;
            let normed = self.norm(&x, &name("post_attention_layernorm"))?;
            x = (x + self.mlp(&normed, &name("mlp"))?)?;
        }
        let x = self.norm(&x, "model.norm")?;
        match self.weight("lm_head.weight") {
            Ok(head) => x.matmul(&head.t()?),
            // Tied to the embedding.
            Err(_) => x.matmul(&embedding.t()?),
        }
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        self.weights
            .get(name)
            .ok_or_else(|| candle_core::Error::Msg(format!("the model has no tensor {name}")))
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        x.matmul(&self.weight(&format!("{name}.weight"))?.t()?)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / self.config.hidden_size as f64)?;
        let scaled = x.broadcast_div(&(mean + self.config.rms_norm_eps)?.sqrt()?)?;
        scaled.broadcast_mul(self.weight(&format!("{name}.weight"))?)
    }

    fn mlp(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let gate = self.linear(x, &format!("{name}.gate_proj"))?.silu()?;
        let up = self.linear(x, &format!("{name}.up_proj"))?;
        self.linear(&(gate * up)?, &format!("{name}.down_proj"))
    }

    fn attention(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let (heads, groups) = (self.config.num_attention_heads, self.config.num_key_value_heads);
        let len = x.dim(0)?;
        // Of shape (heads, places, width), with one head a query has.
        let project = |part: &str, count: usize| -> Result<Tensor> {
            let x = self.linear(x, &format!("{name}.{part}"))?;
            let width = x.dim(1)? / count;
            let x = x.reshape((len, count, width))?.transpose(0, 1)?.contiguous()?;
            let repeat = heads / count;
            let x = x.unsqueeze(1)?.expand((count, repeat, len, width))?;
            x.reshape((heads, len, width))
        };
        let query = self.rotate(&project("q_proj", heads)?)?;
        let key = self.rotate(&project("k_proj", groups)?)?;
        let value = project("v_proj", groups)?;

        let width = query.dim(2)?;
        let scores = (query.matmul(&key.transpose(1, 2)?.contiguous()?)? / (width as f64).sqrt())?;
        let scores = scores.broadcast_add(&causal(len, x.device())?)?;
        let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let scores = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
        let mixed = scores.matmul(&value)?.transpose(0, 1)?.contiguous()?;
        self.linear(&mixed.reshape((len, heads * width))?, &format!("{name}.o_proj"))
    }

    /// Turns pairs of the two halves of each head by angles that grow with the place.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (_, len, width) = x.dims3()?;
        let half = width / 2;
        let angles: Vec<f32> = (0..len)
            .flat_map(|place| (0..half).map(move |i| (place as f32, 2.0 * i as f32 / width as f32)))
            .map(|(place, exponent)| place / self.config.rope_theta.powf(exponent))
            .collect();
        let angles = Tensor::from_vec(angles, (len, half), x.device())?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let left = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let right = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[left, right], 2)
    }
}

/// Zeros, and minus infinity where a place would look ahead.
fn causal(len: usize, device: &Device) -> Result<Tensor> {
    let ahead = |i: usize| if i % len > i / len { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..len * len).map(ahead).collect();
    Tensor::from_vec(mask, (len, len), device)?.to_dtype(DType::F32)
}
