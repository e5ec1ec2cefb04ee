"""All that can be known of a run before its work: models, recipes, tasks, data, and what it will ask of the disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

from evolve import __version__
from evolve.config import AdapterSource, Config, ModelSource
from evolve.engines import merging
from evolve.engines.checkpoints import Layout, differences, fingerprint, read_layout
from evolve.engines.protocols import Engines, InspectJob, InspectResult, Report, TaskFacts
from evolve.engines.sources import Source, resolve
from evolve.errors import ConfigError, ModelError, RunError
from evolve.lineage import FoundationEntry, RunStarted
from evolve.run.durable import hash_file
from evolve.run.executors import Call, Executor, Failed
from evolve.run.store import task_specs

__all__ = ["Needs", "Preflight", "entry_of", "hash_data", "identity_of", "inspect_engines", "look_at_models"]

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_BASE = "base_model"
_ENGINES = ("mergekit", "lm_eval", "torch", "transformers")


@dataclass(frozen=True)
class Needs:
    """What a run asks for at most.

    Attributes:
        first: Children of generation 1.
        later: Children of each later generation at most.
        checkpoint: Bytes of one child.
        total: Bytes of all children of all generations at most.
    """

    first: int
    later: int
    checkpoint: int
    total: int


@dataclass(frozen=True)
class Preflight:
    """What was found; that it exists says that nothing known is wrong."""

    config: Config
    sources: Mapping[str, Source]
    layouts: Mapping[str, Layout]
    templates: Mapping[str, merging.Template]
    data: Mapping[str, str]

    @property
    def needs(self) -> Needs:
        """What the run asks for at most."""
        recipes = len(self.config.merge.recipes)
        foundations = len(self.config.foundation_models)
        strategy = self.config.strategy
        first = len(list(combinations(range(foundations), 2))) * recipes
        later = (strategy.pair_limit + (strategy.name == "kinship")) * recipes
        size = max(
            sum(info.elements for info in layout.tensors.values())
            for name, layout in self.layouts.items()
            if name != _BASE
        )
        checkpoint = size * _ITEM_BYTES[self.config.merge.dtype]
        return Needs(first, later, checkpoint, checkpoint * (first + later * (strategy.max_generations - 1)))

    def start_event(self, identities: Mapping[str, str]) -> RunStarted:
        """The first event of the run."""
        return RunStarted(
            run=self.config.name,
            config=self.config.model_dump(mode="json"),
            versions={"evolve": __version__, **{name: version(name) for name in _ENGINES}},
            recipes={name: template.text for name, template in self.templates.items()},
            data=dict(self.data),
            base=self._entry(_BASE, self.config.base_model, identities),
            foundations=tuple(
                self._entry(name, source, identities) for name, source in self.config.foundation_models.items()
            ),
        )

    def _entry(self, name: str, source: ModelSource, identities: Mapping[str, str]) -> FoundationEntry:
        return entry_of(name, source, self.sources[name], self.layouts[name], identities[name])


def entry_of(name: str, source: ModelSource, found: Source, layout: Layout, identity: str) -> FoundationEntry:
    """What the journal keeps of a foundation or the base."""
    shown = f"{source.model}+{source.adapter}" if isinstance(source, AdapterSource) else source
    return FoundationEntry(
        name=name,
        source=shown,
        revision=found.revision,
        path=str(found.path),
        identity=identity,
        bytes=sum(layout.files.values()),
    )


def look_at_models(config: Config) -> Preflight:
    """Find the models, compare their shapes, read the recipes and hash the local data; imports no engine.

    Raises:
        ModelError: A model is missing, damaged or does not fit the others.
        RecipeError: A recipe template is wrong.
        ConfigError: A data set's folder is missing.
    """
    templates = {name: merging.load_template(name) for name in config.merge.recipes}
    data = hash_data(config)
    sources = {_BASE: _located(_BASE, config.base_model)}
    for name, source in config.foundation_models.items():
        sources[name] = _located(f"foundation_models.{name}", source)
    layouts = {name: _layout(name, source) for name, source in sources.items()}
    for name, layout in layouts.items():
        difference = differences(layouts[_BASE], layout)
        if difference is not None:
            raise ModelError(f"foundation_models.{name}: {difference}; all models must descend from one base")
    return Preflight(config, sources, layouts, templates, data)


def identity_of(folder: Path, report: Report | None = None) -> str:
    """Identity of a foundation: a SHA-256 over the contents of all files that decide what it says."""
    stamps = fingerprint(folder, report=report)
    record = {name: (stamp.size, stamp.sha256) for name, stamp in stamps.items()}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def hash_data(config: Config) -> dict[str, str]:
    """SHA-256 of each local file that evaluations read, by a name that stays when the folder moves."""
    found: dict[str, str] = {}
    for task, folder in config.evaluation.datasets.items():
        if not folder.is_dir():
            raise ConfigError(
                f"evaluation.datasets.{task} = {folder}: there is no such folder; give one with <split>.jsonl files"
            )
        for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.parquet")]):
            found[f"{task}/{path.name}"] = hash_file(path)
    for number, folder in enumerate(config.evaluation.task_dirs):
        if not folder.is_dir():
            raise ConfigError(f"evaluation.task_dirs.{number} = {folder}: there is no such folder; give one with tasks")
        for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.py")]):
            found[f"task_dirs.{number}/{path.relative_to(folder).as_posix()}"] = hash_file(path)
    return found


def inspect_engines(found: Preflight, engines: Engines, executor: Executor) -> Mapping[str, TaskFacts]:
    """Let mergekit and lm-eval say whether recipes and tasks are fit for use.

    Raises:
        RecipeError: mergekit refuses a recipe.
        TaskError: lm-eval has no such task or metric, or cannot read its data.
        RunError: The worker died.
    """
    first, second = list(found.config.foundation_models)[:2]
    config = found.config
    folders = {name: source.path for name, source in found.sources.items()}
    recipes = {
        name: merging.render(
            template,
            parents=(folders[first], folders[second]),
            base=folders[_BASE],
            num_layers=int(found.layouts[first].setting("num_hidden_layers")),
            dtype=config.merge.dtype,
            tokenizer=merging.resolve_tokenizer(config.merge.tokenizer, list(folders.values())),
        )
        for name, template in found.templates.items()
    }
    job = InspectJob(recipes, task_specs(config), config.evaluation.task_dirs, config.evaluation.model)
    executor.submit(Call("inspect", engines.inspect, job))
    while (outcome := executor.wait(1.0)) is None:
        pass
    if isinstance(outcome, Failed):
        raise outcome.error or RunError(f"checking recipes and tasks: {outcome.reason}")
    result: InspectResult = outcome.result
    return result.tasks


def _located(key: str, source: ModelSource) -> Source:
    if isinstance(source, AdapterSource):
        raise ModelError(
            f"{key}: adapters are not supported yet; merge the adapter into its model and give that folder"
        )
    try:
        return resolve(source)
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from None


def _layout(name: str, source: Source) -> Layout:
    key = name if name == _BASE else f"foundation_models.{name}"
    try:
        return read_layout(source.path)
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from None
