"""Adapters by the real PEFT: saves them, good ones and such as vLLM rejects, and applies them again."""

import argparse
import json
from pathlib import Path

import reference
import torch

# Small, but grouped queries and an inner width of its own, so that no two kinds of layers have the same shape.
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Name, what the configuration has beside the usual, how it is saved, and its element type.
GOOD = [
    ("linear", {"target_modules": LINEAR}, {}, torch.float32),
    ("bfloat16", {"target_modules": LINEAR}, {}, torch.bfloat16),
    ("pattern", {"target_modules": r".*\.layers\.1\.self_attn\.(q|v)_proj", "use_rslora": True}, {}, torch.float16),
    ("embeddings", {"target_modules": ["embed_tokens", "q_proj"]}, {"save_embedding_layers": False}, torch.float32),
    ("pytorch", {"target_modules": LINEAR}, {"safe_serialization": False}, torch.bfloat16),
]
# Name, configuration, and a part of what must be said.
BAD = [
    ("dora", {"target_modules": ["q_proj"], "use_dora": True}, "does not support DoRA"),
    ("bias", {"target_modules": ["q_proj"], "bias": "lora_only"}, '"bias" is "lora_only"'),
    ("whole-layers", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, '"modules_to_save" names'),
    ("own-ranks", {"target_modules": LINEAR, "rank_pattern": {"q_proj": 8}}, '"rank_pattern" gives "q_proj" the rank 8'),
    ("own-alphas", {"target_modules": LINEAR, "alpha_pattern": {"q_proj": 99}}, '"alpha_pattern" gives "q_proj"'),
]
RANK = 4


def base(dtype=torch.float32):
    """The same model every time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype).eval()


def adapted(options, dtype):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    model = get_peft_model(base(dtype), LoraConfig(r=RANK, lora_alpha=8, **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # B begins as zeros, with which an adapter changes nothing. PEFT keeps adapters of half a model in float32.
            if "lora_" in name:
                parameter.data = torch.randn_like(parameter.float()).to(dtype)
    return model.eval()


def outputs(model):
    with torch.no_grad():
        return model(torch.arange(12).reshape(1, 12)).logits


def make(folder):
    from safetensors.torch import load_file

    base().config.save_pretrained(folder / "base")
    adapters = []
    for name, options, how, dtype in GOOD:
        path = folder / name
        adapted(options, dtype).save_pretrained(path, **how)
        weights = path / "adapter_model.safetensors"
        if weights.exists():
            tensors = load_file(weights)
        else:
            tensors = torch.load(path / "adapter_model.bin", weights_only=True)
        rows = [reference.describe(key, tensor, "state_dict") for key, tensor in tensors.items()]
        adapters.append({"name": name, "tensors": rows, "dtype": str(dtype).removeprefix("torch.")})
    for name, options, words in BAD:
        adapted(options, torch.float32).save_pretrained(folder / name)
        adapters.append({"name": name, "refused": words})
    return {"rank": RANK, "adapters": adapters}


def compare(dtype, saved, unpacked):
    """Both directories through PEFT onto the same model: equal to the last bit, and not what the model alone says."""
    from peft import PeftModel

    dtype = getattr(torch, dtype)
    first, second = (
        outputs(PeftModel.from_pretrained(base(dtype), path).eval()) for path in (saved, unpacked)
    )
    if not torch.equal(first, second):
        raise SystemExit(f"outputs differ by up to {(first - second).abs().max()}")
    if torch.equal(first, outputs(base(dtype))):
        raise SystemExit("the adapter changes nothing")
    return {"logits": first.numel()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("make")
    job.add_argument("folder", type=Path)
    job = jobs.add_parser("compare")
    job.add_argument("dtype")
    job.add_argument("saved")
    job.add_argument("unpacked")
    arguments = parser.parse_args()
    if arguments.job == "make":
        print(json.dumps(make(arguments.folder)))
    else:
        print(json.dumps(compare(arguments.dtype, arguments.saved, arguments.unpacked)))


if __name__ == "__main__":
    main()
