"""Sources of models: local folders, and the Hugging Face Hub through its client.

A Hub id is resolved once to a commit; the folder of that commit in the client's cache never changes. The client finds
its token itself, in its environment; evolve writes tokens nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evolve.engines.checkpoints import is_complete, is_pickled
from evolve.errors import ModelError

__all__ = ["LocatedModel", "UnreachableModelError", "cached_folder", "missing_bytes", "resolve"]

_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py")
_PICKLED = ("pytorch_model*.bin",)  # fetched only where there are no safetensors
_NO_FILES = ("consolidated*", "*/*.safetensors")  # copies of the weights, and those of other stages of training
_PARTLY = "only a part of it is in the local Hub cache; download it first"


class UnreachableModelError(ModelError):
    """A model is not in the local cache, and the Hub cannot be reached, is switched off, or was not asked."""


@dataclass(frozen=True)
class LocatedModel:
    """A model in a local folder.

    Attributes:
        path: Its folder.
        revision: Its commit if it came from the Hub. Of a model and an adapter `<commit>+<commit>`, either of which may
            be empty.
        adapter: Folder of the LoRA adapter that is still to be merged into it.
        pickled: Whether its weights are pickled and are still to be converted.
    """

    path: Path
    revision: str | None
    adapter: Path | None = None
    pickled: bool = False


def resolve(source: str, *, pickled: bool = False, download: bool = True) -> LocatedModel:
    """Return the local folder of a model or an adapter.

    Args:
        source: An absolute path of a folder, or a Hub id with an optional `@revision` (a branch, tag or commit).
        pickled: Whether pickled weights are accepted where there are no safetensors.
        download: Whether to download files that are not in the local cache; if not, the Hub is not asked.

    Raises:
        UnreachableModelError: The model, or a part of it, is not in the local cache, and the Hub cannot be reached, is
            switched off, or may not be asked.
        ModelError: There is no such folder, the Hub has no such model, or its weights are of no accepted form.
    """
    if source.startswith("/"):
        if not Path(source).is_dir():
            raise ModelError(f"{source}: there is no such folder; give the folder of a model, or a Hub id")
        return LocatedModel(Path(source), None, pickled=pickled and is_pickled(Path(source)))
    name, revision = _parts(source)
    folder = _snapshot(name, revision, _FILES, download=download)
    weights = any(folder.glob("*.safetensors"))
    if not download and not (is_complete(folder) if weights else is_pickled(folder)):
        raise UnreachableModelError(f"{source}: {_PARTLY}")
    if weights:
        return LocatedModel(folder, folder.name)
    if pickled and is_pickled(_snapshot(name, folder.name, (*_FILES, *_PICKLED), download=download)):
        return LocatedModel(folder, folder.name, pickled=True)
    raise ModelError(
        f"{source}: {folder} holds no safetensors weights: download the model again, or, if it comes with pickled "
        "weights only, set allow_pickled_weights: true, or convert it and give the folder"
    )


def cached_folder(source: str) -> Path:
    """Return the folder of a repository as the local Hub cache has it; it need not hold weights. The Hub is not asked.

    Args:
        source: A Hub id with an optional `@revision`.

    Raises:
        UnreachableModelError: The repository is not in the local cache.
        ModelError: This is no Hub id.
    """
    name, revision = _parts(source)
    return _snapshot(name, revision, ("*",), download=False)


def missing_bytes(source: str, *, pickled: bool = False) -> int:
    """Return how many bytes `resolve` would download; 0 for a folder. Asks the Hub for sizes and fetches no file.

    Args:
        source: As for `resolve`.
        pickled: As for `resolve`.

    Raises:
        UnreachableModelError: The Hub cannot be reached or is switched off.
        ModelError: There is no such folder, the Hub has no such model, or its weights are of no accepted form.
    """
    if source.startswith("/"):
        resolve(source)
        return 0
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # lazily exported

    name, revision = _parts(source)
    with _hub_errors(name, revision):
        info = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}

    def chosen(patterns: Sequence[str]) -> list[str]:
        return list(filter_repo_objects(sizes, allow_patterns=list(patterns), ignore_patterns=list(_NO_FILES)))

    files = chosen(_FILES)
    if not any(file.endswith(".safetensors") for file in files):
        if not (pickled and chosen(_PICKLED)):
            raise ModelError(
                f"{source}: the Hub has no safetensors weights of this model: set allow_pickled_weights: true if it "
                "comes with pickled weights, or convert it and give the folder"
            )
        files += chosen(_PICKLED)
    cached = (huggingface_hub.try_to_load_from_cache(name, file, revision=info.sha) for file in files)
    return sum(sizes[file] for file, path in zip(files, cached, strict=True) if not isinstance(path, str))


def _parts(source: str) -> tuple[str, str | None]:
    """Return name and revision of a Hub id."""
    name, _, revision = source.partition("@")
    return name, revision or None


def _snapshot(name: str, revision: str | None, patterns: Sequence[str], *, download: bool) -> Path:
    """Return the folder of a commit in the Hub cache, with all files of these patterns if it may be downloaded."""
    import huggingface_hub

    with _hub_errors(name, revision, asked=download):
        path = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(_NO_FILES),
            local_files_only=not download,
        )
    return Path(path).resolve()


@contextmanager
def _hub_errors(name: str, revision: str | None, *, asked: bool = True) -> Iterator[None]:
    """Turn errors of the Hub's client into `ModelError`."""
    from huggingface_hub import errors

    shown = f"{name}@{revision}" if revision else name
    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(
            f"{shown}: the Hub asks for your consent to this model's terms; give it on the model's page, then log in "
            "with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{shown}: the Hub knows no such model; check the spelling, or log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{shown}: the model has no revision {revision}; give a branch, a tag or a commit") from None
    except errors.HFValidationError:
        raise ModelError(f"{shown}: is neither an existing folder nor a Hub id of the form owner/name") from None
    except errors.IncompleteSnapshotError as error:
        if not asked:
            raise UnreachableModelError(f"{shown}: {_PARTLY}") from None
        raise ModelError(f"{shown}: {error.snapshot_path} is not complete; download the model again") from None
    except _connection_errors() as error:
        raise UnreachableModelError(_unreachable(shown, name, revision, error, asked=asked)) from None


def _connection_errors() -> tuple[type[Exception], ...]:
    """Return the errors that the Hub's client raises if a connection fails, including those of its HTTP library."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, RuntimeError, *(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)))


def _unreachable(shown: str, name: str, revision: str | None, error: Exception, *, asked: bool) -> str:
    """Return the message that a model is not in the local cache, with the reason why the Hub cannot be asked."""
    from huggingface_hub import constants

    what = (
        "is neither an existing folder nor in the local Hub cache"
        if "/" not in name
        else "is not in the local Hub cache"
    )
    known = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    if revision and known.is_dir() and any(known.iterdir()):
        what = f"is not in the local Hub cache, which has other revisions of {name}"
    if constants.is_offline_mode():
        return f"{shown}: {what}, and the Hub is switched off (HF_HUB_OFFLINE); download it first, or give a folder"
    if not asked:
        return f"{shown}: {what}; download it first, or give a folder"
    lines = str(error.__cause__ or error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return f"{shown}: {what}, and the Hub cannot be reached ({reason}); download it first, or give a folder"
