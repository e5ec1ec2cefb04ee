"""Stage 2, check: recipes, models, tasks and device are checked with headers and engines.

No weights are read, so it takes seconds for models of any size. Errors that it can find do not occur later in a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from evolve.config import Config
from evolve.engines import merging
from evolve.engines.checkpoints import Layout, differences, differing_settings, flaw_of, read_layout
from evolve.engines.pickled import pickled_layout
from evolve.engines.protocols import (
    Engines,
    FilterMatch,
    InspectModelsJob,
    InspectTasksJob,
    ModelFacts,
    PlanMergesJob,
    TaskFacts,
)
from evolve.engines.sources import LocatedModel
from evolve.errors import ModelError, RecipeError, TaskError
from evolve.lineage import Pair, most_children
from evolve.run.child import Child, choose_tokenizer, load_template, recipe_models, size_of
from evolve.run.executors import Call, Executor, run_call
from evolve.run.inputs.locate import BASE, Located, check_folders, config_key
from evolve.run.scratch import scratch_folder
from evolve.run.tasks import task_specs

__all__ = [
    "Checked",
    "Needs",
    "check_inputs",
    "check_merges",
    "layout_of",
    "recipes_of",
    "refuse_misfits",
    "with_task_key",
]


@dataclass(frozen=True)
class Needs:
    """The most that a run can need.

    Attributes:
        first: Number of children of generation 1.
        later: The most children of a later generation.
        checkpoint: Bytes of one child; 0 if no foundation is on this machine.
        total: The most bytes of all children of all generations.
    """

    first: int
    later: int
    checkpoint: int
    total: int


@dataclass(frozen=True)
class Checked:
    """A configuration that passed all checks.

    Attributes:
        located: The locations of the models.
        layouts: The models' tensors, by name; empty for pickled weights.
        templates: The recipes by their names in the configuration.
        tasks: Facts about each task.
        layers: Number of layers of the models; None if transformers does not give it.
        filters: Number of tensors that each filter of each recipe matches; only if a merge could be planned.
        planned: Whether mergekit planned every pair of generation 1.
    """

    located: Located
    layouts: Mapping[str, Layout]
    templates: Mapping[str, merging.Template]
    tasks: Mapping[str, TaskFacts]
    layers: int | None
    filters: Mapping[str, tuple[FilterMatch, ...]]
    planned: bool

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.located.config

    @property
    def recipe_models(self) -> list[str]:
        """Paths of the models that recipes name beside the parents and the base."""
        return recipe_models(self.templates.values())[0]

    @property
    def unshared(self) -> dict[str, str]:
        """Why scores of tasks cannot be shared, if a recipe names a model of the Hub that may change; by task."""
        _, loose = recipe_models(self.templates.values())
        reason = f"merge.recipe names {', '.join(loose)} of the Hub without a commit; write <name>@<commit>"
        return {task.task: reason for task in self.config.evaluation.tasks} if loose else {}

    @property
    def needs(self) -> Needs:
        """The most that the run can need."""
        first, later = most_children(self.config, 1), most_children(self.config, 2)
        foundations = [layout for name, layout in self.layouts.items() if name != BASE]
        checkpoint = size_of(foundations, self.config.merge.dtype)
        return Needs(
            first, later, checkpoint, checkpoint * (first + later * (self.config.strategy.max_generations - 1))
        )

    @property
    def differing_settings(self) -> dict[str, dict[str, Any]]:
        """Settings of the architecture that differ among the models; every merge takes them from parent 1."""
        return differing_settings(self.layouts)


def check_inputs(located: Located, engines: Engines, executor: Executor, *, complete: bool) -> Checked:
    """Check everything that can be checked without reading weights.

    Args:
        located: The configuration and its models.
        engines: The engines.
        executor: Runs the engines.
        complete: Download the data of tasks from the Hub, to render their documents.

    Raises:
        ModelError: A model is damaged, needs custom code, or does not fit the others.
        RecipeError: A template is invalid, or mergekit cannot merge a pair of generation 1 with it.
        TaskError: lm-eval has no such task, metric or model class, or cannot read the data.
        ConfigError: The device does not exist, or a data folder is missing.
        RunError: The worker failed.
    """
    config = located.config
    templates = {name: load_template(name) for name in config.merge.recipes}
    check_folders(config)
    layouts = {name: layout_of(name, model) for name, model in located.models.items()}
    refuse_misfits(layouts)
    recipe_models(templates.values())
    job = _tasks_job(config, complete=complete)
    # What is wrong in the task files and recipes is said before data are read or downloaded.
    tasks = _inspect(config, replace(job, render=False), engines, executor)
    _check_directions(config, tasks)
    checked = Checked(located, layouts, templates, tasks, None, {}, planned=False)
    checked = check_merges(checked, engines, executor)
    tasks = _inspect(config, job, engines, executor)
    _refuse_racing(config, tasks)
    return replace(checked, tasks=tasks)


def check_merges(checked: Checked, engines: Engines, executor: Executor) -> Checked:
    """Read the models' configurations with transformers, and plan every merge of generation 1 with mergekit.

    Raises:
        ModelError: A model needs custom code.
        RecipeError: mergekit cannot merge a pair.
        ConfigError: The device does not exist.
        RunError: The worker failed.
    """
    config, models = checked.config, checked.located.models
    folders = {config_key(name): model.path for name, model in models.items()}
    job = InspectModelsJob(folders, config.device, trust_remote_code=config.trust_remote_code)
    facts: Mapping[str, ModelFacts] = run_call(executor, Call("inspect models", engines.inspect_models, job))
    layers = next((fact.layers for fact in facts.values() if fact.layers is not None), None)
    checked = replace(checked, layers=layers)
    with _separate_folders(models) as paths:
        pairs = _pairs(checked)
        recipes = {name: tuple(recipes_of(checked, name, pairs, paths)) for name in checked.templates}
        planning = PlanMergesJob(recipes, plan=bool(pairs), trust_remote_code=config.trust_remote_code)
        try:
            filters = run_call(executor, Call("check recipes", engines.plan_merges, planning))
        except RecipeError as error:
            raise RecipeError(" ".join(str(error).split())) from None
    complete = len(pairs) == len(list(combinations(config.foundation_models, 2)))
    return replace(checked, filters=filters, planned=complete)


def refuse_misfits(layouts: Mapping[str, Layout]) -> None:
    """Raise ModelError if a model is unusable, or differs from the first one, the base, in architecture or shapes."""
    for name, layout in layouts.items():
        if (flaw := flaw_of(layout)) is not None:
            raise ModelError(f"{config_key(name)} = {layout.folder}: {flaw}")
        difference = differences(next(iter(layouts.values())), layout)
        if difference is not None:
            raise ModelError(f"{config_key(name)}: {difference}; give a model that was tuned from the base model")


def layout_of(name: str, model: LocatedModel) -> Layout:
    """Return the tensors of a model, none if they are pickled; raise ModelError with the key if it is unusable."""
    try:
        return pickled_layout(model.path) if model.pickled else read_layout(model.path)
    except ModelError as error:
        raise ModelError(f"{config_key(name)}: {error}") from None
    except OSError as error:
        raise ModelError(
            f"{config_key(name)}: {error.filename} cannot be read ({error.strerror}): make it readable"
        ) from None


# ------------------------------------------------------------------------------------------------------------- merges


def _pairs(checked: Checked) -> list[Pair]:
    """Return the pairs of generation 1 whose weights are on this machine; none without those of the base."""
    ready = {name for name, model in checked.located.models.items() if not model.pickled}
    names = [name for name in checked.config.foundation_models if name in ready]
    return list(combinations(names, 2)) if BASE in ready else []


def recipes_of(checked: Checked, name: str, pairs: Sequence[Pair], paths: Mapping[str, Path]) -> Iterator[str]:
    """Return the recipes of the pairs from one template.

    The better parent of a pair is not known yet. The order of the parents matters only if the child gets a new
    tokenizer, so in this case both orders are returned.
    """
    config, template = checked.config, checked.templates[name]
    try:
        if not pairs:
            setting = config.merge.tokenizer
            folders = (Path("/parent-1"), Path("/parent-2"))
            tokenizer = None if setting == "auto" else setting
            yield Child(template, folders, Path("/base"), 2, config.merge.dtype, tokenizer).recipe()
        for a, b in pairs:
            first, second, base = paths[a], paths[b], paths[BASE]
            tokenizer = choose_tokenizer(config.merge.tokenizer, template, (first, second), base)
            for parents in ((first, second), (second, first))[: 1 if tokenizer is None else 2]:
                yield Child(template, parents, base, checked.layers, config.merge.dtype, tokenizer).recipe()
    except RecipeError as error:
        raise RecipeError(f"merge.recipe = {name}: {' '.join(str(error).split())}") from None


@contextmanager
def _separate_folders(models: Mapping[str, LocatedModel]) -> Iterator[dict[str, Path]]:
    """Give each model a separate folder, as mergekit requires; two adapters may adapt the same model."""
    with scratch_folder() as links:
        folders = {name: model.path for name, model in models.items()}
        for name, model in models.items():
            if model.adapter is not None:
                folders[name] = links / name
                folders[name].symlink_to(model.path, target_is_directory=True)
        yield folders


# -------------------------------------------------------------------------------------------------------------- tasks


def _tasks_job(config: Config, *, complete: bool) -> InspectTasksJob:
    evaluation = config.evaluation
    return InspectTasksJob(
        tasks=task_specs(config),
        task_dirs=evaluation.task_dirs,
        model=evaluation.model,
        batch_size=evaluation.batch_size,
        seed=config.seed,
        complete=complete,
        trust_task_code=evaluation.trust_task_code,
    )


def _inspect(config: Config, job: InspectTasksJob, engines: Engines, executor: Executor) -> Mapping[str, TaskFacts]:
    try:
        facts: Mapping[str, TaskFacts] = run_call(executor, Call("check tasks", engines.inspect_tasks, job))
    except TaskError as error:
        raise with_task_key(config, error) from None
    return facts


def with_task_key(config: Config, error: TaskError) -> TaskError:
    """Return an error of the evaluation on one line, with the key of the task that it names."""
    words = " ".join(str(error).split()).removeprefix("evaluation: ")
    for number, task in enumerate(config.evaluation.tasks):
        if f"'{task.task}'" in words:
            value = f"{{task: {task.task}, metric: '{task.metric}'}}"
            return TaskError(f"evaluation.tasks.{number} = {value}: {words}")
    return TaskError(words if words.startswith("evaluation.") else f"evaluation: {words}")


def _refuse_racing(config: Config, facts: Mapping[str, TaskFacts]) -> None:
    """Reject racing on a metric that is not a mean over items, because a part of the items does not estimate it."""
    for number, task in enumerate(config.evaluation.tasks):
        reason = facts[task.task].not_a_mean
        if config.evaluation.racing is not None and reason is not None:
            raise TaskError(
                f"evaluation.tasks.{number}.metric = {task.metric}: evaluation.racing needs means over items, and "
                f"{reason}; choose another metric, or set evaluation.racing to null"
            )


def _check_directions(config: Config, facts: Mapping[str, TaskFacts]) -> None:
    """Reject lower-is-better metrics unless `higher_is_better: false` is set."""
    for number, task in enumerate(config.evaluation.tasks):
        key = f"evaluation.tasks.{number}"
        if not facts[task.task].higher_is_better and task.higher_is_better is not False:
            raise TaskError(
                f"{key}.metric = {task.metric}: lower is better for it at task '{task.task}', but higher is better in "
                f"the average; choose another metric, or set {key}.higher_is_better to false, so that it counts with "
                "a minus sign"
            )
        if facts[task.task].higher_is_better and task.higher_is_better is False:
            raise TaskError(
                f"{key}.higher_is_better = false: higher is better for {task.metric} at task '{task.task}'; remove it"
            )
