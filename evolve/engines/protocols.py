"""Jobs, results and protocols of the engines.

A job is a frozen, picklable record of everything that the work needs except the device, which the executor chooses. An
engine is a callable of one job and a `Report`, and of a device if it computes on one; it returns the result. Engines
run in a worker process and may import torch. This module imports nothing heavy, so that the driver can write jobs and
read results.

An engine writes files only into the folder `output` of its job, which exists and is empty. The caller syncs that
folder and renames it into place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

__all__ = [
    "ANSWERS_FILE",
    "ITEMS_FILE",
    "ITEM_COLUMNS",
    "AdapterJob",
    "BatchSize",
    "ConversionJob",
    "Engines",
    "EvaluateJob",
    "EvaluateResult",
    "EvaluationRehearser",
    "Evaluator",
    "FilterMatch",
    "InspectModelsJob",
    "InspectTasksJob",
    "KinshipJob",
    "KinshipMeter",
    "KinshipResult",
    "MergeJob",
    "MergePlanner",
    "MergeRehearser",
    "MergeResult",
    "Merger",
    "ModelFacts",
    "ModelInspector",
    "PairKinship",
    "PlanMergesJob",
    "RehearseEvaluationJob",
    "RehearseMergeJob",
    "Report",
    "TaskFacts",
    "TaskInspector",
    "TaskScore",
    "TaskSpec",
    "task_folder",
]

BatchSize = int | Literal["auto"]


class Report(Protocol):
    """A listener to progress; an engine calls it in its own process, as often as it likes."""

    def __call__(self, words: str, done: int, total: int) -> None:
        """Report `done` of `total` units of the work that `words` names."""


# -------------------------------------------------------------------------------------------------------- checkpoints


@dataclass(frozen=True)
class AdapterJob:
    """The merge of one adapter into its model.

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
    """The conversion of one model's pickled weights to safetensors.

    Attributes:
        model: Checkpoint folder of the model.
        output: An empty staging folder for the checkpoint.
    """

    model: Path
    output: Path


# ------------------------------------------------------------------------------------------------------------ merging


@dataclass(frozen=True)
class MergeJob:
    """One merge.

    Attributes:
        recipe: Complete mergekit YAML with absolute paths of the parents.
        parents: Checkpoint folders of the parents, the first being mergekit's `base_model`.
        output: An empty staging folder for the checkpoint.
    """

    recipe: str
    parents: tuple[Path, ...]
    output: Path
    trust_remote_code: bool = False


@dataclass(frozen=True)
class MergeResult:
    """A verified checkpoint: it loads, its tensors match its configuration, and all numbers are finite.

    Attributes:
        bytes: Size of all files together.
        seconds: Wall time of the merge and its verification.
        files: Size in bytes and SHA-256 of every file of the checkpoint, by name relative to the folder.
    """

    bytes: int
    seconds: float
    files: Mapping[str, tuple[int, str]]


class Merger(Protocol):
    """An engine that merges; it raises `MergeError` if the recipe or the child is unusable."""

    def __call__(self, job: MergeJob, report: Report, device: str = "auto") -> MergeResult:
        """Merge on a torch device; `auto` is CUDA if available."""


# ------------------------------------------------------------------------------------------------------ evaluation


@dataclass(frozen=True)
class TaskSpec:
    """One benchmark task with the metric that is its score.

    Attributes:
        task: Name of an lm-eval task or group.
        metric: lm-eval's metric key with its filter, for example `exact_match,strict-match`.
        num_fewshot: Number of examples in the prompt; None: the task's default.
        first_shots: Whether the examples are always the first ones, instead of those that the task's sampler draws.
        limit: Number of first items to answer; None: all.
        items: Ids of the items to answer, ascending, by the name of the lm-eval task: one entry for a plain task, one
            per member for a group. A member without an entry is left out. An id is lm-eval's `doc_id`, counted from 0.
            The prompt of an item does not depend on which others are asked. None: all up to `limit`, which must be
            None if ids are given.
        generation_kwargs: Entries that override the task's `generation_kwargs`.
        dataset: Folder with `<split>.jsonl` or `<split>.parquet` files that replace the task's data set.
        revision: The Hub revision that the task's data must have; None: any.
    """

    task: str
    metric: str
    num_fewshot: int | None = None
    limit: int | None = None
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    dataset: Path | None = None
    revision: str | None = None
    items: Mapping[str, tuple[int, ...]] | None = None
    first_shots: bool = False

    def __post_init__(self) -> None:
        """Refuse item ids that are not ascending, and ids together with a limit."""
        if self.items is None:
            return
        if self.limit is not None:
            raise ValueError(f"task '{self.task}': give the limit {self.limit} or the items, not both")
        if not any(self.items.values()):
            raise ValueError(f"task '{self.task}': no items are asked")
        for name, ids in self.items.items():
            if any(item < 0 for item in ids) or any(a >= b for a, b in pairwise(ids)):
                raise ValueError(f"task '{self.task}': the items of '{name}' must be ascending ids from 0")

    def shortened(self, documents: int) -> TaskSpec:
        """Return the task with only its first documents."""
        limit = documents if self.limit is None else min(self.limit, documents)
        return replace(self, limit=limit, items=None)


ITEMS_FILE = "items.parquet"
"""Name of the file with the values of items, in the folder of a task and, for all its tasks, in that of a model."""

ITEM_COLUMNS = {"task": "string", "item": "int64", "value": "double", "doc_hash": "string"}
"""Columns of that file with pyarrow's names of their types."""

ANSWERS_FILE = "answers.parquet"
"""Name of the file with a model's answers in the folder of a task."""


def task_folder(task: str) -> str:
    """Return the name of the folder with a task's results."""
    return task.replace("/", "_")


@dataclass(frozen=True)
class EvaluateJob:
    """One evaluation of one checkpoint on some tasks.

    Each task is scored by a separate call of lm-eval, so that its score does not depend on the other tasks.

    Attributes:
        checkpoint: Absolute folder of the model.
        tasks: The tasks; all are scored with one loaded model.
        output: An empty staging folder. lm-eval's results (`results.json`) and samples (`samples_<task>.jsonl`) of
            each task go into the folder `task_folder(<task>)` in it, with the values of its items (`ITEMS_FILE`, if its
            metric is a mean over them) and the model's answers (`ANSWERS_FILE`).
        request_caches: Path stem of lm-eval's request cache by task, for exactly this model and the task's settings. An
            interrupted evaluation resumes from it; the caller deletes it after success. A task without a path has no
            cache.
        answers: Files `ANSWERS_FILE` of earlier evaluations by task, of exactly this model and the task's settings
            with other items. Their answers are not computed again. A file that cannot be used is ignored.
        prompts: Folder by task where prompts and their token ids are kept for later evaluations with exactly these
            settings of the task. It may be used by several runs and deleted at any time. Token ids are written there.
            Prompts that it lacks go to the task's folder in `output` (`prompts-*.parquet`), from where the caller moves
            them once it knows that no input has changed. A task without a folder has its prompts kept in this process
            only.
        model: Name of the lm-eval model class.
        model_args: Arguments of that class except `pretrained`.
        seed: Seed of lm-eval's few-shot sampler and generators.
        prefix_sharing: Whether the model class `hf` computes what requests have in common once; else lm-eval's own
            class answers.
    """

    checkpoint: Path
    tasks: tuple[TaskSpec, ...]
    output: Path
    request_caches: Mapping[str, Path] = field(default_factory=dict)
    answers: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    prompts: Mapping[str, Path] = field(default_factory=dict)
    model: str = "hf"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    batch_size: BatchSize = 16
    seed: int = 0
    task_dirs: tuple[Path, ...] = ()
    apply_chat_template: bool | str = False
    fewshot_as_multiturn: bool = False
    trust_remote_code: bool = False
    prefix_sharing: bool = True


@dataclass(frozen=True)
class TaskScore:
    """Value of one metric from lm-eval, with its standard error (None if lm-eval gives none)."""

    metric: str
    value: float
    stderr: float | None
    samples: int


@dataclass(frozen=True)
class EvaluateResult:
    """Finite scores by task name.

    Attributes:
        seconds: Wall time of the evaluation.
        task_seconds: Wall time of each task, without loading the model.
    """

    scores: Mapping[str, TaskScore]
    seconds: float
    batch_size: BatchSize
    task_seconds: Mapping[str, float] = field(default_factory=dict)


class Evaluator(Protocol):
    """An engine that scores a checkpoint; it raises `EvaluationError` if a score is missing or not finite."""

    def __call__(self, job: EvaluateJob, report: Report, device: str = "auto") -> EvaluateResult:
        """Evaluate on a torch device; `auto` is CUDA if available."""


@dataclass(frozen=True)
class RehearseEvaluationJob:
    """The rehearsal of one evaluation on the first documents of each task.

    Attributes:
        evaluation: The evaluation. Its output folder and its request caches are not used.
        keys: Configuration key of each task, for messages.
    """

    evaluation: EvaluateJob
    keys: Mapping[str, str]


class EvaluationRehearser(Protocol):
    """An engine that rehearses an evaluation.

    It raises `ConfigError` with the key of a wrong setting, or `TaskError`. It raises `RehearsalError` if the model may
    be the cause; the message then does not name the model.
    """

    def __call__(self, job: RehearseEvaluationJob, report: Report, device: str = "auto") -> Mapping[str, TaskScore]:
        """Evaluate on a torch device; `auto` is CUDA if available. A score may be NaN: few documents may give none."""


# --------------------------------------------------------------------------------------------------------- kinship


@dataclass(frozen=True)
class KinshipJob:
    """The measurement of the kinships of some pairs of models over one base, in one pass over the files.

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
        parameters: Number of compared scalar parameters.
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
    """An engine that measures kinships.

    It raises `KinshipError` if a kinship is undefined, and `ModelError` if files are unusable.
    """

    def __call__(self, job: KinshipJob, report: Report, device: str = "auto") -> KinshipResult:
        """Measure on a torch device; `auto` is CUDA if available."""


# ------------------------------------------------------------------------------------------------------ inspection


@dataclass(frozen=True)
class InspectModelsJob:
    """The inspection of models with transformers and of the device with torch; no weights are read.

    Attributes:
        models: Checkpoint folders by the configuration key of each model.
        device: The configured device.
    """

    models: Mapping[str, Path]
    device: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model's architecture.

    Attributes:
        layers: Number of layers from transformers' configuration class; None if it gives none.
    """

    layers: int | None


class ModelInspector(Protocol):
    """An engine that inspects models.

    It raises `ModelError` if a model needs custom code, and `ConfigError` if the device does not exist.
    """

    def __call__(self, job: InspectModelsJob, report: Report) -> Mapping[str, ModelFacts]:
        """Return the facts by the keys of the job."""


@dataclass(frozen=True)
class PlanMergesJob:
    """The planning of merges by mergekit, on shapes, without reading weights.

    Attributes:
        recipes: Complete mergekit YAML of each merge, by name of the template.
        plan: Whether to plan the merges, which needs their models; otherwise the recipes are only parsed.
    """

    recipes: Mapping[str, tuple[str, ...]]
    plan: bool = True
    trust_remote_code: bool = False


@dataclass(frozen=True)
class FilterMatch:
    """The number of tensors that a filter of a recipe matches.

    Attributes:
        parameter: mergekit's name of the parameter, for example `t`.
        filter: The string that the name of a matching tensor contains.
        tensors: Number of matching tensors of the merge.
    """

    parameter: str
    filter: str
    tensors: int


class MergePlanner(Protocol):
    """An engine that plans merges; it raises `RecipeError` with the template's name if mergekit rejects one."""

    def __call__(self, job: PlanMergesJob, report: Report) -> Mapping[str, tuple[FilterMatch, ...]]:
        """Return the matches of each template's filters for its first recipe; none if `plan` is false."""


@dataclass(frozen=True)
class RehearseMergeJob:
    """The rehearsal of one merge: its first and last layer, and all that is outside the layers, are merged in memory.

    Attributes:
        template: Name of the template.
        recipe: Complete mergekit YAML with absolute paths of the parents.
    """

    template: str
    recipe: str
    trust_remote_code: bool = False


class MergeRehearser(Protocol):
    """An engine that rehearses a merge; it raises `RecipeError` with the template's name if the merge fails."""

    def __call__(self, job: RehearseMergeJob, report: Report, device: str = "auto") -> None:
        """Merge on a torch device; `auto` is CUDA if available."""


@dataclass(frozen=True)
class InspectTasksJob:
    """The inspection of an evaluation's tasks and model class, without a model.

    Attributes:
        tasks: The tasks of the evaluation.
        model: Name of the lm-eval model class.
        batch_size: The configured batch size; only some model classes support `auto`.
        seed: Seed of lm-eval's few-shot sampler.
        render: Read the data and render the documents. Otherwise only the task files are checked.
        complete: Download data from the Hub. Otherwise data that are not on this machine are left out.
        trust_task_code: Whether Python of task files outside lm-eval may run.
    """

    tasks: tuple[TaskSpec, ...]
    task_dirs: tuple[Path, ...] = ()
    model: str = "hf"
    batch_size: BatchSize = 16
    seed: int = 0
    render: bool = True
    complete: bool = False
    trust_task_code: bool = False


@dataclass(frozen=True)
class TaskFacts:
    """Facts about a task before it runs.

    Attributes:
        documents: Number of documents that will be scored; None if the data are not downloaded yet.
        output_type: lm-eval's name, for example `multiple_choice` or `generate_until`.
        higher_is_better: Direction of the configured metric.
        needs_hub: Whether the data come from the Hub.
        reads: Every local file outside lm-eval's package that was read to build the task and to render its documents.
        revision: Commits of the data from the Hub; None if the data are local or not loaded.
        unidentified: Why the score of the task cannot be shared between runs; None if it can.
        members: Number of these documents by lm-eval task; None if the data are not loaded.
        weighted_by_size: Whether the score of a group is the mean over the items of all its tasks; otherwise it is the
            mean of its tasks' means.
        not_a_mean: Why the metric is not a mean over items; None if it is, or if the data are not loaded.
    """

    documents: int | None
    output_type: str
    higher_is_better: bool
    needs_hub: bool
    reads: tuple[Path, ...] = ()
    revision: str | None = None
    unidentified: str | None = None
    members: Mapping[str, int] | None = None
    weighted_by_size: bool = True
    not_a_mean: str | None = None


class TaskInspector(Protocol):
    """An engine that checks tasks; it raises `TaskError` with the fix."""

    def __call__(self, job: InspectTasksJob, report: Report) -> Mapping[str, TaskFacts]:
        """Return the facts by task name."""


# ------------------------------------------------------------------------------------------------------- together


@dataclass(frozen=True)
class Engines:
    """The engines of a run; each is picklable, hence a module-level function."""

    merge: Merger
    evaluate: Evaluator
    measure: KinshipMeter
    inspect_models: ModelInspector
    plan_merges: MergePlanner
    rehearse_merge: MergeRehearser
    rehearse_evaluation: EvaluationRehearser
    inspect_tasks: TaskInspector
