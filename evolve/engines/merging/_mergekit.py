"""Calls into mergekit: parsing, running and planning. Importing it takes seconds, so callers import it late."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mergekit.merge
import mergekit.tokenizer.build
import torch
from mergekit.architecture import ModelArchitecture, get_architecture_info
from mergekit.architecture.auto import infer_architecture_info
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor, Task
from mergekit.io.tasks import LoaderCache, SaveTensor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from evolve.engines.merging._content import parse_recipe
from evolve.engines.protocols import MergeJob, Report

__all__ = ["Configuration", "Plan", "compute", "parse", "plan", "run"]

_SHARD_BYTES = 1_000_000_000
"""Size of a file of the child's weights. mergekit holds one complete file in memory, or two while it writes it."""


class Configuration(MergeConfiguration):  # type: ignore[misc]  # mergekit is untyped
    """A recipe that lists its models in the order in which they are written, the base first.

    mergekit's own order is that of a set. A union of three tokenizers, and the model whose configuration is copied
    where there is no base, would depend on PYTHONHASHSEED.
    """

    def referenced_models(self) -> list[ModelReference]:
        """Return all models without repetition."""
        found = [self.base_model] if self.base_model else []
        for part in (self, *(self.modules or {}).values()):
            found += [entry.model for entry in part.models or ()]
            found += [source.model for output in part.slices or () for source in output.sources]
        return list(dict.fromkeys(found))

    @property
    def folders(self) -> list[Path]:
        """Folders of all models; mergekit copies the configuration of the first."""
        return [Path(model.model.path) for model in self.referenced_models()]

    @property
    def aligns_tokens(self) -> bool:
        """Whether mergekit builds a tokenizer for the child and aligns the rows of the embeddings with it."""
        return self.tokenizer is not None or self.tokenizer_source is not None


@dataclass(frozen=True)
class Plan:
    """The plan of a merge by mergekit.

    Attributes:
        architecture: mergekit's definition of the models' architecture.
        config: Configuration of the child, before its vocabulary is known.
        tasks: The tasks that write the child.
    """

    architecture: ModelArchitecture
    config: Any
    tasks: list[Task[Any]]


def parse(recipe: str) -> Configuration:
    """Parse a recipe that `check_recipe` has accepted."""
    configuration: Configuration = Configuration.model_validate(parse_recipe(recipe))
    return configuration


def run(configuration: Configuration, job: MergeJob, *, device: str, seed: int | None, report: Report) -> None:
    """Run mergekit into the output folder of a job. mergekit's exceptions pass through.

    Args:
        configuration: The recipe; mergekit changes it.
        job: The job.
        device: Where to compute. Results are kept in main memory until a file is full, so the device needs room for
            one tensor of each model only.
        seed: Seed of the methods that draw random numbers.
        report: Receives the number of finished tensors.
    """
    options = MergeOptions(
        device=device,
        copy_tokenizer=True,
        write_model_card=False,  # mergekit's card looks up every parent on the Hub
        quiet=True,
        random_seed=seed,
        trust_remote_code=job.trust_remote_code,
        out_shard_size=_SHARD_BYTES,
    )
    with _clean_caches(), _quiet(), _reported(report):
        mergekit.merge.run_merge(configuration, str(job.output), options)


@contextlib.contextmanager
def plan(configuration: Configuration, *, device: str = "meta", trust_remote_code: bool) -> Iterator[Plan]:
    """Plan a merge. mergekit's caches are valid within the context only. mergekit's exceptions pass through.

    Args:
        configuration: The recipe; mergekit changes it.
        device: Where to compute. On torch's meta device the tensors have a shape and no data.
        trust_remote_code: Whether the models' own code may run.
    """
    on_shapes = device == "meta"
    options = MergeOptions(device=device, read_to_gpu=on_shapes, quiet=True, trust_remote_code=trust_remote_code)
    with _clean_caches(), _quiet():
        LoaderCache().setup(options=options)
        architecture = get_architecture_info(configuration, options)
        config = mergekit.merge._model_out_config(configuration, architecture, trust_remote_code)  # noqa: SLF001
        planner = MergePlanner(configuration, architecture, options=options, out_model_config=config)
        yield Plan(architecture, config, planner.plan_to_disk(out_path=""))  # a plan writes nothing


def compute(saves: Sequence[SaveTensor], device: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Compute tensors of a planned merge; yield each with its name instead of writing it.

    Optional tensors that the child lacks are left out. mergekit's exceptions pass through.

    Args:
        saves: The tasks that would write the tensors, from `plan` with the same device.
        device: Where to compute; the results are in main memory.
    """
    writers = {save.tensor_task: save for save in saves}
    for task, tensor in Executor([*writers], math_device=device, storage_device="cpu").run(quiet=True):
        if tensor is not None:
            save = writers[task]
            yield save.tensor_name, tensor.to(dtype_from_name(save.dtype)) if save.dtype else tensor


@contextlib.contextmanager
def _clean_caches() -> Iterator[None]:
    """Empty mergekit's caches, which live as long as the process, before and after.

    Its loaders map the files of every model ever merged: a model rewritten at the same path would be merged with its
    old weights, and the space of deleted checkpoints would not be freed.
    """
    _empty_caches()
    try:
        yield
    finally:
        _empty_caches()
        _return_memory()


def _empty_caches() -> None:
    loaders = LoaderCache()
    loaders.flush_all()
    loaders.loaders.clear()
    MergePlanner._model_arch.cache_clear()  # noqa: SLF001 - it holds complete planners
    infer_architecture_info.cache_clear()  # by path: it would describe a rewritten model by its old tensors


def _return_memory() -> None:
    """Return freed memory to the system, which glibc does not do by itself."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what mergekit prints in spite of `quiet`: a progress bar, and warnings about what it infers.

    Some of its warnings go to the root logger, to which Python then adds a handler.
    """
    bars, disabled, handlers = mergekit.tokenizer.build.tqdm, logging.root.manager.disable, [*logging.root.handlers]
    mergekit.tokenizer.build.tqdm = SimpleNamespace(tqdm=lambda items, **_: items)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        mergekit.tokenizer.build.tqdm = bars
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


@contextlib.contextmanager
def _reported(report: Report) -> Iterator[None]:
    """Make `run_merge`, which offers no callback, report each tensor."""

    class Reporting(Executor):  # type: ignore[misc]
        def run(self, quiet: bool = False, desc: str | None = None) -> Iterator[tuple[Any, Any]]:  # noqa: FBT001, FBT002
            for done, result in enumerate(super().run(quiet=quiet, desc=desc), start=1):
                report("merging", done, len(self.targets))
                yield result

    executor = mergekit.merge.Executor
    mergekit.merge.Executor = Reporting
    try:
        yield
    finally:
        mergekit.merge.Executor = executor
