"""Verification of checkpoints of real families and of damaged copies."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evolve.engines.checkpoints import Layout, NotFiniteError, TensorInfo, differences, read_layout, verify
from evolve.errors import ModelError
from tests.support import families

EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8},
}
DENSE = ("llama", "mistral", "gpt_neox", "qwen3", "gemma2", "phi3")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that gives the folder of a tiny model of a family, written once."""
    folders: dict[str, Path] = {}

    def find(family: str) -> Path:
        if family not in folders:
            folder = tmp_path_factory.mktemp(family) / "model"
            folders[family] = families.save(folder, family, dtype="bfloat16", **EXPERTS.get(family, {}))
        return folders[family]

    return find


@pytest.fixture
def copied(saved, tmp_path):
    """Returns a copy of a tiny model of a family."""
    return lambda family: shutil.copytree(saved(family), tmp_path / "copy")


def sound(folder: Path) -> dict[str, tuple[int, str]]:
    return verify(folder, trust_remote_code=False, report=families.silent)


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors; dots are written as two underscores."""
    path = folder / "model.safetensors"
    weights: dict[str, Any] = load_file(path) | {name.replace("__", "."): value for name, value in tensors.items()}
    save_file({name: value for name, value in weights.items() if value is not None}, path, {"format": "pt"})


def settings(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("family", [*DENSE, *EXPERTS])
def test_a_checkpoint_saved_by_transformers_is_valid(saved, family):
    folder = saved(family)
    files = sound(folder)
    assert files == {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    }
    assert list(files) == sorted(files)


def test_shards_are_sound(tmp_path):
    assert len(sound(families.save(tmp_path / "m", shard="30KB"))) > 5


def stack_experts(folder: Path) -> None:
    """Save a model as transformers holds it in memory; merged models of these families come like this."""
    from transformers import AutoModelForCausalLM

    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    stacked = {name: weight.clone().contiguous() for name, weight in weights.items()}
    assert stacked.keys() != read_layout(folder).tensors.keys()
    save_file(stacked, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("family", EXPERTS)
def test_stacked_experts_are_sound(copied, family):
    folder = copied(family)
    stack_experts(folder)
    assert sound(folder)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    change(folder, **{name.replace(".", "__"): None})
    with pytest.raises(ModelError, match=f"lacks tensors that its configuration asks for: {name}$"):
        sound(folder)


@pytest.mark.parametrize("family", EXPERTS)
def test_stacked_experts_are_the_same_parameters(copied, saved, family):
    folder = copied(family)
    stack_experts(folder)
    stacked, stored = read_layout(folder), read_layout(saved(family))
    assert stacked.parameters().keys() == stored.parameters().keys() == stored.tensors.keys()
    assert differences(stacked, stored) is None
    assert differences(stored, stacked) is None
    for name, info in stored.parameters().items():
        other = stacked.parameters()[name]
        assert (other.name, other.shape, other.dtype) == (name, info.shape, info.dtype)
        assert data(stacked, other) == data(stored, info)


def data(layout: Layout, info: TensorInfo) -> bytes:
    return (layout.folder / info.file).read_bytes()[info.offset : info.offset + info.size]


def masks(dtype: torch.dtype, size: int = 16) -> dict[str, torch.Tensor]:
    return {
        f"gpt_neox__layers__{layer}__attention__{name}": value
        for layer in (0, 1)
        for name, value in {
            "bias": torch.ones(size, size).tril().view(1, 1, size, size).to(dtype),
            "masked_bias": torch.tensor(-1e9).to(torch.bfloat16),
            "rotary_emb__inv_freq": torch.ones(1),
        }.items()
    }


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.float16])
def test_stored_attention_buffers_are_not_unexpected(copied, saved, dtype):
    folder = copied("gpt_neox")
    change(folder, **masks(dtype))
    assert sound(folder)
    with_masks, without = read_layout(folder), read_layout(saved("gpt_neox"))
    assert with_masks.parameters().keys() == without.parameters().keys()
    assert differences(with_masks, without) is None
    assert differences(without, with_masks) is None


def test_constants_of_old_exports_are_not_unexpected(copied):
    folder = copied("llama")
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4), x__masked_bias=torch.ones(1))
    assert sound(folder)


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"model__norm__weight": None}, "lacks tensors that its configuration asks for: model.norm.weight$"),
        ({"lm_head__weight": None}, "lacks tensors that its configuration asks for: lm_head.weight$"),
        ({"model__extra__weight": torch.ones(3)}, "has tensors that its configuration has no place for: model.extra.w"),
        ({"model__layers__0__attn__bias": torch.ones(3)}, "has no place for: model.layers.0.attn.bias$"),
        ({"model__norm__weight": torch.ones(31)}, "whose shapes are not those of its configuration: model.norm.weight"),
        ({"model__norm__weight": torch.ones(32, 1)}, "whose shapes are not those of its configuration: model.norm.we"),
    ],
    ids=["missing", "no head", "extra", "an extra bias", "another size", "another rank"],
)
def test_tensors_that_do_not_fit_are_refused(copied, tensors, fault):
    folder = copied("llama")
    change(folder, **tensors)
    with pytest.raises(ModelError, match=f"^{folder} .*{fault}"):
        sound(folder)


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ({"num_hidden_layers": 3}, r"lacks tensors .*: model\.layers\.2\..* and 6 more$"),
        ({"num_hidden_layers": 1}, r"has no place for: model\.layers\.1\."),
        ({"hidden_size": 64}, "whose shapes are not those of its configuration"),
        ({"vocab_size": 321}, "whose shapes are not those of its configuration: lm_head.weight, model.embed_tokens"),
        ({"model_type": "no-such-type"}, "does not load in transformers: .*no-such-type"),
        ({"num_attention_heads": "many"}, "does not load in transformers"),
    ],
    ids=str,
)
def test_another_configuration_is_refused(copied, entries, fault):
    folder = copied("llama")
    settings(folder, **entries)
    with pytest.raises(ModelError, match=fault):
        sound(folder)


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_tokenizer_that_does_not_load_is_refused(copied, damage):
    folder = copied("llama")
    (folder / "tokenizer.json").unlink()
    if damage == "damaged":
        (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=f"{folder} does not load in transformers"):
        sound(folder)


def test_tied_embeddings_need_no_head(tmp_path):
    folder = families.save(tmp_path / "m", tied=True)
    assert "lm_head.weight" not in read_layout(folder).tensors
    assert sound(folder)


def test_a_bad_number_is_named(copied):
    folder = copied("mixtral")
    name = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    weight = load_file(folder / "model.safetensors")[name]
    weight[-1, -1] = float("inf")
    change(folder, **{name.replace(".", "__"): weight})
    with pytest.raises(NotFiniteError) as caught:
        sound(folder)
    assert caught.value.tensor == name


def test_loading_reads_no_weights(copied):
    """The data of the file is a hole of 8 GB; to load it would take as much memory."""
    folder = copied("llama")
    settings(folder, vocab_size=1 << 20, hidden_size=1024, num_hidden_layers=1, tie_word_embeddings=True)
    header, end = {}, 0
    for name, shape in {"model.embed_tokens.weight": (1 << 20, 1024), "model.norm.weight": (1024,)}.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    code = (
        "import resource, sys; from pathlib import Path; import evolve.engines.checkpoints.verification as v\n"
        "import transformers; from transformers import AutoModelForCausalLM\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "info = v._load(Path(sys.argv[1]), trust_remote_code=False)\n"
        "assert info['missing_keys'] and not info['unexpected_keys'], info\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1 << 20  # KiB; the embeddings are four times that
