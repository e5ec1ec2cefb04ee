"""Requests are built once, and kept ones are those that lm-eval builds."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from evolve.engines.evaluation import encoding, promptfiles, prompts, tasks, tokens
from evolve.engines.evaluation.catalog import Catalog
from evolve.engines.evaluation.prompts import kept_prompts
from evolve.engines.evaluation.tables import write_table
from evolve.engines.evaluation.taskfiles import plan_tasks
from evolve.engines.evaluation.tasks import TaskLoader, is_reusable
from evolve.engines.protocols import EvaluateResult, TaskSpec
from evolve.run.prompts import share_prompts

from . import _world

ROLLING = (
    "task: rolling\noutput_type: loglikelihood_rolling\ntest_split: test\ndoc_to_text: ''\n"
    "doc_to_target: '{{question}}'\nmetric_list:\n- metric: word_perplexity\n"
)
LAST_WORD = (
    "task: last\noutput_type: loglikelihood\ntest_split: test\nfewshot_split: test\nnum_fewshot: 2\nrepeats: 2\n"
    "doc_to_text: '{{question}} '\ndoc_to_target: '{{answer}}'\nmetric_list:\n- metric: acc\n"
)
GROUP = "group: pair\ntask: [rolling, last]\n"


@pytest.fixture
def own_tasks(tmp_path) -> Path:
    """Write two tasks and their group."""
    folder = tmp_path / "tasks"
    _world.write_lines(folder / "test.jsonl", _world.gsm8k_items(6, 0))
    data = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder}/test.jsonl\n"
    for name, text in {"rolling": ROLLING + data, "last": LAST_WORD + data, "pair": GROUP}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def _new_process() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    """Forget what a process keeps."""
    tasks._kept.clear()
    prompts._kept.clear()
    tokens._kept.clear()


def build(place: Path, spec: TaskSpec, folder: Path | None, task_dirs=(), **options) -> list:
    """Return the requests of a task, built or kept."""
    (plan,) = plan_tasks([spec], Catalog(task_dirs))
    place.mkdir(exist_ok=True)
    made = []
    with kept_prompts(7, folder, is_reusable) as built:
        for task in TaskLoader(place / str(len(list(place.iterdir()))), plan, {}).build().values():
            task.set_fewshot_seed(7)
            task.build_all_requests(limit=spec.limit, rank=0, world_size=1, **options)
            made += task.instances
    assert folder or not built
    for stem, table in built.items():
        write_table(folder, stem, table)
    return made


def score(checkpoint: Path, specs: tuple[TaskSpec, ...], output: Path, folders: dict[str, Path]) -> EvaluateResult:
    """Evaluate, and move the built prompts as a run does."""
    result = _world.score(checkpoint, specs, output, prompts=folders)
    for task, folder in folders.items():
        share_prompts(output / task, folder)
    return result


def plainly(place: Path, spec: TaskSpec, task_dirs=(), **options) -> list:
    """Return the requests as lm-eval builds them."""
    (plan,) = plan_tasks([spec], Catalog(task_dirs))
    place.mkdir()
    made = []
    for task in TaskLoader(place / "plain", plan, {}).build().values():
        task.set_fewshot_seed(7)
        task.build_all_requests(limit=spec.limit, rank=0, world_size=1, **options)
        made += task.instances
    return made


def refuse(*_, **__):
    raise AssertionError("prompts are built again")


@pytest.fixture
def no_building(monkeypatch):
    """Return a function that lets every later building of a prompt fail."""
    return lambda: monkeypatch.setattr(ConfigurableTask, "fewshot_context", refuse)


def specs(data: Path) -> dict[str, TaskSpec]:
    own = {name: TaskSpec(name, "acc,none", limit=4) for name in ("rolling", "last", "pair")}
    return {spec.task: spec for spec in _world.three_tasks(data, limit=5)} | own


@pytest.mark.parametrize("name", ["winogrande", "gsm8k", "truthfulqa_mc2", "rolling", "last", "pair"])
def test_kept_requests_equal_those_that_lm_eval_builds(name, data, own_tasks, tmp_path, no_building):
    spec, folder = specs(data)[name], tmp_path / "kept"
    expected = plainly(tmp_path / "theirs", spec, (own_tasks,))
    forget()
    first = build(tmp_path / "ours", spec, folder, (own_tasks,))
    no_building()
    same_process = build(tmp_path / "ours", spec, folder, (own_tasks,))
    forget()
    new_process = build(tmp_path / "ours", spec, folder, (own_tasks,))

    assert expected
    assert first == same_process == new_process == expected
    assert [(type(one.arguments), one.metadata) for one in new_process] == [
        (type(one.arguments), one.metadata) for one in expected
    ]
    options = [id(one.arguments[1]) for one in new_process if isinstance(one.arguments[-1], dict)]
    assert len(set(options)) == len(options)


def test_longer_lists_serve_shorter_ones_and_shorter_ones_are_replaced(data, tmp_path, no_building):
    gsm = specs(data)["gsm8k"]
    folder, place = tmp_path / "kept", tmp_path / "built"
    build(place, dataclasses.replace(gsm, limit=2), folder)
    forget()
    four = build(place, dataclasses.replace(gsm, limit=4), folder)
    assert len(four) == 4
    assert len(list(folder.iterdir())) == 1
    no_building()
    forget()
    assert build(place, dataclasses.replace(gsm, limit=3), folder) == four[:3]
    with pytest.raises(AssertionError, match="built again"):
        build(place, dataclasses.replace(gsm, limit=None), folder)


def test_a_list_of_all_documents_serves_any_limit(data, tmp_path, no_building):
    gsm = dataclasses.replace(specs(data)["gsm8k"], limit=None)
    every = build(tmp_path / "built", gsm, tmp_path / "kept")
    no_building()
    forget()
    assert build(tmp_path / "built", gsm, tmp_path / "kept") == every
    assert build(tmp_path / "built", dataclasses.replace(gsm, limit=100), tmp_path / "kept") == every


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif how == "changed":
        file.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "folder":
        file.unlink()
        file.mkdir()
    else:
        import hashlib

        import pyarrow
        from pyarrow import parquet

        stem = file.name.rpartition("-")[0]
        parquet.write_table(pyarrow.table({"item": [1]}), file)
        file.rename(file.with_name(f"{stem}-{hashlib.sha256(file.read_bytes()).hexdigest()[:32]}.parquet"))


@pytest.mark.parametrize("how", ["truncated", "changed", "empty", "folder", "foreign"])
def test_damaged_files_are_ignored_with_a_warning_and_written_anew(how, data, tmp_path, caplog, no_building):
    gsm, folder = specs(data)["gsm8k"], tmp_path / "kept"
    expected = build(tmp_path / "built", gsm, folder)
    (file,) = folder.iterdir()
    damage(file, how)
    forget()
    assert build(tmp_path / "built", gsm, folder) == expected
    assert "is ignored and written anew" in caplog.text
    if how == "folder":
        return
    no_building()
    forget()
    caplog.clear()
    assert build(tmp_path / "built", gsm, folder) == expected
    assert not caplog.text


def test_a_folder_that_cannot_be_used_only_costs_time(data, tmp_path, caplog):
    gsm = specs(data)["gsm8k"]
    expected = plainly(tmp_path / "theirs", gsm)
    (tmp_path / "file").touch()
    assert build(tmp_path / "built", gsm, tmp_path / "file" / "kept") == expected
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    forget()
    assert build(tmp_path / "built", gsm, tmp_path / "link") == expected
    assert "not kept for later evaluations" in caplog.text
    assert not list((tmp_path / "elsewhere").iterdir())


def test_prompts_that_draw_from_the_global_generators_are_built_for_each_model(own_tasks, tmp_path):
    (own_tasks / "last.yaml").write_text(
        (own_tasks / "last.yaml").read_text().replace("'{{question}} '", "!function draws.text")
    )
    (own_tasks / "draws.py").write_text("import random\ndef text(doc):\n    return f'{random.random()} '\n")
    spec = TaskSpec("last", "acc,none")
    built = []
    for seed in (1, 2):
        random.seed(seed)
        built.append(build(tmp_path / "built", spec, tmp_path / "kept", (own_tasks,)))
    assert built[0] != built[1]
    assert not (tmp_path / "kept").exists()


def test_prompts_that_change_their_document_are_built_for_each_model(own_tasks, tmp_path):
    """lm-eval hashes the document of a request, as the prompt's function has left it."""
    (own_tasks / "last.yaml").write_text(
        (own_tasks / "last.yaml").read_text().replace("'{{question}} '", "!function changes.text")
    )
    (own_tasks / "changes.py").write_text("def text(doc):\n    doc['more'] = 1\n    return 'x'\n")
    spec = TaskSpec("last", "acc,none")
    expected = plainly(tmp_path / "theirs", spec, (own_tasks,))
    for _ in range(2):
        assert build(tmp_path / "built", spec, tmp_path / "kept", (own_tasks,)) == expected
    assert expected[0].doc["more"] == 1


def chat(template: str, **more):
    """Return the options of lm-eval for a model whose tokenizer has a chat template."""
    from transformers import PreTrainedTokenizerFast

    lm = object.__new__(HFLM)
    lm.tokenizer = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), chat_template=template)
    lm.chat_template_args = {}
    return {"apply_chat_template": True, "chat_template": lm.apply_chat_template, **more}


def _tokenizer():
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))


TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def test_each_chat_template_has_its_own_prompts(data, tmp_path, no_building):
    gsm = specs(data)["gsm8k"]
    variants = [{}, chat(TEMPLATE), chat(TEMPLATE + "!"), chat(TEMPLATE, fewshot_as_multiturn=True)]
    expected = [plainly(tmp_path / str(number), gsm, **options) for number, options in enumerate(variants)]
    kept = tmp_path / "kept"
    assert [build(tmp_path / "built", gsm, kept, **options) for options in variants] == expected
    no_building()
    forget()
    assert [build(tmp_path / "built", gsm, kept, **options) for options in variants] == expected
    assert len({str(prompt[0].arguments) for prompt in expected}) == len(variants)


def test_a_chat_template_with_the_date_is_applied_for_each_model(data, tmp_path):
    gsm = specs(data)["gsm8k"]
    dated = chat("{{ strftime_now('%Y') }}" + TEMPLATE)
    assert build(tmp_path / "built", gsm, tmp_path / "kept", **dated)
    assert not (tmp_path / "kept").exists()


def test_documents_that_were_rendered_by_the_check_are_not_built_again(model, data, tmp_path, no_building):
    three = _world.three_tasks(data, limit=3)
    (tmp_path / "expected").mkdir()
    expected = _world.score(model, three, tmp_path / "expected")
    forget()
    _world.inspect(*three, seed=7)
    no_building()
    assert _world.score(model, three, tmp_path / "ours").scores == expected.scores
    assert _world.samples_of(tmp_path / "ours") == _world.samples_of(tmp_path / "expected")


def test_a_second_process_neither_builds_nor_encodes_and_has_the_same_samples(
    model, other_model, data, tmp_path, monkeypatch
):
    three = _world.three_tasks(data, limit=4)
    folders = {spec.task: tmp_path / "kept" / spec.task for spec in three}
    plain = _world.score(other_model, three, tmp_path / "plain")
    forget()
    score(model, three, tmp_path / "first", folders)
    forget()
    monkeypatch.setattr(ConfigurableTask, "fewshot_context", refuse)
    encoded: list[str] = []
    encode = HFLM.tok_encode
    monkeypatch.setattr(
        HFLM, "tok_encode", lambda lm, string, *a, **k: (encoded.append(string), encode(lm, string, *a, **k))[1]
    )
    monkeypatch.setattr(encoding.Encoder, "_batch", lambda _, strings: refuse() if strings else [])
    kept = _world.score(other_model, three, tmp_path / "second", prompts=folders)

    asked = {
        text
        for task in folders
        for row in _world.prompts(tmp_path / "second", task)
        for context, more in (one.values() for one in row.values())
        for text in (context, f"{context}{more}")
    }
    assert asked
    assert not asked.intersection(encoded)
    assert kept.scores == plain.scores
    assert _world.samples_of(tmp_path / "second") == _world.samples_of(tmp_path / "plain")


def test_chosen_items_have_the_kept_prompts_of_a_full_run(model, data, tmp_path, no_building):
    wino = _world.three_tasks(data)[0]
    folders = {"winogrande": tmp_path / "kept"}
    score(model, (wino,), tmp_path / "full", folders)
    forget()
    no_building()
    some = dataclasses.replace(wino, items={"winogrande": (1, 5)})
    _world.score(model, (some,), tmp_path / "some", prompts=folders)
    full, chosen = (_world.prompts(tmp_path / name, "winogrande") for name in ("full", "some"))
    assert chosen == [full[1], full[5]]


def test_tables_of_impossible_requests_are_refused():
    def table(request):
        return promptfiles.prompts_table(promptfiles.Prompts({0: (request,)}, complete=True))

    request = promptfiles.Request("generate_until", 0, ("a",), json.dumps({"until": []}))
    for wrong in ({"kind": "delete"}, {"options": "[]"}, {"options": "{"}):
        with pytest.raises(ValueError, match=r"another form|Expecting|property name"):
            promptfiles.prompts_of(table(dataclasses.replace(request, **wrong)))
    assert promptfiles.prompts_of(table(request)).documents == {0: (request,)}


def test_requests_with_other_arguments_than_text_are_not_kept():
    def taken(*arguments):
        instance = SimpleNamespace(doc_id=0, arguments=arguments, request_type="loglikelihood", idx=0)
        return prompts._taken([instance], complete=True)

    assert taken("a", "b") is not None
    for wrong in (("a", 1), ("a", "\ud800"), ("a", {"x": {1}}), ({"x": 1},), ("a", "b", "c")):
        assert taken(*wrong) is None


def test_the_kept_files_may_be_deleted_at_any_time(model, data, tmp_path):
    gsm = specs(data)["gsm8k"]
    folders = {"gsm8k": tmp_path / "kept"}
    first = score(model, (gsm,), tmp_path / "first", folders)
    assert {path.name.partition("-")[0] for path in folders["gsm8k"].iterdir()} == {"prompts", "tokens"}
    shutil.rmtree(folders["gsm8k"])
    second = score(model, (gsm,), tmp_path / "second", folders)
    assert second.scores == first.scores
    assert len(list(folders["gsm8k"].iterdir())) == 2
