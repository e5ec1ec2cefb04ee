"""Checkpoints of a few small tensors, written by hand."""

import json

import torch
from safetensors.torch import save_file

WEIGHTS = {
    "model.embed_tokens.weight": torch.ones(10, 4, dtype=torch.bfloat16),
    "lm_head.weight": torch.ones(10, 4, dtype=torch.bfloat16),
    "model.norm.weight": torch.arange(5.0),
    "steps": torch.tensor(3),
    "model.rotary_emb.inv_freq": torch.ones(2),
}
CONFIG = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": 10, "hidden_size": 4}


def write(folder, weights=WEIGHTS, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(weights, folder / "model.safetensors")
    return folder


def shard(folder, weights=WEIGHTS):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    places = {}
    for i, name in enumerate(weights):
        file = f"model-{i % 2 + 1:05}-of-00002.safetensors"
        places[name] = file
    for file in set(places.values()):
        save_file({name: weights[name] for name in places if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
