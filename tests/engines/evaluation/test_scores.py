from __future__ import annotations

import json
import logging
import pickle
import random
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from evolve.engines.evaluation import evaluate, tasks
from evolve.engines.evaluation.catalog import Catalog
from evolve.engines.evaluation.quiet import quiet
from evolve.engines.evaluation.taskfiles import plan_tasks
from evolve.engines.protocols import TaskSpec

from . import _world

# `python -m lm_eval`, spared the index of its own 14,000 files, which takes it 6 to 20 s: the files are given by path.
COMMAND = """
import lm_eval.tasks.manager as manager
from lm_eval.__main__ import cli_evaluate
manager.TaskManager.__init__.__defaults__ = (None, None, False, None)
cli_evaluate()
"""


def results_of(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def samples_of(output: Path) -> dict[str, list]:
    return {
        file.stem: [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(output.glob("samples_*.jsonl"))
    }


@pytest.fixture(scope="module")
def scored(model, data, tmp_path_factory):
    """One evaluation on all three tasks, by tasks that were built for it."""
    tasks._kept.clear()
    output = tmp_path_factory.mktemp("scored")
    seen: list[tuple[str, int, int]] = []
    result = evaluate(_world.job(model, _world.three_tasks(data), output), lambda *said: seen.append(said))
    return result, output, seen


def test_equals_the_command_of_lm_eval(scored, model, data, tmp_path):
    result, output, _ = scored
    plans = plan_tasks(_world.three_tasks(data), Catalog())
    files = [str(plan.write(tmp_path)[0]) for plan in plans]
    command = [sys.executable, "-c", COMMAND, "run", "--model", "hf", "--device", "cpu", "--batch_size", "4"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--seed", "7", "--log_samples"]
    command += ["--output_path", str(tmp_path / "out.json"), "--tasks", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]

    theirs = json.loads(next(tmp_path.glob("out_*.json")).read_text())["results"]
    ours = results_of(output)["results"]
    assert ours == theirs
    for task, score in result.scores.items():
        name, kind = score.metric.split(",")
        assert (score.value, score.stderr) == (theirs[task][score.metric], theirs[task][f"{name}_stderr,{kind}"])
    for task in result.scores:
        lines = next(tmp_path.glob(f"samples_{task}_*.jsonl")).read_text()
        assert lines == (output / f"samples_{task}.jsonl").read_text()


def test_scores_tell_models_apart_and_have_standard_errors(scored, other_model, data, tmp_path):
    result, output, _ = scored
    assert set(result.scores) == {"winogrande", "gsm8k", "truthfulqa_mc2"}
    assert all(score.samples == 12 and score.stderr is not None for score in result.scores.values())
    assert result.batch_size == 4
    assert result.seconds > 0
    other = evaluate(_world.job(other_model, _world.three_tasks(data), tmp_path), _world.silent)
    assert other.scores["truthfulqa_mc2"] != result.scores["truthfulqa_mc2"]
    # Nothing of the model before may show in the results of the next, whose tasks are the same objects.
    assert str(other_model) in (tmp_path / "results.json").read_text()
    assert results_of(output)["config"]["model_args"]["pretrained"] not in (tmp_path / "results.json").read_text()


def test_tasks_used_again_score_as_fresh_ones(scored, model, data, tmp_path, monkeypatch):
    _, output, _ = scored
    import datasets

    loads = []
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: loads.append(a) or load(*a, **k))
    three = _world.three_tasks(data)
    other_model = _world.make_model(tmp_path / "model", seed=1)
    evaluate(_world.job(other_model, three, tmp_path / "other", seed=3), _world.silent)
    evaluate(_world.job(model, three, tmp_path / "again"), _world.silent)
    assert not loads
    assert samples_of(tmp_path / "again") == samples_of(output)
    fresh, again = results_of(output), results_of(tmp_path / "again")
    for key in ("results", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert again[key] == fresh[key]
    tasks._kept.clear()
    evaluate(_world.job(model, three, tmp_path / "anew"), _world.silent)
    assert loads
    assert samples_of(tmp_path / "anew") == samples_of(output)


def test_the_seed_chooses_the_examples_in_the_prompts(scored, model, data, tmp_path):
    _, output, _ = scored
    evaluate(_world.job(model, _world.three_tasks(data)[:1], tmp_path, seed=8), _world.silent)
    prompts = [sample["arguments"] for sample in samples_of(tmp_path)["samples_winogrande"]]
    assert prompts != [sample["arguments"] for sample in samples_of(output)["samples_winogrande"]]


def test_limits_differ_by_task_and_keep_the_prompts(scored, model, data, tmp_path):
    _, output, _ = scored
    wino, gsm, mc2 = _world.three_tasks(data, limit=5)
    whole = TaskSpec(mc2.task, mc2.metric, num_fewshot=0, dataset=mc2.dataset)
    result = evaluate(_world.job(model, (wino, gsm, whole), tmp_path), _world.silent)
    assert {task: score.samples for task, score in result.scores.items()} == {
        "winogrande": 5,
        "gsm8k": 5,
        "truthfulqa_mc2": 12,
    }
    full, cut = samples_of(output), samples_of(tmp_path)
    for task, count in (("samples_winogrande", 5), ("samples_truthfulqa_mc2", 12)):
        assert [s["arguments"] for s in cut[task]] == [s["arguments"] for s in full[task]][:count]
    assert results_of(tmp_path)["config"]["limit"] == {"winogrande": 5, "gsm8k": 5, "truthfulqa_mc2": None}


def test_reports_progress_up_to_the_end(scored):
    _, _, seen = scored
    assert [words for words, _, _ in seen[:3]] == ["reading tasks", "loading the model", "building prompts"]
    scoring = [(done, total) for words, done, total in seen if words.startswith("scoring")]
    assert any("gsm8k" in words for words, _, _ in seen)
    assert any("winogrande" in words for words, _, _ in seen)
    # 12 documents: two requests each of winogrande, one of gsm8k, five of truthfulqa.
    assert scoring[-1] == (96, 96)
    assert scoring == sorted(scoring)


def test_nothing_is_printed_and_the_generators_are_left_alone(model, data, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG, logger="evolve")
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    evaluate(_world.job(model, _world.three_tasks(data, limit=2), tmp_path), _world.silent)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected
    assert capfd.readouterr() == ("", "")
    assert any("loglikelihood: 14 requests" in message for message in caplog.messages)


def test_what_lm_eval_prints_and_logs_goes_to_our_logger(capfd, caplog):
    caplog.set_level(logging.DEBUG, logger="evolve")
    before = logging.getLogger("lm_eval").handlers[:], logging.getLogger("lm_eval").propagate
    with quiet(evaluating=False):
        logging.getLogger("lm_eval.any").warning("loud")
        print("printed")
        print("10%\r50%\r100%", file=sys.stderr)
    assert caplog.record_tuples == [
        ("evolve.engines.evaluation", logging.INFO, "lm_eval: loud"),
        ("evolve.engines.evaluation", logging.DEBUG, "printed"),
        ("evolve.engines.evaluation", logging.DEBUG, "100%"),
    ]
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger("lm_eval").handlers, logging.getLogger("lm_eval").propagate) == before


def test_the_model_is_freed(model, data, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    made = []
    init = HFLM.__init__

    def watched(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.extend([weakref.ref(self), weakref.ref(self.model)])

    monkeypatch.setattr(HFLM, "__init__", watched)
    evaluate(_world.job(model, _world.three_tasks(data, limit=1), tmp_path), _world.silent)
    assert len(made) == 2
    assert [reference() for reference in made] == [None, None]


def test_evaluate_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(evaluate)) is evaluate
    code = "import sys, evolve.engines.evaluation; print({'torch', 'lm_eval', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_own_tasks_win_and_groups_give_their_aggregate(model, data, tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, split in (("small_a", "test"), ("small_b", "train")):
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}/gsm8k/{split}.jsonl\n"
            "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{question}}'\ndoc_to_choice: ['1', '2']\n"
            "doc_to_target: '{{question | length % 2}}'\nmetric_list:\n- metric: acc\n  higher_is_better: true\n"
            "  aggregation: mean\n"
        )
    (folder / "group.yaml").write_text(
        "group: pair\ntask: [small_a, {task: small_b, num_fewshot: 3}]\naggregate_metric_list:\n- metric: acc\n"
        "  weight_by_size: true\n"
    )
    spec = TaskSpec("pair", "acc,none", num_fewshot=1)
    result = evaluate(_world.job(model, (spec,), tmp_path / "out", task_dirs=(folder,)), _world.silent)
    results = results_of(tmp_path / "out")
    parts = results["results"]
    assert results["n-shot"]["small_b"] == 1
    assert result.scores["pair"].samples == 32
    assert result.scores["pair"].value == pytest.approx(
        (parts["small_a"]["acc,none"] * 12 + parts["small_b"]["acc,none"] * 20) / 32
    )
    assert result.scores["pair"].stderr is not None

    own = (folder / "small_a.yaml").read_text().replace("task: small_a", "task: winogrande")
    (folder / "winogrande.yaml").write_text(own)
    spec = TaskSpec("winogrande", "acc,none", num_fewshot=0)
    evaluate(_world.job(model, (spec,), tmp_path / "own", task_dirs=(folder,)), _world.silent)
    assert "question" in samples_of(tmp_path / "own")["samples_winogrande"][0]["doc"]
