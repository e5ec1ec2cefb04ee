"""What can go wrong with a merge, told in one sentence; and rehearsals, which tell it before the work starts."""

from __future__ import annotations

import shutil

import pytest

from evolve.engines.merging import merge, rehearse, template_names
from evolve.engines.protocols import MergeJob
from evolve.errors import MergeError, RecipeError


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_number_of_a_parent_is_laid_at_its_door(tiny, family, job, broken, value):
    name = "model.layers.2.mlp.down_proj.weight"
    parent = broken(name, value)
    with pytest.raises(MergeError) as caught:
        merge(job(parents=(family.a, parent)), tiny.silent)
    assert str(caught.value).startswith(f"{parent} holds numbers that are not finite, first in {name}")


def test_so_is_that_of_the_base(tiny, job, broken, family):
    base = broken("model.norm.weight", float("nan"), source=family.base)
    with pytest.raises(MergeError, match=r"broken holds numbers .* first in model\.norm\.weight"):
        merge(job("ties", base=base), tiny.silent)


def test_numbers_that_the_merge_spoilt_are_told_apart(tiny, family, job, broken):
    huge = broken("model.norm.weight", 1e9)  # finite, but beyond float16
    with pytest.raises(MergeError, match=r"the merge made .* in model\.norm\.weight.*try a wider dtype"):
        merge(job(parents=(family.a, huge), dtype="float16"), tiny.silent)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("parameters:", "paramters:", "unknown key 'paramters'; did you mean 'parameters'"),
        ("    - value: 0.5\n", "", "Missing required parameter t for"),
        ("dtype: float32", "dtype: float31", 'Unimplemented dtype "float31"'),
    ],
)
def test_recipes_that_cannot_be_carried_out(tiny, job, old, new, message):
    with pytest.raises(MergeError, match=message):
        merge(job(change=lambda text: text.replace(old, new)), tiny.silent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 3}, "All inputs to a slice must contain the same number of layers"),
        ({"intermediate_size": 40}, "Tensor size mismatch"),
        ({"family": "gpt_neox"}, "different architectures"),
    ],
)
def test_models_that_do_not_fit(tiny, family, job, change, message):
    other = tiny.save(family.a.parent / f"other-{message[:3]}", **({"layers": 4} | change))
    with pytest.raises(MergeError, match=message):
        merge(job(parents=(family.a, other)), tiny.silent)


def test_a_child_of_another_shape_is_refused(tiny, job):
    def stacked(text):
        one, two = (line.split("model: ", 1)[1] for line in text.splitlines() if line.startswith("  - model"))
        return f"""
merge_method: passthrough
slices:
  - sources: [{{model: {one}, layer_range: [0, 4]}}]
  - sources: [{{model: {two}, layer_range: [2, 4]}}]
dtype: float32
"""

    with pytest.raises(MergeError, match=r"not laid out like its first parent: .*num_hidden_layers: 4 and 6"):
        merge(job(change=stacked), tiny.silent)


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_parent_that_lacks_a_file(tiny, family, job, tmp_path, missing):
    parent = shutil.copytree(family.a, tmp_path / "parent")
    (parent / missing).unlink()
    with pytest.raises(MergeError):
        merge(job(parents=(parent, family.b)), tiny.silent)


def test_folders_that_are_not_there(tiny, family, job, tmp_path):
    with pytest.raises(MergeError, match=r"none, which is not the absolute path of a folder"):
        merge(job(parents=(family.a, tmp_path / "none")), tiny.silent)
    task = job(name="other")
    with pytest.raises(MergeError, match="does not refer to the parent"):
        merge(MergeJob(task.recipe, (family.c, family.b), task.output, "cpu"), tiny.silent)
    (task.output / "left-over").touch()
    with pytest.raises(MergeError, match="not empty"):
        merge(task, tiny.silent)


def test_lack_of_device_memory_passes_through(tiny, job, monkeypatch):
    import mergekit.merge
    import torch

    def run_merge(*_):
        raise torch.OutOfMemoryError("too small")

    monkeypatch.setattr(mergekit.merge, "run_merge", run_merge)
    with pytest.raises(torch.OutOfMemoryError):
        merge(job(), tiny.silent)


@pytest.mark.parametrize("kind", ["system", "safetensors"])
def test_a_full_disk_passes_through(tiny, job, monkeypatch, kind):
    import errno

    import mergekit.merge
    from safetensors import SafetensorError

    def run_merge(*_):
        if kind == "system":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(mergekit.merge, "run_merge", run_merge)
    with pytest.raises(OSError, match="No space left") as caught:
        merge(job(), tiny.silent)
    assert caught.value.errno == errno.ENOSPC


def test_a_bug_keeps_its_traceback(tiny, job, monkeypatch):
    import mergekit.merge

    def run_merge(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(mergekit.merge, "run_merge", run_merge)
    with pytest.raises(ZeroDivisionError):
        merge(job(), tiny.silent)


@pytest.mark.parametrize("recipe", template_names())
def test_a_rehearsal_writes_nothing_and_lets_good_recipes_pass(family, job, recipe):
    from mergekit.io.tasks import LoaderCache

    task = job(recipe)
    rehearse(task.recipe)
    assert list(task.output.iterdir()) == []
    assert LoaderCache().loaders == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("parameters:", "paramters:", "unknown key 'paramters'"),
        ("    - value: 0.5\n", "", "mergekit cannot merge a and b by this recipe: Missing required parameter t for"),
    ],
)
def test_a_rehearsal_finds_mistakes(job, old, new, message):
    text = job().recipe.replace(old, new)
    with pytest.raises(RecipeError, match=message):
        rehearse(text)


def test_a_rehearsal_finds_folders_that_are_not_there(family, job, tmp_path):
    with pytest.raises(RecipeError, match="none, which is not the absolute path of a folder"):
        rehearse(job(parents=(family.a, tmp_path / "none")).recipe)


def test_a_rehearsal_finds_models_of_unequal_depth(tiny, family, job, tmp_path):
    other = tiny.save(tmp_path / "other", layers=3)
    with pytest.raises(RecipeError, match="the same number of layers"):
        rehearse(job(parents=(family.a, other)).recipe)
