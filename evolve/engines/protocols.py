"""What an engine is asked and what it answers.

Every job is a frozen, picklable record that says all that the work needs; an engine is a callable that takes one job
and a `Report`, and returns the result. Engines run in a worker process and may import torch; this module imports
nothing heavy, so that the driver can write jobs and read results.

An engine that makes files writes them into the folder `output` of its job, which exists and is empty, and nowhere
else; it leaves to the caller to sync that folder and to rename it into place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

__all__ = [
    "Engines",
    "EvaluateJob",
    "EvaluateResult",
    "Evaluator",
    "InspectJob",
    "InspectResult",
    "Inspector",
    "KinshipJob",
    "KinshipMeter",
    "KinshipResult",
    "MergeJob",
    "MergeResult",
    "Merger",
    "PairKinship",
    "Report",
    "TaskFacts",
    "TaskScore",
    "TaskSpec",
]


class Report(Protocol):
    """Tells how far the work at hand is; called by an engine from its own process, as often as it likes."""

    def __call__(self, words: str, done: int, total: int) -> None:
        """Say what is happening in a few words, with `done` of `total` units finished."""


# --------------------------------------------------------------------------------------------------------- merging


@dataclass(frozen=True)
class MergeJob:
    """One merge.

    Attributes:
        recipe: Complete mergekit YAML, with absolute paths of the parents, as it is kept in the run folder.
        parents: Checkpoint folders of the parents, the first being mergekit's `base_model`.
        output: An empty staging folder for the checkpoint.
        device: A torch device name, or `auto`: CUDA where there is one.
    """

    recipe: str
    parents: tuple[Path, ...]
    output: Path
    device: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class MergeResult:
    """A verified checkpoint: it loads, its tensors are those expected and all of them are finite.

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

    def __call__(self, job: MergeJob, report: Report) -> MergeResult:
        """Merge."""


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
        dataset: Folder with `<split>.jsonl` or `<split>.parquet` files that stand in for the task's own data set.
    """

    task: str
    metric: str
    num_fewshot: int | None = None
    limit: int | None = None
    generation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    dataset: Path | None = None


@dataclass(frozen=True)
class EvaluateJob:
    """One evaluation of one checkpoint on all tasks.

    Attributes:
        checkpoint: Absolute folder of the model.
        tasks: The tasks, each with its metric; one model object serves them all.
        output: An empty staging folder for lm-eval's results (`results.json`) and samples (`samples_<task>.jsonl`).
        request_cache: Path stem of lm-eval's request cache for exactly this model and these settings, or None.
            A cut evaluation goes on from it; the caller deletes it after success.
        model: Name of the lm-eval model class.
        model_args: Arguments of that class apart from `pretrained`.
        seed: Seeds lm-eval's few-shot sampler and its generators.
    """

    checkpoint: Path
    tasks: tuple[TaskSpec, ...]
    output: Path
    request_cache: Path | None = None
    model: str = "hf"
    model_args: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    device: str = "auto"
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
    """Scores by task name, all of them finite."""

    scores: Mapping[str, TaskScore]
    seconds: float
    batch_size: int


class Evaluator(Protocol):
    """Scores a checkpoint; raises `EvaluationError` where a score is missing or not finite."""

    def __call__(self, job: EvaluateJob, report: Report) -> EvaluateResult:
        """Evaluate."""


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
    device: str = "auto"


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

    def __call__(self, job: KinshipJob, report: Report) -> KinshipResult:
        """Measure."""


# ------------------------------------------------------------------------------------------------------ inspection


@dataclass(frozen=True)
class InspectJob:
    """What can be known of a run only with the engines at hand.

    Attributes:
        recipes: Complete mergekit YAML of one imagined merge by each template, by the template's name.
        tasks: The tasks of the evaluation.
        model: Name of the lm-eval model class.
        models: Checkpoint folders of the models that are at hand, by the key of the configuration that names each.
        plan: Whether the models of the recipes are there, so that mergekit can plan the merges; else it only reads
            the recipes.
    """

    recipes: Mapping[str, str]
    tasks: tuple[TaskSpec, ...]
    task_dirs: tuple[Path, ...] = ()
    model: str = "hf"
    trust_remote_code: bool = False
    models: Mapping[str, Path] = field(default_factory=dict)
    plan: bool = True
    device: str = "auto"


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


@dataclass(frozen=True)
class InspectResult:
    """Facts by task name; that it came at all says that recipes and tasks are fit for use."""

    tasks: Mapping[str, TaskFacts]


class Inspector(Protocol):
    """Checks models, recipes and tasks; raises `ModelError`, `RecipeError` or `TaskError` with the mend."""

    def __call__(self, job: InspectJob, report: Report) -> InspectResult:
        """Inspect."""


# ------------------------------------------------------------------------------------------------------- together


@dataclass(frozen=True)
class Engines:
    """The engines of a run; each must be picklable, hence a module-level function."""

    merge: Merger
    evaluate: Evaluator
    measure: KinshipMeter
    inspect: Inspector
