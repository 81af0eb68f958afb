"""Loads files of `tz-cli vllm serialize` as vLLM's Tensorizer loader does, without vLLM.

The model is a tree of modules with the parameters that vLLM's class has on one rank, filled with NaN. What each must
hold is computed here from the checkpoint with torch, by vLLM's rules and without any of our code.
"""

import argparse
import json
from pathlib import Path

import reference
import torch
from safetensors.torch import load_file

MARKER = ".vllm_tensorized_marker"
PARAMETER = 0


def state_of(folder):
    """The checkpoint's tensors, from either kind of file."""
    state = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    for path in sorted(folder.glob("*.bin")):
        state |= torch.load(path, weights_only=True)
    return state


def padded(table):
    rows = -table.shape[0] % 64
    return torch.cat([table, table.new_zeros(rows, table.shape[1])])


class Rank:
    """Cuts tensors for one of `degree` ranks."""

    def __init__(self, config, state, rank, degree):
        self.config, self.state, self.rank, self.degree = config, state, rank, degree
        self.made = {}

    def split(self, tensor, dim=0):
        return tensor.chunk(self.degree, dim)[self.rank]

    def heads(self, tensor, count):
        """Key or value heads: divided, or repeated where there are fewer than ranks."""
        parts = max(1, min(count, self.degree))
        return tensor.chunk(parts)[self.rank * parts // self.degree]

    def take(self, target, source, cut=lambda tensor: tensor):
        for kind in ("weight", "bias"):
            if f"{source}.{kind}" in self.state:
                tensor = self.state[f"{source}.{kind}"]
                self.made[f"{target}.{kind}"] = cut(tensor) if cut else tensor

    def columns(self, target, source):
        """Divided along the input: every rank has the whole bias."""
        self.take(target, source, lambda tensor: self.split(tensor, 1) if tensor.ndim > 1 else tensor)

    def qkv(self, target, kind, parts):
        count = self.config.get("num_key_value_heads") or self.config["num_attention_heads"]
        q, k, v = parts
        self.made[f"{target}.{kind}"] = torch.cat(
            [self.split(q), self.heads(k, count), self.heads(v, count)]
        )

    def attention(self, prefix):
        for kind in ("weight", "bias"):
            names = [f"{prefix}.{part}_proj.{kind}" for part in "qkv"]
            if names[0] in self.state:
                self.qkv(f"{prefix}.qkv_proj", kind, [self.state[name] for name in names])


def llama(rank):
    rank.take("model.embed_tokens", "model.embed_tokens", lambda t: rank.split(padded(t)))
    rank.take("model.norm", "model.norm")
    for layer in range(rank.config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        rank.attention(f"{at}.self_attn")
        rank.columns(f"{at}.self_attn.o_proj", f"{at}.self_attn.o_proj")
        rank.columns(f"{at}.mlp.down_proj", f"{at}.mlp.down_proj")
        for norm in ("input_layernorm", "post_attention_layernorm"):
            rank.take(f"{at}.{norm}", f"{at}.{norm}")
        for norm in ("q_norm", "k_norm"):
            rank.take(f"{at}.self_attn.{norm}", f"{at}.self_attn.{norm}")
        for kind in ("weight", "bias"):
            gate, up = (rank.state.get(f"{at}.mlp.{part}_proj.{kind}") for part in ("gate", "up"))
            if gate is not None:
                both = torch.cat([rank.split(gate), rank.split(up)])
                rank.made[f"{at}.mlp.gate_up_proj.{kind}"] = both


def phi3(rank):
    llama(rank)
    config = rank.config
    heads = config["num_attention_heads"]
    width = config["hidden_size"] // heads
    keys = config["num_key_value_heads"] * width
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        fused = rank.state[f"{at}.self_attn.qkv_proj.weight"]
        rank.qkv(f"{at}.self_attn.qkv_proj", "weight", fused.split([heads * width, keys, keys]))
        gate, up = rank.state[f"{at}.mlp.gate_up_proj.weight"].chunk(2)
        rank.made[f"{at}.mlp.gate_up_proj.weight"] = torch.cat([rank.split(gate), rank.split(up)])


def opt(rank):
    prefix = "model.decoder" if any(name.startswith("model.") for name in rank.state) else "decoder"
    to = "model.decoder"
    rank.take(f"{to}.embed_tokens", f"{prefix}.embed_tokens", lambda t: rank.split(padded(t)))
    for name in ("embed_positions", "final_layer_norm", "project_in", "project_out"):
        rank.take(f"{to}.{name}", f"{prefix}.{name}")
    for layer in range(rank.config["num_hidden_layers"]):
        at, out = f"{prefix}.layers.{layer}", f"{to}.layers.{layer}"
        for kind in ("weight", "bias"):
            parts = [rank.state[f"{at}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            rank.qkv(f"{out}.self_attn.qkv_proj", kind, parts)
        rank.columns(f"{out}.self_attn.out_proj", f"{at}.self_attn.out_proj")
        rank.take(f"{out}.fc1", f"{at}.fc1", rank.split)
        rank.columns(f"{out}.fc2", f"{at}.fc2")
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            rank.take(f"{out}.{norm}", f"{at}.{norm}")


def gpt2(rank):
    bare = "transformer.wte.weight" not in rank.state
    if bare:
        rank.state = {f"transformer.{name}": tensor for name, tensor in rank.state.items()}
    state = {}
    for name, tensor in rank.state.items():
        linear = any(part in name for part in ("c_attn", "c_proj", "c_fc"))
        state[name] = tensor.t().contiguous() if linear and tensor.ndim > 1 else tensor
    rank.state = state
    to = "transformer"
    rank.take(f"{to}.wte", f"{to}.wte", lambda t: rank.split(padded(t)))
    for name in ("wpe", "ln_f"):
        rank.take(f"{to}.{name}", f"{to}.{name}")
    for layer in range(rank.config["n_layer"]):
        at = f"{to}.h.{layer}"
        for kind in ("weight", "bias"):
            parts = [rank.split(part) for part in state[f"{at}.attn.c_attn.{kind}"].chunk(3)]
            rank.made[f"{at}.attn.c_attn.{kind}"] = torch.cat(parts)
        rank.columns(f"{at}.attn.c_proj", f"{at}.attn.c_proj")
        rank.take(f"{at}.mlp.c_fc", f"{at}.mlp.c_fc", rank.split)
        rank.columns(f"{at}.mlp.c_proj", f"{at}.mlp.c_proj")
        for norm in ("ln_1", "ln_2"):
            rank.take(f"{at}.{norm}", f"{at}.{norm}")


FAMILIES = {"phi3": phi3, "opt": opt, "gpt2": gpt2}
EMBEDDINGS = {"opt": "model.decoder.embed_tokens", "gpt2": "transformer.wte"}


def expected(config, state, number, degree):
    """Every parameter of vLLM's newest class on one rank."""
    family = config["model_type"]
    rank = Rank(config, state, number, degree)
    FAMILIES.get(family, llama)(rank)
    if "lm_head.weight" in state and not config.get("tie_word_embeddings"):
        rank.made["lm_head.weight"] = rank.split(padded(state["lm_head.weight"]))
    else:
        embedding = EMBEDDINGS.get(family, "model.embed_tokens")
        rank.made["lm_head.weight"] = rank.made[f"{embedding}.weight"]
    return rank.made


def module_of(tensors):
    """A model with parameters of these names and shapes, all NaN."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        path, attribute = name.rsplit(".", 1)
        module = root
        for part in path.split("."):
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        blank = torch.full_like(tensor, float("nan"))
        module.register_parameter(attribute, torch.nn.Parameter(blank, requires_grad=False))
    return root


def load(tensorizer, job):
    """vLLM's steps on its fast path: look for the marker, load into the model, drop the marker."""
    folder = Path(job["model"])
    config = json.loads((folder / "config.json").read_text())
    tensors = expected(config, state_of(folder), job["rank"], job["degree"])
    encryption = None
    if job.get("keyfile"):
        key = Path(job["keyfile"]).read_bytes()
        encryption = tensorizer.DecryptionParams.from_key(key)
    options = {"device": "cpu", "encryption": encryption, "num_readers": 2}
    with tensorizer.TensorDeserializer(job["tensors"], lazy_load=True, **options) as file:
        if MARKER not in file:
            raise ValueError("no marker")
        entries = {path.normalize_(): entry for path, entry in file._metadata.items()}
        stored = entries[MARKER]
        if (stored.dtype, tuple(stored.shape), stored.data_length) != ("<i8", (1,), 0):
            raise ValueError(f"the marker is {stored}")
    model = module_of(tensors)
    dtype = next(iter(tensors.values())).dtype
    options |= {"dtype": dtype, "verify_hash": not encryption}
    with tensorizer.TensorDeserializer(job["tensors"], **options) as file:
        kinds = {str(path): entry.type for path, entry in file._metadata.items()}
        loaded = file.load_into_module(model)
    if any(int(kind) != PARAMETER for kind in kinds.values()):
        raise ValueError(f"not all parameters: {kinds}")
    del model.vllm_tensorized_marker
    found = dict(model.named_parameters())
    if found.keys() != tensors.keys():
        raise ValueError(f"other names: {sorted(found.keys() ^ tensors.keys())}")
    for name, tensor in tensors.items():
        if found[name].shape != tensor.shape or found[name].dtype != tensor.dtype:
            raise ValueError(f"{name}: {found[name].dtype} {tuple(found[name].shape)}")
        if reference.raw_bytes(found[name]) != reference.raw_bytes(tensor):
            raise ValueError(f"{name}: other contents")
    if loaded != len(tensors) + 1:
        raise ValueError(f"{loaded} tensors loaded")
    return len(tensors)


def load_plain(tensorizer, job):
    """vLLM's steps without the marker: names and tensors for its ordinary loader."""
    state = state_of(Path(job["model"]))
    with tensorizer.TensorDeserializer(job["tensors"], device="cpu", verify_hash=True) as file:
        if MARKER in file:
            raise ValueError("a marker")
        found = dict(file.items())
    if found.keys() != state.keys():
        raise ValueError(f"other names: {sorted(found.keys() ^ state.keys())}")
    for name, tensor in state.items():
        if reference.raw_bytes(found[name]) != reference.raw_bytes(tensor):
            raise ValueError(f"{name}: other contents")
    return len(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    reference.add_argument(parser)
    parser.add_argument("jobs", help="JSON: model, tensors, rank, degree, keyfile, layout of each")
    arguments = parser.parse_args()
    tensorizer = reference.use(arguments.reference)
    results = []
    for job in json.loads(Path(arguments.jobs).read_text()):
        try:
            way = load_plain if job["layout"] == "hf" else load
            results.append({"tensors": way(tensorizer, job)})
        except Exception as error:  # whatever is raised is the verdict
            results.append({"error": f"{type(error).__name__}: {error}"})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
