"""LoRA adapters merged into their models, compared with the textbook: W + alpha / r * B A."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evolve.engines.adapters import check_adapter, merge_adapter
from evolve.engines.checkpoints import read_layout
from evolve.engines.protocols import AdapterJob
from evolve.errors import ModelError
from tests.support import families


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return families.save(tmp_path_factory.mktemp("model") / "base", dtype="bfloat16")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model) -> Path:
    return families.adapt(tmp_path_factory.mktemp("adapter") / "lora", model)


@pytest.fixture
def copy(tmp_path, adapter) -> Path:
    return shutil.copytree(adapter, tmp_path / "copy")


def job(model: Path, adapter: Path, output: Path, **options) -> AdapterJob:
    output.mkdir()
    return AdapterJob(model, adapter, output, **options)


def merged(tmp_path: Path, model: Path, adapter: Path) -> Path:
    merge_adapter(job(model, adapter, tmp_path / "out"), families.silent)
    return tmp_path / "out"


def change(folder: Path, **settings: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def textbook(before: torch.Tensor, lora: dict[str, torch.Tensor], module: str, scale: float) -> torch.Tensor:
    a, b = (lora[f"base_model.model.{module}.lora_{kind}.weight"].double() for kind in "AB")
    return before.double() + scale * (b @ a)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rslora", [False, True])
def test_weights_are_those_of_the_textbook_in_the_type_of_the_model(tmp_path, dtype, rslora):
    model = families.save(tmp_path / "model", dtype=dtype, shard="20KB")
    adapter = families.adapt(tmp_path / "lora", model, use_rslora=rslora)
    before, after = families.weights(model), families.weights(merged(tmp_path, model, adapter))
    lora = load_file(adapter / "adapter_model.safetensors")
    step = torch.finfo(getattr(torch, dtype)).eps
    assert before.keys() == after.keys()
    changed = 0
    for name, weight in before.items():
        assert after[name].dtype == weight.dtype
        if name.endswith(("q_proj.weight", "down_proj.weight")):
            expected = textbook(weight, lora, name.removesuffix(".weight"), 12 / (math.sqrt(4) if rslora else 4))
            assert torch.allclose(after[name].double(), expected, rtol=2 * step, atol=2 * step)
            assert not torch.equal(after[name], weight)
            changed += 1
        else:
            assert torch.equal(after[name], weight)
    assert changed == 4


def test_the_type_can_be_chosen(tmp_path, model, adapter):
    merge_adapter(job(model, adapter, tmp_path / "out", dtype="float32"), families.silent)
    assert {weight.dtype for weight in families.weights(tmp_path / "out").values()} == {torch.float32}


def test_the_result_is_a_complete_model(tmp_path, model, adapter):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = []
    result = merge_adapter(job(model, adapter, tmp_path / "out"), lambda *words: found.append(words))
    files = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert {name: size for name, (size, _) in result.files.items()} == files
    assert result.bytes == sum(files.values())
    assert found
    assert not [name for name in files if "adapter" in name]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == families.ROWS


def test_the_result_is_deterministic(tmp_path, model, adapter):
    first = merge_adapter(job(model, adapter, tmp_path / "1"), families.silent)
    torch.rand(3)
    assert merge_adapter(job(model, adapter, tmp_path / "2"), families.silent).files == first.files


def test_companion_files_are_the_models_unless_the_adapter_has_a_tokenizer(tmp_path, model, copy):
    source = shutil.copytree(model, tmp_path / "model")
    odd = {"temperature": -0.3, "do_sample": False, "eos_token_id": 2}  # copied as they are
    (source / "generation_config.json").write_text(json.dumps(odd))
    (source / "chat_template.jinja").write_text("model's")
    out = merged(tmp_path, source, copy)
    assert json.loads((out / "generation_config.json").read_text()) == odd
    assert (out / "chat_template.jinja").read_text() == "model's"
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    families.tokenizer(["<x>"]).save_pretrained(copy)
    (source / "generation_config.json").unlink()
    shutil.rmtree(out)
    out = merged(tmp_path, source, copy)
    assert (out / "tokenizer.json").read_bytes() == (copy / "tokenizer.json").read_bytes()
    assert not (out / "chat_template.jinja").exists()
    assert not (out / "generation_config.json").exists()


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_with_new_tokens_enlarges_the_embeddings(tmp_path, tied):
    model = families.save(tmp_path / "model", tied=tied)
    adapter = families.adapt(tmp_path / "lora", model, tokens=2)  # peft then saves the embeddings, too
    after = families.weights(merged(tmp_path, model, adapter))
    saved = load_file(adapter / "adapter_model.safetensors")
    assert after["model.embed_tokens.weight"].shape[0] == families.ROWS + 2
    assert torch.equal(after["model.embed_tokens.weight"], saved["base_model.model.model.embed_tokens.weight"])
    assert ("lm_head.weight" in after) != tied


def test_embeddings_untied_by_training_are_refused(tmp_path):
    model = families.save(tmp_path / "model", tied=True)
    adapter = families.adapt(tmp_path / "lora", model, modules_to_save=["embed_tokens"])
    with pytest.raises(ModelError, match=r"gives a model of another form: .* differ in their output embeddings"):
        merge_adapter(job(model, adapter, tmp_path / "out"), families.silent)


def test_untrained_rows_are_refused(tmp_path, model):
    adapter = families.adapt(tmp_path / "lora", model, tokens=2, modules_to_save=["embed_tokens"])
    path = adapter / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(path).items() if "lm_head" not in name}, path)
    with pytest.raises(ModelError, match="does not have all embeddings"):
        check_adapter(adapter, read_layout(model))


def test_complete_layers_and_embeddings_are_merged(tmp_path, model):
    adapter = families.adapt(tmp_path / "lora", model, target_modules=["embed_tokens"], modules_to_save=["lm_head"])
    before, after = families.weights(model), families.weights(merged(tmp_path, model, adapter))
    saved = load_file(adapter / "adapter_model.safetensors")
    embedding = "base_model.model.model.embed_tokens.lora_embedding_"
    expected = before["model.embed_tokens.weight"].double() + 3 * (saved[f"{embedding}B"] @ saved[f"{embedding}A"]).T
    assert torch.allclose(after["model.embed_tokens.weight"].double(), expected, atol=0.02)
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert torch.equal(after["lm_head.weight"], saved["base_model.model.lm_head.weight"].bfloat16())


# --------------------------------------------------------------------------------------------------------- refusals


def refused(folder: Path, model: Path) -> str:
    with pytest.raises(ModelError) as raised:
        check_adapter(folder, read_layout(model))
    return str(raised.value)


def test_a_folder_without_an_adapter(tmp_path, model, copy):
    (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
    assert "pickled" in refused(copy, model)
    (copy / "adapter_model.bin").unlink()
    assert "has no adapter_model.safetensors" in refused(copy, model)
    (copy / "adapter_config.json").write_text("{")
    assert "not valid JSON" in refused(copy, model)
    (copy / "adapter_config.json").unlink()
    assert "has no adapter_config.json" in refused(copy, model)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, "adapter of type IA3: only LORA"),
        ({"peft_type": "PROMPT_TUNING"}, "adapter of type PROMPT_TUNING"),
        ({"task_type": "SEQ_CLS"}, "adapter for SEQ_CLS"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens, which cannot be merged"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication, which cannot be merged"),
    ],
)
def test_an_adapter_of_another_kind(model, copy, settings, words):
    change(copy, **settings)
    assert words in refused(copy, model)


def test_an_adapter_of_another_model(tmp_path, copy):
    change(copy, base_model_name_or_path="owner/llama")
    other = families.save(tmp_path / "neox", "gpt_neox")
    words = refused(copy, other)
    assert "adapts model.layers.0" in words
    assert "(owner/llama)" in words
    path = copy / "adapter_model.safetensors"
    wide = {name: torch.ones(8 if "lora_B" in name else 4, 33) for name in load_file(path)}
    save_file(wide, path)
    assert "has the shape [4, 33], and model.layers.0" in refused(copy, families.save(tmp_path / "llama"))


def test_an_adapter_that_was_cut_off(model, copy):
    path = copy / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert "is cut off" in refused(copy, model)


def test_an_adapter_that_was_never_trained(tmp_path, model):
    adapter = families.adapt(tmp_path / "lora", model, trained=False)
    with pytest.raises(ModelError, match="changes nothing, because it was never trained"):
        merge_adapter(job(model, adapter, tmp_path / "out"), families.silent)


def test_numbers_that_are_not_finite(tmp_path, model, copy):
    path = copy / "adapter_model.safetensors"
    tensors = load_file(path)
    bad = next(name for name in tensors if "lora_B" in name)
    tensors[bad][1, 1] = float("nan")
    save_file(tensors, path)
    with pytest.raises(ModelError, match="not finite, first in base_model"):
        merge_adapter(job(model, copy, tmp_path / "out"), families.silent)
    tensors[bad][1, 1] = 3e38  # finite, but not its product with A
    tensors[bad.replace("lora_B", "lora_A")][1] = 100.0
    save_file(tensors, path)
    with pytest.raises(ModelError, match="it gives numbers that are not finite, first in model"):
        merge_adapter(job(model, copy, tmp_path / "out2"), families.silent)


def test_weights_that_are_missing(tmp_path, model, copy):
    path = copy / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1" not in name}, path)
    with pytest.raises(ModelError, match="lacks weights of modules that its adapter_config"):
        merge_adapter(job(model, copy, tmp_path / "out"), families.silent)


def test_a_quantized_model(tmp_path, model, adapter):
    source = shutil.copytree(model, tmp_path / "model")
    settings = json.loads((source / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="is quantized"):
        merge_adapter(job(source, adapter, tmp_path / "out"), families.silent)


def test_a_job_can_be_sent_to_a_worker(tmp_path):
    import pickle

    known = AdapterJob(tmp_path, tmp_path, tmp_path)
    function, sent = pickle.loads(pickle.dumps((merge_adapter, replace(known, dtype="float16"))))
    assert function is merge_adapter
    assert sent == replace(known, dtype="float16")
