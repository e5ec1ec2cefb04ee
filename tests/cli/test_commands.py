"""The commands that read runs: fast imports, text and JSON, pipes and terminals without Unicode."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import networkx as nx
import pytest
from fakes import write_family

import evolve as package
from evolve.cli import main
from evolve.cli.display import Display
from evolve.run.lock import driver_lock

from .conftest import do_run

SUPPORT = Path(__file__).parents[1] / "support"
HEAVY = {
    *("torch", "transformers", "mergekit", "lm_eval", "datasets", "peft", "tokenizers", "safetensors"),
    *("numpy", "scipy", "pandas", "huggingface_hub", "accelerate", "matplotlib"),
}
COMMANDS = {  # with a pattern of the arguments in the usage line
    **dict.fromkeys(("run", "check"), r"\{?CONFIG"),
    **dict.fromkeys(("resume", "status", "tree"), r"\{?RUN"),
    "show": r"\{?RUN\}? \{?MODEL",
    "compare": r"\{?RUN\}?\.\.\.",
    "kinship": r"\{?MODEL\}?\.\.\.",
    "nursery": r"\{?DIR",
}
LOADED = """
import sys
from evolve.cli import main
try:
    main()
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["nursery", "--help"],
        ["tree", "{run}"],
        ["tree", "{run}", "--json"],
        ["show", "{run}", "model-1-1"],
        ["status", "{run}"],
        ["compare", "{run}", "{run}"],
    ],
    ids=" ".join,
)
def test_commands_that_read_runs_load_no_heavy_package(finished_run, arguments):
    arguments = [argument.format(run=finished_run) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True, timeout=60
    )

    loaded = set(done.stderr.split())
    assert "evolve" in loaded
    assert not loaded & HEAVY
    assert done.stdout


def test_version_and_help_of_all_commands(command):
    assert command("--version").out == f"evolve {package.__version__}\n"
    answer = command("--help").out
    assert all(f" {name} " in answer for name in COMMANDS)
    assert all(f" {panel} " in answer for panel in ("Runs", "Results", "Tools"))
    alone = command()
    assert alone.code == 2
    assert not alone.err
    assert alone.out.strip() == answer.strip()


@pytest.mark.parametrize(("name", "arguments"), COMMANDS.items())
def test_help_of_a_command_has_readable_arguments_and_one_example(command, name, arguments):
    answer = command(name, "--help")

    assert answer.code == 0
    assert [line for line in answer.out.splitlines() if re.search(rf"Usage: .* {name} \[OPTIONS\] {arguments}", line)]
    assert answer.out.count("Example: ") == answer.out.count(f"Example: evolve {name} ") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_is_a_valid_call(name, command, monkeypatch):
    called = []
    for module, function in (
        *(("driving", f) for f in ("run_config", "resume_run", "check_config")),
        *(("looking", f) for f in ("show_status", "show_tree", "show_model", "show_comparison")),
        *(("measuring", "measure_kinship"), ("building", "build_family")),
    ):
        monkeypatch.setattr(f"evolve.cli.{module}.{function}", lambda *_, **__: called.append(name))
    (example,) = re.findall(r"Example: evolve (.*?) *$", command(name, "--help").out, flags=re.MULTILINE)

    assert command(*example.split()).code == 0
    assert called == [name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tree"], "evolve: Missing argument 'RUN'. See `evolve tree --help`."),
        (["tre"], "evolve: No such command 'tre'. Did you mean 'tree'? See `evolve --help`."),
        (["run", "--set"], "evolve: Option '--set' requires an argument. See `evolve --help`."),
        (["nursery", "x", "--seed", "-1"], "evolve: Invalid value for '--seed': "),
        (["tree", "x", "--format", "json"], "evolve: No such option: --format"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_give_one_line(command, arguments, message):
    answer = command(*arguments)

    assert answer.code == 2
    assert not answer.out
    assert answer.err.startswith(message)
    assert answer.err.count("\n") == 1


def test_networkx_reads_the_tree(command, finished_run):
    answer = command("tree", finished_run, "--json")

    tree = nx.node_link_graph(json.loads(answer.out), edges="edges")
    assert nx.is_directed_acyclic_graph(tree)
    assert sorted(tree.predecessors("model-1-1")) == ["A", "B"]
    assert json.loads(answer.out) == json.loads((finished_run / "family_tree.json").read_text())


def test_the_tree_as_text(command, finished_run):
    answer = command("tree", finished_run).out
    assert all(name in answer for name in ("A", "model-1-1", "model-2-exp"))
    assert "\x1b" not in answer


def test_one_model(command, finished_run):
    answer = command("show", finished_run, "model-1-1").out
    assert "model-1-1" in answer
    assert "alpha" in answer

    node = json.loads(command("show", finished_run, "model-1-1", "--json").out)
    assert node["id"] == "model-1-1"
    assert node["parents"] == ["A", "B"]


def test_status_of_a_finished_run(command, finished_run):
    answer = command("status", finished_run)
    assert "stopped: " in answer.out
    assert f"in {finished_run}" in answer.out

    data = json.loads(command("status", finished_run, "--json").out)
    assert data["running"] is None


def test_status_of_a_running_and_of_an_interrupted_run(command, run_copy):
    journal = run_copy / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:8]))

    with driver_lock(run_copy):
        assert f"running: process {os.getpid()} on " in command("status", run_copy).out
        assert str(os.getpid()) in json.loads(command("status", run_copy, "--json").out)["running"]

    answer = command("status", run_copy).out
    assert "interrupted" in answer
    assert f"evolve resume {run_copy}" in answer
    assert json.loads(command("status", run_copy, "--json").out)["running"] is None


def test_status_of_a_real_running_run(command, fake_family, tmp_path):
    run = tmp_path / "run"
    driver = subprocess.Popen(
        [sys.executable, SUPPORT / "fake_evolve.py", "run", fake_family, "--run-dir", run],
        env={**os.environ, "EVOLVE_FAKE": "evaluate:model-1-1:sleep60"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    step = run / "progress.json"
    while not step.exists() or "evaluate model-1-1" not in step.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)

    answer = command("status", run).out
    progress = json.loads(command("status", run, "--json").out)["progress"]
    refused = command("resume", run)
    driver.send_signal(signal.SIGTERM)
    out, err = driver.communicate(timeout=30)

    assert f"running: process {driver.pid} on " in answer
    assert refused.code == 2
    assert f"is being driven by process {driver.pid} on " in refused.err
    assert driver.returncode == 143
    assert err.startswith("evolve: interrupted by SIGTERM; nothing is lost, ")
    assert f"`evolve resume {run}`" in err
    assert "model-1-1: merged in 0.2 s" in out
    assert "evaluate model-1-1" in answer
    assert progress["step"] == "evaluate model-1-1"
    answer = command("status", run)
    assert f"evolve resume {run}" in answer.out
    assert "running: process" not in answer.out
    assert json.loads(command("status", run, "--json").out)["progress"] is None


def test_comparison_of_two_runs(command, finished_run, tmp_path):
    config = write_family(tmp_path / "family", seed=1)
    other = do_run(config, tmp_path / "greedy", "name=other", "strategy.name=greedy")

    answer = command("compare", finished_run, other)
    assert answer.code == 0
    assert str(other) in answer.out
    assert "greedy" in answer.out

    data = json.loads(command("compare", finished_run, other, "--json").out)
    assert str(finished_run) in json.dumps(data)
    assert command("compare").code == 2


READERS = [
    ["tree", "{run}"],
    ["status", "{run}"],
    ["show", "{run}", "A"],
    ["compare", "{run}"],
    ["tree", "{run}", "--json"],
]


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_a_closed_pipe_gives_no_traceback(finished_run, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "evolve", *(argument.format(run=finished_run) for argument in arguments)],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writer)

    assert done.returncode != 0
    assert not done.stderr


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_an_output_without_unicode(finished_run, arguments):
    done = subprocess.run(
        [sys.executable, "-m", "evolve", *(argument.format(run=finished_run) for argument in arguments)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0
    assert not done.stderr
    assert done.stdout.isascii()


def test_a_run_in_a_pipe_has_no_colours_and_names_the_next_command(fake_family, tmp_path):
    done = subprocess.run(
        [sys.executable, SUPPORT / "fake_evolve.py", "run", fake_family, "--run-dir", tmp_path / "run"],
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout
    assert not done.stderr
    assert "model-1-1: merged in 0.2 s" in done.stdout
    assert f"evolve tree {tmp_path / 'run'}" in done.stdout


def test_a_finished_run_does_no_work_when_resumed(command, finished_run, monkeypatch):
    shown: list[int] = []
    monkeypatch.setattr(Display, "show_position", lambda self, tree: shown.append(tree.generation))
    before = (finished_run / "journal.jsonl").read_bytes()

    answer = command("resume", finished_run)

    assert answer.code == 0
    assert answer.out.startswith(f"The run in {finished_run} ")
    assert shown == [3]
    assert (finished_run / "journal.jsonl").read_bytes() == before


def test_a_bug_keeps_its_traceback(command, monkeypatch, finished_run):
    from evolve.cli import looking

    def broken(*_: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(looking, "tree_view", broken)
    monkeypatch.setattr(sys, "argv", ["evolve", "tree", str(finished_run)])
    with pytest.raises(LookupError, match="a bug"):
        main()
