//! The families. Owns nothing but data: adding a family is adding a table, and its test is a dump of vLLM's layout.

use super::Axis::{Split, Whole};
use super::Size::{Embedding, HeadDim, Hidden, Intermediate, KeyValue, Positions, Query, Vocab};
use super::When::{
    AffineNorm, Always, AttentionBias, FinalNorm, LinearBias, MlpBias, Never, Projection,
};
use super::{Axis, Family, Row, Source, TiedHead, When};

/// A linear layer with one source of the same name.
const fn linear(target: &'static str, sources: &'static [Source], input: Axis, bias: When) -> Row {
    Row { target, sources, input: Some(input), transposed: false, weight: Always, bias }
}

/// GPT-2's `Conv1D`, which stores the transpose.
const fn conv1d(target: &'static str, sources: &'static [Source], input: Axis) -> Row {
    Row { transposed: true, ..linear(target, sources, input, Always) }
}

/// A norm without a bias.
const fn norm(target: &'static str, sources: &'static [Source]) -> Row {
    Row { target, sources, input: None, transposed: false, weight: Always, bias: Never }
}

/// A norm with a bias.
const fn layer_norm(target: &'static str, sources: &'static [Source], when: When) -> Row {
    Row { weight: when, bias: when, ..norm(target, sources) }
}

macro_rules! from {
    ($($name:literal : $($piece:expr),+);+) => {
        &[$(Source { name: $name, pieces: &[$($piece),+] }),+]
    };
}

const EMBED_TOKENS: &[Source] = from!("model.embed_tokens": Split(Vocab));
const EMBED: Row = linear("model.embed_tokens", EMBED_TOKENS, Whole(Hidden), Never);
const FINAL_NORM: Row = norm("model.norm", from!("model.norm": Whole(Hidden)));

const QKV: &[Source] = from!(
    "model.layers.{}.self_attn.q_proj": Split(Query);
    "model.layers.{}.self_attn.k_proj": Split(KeyValue);
    "model.layers.{}.self_attn.v_proj": Split(KeyValue)
);
const fn qkv(bias: When) -> Row {
    let target = "model.layers.{}.self_attn.qkv_proj";
    linear(target, QKV, Whole(Hidden), bias)
}
const fn o_proj(bias: When) -> Row {
    linear(
        "model.layers.{}.self_attn.o_proj",
        from!("model.layers.{}.self_attn.o_proj": Whole(Hidden)),
        Split(Query),
        bias,
    )
}
const fn gate_up(bias: When) -> Row {
    linear(
        "model.layers.{}.mlp.gate_up_proj",
        from!(
            "model.layers.{}.mlp.gate_proj": Split(Intermediate);
            "model.layers.{}.mlp.up_proj": Split(Intermediate)
        ),
        Whole(Hidden),
        bias,
    )
}
const fn down(bias: When) -> Row {
    linear(
        "model.layers.{}.mlp.down_proj",
        from!("model.layers.{}.mlp.down_proj": Whole(Hidden)),
        Split(Intermediate),
        bias,
    )
}
const Q_NORM: Row = norm(
    "model.layers.{}.self_attn.q_norm",
    from!("model.layers.{}.self_attn.q_norm": Whole(HeadDim)),
);
const K_NORM: Row = norm(
    "model.layers.{}.self_attn.k_norm",
    from!("model.layers.{}.self_attn.k_norm": Whole(HeadDim)),
);
const INPUT_NORM: Row = norm(
    "model.layers.{}.input_layernorm",
    from!("model.layers.{}.input_layernorm": Whole(Hidden)),
);
const POST_NORM: Row = norm(
    "model.layers.{}.post_attention_layernorm",
    from!("model.layers.{}.post_attention_layernorm": Whole(Hidden)),
);

const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    before: &[EMBED],
    layer: &[
        qkv(AttentionBias),
        o_proj(AttentionBias),
        gate_up(MlpBias),
        down(MlpBias),
        INPUT_NORM,
        POST_NORM,
    ],
    after: &[FINAL_NORM],
    embedding: EMBED_TOKENS,
    tied_head: TiedHead::Always,
    optional_prefix: None,
    ignored: &[".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"],
};

/// Attention and feed-forward without any bias: the layer of Mistral and Gemma.
const PLAIN_LAYER: &[Row] =
    &[qkv(Never), o_proj(Never), gate_up(Never), down(Never), INPUT_NORM, POST_NORM];

const MISTRAL: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    layer: PLAIN_LAYER,
    ..LLAMA
};

const GEMMA: Family = Family {
    model_type: "gemma",
    architecture: "GemmaForCausalLM",
    tied_head: TiedHead::SinceUntying,
    layer: PLAIN_LAYER,
    ..LLAMA
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    tied_head: TiedHead::SinceUntying,
    layer: &[qkv(Always), o_proj(Never), gate_up(Never), down(Never), INPUT_NORM, POST_NORM],
    ..LLAMA
};

const QWEN3: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    tied_head: TiedHead::SinceUntying,
    layer: &[
        qkv(Never),
        o_proj(Never),
        Q_NORM,
        K_NORM,
        gate_up(Never),
        down(Never),
        INPUT_NORM,
        POST_NORM,
    ],
    ..LLAMA
};

const PHI3: Family = Family {
    model_type: "phi3",
    architecture: "Phi3ForCausalLM",
    layer: &[
        linear(
            "model.layers.{}.self_attn.qkv_proj",
            from!("model.layers.{}.self_attn.qkv_proj": Split(Query), Split(KeyValue), Split(KeyValue)),
            Whole(Hidden),
            Never,
        ),
        o_proj(Never),
        linear(
            "model.layers.{}.mlp.gate_up_proj",
            from!("model.layers.{}.mlp.gate_up_proj": Split(Intermediate), Split(Intermediate)),
            Whole(Hidden),
            Never,
        ),
        down(Never),
        INPUT_NORM,
        POST_NORM,
    ],
    ..LLAMA
};

const OPT_EMBED_TOKENS: &[Source] = from!("model.decoder.embed_tokens": Split(Vocab));

const OPT: Family = Family {
    model_type: "opt",
    architecture: "OPTForCausalLM",
    before: &[
        linear("model.decoder.embed_tokens", OPT_EMBED_TOKENS, Whole(Embedding), Never),
        linear(
            "model.decoder.embed_positions",
            from!("model.decoder.embed_positions": Whole(Positions)),
            Whole(Hidden),
            Never,
        ),
        Row {
            weight: Projection,
            ..linear(
                "model.decoder.project_out",
                from!("model.decoder.project_out": Whole(Embedding)),
                Whole(Hidden),
                Never,
            )
        },
        Row {
            weight: Projection,
            ..linear(
                "model.decoder.project_in",
                from!("model.decoder.project_in": Whole(Hidden)),
                Whole(Embedding),
                Never,
            )
        },
        layer_norm(
            "model.decoder.final_layer_norm",
            from!("model.decoder.final_layer_norm": Whole(Hidden)),
            FinalNorm,
        ),
    ],
    layer: &[
        linear(
            "model.decoder.layers.{}.self_attn.qkv_proj",
            from!(
                "model.decoder.layers.{}.self_attn.q_proj": Split(Query);
                "model.decoder.layers.{}.self_attn.k_proj": Split(KeyValue);
                "model.decoder.layers.{}.self_attn.v_proj": Split(KeyValue)
            ),
            Whole(Hidden),
            LinearBias,
        ),
        linear(
            "model.decoder.layers.{}.self_attn.out_proj",
            from!("model.decoder.layers.{}.self_attn.out_proj": Whole(Hidden)),
            Split(Query),
            LinearBias,
        ),
        layer_norm(
            "model.decoder.layers.{}.self_attn_layer_norm",
            from!("model.decoder.layers.{}.self_attn_layer_norm": Whole(Hidden)),
            AffineNorm,
        ),
        linear(
            "model.decoder.layers.{}.fc1",
            from!("model.decoder.layers.{}.fc1": Split(Intermediate)),
            Whole(Hidden),
            LinearBias,
        ),
        linear(
            "model.decoder.layers.{}.fc2",
            from!("model.decoder.layers.{}.fc2": Whole(Hidden)),
            Split(Intermediate),
            LinearBias,
        ),
        layer_norm(
            "model.decoder.layers.{}.final_layer_norm",
            from!("model.decoder.layers.{}.final_layer_norm": Whole(Hidden)),
            AffineNorm,
        ),
    ],
    after: &[],
    embedding: OPT_EMBED_TOKENS,
    tied_head: TiedHead::SinceUntying,
    optional_prefix: Some("model."),
    ignored: &[],
};

const WTE: &[Source] = from!("transformer.wte": Split(Vocab));

const GPT2: Family = Family {
    model_type: "gpt2",
    architecture: "GPT2LMHeadModel",
    before: &[
        linear("transformer.wte", WTE, Whole(Hidden), Never),
        linear("transformer.wpe", from!("transformer.wpe": Whole(Positions)), Whole(Hidden), Never),
    ],
    layer: &[
        layer_norm("transformer.h.{}.ln_1", from!("transformer.h.{}.ln_1": Whole(Hidden)), Always),
        conv1d(
            "transformer.h.{}.attn.c_attn",
            from!("transformer.h.{}.attn.c_attn": Split(Query), Split(KeyValue), Split(KeyValue)),
            Whole(Hidden),
        ),
        conv1d(
            "transformer.h.{}.attn.c_proj",
            from!("transformer.h.{}.attn.c_proj": Whole(Hidden)),
            Split(Query),
        ),
        layer_norm("transformer.h.{}.ln_2", from!("transformer.h.{}.ln_2": Whole(Hidden)), Always),
        conv1d(
            "transformer.h.{}.mlp.c_fc",
            from!("transformer.h.{}.mlp.c_fc": Split(Intermediate)),
            Whole(Hidden),
        ),
        conv1d(
            "transformer.h.{}.mlp.c_proj",
            from!("transformer.h.{}.mlp.c_proj": Whole(Hidden)),
            Split(Intermediate),
        ),
    ],
    after: &[layer_norm("transformer.ln_f", from!("transformer.ln_f": Whole(Hidden)), Always)],
    embedding: WTE,
    tied_head: TiedHead::Always,
    optional_prefix: Some("transformer."),
    ignored: &[".attn.bias", ".attn.masked_bias"],
};

/// Every family that this crate converts.
pub(crate) const FAMILIES: &[Family] = &[LLAMA, MISTRAL, QWEN2, QWEN3, OPT, GPT2, GEMMA, PHI3];
