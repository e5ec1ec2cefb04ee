"""Errors that `evaluate` translates, and errors that it raises unchanged."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from evolve.engines.evaluation import evaluate
from evolve.engines.evaluation.results import score_of
from evolve.engines.protocols import TaskSpec
from evolve.errors import EvaluationError, TaskError

from . import _world


def with_weights(model: Path, folder: Path, value: float, *names: str) -> Path:
    """Copy a checkpoint, with all elements of some weights (default: all) set to a value."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    for name in names or weights:
        weights[name][:] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_weights_that_are_not_finite_are_refused(model, data, tmp_path):
    broken = with_weights(model, tmp_path / "nan", float("nan"))
    with pytest.raises(EvaluationError, match=r"weights 'model\.embed_tokens\.weight' of .* are not all finite"):
        _world.score(broken, _world.three_tasks(data), tmp_path / "out")


@pytest.mark.parametrize("number", [0, 1, 2], ids=["winogrande", "gsm8k", "truthfulqa_mc2"])
def test_logits_that_are_not_numbers_are_refused(model, data, tmp_path, number):
    """The weights are finite but the activations overflow: winogrande would score 0.5 and gsm8k 0.0."""
    broken = with_weights(model, tmp_path / "huge", 3e38, "lm_head.weight", "model.norm.weight")
    with pytest.raises(EvaluationError, match=r"^evaluation: task '\w+': the model .*(not a number|not numbers)"):
        _world.score(broken, _world.three_tasks(data)[number : number + 1], tmp_path / "out")


def test_a_missing_metric_lists_the_available_ones(model, data, tmp_path):
    spec = dataclasses.replace(_world.three_tasks(data, limit=2)[1], metric="exact_match,none")
    with pytest.raises(EvaluationError, match=r"'gsm8k' gave no metric 'exact_match,none'.*flexible-extract"):
        _world.score(model, (spec,), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "N/A", None])
def test_a_score_is_finite(value):
    results = {"results": {"t": {"acc,none": value, "acc_stderr,none": "N/A", "sample_len": 3}}}
    with pytest.raises(EvaluationError, match=r"'acc,none' of task 't' is .*, not a finite number"):
        score_of(results, TaskSpec("t", "acc,none"))


def test_a_standard_error_may_be_missing():
    results = {"results": {"t": {"acc,none": 0.5, "acc_stderr,none": "N/A", "sample_len": 1}}}
    assert score_of(results, TaskSpec("t", "acc,none")).stderr is None


def test_group_without_aggregate_is_refused():
    results = {"results": {"g": {"alias": "g"}}, "group_subtasks": {"g": ["a", "b"]}}
    with pytest.raises(TaskError, match="group 'g' has no aggregate 'acc,none'"):
        score_of(results, TaskSpec("g", "acc,none"))


def test_running_out_of_memory_is_passed_on(model, data, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(HFLM, "_model_call", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        _world.score(
            model, _world.three_tasks(data, limit=2), tmp_path / "a", request_caches={"winogrande": tmp_path / "c"}
        )
    monkeypatch.undo()
    monkeypatch.setattr(HFLM, "__init__", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        _world.score(model, _world.three_tasks(data, limit=2), tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "hff"}, "no model class 'hff'. Did you mean: hf"),
        ({"model": "vllm"}, "'vllm' of lm-eval needs a package that is not installed"),
        ({"model_args": {"batch_size": 3}}, "model_args may not contain 'batch_size'"),
        ({"model_args": {"no_such_option": 3}}, "cannot load .*no_such_option"),
        ({"checkpoint": Path("/nowhere/at/all")}, "cannot load /nowhere/at/all"),
    ],
)
def test_models_that_cannot_be_loaded(model, data, tmp_path, options, message):
    job = dataclasses.replace(_world.job(model, _world.three_tasks(data, limit=1), tmp_path), **options)
    with pytest.raises(EvaluationError, match=message):
        evaluate(job, _world.silent, "cpu")


def test_tasks_that_are_refused(model, data, tmp_path):
    wino = _world.three_tasks(data)[0]
    with pytest.raises(TaskError, match="occurs twice"):
        _world.score(model, (wino, wino), tmp_path)
    with pytest.raises(TaskError, match="no tasks"):
        _world.score(model, (), tmp_path)
    with pytest.raises(TaskError, match="executes code"):
        _world.score(model, (TaskSpec("humaneval", "pass@1,create_test"),), tmp_path)
