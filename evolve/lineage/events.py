"""Events of a run: the records that the journal stores, and from which the family tree is built.

Journals are kept for years: a field is never renamed or removed without a new `SCHEMA` and a reader for the old one.
Schema 2 only adds optional fields and kinds of events to schema 1; a run without racing has no events of a race.

A journal may come from anyone, and the names in it become paths. So a name in an event follows the rules of a name in a
configuration, the paths of a child follow from its name, and numbers are within the limits of a real run.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from evolve.config.values import ChildName, Name

__all__ = [
    "SCHEMA",
    "BatchSize",
    "CheckpointRemade",
    "Estimate",
    "Event",
    "FoundationEntry",
    "GenerationPlanned",
    "InputsMoved",
    "Kinship",
    "KinshipMeasured",
    "LeftOut",
    "ModelDropped",
    "ModelEvaluated",
    "ModelFailed",
    "ModelMerged",
    "PlannedMerge",
    "Prepared",
    "RunContinued",
    "RunStarted",
    "RunStopped",
    "RungScored",
    "Score",
    "SettingsChanged",
    "StepRetried",
    "TokenizerChoice",
    "event_adapter",
]

SCHEMA = 2

TokenizerChoice = Literal["plain", "union", "base", "first"]


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot hold by their names; a model's config.json may have an `Infinity`."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _encodable(value: Any) -> Any:
    """Replace surrogates, which no file can hold; a message may name a file whose name is not UTF-8."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _before_prefix_sharing(config: Any) -> Any:
    """State in a configuration of before evolve shared prefixes that the run does not."""
    if not isinstance(config, dict) or not isinstance(config.get("evaluation", {}), dict):
        return config
    return {**config, "evaluation": {"prefix_sharing": "off", **config.get("evaluation", {})}}


Settings = Annotated[dict[str, Any], BeforeValidator(_before_prefix_sharing)]
Words = Annotated[str, BeforeValidator(_encodable)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]
BatchSize = Annotated[int, Field(ge=1, lt=2**31)] | Literal["auto"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Score(_Record):
    """The value of one task's metric as lm-eval gives it; `stderr` is null if lm-eval gives none."""

    metric: str
    value: float = Field(ge=-1e100, le=1e100)  # the sums and squares of the averages must not overflow
    stderr: float | None = Field(ge=0, le=1e100)


class Estimate(_Record):
    """The estimated value of one task's metric, from a part of its items.

    Attributes:
        stderr: Standard error of the sampling: how far the estimate lies from the score on all items.
        answered: Number of items of which it is an estimate.
        items: Number of all items.
        influence: The most that the answer of one item can change the estimate; 0 in journals that do not state it.
    """

    metric: str
    value: float = Field(ge=-1e100, le=1e100)
    stderr: float = Field(ge=0, le=1e100)
    answered: Count
    items: Count
    influence: float = Field(0.0, ge=0, le=1e100)


class LeftOut(_Record):
    """Rows of a tensor that a kinship does not compare, and their share of the base's parameters (0..1)."""

    tensor: str
    rows: Count
    share: float = Field(ge=0, le=1)


class Kinship(_Record):
    """The three kinship metrics of two deltas (arXiv 2410.12613, section 3)."""

    pcc: float = Field(ge=-1.01, le=1.01)  # rounding may exceed 1
    cs: float = Field(ge=-1.01, le=1.01)
    ed: float = Field(ge=0, le=1e300)

    def value(self, metric: str) -> float:
        """Return the value of one metric, by its name in `evolve.config.METRICS`."""
        return float(getattr(self, metric))


class Prepared(_Record):
    """The preparation of a checkpoint from a configured model.

    Attributes:
        kind: `adapter`: a LoRA adapter was merged into its model; `pickled`: pickled weights were converted.
        key: Cache key of the prepared checkpoint.
        parts: Hub commits of its parts, `model` and `adapter`; null for a folder.
    """

    kind: Literal["adapter", "pickled"]
    key: str
    parts: dict[str, str | None]


class FoundationEntry(_Record):
    """A foundation model or the base model: its source and its content.

    Attributes:
        source: The configured folder or Hub id.
        revision: The commit of a Hub id; null for a folder.
        path: Folder of the checkpoint, absolute or relative to the run folder.
        identity: SHA-256 over the contents of its files.
        bytes: Total size of its files.
        prepared: How the checkpoint was prepared; null if it needed no preparation, and in schema 1.
    """

    name: Name
    source: str
    revision: str | None
    path: str
    identity: str
    bytes: Bytes
    prepared: Prepared | None = None


class PlannedMerge(_Record):
    """A planned child of a generation; `parents[0]` is parent 1, mergekit's `base_model`."""

    name: ChildName
    parents: tuple[Name, Name]
    kind: Literal["merge", "exploration"]
    recipe: str
    decision: Words


class RunStarted(_Record):
    """The first event of every journal.

    Attributes:
        config: The complete configuration, with every default.
        recipes: Text of each recipe template. A later edit of a template file does not change this run.
        data: SHA-256 of each local file that evaluations read, and commits of data from the Hub; by a name that
            `evolve.config.scoring_settings` describes.
        root: Absolute path of the run folder when the run began; null in schema 1.
        layers: Number of layers of the models; null if no recipe uses it, and in schema 1.
        differing_settings: Settings of the architecture that differ among the base and the foundations: setting to
            model to value. Merges take them from parent 1.
        reads: Path of each file in `data` that is in no folder of the configuration, by its name in `data`; absolute or
            relative to the run folder.
        unshared: Why the scores of a task are not shared with other runs, by task.
        recipe_models: Content identity of each model that a recipe names by its path, beside the parents and the base.
        equal_weights: Groups whose score is the mean of their tasks' means; others have the mean over their items.
    """

    type: Literal["run_started"] = "run_started"
    schema_version: int = SCHEMA
    run: Name
    config: Settings
    versions: dict[str, str]
    recipes: dict[str, str]
    data: dict[str, str]
    base: FoundationEntry
    foundations: tuple[FoundationEntry, ...] = Field(min_length=2)
    root: str | None = None
    layers: int | None = Field(None, ge=1, le=100_000)
    differing_settings: Annotated[dict[str, dict[str, Any]], BeforeValidator(_finite)] = Field(default_factory=dict)
    reads: dict[str, str] = Field(default_factory=dict)
    unshared: dict[str, str] = Field(default_factory=dict)
    recipe_models: dict[str, str] = Field(default_factory=dict)
    equal_weights: tuple[str, ...] = ()


class GenerationPlanned(_Record):
    """The children of a generation, chosen from S as it was at that time."""

    type: Literal["generation_planned"] = "generation_planned"
    generation: int = Field(ge=1, lt=2**31)
    top: tuple[Name, ...]
    merges: tuple[PlannedMerge, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_names(self) -> GenerationPlanned:
        for merge in self.merges:
            if not merge.name.startswith(f"model-{self.generation}-"):
                raise ValueError(f"{merge.name} is no name of a child of generation {self.generation}")
        return self


class KinshipMeasured(_Record):
    """The kinship of two models, in no order."""

    type: Literal["kinship_measured"] = "kinship_measured"
    a: Name
    b: Name
    kinship: Kinship
    left_out: tuple[LeftOut, ...] = ()


class ModelMerged(_Record):
    """A child was merged and its checkpoint verified; its paths in the run folder follow from its name.

    Attributes:
        tokenizer: Where the child's tokenizer comes from; null in schema 1, which did not record it.
    """

    type: Literal["model_merged"] = "model_merged"
    model: Name
    identity: str
    checkpoint: str
    recipe: str
    bytes: Bytes
    seconds: Seconds
    tokenizer: TokenizerChoice | None = None

    @model_validator(mode="after")
    def _check_paths(self) -> ModelMerged:
        for found, expected in (
            (self.checkpoint, f"models/{self.model}"),
            (self.recipe, f"recipes/{self.model}.yaml"),
        ):
            if found != expected:
                raise ValueError(f"a path of {self.model} is {found} instead of {expected}")
        return self


class ModelEvaluated(_Record):
    """A model was scored.

    Attributes:
        reused: All scores come from the score store, where an equal model was scored with equal settings.
        reused_tasks: Tasks whose scores come from the score store.
    """

    type: Literal["model_evaluated"] = "model_evaluated"
    model: Name
    scores: dict[str, Score] = Field(min_length=1)
    seconds: Seconds
    batch_size: BatchSize
    reused: bool = False
    reused_tasks: tuple[str, ...] = ()


class RungScored(_Record):
    """A child was scored on the items of one rung of its race, those of the rungs before included.

    Attributes:
        rung: Number of the rung, from 1.
        share: Its share of all items.
        estimates: The estimated score of each task.
        seconds: Wall time of this rung alone.
    """

    type: Literal["rung_scored"] = "rung_scored"
    model: ChildName
    rung: int = Field(ge=1, le=1000)
    share: float = Field(gt=0, lt=1)
    estimates: dict[str, Estimate] = Field(min_length=1)
    seconds: Seconds
    batch_size: BatchSize


class ModelDropped(_Record):
    """A child cannot be among the best models, by its estimate on a part of the items; it is scored no further.

    Attributes:
        rung: Its last rung.
        high: Upper bound of its average.
        least: Lower bound of the k-th best model, which is above `high`.
    """

    type: Literal["model_dropped"] = "model_dropped"
    model: ChildName
    rung: int = Field(ge=1, le=1000)
    high: float = Field(ge=-1e101, le=1e101)
    least: float = Field(ge=-1e101, le=1e101)


class ModelFailed(_Record):
    """A child could not be merged or scored, and takes no further part in the run."""

    type: Literal["model_failed"] = "model_failed"
    model: Name
    step: Literal["merge", "evaluate"]
    reason: Words
    attempts: Count


class StepRetried(_Record):
    """An attempt failed and the step is retried, with a smaller batch after a lack of memory."""

    type: Literal["step_retried"] = "step_retried"
    model: Name
    step: Literal["merge", "evaluate"]
    reason: Words
    attempt: Count
    batch_size: int | None = Field(None, ge=1, lt=2**31)


class CheckpointRemade(_Record):
    """A child's missing or damaged checkpoint was merged again from the same recipe and parents."""

    type: Literal["checkpoint_remade"] = "checkpoint_remade"
    model: Name
    reason: Words
    identity: str
    bytes: Bytes
    seconds: Seconds


class SettingsChanged(_Record):
    """A run was resumed with other settings that alter no result it has: key to (old value, new value)."""

    type: Literal["settings_changed"] = "settings_changed"
    changes: dict[str, tuple[Any, Any]]
    config: Settings


class InputsMoved(_Record):
    """The run folder has moved, or models were found at other paths with equal content.

    Attributes:
        paths: New path by model: `base_model` or the name of a foundation.
        root: Absolute path of the run folder at that time.
        reads: New path by name of a file in `RunStarted.reads`.
    """

    type: Literal["inputs_moved"] = "inputs_moved"
    paths: dict[Name, str]
    root: str | None = None
    reads: dict[str, str] = Field(default_factory=dict)


class RunStopped(_Record):
    """The run has finished; `generation` is the last complete one."""

    type: Literal["run_stopped"] = "run_stopped"
    reason: Literal["converged", "saturated", "exhausted", "budget", "failed"]
    generation: Count
    detail: Words


class RunContinued(_Record):
    """A stopped run was continued.

    Attributes:
        reason: Why it was continued.
        retried: Failed models that are tried again.
    """

    type: Literal["run_continued"] = "run_continued"
    reason: Words
    retried: tuple[Name, ...] = ()


Event = (
    RunStarted
    | GenerationPlanned
    | KinshipMeasured
    | ModelMerged
    | ModelEvaluated
    | RungScored
    | ModelDropped
    | ModelFailed
    | StepRetried
    | CheckpointRemade
    | SettingsChanged
    | InputsMoved
    | RunStopped
    | RunContinued
)

event_adapter: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
