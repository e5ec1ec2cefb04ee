"""What can happen in a run: the records that the journal keeps and the family tree is a fold of.

A journal is read again years later: a field is never renamed or removed here without a new `SCHEMA` and a reader for
the old one. Numbers that are not finite are refused, so that none can reach a comparison.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = [
    "SCHEMA",
    "CheckpointRemade",
    "Event",
    "FoundationEntry",
    "GenerationPlanned",
    "Kinship",
    "KinshipMeasured",
    "LeftOut",
    "ModelEvaluated",
    "ModelFailed",
    "ModelMerged",
    "PlannedMerge",
    "RunStarted",
    "RunStopped",
    "Score",
    "SettingsChanged",
    "StepRetried",
    "StopReason",
    "event_adapter",
]

SCHEMA = 1

StopReason = Literal["converged", "saturated", "exhausted", "budget", "failed"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Score(_Record):
    """One task's metric as lm-eval gives it; `stderr` is null where lm-eval has none."""

    metric: str
    value: float
    stderr: float | None = Field(ge=0)


class LeftOut(_Record):
    """Rows of a tensor that a kinship does not compare, and their share of the base's parameters (0..1)."""

    tensor: str
    rows: int
    share: float


class Kinship(_Record):
    """The three kinship metrics of two deltas (arXiv 2410.12613, section 3)."""

    pcc: float
    cs: float
    ed: float = Field(ge=0)


class FoundationEntry(_Record):
    """A model that the run starts with, or the base: where it came from and what exactly it is.

    Attributes:
        source: As the configuration names it.
        revision: The commit of a hub id; null for a folder.
        path: Folder of the checkpoint.
        identity: SHA-256 over its files' contents.
        bytes: Size of its files together.
    """

    name: str
    source: str
    revision: str | None
    path: str
    identity: str
    bytes: int


class PlannedMerge(_Record):
    """A child that a generation will have; `parents[0]` is parent 1, mergekit's `base_model`."""

    name: str
    parents: tuple[str, str]
    kind: Literal["merge", "exploration"]
    recipe: str
    decision: str


class RunStarted(_Record):
    """The first event of every journal.

    Attributes:
        config: The whole configuration, every default spelt out.
        versions: Versions of evolve and of the engines.
        recipes: Text of each recipe template, so that a later edit of the file changes nothing in this run.
        data: SHA-256 of each local file that evaluations read.
    """

    type: Literal["run_started"] = "run_started"
    schema_version: int = SCHEMA
    run: str
    config: dict[str, Any]
    versions: dict[str, str]
    recipes: dict[str, str]
    data: dict[str, str]
    base: FoundationEntry
    foundations: tuple[FoundationEntry, ...] = Field(min_length=2)


class GenerationPlanned(_Record):
    """The children of a generation, decided from the S of that moment."""

    type: Literal["generation_planned"] = "generation_planned"
    generation: int = Field(ge=1)
    top: tuple[str, ...]
    merges: tuple[PlannedMerge, ...] = Field(min_length=1)


class KinshipMeasured(_Record):
    """The kinship of two models; unordered."""

    type: Literal["kinship_measured"] = "kinship_measured"
    a: str
    b: str
    kinship: Kinship
    left_out: tuple[LeftOut, ...] = ()


class ModelMerged(_Record):
    """A child's verified checkpoint is in place; paths are relative to the run folder."""

    type: Literal["model_merged"] = "model_merged"
    model: str
    identity: str
    checkpoint: str
    recipe: str
    bytes: int
    seconds: float


class ModelEvaluated(_Record):
    """A model's scores are in place.

    Attributes:
        batch_size: As the evaluation used it.
        reused: The scores come from the score store, where an equal model was scored with equal settings.
    """

    type: Literal["model_evaluated"] = "model_evaluated"
    model: str
    scores: dict[str, Score] = Field(min_length=1)
    seconds: float
    batch_size: int
    reused: bool = False


class ModelFailed(_Record):
    """A child could not be made or scored, for good."""

    type: Literal["model_failed"] = "model_failed"
    model: str
    step: Literal["merge", "evaluate"]
    reason: str
    attempts: int


class StepRetried(_Record):
    """An attempt of a step failed and another follows; with a smaller batch where memory was the cause."""

    type: Literal["step_retried"] = "step_retried"
    model: str
    step: Literal["merge", "evaluate"]
    reason: str
    attempt: int
    batch_size: int | None = None


class CheckpointRemade(_Record):
    """A child's checkpoint was missing or damaged, and was made again from its recipe and its parents."""

    type: Literal["checkpoint_remade"] = "checkpoint_remade"
    model: str
    reason: str
    identity: str
    bytes: int
    seconds: float


class SettingsChanged(_Record):
    """A resumed run goes on with other settings, none of which alters a result: key to (then, now)."""

    type: Literal["settings_changed"] = "settings_changed"
    changes: dict[str, tuple[Any, Any]]
    config: dict[str, Any]


class RunStopped(_Record):
    """The run is over; `generation` is the last one that it finished."""

    type: Literal["run_stopped"] = "run_stopped"
    reason: StopReason
    generation: int
    detail: str


Event = (
    RunStarted
    | GenerationPlanned
    | KinshipMeasured
    | ModelMerged
    | ModelEvaluated
    | ModelFailed
    | StepRetried
    | CheckpointRemade
    | SettingsChanged
    | RunStopped
)

event_adapter: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])
