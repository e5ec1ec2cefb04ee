"""The layer between lm-eval and a model: caching, progress, and the refusal of answers that are not numbers."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from types import SimpleNamespace
from typing import Any

from evolve.engines.evaluation.request_cache import RequestCache
from evolve.engines.protocols import Report
from evolve.errors import EvaluationError

__all__ = ["Interception", "Progress"]

_REQUEST_METHODS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
_BATCH_METHODS = ("_model_call", "_model_generate", "_answer_batch", "_generate_window")

_log = logging.getLogger("evolve.engines.evaluation")


class Progress:
    """Progress of an evaluation over all of its tasks, in documents.

    The documents of the present task count in proportion to its answered requests. So the total is known from the
    start, and the progress never goes back.
    """

    def __init__(self, report: Report, documents: Mapping[str, int]) -> None:
        """Start at nothing done.

        Args:
            report: Called with the progress, at most ten times a second within a list of requests.
            documents: Number of documents by task.
        """
        self._report = report
        self._documents = documents
        self._total = sum(documents.values())
        self._finished = 0
        self._reported = 0.0

    def start(self, task: str) -> None:
        """Report that a task starts."""
        self._report(f"building prompts of {task}", self._finished, self._total)

    def answered(self, task: str, done: int, requests: int, *, now: bool) -> None:
        """Report that `done` of the task's requests are answered; `now` means at once."""
        clock = time.monotonic()
        if now or clock - self._reported >= 0.1:
            self._reported = clock
            share = self._documents[task] * min(done, requests) // max(requests, 1)
            self._report(f"scoring {task}", self._finished + share, self._total)

    def finish(self, task: str) -> None:
        """Count all documents of a task as done."""
        self._finished += self._documents[task]


class Interception:
    """An interception of the requests of one lm-eval call to a model, active within `attached`."""

    def __init__(
        self, task: str, progress: Progress, cache: RequestCache, instances: Callable[[], Sequence[Any]]
    ) -> None:
        """Prepare the interception of one task's requests.

        Args:
            task: Name of the task.
            progress: Called with the number of answered requests.
            cache: Where answers are looked up and kept.
            instances: Returns all requests of the call, once lm-eval has built them.
        """
        self._task = task
        self._progress = progress
        self._cache = cache
        self._instances = instances
        self._done = 0
        self._total = 0
        self._batches_visible = False
        self._in_batch = False

    @contextmanager
    def attached(self, lm: Any) -> Iterator[None]:
        """Route the requests of a model object through this one within a block.

        Afterwards the model object holds no wrapper of its methods; such a reference cycle would keep it in memory.
        """
        from lm_eval.api.model import CacheHook, CachingLM

        interception = self

        class Hook(CacheHook):  # type: ignore[misc]  # lm-eval has no types
            """A receiver of all answers from lm-eval's model classes."""

            def add_partial(self, attr: str, req: Any, res: Any) -> None:
                interception._answered(attr, req, res)

        class Cached(CachingLM):  # type: ignore[misc]
            """lm-eval's look-up in our cache; its own constructor would open a second database."""

            def __init__(self, lm: Any, cache: RequestCache) -> None:
                self.lm, self.cache_db, self.dbdict = lm, str(cache.path), cache

        methods = SimpleNamespace(**{name: getattr(lm, name) for name in _REQUEST_METHODS})
        source = Cached(methods, self._cache)
        try:
            for name in _REQUEST_METHODS:
                itself = "known" in signature(getattr(lm, name)).parameters
                answer = self._with_known(name, getattr(lm, name)) if itself else getattr(source, name)
                setattr(lm, name, self._list(name, answer))
            for name in _BATCH_METHODS:
                if hasattr(lm, name):
                    self._batches_visible = True
                    setattr(lm, name, self._batch(getattr(lm, name)))
            if hasattr(lm, "_model_generate"):
                lm._model_generate = self._finite(lm._model_generate, getattr(lm, "model", None))  # noqa: SLF001
            lm.set_cache_hook(Hook(None))
            yield
        finally:
            for name in (*_REQUEST_METHODS, *_BATCH_METHODS):
                vars(lm).pop(name, None)
            lm.set_cache_hook(CacheHook(None))

    def _list(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a method that answers a list of requests."""

        def run(requests: Sequence[Any], **options: Any) -> Any:
            self._total = self._total or sum(instance.repeats for instance in self._instances())
            start, hits = self._done, self._cache.hits
            self._cache.start_list()
            self._report(now=True)
            answers = answer(requests, **options)
            _log.info("%s: %d requests, %d of them cached", name, len(requests), self._cache.hits - hits)
            for one in answers:
                self._refuse_nan(one)
            self._done = start + len(requests)
            self._report(now=True)
            return answers

        return run

    def _with_known(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a method that takes all requests of a list, with the answers that are known."""
        from lm_eval.api.model import hash_args

        def run(requests: Sequence[Any], **options: Any) -> Any:
            known = [self._cache.take(hash_args(name, request.args)) for request in requests]
            answers = answer(requests, known=known, **options)
            self._cache.commit()
            return answers

        return run

    def _batch(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a method that computes one batch; a batch within another is a part of it."""

        def run(*positional: Any, **named: Any) -> Any:
            if self._in_batch:
                return compute(*positional, **named)
            # By now all cached answers of the list have been looked up.
            self._cache.start_batch()
            self._in_batch = True
            try:
                return compute(*positional, **named)
            except FloatingPointError as error:
                raise self._not_a_number("generates from logits that are not numbers") from error
            finally:
                self._in_batch = False

        return run

    def _finite(self, generate: Callable[..., Any], module: Any) -> Callable[..., Any]:
        """Wrap a method that generates, to refuse logits that are not numbers; the output does not show them."""
        import torch

        if not isinstance(module, torch.nn.Module):
            return generate

        def run(*positional: Any, **named: Any) -> Any:
            flaws: list[Any] = []

            def look(_module: Any, _inputs: Any, output: Any) -> None:
                logits = getattr(output, "logits", None)
                if isinstance(logits, torch.Tensor):
                    # Prompts are padded on the left, so the last position is a real token. This does not wait for
                    # the GPU.
                    flaw = torch.isnan(logits[:, -1]).any()
                    flaws[:] = [flaw | flaws[0] if flaws else flaw]

            handle = module.register_forward_hook(look)
            try:
                texts = generate(*positional, **named)
            finally:
                handle.remove()
            if flaws and bool(flaws[0]):
                raise self._not_a_number("generates from logits that are not numbers")
            return texts

        return run

    def _answered(self, name: str, request: Any, answer: Any) -> None:
        from lm_eval.api.model import hash_args

        self._refuse_nan(answer)
        self._cache.add(hash_args(name, request), answer)
        if not self._batches_visible:
            self._cache.start_batch()
        self._done += 1
        self._report(now=False)

    def _report(self, *, now: bool) -> None:
        self._progress.answered(self._task, self._done, self._total, now=now)

    def _refuse_nan(self, answer: Any) -> None:
        value = answer[0] if isinstance(answer, tuple) else answer
        if isinstance(value, float) and math.isnan(value):
            raise self._not_a_number("gives a log-likelihood that is not a number")

    def _not_a_number(self, what: str) -> EvaluationError:
        return EvaluationError(
            f"evaluation: task '{self._task}': the model {what}. Its weights are damaged, or its activations overflow "
            "in this dtype (try model_args: {dtype: bfloat16} or float32)."
        )
