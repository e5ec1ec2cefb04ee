"""Schema of the section `evaluation`: how models are scored."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from evolve.config.values import Arguments, Section, TaskName, error_at

__all__ = ["EvaluationConfig", "RacingConfig", "TaskConfig"]

BatchSize = Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"]


class TaskConfig(Section):
    """One benchmark task and the metric that counts towards the average."""

    task: TaskName = Field(
        min_length=1,
        title="The benchmark: any task or group of lm-eval.",
        description="the name of an lm-eval task",
    )
    metric: str = Field(
        "acc,none",
        pattern=r"^[^,\s]+,[^,\s]+$",
        title="The metric that counts towards the average, with its filter.",
        description="lm-eval's metric and filter, for example 'acc,none' or 'exact_match,strict-match'",
    )
    num_fewshot: int | None = Field(
        None,
        ge=0,
        le=1000,
        title="How many solved examples a prompt has.",
        description="a whole number of examples from 0 to 1000, or null for the task's own",
    )
    fewshot: Literal["sampled", "first_n"] = Field(
        "sampled",
        title="Which examples: `sampled` as the task does it, by default others for each item; `first_n` always the "
        "first ones, other prompts than leaderboards use, which are computed once for all items.",
        description="sampled or first_n",
    )
    weight: float = Field(
        1.0,
        ge=1e-6,
        le=1e6,
        title="The weight of the task in the average.",
        description="a number from 1e-6 to 1e6: the task's weight in the average",
    )
    higher_is_better: bool | None = Field(
        None,
        title="Set it to false for a loss: the score then counts with a minus sign.",
        description="null or true where a higher score is better; false where a lower one is, as for a loss, which "
        "counts with a minus sign",
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=10**9,
        title="Score only the first so many documents of this task; null means `evaluation.limit`.",
        description="a whole number of documents from 1 to 1000000000, or null for evaluation.limit",
    )
    generation_kwargs: Arguments = Field(
        default_factory=dict,
        title="Settings of generation that replace those of the task.",
        description="a mapping of entries of lm-eval's generation_kwargs, for example {max_gen_toks: 24}",
    )

    @property
    def signed_weight(self) -> float:
        """The factor of the score in the average: negative where lower is better."""
        return -self.weight if self.higher_is_better is False else self.weight


class RacingConfig(Section):
    """The settings of racing: children are scored on growing shares of the items, and the hopeless are dropped."""

    rungs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.05, 0.1, 0.2, 0.4, 0.7, 1.0),
        min_length=1,
        max_length=100,
        title="The shares of the items on which children are scored, one after another. If the last is below 1, the "
        "survivors keep their estimates, and only the models that are the best at the end are scored in full.",
        description="a list of shares above 0 and up to 1, each larger than the one before",
    )
    confidence: float = Field(
        0.99,
        gt=0,
        lt=1,
        title="The probability that no child of a generation is dropped by mistake.",
        description="a probability between 0 and 1, both excluded",
    )

    @model_validator(mode="after")
    def _check_rungs(self) -> RacingConfig:
        if any(after <= before for before, after in pairwise(self.rungs)):
            reason = "the shares do not rise; give each share once, the smallest first"
            raise error_at("rungs", list(self.rungs), reason)
        return self


def _default_tasks() -> tuple[TaskConfig, ...]:
    """Return the three tasks of arXiv 2410.12613, section 4.1."""
    return (
        TaskConfig(task="winogrande", metric="acc,none", num_fewshot=5),
        TaskConfig(task="gsm8k", metric="exact_match,strict-match", num_fewshot=5),
        TaskConfig(task="truthfulqa_mc2", metric="acc,none", num_fewshot=0),
    )


_SHARING_CLASSES = ("hf", "hf-auto", "huggingface")
"""Names that lm-eval has for the model class that can share prefixes."""

_RESERVED_ARGUMENTS = {
    "pretrained": "evolve sets it for each model; remove it",
    "device": "evolve sets it; give the top-level key device instead",
    "batch_size": "evolve sets it; give evaluation.batch_size instead",
    "trust_remote_code": "evolve sets it; give the top-level key trust_remote_code instead",
}


class EvaluationConfig(Section):
    """The settings of the evaluation."""

    tasks: tuple[TaskConfig, ...] = Field(
        default_factory=_default_tasks,
        min_length=1,
        title="The benchmarks. The average of their metrics is what selection goes by.",
        description="a list of at least one task",
    )
    datasets: dict[str, Path] = Field(
        default_factory=dict,
        title="Local data of tasks, for machines without Hub access.",
        description="a mapping of tasks to folders with <split>.jsonl or <split>.parquet",
    )
    task_dirs: tuple[Path, ...] = Field(
        (),
        title="Folders with your own lm-eval tasks.",
        description="a list of folders with task YAML files of your own",
    )
    trust_task_code: bool = Field(
        default=False,
        title="Let the Python of your own tasks run: `!function` and `class:` of files outside lm-eval.",
        description="true or false",
    )
    model: str = Field(
        "hf",
        min_length=1,
        title="The lm-eval model class that loads and runs the models.",
        description="the name of an lm-eval model class, for example hf or vllm",
    )
    model_args: Arguments = Field(
        default_factory=lambda: {"dtype": "bfloat16"},
        title="Arguments of that class.",
        description="a mapping of arguments of the lm-eval model class, for example {dtype: bfloat16}",
    )
    batch_size: BatchSize = Field(
        16,
        title="How many requests a batch has; `auto`: as many as the device holds, where the model class can find "
        "out; with `prefix_sharing: auto`, the run keeps the size of its first model.",
        description="a whole number of requests in a batch from 1 to 100000, or auto",
    )
    prefix_sharing: Literal["auto", "off"] = Field(
        "auto",
        title="`auto`: the model class `hf` computes what requests have in common once, for models that can do so. "
        "`off`: lm-eval's own class answers.",
        description="auto or off",
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=10**9,
        title="Score only the first so many documents of each task.",
        description="a whole number of documents of each task from 1 to 1000000000, or null for all",
    )
    racing: RacingConfig | None = Field(
        None,
        title="Score children on a part of the items first, and drop those that cannot be among the best.",
        description="a mapping with rungs and confidence, or null to score every model in full",
    )
    apply_chat_template: bool = Field(
        default=False, title="Put each prompt into the chat template of the model.", description="true or false"
    )
    fewshot_as_multiturn: bool = Field(
        default=False,
        title="With a chat template: give each solved example as a turn of the conversation.",
        description="true or false",
    )

    @property
    def shares_prefixes(self) -> bool:
        """Whether models that can do so compute what requests have in common once."""
        return self.prefix_sharing == "auto" and self.model in _SHARING_CLASSES

    @model_validator(mode="before")
    @classmethod
    def _read_off(cls, values: Any) -> Any:
        """Take `off` as the word that it is; YAML reads it as false."""
        if isinstance(values, dict) and values.get("prefix_sharing") is False:
            return {**values, "prefix_sharing": "off"}
        return values

    @model_validator(mode="after")
    def _check_tasks(self) -> EvaluationConfig:
        names = [task.task for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise error_at("tasks", names, f"task {name} is listed twice; list each task once")
        for name, folder in self.datasets.items():
            if name not in names:
                reason = f"{name} is not among the tasks ({', '.join(names)}); list it there or remove it here"
                raise error_at(f"datasets.{name}", str(folder), reason)
        for key, reason in _RESERVED_ARGUMENTS.items():
            if key in self.model_args:
                raise error_at(f"model_args.{key}", self.model_args[key], reason)
        return self
