"""The rehearsal of an evaluation: a model is loaded and scored on two documents of each task, and errors are explained.

It runs the code of the evaluation, so that what fails there fails here, in seconds. An error that names a setting, or
its value, is an error of that setting. Any other error may be of the model or of a setting; the caller, who rehearses
several models, can tell.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from evolve.engines.devices import device_name
from evolve.engines.evaluation.engine import Hooks, score_all
from evolve.engines.evaluation.results import score_of
from evolve.engines.protocols import RehearseEvaluationJob, Report, TaskScore, TaskSpec
from evolve.errors import ConfigError, EvaluationError, RehearsalError

__all__ = ["rehearse_evaluation"]

_DOCUMENTS = 2
_MOST = 500  # characters of a message; transformers lists whole vocabularies and classes


def rehearse_evaluation(job: RehearseEvaluationJob, report: Report, device: str = "auto") -> dict[str, TaskScore]:
    """Load a model and score it on the first documents of each task; see `EvaluationRehearser`.

    Returns:
        The score on each task; NaN where the metric is not defined for so few documents.

    Raises:
        ConfigError: A setting of the evaluation is wrong; the message gives its key.
        TaskError: A task is wrong.
        RehearsalError: The model or a setting is wrong.
        torch.OutOfMemoryError: As torch raises it.
    """
    from evolve.engines.evaluation.quiet import quiet
    from evolve.engines.generators import preserved_generators

    tasks = tuple(spec.shortened(_DOCUMENTS) for spec in job.evaluation.tasks)
    with quiet(evaluating=True), preserved_generators(), tempfile.TemporaryDirectory(prefix="evolve-first-") as output:
        evaluation = replace(job.evaluation, tasks=tasks, output=Path(output), request_caches={}, answers={})
        with _undefined_averages():
            return score_all(evaluation, report, device_name(device), _Explained(job))[0]


@contextmanager
def _undefined_averages() -> Iterator[None]:
    """Let a task have no score where its metric is not defined for two documents, such as a correlation."""
    from lm_eval import evaluator_utils

    aggregate = evaluator_utils._compute_task_aggregations  # noqa: SLF001

    def tried(task: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return aggregate(task, *arguments, **options)
        except (ArithmeticError, statistics.StatisticsError):
            return {}, _DOCUMENTS

    with mock.patch.object(evaluator_utils, "_compute_task_aggregations", tried):
        yield


class _Explained(Hooks):
    """Hooks that turn the errors of the libraries into errors with the key of a setting, if it is known."""

    def __init__(self, job: RehearseEvaluationJob) -> None:
        self._job = job.evaluation
        self._keys = job.keys
        self._arguments = {f"evaluation.model_args.{name}": value for name, value in self._job.model_args.items()}

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Explain an error while the model is loaded."""
        setting = f"evaluation.model_args = {json.dumps(dict(self._job.model_args), default=str)}"
        with self._explained("lm-eval cannot load the model", self._arguments, setting):
            yield

    def score(self, results: Mapping[str, Any], spec: TaskSpec) -> TaskScore:
        """Return the score, or NaN where two documents give none: not all documents count for all metrics.

        Raises:
            EvaluationError: The task has no such metric.
        """
        try:
            return score_of(results, spec)
        except EvaluationError:
            metrics = results.get("higher_is_better", {}).get(spec.task) or {}
            if spec.metric not in results["results"][spec.task] and spec.metric.partition(",")[0] not in metrics:
                raise
            return TaskScore(spec.metric, math.nan, None, _DOCUMENTS)

    def loaded(self, lm: Any) -> None:
        """Refuse a tokenizer with tokens that have no row in the embeddings, and one without a wanted chat template.

        A token that is added to a vocabulary may lack a row, as an image has in the text models of Gemma 3. Text does
        not contain it, except those at the beginning and the end.

        Raises:
            RehearsalError: The tokenizer does not suit the model or the settings.
        """
        tokenizer = getattr(lm, "tokenizer", None)
        template = self._job.apply_chat_template
        if template is True and tokenizer is not None and getattr(tokenizer, "chat_template", None) is None:
            raise RehearsalError(
                "its tokenizer has no chat template; set evaluation.apply_chat_template to false, or add "
                "chat_template.jinja to the folder",
                "evaluation.apply_chat_template = true",
            )
        embeddings = getattr(getattr(lm, "model", None), "get_input_embeddings", lambda: None)()
        rows = getattr(embeddings, "num_embeddings", None)
        if isinstance(rows, int) and tokenizer is not None and hasattr(tokenizer, "get_vocab"):
            token, number = max(_used_tokens(tokenizer).items(), key=lambda item: item[1], default=("", -1))
            if number >= rows:
                chosen = self._job.model_args.get("tokenizer")
                raise RehearsalError(
                    f"its tokenizer gives the token {token!r} the id {number}, but its embeddings have only {rows} "
                    "rows; resize the embeddings, or remove the token from the tokenizer",
                    f"evaluation.model_args.tokenizer = {chosen}" if chosen else None,
                )

    @contextmanager
    def scoring(self, spec: TaskSpec) -> Iterator[None]:
        """Explain an error while a task is scored."""
        key = self._keys[spec.task]
        generation = {f"{key}.generation_kwargs.{name}": value for name, value in spec.generation_kwargs.items()}
        words = f"the first documents of task '{spec.task}' cannot be scored"
        with self._explained(words, {**generation, **self._arguments}, f"{key} = {{task: {spec.task}}}"):
            yield

    @contextmanager
    def _explained(self, what: str, settings: Mapping[str, Any], otherwise: str) -> Iterator[None]:
        """Raise errors of the libraries as ConfigError of a setting that they name, or as RehearsalError.

        Args:
            what: The work, for the message.
            settings: Values by the keys that an error may name.
            otherwise: Key and value of the setting that is wrong if no model can be used with it.
        """
        import jinja2
        import torch

        from evolve.engines.quiet import loading_errors

        errors: tuple[type[Exception], ...] = (*loading_errors(), ArithmeticError, jinja2.TemplateError)
        try:
            yield
        except (RehearsalError, torch.OutOfMemoryError):
            raise
        except EvaluationError as error:
            raise self._blamed(str(error).removeprefix("evaluation: "), settings, otherwise) from error
        except errors as error:
            words = f"{what} ({type(error).__name__}: {error})"
            raise self._blamed(words, settings, otherwise) from error

    def _blamed(self, words: str, settings: Mapping[str, Any], otherwise: str) -> EvaluationError | ConfigError:
        words = " ".join(words.replace(str(self._job.checkpoint.absolute()), "the model").split())
        words = words if len(words) <= _MOST else f"{words[:_MOST]} ..."
        named = next((key for key, value in settings.items() if _is_named(key.rpartition(".")[2], value, words)), None)
        if named is not None:
            return ConfigError(f"{named} = {json.dumps(settings[named], default=str)}: {words}; correct or remove it")
        return RehearsalError(words, otherwise)


def _used_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the numbers of the tokens that lm-eval gives to a model."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    added: dict[str, int] = tokenizer.get_added_vocab() if hasattr(tokenizer, "get_added_vocab") else {}
    ends = {getattr(tokenizer, "bos_token", None), getattr(tokenizer, "eos_token", None)}
    return {token: number for token, number in vocabulary.items() if token not in added or token in ends}


def _is_named(name: str, value: Any, words: str) -> bool:
    """Return whether an error names an argument in quotes, or its value if that is a string."""
    quoted = re.search(rf"['\"`]{re.escape(name)}['\"`=]", words) is not None
    return quoted or (isinstance(value, str) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", words) is not None)
