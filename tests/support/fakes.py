"""Fast, deterministic engines for tests of the run.

Models are folders with safetensors files of a few numbers. A merge is the mean of the parents, a score is the share of
items that a model solves, which comes from the hash of the weights, and a kinship is computed. All functions are
module-level, so that a worker can import them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

from evolve.engines.checkpoints import hash_file
from evolve.engines.protocols import (
    ANSWERS_FILE,
    ITEMS_FILE,
    Engines,
    EvaluateJob,
    EvaluateResult,
    InspectModelsJob,
    InspectTasksJob,
    KinshipJob,
    KinshipResult,
    MergeJob,
    MergeResult,
    ModelFacts,
    PairKinship,
    PlanMergesJob,
    RehearseEvaluationJob,
    RehearseMergeJob,
    Report,
    TaskFacts,
    TaskScore,
    TaskSpec,
    task_folder,
)
from evolve.errors import EvaluationError, MergeError, RehearsalError, TaskError

SIZE = 24
ITEMS = 256  # of each task
_PLACES = {"alpha": 0, "beta": 1}  # position of a task's score in the hash of the weights


def write_model(folder: Path, seed: int, *, base: np.ndarray | None = None, scale: float = 0.3) -> np.ndarray:
    """Write a checkpoint with one tensor, whose values differ from `base` by a seeded draw; return the values."""
    draw = np.random.default_rng(seed).normal(size=(4, SIZE // 4)).astype(np.float32)
    values = draw if base is None else base + scale * draw
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"model.layers.0.mlp.weight": values}, folder / "model.safetensors")
    config = {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "num_hidden_layers": 1,
        "hidden_size": 4,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return values


def write_family(folder: Path, names: tuple[str, ...] = ("A", "B", "C"), *, seed: int = 0) -> Path:
    """Write a base, some foundations and a configuration for them; return the path of the configuration."""
    base = write_model(folder / "base", 1000 + seed)
    for number, name in enumerate(names):
        write_model(folder / name, 100 * seed + number, base=base)
    config = {
        "name": "fake",
        "base_model": "./base",
        "foundation_models": {name: f"./{name}" for name in names},
        "strategy": {"max_generations": 4, "stop_at_kinship": None},
        "merge": {"recipe": "slerp", "tokenizer": "base"},
        "evaluation": {"tasks": [{"task": "alpha"}, {"task": "beta"}]},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def _weights(folder: Path) -> np.ndarray:
    return load_file(folder / "model.safetensors")["model.layers.0.mlp.weight"]


def _inject(kind: str, subject: str) -> None:
    """Cause the faults of `EVOLVE_FAKE=<kind>:<subject>:<fault>[:<times>:<counter file>]`, joined by commas.

    The kind `unfit` makes the rehearsal of a model fail with the words "it is <fault>".
    """
    for fault in _faults(kind, subject):
        action, _, value = fault.partition("=")
        if action in _ACTIONS:
            _ACTIONS[action](Path(value))
        else:
            _cause(fault, subject)


def _faults(kind: str, subject: str) -> Iterator[str]:
    for entry in filter(None, os.environ.get("EVOLVE_FAKE", "").split(",")):
        wanted_kind, wanted, fault, times, counter = [*entry.split(":"), "", ""][:5]
        if wanted_kind != kind or wanted not in {subject, "*"}:
            continue
        if times:
            tally = Path(counter)
            passed = len(tally.read_text()) if tally.exists() else 0
            if passed >= int(times):
                continue
            tally.write_text("x" * (passed + 1))
        yield fault


def _rewrite(path: Path) -> None:
    """Change a file in place, without changing its size."""
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()) if path.suffix != ".safetensors" else _other(path))


def _other(path: Path) -> bytes:
    """Return a weight file of the same size with other numbers."""
    data = path.read_bytes()
    return data[:-4] + bytes([data[-4] ^ 1, *data[-3:]])


def _rewrite_and_keep_times(path: Path) -> None:
    times = path.stat()
    _rewrite(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _replace(path: Path) -> None:
    """Replace a file by another of the same size and times, as `rsync -t` or `cp -p` do."""
    times, other = path.stat(), path.with_name(".other")
    other.write_bytes(path.read_bytes())
    _rewrite(other)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def _cause(fault: str, subject: str) -> None:
    if fault == "refuse":
        raise MergeError(f"{subject} is refused") if "merge" in fault else EvaluationError(f"{subject} is refused")
    if fault == "unnamed":
        raise MergeError("no file /x\udcff")
    if fault == "input":
        raise TaskError(f"the data of {subject} are missing")
    if fault == "bug":
        raise LookupError(f"a bug about {subject}")
    if fault == "memory":
        raise MemoryError
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "killdriver":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if fault == "killboth":
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    if fault.startswith("exit"):
        os._exit(int(fault.removeprefix("exit")))
    if fault == "disk":
        raise OSError(28, "No space left on device", subject)
    if fault.startswith("sleep"):
        time.sleep(float(fault.removeprefix("sleep")))


def _put_link(words: Path) -> None:
    """Replace a folder by a link; the argument is `<folder>><target>`."""
    folder, _, target = str(words).partition(">")
    shutil.rmtree(folder)
    Path(folder).symlink_to(target)


def _fill(path: Path) -> None:
    """Extend a file until its disk is full."""
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


def _limit(size: Path) -> None:
    """Limit the size of the files that this process writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(str(size)), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


_ACTIONS: dict[str, Callable[[Path], object]] = {
    "rewrite": _rewrite,
    "rewrite-keeping-times": _rewrite_and_keep_times,
    "replace": _replace,
    "delete": Path.unlink,
    "add": lambda path: path.write_text("{}"),
    "touch": os.utime,
    "hardlink": lambda path: os.link(path, path.with_name(f".link-{time.time_ns()}")),
    "link": _put_link,
    "run": lambda command: subprocess.run(str(command), shell=True, check=True),
    "chmod": lambda path: path.chmod(0o600),
    "fill": _fill,
    "limit": _limit,
}
"""What `EVOLVE_FAKE=<kind>:<subject>:<action>=<value>` does before the call goes on, by name."""


def _count(kind: str, subject: str) -> None:
    """Record each call that began, so that a test can find repeated work."""
    tally = os.environ.get("EVOLVE_FAKE_TALLY")
    if tally:
        with Path(tally).open("a") as file:
            file.write(f"{kind} {subject}\n")


def merge(job: MergeJob, report: Report, device: str = "auto") -> MergeResult:
    name = job.output.name.removeprefix("merge-")
    _count("merge", name)
    report("merging", 0, 1)
    save_file(
        {"model.layers.0.mlp.weight": sum(_weights(p) for p in job.parents) / len(job.parents)},
        job.output / "model.safetensors",
    )
    _inject("merge", name)
    (job.output / "config.json").write_text((job.parents[0] / "config.json").read_text())
    files = {p.name: (p.stat().st_size, hash_file(p)) for p in job.output.iterdir()}
    report("merging", 1, 1)
    return MergeResult(bytes=sum(size for size, _ in files.values()), seconds=0.25, files=files)


def evaluate(job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
    name = job.output.name.removeprefix("evaluate-")
    _count("evaluate", name)
    report("scoring", 0, 1)
    values = {spec.task: _values(job.checkpoint, spec) for spec in job.tasks}
    for task, found in values.items():
        folder = job.output / task_folder(task)
        folder.mkdir()
        (folder / "results.json").write_text("{}")
        (folder / f"samples_{task_folder(task)}.jsonl").write_text("{}\n")
        _write_items(folder, task, found)
    _inject("evaluate", name)
    wishes = {"nan": float("nan"), "huge": 1.7e308}
    offset = next((wishes[wish] for wish in _faults("score", name)), 0.0)
    scores = {}
    digest = hashlib.sha256(_weights(job.checkpoint).tobytes()).digest()
    for spec in job.tasks:
        found = values[spec.task]
        error = 0.01 + digest[_PLACES.get(spec.task, 2) + 8] / 10000
        scores[spec.task] = TaskScore(spec.metric, offset + sum(found.values()) / len(found), error, len(found))
    report("scoring", 1, 1)
    seconds = dict.fromkeys(scores, 0.2)
    found = os.getpid() if job.batch_size == "auto" else job.batch_size  # each process finds another size
    return EvaluateResult(scores=scores, seconds=0.5, batch_size=found, task_seconds=seconds)


def _values(checkpoint: Path, spec: TaskSpec) -> dict[int, float]:
    """Return 1.0 for each asked item that a model solves, else 0.0.

    How many of all items it solves is a byte of the hash of its weights. Which these are depends on the difficulty of
    the items, which all models share, and on the model.
    """
    digest = hashlib.sha256(_weights(checkpoint).tobytes()).digest()
    common, own = np.random.default_rng([*spec.task.encode()]), np.random.default_rng([*digest])
    hardest_last = np.argsort(common.random(ITEMS) + 0.3 * own.random(ITEMS), kind="stable")
    solved = set(hardest_last[: digest[_PLACES.get(spec.task, 2)]].tolist())
    asked: Sequence[int] = range(ITEMS if spec.limit is None else min(spec.limit, ITEMS))
    return {item: float(item in solved) for item in (asked if spec.items is None else spec.items[spec.task])}


def _write_items(folder: Path, task: str, values: Mapping[int, float]) -> None:
    """Write the values of items as the engine does, and the items that were answered as the file of answers."""
    hashes = [hashlib.sha256(f"{task} {item}".encode()).hexdigest() for item in values]
    columns = {
        "task": pa.array([task] * len(values)),
        "item": pa.array(list(values), pa.int64()),
        "value": pa.array(list(values.values()), pa.float64()),
        "doc_hash": pa.array(hashes),
    }
    parquet.write_table(pa.table(columns), folder / ITEMS_FILE)
    parquet.write_table(pa.table({"request": hashes}), folder / ANSWERS_FILE)


def measure(job: KinshipJob, report: Report, device: str = "auto") -> KinshipResult:
    _count("measure", " ".join(sorted("-".join(sorted(pair)) for pair in job.pairs)))
    report("measuring", 0, 1)
    _inject("measure", "kinship")
    for a, b in job.pairs:
        _inject("measure", f"{a}-{b}")
    base = _weights(job.base).astype(np.float64).ravel()
    deltas = {name: _weights(path).astype(np.float64).ravel() - base for name, path in job.models.items()}
    return KinshipResult(pairs=tuple(_pair(a, b, deltas) for a, b in job.pairs), seconds=0.01)


def _pair(a: str, b: str, deltas: dict[str, np.ndarray]) -> PairKinship:
    x, y = deltas[a], deltas[b]
    return PairKinship(
        a,
        b,
        pcc=float(np.corrcoef(x, y)[0, 1]),
        cs=float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)),
        ed=float(np.linalg.norm(x - y)),
        parameters=SIZE,
    )


def inspect_models(job: InspectModelsJob, report: Report) -> dict[str, ModelFacts]:
    _inject("inspect", "*")
    return {name: ModelFacts(layers=1) for name in job.models}


def plan_merges(job: PlanMergesJob, report: Report) -> dict[str, tuple[()]]:
    return dict.fromkeys(job.recipes, ())


def rehearse_merge(job: RehearseMergeJob, report: Report, device: str = "auto") -> None:
    _inject("rehearse", job.template)


def rehearse_evaluation(job: RehearseEvaluationJob, report: Report, device: str = "auto") -> dict[str, TaskScore]:
    name = job.evaluation.checkpoint.name
    with tempfile.TemporaryDirectory():  # a killed worker leaves it
        _inject("rehearse", name)
    for wish in _faults("unfit", name):
        raise RehearsalError(f"it is {wish}", "evaluation.model_args = {}")
    value = next((float(wish) for wish in _faults("rehearsed", name)), 0.5)
    return {spec.task: TaskScore(spec.metric, value, None, 2) for spec in job.evaluation.tasks}


def inspect_tasks(job: InspectTasksJob, report: Report) -> dict[str, TaskFacts]:
    _inject("inspect", "*")
    return {spec.task: _facts(spec) for spec in job.tasks}


def _facts(spec: TaskSpec) -> TaskFacts:
    count = ITEMS if spec.limit is None else min(spec.limit, ITEMS)
    return TaskFacts(count, "multiple_choice", True, False, members={spec.task: count})


FAKE = Engines(
    merge=merge,
    evaluate=evaluate,
    measure=measure,
    inspect_models=inspect_models,
    plan_merges=plan_merges,
    rehearse_merge=rehearse_merge,
    rehearse_evaluation=rehearse_evaluation,
    inspect_tasks=inspect_tasks,
)
