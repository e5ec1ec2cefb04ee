"""What an engine is asked and what it answers.

A job is a frozen, picklable record of everything that the work needs, except the device: whoever runs the job gives
that. An engine is a callable of one job and a `Report`, and of a device if it computes on one; it returns the result.
Engines run in a worker process and may import torch. This module imports nothing heavy, so that the driver can write
jobs and read results.

An engine that makes files writes them into the folder `output` of its job, which exists and is empty, and nowhere
else. The caller syncs that folder and renames it into place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = [
    "AdapterJob",
    "BatchSize",
    "ConversionJob",
    "Engines",
    "EvaluateJob",
    "EvaluateResult",
    "Evaluator",
    "FilterMatch",
    "InspectModelsJob",
    "InspectTasksJob",
    "KinshipJob",
    "KinshipMeter",
    "KinshipResult",
    "MergeJob",
    "MergeResult",
    "Merger",
    "ModelFacts",
    "ModelInspector",
    "PairKinship",
    "RecipeRehearser",
    "RehearseJob",
    "Report",
    "TaskFacts",
    "TaskInspector",
    "TaskScore",
    "TaskSpec",
    "task_folder",
]

BatchSize = int | Literal["auto"]


class Report(Protocol):
    """Reports progress; an engine calls it from its own process, as often as it likes."""

    def __call__(self, words: str, done: int, total: int) -> None:
        """Report `done` of `total` units of the work that `words` name."""


# -------------------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class AdapterJob:
    """One adapter to be merged into its model.

    Attributes:
        model: Checkpoint folder of the model.
        adapter: Folder of the adapter.
        output: An empty staging folder for the checkpoint.
        dtype: torch's name of the result's type; None: the type of most of the model's weights.
    """

    model: Path
    adapter: Path
    output: Path
    dtype: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class ConversionJob:
    """One model whose pickled weights are to be converted to safetensors.

    Attributes:
        model: Its checkpoint folder.
        output: An empty staging folder for the checkpoint.
    """

    model: Path
    output: Path


# ------------------------------------------------------------------------------------------------------------ merging


@dataclass(frozen=True)
class MergeJob:
    """One merge.

    Attributes:
        recipe: Complete mergekit YAML, with absolute paths of the parents, as it is kept in the run folder.
        parents: Checkpoint folders of the parents, the first being mergekit's `base_model`.
        output: An empty staging folder for the checkpoint.
    """

    recipe: str
    parents: tuple[Path, ...]
    output: Path
    trust_remote_code: bool = False


@dataclass(frozen=True)
class MergeResult:
    """A verified checkpoint: it loads, its tensors are those of its configuration, and all are finite.

    Attributes:
        bytes: Size of all files together.
        seconds: Wall time of the merge and its verification.
        files: Size in bytes and SHA-256 of every file of the checkpoint, by name relative to the folder.
    """

    bytes: int
    seconds: float
    files: Mapping[str, tuple[int, str]]


class Merger(Protocol):
    """Merges; raises `MergeError` where the recipe or its outcome is unusable."""

    def __call__(self, job: MergeJob, report: Report, device: str = "auto") -> MergeResult:
        """Merge on a torch device; `auto` is CUDA where there is one."""


# ------------------------------------------------------------------------------------------------------ evaluation


@dataclass(frozen=True)
class TaskSpec:
    """One benchmark task and the one metric of it that counts.

    Attributes:
        task: Name of an lm-eval task or group.
        metric: lm-eval's metric key with its filter, for example `exact_match,strict-match`.
        num_fewshot: Number of examples in the prompt; None leaves it to the task.
        limit: Evaluate the first so many documents only; None: all.
        generation_kwargs: Entries that override those of the task's own `generation_kwargs`.
        dataset: Folder with `<split>.jsonl` or `<split>.parquet` files that replace the task's own data set.
    """

    task: str
    metric: str
    num_fewshot: int | None = None
    limit: int | None = None
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    dataset: Path | None = None


def task_folder(task: str) -> str:
    """Return the name of the folder that an evaluation keeps a task's results in."""
    return task.replace("/", "_")


@dataclass(frozen=True)
class EvaluateJob:
    """One evaluation of one checkpoint on some tasks.

    Each task is scored by a call of lm-eval of its own, so that its score does not depend on the other tasks.

    Attributes:
        checkpoint: Absolute folder of the model.
        tasks: The tasks, each with its metric; one model object serves them all.
        output: An empty staging folder. lm-eval's results (`results.json`) and samples (`samples_<task>.jsonl`) of
            each task go into the folder `task_folder(<task>)` in it.
        request_caches: By task: path stem of lm-eval's request cache for exactly this model and this task's settings.
            An interrupted evaluation resumes from it; the caller deletes it after success. A task without one has none.
        model: Name of the lm-eval model class.
        model_args: Arguments of that class apart from `pretrained`.
        seed: Seeds lm-eval's few-shot sampler and its generators.
    """

    checkpoint: Path
    tasks: tuple[TaskSpec, ...]
    output: Path
    request_caches: Mapping[str, Path] = field(default_factory=dict)
    model: str = "hf"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    batch_size: BatchSize = 16
    seed: int = 0
    task_dirs: tuple[Path, ...] = ()
    apply_chat_template: bool | str = False
    fewshot_as_multiturn: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class TaskScore:
    """Value of one metric as lm-eval gives it, with its standard error (None where lm-eval has none)."""

    metric: str
    value: float
    stderr: float | None
    samples: int


@dataclass(frozen=True)
class EvaluateResult:
    """Scores by task name, all of them finite; `seconds` is the wall time of each task without loading the model."""

    scores: Mapping[str, TaskScore]
    seconds: float
    batch_size: BatchSize
    task_seconds: Mapping[str, float] = field(default_factory=dict)


class Evaluator(Protocol):
    """Scores a checkpoint; raises `EvaluationError` where a score is missing or not finite."""

    def __call__(self, job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
        """Evaluate on a torch device; `auto` is CUDA where there is one."""


# --------------------------------------------------------------------------------------------------------- kinship


@dataclass(frozen=True)
class KinshipJob:
    """The kinships of some pairs of models over one base, measured in one pass over the files.

    Attributes:
        base: Checkpoint folder of the base model.
        models: Checkpoint folders by model name.
        pairs: Pairs of names of `models`.
    """

    base: Path
    models: Mapping[str, Path]
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PairKinship:
    """All three kinship metrics of one pair (arXiv 2410.12613, section 3).

    Attributes:
        pcc: Pearson correlation of the deltas, -1..1.
        cs: Cosine similarity of the deltas, -1..1, with its sign.
        ed: Euclidean distance of the deltas, >= 0.
        parameters: Number of scalar parameters compared.
        left_out: Rows of tensors that were not compared, as `(tensor, rows, share of the base's parameters)`.
    """

    a: str
    b: str
    pcc: float
    cs: float
    ed: float
    parameters: int = 0
    left_out: tuple[tuple[str, int, float], ...] = ()


@dataclass(frozen=True)
class KinshipResult:
    """Kinships in the order of the job's pairs, with the wall time of the pass."""

    pairs: tuple[PairKinship, ...]
    seconds: float
    bytes_read: int = 0


class KinshipMeter(Protocol):
    """Measures kinships; raises `KinshipError` where one is undefined, `ModelError` where files are unusable."""

    def __call__(self, job: KinshipJob, report: Report, device: str = "auto") -> KinshipResult:
        """Measure on a torch device; `auto` is CUDA where there is one."""


# ------------------------------------------------------------------------------------------------------ inspection


@dataclass(frozen=True)
class InspectModelsJob:
    """What only transformers can tell of models, and torch of the device; no weights are read.

    Attributes:
        models: Checkpoint folders, by the key of the configuration that names each.
        device: As configured; must be there.
    """

    models: Mapping[str, Path]
    device: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model's architecture.

    Attributes:
        layers: Number of layers, as transformers' configuration class gives it; None where it gives none.
    """

    layers: int | None


class ModelInspector(Protocol):
    """Inspects models; raises `ModelError` where one needs code of its own, `ConfigError` where there is no device."""

    def __call__(self, job: InspectModelsJob, report: Report) -> Mapping[str, ModelFacts]:
        """Return the facts by the keys of the job."""


@dataclass(frozen=True)
class RehearseJob:
    """Merges to be planned by mergekit without reading weights.

    Attributes:
        recipes: By name of the template: complete mergekit YAML of each merge to be planned.
        plan: Whether the models of the recipes are there, so that mergekit can plan the merges; otherwise the recipes
            are only parsed.
    """

    recipes: Mapping[str, tuple[str, ...]]
    plan: bool = True
    trust_remote_code: bool = False


@dataclass(frozen=True)
class FilterMatch:
    """How many tensors a filter of a recipe's parameter applies to.

    Attributes:
        parameter: mergekit's name of the parameter, for example `t`.
        filter: The text that a tensor's name has to contain.
        tensors: Number of tensors of the merge whose names do.
    """

    parameter: str
    filter: str
    tensors: int


class RecipeRehearser(Protocol):
    """Rehearses merges; raises `RecipeError` with the template's name where mergekit could not carry one out."""

    def __call__(self, job: RehearseJob, report: Report) -> Mapping[str, tuple[FilterMatch, ...]]:
        """Return the matches of each template's filters, counted for its first recipe; none if not planned."""


@dataclass(frozen=True)
class InspectTasksJob:
    """The tasks and the model class of an evaluation, to be checked without a model.

    Attributes:
        tasks: The tasks of the evaluation.
        model: Name of the lm-eval model class.
        batch_size: As configured; `auto` suits only some model classes.
    """

    tasks: tuple[TaskSpec, ...]
    task_dirs: tuple[Path, ...] = ()
    model: str = "hf"
    batch_size: BatchSize = 16


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task before it runs.

    Attributes:
        documents: Number of documents that will be scored; None where the data is still on the hub.
        output_type: lm-eval's word, for example `multiple_choice` or `generate_until`.
        higher_is_better: Direction of the chosen metric.
        needs_hub: Whether its data comes from the hub.
    """

    documents: int | None
    output_type: str
    higher_is_better: bool
    needs_hub: bool


class TaskInspector(Protocol):
    """Checks tasks; raises `TaskError` with the fix."""

    def __call__(self, job: InspectTasksJob, report: Report) -> Mapping[str, TaskFacts]:
        """Return the facts by task name."""


# ------------------------------------------------------------------------------------------------------- together


@dataclass(frozen=True)
class Engines:
    """The engines of a run; each must be picklable, hence a module-level function."""

    merge: Merger
    evaluate: Evaluator
    measure: KinshipMeter
    inspect_models: ModelInspector
    rehearse: RecipeRehearser
    inspect_tasks: TaskInspector
