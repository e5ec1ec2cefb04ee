"""Everything that a task reads is found: its facts name each file, and the revision of data from the Hub."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import datasets
import pytest
import yaml

from evolve.engines.evaluation import evaluate, reads
from evolve.engines.evaluation.catalog import Catalog
from evolve.engines.evaluation.taskfiles import plan_tasks
from evolve.engines.protocols import EvaluateJob, TaskFacts, TaskSpec
from evolve.errors import TaskError

from . import _world

OWN = TaskSpec("own", "acc,none")
COMMIT, OTHER = "a" * 40, "b" * 40


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def write_task(folder: Path, data: str, extra: str = "", name: str = "own") -> Path:
    return write(
        folder / f"{name}.yaml",
        f"task: {name}\n{data}\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: '{{{{question}}}}'\n"
        f"doc_to_choice: ['1', '2']\ndoc_to_target: 0\nmetric_list: [{{metric: acc}}]\n{extra}\n",
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Make a folder for tasks, and data outside it; return their parent."""
    _world.write_lines(tmp_path / "data" / "test.jsonl", _world.gsm8k_items(5, 0))
    (tmp_path / "tasks").mkdir()
    return tmp_path


def local(place: Path) -> str:
    return f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {place}/data/test.jsonl}}}}"


def facts_of(place: Path, *, trusted: bool = True, **options: object) -> TaskFacts:
    facts = _world.inspect(OWN, task_dirs=(place / "tasks",), trust_task_code=trusted, **options)
    return facts["own"]


def reads_of(place: Path) -> set[str]:
    """Return the files that the task reads, without modules that other tests of this process have imported."""
    return {str(path.relative_to(place)) for path in facts_of(place).reads if path.is_relative_to(place)}


def test_included_files_are_read(place):
    write(place / "common" / "deep.yaml", local(place))
    write(place / "common" / "base.yaml", "include: deep.yaml")
    write_task(place / "tasks", "include: ../common/base.yaml")
    assert reads_of(place) == {"tasks/own.yaml", "common/base.yaml", "common/deep.yaml", "data/test.jsonl"}


@pytest.mark.parametrize(
    "data",
    [
        "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {0}/data/test.jsonl}}}}",
        "dataset_path: json\ndataset_kwargs: {{data_files: {{test: [{0}/data/test.jsonl]}}}}",
        "dataset_path: json\ndataset_kwargs: {{data_files: {{test: '{0}/data/*.jsonl'}}}}",
        "dataset_path: json\ndataset_kwargs: {{data_dir: {0}/data}}",
        "dataset_path: {0}/data",
    ],
    ids=["file", "list", "glob", "data_dir", "folder"],
)
def test_data_files_are_read_also_from_the_cache(place, data):
    write_task(place / "tasks", data.format(place))
    for _ in range(2):
        assert reads_of(place) == {"tasks/own.yaml", "data/test.jsonl"}


def test_a_replaced_data_file_of_a_task_is_read_again_even_with_an_equal_time(place):
    write_task(place / "tasks", f"dataset_path: {place}/data", f"process_docs: !function {place}/code.seen")
    write(place / "code.py", "def seen(docs):\n    raise ValueError(docs[0]['question'][:3])\n")
    file = place / "data" / "test.jsonl"
    before = file.stat()
    with pytest.raises(TaskError) as first:
        facts_of(place)
    file.write_text(file.read_text().replace('"question": "', '"question": "New'))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(TaskError) as second:
        facts_of(place)
    assert str(first.value) != str(second.value)
    assert "ValueError: New" in str(second.value)


def test_modules_and_what_they_read_are_read(place, monkeypatch):
    monkeypatch.syspath_prepend(place / "library")
    write(
        place / "library" / "helping_here.py", "from pathlib import Path\nWORD = Path(__file__).with_name('word.txt')\n"
    )
    write(place / "library" / "late_here.py", "LATE = 1\n")
    write(place / "library" / "word.txt", "x")
    write(place / "code" / "listed.txt", "1")
    write(place / "code" / "answers.csv", "1")
    write(
        place / "code" / "own.py",
        """
        from pathlib import Path
        import helping_here

        HERE = Path(__file__).parent
        LISTED = (HERE / "listed.txt").read_text()

        def text(doc):
            return doc["question"] + helping_here.WORD.read_text()

        def results(doc, results):
            import late_here
            return {"acc": float((HERE / "answers.csv").read_text()) + late_here.LATE}
        """,
    )
    extra = f"doc_to_text: !function {place}/code/own.text\nprocess_results: !function {place}/code/own.results"
    write_task(place / "tasks", local(place), extra)
    expected = {"code/own.py", "code/listed.txt", "code/answers.csv", "library/helping_here.py", "library/word.txt"}
    expected |= {"library/late_here.py", "tasks/own.yaml", "data/test.jsonl"}
    assert reads_of(place) == expected
    assert reads_of(place) == expected  # although Python imports a module once
    assert not list(place.rglob("__pycache__"))


def test_data_that_a_function_makes_are_read(place):
    write(place / "code" / "rows.json", json.dumps({"question": ["a", "b"]}))
    write(
        place / "code" / "making.py",
        """
        import json
        from pathlib import Path
        from datasets import Dataset

        def made(**options):
            return {"test": Dataset.from_dict(json.loads(Path(__file__).with_name("rows.json").read_text()))}
        """,
    )
    write_task(place / "tasks", f"custom_dataset: !function {place}/code/making.made")
    assert reads_of(place) == {"tasks/own.yaml", "code/making.py", "code/rows.json"}
    assert facts_of(place).unidentified is None


@pytest.mark.parametrize(
    ("made", "read"),
    [
        ("rows.map(lambda row: {'answer': answer()})", "answers.json"),
        ("rows.filter(lambda row: answer() < 2)", "answers.json"),
        ("datasets.Dataset.from_generator(generated)", "answers.json"),
        ("datasets.Dataset.from_json(str(HERE / 'rows.jsonl'))", "rows.jsonl"),
    ],
    ids=["map", "filter", "from_generator", "from_json"],
)
def test_derived_data_are_made_again(place, made, read):
    write_task(place / "tasks", local(place), f"process_docs: !function {place}/code/own.docs")
    write(place / "code" / "rows.jsonl", '{"question": "x"}\n')
    write(
        place / "code" / "own.py",
        f"""
        import json
        from pathlib import Path

        import datasets

        HERE = Path(__file__).parent

        def answer():
            return json.loads((HERE / "answers.json").read_text())

        def generated():
            yield {{"question": "x", "answer": answer()}}

        def docs(rows):
            return {made}
        """,
    )
    for answer in ("0", "1"):
        write(place / "code" / "answers.json", answer)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            assert f"code/{read}" in pool.submit(reads_of, place).result()


def test_a_saved_data_set_is_read_with_its_rows(place):
    from datasets import Dataset, DatasetDict

    DatasetDict({"test": Dataset.from_dict({"question": ["a", "b"]})}).save_to_disk(place / "saved")
    write(
        place / "loading.py",
        f"import datasets\ndef made(**options):\n    return datasets.load_from_disk({str(place / 'saved')!r})\n",
    )
    write_task(place / "tasks", f"custom_dataset: !function {place}/loading.made")
    assert {name for name in reads_of(place) if name.endswith(".arrow")} == {"saved/test/data-00000-of-00001.arrow"}


@pytest.mark.parametrize(
    "read",
    [
        "parquet.read_table(FILE)",
        "parquet.ParquetFile(FILE).read()",
        "pandas.read_parquet(FILE)",
        "pyarrow.dataset.dataset(FILE).to_table()",
        "pyarrow.dataset.dataset(os.path.dirname(FILE)).to_table()",
        "pyarrow.memory_map(FILE).read()",
        "pyarrow.csv.read_csv(FILE.replace('parquet', 'csv'))",
    ],
)
def test_what_pyarrow_reads_is_read(place, read):
    import pyarrow
    from pyarrow import csv, parquet

    table = pyarrow.table({"answer": [1, 2]})
    for kind, save in (("parquet", parquet.write_table), ("csv", csv.write_csv)):
        (place / kind).mkdir()
        save(table, place / kind / f"answers.{kind}")
    write(
        place / "code.py",
        f"""
        import os
        import pandas, pyarrow.csv, pyarrow.dataset
        from pyarrow import parquet

        FILE = {str(place / "parquet" / "answers.parquet")!r}

        def seen(docs):
            {read}
            return docs
        """,
    )
    write_task(place / "tasks", local(place), f"process_docs: !function {place}/code.seen")
    assert ("csv/answers.csv" if "csv" in read else "parquet/answers.parquet") in reads_of(place)


@pytest.mark.parametrize("at_import", [True, False])
def test_python_that_asks_a_server_makes_the_score_unshared(place, at_import, monkeypatch):
    monkeypatch.setattr(reads, "_asked", {})
    ask, nothing = "socket.getaddrinfo('localhost', 80)", "None"
    write_task(place / "tasks", local(place), f"process_docs: !function {place}/asking.asked")
    write(
        place / "asking.py",
        f"import socket\n{ask if at_import else nothing}\n"
        f"def asked(docs):\n    {nothing if at_import else ask}\n    return docs\n",
    )
    for _ in range(2):
        assert facts_of(place).unidentified == "its Python asks the server localhost"


def test_local_data_ask_no_server_where_the_hub_may_be_asked(place, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    asked: list[str] = []
    monkeypatch.setattr(datasets.load, "get_session", lambda: asked.append("asked"))
    write_task(place / "tasks", local(place))
    assert facts_of(place).documents is not None
    assert asked == []


# ------------------------------------------------------------------------------------------------------------ the Hub


def hub_data(monkeypatch: pytest.MonkeyPatch, cache: Path, commit: str | None, count: int = 3) -> None:
    """Put a data set into the cache of `datasets` as if it had been loaded from the Hub at a commit."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    rows = datasets.Dataset.from_list(_world.gsm8k_items(count, 0), split="test")
    folder = cache / "owner___facts" / "default" / "0.0.0" / (commit or "unknown")
    folder.mkdir(parents=True)
    rows.save_to_disk(folder / "saved")
    (arrow,) = (folder / "saved").glob("*.arrow")
    with (folder / "facts-test.arrow").open("wb") as file:
        import pyarrow as pa

        with pa.OSFile(str(arrow), "rb") as source:
            table = pa.ipc.open_stream(source).read_all()
        with pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    shutil.rmtree(folder / "saved")
    info = datasets.DatasetInfo(
        features=rows.features, builder_name="json", dataset_name="facts", config_name="default", version="0.0.0"
    )
    info.splits = datasets.SplitDict({"test": datasets.SplitInfo("test", num_examples=count, dataset_name="facts")})
    info.write_to_directory(str(folder))


def test_the_revision_of_cached_data_of_the_hub(place, monkeypatch):
    hub_data(monkeypatch, place / "cache", COMMIT)
    write_task(place / "tasks", "dataset_path: owner/facts")
    for complete in (False, True):
        found = facts_of(place, complete=complete)
        assert (found.documents, found.needs_hub, found.revision, found.unidentified) == (3, True, COMMIT, None)
        assert found.reads == (place / "tasks" / "own.yaml",)


def test_data_of_the_hub_without_a_known_revision_make_the_score_unshared(place, monkeypatch):
    hub_data(monkeypatch, place / "cache", None)
    write_task(place / "tasks", "dataset_path: owner/facts")
    found = facts_of(place, complete=True)
    assert (found.revision, found.unidentified) == (None, "the revision of its data from owner/facts is unknown")


def test_data_of_the_hub_that_are_not_here(place, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", place / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    write_task(place / "tasks", "dataset_path: owner/missing")
    found = facts_of(place)
    assert (found.documents, found.revision, found.unidentified) == (None, None, None)
    with pytest.raises(TaskError, match=r"cannot build the task 'own' .*owner/missing"):
        facts_of(place, complete=True)


def test_an_evaluation_refuses_another_revision_than_that_of_the_run(place, monkeypatch, model, tmp_path):
    hub_data(monkeypatch, place / "cache", COMMIT)
    write_task(place / "tasks", "dataset_path: owner/facts")
    for revision, fits in ((COMMIT, True), (OTHER, False)):
        output = tmp_path / revision
        output.mkdir()
        job = EvaluateJob(model, (replace(OWN, revision=revision),), output, task_dirs=(place / "tasks",))
        if fits:
            assert evaluate(job, _world.silent, "cpu").scores["own"].samples == 3
        else:
            with pytest.raises(TaskError, match=f"are at {COMMIT}, and the run began with {OTHER}"):
                evaluate(job, _world.silent, "cpu")


def test_data_of_the_hub_are_pinned_also_if_python_reads_another_repository(place, monkeypatch):
    hub_data(monkeypatch, place / "cache", COMMIT)
    other = write(place / "models--some--model" / "snapshots" / OTHER / "vocab.txt", "x")
    write(
        place / "code.py",
        f"from pathlib import Path\ndef seen(docs):\n    Path({str(other)!r}).read_text()\n    return docs\n",
    )
    write_task(place / "tasks", f"dataset_path: owner/facts\nprocess_docs: !function {place}/code.seen")
    found = facts_of(place, complete=True)
    assert found.revision == f"owner/facts@{COMMIT} some/model@{OTHER}"
    plan = plan_tasks([replace(OWN, revision=found.revision)], Catalog([place / "tasks"]))[0]
    assert yaml.safe_load(plan.texts["0000.yaml"])["dataset_kwargs"] == {"revision": COMMIT}


# -------------------------------------------------------------------------------------------------------------- trust


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ("doc_to_text: !function {}/code.text", "code.py"),
        ("fewshot_config: {{process_docs: !function {}/code.text}}", "code.py"),
        ("include: ../common.yaml", "code.py"),
        ("<<: {{include: ../common.yaml}}", "code.py"),
        ("class: !function {}/code.Own", "code.py"),
        ("doc_to_text: !function os.system", "os.py"),
    ],
)
def test_python_of_a_task_runs_only_if_it_is_trusted(place, extra, named):
    ran = place / "ran"
    write(place / "code.py", f"from pathlib import Path\nPath({str(ran)!r}).touch()\ndef text(doc):\n    return 'x'\n")
    write(place / "common.yaml", "doc_to_text: !function code.text\n")
    write_task(place / "tasks", local(place), extra.format(place))
    with pytest.raises(TaskError) as raised:
        facts_of(place, trusted=False)
    assert "of task 'own' runs the Python of" in str(raised.value)
    assert named in str(raised.value)
    assert str(raised.value).endswith("set evaluation.trust_task_code to true")
    assert ("common.yaml" if "common" in extra else "own.yaml") in str(raised.value)
    assert not ran.exists()


def test_a_member_of_a_group_needs_trust_too(place):
    write(place / "code.py", "def text(doc):\n    return 'x'\n")
    write_task(place / "tasks", local(place), f"doc_to_text: !function {place}/code.text")
    write(place / "tasks" / "group.yaml", "group: lone\ntask: [own]\naggregate_metric_list: [{metric: acc}]\n")
    group = TaskSpec("lone", "acc,none")
    with pytest.raises(TaskError, match=r"task 'lone' runs the Python of .*code.py"):
        _world.inspect(group, task_dirs=(place / "tasks",))
    assert _world.inspect(group, task_dirs=(place / "tasks",), trust_task_code=True)["lone"].documents == 5


def test_pickled_data_need_trust(place):
    write_task(place / "tasks", f"dataset_path: pandas\ndataset_kwargs: {{data_files: {{test: {place}/data/x.pkl}}}}")
    with pytest.raises(TaskError, match="pickled data"):
        facts_of(place, trusted=False)


def test_functions_of_lm_eval_itself_need_no_trust(data):
    assert _world.inspect(_world.three_tasks(data)[0])["winogrande"].documents == 12
