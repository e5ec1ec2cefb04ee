"""Where models come from: folders, and the hub by way of its own client.

A hub id is resolved once to a commit; the folder of that commit in the client's cache never changes. Tokens are the
client's own business: they come from its environment and are written nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evolve.errors import ModelError

__all__ = ["Source", "resolve"]

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py"]


@dataclass(frozen=True)
class Source:
    """A model that is at hand: its folder, and its commit where it came from the hub."""

    path: Path
    revision: str | None


def resolve(source: str) -> Source:
    """The local folder of a model.

    Args:
        source: An absolute path of a folder, or a hub id with an optional `@revision` (a branch, tag or commit).

    Raises:
        ModelError: There is no such folder, or the hub has no such model or cannot be reached.
    """
    if source.startswith("/"):
        if not Path(source).is_dir():
            raise ModelError(f"{source}: there is no such folder; give the folder of a model, or a hub id")
        return Source(Path(source), None)
    name, _, revision = source.partition("@")
    return _download(name, revision or None)


def _download(name: str, revision: str | None) -> Source:
    import huggingface_hub
    from huggingface_hub import errors

    shown = f"{name}@{revision}" if revision else name
    try:
        path = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_FILES)
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
    except OSError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{shown}: is not in the local hub cache and the hub cannot be reached ({reason}); download it first, or "
            "give a folder"
        ) from None
    return Source(Path(path).resolve(), Path(path).name)
