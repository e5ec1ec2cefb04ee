"""The one place that calls mergekit. Importing it takes seconds; `merger` does so when it is called."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mergekit.merge
import mergekit.tokenizer.build
import numpy as np
import torch
import transformers
import yaml
from mergekit.architecture import get_architecture_info
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.graph import Executor, Task
from mergekit.io.tasks import LoaderCache, LoadTensor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from evolve.engines.protocols import MergeJob, Report

__all__ = ["Configuration", "kept_generators", "parse", "quiet_transformers", "rehearse", "run"]


class Configuration(MergeConfiguration):  # type: ignore[misc]  # mergekit is untyped
    """A recipe that names its models in the order in which they are written, the base first.

    mergekit's own order is that of a set, so that a union of three tokenizers, or the donor of the configuration where
    there is no base, depends on PYTHONHASHSEED.
    """

    def referenced_models(self) -> list[ModelReference]:
        """All models without repetition."""
        found = [self.base_model] if self.base_model else []
        for part in (self, *(self.modules or {}).values()):
            found += [entry.model for entry in part.models or ()]
            found += [source.model for output in part.slices or () for source in output.sources]
        return list(dict.fromkeys(found))

    @property
    def folders(self) -> list[Path]:
        """The folders of all models; the first is the one whose configuration mergekit copies."""
        return [Path(model.model.path) for model in self.referenced_models()]

    @property
    def realigns(self) -> bool:
        """Whether the rows of embeddings are lined up with a tokenizer of the child's own."""
        return self.tokenizer is not None or self.tokenizer_source is not None


def parse(recipe: str) -> Configuration:
    """Parses a recipe that `check_recipe` has accepted."""
    configuration: Configuration = Configuration.model_validate(yaml.safe_load(recipe))
    return configuration


def run(configuration: Configuration, job: MergeJob, *, device: str, seed: int | None, report: Report) -> None:
    """Runs mergekit into the output folder of a job. Its exceptions pass through.

    Args:
        configuration: The recipe; mergekit changes it.
        job: The job.
        device: Where the arithmetic is done. Results go to main memory, since mergekit gathers up to 5 GB of them
            before it writes: the device needs room for one tensor of each model only.
        seed: Of methods that draw random numbers.
        report: Is told the number of tensors done.
    """
    options = MergeOptions(
        device=device,
        copy_tokenizer=True,
        write_model_card=False,  # mergekit's asks the hub about every parent
        quiet=True,
        random_seed=seed,
        trust_remote_code=job.trust_remote_code,
    )
    _forget()
    try:
        with _hooks(report):
            mergekit.merge.run_merge(configuration, str(job.output), options)
    finally:
        _forget()


def rehearse(configuration: Configuration, *, trust_remote_code: bool) -> None:
    """Plans a merge and looks for its tensors, without reading them. mergekit's exceptions pass through."""
    options = MergeOptions(device="cpu", quiet=True, trust_remote_code=trust_remote_code)
    _forget()
    try:
        LoaderCache().setup(options=options)
        architecture = get_architecture_info(configuration, options)
        out = mergekit.merge._model_out_config(configuration, architecture, trust_remote_code)  # noqa: SLF001
        planner = MergePlanner(configuration, architecture, options=options, out_model_config=out)
        absent: dict[ModelReference, LoadTensor] = {}
        for task in planner.plan_to_disk(out_path=""):  # a plan writes nothing
            for load in _loads(task):
                if not load.optional and load._resolve_name(LoaderCache().get(load.model)) is None:  # noqa: SLF001
                    absent.setdefault(load.model, load)
        for load in absent.values():
            load.execute()  # some are put together from several; the first tells whether mergekit knows how
    finally:
        _forget()


def _loads(task: Task[Any]) -> Iterator[LoadTensor]:
    if isinstance(task, LoadTensor):
        yield task
    for argument in task.arguments().values():
        yield from _loads(argument)


def _forget() -> None:
    """Drops what mergekit keeps for the life of the process.

    Its loaders map the files of every model ever merged: a model written anew at the same path would be merged with
    its old weights, and the space of deleted checkpoints would not be freed.
    """
    loaders = LoaderCache()
    loaders.flush_all()
    loaders.loaders.clear()
    MergePlanner._model_arch.cache_clear()  # noqa: SLF001 - it holds whole planners


@contextlib.contextmanager
def _hooks(report: Report) -> Iterator[None]:
    """Makes `run_merge`, which offers no callback, report each tensor; silences the bar that ignores `quiet`."""

    class Reporting(Executor):  # type: ignore[misc]
        def run(self, quiet: bool = False, desc: str | None = None) -> Iterator[tuple[Any, Any]]:  # noqa: FBT001, FBT002
            for done, result in enumerate(super().run(quiet=quiet, desc=desc), start=1):
                report("merging", done, len(self.targets))
                yield result

    executor, bars = mergekit.merge.Executor, mergekit.tokenizer.build.tqdm
    mergekit.merge.Executor = Reporting
    mergekit.tokenizer.build.tqdm = SimpleNamespace(tqdm=lambda items, **_: items)
    try:
        yield
    finally:
        mergekit.merge.Executor, mergekit.tokenizer.build.tqdm = executor, bars


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Gives back the states of the global random generators, which mergekit seeds for its random methods."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences transformers' bars, and its remarks on the way to a child that is not finished yet."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
