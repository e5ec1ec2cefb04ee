"""Checks the tasks of an evaluation before any work starts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from evolve.engines.evaluation.reads import GENERATED
from evolve.engines.protocols import InspectTasksJob, Report, TaskFacts, TaskSpec
from evolve.errors import TaskError

if TYPE_CHECKING:
    from evolve.engines.evaluation.reads import Reads
    from evolve.engines.evaluation.taskfiles import PlannedTask

__all__ = ["inspect_tasks"]

_LOCAL_BUILDERS = {"arrow", "csv", "json", "pandas", "parquet", "text"}


def inspect_tasks(job: InspectTasksJob, report: Report) -> dict[str, TaskFacts]:
    """Check the model class, and that each task exists, has its metric and can be rendered with its data.

    Loads no model. Renders every document with its few-shot examples if its data are on this machine or, with
    `job.complete`, on the Hub.

    Args:
        job: The tasks and the model class.
        report: Called with the name of the task that is being checked, and with its rendered documents.

    Returns:
        Facts by task name.

    Raises:
        TaskError: A task, its metric, its data, the model class or its batch size is invalid, or the Python of a task
            is not trusted.
    """
    from evolve.engines.evaluation.catalog import Catalog
    from evolve.engines.evaluation.models import check_model_class
    from evolve.engines.evaluation.quiet import quiet
    from evolve.engines.evaluation.reads import Reads, recorded
    from evolve.engines.evaluation.sourcefiles import refuse_untrusted_code
    from evolve.engines.evaluation.taskfiles import plan_tasks
    from evolve.engines.evaluation.tasks import forget_all_but
    from evolve.engines.generators import preserved_generators

    report("checking tasks", 0, len(job.tasks))
    with quiet(evaluating=False), preserved_generators():
        check_model_class(job.model, job.batch_size)
        plans = plan_tasks(job.tasks, Catalog(job.task_dirs))
        for plan in plans:
            refuse_untrusted_code(plan.spec.task, plan.sources, trusted=job.trust_task_code)
        forget_all_but(())  # all files are read again, to be recorded
        facts, reads = {}, {plan.spec.task: Reads() for plan in plans}
        for plan in plans:
            with recorded(reads[plan.spec.task]):
                facts[plan.spec.task] = _facts(plan)
        for done, plan in enumerate(plans if job.render else ()):
            report(f"checking {plan.spec.task}", done, len(plans))
            with recorded(reads[plan.spec.task]):
                rendered = _render(plan, job, facts[plan.spec.task], report)
            facts[plan.spec.task] = _with_reads(rendered, plan, reads[plan.spec.task])
    return facts


def _with_reads(facts: TaskFacts, plan: PlannedTask, reads: Reads) -> TaskFacts:
    """Add what was read to the facts of a task, and why that does not identify its score."""
    reads.opened |= dict.fromkeys(str(path.absolute()) for path in (*plan.sources.texts, *plan.sources.modules))
    files = reads.files(imports=bool(plan.sources.code))
    problems = list(reads.problems)
    servers = reads.servers(imports=bool(plan.sources.code))
    if servers and not reads.commits:
        problems.append(f"its Python asks the server {servers[0]}")
    loaded = facts.documents is not None
    if loaded and facts.needs_hub and not problems and not reads.commits and not _reads_own_data(files, plan):
        problems.append("the revision of its data is unknown")
    return replace(
        facts,
        reads=tuple(files),
        revision=reads.revision if loaded else None,
        unidentified=problems[0] if problems else None,
    )


def _reads_own_data(files: Sequence[Path], plan: PlannedTask) -> bool:
    """Return whether a task whose data set has no name reads local files, or makes its documents by code alone."""
    return bool(plan.sources.code) or any(path not in plan.sources.texts for path in files)


def _facts(plan: PlannedTask) -> TaskFacts:
    """Return the facts in the task's files, before its data are read."""
    with tempfile.TemporaryDirectory(prefix=GENERATED) as folder:
        configs = [_resolved(plan.spec.task, file) for file in plan.write(Path(folder))]
    leaves = [config for config in configs if "group" not in config]
    types = {_output_type(config) for config in leaves}
    return TaskFacts(
        documents=None,
        output_type=types.pop() if len(types) == 1 else "mixed",
        higher_is_better=_group_direction(plan.spec, configs[0], leaves)
        if plan.definition.is_group
        else _direction(plan.spec, configs[0]),
        needs_hub=any(_needs_hub(config) for config in leaves) or not leaves,
        weighted_by_size=all(entry.get("weight_by_size", True) for entry in _aggregates(plan.spec, configs[0])),
    )


def _output_type(config: Mapping[str, Any]) -> str:
    if "class" in config:
        return config["class"].OUTPUT_TYPE or "python"
    return str(config.get("output_type", "generate_until"))


def _resolved(task: str, file: Path) -> Mapping[str, Any]:
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        config: Mapping[str, Any] = load_yaml(file, resolve_func=True)
    except ImportError as error:
        raise TaskError(f"evaluation: task '{task}' needs a package that is not installed: {error}") from error
    except (AttributeError, OSError, SyntaxError, ValueError, yaml.YAMLError) as error:
        raise TaskError(f"evaluation: the functions of task '{task}' cannot be loaded: {error}") from error
    return config


def _metrics(config: Mapping[str, Any]) -> dict[str, bool | None]:
    """Return whether higher is better, by metric key with filter; `*` is any name, known only when the task runs."""
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    filters = [entry["name"] for entry in config.get("filter_list") or ()] or ["none"]
    if "class" in config:
        return {
            f"{name},{kind}": higher for name, higher in _class_metrics(config["class"]).items() for kind in filters
        }
    listed = config.get("metric_list")
    if listed is None:
        listed = [{"metric": name} for name in DEFAULT_METRIC_REGISTRY[config.get("output_type", "generate_until")]]
    # A function may give several metrics under its own names.
    names = [(("*" if callable(entry["metric"]) else entry["metric"]), _higher(entry)) for entry in listed]
    return {f"{name},{kind}": higher for name, higher in names for kind in filters}


def _class_metrics(cls: Any) -> Mapping[str, bool | None]:
    try:
        # Most classes return a constant; creating a real instance would download its data.
        directions: Mapping[str, bool | None] = cls.higher_is_better(object.__new__(cls))
    except AttributeError:
        return {"*": None}
    return directions


def _higher(entry: Mapping[str, Any]) -> bool | None:
    from lm_eval.api.registry import HIGHER_IS_BETTER_REGISTRY

    if "higher_is_better" in entry:
        stated: bool | None = entry["higher_is_better"]
        return stated
    registered: bool | None = (
        None if callable(entry["metric"]) else HIGHER_IS_BETTER_REGISTRY.get(entry["metric"], None)
    )
    return registered


def _direction(spec: TaskSpec, config: Mapping[str, Any]) -> bool:
    metrics = _metrics(config)
    key = spec.metric if spec.metric in metrics else f"*,{spec.metric.partition(',')[2]}"
    if key not in metrics:
        raise TaskError(
            f"evaluation: task '{spec.task}' has no metric '{spec.metric}'; it has {', '.join(sorted(metrics))}"
        )
    direction = metrics[key]
    if direction is None:
        raise TaskError(
            f"evaluation: task '{spec.task}' does not say whether more of '{spec.metric}' is better. "
            "State `higher_is_better` in the metric_list of its file."
        )
    return direction


def _group_direction(spec: TaskSpec, group: Mapping[str, Any], leaves: Sequence[Mapping[str, Any]]) -> bool:
    kind, fitting = spec.metric.partition(",")[2], _aggregates(spec, group)
    known = [_metrics(leaf) for leaf in leaves]
    filters = {kind for entry in fitting for kind in _filters(entry, known)}
    if not fitting or (filters and kind not in filters):
        has = sorted(f"{entry['metric']},{kind}" for entry in _listed(group) for kind in _filters(entry, known))
        raise TaskError(
            f"evaluation: the group '{spec.task}' has no aggregate '{spec.metric}'; it has "
            f"{', '.join(has) or 'none: list its tasks instead'}"
        )
    directions = {metrics[spec.metric] for metrics in known if spec.metric in metrics}
    direction = directions.pop() if len(directions) == 1 else None
    if direction is None:
        raise TaskError(
            f"evaluation: the tasks of '{spec.task}' do not agree whether more of '{spec.metric}' is better"
        )
    return direction


def _listed(group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the aggregates of a group; a task has none."""
    listed = group.get("aggregate_metric_list") or []
    return [listed] if isinstance(listed, dict) else list(listed)


def _aggregates(spec: TaskSpec, group: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the aggregates of the configured metric."""
    return [entry for entry in _listed(group) if entry["metric"] == spec.metric.partition(",")[0]]


def _filters(entry: Mapping[str, Any], known: Sequence[Mapping[str, Any]]) -> list[str]:
    filters = entry.get("filter_list")
    if filters is not None:
        return [filters] if isinstance(filters, str) else list(filters)
    keys = {key.partition(",") for metrics in known for key in metrics}
    return sorted({kind for name, _, kind in keys if name == entry["metric"]})


def _needs_hub(config: Mapping[str, Any]) -> bool:
    path = config.get("dataset_path")
    if path in _LOCAL_BUILDERS:
        return "://" in str((config.get("dataset_kwargs") or {}).get("data_files", ""))
    return path is None or not Path(path).is_dir()


def _render(plan: PlannedTask, job: InspectTasksJob, facts: TaskFacts, report: Report) -> TaskFacts:
    """Build a task and render its documents; add what they show to its facts if its data are on this machine."""
    from evolve.engines.evaluation.data import validate_files
    from evolve.engines.evaluation.items import not_a_mean
    from evolve.engines.evaluation.rendering import render_documents, try_results
    from evolve.engines.evaluation.tasks import TaskLoader

    if plan.spec.dataset is not None:
        validate_files(plan.spec.task, _data_files(plan))
    local_only = facts.needs_hub and not job.complete
    with tempfile.TemporaryDirectory(prefix=GENERATED) as folder, _hub_off() if local_only else nullcontext():
        try:
            tasks = TaskLoader(Path(folder) / "task", plan, {}).build()
        except TaskError:
            if local_only:
                return facts
            raise
        if plan.sources.code:
            try_results(tasks.values())
        members = render_documents(tasks, plan.spec, job.seed, report)
        problem = not_a_mean(tasks, plan.spec.metric)
    return replace(facts, documents=sum(members.values()), members=members, not_a_mean=problem)


@contextmanager
def _hub_off() -> Iterator[None]:
    """Let `datasets` use only what is in its cache."""
    import datasets
    from huggingface_hub import constants

    with (
        mock.patch.object(datasets.config, "HF_HUB_OFFLINE", True),  # noqa: FBT003
        mock.patch.object(constants, "HF_HUB_OFFLINE", True),  # noqa: FBT003
    ):
        yield


def _data_files(plan: PlannedTask) -> list[str]:
    import yaml

    files: Mapping[str, str] = yaml.safe_load(next(iter(plan.texts.values())))["dataset_kwargs"]["data_files"]
    return list(files.values())
