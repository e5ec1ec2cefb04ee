"""Merges that fail: each with one sentence that says why."""

from __future__ import annotations

import errno
import resource
import shutil

import pytest

from evolve.engines.merging import merge
from evolve.engines.protocols import MergeJob
from evolve.errors import MergeError
from tests.engines.merging import _models as tiny


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_parent_with_a_bad_number_is_named(family, job, broken, value):
    name = "model.layers.2.mlp.down_proj.weight"
    parent = broken(name, value)
    with pytest.raises(MergeError) as caught:
        merge(job(parents=(family.a, parent)), tiny.silent, "cpu")
    assert f"unusable: {parent} holds numbers that are not finite, first in {name}" in str(caught.value)


def test_a_base_with_a_bad_number_is_named(job, broken, family):
    base = broken("model.norm.weight", float("nan"), source=family.base)
    with pytest.raises(MergeError, match=r"broken holds numbers .* first in model\.norm\.weight"):
        merge(job("ties", base=base), tiny.silent, "cpu")


def test_a_merge_that_overflows_is_distinguished_from_bad_parents(family, job, broken):
    huge = broken("model.norm.weight", 1e9)  # finite, but beyond float16
    with pytest.raises(MergeError, match=r"the merge made .* in model\.norm\.weight.*try a wider dtype"):
        merge(job(parents=(family.a, huge), dtype="float16"), tiny.silent, "cpu")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("parameters:", "paramters:", "unknown key 'paramters'; did you mean 'parameters'"),
        ("    - value: 0.5\n", "", "Missing required parameter t for"),
        ("dtype: float32", "dtype: float31", 'Unimplemented dtype "float31"'),
    ],
)
def test_a_recipe_that_mergekit_refuses(job, old, new, message):
    with pytest.raises(MergeError, match=message):
        merge(job(change=lambda text: text.replace(old, new)), tiny.silent, "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 3}, "All inputs to a slice must contain the same number of layers"),
        ({"intermediate_size": 40}, "Tensor size mismatch"),
        ({"family": "gpt_neox"}, "different architectures"),
    ],
)
def test_models_with_different_layouts(family, job, change, message):
    other = tiny.save(family.a.parent / f"other-{message[:3]}", **({"layers": 4} | change))
    with pytest.raises(MergeError, match=message):
        merge(job(parents=(family.a, other)), tiny.silent, "cpu")


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_parent_without_a_file(family, job, tmp_path, missing):
    parent = shutil.copytree(family.a, tmp_path / "parent")
    (parent / missing).unlink()
    with pytest.raises(MergeError):
        merge(job(parents=(parent, family.b)), tiny.silent, "cpu")


def test_missing_folders(family, job, tmp_path):
    with pytest.raises(MergeError, match=r"none, which is not the absolute path of a folder"):
        merge(job(parents=(family.a, tmp_path / "none")), tiny.silent, "cpu")
    task = job(name="other")
    with pytest.raises(MergeError, match="does not refer to the parent"):
        merge(MergeJob(task.recipe, (family.c, family.b), task.output), tiny.silent, "cpu")
    (task.output / "left-over").touch()
    with pytest.raises(MergeError, match="not empty"):
        merge(task, tiny.silent, "cpu")


def test_a_full_device_passes_through(job, monkeypatch):
    import mergekit.merge
    import torch

    def run_merge(*_):
        raise torch.OutOfMemoryError("too small")

    monkeypatch.setattr(mergekit.merge, "run_merge", run_merge)
    with pytest.raises(torch.OutOfMemoryError):
        merge(job(), tiny.silent, "cpu")


@pytest.mark.parametrize("kind", ["system", "safetensors"])
def test_a_full_disk_passes_through(job, monkeypatch, kind):
    import mergekit.merge
    from safetensors import SafetensorError

    def run_merge(*_):
        if kind == "system":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(mergekit.merge, "run_merge", run_merge)
    with pytest.raises(OSError, match="No space left") as caught:
        merge(job(), tiny.silent, "cpu")
    assert caught.value.errno == errno.ENOSPC


def test_a_file_size_limit_passes_through(job):
    task, limits = job(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            merge(task, tiny.silent, "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG


def test_a_bug_passes_through(job, monkeypatch):
    import mergekit.merge

    def run_merge(*_):
        raise AttributeError

    monkeypatch.setattr(mergekit.merge, "run_merge", run_merge)
    with pytest.raises(AttributeError):
        merge(job(), tiny.silent, "cpu")
