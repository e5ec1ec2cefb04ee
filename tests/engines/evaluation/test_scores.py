"""Scores, samples and progress of `evaluate`, compared with lm-eval's own command."""

from __future__ import annotations

import dataclasses
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
from evolve.errors import TaskError

from . import _world

# `python -m lm_eval run` once per list of arguments, each in a separate process. They are forked after the imports,
# and lm-eval's index of its 14,000 files is left out: both only save time, as the tasks are given by path.
COMMANDS = """
import json, os, sys
import lm_eval.evaluator, lm_eval.models.huggingface
import lm_eval.tasks.manager as manager
from lm_eval.__main__ import cli_evaluate
manager.TaskManager.__init__.__defaults__ = (None, None, False, None)
for arguments in json.loads(sys.argv[1]):
    if (child := os.fork()) == 0:
        sys.argv[1:] = arguments
        cli_evaluate()
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, arguments
"""


def sampling_tasks(data: Path) -> tuple[TaskSpec, ...]:
    """The three tasks; GSM8K samples its answers, so its samples depend on the state of torch's generator."""
    wino, gsm, mc2 = _world.three_tasks(data)
    return wino, dataclasses.replace(gsm, generation_kwargs=sampled(12)), mc2


def sampled(tokens: int) -> dict[str, object]:
    return {"max_gen_toks": tokens, "do_sample": True, "temperature": 1.0}


@pytest.fixture(scope="module")
def scored(model, data, tmp_path_factory):
    """One evaluation on all three tasks, none of them built before."""
    tasks._kept.clear()
    output = tmp_path_factory.mktemp("scored")
    seen: list[tuple[str, int, int]] = []
    result = _world.score(model, sampling_tasks(data), output, lambda *said: seen.append(said))
    return result, output, seen


def run_commands(model: Path, specs: tuple[TaskSpec, ...], folder: Path, *more: str) -> None:
    """Run `lm_eval run --tasks <task>` for each task, with its output in a folder named like the task."""
    commands = []
    for plan in plan_tasks(specs, Catalog()):
        target = folder / plan.spec.task
        target.mkdir()
        command = ["run", "--model", "hf", "--device", "cpu", "--seed", "7", "--log_samples"]
        command += ["--output_path", str(target / "out.json"), "--tasks", str(plan.write(target)[0])]
        commands.append([*command, *(more or default_options(model))])
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]


def default_options(model: Path) -> list[str]:
    return ["--batch_size", "4", "--model_args", f"pretrained={model},dtype=float32"]


def results_of_command(folder: Path, task: str) -> dict:
    return json.loads(next((folder / task).glob("out_*.json")).read_text())


def samples_of_command(folder: Path, task: str) -> str:
    return next((folder / task).glob(f"samples_{task}_*.jsonl")).read_text()


def test_each_task_equals_the_command_of_lm_eval_for_it(scored, model, data, tmp_path):
    """Byte for byte by lm-eval's own class; with shared prefixes all but the last digits of log-likelihoods."""
    shared, shared_output, _ = scored
    run_commands(model, sampling_tasks(data), tmp_path)
    output = tmp_path / "off"
    result = _world.score(model, sampling_tasks(data), output, prefix_sharing=False)

    for task, score in shared.scores.items():
        assert score.value == pytest.approx(result.scores[task].value, rel=1e-6)
        assert score.stderr == pytest.approx(result.scores[task].stderr, rel=1e-6)
        assert_same_samples(_world.samples_of(shared_output), _world.samples_of(output), task)
    for task, score in result.scores.items():
        theirs = results_of_command(tmp_path, task)
        ours = _world.results_of(output, task)
        for key in ("results", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples"):
            assert ours[key] == theirs[key]
        name, kind = score.metric.split(",")
        entry = theirs["results"][task]
        assert (score.value, score.stderr) == (entry[score.metric], entry[f"{name}_stderr,{kind}"])
        assert _world.samples_of(output)[f"{task}/samples_{task}.jsonl"] == samples_of_command(tmp_path, task)


def assert_same_samples(one: dict[str, str], other: dict[str, str], task: str) -> None:
    """Compare the samples of a task: equal texts and flags, and log-likelihoods with a difference of at most 1e-4."""
    rows = [list(map(json.loads, samples[f"{task}/samples_{task}.jsonl"].splitlines())) for samples in (one, other)]
    for mine, theirs in zip(*rows, strict=True):
        for key in ("doc", "target", "arguments", "doc_hash", "prompt_hash"):
            assert mine[key] == theirs[key]
        for found, expected in zip(mine["resps"], theirs["resps"], strict=True):
            if task == "gsm8k":
                assert found == expected
            else:
                (found_value, found_flag), (value, flag) = found[0], expected[0]
                assert abs(float(found_value) - float(value)) < 1e-4
                assert found_flag == flag


def test_automatic_batch_size_equals_the_command(model, data, tmp_path):
    specs = _world.three_tasks(data, limit=4)[:2]
    arguments = {"dtype": "float32", "max_length": 512, "max_batch_size": 8}
    files = tmp_path / "command"
    files.mkdir()
    text = ",".join(f"{key}={value}" for key, value in ({"pretrained": model} | arguments).items())
    run_commands(model, specs, files, "--limit", "4", "--batch_size", "auto", "--model_args", text)

    result = _world.score(
        model, specs, tmp_path / "ours", batch_size="auto", model_args=arguments, prefix_sharing=False
    )

    assert result.batch_size == "auto"
    for spec in specs:
        theirs, ours = results_of_command(files, spec.task), _world.results_of(tmp_path / "ours", spec.task)
        assert ours["results"] == theirs["results"]
        assert ours["config"]["batch_sizes"] == theirs["config"]["batch_sizes"]
        samples = _world.samples_of(tmp_path / "ours")[f"{spec.task}/samples_{spec.task}.jsonl"]
        assert samples == samples_of_command(files, spec.task)
    assert _world.results_of(tmp_path / "ours", "winogrande")["config"]["batch_sizes"]


def test_scores_do_not_depend_on_the_other_tasks_or_their_order(model, data, tmp_path):
    wino, gsm, mc2 = sampling_tasks(data)
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "more.yaml").write_text(
        f"task: more\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}/gsm8k/test.jsonl\n"
        "output_type: generate_until\ntest_split: test\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "metric_list:\n- metric: exact_match\n"
    )
    more = TaskSpec("more", "exact_match,none", generation_kwargs=sampled(6))
    forwards = (more, wino, gsm, mc2)
    runs = {"forwards": forwards, "backwards": forwards[::-1], "first": (more,), "third": (gsm,)}
    results = {name: _world.score(model, specs, tmp_path / name, task_dirs=(folder,)) for name, specs in runs.items()}

    whole, samples = results["forwards"], _world.samples_of(tmp_path / "forwards")
    assert results["backwards"].scores == whole.scores
    assert _world.samples_of(tmp_path / "backwards") == samples
    for name, task in (("first", "more"), ("third", "gsm8k")):
        assert results[name].scores == {task: whole.scores[task]}
        file = f"{task}/samples_{task}.jsonl"
        assert _world.samples_of(tmp_path / name) == {file: samples[file]}
    assert list(results["backwards"].scores) == ["truthfulqa_mc2", "gsm8k", "winogrande", "more"]


def test_a_model_that_draws_while_it_is_loaded_leaves_each_task_the_same_state(model, data, tmp_path, monkeypatch):
    """Call in this process what the command calls: seed, load the model (which draws), build the task."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    load = HFLM.__init__
    monkeypatch.setattr(HFLM, "__init__", lambda self, *a, **k: (torch.rand(3), load(self, *a, **k))[1])
    gsm = sampling_tasks(data)[1]
    monkeypatch.setattr(tasks, "_kept", {})
    _world.score(model, (_world.three_tasks(data)[0], gsm), tmp_path / "ours")

    (plan,) = plan_tasks([gsm], Catalog())
    (tmp_path / "command").mkdir()
    theirs = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=[str(plan.write(tmp_path / "command")[0])],
        batch_size=4,
        device="cpu",
        task_manager=TaskManager(include_defaults=False),
        **dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 7),
    )
    lines = _world.samples_of(tmp_path / "ours")["gsm8k/samples_gsm8k.jsonl"].splitlines()
    assert [json.loads(line)["resps"] for line in lines] == [row["resps"] for row in theirs["samples"]["gsm8k"]]


def test_scores_differ_by_model_and_have_standard_errors_and_times(scored, other_model, data, tmp_path):
    result, output, _ = scored
    assert list(result.scores) == ["winogrande", "gsm8k", "truthfulqa_mc2"]
    assert all(score.samples == 12 and score.stderr is not None for score in result.scores.values())
    assert result.batch_size == 4
    assert list(result.task_seconds) == list(result.scores)
    assert all(seconds > 0 for seconds in result.task_seconds.values())
    assert sum(result.task_seconds.values()) < result.seconds
    other = _world.score(other_model, sampling_tasks(data), tmp_path)
    assert other.scores["truthfulqa_mc2"] != result.scores["truthfulqa_mc2"]
    # The tasks are the same objects for both models, but the results contain only their own.
    first = _world.results_of(output, "gsm8k")["config"]["model_args"]["pretrained"]
    text = (tmp_path / "gsm8k" / "results.json").read_text()
    assert str(other_model) in text
    assert first not in text


def test_each_task_has_a_folder_of_its_own(scored):
    _, output, _ = scored
    assert sorted(str(file.relative_to(output)) for file in output.rglob("*") if file.is_file()) == [
        f"{task}/{file}"
        for task in ("gsm8k", "truthfulqa_mc2", "winogrande")
        for file in ("answers.parquet", "items.parquet", "results.json", f"samples_{task}.jsonl")
    ]


def test_kept_tasks_score_as_fresh_ones(scored, model, data, tmp_path, monkeypatch):
    _, output, _ = scored
    import datasets

    loads = []
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: loads.append(a) or load(*a, **k))
    three = sampling_tasks(data)
    other_model = _world.make_model(tmp_path / "model", seed=1)
    _world.score(other_model, three, tmp_path / "other", seed=3)
    _world.score(model, three, tmp_path / "again")
    assert not loads
    assert _world.samples_of(tmp_path / "again") == _world.samples_of(output)
    for spec in three:
        fresh, again = _world.results_of(output, spec.task), _world.results_of(tmp_path / "again", spec.task)
        for key in ("results", "versions", "n-shot", "higher_is_better", "n-samples"):
            assert again[key] == fresh[key]
    tasks._kept.clear()
    _world.inspect(*three)
    assert len(loads) == 3
    _world.score(model, three, tmp_path / "inspected")
    assert len(loads) == 3
    assert _world.samples_of(tmp_path / "inspected") == _world.samples_of(output)


def test_the_seed_chooses_the_examples_in_the_prompts(scored, model, data, tmp_path):
    _, output, _ = scored
    _world.score(model, _world.three_tasks(data)[:1], tmp_path, seed=8)
    assert _world.prompts(tmp_path, "winogrande") != _world.prompts(output, "winogrande")


def test_limits_differ_by_task_and_keep_the_prompts(scored, model, data, tmp_path):
    _, output, _ = scored
    wino, gsm, mc2 = _world.three_tasks(data, limit=5)
    result = _world.score(model, (wino, gsm, dataclasses.replace(mc2, limit=None)), tmp_path)
    counts = {"winogrande": 5, "gsm8k": 5, "truthfulqa_mc2": 12}
    assert {task: score.samples for task, score in result.scores.items()} == counts
    for task in ("winogrande", "truthfulqa_mc2"):
        assert _world.prompts(tmp_path, task) == _world.prompts(output, task)[: counts[task]]
    limits = {task: _world.results_of(tmp_path, task)["config"]["limit"] for task in counts}
    assert limits == {"winogrande": 5, "gsm8k": 5, "truthfulqa_mc2": None}


def test_reports_progress_in_documents_of_all_tasks(scored):
    _, _, seen = scored
    assert [words for words, _, _ in seen[:3]] == [
        "reading tasks",
        "loading the model",
        "building prompts of winogrande",
    ]
    assert list(dict.fromkeys(words for words, _, _ in seen[2:])) == [
        f"{what} {task}"
        for task in ("winogrande", "gsm8k", "truthfulqa_mc2")
        for what in ("building prompts of", "scoring")
    ]
    counts = [(done, total) for _, done, total in seen[2:]]
    assert counts[0] == (0, 36)
    assert counts == sorted(counts)
    assert seen[-1] == ("scoring truthfulqa_mc2", 36, 36)
    assert next(done for words, done, _ in seen if words == "building prompts of gsm8k") == 12


def test_a_wrong_task_is_found_before_any_is_scored(model, data, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "validation.jsonl").write_text('{"question": "a"}\n')
    wino, _, mc2 = _world.three_tasks(data)
    seen: list[str] = []
    with pytest.raises(TaskError, match="cannot build the task 'truthfulqa_mc2'"):
        _world.score(
            model,
            (wino, dataclasses.replace(mc2, dataset=tmp_path / "data")),
            tmp_path / "out",
            lambda words, *_: seen.append(words),
        )
    assert seen == ["reading tasks"]


def test_nothing_is_printed_and_the_generators_are_preserved(model, data, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG, logger="evolve")
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    _world.score(model, _world.three_tasks(data, limit=2), tmp_path)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected
    assert capfd.readouterr() == ("", "")
    assert "loglikelihood: 4 requests, 0 of them cached" in caplog.messages
    assert "generate_until: 2 requests, 0 of them cached" in caplog.messages


def test_output_and_logs_of_lm_eval_go_to_the_logger_of_evolve(capfd, caplog):
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

    references = []
    init = HFLM.__init__

    def watched(self, *args, **kwargs):
        init(self, *args, **kwargs)
        references.extend([weakref.ref(self), weakref.ref(self.model)])

    monkeypatch.setattr(HFLM, "__init__", watched)
    _world.score(model, _world.three_tasks(data, limit=1), tmp_path)
    assert len(references) == 2
    assert [reference() for reference in references] == [None, None]


def test_evaluate_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(evaluate)) is evaluate
    code = "import sys, evolve.engines.evaluation; print({'torch', 'lm_eval', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_own_tasks_take_precedence_and_groups_give_their_aggregate(model, data, tmp_path):
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
    result = _world.score(model, (spec,), tmp_path / "out", task_dirs=(folder,))
    results = _world.results_of(tmp_path / "out", "pair")
    parts = results["results"]
    assert results["n-shot"]["small_b"] == 1
    assert result.scores["pair"].samples == 32
    assert result.scores["pair"].value == pytest.approx(
        (parts["small_a"]["acc,none"] * 12 + parts["small_b"]["acc,none"] * 20) / 32
    )
    assert result.scores["pair"].stderr is not None
    assert sorted(_world.samples_of(tmp_path / "out")) == ["pair/samples_small_a.jsonl", "pair/samples_small_b.jsonl"]

    own = (folder / "small_a.yaml").read_text().replace("task: small_a", "task: winogrande")
    (folder / "winogrande.yaml").write_text(own)
    spec = TaskSpec("winogrande", "acc,none", num_fewshot=0)
    _world.score(model, (spec,), tmp_path / "own", task_dirs=(folder,))
    line = _world.samples_of(tmp_path / "own")["winogrande/samples_winogrande.jsonl"].splitlines()[0]
    assert "question" in json.loads(line)["doc"]
