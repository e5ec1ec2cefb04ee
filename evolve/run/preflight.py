"""All that can be known of a run before its work: models, recipes, tasks, data, and what it will ask of the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

from evolve import __version__
from evolve.config import AdapterSource, Config, ModelSource
from evolve.engines import merging
from evolve.engines.checkpoints import Layout, differences, read_layout
from evolve.engines.pickled import pickled_layout
from evolve.engines.protocols import Engines, InspectJob, InspectResult, TaskFacts
from evolve.engines.sources import NotAtHandError, Source
from evolve.errors import ModelError, RecipeError, RunError, TaskError
from evolve.lineage import FoundationEntry, RunStarted
from evolve.run.blame import one_line, recipe_blamed, refuse_losses, task_blamed
from evolve.run.derived import DerivedCache
from evolve.run.executors import Call, Executor, Failed, outcome_of
from evolve.run.foundations import BASE, config_key, locate, made, stand_ins
from evolve.run.identity import hash_data, identity_of
from evolve.run.store import task_specs

__all__ = ["Needs", "Preflight", "entry_of", "inspect_engines", "look_at_models", "with_models_made"]

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_ENGINES = ("mergekit", "lm_eval", "peft", "torch", "transformers")


@dataclass(frozen=True)
class Needs:
    """What a run asks for at most.

    Attributes:
        first: Children of generation 1.
        later: Children of each later generation at most.
        checkpoint: Bytes of one child; 0 where no foundation could be looked at.
        total: Bytes of all children of all generations at most.
    """

    first: int
    later: int
    checkpoint: int
    total: int


@dataclass(frozen=True)
class Preflight:
    """What was found; that it exists says that nothing known is wrong.

    Attributes:
        sources: The base and the foundations by name; while an adapter is not merged, the model that it adapts.
        layouts: Of the same; while pickled weights are not converted, without tensors.
        missing: Why models could not be looked at, by name; only where that was asked for.
    """

    config: Config
    sources: Mapping[str, Source]
    layouts: Mapping[str, Layout]
    templates: Mapping[str, merging.Template]
    data: Mapping[str, str]
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def pickled(self) -> tuple[str, ...]:
        """Names of the models whose weights are pickled and not converted yet."""
        return tuple(name for name, source in self.sources.items() if source.pickled)

    @property
    def needs(self) -> Needs:
        """What the run asks for at most."""
        recipes = len(self.config.merge.recipes)
        foundations = len(self.config.foundation_models)
        strategy = self.config.strategy
        first = len(list(combinations(range(foundations), 2))) * recipes
        later = (strategy.pair_limit + (strategy.name == "kinship")) * recipes
        size = max(
            (
                sum(info.elements for info in layout.tensors.values())
                for name, layout in self.layouts.items()
                if name != BASE
            ),
            default=0,
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
            base=self._entry(BASE, self.config.base_model, identities),
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


def look_at_models(config: Config, *, partly: bool = False) -> Preflight:
    """Find the models, compare their shapes, read the recipes and hash the local data; imports no engine.

    Args:
        config: The configuration.
        partly: Go on without models that are not in the local cache while the hub cannot be asked for them.

    Raises:
        ModelError: A model is missing, damaged or does not fit the others.
        RecipeError: A recipe template is wrong.
        ConfigError: A data set's folder is missing.
    """
    templates = {name: _template(name) for name in config.merge.recipes}
    data = hash_data(config)
    sources: dict[str, Source] = {}
    missing: dict[str, str] = {}
    for name, source in {BASE: config.base_model, **config.foundation_models}.items():
        try:
            sources[name] = _located(config_key(name), source, pickled=config.allow_pickled_weights)
        except NotAtHandError as error:
            if not partly:
                raise
            missing[name] = str(error)
    layouts = {name: _layout(name, source) for name, source in sources.items()}
    _refuse_strangers(layouts)
    return Preflight(config, sources, layouts, templates, data, missing)


def _refuse_strangers(layouts: Mapping[str, Layout]) -> None:
    for name, layout in layouts.items():
        difference = differences(next(iter(layouts.values())), layout)
        if difference is not None:
            raise ModelError(f"{config_key(name)}: {difference}; give a model that was tuned from the base model")


def with_models_made(
    found: Preflight, identities: Mapping[str, str], *, adapters: DerivedCache, converted: DerivedCache
) -> tuple[Preflight, dict[str, str]]:
    """The same with each adapter merged into its model, all weights converted, and the identities of what came of it.

    Raises:
        ModelError: An adapter cannot be merged or pickled weights not be converted, or what comes of them does not fit
            the other models.
        RunError: The worker failed.
    """
    sources = dict(found.sources)
    for name, source in found.sources.items():
        if source.adapter is not None or source.pickled:
            cache, trust = converted if source.pickled else adapters, found.config.trust_remote_code
            sources[name] = made(cache, name, source, identities[name], trust_remote_code=trust)
    new = [name for name, source in sources.items() if source is not found.sources[name]]
    layouts = {**found.layouts, **{name: _layout(name, sources[name]) for name in new}}
    _refuse_strangers(layouts)
    made_of = {name: identity_of(sources[name].path) for name in new}
    return replace(found, sources=sources, layouts=layouts), {**identities, **made_of}


def inspect_engines(found: Preflight, engines: Engines, executor: Executor) -> Mapping[str, TaskFacts]:
    """Let mergekit and lm-eval say whether recipes and tasks are fit for use.

    Raises:
        RecipeError: mergekit refuses a recipe.
        TaskError: lm-eval has no such task or metric, or cannot read its data.
        RunError: The worker died.
    """
    config = found.config
    with stand_ins(found.sources) as folders:
        job = InspectJob(
            _drafts(found, folders),
            task_specs(config),
            config.evaluation.task_dirs,
            config.evaluation.model,
            trust_remote_code=config.trust_remote_code,
            models={config_key(name): source.path for name, source in found.sources.items()},
            plan=_parents(found) is not None,
            device=config.device,
        )
        outcome = outcome_of(executor, Call("inspect", engines.inspect, job))
        if isinstance(outcome, Failed):
            if isinstance(outcome.error, TaskError):
                raise task_blamed(config, outcome.error)
            if isinstance(outcome.error, RecipeError):
                raise one_line(outcome.error)
            raise outcome.error or RunError(f"checking recipes and tasks: {outcome.reason}")
    result: InspectResult = outcome.result
    refuse_losses(config, result.tasks)
    return result.tasks


def _parents(found: Preflight) -> tuple[str, str] | None:
    """Two foundations whose tensors are at hand, as are the base's; None where there are none."""
    known = [name for name, source in found.sources.items() if not source.pickled]
    names = [name for name in known if name != BASE]
    return (names[0], names[1]) if len(names) > 1 and BASE in known else None


def _drafts(found: Preflight, folders: Mapping[str, Path]) -> dict[str, str]:
    """One imagined merge by each recipe; of imagined models, where not enough of the real ones are at hand."""
    merge, parents = found.config.merge, _parents(found)
    tokenizer: merging.Source | None
    if parents is not None:
        layers, tokenizer = _layers(parents[0], found.layouts[parents[0]]), _tokenizer(found, folders)
        one, other, base = (folders[name] for name in (*parents, BASE))
    else:
        layers, tokenizer = 2, None if merge.tokenizer == "auto" else merge.tokenizer
        one, other, base = (Path("/imagined") / name for name in ("one", "other", "base"))
    recipes = {}
    for name, template in found.templates.items():
        try:
            recipes[name] = merging.render(
                template, parents=(one, other), base=base, num_layers=layers, dtype=merge.dtype, tokenizer=tokenizer
            )
        except RecipeError as error:
            raise recipe_blamed(name, error) from None
    return recipes


def _tokenizer(found: Preflight, folders: Mapping[str, Path]) -> merging.Source | None:
    return merging.resolve_tokenizer(found.config.merge.tokenizer, list(folders.values()))


def _template(name: str) -> merging.Template:
    try:
        return merging.load_template(name)
    except RecipeError as error:
        raise recipe_blamed(name, error) from None


def _layers(name: str, layout: Layout) -> int:
    layers = layout.setting("num_hidden_layers")
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
        raise ModelError(
            f"foundation_models.{name}: {layout.folder / 'config.json'} gives {layers} for num_hidden_layers, not a "
            "number of layers; download the model again"
        )
    return layers


def _located(key: str, source: ModelSource, *, pickled: bool) -> Source:
    try:
        return locate(source, pickled=pickled)
    except ModelError as error:
        raise type(error)(f"{key} = {error}") from None


def _layout(name: str, source: Source) -> Layout:
    try:
        return pickled_layout(source.path) if source.pickled else read_layout(source.path)
    except ModelError as error:
        raise ModelError(f"{config_key(name)}: {error}") from None
    except OSError as error:
        raise ModelError(
            f"{config_key(name)}: {error.filename} cannot be read ({error.strerror}): make it readable"
        ) from None
