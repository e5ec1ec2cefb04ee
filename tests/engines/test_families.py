"""Each family that users have, by the real engines: merge, evaluate, kinship."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import pytest

from evolve.engines import evaluate, measure, merge
from evolve.engines.merging import load_template, rehearse, render, resolve_tokenizer
from evolve.engines.protocols import EvaluateJob, KinshipJob, MergeJob
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


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """One torch thread, a data set cache of our own, and mergekit's imports, which warn."""
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


def recipe(parents: tuple[Path, Path], base: Path, dtype: str) -> str:
    return render(
        load_template("slerp-gradient"),
        parents=parents,
        base=base,
        num_layers=2,
        dtype=dtype,
        tokenizer=resolve_tokenizer("auto", list(parents)),
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind[:2])))
def test_a_family_is_merged_evaluated_and_measured(tmp_path, task, kind):
    family, tied, types, dtype, sharded = kind
    shard = SHARD if sharded else None
    base = families.save(tmp_path / "base", family, tied=tied, dtype=types[0], shard=shard)
    one, other = (
        families.save(tmp_path / f"p{seed}", family, near=base, seed=seed, tied=tied, dtype=types[seed], shard=shard)
        for seed in (1, 2)
    )
    assert (len(list(one.glob("*.safetensors"))) > 1) == sharded

    text = recipe((one, other), base, dtype)
    rehearse(text)
    child = tmp_path / "child"
    child.mkdir()
    merge(MergeJob(text, (one, other), child, "cpu"), families.silent)
    merged = families.weights(child)
    assert merged.keys() == families.weights(one).keys()
    assert {str(weight.dtype) for weight in merged.values()} == {f"torch.{dtype}"}

    scores = tmp_path / "scores"
    scores.mkdir()
    arguments = {"dtype": "float32"}
    job = EvaluateJob(child, (task,), scores, model_args=arguments, batch_size=6, device="cpu")
    score = evaluate(job, families.silent).scores["winogrande"]
    assert score.samples == 6
    assert 0 <= score.value <= 1
    assert score.stderr is not None

    models = {"one": one, "other": other, "child": child}
    pairs = (("one", "other"), ("one", "child"), ("other", "child"))
    found = measure(KinshipJob(base, models, pairs, "cpu"), families.silent).pairs
    parents, *akin = found
    assert all(not pair.left_out and pair.parameters == found[0].parameters for pair in found)
    assert all(math.isfinite(value) for pair in found for value in (pair.pcc, pair.cs, pair.ed))
    assert abs(parents.pcc) < 0.2  # two draws of noise
    assert all(0.4 < pair.pcc < 1 for pair in akin)  # the child lies between its parents


def test_gpt_neox_is_refused_before_the_work(tmp_path):
    """mergekit 0.1.5 asks for masks that transformers no longer saves; it is kinship and scoring that would work."""
    base = families.save(tmp_path / "base", "gpt_neox")
    one, other = (families.save(tmp_path / f"p{seed}", "gpt_neox", near=base, seed=seed) for seed in (1, 2))
    message = "mergekit cannot merge p1 and p2 by this recipe: Tensor gpt_neox.layers.0.attention.bias required"
    with pytest.raises(RecipeError, match=message):
        rehearse(recipe((one, other), base, "float32"))
    found = measure(KinshipJob(base, {"one": one, "other": other}, (("one", "other"),), "cpu"), families.silent)
    assert math.isfinite(found.pairs[0].pcc)
