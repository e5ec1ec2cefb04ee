"""Rows of wrong results by changed inputs: a score, a kinship or a child that is not that of the files as they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from runs import events
from tests.faults.places import configure, task_of_questions, text, together, write
from tests.faults.table import RUN_FOLDER, Change, Fault, Place, Step, nothing, sparing
from tests.support import families

# --------------------------------------------------------------------------------------- inputs that a score depends on


def shown_again(name: str, before: Change, change: Change, *, models: tuple[str, ...] = ("A", "B")) -> Fault:
    """Return a row: a second run beside the first, after a change, must not take the scores of the first."""

    def scored_again(place: Place) -> None:
        scored = events(place.runs / "second", "model_evaluated")
        assert {event["model"] for event in scored} == {"A", "B", "model-1-1"}
        old = [event["model"] for event in scored if event["reused"] or event["reused_tasks"]]
        assert not [model for model in old if model in models], f"old scores of {old} are shown"

    first = Step(("run", "<config>", "--run-dir", "<run>"), before=before, code=0, changes=RUN_FOLDER)
    second = Step(
        ("run", "<config>", "--run-dir", "<runs>/second"), before=change, code=0, changes=RUN_FOLDER, after=scored_again
    )
    return Fault("wrong result", f"the score key misses {name}", "real", (first, second))


def own_task(**keys: Any) -> Change:
    """Return a change that adds a task of the user's own with yes-or-no questions in a folder outside `task_dirs`."""

    def change(place: Place) -> None:
        rows = [{"question": f"Is {number} even?", "label": number % 2} for number in range(8)]
        write(place.root / "outside" / "test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        task = task_of_questions("<root>/outside/test.jsonl") | {"doc_to_target": "{{label}}"} | keys
        shown = yaml.safe_dump({key: value for key, value in task.items() if value is not None}, sort_keys=False)
        functions = place.named(shown).replace("'!function ", "!function ").replace(".target'", ".target")
        write(place.family / "tasks" / "mine.yaml", functions)
        evaluation = {"evaluation__tasks": [{"task": "mine"}], "evaluation__datasets": {}}
        configure(**evaluation, evaluation__task_dirs=["./tasks"])(place)

    return change


def rows_reversed(path: str) -> Change:
    """Return a change that turns the labels of the items around."""

    def change(place: Place) -> None:
        file = Path(place.named(path))
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        turned = [row | {"label": 1 - row["label"]} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in turned))

    return change


def outside(name: str, content: str) -> Change:
    return lambda place: write(place.root / "outside" / name, place.named(content))


TRUSTED = configure(evaluation__trust_task_code=True)
FUNCTION = "def target(doc):\n    return doc['label']\n"
TURNED = "def target(doc):\n    return 1 - doc['label']\n"
HELPED = (
    "import importlib.util\n"
    "spec = importlib.util.spec_from_file_location('helper_of_mine', '<root>/outside/helper.py')\n"
    "helper = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(helper)\n"
    "def target(doc):\n    return helper.target(doc)\n"
)
OPENED = (
    "from pathlib import Path\nturned = int(Path('<root>/outside/turned.txt').read_text())\n"
    "def target(doc):\n    return abs(turned - doc['label'])\n"
)


def other_tokenizer(place: Place) -> None:
    """Number the tokens of the tokenizer in `words` in the opposite order."""
    path = place.family / "words" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    common = [token for token, number in sorted(vocabulary.items(), key=lambda entry: entry[1]) if number > 2]
    numbers = sorted((vocabulary[token] for token in common), reverse=True)
    vocabulary.update(dict(zip(common, numbers, strict=True)))
    path.write_text(json.dumps(content))


def words(place: Place) -> None:
    """Give the evaluation a tokenizer of its own."""
    (place.family / "words").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(place.family / "A" / name, place.family / "words" / name)
    configure(evaluation__model_args__tokenizer="<family>/words")(place)


def adapter(seed: int) -> Change:
    def change(place: Place) -> None:
        shutil.rmtree(place.family / "lora", ignore_errors=True)
        families.adapt(place.family / "lora", place.family / "base", seed=seed)
        configure(evaluation__model_args__peft="<family>/lora")(place)

    return change


def template(words_before: str) -> Change:
    content = f"{{% for m in messages %}}{words_before}{{{{ m['content'] }}}}{{% endfor %}}"
    return together(
        lambda place: write(place.family / "words" / "chat_template.jinja", content),
        configure(evaluation__apply_chat_template=True),
    )


def third(seed: int) -> Change:
    return lambda place: families.save(place.family / "third", seed=seed, near=place.family / "base")


def other_items(place: Place) -> None:
    path = place.family / "winogrande" / "train.jsonl"
    path.write_text(path.read_text().replace("Ann", "Eve"))


WITH_A_THIRD = """merge_method: linear
models:
  - {model: {{ parent_1 }}, parameters: {weight: 0.4}}
  - {model: {{ parent_2 }}, parameters: {weight: 0.3}}
  - {model: {model: {path: "<family>/third"}}, parameters: {weight: 0.3}}
dtype: {{ dtype }}
"""


def third_recipe(place: Place) -> None:
    text("three.yaml", place.named(WITH_A_THIRD))(place)
    configure(merge__recipe="./three.yaml")(place)


KEYS = (
    shown_again("the data files of a task", own_task(), rows_reversed("<root>/outside/test.jsonl")),
    shown_again(
        "a folder of data that a task names",
        together(own_task(dataset_path="<root>/outside", dataset_kwargs=None)),
        rows_reversed("<root>/outside/test.jsonl"),
    ),
    shown_again(
        "an included file",
        together(
            outside("common.yaml", "doc_to_target: '{{label}}'\n"),
            own_task(include="<root>/outside/common.yaml", doc_to_target=None),
        ),
        outside("common.yaml", "doc_to_target: '{{1 - label}}'\n"),
    ),
    shown_again(
        "a function in a folder outside the tasks",
        together(
            TRUSTED,
            outside("own.py", FUNCTION),
            outside("common.yaml", "doc_to_target: !function own.target\n"),
            own_task(include="<root>/outside/common.yaml", doc_to_target=None),
        ),
        outside("own.py", TURNED),
    ),
    shown_again(
        "a module that a function imports",
        together(
            TRUSTED,
            outside("helper.py", FUNCTION),
            lambda place: text("tasks/own.py", place.named(HELPED))(place),
            own_task(doc_to_target="!function own.target"),
        ),
        outside("helper.py", TURNED),
    ),
    shown_again(
        "a file that a function reads",
        together(
            TRUSTED,
            outside("turned.txt", "0"),
            lambda place: text("tasks/own.py", place.named(OPENED))(place),
            own_task(doc_to_target="!function own.target"),
        ),
        outside("turned.txt", "1"),
    ),
    shown_again("a tokenizer in model_args", words, other_tokenizer),
    shown_again("an adapter in model_args", adapter(1), adapter(2)),
    shown_again("a chat template in model_args", together(words, template("a")), template("b")),
    shown_again("a third model of a recipe", together(third(7), third_recipe), third(8), models=("model-1-1",)),
    shown_again("the data of a task", nothing, other_items),
)


def known(name: str, before: Change) -> Fault:
    """Return a row: without a change the second run takes the scores of the first."""

    def taken(place: Place) -> None:
        assert all(event["reused"] for event in events(place.runs / "second", "model_evaluated"))

    first = Step(("run", "<config>", "--run-dir", "<run>"), before=before, code=0, changes=RUN_FOLDER)
    second = Step(("run", "<config>", "--run-dir", "<runs>/second"), code=0, changes=RUN_FOLDER, after=taken)
    return Fault("wrong result", name, "real", (first, second))


SHARED = (
    known("equal scores of a task with data outside are computed twice", own_task()),
    known("equal scores with a tokenizer in model_args are computed twice", words),
)

# ----------------------------------------------------------------------------------------- inputs that change in a run


def changed(name: str, file: str, call: tuple[str, int], script: str, recorded: int) -> Fault:
    """Return a row: a file changes before the n-th call of an engine, and what the call gives is not recorded.

    Args:
        name: What changes.
        file: The file, which is restored before the run is resumed.
        call: The engine and the number of its call.
        script: Changes the file.
        recorded: The number of models that have been scored before.
    """

    engine, nth = call

    def keep(place: Place) -> None:
        shutil.copy2(place.named(file), place.root / "kept")

    def nothing_recorded(place: Place) -> None:
        assert len(events(place.run, "model_evaluated")) == recorded
        assert not events(place.run, "model_failed")
        assert not events(place.run, "step_retried")
        assert not (events(place.run, "kinship_measured") if engine == "measure" else [])
        assert not (events(place.run, "model_merged") if engine == "merge" else [])
        scores = list(place.runs.glob(".scores/[!.]*"))
        assert len(scores) == recorded

    def restore(place: Place) -> None:
        Path(place.named(file)).write_bytes((place.root / "kept").read_bytes())

    stopped = Step(
        ("run", "<config>", "--run-dir", "<run>"),
        before=keep,
        code=1,
        words=(file, "resume"),
        changes=(*RUN_FOLDER, "family/*"),
        hooks={engine: (nth, script)},
        after=nothing_recorded,
    )
    resumed = Step(("resume", "<run>"), before=restore, code=0, changes=RUN_FOLDER)
    return Fault("wrong result", f"{name} in a run", "real", (stopped, resumed))


DATA, WEIGHTS = "<family>/winogrande/validation.jsonl", "<family>/A/model.safetensors"
REVERSE = f"tac {DATA} > {DATA}.new && mv {DATA}.new {DATA}"
OVERWRITE = "cat <family>/B/model.safetensors > "
CHANGES = (
    changed("data are reversed", DATA, ("evaluate", 2), REVERSE, 1),
    changed("data are reversed and keep their time", DATA, ("evaluate", 2), f"cp -p {DATA} <root>/t && {REVERSE} "
            f"&& touch -r <root>/t {DATA} && rm <root>/t", 1),
    changed("weights are replaced before a merge", WEIGHTS, ("merge", 1), f"{OVERWRITE}{WEIGHTS}", 2),
    changed("weights are replaced before a kinship", WEIGHTS, ("measure", 1), f"{OVERWRITE}{WEIGHTS}", 0),
    changed("weights are replaced before a score", "<family>/B/model.safetensors", ("evaluate", 2),
            "cp -p <family>/B/model.safetensors <root>/t && cat <family>/A/model.safetensors > "
            "<family>/B/model.safetensors && touch -r <root>/t <family>/B/model.safetensors && rm <root>/t", 1),
    changed("the base is replaced before a kinship", "<family>/base/model.safetensors", ("measure", 1),
            f"{OVERWRITE}<family>/base/model.safetensors", 0),
    changed("a config.json changes before a score", "<family>/B/config.json", ("evaluate", 2),
            "sed -i s/1e-06/1e-02/ <family>/B/config.json", 1),
)  # fmt: skip

# ---------------------------------------------------------------------------------------------- a limit of file size


def no_model_failed(place: Place) -> None:
    if (place.run / "journal.jsonl").exists():
        assert not events(place.run, "model_failed")
        assert not events(place.run, "step_retried")


LIMITED = Fault(
    "wrong result",
    "a limit of file size counts against a child",
    "real",
    (
        Step(
            ("run", "<config>", "--run-dir", "<run>"),
            code=1,
            words=("disk", "evolve resume"),
            changes=RUN_FOLDER,
            limits={"FSIZE": 100_000},
            after=no_model_failed,
        ),
        Step(("run", "<config>", "--run-dir", "<run>"), code=0, changes=RUN_FOLDER, after=no_model_failed),
    ),
)


ROWS = (
    *sparing(
        KEYS,
        *(
            f"the score key misses {name}"
            for name in (
                "the data files of a task",
                "an included file",
                "a function in a folder outside the tasks",
                "a tokenizer in model_args",
                "an adapter in model_args",
                "a third model of a recipe",
            )
        ),
    ),
    *sparing(SHARED, "equal scores of a task with data outside are computed twice"),
    *sparing(
        CHANGES,
        "data are reversed and keep their time in a run",
        "weights are replaced before a kinship in a run",
        "weights are replaced before a merge in a run",
    ),
    LIMITED,
)
