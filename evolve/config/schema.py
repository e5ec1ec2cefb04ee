"""Schema of the configuration; every field's description says what a valid value is.

The descriptions are shown to the user as the mend of a wrong value, so each is the end of a sentence that begins with
"it must be".
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

__all__ = [
    "AdapterSource",
    "Config",
    "EvaluationConfig",
    "MergeConfig",
    "ModelSource",
    "StrategyConfig",
    "TaskConfig",
]

# mergekit reads `+` and `@` in a model's path as an adapter and a revision, and a name becomes a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHILD_NAME = re.compile(r"model-\d+-(\d+|exp(-\d+)?)")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            "a name has letters, digits, '-', '_' and single '.', and begins with a letter or a digit; rename it"
        )
    return name


def _check_model_name(name: str) -> str:
    if name == "base_model":
        raise ValueError("base_model is the name of the base; rename it")
    if _CHILD_NAME.fullmatch(_check_name(name)):
        raise ValueError("names of the form model-<generation>-<n> are kept for the children; rename it")
    return name


def _check_plain(value: Any) -> Any:
    """Refuse what JSON cannot say, so that the journal's copy of a configuration equals it."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("its keys must be texts; put them in quotes")
        return {key: _check_plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_check_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("its numbers must be finite; give a number, or null")
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{value} was read as a {type(value).__name__}; put it in quotes")
    return value


def _wrong(key: str, value: Any, reason: str) -> PydanticCustomError:
    """What a check of several keys raises: `key` is the one to mend, relative to the section checked."""
    return PydanticCustomError("several_keys", "{key}: {reason}", {"key": key, "value": value, "reason": reason})


Name = Annotated[str, AfterValidator(_check_name)]
ModelName = Annotated[str, AfterValidator(_check_model_name)]
Arguments = Annotated[dict[str, Any], AfterValidator(_check_plain)]


class _Section(BaseModel):
    """A frozen part of the configuration that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """True is no number: `limit: true` is a slip and does not mean 1."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation not in {bool, bool | None}:
            raise ValueError(f"it must be {field.description}")
        return value


class AdapterSource(_Section):
    """A LoRA adapter and the model that it adapts."""

    model: str = Field(min_length=1, description="a folder or a hub id of the model that the adapter belongs to")
    adapter: str = Field(min_length=1, description="a folder or a hub id of a LoRA adapter")


ModelSource = Annotated[str, Field(min_length=1)] | AdapterSource


class StrategyConfig(_Section):
    """Which models are merged, and when a run stops."""

    name: Literal["kinship", "greedy"] = Field(
        "kinship", description="kinship (with exploration merges) or greedy (without)"
    )
    metric: Literal["pcc", "cs", "ed"] = Field(
        "pcc", description="pcc (Pearson correlation), cs (cosine similarity) or ed (Euclidean distance)"
    )
    top_k: int = Field(3, ge=2, description="a whole number of at least 2: how many of the best models are paired")
    pairs_per_generation: int | None = Field(
        None,
        ge=1,
        description="a whole number of at least 1, the most pairs that a generation merges; or null for top_k",
    )
    stop_at_kinship: float | None = Field(
        0.9,
        description="a kinship between -1 and 1 above which the run stops (with metric ed: a distance below which it "
        "stops), or null for never",
    )
    max_generations: int = Field(10, ge=1, description="a whole number of at least 1: the most generations")

    @model_validator(mode="after")
    def _check_threshold(self) -> StrategyConfig:
        threshold = self.stop_at_kinship
        if threshold is None:
            return self
        if self.metric == "ed" and "stop_at_kinship" not in self.model_fields_set:
            reason = (
                "with metric ed it is a distance, so this default has no meaning; set it to null, or to a distance "
                "below which the run stops"
            )
        elif self.metric == "ed" and threshold <= 0:
            reason = "with metric ed it is a distance; it must be a number above 0, or null"
        elif self.metric != "ed" and not -1 <= threshold <= 1:
            reason = f"with metric {self.metric} it must be a number from -1 to 1, or null"
        else:
            return self
        raise _wrong("stop_at_kinship", threshold, reason)

    @property
    def pair_limit(self) -> int:
        """The most pairs of S that one generation merges."""
        return self.top_k if self.pairs_per_generation is None else self.pairs_per_generation


class MergeConfig(_Section):
    """How two parents become a child."""

    recipe: str | tuple[str, ...] = Field(
        "slerp-gradient", description="the name of a template in recipes/, a path of one, or a list of these"
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field("bfloat16", description="bfloat16, float16 or float32")
    tokenizer: Literal["auto", "base", "union", "first"] = Field(
        "auto",
        description="auto (untouched where all vocabularies agree, else union), base (the base model's), union (all "
        "tokens of both parents) or first (parent 1's)",
    )

    @model_validator(mode="after")
    def _check_recipes(self) -> MergeConfig:
        if not self.recipes:
            raise _wrong("recipe", [], "it is an empty list; name at least one template, for example slerp-gradient")
        if len(set(self.recipes)) < len(self.recipes):
            raise _wrong("recipe", list(self.recipes), "it names a template twice; name each once")
        return self

    @property
    def recipes(self) -> tuple[str, ...]:
        """The templates by which each pair is merged, in order."""
        return (self.recipe,) if isinstance(self.recipe, str) else self.recipe


class TaskConfig(_Section):
    """One benchmark task, and the one metric of it that counts towards the average."""

    task: str = Field(min_length=1, description="the name of an lm-eval task")
    metric: str = Field(
        "acc,none",
        pattern=r"^[^,\s]+,[^,\s]+$",
        description="lm-eval's metric and filter, for example 'acc,none' or 'exact_match,strict-match'",
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="a whole number of examples, at least 0, or null for the task's own"
    )
    weight: float = Field(1.0, gt=0, description="a number above 0: the task's weight in the average")
    higher_is_better: bool | None = Field(
        None,
        description="null or true where more is better; false where less is, as of a loss, which then counts with a "
        "minus sign",
    )
    limit: int | None = Field(None, ge=1, description="a whole number of documents, at least 1, or null for all")
    generation_kwargs: Arguments = Field(
        default_factory=dict,
        description="a mapping of entries of lm-eval's generation_kwargs, for example {max_gen_toks: 24}",
    )

    @property
    def signed_weight(self) -> float:
        """The factor of the value in the average: negative where less is better."""
        return -self.weight if self.higher_is_better is False else self.weight


def _default_tasks() -> tuple[TaskConfig, ...]:
    """The three tasks of arXiv 2410.12613, section 4.1."""
    return (
        TaskConfig(task="winogrande", metric="acc,none", num_fewshot=5),
        TaskConfig(task="gsm8k", metric="exact_match,strict-match", num_fewshot=5),
        TaskConfig(task="truthfulqa_mc2", metric="acc,none", num_fewshot=0),
    )


_OWN_ARGUMENTS = {
    "pretrained": "evolve sets it for each model; remove it",
    "device": "evolve sets it; give the key device at the top instead",
    "batch_size": "evolve sets it; give evaluation.batch_size instead",
    "trust_remote_code": "evolve sets it; give the key trust_remote_code at the top instead",
}


class EvaluationConfig(_Section):
    """How a model is scored."""

    tasks: tuple[TaskConfig, ...] = Field(
        default_factory=_default_tasks, min_length=1, description="a list of at least one task"
    )
    datasets: dict[str, Path] = Field(
        default_factory=dict, description="a mapping of tasks to folders with <split>.jsonl or <split>.parquet"
    )
    task_dirs: tuple[Path, ...] = Field((), description="a list of folders with task YAML files of your own")
    model: str = Field("hf", min_length=1, description="the name of an lm-eval model class, for example hf or vllm")
    model_args: Arguments = Field(
        default_factory=lambda: {"dtype": "bfloat16"},
        description="a mapping of arguments of the lm-eval model class, for example {dtype: bfloat16}",
    )
    batch_size: int = Field(16, ge=1, description="a whole number of at least 1: how many requests a batch has")
    limit: int | None = Field(
        None, ge=1, description="a whole number of documents of each task, at least 1, or null for all"
    )
    apply_chat_template: bool = Field(default=False, description="true or false")
    fewshot_as_multiturn: bool = Field(default=False, description="true or false")

    @model_validator(mode="after")
    def _check_tasks(self) -> EvaluationConfig:
        names = [task.task for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise _wrong("tasks", names, f"task {name} is listed twice; list each task once")
        for name, folder in self.datasets.items():
            if name not in names:
                reason = f"{name} is not among the tasks ({', '.join(names)}); list it there or remove it here"
                raise _wrong(f"datasets.{name}", str(folder), reason)
        for key, mend in _OWN_ARGUMENTS.items():
            if key in self.model_args:
                raise _wrong(f"model_args.{key}", self.model_args[key], mend)
        return self


_DEFAULTED = "a mapping; left out, it has its defaults"


class Config(_Section):
    """The whole configuration of a run."""

    name: Name = Field("run", description="a name for the run, which is also the name of its folder")
    seed: int = Field(0, ge=0, lt=2**31, description="a whole number from 0 to 2147483647")
    base_model: str = Field(min_length=1, description="a folder or a hub id of the model that all others descend from")
    foundation_models: dict[ModelName, ModelSource] = Field(
        min_length=2, description="a mapping of at least two names to folders or hub ids"
    )
    strategy: StrategyConfig = Field(default_factory=StrategyConfig, description=_DEFAULTED)
    merge: MergeConfig = Field(default_factory=MergeConfig, description=_DEFAULTED)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description=_DEFAULTED)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:<number>")
    attempts: int = Field(
        2, ge=1, description="a whole number of at least 1: how often a failing merge or evaluation is tried"
    )
    trust_remote_code: bool = Field(
        default=False, description="true or false; true runs Python code that comes with a model"
    )
    allow_pickled_weights: bool = Field(
        default=False, description="true or false; true converts pickled weights (pytorch_model.bin) to safetensors"
    )

    @model_validator(mode="after")
    def _check_sources(self) -> Config:
        seen: dict[str, str] = {}
        for name, source in self.foundation_models.items():
            key = str(source)
            if key == self.base_model:
                raise _wrong(
                    f"foundation_models.{name}", key, "it is the base model, so its delta is zero; leave it out"
                )
            if key in seen:
                reason = f"foundation_models.{seen[key]} is the same model; list it once"
                raise _wrong(f"foundation_models.{name}", key, reason)
            seen[key] = name
        return self
