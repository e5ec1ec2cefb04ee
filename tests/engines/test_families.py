"""Each family that users have, by the real engines: rehearsal, merge, evaluation, kinship."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import pytest

from evolve.engines import REAL
from evolve.engines.merging import load_template, render, resolve_tokenizer
from evolve.engines.protocols import EvaluateJob, KinshipJob, MergeJob, PlanMergesJob
from evolve.errors import RecipeError
from tests.support import families

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

SHARD = "30KB"
# family, tied, types of base and parents, type of the child, sharded; every value of each occurs somewhere
KINDS = [
    ("mistral", False, ("bfloat16", "bfloat16", "bfloat16"), "bfloat16", False),
    ("llama", False, ("float16", "float16", "float16"), "float16", True),
    ("llama", True, ("float32", "float32", "float32"), "bfloat16", False),
    ("qwen2", True, ("bfloat16", "float16", "float32"), "bfloat16", True),
    ("qwen3", False, ("float32", "bfloat16", "bfloat16"), "float32", False),
    ("gemma", True, ("float32", "float32", "float32"), "float32", True),
    ("gemma2", True, ("bfloat16", "bfloat16", "float32"), "float32", False),
    ("phi3", False, ("bfloat16", "float16", "bfloat16"), "float16", True),
]
REFUSED = {
    "cohere": r"has no tensor model\.layers\.0\.self_attn\.q_norm\.weight",
    "falcon": r"has no tensor transformer\.h\.0\.ln_attn\.bias",
    "gpt_neox": r"has no tensor gpt_neox\.layers\.0\.attention\.bias",
}
EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe")


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """Use one torch thread and a data set cache of our own; import mergekit, whose imports warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "numpy.core is deprecated", DeprecationWarning)
        import mergekit.io  # noqa: F401
    import datasets
    import torch

    threads, cache = torch.get_num_threads(), datasets.config.HF_DATASETS_CACHE
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    torch.set_num_threads(threads)
    datasets.config.HF_DATASETS_CACHE = cache


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return families.winogrande(tmp_path_factory.mktemp("data") / "winogrande")


def recipe(parents: tuple[Path, Path], base: Path, dtype: str = "float32") -> str:
    return render(
        load_template("slerp-gradient"),
        parents=parents,
        base=base,
        num_layers=None,
        dtype=dtype,
        tokenizer=resolve_tokenizer("auto", list(parents)),
    )


def rehearse(text: str):
    return REAL.plan_merges(PlanMergesJob({"slerp-gradient": (text,)}), families.silent)["slerp-gradient"]


def merge(parents: tuple[Path, Path], base: Path, child: Path, dtype: str = "float32") -> Path:
    """Rehearse a merge and carry it out."""
    text = recipe(parents, base, dtype)
    rehearse(text)
    child.mkdir()
    REAL.merge(MergeJob(text, parents, child), families.silent, device="cpu")
    return child


def evaluate(model: Path, task, output: Path):
    output.mkdir()
    job = EvaluateJob(model, (task,), output, model_args={"dtype": "float32"}, batch_size=6)
    return REAL.evaluate(job, families.silent, device="cpu").scores["winogrande"]


def measure(base: Path, models: dict[str, Path], pairs: tuple[tuple[str, str], ...]):
    return REAL.measure(KinshipJob(base, models, pairs), families.silent, device="cpu").pairs


def write_family(folder: Path, family: str) -> tuple[Path, tuple[Path, Path]]:
    """Write a base and two models near it, with embeddings tied as the family has them."""
    base = families.save(folder / "base", family, tied=None)
    one, other = (families.save(folder / f"p{seed}", family, near=base, seed=seed, tied=None) for seed in (1, 2))
    return base, (one, other)


def check_works(folder: Path, base: Path, parents: tuple[Path, Path], task) -> Path:
    """Carry a family through two generations, and evaluate and measure the children; return the first child."""
    child = merge(parents, base, folder / "child")
    grandchild = merge((child, parents[1]), base, folder / "grandchild")
    for model in (child, grandchild):
        score = evaluate(model, task, folder / f"scores-{model.name}")
        assert score.samples == 6
        assert 0 <= score.value <= 1
    models = {"one": parents[0], "other": parents[1], "child": child, "grandchild": grandchild}
    names = [("one", "other"), ("one", "child"), ("other", "child"), ("child", "grandchild"), ("other", "grandchild")]
    first, *others = measure(base, models, tuple(names))
    assert abs(first.pcc) < 0.2  # two draws of noise
    assert all(0.4 < pair.pcc < 1 for pair in others)  # a child is between its parents
    assert all(not pair.left_out and pair.parameters == first.parameters for pair in others)
    return child


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind[:2])))
def test_types_and_shards(tmp_path, task, kind):
    family, tied, types, dtype, sharded = kind
    shard = SHARD if sharded else None
    base = families.save(tmp_path / "base", family, tied=tied, dtype=types[0], shard=shard)
    one, other = (
        families.save(tmp_path / f"p{seed}", family, near=base, seed=seed, tied=tied, dtype=types[seed], shard=shard)
        for seed in (1, 2)
    )
    assert (len(list(one.glob("*.safetensors"))) > 1) == sharded

    child = merge((one, other), base, tmp_path / "child", dtype)
    merged = families.weights(child)
    assert merged.keys() == families.weights(one).keys()
    assert {str(weight.dtype) for weight in merged.values()} == {f"torch.{dtype}"}
    score = evaluate(child, task, tmp_path / "scores")
    assert score.samples == 6
    assert score.stderr is not None

    models = {"one": one, "other": other, "child": child}
    first, *others = measure(base, models, (("one", "other"), ("one", "child"), ("other", "child")))
    assert all(not pair.left_out and pair.parameters == first.parameters for pair in others)
    assert all(math.isfinite(value) for pair in others for value in (pair.pcc, pair.cs, pair.ed))
    assert abs(first.pcc) < 0.2  # two draws of noise
    assert all(0.4 < pair.pcc < 1 for pair in others)  # the child is between its parents


@pytest.mark.parametrize("family", sorted(families.SETTINGS.keys() - REFUSED))
def test_a_family_works_for_two_generations(tmp_path, task, family):
    base, parents = write_family(tmp_path, family)
    child = check_works(tmp_path, base, parents, task)
    fused = any(name.endswith("experts.gate_up_proj") for name in families.weights(child))
    assert fused == (family in {*EXPERTS, "gpt_oss"})


def test_gpt_neox_with_stored_buffers_works(tmp_path, task):
    base, parents = write_family(tmp_path, "gpt_neox")
    for model in (base, *parents):
        families.store_buffers(model)
    child = check_works(tmp_path, base, parents, task)
    assert "gpt_neox.layers.0.attention.bias" in families.weights(child)


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_a_family_that_mergekit_cannot_read_is_refused_before_the_work(tmp_path, family):
    """mergekit 0.1.5 asks for tensors that these models do not have; kinship and scoring would work."""
    base, parents = write_family(tmp_path, family)
    with pytest.raises(RecipeError, match=f"mergekit cannot merge p1 and p2 by this recipe: .*p1 {REFUSED[family]}"):
        rehearse(recipe(parents, base))
    found = measure(base, {"one": parents[0], "other": parents[1]}, (("one", "other"),))
    assert math.isfinite(found[0].pcc)
