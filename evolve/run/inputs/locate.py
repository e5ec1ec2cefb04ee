"""Stage 1, locate: find the folders of models and data, and download models from the Hub if allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evolve.config import FILE_ARGUMENTS, AdapterSource, Config, ModelSource
from evolve.engines.adapters import check_adapter
from evolve.engines.checkpoints import is_pickled, read_layout
from evolve.engines.sources import LocatedModel, UnreachableModelError, missing_bytes, resolve
from evolve.errors import ConfigError, ModelError

__all__ = [
    "BASE",
    "Fetch",
    "Located",
    "Missing",
    "check_folders",
    "config_key",
    "locate_model",
    "locate_models",
    "model_sources",
    "parts_of",
]

BASE = "base_model"
"""Name of the base model; no foundation can have it."""


@dataclass(frozen=True)
class Fetch:
    """How the Hub may be used.

    Attributes:
        download: Download models that are not in the local cache.
        need_all: Every model must be in the local cache or known to the Hub; otherwise models that are not in the cache
            are listed as missing, and the Hub is not asked.
    """

    download: bool = True
    need_all: bool = True


@dataclass(frozen=True)
class Missing:
    """A model that is not on this machine.

    Attributes:
        reason: The reason, in a sentence that names the model.
        bytes: Size of the download; None if the Hub was not asked.
    """

    reason: str
    bytes: int | None


@dataclass(frozen=True)
class Located:
    """The locations of the models of a configuration.

    Attributes:
        models: The base and the foundations by name, before adapters are merged and pickled weights are converted.
        missing: Models that are not on this machine, by name.
    """

    config: Config
    models: Mapping[str, LocatedModel]
    missing: Mapping[str, Missing]

    @property
    def pickled(self) -> tuple[str, ...]:
        """Names of the models whose pickled weights are not converted yet."""
        return tuple(name for name, model in self.models.items() if model.pickled)


def config_key(name: str) -> str:
    """Return the key of the configuration that names a model."""
    return name if name == BASE else f"foundation_models.{name}"


def model_sources(config: Config) -> dict[str, ModelSource]:
    """Return the base and the foundations as configured, by name."""
    return {BASE: config.base_model, **config.foundation_models}


def parts_of(source: ModelSource) -> dict[str, str]:
    """Return the folders and Hub ids of a model's parts by their role."""
    if isinstance(source, AdapterSource):
        return {"model": source.model, "adapter": source.adapter}
    return {"model": source}


def locate_models(config: Config, fetch: Fetch) -> Located:
    """Find all models of a configuration.

    Raises:
        ModelError: Models are missing, damaged or unreachable; the message has a line for each.
    """
    models: dict[str, LocatedModel] = {}
    missing: dict[str, Missing] = {}
    problems: list[ModelError] = []
    for name, source in model_sources(config).items():
        try:
            models[name] = locate_model(source, pickled=config.allow_pickled_weights, download=fetch.download)
        except UnreachableModelError as error:
            try:
                missing[name] = _missing(source, error, config, fetch)
            except ModelError as unreachable:
                problems.append(_with_key(name, unreachable))
        except ModelError as error:
            problems.append(_with_key(name, error))
    if problems:
        raise type(problems[0])("\n".join(map(str, problems)))
    return Located(config, models, missing)


def locate_model(source: ModelSource, *, pickled: bool, download: bool = True) -> LocatedModel:
    """Find one model, with its adapter if it has one.

    Args:
        source: The model as configured.
        pickled: Whether pickled weights are accepted; with an adapter they never are.
        download: Whether a model may be downloaded from the Hub.

    Raises:
        UnreachableModelError: A part is not in the local Hub cache, and cannot or may not be downloaded.
        ModelError: A part is missing or damaged, or the adapter does not fit the model.
    """
    if not isinstance(source, AdapterSource):
        return resolve(source, pickled=pickled, download=download)
    # The adapter comes first: a wrong folder is reported even if the Hub cannot be reached.
    adapter = resolve(source.adapter, download=download)
    model = resolve(source.model, download=download)
    if is_pickled(model.path):
        raise ModelError(
            f"{model.path}: holds pickled weights, which are not converted for a model with an adapter: convert them "
            "with AutoModelForCausalLM.from_pretrained(...).save_pretrained(..., safe_serialization=True)"
        )
    check_adapter(adapter.path, read_layout(model.path))
    commits = (model.revision or "", adapter.revision or "")
    return LocatedModel(model.path, "+".join(commits) if any(commits) else None, adapter.path)


def check_folders(config: Config) -> None:
    """Raise ConfigError if a folder of data or tasks, or a file that a model argument names, is missing."""
    for task, folder in config.evaluation.datasets.items():
        if not folder.is_dir():
            raise ConfigError(
                f"evaluation.datasets.{task} = {folder}: there is no such folder; give one with <split>.jsonl files"
            )
    for number, folder in enumerate(config.evaluation.task_dirs):
        if not folder.is_dir():
            raise ConfigError(f"evaluation.task_dirs.{number} = {folder}: there is no such folder; give one with tasks")
    for key in FILE_ARGUMENTS:
        value = config.evaluation.model_args.get(key)
        if not isinstance(value, str) or "{" in value:  # a chat template may be given as text
            continue
        if value.startswith("/") and not Path(value).exists():
            raise ConfigError(f"evaluation.model_args.{key} = {value}: there is no such file; correct the path")
        if not value.startswith("/") and Path(value).exists():
            raise ConfigError(
                f"evaluation.model_args.{key} = {value}: is not beside the configuration, but lm-eval would read it in "
                f"the current folder; give its absolute path {Path(value).absolute()}"
            )


def _missing(source: ModelSource, error: UnreachableModelError, config: Config, fetch: Fetch) -> Missing:
    """Describe a model that is not on this machine; raise the error if the run needs it now."""
    if not fetch.need_all:
        return Missing(str(error), None)
    if fetch.download:
        raise error
    size = sum(_missing_sizes(source, pickled=config.allow_pickled_weights))
    return Missing(f"{' with the adapter '.join(parts_of(source).values())} is not in the local Hub cache", size)


def _missing_sizes(source: ModelSource, *, pickled: bool) -> Iterator[int]:
    for part in parts_of(source).values():
        if not Path(part).is_absolute():
            yield missing_bytes(part, pickled=pickled and not isinstance(source, AdapterSource))


def _with_key(name: str, error: ModelError) -> ModelError:
    return type(error)(f"{config_key(name)} = {error}")
