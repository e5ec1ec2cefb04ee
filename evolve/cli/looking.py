"""The commands that read runs: `status`, `tree`, `show` and `compare`; none imports torch."""

from __future__ import annotations

import difflib
from pathlib import Path

from evolve.cli.output import print_json, show
from evolve.errors import RunFolderError
from evolve.lineage import FamilyTree, to_node_link
from evolve.run.folder import RunFolder
from evolve.run.lock import live_holder
from evolve.run.observer import read_progress
from evolve.views import Progress, compare_view, comparison_data, model_view, status_data, status_view, tree_view

__all__ = ["show_comparison", "show_model", "show_status", "show_tree"]


def show_status(run: Path, *, as_json: bool) -> None:
    """Print the state of a run."""
    folder = RunFolder.open(run)
    tree, holder = folder.read_tree(), live_holder(run)
    running = str(holder) if holder else None
    report = read_progress(folder.progress) if holder else None  # a killed driver leaves its file
    progress = Progress(report.step, report.words, report.done, report.total) if report else None
    if as_json:
        print_json({**status_data(tree, progress=progress), "running": running})
    else:
        show(status_view(tree, folder=str(run), running=running, progress=progress))


def show_tree(run: Path, *, as_json: bool) -> None:
    """Print the family tree."""
    tree = RunFolder.open(run).read_tree()
    if as_json:
        print_json(to_node_link(tree))
    else:
        show(tree_view(tree))


def show_model(run: Path, name: str, *, as_json: bool) -> None:
    """Print one model in detail."""
    tree = RunFolder.open(run).read_tree()
    _need_model(tree, run, name)
    if as_json:
        nodes = {node["id"]: node for node in to_node_link(tree)["nodes"]}
        print_json(nodes[name])
    else:
        show(model_view(tree, name))


def show_comparison(runs: list[Path], *, as_json: bool) -> None:
    """Print runs side by side."""
    trees = {str(run): RunFolder.open(run).read_tree() for run in runs}
    if as_json:
        print_json(comparison_data(trees))
    else:
        show(compare_view(trees))


def _need_model(tree: FamilyTree, run: Path, name: str) -> None:
    if name in tree:
        return
    names = [model.name for model in tree.models]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"its models are {', '.join(names)}"
    raise RunFolderError(f"{run}: has no model {name}; {hint}")
