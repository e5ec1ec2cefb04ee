"""A failure costs an attempt of one candidate and does not end the run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import yaml
from drive import Drivers

from runs import Reference, calls_begun, events, tree_without_times


def _nodes(run: Path) -> dict[str, dict[str, object]]:
    return {node["id"]: node for node in tree_without_times(run)["nodes"]}


def _config(config: Path, target: Path, **settings: object) -> Path:
    """Write a copy of a configuration with some sections replaced."""
    raw = yaml.safe_load(config.read_text())
    raw["base_model"] = str(config.parent / "base")
    raw["foundation_models"] = {name: str(config.parent / name) for name in raw["foundation_models"]}
    target.write_text(yaml.safe_dump(raw | settings))
    return target


@pytest.mark.parametrize("kind", ["merge", "evaluate"])
@pytest.mark.parametrize("error", ["bug", "memory"])
def test_an_unexpected_error_costs_an_attempt(
    *, kind: str, error: str, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    ended = drivers(run, config, EVOLVE_FAKE=f"{kind}:model-1-2:{error}:1:{tmp_path}/count")
    assert ended.code == 0, ended.message
    (retried,) = events(run, "step_retried")
    halved = 8 if (kind, error) == ("evaluate", "memory") else None
    assert (retried["model"], retried["step"], retried["attempt"]) == ("model-1-2", kind, 1)
    assert retried["batch_size"] == halved
    node = _nodes(run)["model-1-2"]
    assert node["status"] == "evaluated"
    assert node["batch_size"] == (halved or 16)
    assert len(node["retries"]) == 1
    (tmp_path / "count").unlink()
    theirs = {n["id"]: n for n in reference.tree["nodes"]}
    for name, ours in _nodes(run).items():
        assert ours["average"] == theirs[name]["average"]


def test_batches_are_halved_until_they_fit_or_no_attempt_is_left(
    tmp_path: Path, drivers: Drivers, config: Path
) -> None:
    """Halving costs no attempt, and later evaluations use the smaller batch."""
    run = tmp_path / "run"
    drivers(run, config, EVOLVE_FAKE="evaluate:model-1-1:memory")
    assert [event["batch_size"] for event in events(run, "step_retried")] == [8, 4, 2, 1, None]
    (failed,) = events(run, "model_failed")
    assert failed["attempts"] == 2
    assert failed["reason"].startswith("it ran out of memory")
    sizes = {event["model"]: event["batch_size"] for event in events(run, "model_evaluated")}
    assert {sizes[name] for name in ("A", "B", "C")} == {16}
    assert {size for name, size in sizes.items() if name.startswith("model-")} == {1}


def test_batches_of_size_auto_are_halved_too(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    run, automatic = tmp_path / "run", _automatic(config, tmp_path)
    ended = drivers(run, automatic, EVOLVE_FAKE=f"evaluate:model-1-2:memory:2:{tmp_path}/count")
    assert ended.code == 0, ended.message
    found = events(run, "model_evaluated")[0]["batch_size"]
    assert [event["batch_size"] for event in events(run, "step_retried")] == [found // 2, found // 4]
    assert not events(run, "model_failed")
    assert _nodes(run)["model-1-2"]["batch_size"] == found // 4


def test_size_auto_is_64_before_it_is_found(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    run, automatic = tmp_path / "run", _automatic(config, tmp_path)
    assert drivers(run, automatic, EVOLVE_FAKE=f"evaluate:A:memory:2:{tmp_path}/count").code == 0
    assert [event["batch_size"] for event in events(run, "step_retried")] == [32, 16]


def test_one_size_auto_is_found_for_the_whole_run(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    """A resumption uses the size of the first model, although its process would find another."""
    run, automatic = tmp_path / "run", _automatic(config, tmp_path)
    killed = f"evaluate:model-1-2:kill:1:{tmp_path}/count"
    assert drivers(run, automatic, EVOLVE_FAKE=killed).code == -signal.SIGKILL
    assert drivers(run, automatic, EVOLVE_FAKE=killed).code == 0
    assert len({event["batch_size"] for event in events(run, "model_evaluated")}) == 1


def _automatic(config: Path, folder: Path) -> Path:
    evaluation = yaml.safe_load(config.read_text())["evaluation"] | {"batch_size": "auto"}
    return _config(config, folder / "auto.yaml", evaluation=evaluation)


def test_a_changed_input_does_not_fail_the_candidate(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "run"
    ended = drivers(run, config, EVOLVE_FAKE="evaluate:model-1-1:input")
    assert ended.code == 2
    assert "the data of model-1-1 are missing" in ended.message
    assert not events(run, "model_failed")
    assert drivers(run, config).code == 0
    theirs = {n["id"]: n["average"] for n in reference.tree["nodes"]}
    assert {name: node["average"] for name, node in _nodes(run).items()} == theirs


@pytest.mark.parametrize(
    ("fault", "step", "reason", "attempts"),
    [
        ("merge:model-1-1:bug", "merge", "LookupError: a bug about model-1-1", 2),
        ("evaluate:model-1-1:bug", "evaluate", "LookupError: a bug about model-1-1", 2),
        ("merge:model-1-1:refuse", "merge", "model-1-1 is refused", 1),
        ("evaluate:model-1-1:refuse", "evaluate", "model-1-1 is refused", 1),
        (
            "score:model-1-1:nan",
            "evaluate",
            "its result is not valid (value = nan: Input should be a finite number)",
            1,
        ),
    ],
)
def test_a_candidate_fails_and_the_generation_continues(
    *, fault: str, step: str, reason: str, attempts: int, tmp_path: Path, drivers: Drivers, config: Path
) -> None:
    run, tally = tmp_path / "run", tmp_path / "tally"
    ended = drivers(run, config, EVOLVE_FAKE=fault, EVOLVE_FAKE_TALLY=tally)
    assert ended.code == 0, ended.message
    (failed,) = events(run, "model_failed")
    assert (failed["model"], failed["step"], failed["attempts"]) == ("model-1-1", step, attempts)
    assert failed["reason"] == reason
    assert calls_begun(tally)[f"{step} model-1-1"] == attempts
    nodes = _nodes(run)
    assert nodes["model-1-1"]["status"] == "failed"
    assert nodes["model-1-2"]["status"] == nodes["model-1-3"]["status"] == "evaluated"
    assert not any("model-1-1" in node["parents"] for node in nodes.values())  # type: ignore[operator]
    assert not list((run / "staging").iterdir())
    assert not (run / "evals" / "model-1-1").exists()
    if step == "merge":
        assert not (run / "models" / "model-1-1").exists()


def test_a_score_that_overflows_an_average_stops_the_run(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    ended = drivers(tmp_path / "run", config, EVOLVE_FAKE="score:A:huge,score:B:huge,score:C:huge")
    assert ended.code == 1
    assert "evaluate A: its result is not valid (value = 1.7e+308" in ended.message
    assert not events(tmp_path / "run", "model_evaluated")


def test_a_run_whose_children_all_fail_stops(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    faults = ",".join(f"merge:model-1-{n}:bug" for n in (1, 2, 3))
    assert drivers(tmp_path / "run", config, EVOLVE_FAKE=faults).message == "failed"
    assert drivers(tmp_path / "run", config, EVOLVE_FAKE=faults).message == "failed"


@pytest.mark.parametrize("fault", ["evaluate:B:refuse", "evaluate:B:bug", "score:B:nan"])
def test_a_failed_foundation_ends_the_run_which_can_be_resumed(
    fault: str, tmp_path: Path, drivers: Drivers, config: Path
) -> None:
    run = tmp_path / "run"
    for _ in range(2):
        ended = drivers(run, config, EVOLVE_FAKE=fault)
        assert ended.code == 1
        assert {"refuse": "B is refused", "bug": "LookupError", "nan": "not valid"}[
            fault.split(":")[2]
        ] in ended.message
    assert not events(run, "model_failed")
    assert drivers(run, config).code == 0


def test_a_smaller_batch_may_be_given_when_a_foundation_does_not_fit(
    tmp_path: Path, drivers: Drivers, config: Path
) -> None:
    run = tmp_path / "run"
    assert drivers(run, config, EVOLVE_FAKE="evaluate:A:memory").code == 1
    evaluation = yaml.safe_load(config.read_text())["evaluation"] | {"batch_size": 2}
    assert drivers(run, _config(config, tmp_path / "own.yaml", evaluation=evaluation)).code == 0
    assert _nodes(run)["A"]["batch_size"] == 2


def test_a_failed_measurement_is_retried_once_and_then_ends_the_run(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    once, always = tmp_path / "once", tmp_path / "always"
    assert drivers(once / "run", config, EVOLVE_FAKE=f"measure:kinship:bug:1:{tmp_path}/count").code == 0
    reference.check(once / "run")
    ended = drivers(always / "run", config, EVOLVE_FAKE="measure:kinship:bug")
    assert ended.code == 1
    assert "LookupError: a bug about kinship" in ended.message
    assert drivers(always / "run", config).code == 0
    reference.check(always / "run")


def test_separate_failed_measurements_are_not_added_up(
    tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "beside" / "run"
    faults = [f"measure:{pair}:bug:1:{tmp_path}/{pair}" for pair in ("A-B", "A-model-1-1")]
    ended = drivers(run, config, EVOLVE_FAKE=",".join(faults))
    assert ended.code == 0, ended.message
    assert len(list(tmp_path.glob("A-*"))) == 2
    reference.check(run)


@pytest.mark.parametrize(("fault", "words"), [("kill", "killed by SIGKILL"), ("exit3", "ended with exit code 3")])
def test_a_dead_worker_costs_an_attempt(
    *, fault: str, words: str, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run = tmp_path / "beside" / "run"
    faults = [
        f"merge:model-1-1:{fault}:1:{tmp_path}/a",
        f"evaluate:model-1-2:{fault}:1:{tmp_path}/b",
        f"evaluate:model-1-3:{fault}",
    ]
    done = drivers.command("run", config, "--run-dir", run, EVOLVE_FAKE=",".join(faults[:2]))
    assert done.returncode == 0, done.stderr
    reference.check(run, retries=False)
    assert [(event["model"], event["step"]) for event in events(run, "step_retried")] == [
        ("model-1-1", "merge"),
        ("model-1-2", "evaluate"),
    ]
    assert all(words in event["reason"] for event in events(run, "step_retried"))


def test_a_worker_that_always_dies_fails_its_candidate(tmp_path: Path, drivers: Drivers, config: Path) -> None:
    run = tmp_path / "run"
    done = drivers.command("run", config, "--run-dir", run, EVOLVE_FAKE="evaluate:model-1-3:kill")
    assert done.returncode == 0, done.stderr
    (failed,) = events(run, "model_failed")
    assert (failed["model"], failed["attempts"]) == ("model-1-3", 2)
    assert "killed by SIGKILL" in failed["reason"]


@pytest.mark.parametrize("kill", ["killdriver", "killboth"])
@pytest.mark.parametrize("step", ["merge:model-1-2", "evaluate:model-2-1", "evaluate:A"])
def test_a_killed_driver_is_resumed(
    *, kill: str, step: str, tmp_path: Path, drivers: Drivers, config: Path, reference: Reference
) -> None:
    run, tally = tmp_path / "beside" / "run", tmp_path / "tally"
    killed = drivers.command("run", config, "--run-dir", run, EVOLVE_FAKE=f"{step}:{kill}", EVOLVE_FAKE_TALLY=tally)
    assert killed.returncode == -signal.SIGKILL
    done = drivers.command("run", config, "--run-dir", run, EVOLVE_FAKE_TALLY=tally)
    assert done.returncode == 0, done.stderr
    reference.check(run)
    again = {work for work, times in calls_begun(tally).items() if times > 1}
    assert again == {step.replace(":", " ")}
