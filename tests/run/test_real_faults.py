"""Driver and worker are killed while mergekit and lm-eval work; the resumed run has the same result."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from evolve.nursery import Family
from evolve.run.folder import RunFolder
from runs import Reference, environment, events, finished_work
from tests.conftest import TASKS, write_config

PATIENCE_S = 120.0
ITEMS, CHOICES = 12, 24  # requests of gsm8k, generated one at a time, and of winogrande, two per item
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def _evolve(*arguments: str | Path, **env: str) -> subprocess.Popen[str]:
    """Start the command with its real engines as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "evolve", *map(str, arguments)],
        env=environment(**OFFLINE, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Path:
    """Write a configuration with three foundations and one generation."""
    winogrande, gsm8k, _ = TASKS
    evaluation = {
        "tasks": [winogrande, gsm8k | {"generation_kwargs": {"max_gen_toks": 32}}],
        "datasets": {task: str(family.datasets[task]) for task in ("winogrande", "gsm8k")},
        "model_args": {"dtype": "float32"},
        "batch_size": 1,
        "limit": ITEMS,
    }
    strategy = {"name": "kinship", "top_k": 2, "max_generations": 1, "stop_at_kinship": None}
    path = tmp_path_factory.mktemp("faults") / "faults.yaml"
    return write_config(path, family, evaluation=evaluation, strategy=strategy)


@pytest.fixture(scope="module")
def reference(config: Path) -> Reference:
    run = config.parent / "reference" / "run"
    process = _evolve("run", config, "--run-dir", run)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert events(run, "run_stopped")[0]["reason"] == "budget"
    return Reference.of(run, run.parent / "no-tally")


# ------------------------------------------------------------------------------------------- killed between two steps


def _merged(run: Path) -> list[str]:
    return [event["model"] for event in events(run, "model_merged")]


def _evaluated(run: Path) -> list[str]:
    return [event["model"] for event in events(run, "model_evaluated")]


def _merge_without_event(run: Path) -> bool:
    return (run / "models" / "model-1-1" / "model.safetensors").exists() and not _merged(run)


def _event_missing_in_the_tree(run: Path) -> bool:
    return "model-1-1" in _evaluated(run) and "model-1-1" not in _evaluated_in_tree(run)


def _partly_shared_evaluation(run: Path) -> bool:
    begun = [path for path in (run.parent / ".scores").glob(".*") if path.name != ".locks"]
    return len(list(run.glob("evals/*"))) == 2 and len(_evaluated(run)) == len(begun) == 1


def _file_not_renamed(run: Path) -> bool:
    return len(list(run.rglob(".*.tmp"))) == 1 and 0 < len(_evaluated(run)) < 6


def _evaluated_in_tree(run: Path) -> set[str]:
    data = Reference.of(run, run.parent / "no-tally").tree
    return {node["id"] for node in data["nodes"] if node["status"] == "evaluated"}


@pytest.mark.parametrize(
    ("fault", "is_expected_state"),
    [
        ("store.before_rename:3", _partly_shared_evaluation),
        ("publish.after_rename:10", _merge_without_event),
        ("replace.after_fsync:17", _file_not_renamed),
        ("journal.after_write:10", _event_missing_in_the_tree),
    ],
    ids=["store", "merge", "file", "journal"],
)
def test_a_driver_killed_between_two_steps_resumes(
    fault: str, is_expected_state, tmp_path: Path, config: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    killed = _evolve("run", config, "--run-dir", run, EVOLVE_FAULT=fault)
    _, err = killed.communicate(timeout=PATIENCE_S)
    assert killed.returncode == -signal.SIGKILL, err
    assert is_expected_state(run), f"{fault} is no longer the intended point; count again"
    _resume(run, reference)


def _resume(run: Path, reference: Reference) -> str:
    """Resume, check that the result is the same and no work is repeated, and return the new part of the log."""
    before, stamps, said = finished_work(run), _stamps(run), (run / "run.log").stat().st_size
    process = _evolve("resume", run)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    _check(run, reference)
    assert stamps.items() <= _stamps(run).items()
    log = (run / "run.log").read_text()[said:]
    to_do = [work.split()[0] for work in finished_work(run) - before]
    assert len(_answers(log, "generate_until")) == to_do.count("evaluate")
    return log


def _check(run: Path, reference: Reference, *, retries: bool = True) -> None:
    reference.check(run, retries=retries)
    folder = RunFolder.open(run)
    assert folder.is_complete(folder.read_tree())  # the journal and the files agree


def _stamps(run: Path) -> dict[Path, tuple[int, int]]:
    """Return inode and modification time of each file of the finished merges and evaluations."""
    files = (path for folder in ("models", "evals") for path in run.glob(f"{folder}/[!.]*/*"))
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def _answers(log: str, kind: str) -> list[tuple[int, int]]:
    """Return the numbers of requests and of cached answers for each list of requests in a log."""
    found = re.findall(rf"\b{kind}: (\d+) requests, (\d+) of them cached", log)
    return [(int(requests), int(cached)) for requests, cached in found]


# ------------------------------------------------------------------------------------------ killed during an evaluation


@contextmanager
def _during_an_evaluation(config: Path, run: Path) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Start a driver and pause its worker while it generates, with cached answers of both tasks.

    Yield the driver, the worker's process id and the number of cached answers. If an evaluation ends before its worker
    is paused, the next one is paused.
    """
    driver = _evolve("run", config, "--run-dir", run)
    try:
        end, seen = time.monotonic() + PATIENCE_S, 0
        while driver.poll() is None and time.monotonic() < end:
            log = (run / "run.log").read_text() if (run / "run.log").exists() else ""
            begun = len(_answers(log, "loglikelihood"))
            if begun > seen and begun > len(_answers(log, "generate_until")):
                seen, worker = begun, _worker(driver.pid)
                known = _pause(worker, run)
                if known is not None:
                    yield driver, worker, known
                    return
            time.sleep(0.002)
        pytest.fail(f"no evaluation was caught; exit code of the driver: {driver.poll()}")
    finally:
        driver.kill()
        driver.communicate()


def _worker(driver: int) -> int:
    """Return the child process that is not the resource tracker."""
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    (worker,) = (int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
    return worker


def _pause(worker: int, run: Path) -> int | None:
    """Pause a worker when some but not all generated answers are cached; return their number, or None if it ended.

    Answers are written at most once a second, and a small evaluation takes less. So the worker runs for a short time
    and is paused for a second, in turn.
    """
    while (known := _known(run)) is not None and known < CHOICES + ITEMS:
        os.kill(worker, signal.SIGSTOP)
        known = _known(run)
        if known is not None and CHOICES < known < CHOICES + ITEMS:
            return known
        time.sleep(1.1)
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.05)
    return None


def _known(run: Path) -> int | None:
    """Return the number of answers in the request caches of both tasks; None if there are no caches."""
    known, caches = 0, list(run.glob("staging/requests-*.db"))
    try:
        for cache in caches:
            with closing(sqlite3.connect(f"file:{cache}?mode=ro", uri=True, timeout=5)) as opened:
                known += int(opened.execute("SELECT TOTAL(times) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:  # the cache has just been deleted
        return None
    return known if caches else None


def _ends(pid: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":  # a zombie
            return True
        time.sleep(0.02)
    return False


def _resumes_from_cache(log: str, known: int) -> bool:
    """Return whether the first evaluation in a log took all cached answers from the cache."""
    choices, generated = _answers(log, "loglikelihood")[0], _answers(log, "generate_until")[0]
    return choices == (CHOICES, CHOICES) and generated == (ITEMS, known - CHOICES)


def test_a_killed_worker_costs_an_attempt(tmp_path: Path, config: Path, reference: Reference) -> None:
    run = tmp_path / "run"
    with _during_an_evaluation(config, run) as (driver, worker, known):
        said = (run / "run.log").stat().st_size
        os.kill(worker, signal.SIGKILL)
        _, err = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, err
    (retried,) = events(run, "step_retried")
    assert (retried["step"], retried["attempt"]) == ("evaluate", 1)
    assert "was killed by SIGKILL" in retried["reason"]
    _check(run, reference, retries=False)
    assert _resumes_from_cache((run / "run.log").read_text()[said:], known)


def test_the_worker_of_a_killed_driver_dies(tmp_path: Path, config: Path, reference: Reference) -> None:
    run = tmp_path / "run"
    with _during_an_evaluation(config, run) as (driver, worker, known):
        os.kill(driver.pid, signal.SIGKILL)
        os.kill(worker, signal.SIGCONT)
        assert _ends(worker)
    last = _known(run)  # the worker may write once more before it ends
    assert known <= last
    assert _resumes_from_cache(_resume(run, reference), last)


def test_answers_from_before_a_change_of_the_data_are_not_used(
    tmp_path: Path, config: Path, reference: Reference, family: Family
) -> None:
    """The data may have been changed before the driver was killed, and restored after it."""
    run = tmp_path / "run"
    with _during_an_evaluation(config, run) as (driver, worker, _):
        os.kill(driver.pid, signal.SIGKILL)
        os.kill(worker, signal.SIGCONT)
        assert _ends(worker)
    for cache in run.glob("staging/requests-*.db"):
        with closing(sqlite3.connect(cache)) as opened:
            opened.execute("UPDATE answers SET answer = '[0.0, true]' WHERE answer LIKE '[%'")
            opened.execute("UPDATE answers SET answer = '\"wrong\"' WHERE answer LIKE '\"%'")
            opened.commit()
    for path in family.datasets["winogrande"].iterdir():
        path.touch()
    assert _answers(_resume(run, reference), "generate_until")[0] == (ITEMS, 0)


def test_an_interrupted_evaluation_keeps_its_cache(tmp_path: Path, config: Path) -> None:
    run = tmp_path / "run"
    with _during_an_evaluation(config, run) as (driver, worker, known):
        os.killpg(driver.pid, signal.SIGINT)  # like a terminal
        os.kill(worker, signal.SIGCONT)
        _, err = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 130, err
    assert f"interrupted by SIGINT; nothing is lost, resume it by `evolve resume {run}`" in " ".join(err.split())
    assert "leaked" not in err
    assert "Traceback" not in err
    assert _ends(worker)
    assert _known(run) >= known
    assert not (run / "driver.json").exists()
