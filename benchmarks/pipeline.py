"""Compare a whole run with the pipeline that the paper's notebook drives by hand, on the same models.

By hand, each candidate takes three processes: `mergekit-yaml` makes it, `lm_eval` scores it, and a third measures the
kinship of its parents by the official formula, over whole vectors of differences to the base. Here they follow the
recipes of the run. The script fails if a model, a score or a kinship differs.

By default it trains a tiny family and does one generation, which takes some minutes. The demo at full size:

    python benchmarks/pipeline.py
    evolve nursery runs/nursery && python benchmarks/pipeline.py --config configs/demo.yaml
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from evolve.config import Config, load_config
from evolve.engines.evaluation.catalog import Catalog
from evolve.engines.evaluation.taskfiles import plan_tasks
from evolve.lineage import FamilyTree, Model, pair
from evolve.nursery import NurseryRecipe, build
from evolve.run.folder import RunFolder
from evolve.run.tasks import task_specs

SMALL = NurseryRecipe(
    vocabulary=512, hidden=32, feed_forward=64, layers=2, heads=2, key_value_heads=1, training_items=60,
    evaluation_items=60, base_steps=12, specialist_steps=(6, 6, 6), warm_up=2,
)  # fmt: skip
TASKS = [
    {"task": "winogrande", "metric": "acc,none", "num_fewshot": 5},
    {
        "task": "gsm8k",
        "metric": "exact_match,strict-match",
        "num_fewshot": 5,
        "generation_kwargs": {"max_gen_toks": 24},
    },
    {"task": "truthfulqa_mc2", "metric": "acc,none", "num_fewshot": 0},
]
CLOSE = {"score": 1e-3, "kinship": 5e-3}
"""Largest differences: shared prefixes round probabilities otherwise, and the official tool sums in 32 bits."""

KINSHIP = """
import sys, torch
from safetensors.torch import load_file
base, *models = (load_file(folder + "/model.safetensors") for folder in sys.argv[1:])
names = [name for name in base if all(name in model for model in models)]
first, second = (torch.cat([(model[name] - base[name]).flatten().float() for name in names]) for model in models)
print(float(torch.corrcoef(torch.stack([first, second]))[0, 1]))
"""


class Clock:
    """Runs processes and adds their wall times and processor times by kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        root = str(Path(__file__).parents[1])
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))

    def run(self, kind: str, *command: str | Path) -> str:
        """Return the standard output of a process."""
        began, used = time.perf_counter(), processor_seconds()
        done = subprocess.run(
            [sys.executable, *map(str, command)], env=self.environment, capture_output=True, text=True, check=False
        )
        self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - began
        self.processor[kind] = self.processor.get(kind, 0.0) + processor_seconds() - used
        if done.returncode:
            raise SystemExit(f"{kind} failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
        return done.stdout


def processor_seconds() -> float:
    """Return the processor time of all processes that were started here and have ended, with those they started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_config(place: Path) -> Path:
    """Train a small family and write the configuration of a run of one generation."""
    family = build(place / "family", seed=1, recipe=SMALL)
    config = {
        "name": "pipeline",
        "base_model": str(family.base),
        "foundation_models": {name: str(folder) for name, folder in family.specialists.items()},
        "strategy": {"max_generations": 1, "stop_at_kinship": None},
        "evaluation": {
            "tasks": TASKS,
            "datasets": {task: str(folder) for task, folder in family.datasets.items()},
            "model_args": {"dtype": "float32"},
            "batch_size": 64,
            "limit": 12,
        },
    }
    path = place / "pipeline.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


class ByHand:
    """The processes of the hand-driven pipeline for the models of a run."""

    def __init__(self, clock: Clock, config: Config, folder: RunFolder, tree: FamilyTree, place: Path) -> None:
        self.clock, self.config, self.folder, self.tree, self.place = clock, config, folder, tree, place
        self.differences = {"score": 0.0, "kinship": 0.0}
        self.files = self._task_files()

    def _task_files(self) -> list[Path]:
        files = []
        for plan in plan_tasks(task_specs(self.config), Catalog()):
            target = self.place / "tasks" / plan.spec.task
            target.mkdir(parents=True)
            files.append(plan.write(target)[0])
        return files

    def candidate(self, model: Model) -> None:
        """Merge, score and measure one model, and compare it with that of the run."""
        checkpoint = self.folder.checkpoint_of(model)
        if model.recipe is not None:
            checkpoint = self.merge(model, checkpoint)
            self.measure(model)
        self.score(model, checkpoint)

    def merge(self, model: Model, ours: Path) -> Path:
        """Make a child by `mergekit-yaml` from its recipe."""
        made = self.place / model.name
        tool = Path(sys.executable).with_name("mergekit-yaml")
        self.clock.run("mergekit-yaml", tool, self.folder.recipe(model.name), made)
        own, theirs = load_file(ours / "model.safetensors"), load_file(made / "model.safetensors")
        if own.keys() != theirs.keys() or not all(own[name].equal(theirs[name]) for name in own):
            raise SystemExit(f"{model.name}: mergekit-yaml made another model")
        return made

    def score(self, model: Model, checkpoint: Path) -> None:
        """Score a model by `lm_eval` on all tasks."""
        evaluation, output = self.config.evaluation, self.place / f"scores-{model.name}"
        arguments = {"pretrained": checkpoint, **evaluation.model_args}
        command: list[Any] = ["-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--seed", self.config.seed]
        command += ["--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
        command += ["--batch_size", evaluation.batch_size, "--log_samples", "--output_path", output / "out.json"]
        command += ["--tasks", ",".join(map(str, self.files))]
        command += ["--limit", evaluation.limit] if evaluation.limit is not None else []
        self.clock.run("lm_eval", *command)
        results = json.loads(next(output.glob("out_*.json")).read_text())["results"]
        for task, score in model.scores.items():
            self.compare("score", f"{model.name} on {task}", score.value, results[task][score.metric])
        shutil.rmtree(output)

    def measure(self, model: Model) -> None:
        """Measure the kinship of a child's parents by the official formula."""
        parents = [self.folder.checkpoint_of(self.tree.model(name)) for name in model.parents]
        theirs = float(self.clock.run("kinship", "-c", KINSHIP, self.config.base_model, *parents))
        own = self.tree.kinships[pair(*model.parents)].pcc
        self.compare("kinship", f"parents of {model.name}", own, theirs)

    def compare(self, kind: str, what: str, own: float, theirs: float) -> None:
        """Fail if two numbers are not close."""
        self.differences[kind] = max(self.differences[kind], abs(own - theirs))
        if abs(own - theirs) > CLOSE[kind]:
            raise SystemExit(f"{kind} of {what}: {own} in the run, {theirs} by hand")


def compare(config: Path, settings: Sequence[str], place: Path) -> dict[str, Any]:
    """Return the times of the run and of the pipeline by hand."""
    ours, hand = Clock(), Clock()
    more = [part for setting in ("device=cpu", *settings) for part in ("--set", setting)]
    ours.run("evolve run", "-m", "evolve", "run", config, "--run-dir", place / "runs" / "run", *more)
    folder = RunFolder.open(place / "runs" / "run")
    tree = folder.read_tree()
    work = ByHand(hand, load_config(config, list(settings)), folder, tree, place)
    for model in tree.models:
        work.candidate(model)
        print(f"{model.name}: the same by hand", flush=True)
    return {
        "models": len(tree.models),
        "wall": {**ours.seconds, **hand.seconds, "by hand": sum(hand.seconds.values())},
        "processor": {**ours.processor, **hand.processor, "by hand": sum(hand.processor.values())},
        "largest_difference": work.differences,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="configuration of a run on local models; by default a small one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in `evolve run`")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evolve-pipeline-") as folder:
        place = Path(folder)
        config = options.config or write_config(place)
        found = compare(config, options.set, place)
    for what in ("wall", "processor"):
        seconds = found[what]
        print(f"{what} time: " + ", ".join(f"{kind} {value:.1f} s" for kind, value in seconds.items()))
        ratio = seconds["by hand"] / seconds["evolve run"]
        print(f"{found['models']} models: the run takes 1/{ratio:.1f} of the {what} time by hand")
    print(f"largest differences: {found['largest_difference']}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
