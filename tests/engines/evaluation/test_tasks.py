"""lm-eval's task files are found, and built tasks are kept only where that changes no score."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from evolve.engines.evaluation import tasks
from evolve.engines.evaluation.catalog import Catalog
from evolve.engines.evaluation.taskfiles import plan_tasks
from evolve.engines.evaluation.tasks import TaskLoader
from evolve.engines.generators import Generators
from evolve.engines.protocols import TaskSpec
from evolve.errors import TaskError

from . import _world


def build(folder: Path, spec: TaskSpec, task_dirs: tuple[Path, ...] = ()):
    (plan,) = plan_tasks([spec], Catalog(task_dirs))
    tasks.forget_all_but([plan])
    return next(iter(TaskLoader(folder, plan, {}).build().values()))


@pytest.mark.parametrize("folder", ["winogrande", "gsm8k", "truthfulqa", "arc", "mmlu", "leaderboard", "glue"])
def test_scan_finds_the_same_tasks_as_lm_evals_index(folder):
    import lm_eval.tasks
    from lm_eval.tasks._index import Kind, TaskIndex

    index = TaskIndex.build([Path(lm_eval.tasks.__file__).parent / folder])
    named = {name: entry.yaml_path for name, entry in index.items() if entry.kind is not Kind.TAG}
    assert named
    assert {name: Catalog().find(name).path for name in named} == {name: path.resolve() for name, path in named.items()}


def test_closure_of_a_group_reaches_its_tasks_through_tags():
    catalog = Catalog()
    names = [definition.name for definition in catalog.closure(catalog.find("mmlu"))]
    assert names[0] == "mmlu"
    assert {"mmlu_stem", "mmlu_anatomy", "mmlu_world_religions"} <= set(names)
    assert len(names) == len(set(names)) == 62


def test_replaced_data_are_read_again_even_with_an_equal_modification_time(tmp_path):
    spec = _world.three_tasks(_world.make_data(tmp_path / "data"))[1]
    file = spec.dataset / "test.jsonl"
    before = file.stat()
    first = build(tmp_path / "a", spec)
    assert build(tmp_path / "b", spec) is first
    file.write_text(file.read_text().replace("more", "less"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    second = build(tmp_path / "c", spec)
    assert second is not first
    assert "less" in second.eval_docs[0]["question"]


def test_generation_arguments_override_the_tasks_own(tmp_path):
    spec = _world.three_tasks(_world.make_data(tmp_path / "data"))[1]
    arguments = build(tmp_path / "a", spec).config.generation_kwargs
    assert arguments == {
        "until": ["Question:", "</s>", "<|im_end|>"],
        "do_sample": False,
        "temperature": 0.0,
        "max_gen_toks": 16,
    }


def own_task(folder: Path, extra: str = "") -> TaskSpec:
    _world.write_lines(folder / "test.jsonl", _world.gsm8k_items(5, 0))
    (folder / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/test.jsonl\n"
        "output_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{question}}'\ndoc_to_choice: ['1', '2']\n"
        f"doc_to_target: 0\n{extra}"
    )
    return TaskSpec("own", "acc,none")


def drawing_task(folder: Path) -> TaskSpec:
    spec = own_task(folder, "process_docs: !function drawing.shuffled\n")
    (folder / "drawing.py").write_text(
        "import random\n\ndef shuffled(docs):\n    return docs.select(random.sample(range(len(docs)), len(docs)))\n"
    )
    return spec


def test_a_task_that_draws_while_it_is_built_is_not_kept(tmp_path):
    spec = drawing_task(tmp_path / "own")
    one = build(tmp_path / "a", spec, (tmp_path / "own",))
    assert build(tmp_path / "b", spec, (tmp_path / "own",)) is not one


def test_a_changed_task_file_is_read_again(tmp_path):
    spec = own_task(tmp_path / "own")
    one = build(tmp_path / "a", spec, (tmp_path / "own",))
    assert build(tmp_path / "b", spec, (tmp_path / "own",)) is one
    own_task(tmp_path / "own", "target_delimiter: '>'\n")
    two = build(tmp_path / "c", spec, (tmp_path / "own",))
    assert two.config.target_delimiter == ">"


def test_a_kept_group_leaves_the_generators_where_a_fresh_one_does(tmp_path):
    """lm-eval draws an unused task id whenever it adds a task to a group."""
    folder = tmp_path / "own"
    own_task(folder)
    (folder / "group.yaml").write_text("group: lone\ntask: [own]\naggregate_metric_list:\n- metric: acc\n")
    states = []
    for name in ("fresh", "kept"):
        random.seed(1)
        build(tmp_path / name, TaskSpec("lone", "acc,none"), (folder,))
        states.append(Generators.capture().python)
        assert len(tasks._kept) == 1
    assert states[0] == states[1]


def test_tasks_are_built_in_the_state_that_the_loaded_model_left(tmp_path):
    """lm-eval's command seeds, loads the model and builds the task; here it seeds again after the model is loaded."""
    spec = drawing_task(tmp_path / "own")
    orders = []
    for number, seed in enumerate((1, 2, 1)):
        (plan,) = plan_tasks([spec], Catalog((tmp_path / "own",)))
        loader = TaskLoader(tmp_path / str(number), plan, {})
        random.seed(seed)
        loader.start_from(Generators.capture())
        random.seed(99)
        orders.append([doc["question"] for doc in loader.manager.load(["own"])["tasks"]["own"].task_docs])
    assert orders[0] == orders[2] != orders[1]


def test_tasks_of_an_earlier_job_are_forgotten(tmp_path):
    three = plan_tasks(_world.three_tasks(_world.make_data(tmp_path / "data")), Catalog())
    for number, plan in enumerate([*three, three[-1]]):  # a first import may draw random numbers; then nothing is kept
        TaskLoader(tmp_path / str(number), plan, {}).build()
    tasks.forget_all_but(three[1:])
    assert set(tasks._kept) == {plan.key for plan in three[1:]}


def test_counting_documents_preserves_the_generators(tmp_path):
    spec = drawing_task(tmp_path / "own")
    (plan,) = plan_tasks([spec], Catalog((tmp_path / "own",)))
    random.seed(1)
    before = Generators.capture()
    assert TaskLoader(tmp_path / "files", plan, {}).count_documents() == 5
    assert Generators.capture() == before


@pytest.mark.parametrize(
    ("place", "kind"),
    [("itself", "pipe"), ("itself", "device"), ("itself", "missing"), ("included", "pipe"), ("included", "device")],
)
def test_a_task_file_that_never_ends_is_not_read(place, kind, tmp_path):
    (tmp_path / "tasks").mkdir()
    odd = tmp_path / "tasks" / "own.yaml" if place == "itself" else tmp_path / "common"
    if place == "included":
        (tmp_path / "tasks" / "own.yaml").write_text("task: own\ninclude: ../common\n")
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero" if kind == "device" else tmp_path / "none")
    with pytest.raises(TaskError, match=str(odd)):
        Catalog((tmp_path / "tasks",)).find("own")


MEMBER = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {data}/gsm8k/train.jsonl, test: {data}/gsm8k/test.jsonl}}}}
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: '{{{{question}}}}'
doc_to_choice: ['1', '2']
doc_to_target: 0
metric_list:
- {{metric: acc, higher_is_better: true, aggregation: mean}}
"""


def group(folder: Path, data: Path, shots: int | None) -> Path:
    """Write a group of two tasks, of which the second has examples of its own."""
    folder.mkdir()
    for name in ("one", "other"):
        own = f"num_fewshot: {shots}\n" if name == "other" and shots is not None else ""
        (folder / f"{name}.yaml").write_text(MEMBER.format(name=name, data=data) + own)
    (folder / "both.yaml").write_text("group: both\ntask: [one, other]\naggregate_metric_list:\n- metric: acc\n")
    return folder


def shots_of(output: Path, task: str, name: str) -> list[str]:
    """Return the prompt of each item up to its own question."""
    lines = _world.samples_of(output)[f"{task}/samples_{name}.jsonl"].splitlines()
    prompts = [json.loads(line)["arguments"]["gen_args_0"]["arg_0"] for line in lines]
    return [prompt.rpartition("\n\n")[0] for prompt in prompts]


def test_first_examples_are_the_same_for_every_item(model, data, tmp_path):
    for spec in _world.three_tasks(data, limit=4)[:2]:
        for name, first in (("sampled", False), ("first", True)):
            _world.score(model, (replace(spec, first_shots=first),), tmp_path / name)
        assert len(set(shots_of(tmp_path / "sampled", spec.task, spec.task))) > 1
        (prompt,) = set(shots_of(tmp_path / "first", spec.task, spec.task))
    rows = (data / "gsm8k" / "train.jsonl").read_text().splitlines()[:3]
    assert all(json.loads(row)["question"] in prompt for row in rows)


def test_first_examples_of_a_group_are_those_of_each_task(model, data, tmp_path):
    folder = group(tmp_path / "tasks", data, None)
    spec = TaskSpec("both", "acc,none", num_fewshot=3, limit=4)
    for name, first in (("sampled", False), ("first", True)):
        _world.score(model, (replace(spec, first_shots=first),), tmp_path / name, task_dirs=(folder,))
    for member in ("one", "other"):
        assert len(set(shots_of(tmp_path / "sampled", "both", member))) > 1
        assert len(set(shots_of(tmp_path / "first", "both", member))) == 1


def test_a_group_with_another_number_of_examples_is_another_task(model, data, tmp_path):
    folder = group(tmp_path / "tasks", data, None)
    for shots in (1, 3):
        spec = TaskSpec("both", "acc,none", num_fewshot=shots, limit=2)
        _world.score(model, (spec,), tmp_path / str(shots), task_dirs=(folder,))
        assert {text.count("\n\n") for text in shots_of(tmp_path / str(shots), "both", "one")} == {shots - 1}


def test_first_examples_are_refused_where_there_are_none(data, tmp_path):
    words = r"task '(truthfulqa_mc2|both|winogrande)' has no examples in its prompts, so `fewshot: first_n`"
    winogrande, _, truthfulqa = _world.three_tasks(data)
    without = group(tmp_path / "without", data, None)
    for spec in (truthfulqa, replace(winogrande, num_fewshot=0), TaskSpec("both", "acc,none")):
        with pytest.raises(TaskError, match=words):
            _world.inspect(replace(spec, first_shots=True), task_dirs=(without,))
    own = group(tmp_path / "with", data, 2)
    assert _world.inspect(TaskSpec("both", "acc,none", first_shots=True), task_dirs=(own,))
    _world.inspect(replace(winogrande, first_shots=True))
