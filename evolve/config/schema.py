"""Schema of the configuration: the valid values, the default and the meaning of every key.

The `description` of a field completes the sentence "it must be ..." in an error message. Its `title` says what the key
does; the reference table in `docs/configuration.md` is made of both.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from evolve.config.evaluation import EvaluationConfig
from evolve.config.metrics import METRICS
from evolve.config.values import ModelName, Name, Section, error_at

__all__ = ["AdapterSource", "Config", "MergeConfig", "ModelSource", "StrategyConfig"]


class AdapterSource(Section):
    """A LoRA adapter and the model it belongs to."""

    model: str = Field(
        min_length=1,
        title="The model the adapter was trained on.",
        description="a folder or a Hub id of the model that the adapter belongs to",
    )
    adapter: str = Field(
        min_length=1,
        title="The LoRA adapter. It is merged into the model once, into `runs/.adapters`.",
        description="a folder or a Hub id of a LoRA adapter",
    )


ModelSource = Annotated[str, Field(min_length=1)] | AdapterSource


class StrategyConfig(Section):
    """The settings of the strategy: the choice of models to merge, and the end of a run."""

    name: Literal["kinship", "greedy"] = Field(
        "kinship",
        title="The selection strategy. `kinship` adds one exploration merge to each generation from the second on.",
        description="kinship (with exploration merges) or greedy (without)",
    )
    metric: Literal["pcc", "cs", "ed"] = Field(
        "pcc",
        title="The kinship metric that selects exploration partners and stops the run.",
        description="pcc (Pearson correlation), cs (cosine similarity) or ed (Euclidean distance)",
    )
    top_k: int = Field(
        3,
        ge=2,
        le=1000,
        title="How many of the best models are merged with each other (k).",
        description="a whole number from 2 to 1000: how many of the best models are paired",
    )
    pairs_per_generation: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        title="The most pairs of the best models that a generation merges; null means `top_k`.",
        description="a whole number from 1 to 1000000, the most pairs that a generation merges; or null for top_k",
    )
    stop_at_kinship: float | None = Field(
        0.9,
        title="The run stops when the mean kinship of the best `top_k` models is above this value (with `ed`: below).",
        description="a kinship between -1 and 1 above which the run stops (with metric ed: a distance below which it "
        "stops), or null for never",
    )
    max_generations: int = Field(
        10,
        ge=1,
        le=100_000,
        title="The run stops after this many generations.",
        description="a whole number from 1 to 100000: the most generations",
    )

    @model_validator(mode="after")
    def _check_threshold(self) -> StrategyConfig:
        threshold, metric = self.stop_at_kinship, METRICS[self.metric]
        if threshold is None:
            return self
        least, most = metric.range
        is_distance = not metric.higher_is_more_akin
        if is_distance and "stop_at_kinship" not in self.model_fields_set:
            reason = (
                f"with metric {metric.name} it is a distance, so the default has no meaning; set it to null, or to a "
                "distance below which the run stops"
            )
        elif is_distance and not least < threshold < most:  # no distance is below the least one
            reason = f"with metric {metric.name} it is a distance; it must be a number above {least:g}, or null"
        elif not least <= threshold <= most:
            reason = f"with metric {metric.name} it must be a number from {least:g} to {most:g}, or null"
        else:
            return self
        raise error_at("stop_at_kinship", threshold, reason)

    @property
    def pair_limit(self) -> int:
        """The most pairs of the best models that one generation merges."""
        return self.top_k if self.pairs_per_generation is None else self.pairs_per_generation


class MergeConfig(Section):
    """The settings of the merges."""

    recipe: str | tuple[str, ...] = Field(
        "slerp-gradient",
        title="The merge recipe. With several, each pair is merged by each of them.",
        description="the name of a template in recipes/, a path of one, or a list of these",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", title="The number type of the children's weights.", description="bfloat16, float16 or float32"
    )
    tokenizer: Literal["auto", "base", "union", "first"] = Field(
        "auto",
        title="Which tokenizer a child has where the vocabularies of its parents differ.",
        description="auto (unchanged where all vocabularies agree, else union), base (the base model's), union (all "
        "tokens of both parents) or first (parent 1's)",
    )

    @model_validator(mode="after")
    def _check_recipes(self) -> MergeConfig:
        if not self.recipes:
            raise error_at("recipe", [], "the list is empty; name at least one template, for example slerp-gradient")
        if len(set(self.recipes)) < len(self.recipes):
            raise error_at("recipe", list(self.recipes), "a template is listed twice; list each once")
        return self

    @property
    def recipes(self) -> tuple[str, ...]:
        """The templates by which each pair is merged, in order."""
        return (self.recipe,) if isinstance(self.recipe, str) else self.recipe


_SECTION = "a mapping; if it is left out, its keys have their defaults"


class Config(Section):
    """The complete configuration of a run."""

    name: Name = Field(
        "run",
        title="The name of the run and of its folder in `runs/`; without it, the name of the configuration file.",
        description="a name for the run, which is also the name of its folder",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        title="The seed of lm-eval's choice of few-shot examples.",
        description="a whole number from 0 to 2147483647",
    )
    base_model: str = Field(
        min_length=1,
        title="The pre-trained model of which all others are fine-tuned. Only its weights are used, for the kinships "
        "and for recipes that merge differences to it.",
        description="a folder or a Hub id of the model that all others descend from",
    )
    foundation_models: dict[ModelName, ModelSource] = Field(
        min_length=2,
        title="The fine-tuned models the run starts with, by name. A Hub id may have a revision: `org/model@revision`.",
        description="a mapping of at least two names to folders or Hub ids",
    )
    strategy: StrategyConfig = Field(
        default_factory=StrategyConfig, title="Which models are merged, and when the run stops.", description=_SECTION
    )
    merge: MergeConfig = Field(default_factory=MergeConfig, title="How two models are merged.", description=_SECTION)
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, title="How models are scored.", description=_SECTION
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        title="Where merges, evaluations and kinships run; `auto` takes CUDA where there is a GPU.",
        description="auto, cpu, cuda or cuda:<number>",
    )
    attempts: int = Field(
        2,
        ge=1,
        le=1000,
        title="How often a merge or an evaluation that fails is tried before its child is recorded as failed.",
        description="a whole number from 1 to 1000: how often a failing merge or evaluation is tried",
    )
    trust_remote_code: bool = Field(
        default=False,
        title="Run Python code that comes with a model.",
        description="true or false; true runs Python code that comes with a model",
    )
    allow_pickled_weights: bool = Field(
        default=False,
        title="Convert models that only have pickled weights (`pytorch_model.bin`) to safetensors, once, into "
        "`runs/.converted`.",
        description="true or false; true converts pickled weights (pytorch_model.bin) to safetensors",
    )

    @model_validator(mode="after")
    def _check_sources(self) -> Config:
        seen: dict[str, str] = {}
        for name, source in self.foundation_models.items():
            key = str(source)
            if key == self.base_model:
                reason = "it is the base model, so its delta is zero; leave it out"
                raise error_at(f"foundation_models.{name}", key, reason)
            if key in seen:
                reason = f"foundation_models.{seen[key]} is the same model; list it once"
                raise error_at(f"foundation_models.{name}", key, reason)
            seen[key] = name
        return self
