"""Where models come from: folders, and the hub by way of its own client.

A hub id is resolved once to a commit; the folder of that commit in the client's cache never changes. Tokens are the
client's own business: they come from its environment and are written nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evolve.engines.checkpoints import is_pickled
from evolve.errors import ModelError

__all__ = ["NotAtHandError", "Source", "resolve"]

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py"]
_PICKLED = ["pytorch_model*.bin"]  # asked for only where there is nothing better
_NO_FILES = ["consolidated*", "*/*.safetensors"]  # the same weights once more, and those of other stages of training


class NotAtHandError(ModelError):
    """A model of the hub is not in the local cache, and the hub cannot be asked; it may well exist."""


@dataclass(frozen=True)
class Source:
    """A model that is at hand.

    Attributes:
        path: Its folder.
        revision: Its commit where it came from the hub; of a model and an adapter `<commit>+<commit>`, either of which
            may be empty.
        adapter: Folder of the LoRA adapter that has yet to be merged into it.
        pickled: Whether its weights are pickled and have yet to be converted.
    """

    path: Path
    revision: str | None
    adapter: Path | None = None
    pickled: bool = False


def resolve(source: str, *, pickled: bool = False) -> Source:
    """The local folder of a model or an adapter.

    Args:
        source: An absolute path of a folder, or a hub id with an optional `@revision` (a branch, tag or commit).
        pickled: Whether pickled weights will do where there are no safetensors.

    Raises:
        NotAtHandError: It is not in the local hub cache, and the hub cannot be reached or is switched off.
        ModelError: There is no such folder, or the hub has no such model, or not all of it is in the cache.
    """
    if source.startswith("/"):
        if not Path(source).is_dir():
            raise ModelError(f"{source}: there is no such folder; give the folder of a model, or a hub id")
        return Source(Path(source), None, pickled=pickled and is_pickled(Path(source)))
    name, _, revision = source.partition("@")
    folder = _download(name, revision or None, _FILES)
    if any(folder.glob("*.safetensors")):
        return Source(folder, folder.name)
    if pickled and is_pickled(_download(name, folder.name, [*_FILES, *_PICKLED])):
        return Source(folder, folder.name, pickled=True)
    raise ModelError(
        f"{source}: {folder} holds no safetensors weights: download the model again, or, if it comes with pickled "
        "weights only, set allow_pickled_weights: true, or convert it and give the folder"
    )


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    shown = f"{name}@{revision}" if revision else name
    try:
        path = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=_NO_FILES
        )
    except errors.GatedRepoError:
        raise ModelError(
            f"{shown}: the hub asks for your consent to this model's terms; give it on its page, then log in by "
            "`hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{shown}: the hub knows no such model; check the spelling, or log in by `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{shown}: the model has no revision {revision}; give a branch, a tag or a commit") from None
    except errors.HFValidationError:
        raise ModelError(f"{shown}: is neither an existing folder nor a hub id of the form owner/name") from None
    except errors.IncompleteSnapshotError as error:
        raise ModelError(f"{shown}: {error.snapshot_path} is not complete; download the model again") from None
    except _connection_errors() as error:
        raise NotAtHandError(_unreachable(shown, name, revision, error)) from None
    return Path(path).resolve()


def _connection_errors() -> tuple[type[Exception], ...]:
    """What a connection to the hub that breaks off may raise: the client's HTTP library has a class of its own."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, RuntimeError, *(kind for kind in HfHubHTTPError.__bases__ if issubclass(kind, Exception)))


def _unreachable(shown: str, name: str, revision: str | None, error: Exception) -> str:
    """What is not in the local cache, and why the hub cannot be asked for it."""
    from huggingface_hub import constants

    what = (
        "is neither an existing folder nor in the local hub cache"
        if "/" not in name
        else "is not in the local hub cache"
    )
    known = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    if revision and known.is_dir() and any(known.iterdir()):
        what = f"is not in the local hub cache, which has other revisions of {name}"
    if constants.is_offline_mode():
        return f"{shown}: {what}, and the hub is switched off (HF_HUB_OFFLINE); download it first, or give a folder"
    lines = str(error.__cause__ or error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return f"{shown}: {what}, and the hub cannot be reached ({reason}); download it first, or give a folder"
