"""Keeps the requests that lm-eval builds of a task's documents, for the next model and for later runs.

The requests of a task are the same for every model, or for every model with the same chat template. They are kept in
this process for as long as the task object is, and read from a folder of the caller. New ones are returned as tables,
because only the caller knows whether the data have changed meanwhile. A kept request has everything but the document,
which is always read anew from the task.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

from evolve.engines.evaluation.promptfiles import Prompts, Request, prompts_of, prompts_schema, prompts_table
from evolve.engines.evaluation.tables import has_table, read_table
from evolve.engines.generators import Generators

__all__ = ["keep_rendered", "kept_prompts"]

_PLAIN = "plain"  # the variant of prompts without a chat template
_log = logging.getLogger("evolve.engines.evaluation")


_kept: WeakKeyDictionary[Any, dict[tuple[int, str], Prompts]] = WeakKeyDictionary()
"""Prompts by task object, and by the seed of the few-shot examples and the variant."""


@contextmanager
def kept_prompts(seed: int, folder: Path | None, reusable: Callable[[Any], bool]) -> Iterator[dict[str, Any]]:
    """Let lm-eval's tasks take their requests from those that are kept, and keep those that they build.

    Only requests are kept of which the building draws nothing from the global random generators, and which are equal
    to the built ones when they are restored. The few-shot generator of a task with kept requests stays at its seed;
    lm-eval draws from it only to build requests, and seeds it before each evaluation.

    Args:
        seed: Seed of the few-shot examples.
        folder: Folder of kept requests of exactly this task and these settings; None: only this process keeps them.
        reusable: Returns whether two evaluations may use the same object of a task.

    Yields:
        The tables that the folder lacks, by the stem of the file's name; filled in the block.
    """
    from lm_eval.api.task import ConfigurableTask

    build = ConfigurableTask.build_all_requests
    lacking: dict[str, Any] = {}

    def built(task: Any, **options: Any) -> None:
        variant = _variant(options) if reusable(task) else None
        if variant is None:
            build(task, **options)
        else:
            _Keeper(task, seed, variant, folder, lacking).fill(
                options.get("limit") or None, lambda: build(task, **options)
            )

    with mock.patch.object(ConfigurableTask, "build_all_requests", built):
        yield lacking


def keep_rendered(task: Any, seed: int, limit: int | None, instances: Sequence[Any]) -> None:
    """Keep requests without a chat template that were built outside an evaluation, by the calls that lm-eval makes."""
    _Keeper(task, seed, _PLAIN, None, {}).keep(limit, instances)


class _Keeper:
    """The kept requests of one task object in one variant."""

    def __init__(self, task: Any, seed: int, variant: str, folder: Path | None, lacking: dict[str, Any]) -> None:
        import jinja2

        self._task = task
        self._key = (seed, variant)
        self._folder = folder
        self._lacking = lacking
        identity = json.dumps([str(task.config.task), variant, jinja2.__version__])
        self._stem = f"prompts-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"

    def fill(self, limit: int | None, build: Callable[[], None]) -> None:
        """Give the task its requests for the first `limit` documents; None: for all."""
        for find in (self._remembered, self._read):
            prompts = find()
            if prompts is not None and prompts.cover(limit):
                instances = _restored(self._task, prompts, limit)
                if instances:
                    self._task._instances = instances  # noqa: SLF001 - the task has no other way
                    self._remember(prompts, write=self._folder is not None and not has_table(self._folder, self._stem))
                    return
        before = Generators.capture()
        build()
        if Generators.capture() == before:
            self.keep(limit, self._task.instances)

    def keep(self, limit: int | None, instances: Sequence[Any]) -> None:
        """Keep built requests if they can be restored."""
        prompts = _taken(instances, complete=limit is None)
        if prompts is None or not _equal(_restored(self._task, prompts, limit), instances):
            _log.debug("the requests of task '%s' are built for each model", self._task.config.task)
        else:
            self._remember(prompts, write=True)

    def _remember(self, prompts: Prompts, *, write: bool) -> None:
        _kept.setdefault(self._task, {})[self._key] = prompts
        if write and self._folder is not None:
            self._lacking[self._stem] = prompts_table(prompts)

    def _remembered(self) -> Prompts | None:
        return _kept.get(self._task, {}).get(self._key)

    def _read(self) -> Prompts | None:
        if self._folder is None:
            return None
        return read_table(self._folder, self._stem, prompts_schema(), prompts_of)


def _variant(options: Mapping[str, Any]) -> str | None:
    """Return what beside the task decides its requests; None if that is not known or the requests are not all."""
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerBase
    from transformers import __version__ as version

    others = ("samples", "cache_requests", "rewrite_requests_cache", "system_instruction")
    if any(options.get(name) for name in others) or options.get("world_size", 1) != 1:
        return None
    if not options.get("apply_chat_template"):
        return _PLAIN
    lm = getattr(options.get("chat_template"), "__self__", None)
    if getattr(type(lm), "apply_chat_template", None) is not HFLM.apply_chat_template:
        return None
    tokenizer = lm.tokenizer  # type: ignore[union-attr]
    if getattr(type(tokenizer), "apply_chat_template", None) is not PreTrainedTokenizerBase.apply_chat_template:
        return None
    record = [
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        lm.chat_template_args,  # type: ignore[union-attr]
        bool(options.get("fewshot_as_multiturn")),
        version,
    ]
    text = json.dumps(record, sort_keys=True, default=str)
    if "strftime_now" in text:  # the prompts have the date
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def _taken(instances: Sequence[Any], *, complete: bool) -> Prompts | None:
    """Return requests without their documents; None if they have more than texts and one dictionary."""
    documents: dict[int, tuple[Request, ...]] = {}
    for number, group in groupby(instances, key=lambda instance: instance.doc_id):
        requests = [_request(instance) for instance in group]
        documents[number] = tuple(request for request in requests if request is not None)
        if len(documents[number]) < len(requests):
            return None
    return Prompts(documents, complete)


def _request(instance: Any) -> Request | None:
    arguments = instance.arguments
    if not isinstance(arguments, tuple) or not arguments:
        return None
    options = arguments[-1] if isinstance(arguments[-1], dict) else None
    texts = arguments if options is None else arguments[:-1]
    if not 1 <= len(texts) <= 2 or any(type(text) is not str for text in texts):
        return None
    try:
        [text.encode() for text in texts]
        dumped = None if options is None else json.dumps(options)
    except (TypeError, ValueError):  # also a lone surrogate
        return None
    return Request(instance.request_type, instance.idx, texts, dumped)


def _restored(task: Any, prompts: Prompts, limit: int | None) -> list[Any] | None:
    """Return the requests for the first documents of a task as lm-eval builds them; None if they are of other data."""
    from lm_eval.api.instance import Instance

    name, repeats = task.config["task"], task.config.repeats
    made: list[Any] = []
    documents = list(task.doc_iterator(limit=limit))
    if limit is None and len(documents) != len(prompts.documents):
        return None
    for number, doc in documents:
        if number not in prompts.documents:
            return None
        made.extend(
            Instance(request.kind, doc, request.arguments, request.index, metadata=(name, number, repeats))
            for request in prompts.documents[number]
        )
    return made


def _equal(restored: Any, built: Sequence[Any]) -> bool:
    try:
        return bool(restored == list(built))
    except ValueError:  # arrays in the documents
        return False
