"""Local data of tasks: files that replace a task's own data set, and those that a task file names."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evolve.errors import TaskError
from evolve.files import parse_json

__all__ = ["local_dataset", "validate_files", "with_own_cache"]

_BUILDERS = {".jsonl": "json", ".parquet": "parquet"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")


def local_dataset(task: str, config: Mapping[str, Any], folder: Path, num_fewshot: int) -> dict[str, Any]:
    """Return the entries of a task's YAML that make it read a folder instead of its data set.

    A split that the task names but does not need for this number of few-shot examples may be missing; it is unset.
    The cache of the data set is keyed by content and change time of the files. `datasets` itself keys it by path and
    modification time, so a file replaced within the clock's resolution would be read from the old cache.

    Args:
        task: Name of the task, for messages.
        config: The task's configuration.
        folder: Folder with one `<split>.jsonl` or `<split>.parquet` for each split.
        num_fewshot: Number of few-shot examples.

    Raises:
        TaskError: The folder or a split that the task needs is missing, or formats are mixed.
    """
    if not folder.is_dir():
        raise TaskError(f"evaluation: the data folder of task '{task}', {folder}, does not exist")
    used = _splits(config)
    files = {split: file for split in used.values() if (file := _file(folder, split)) is not None}
    for split in _needed(config, num_fewshot):
        if split not in files:
            present = ", ".join(sorted(file.name for file in folder.iterdir() if file.suffix in _BUILDERS))
            raise TaskError(
                f"evaluation: task '{task}' needs the split '{split}': put {split}.jsonl or {split}.parquet into "
                f"{folder} (it contains {present or 'no such file'})"
            )
    builders = {_BUILDERS[file.suffix] for file in files.values()}
    if len(builders) != 1:
        raise TaskError(
            f"evaluation: the splits of task '{task}' in {folder} are partly .jsonl and partly .parquet; use one format"
        )
    return {
        "dataset_path": builders.pop(),
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(file.resolve()) for split, file in sorted(files.items())},
            "cache_dir": _cache_folder([file for _, file in sorted(files.items())]),
        },
        **{key: None for key, split in used.items() if split not in files},
    }


def with_own_cache(config: Mapping[str, Any], revision: str | None) -> dict[str, Any]:
    """Return the entries that make a task read its local data by their content, and its Hub data at a commit.

    The cache of local data is keyed by the content of the files, as in `local_dataset`.

    Args:
        config: The task's configuration.
        revision: The revision in the facts of the task: the commit of its data on the Hub, or `<repository>@<commit>`
            of each repository that it reads; None: any.
    """
    own = dict(config.get("dataset_kwargs") or {})
    files = _own_files(config.get("dataset_path"), own)
    if files:
        return {"dataset_kwargs": {**own, "cache_dir": _cache_folder(files)}}
    commit = _commit_of(str(config.get("dataset_path")), revision or "")
    return {"dataset_kwargs": {**own, "revision": commit}} if commit is not None else {}


def validate_files(task: str, files: Iterable[str]) -> None:
    """Check that every file has rows, and that all rows of a file have the fields of its first.

    Raises:
        TaskError: A file is empty or malformed; the message gives the line.
    """
    for name in files:
        file = Path(name)
        rows = _json_rows(task, file) if file.suffix == ".jsonl" else _parquet_rows(task, file)
        fields: set[str] = set()
        for line, row in rows:
            fields = fields or set(row)
            if lacking := fields - set(row):
                raise TaskError(
                    f"evaluation: {file}, line {line}: the field '{min(lacking)}' is missing, "
                    f"which the first row of this data of task '{task}' has"
                )
        if not fields:
            raise TaskError(f"evaluation: {file}, data of task '{task}', has no rows")


def _splits(config: Mapping[str, Any]) -> dict[str, str]:
    return {key: config[key] for key in _SPLIT_KEYS if config.get(key) is not None}


def _needed(config: Mapping[str, Any], num_fewshot: int) -> list[str]:
    splits = _splits(config)
    needed = [splits[key] for key in ("test_split", "validation_split") if key in splits][:1]
    if num_fewshot > 0 and not (config.get("fewshot_config") or {}).get("samples"):
        # lm-eval's own order: the few-shot split, else training, validation, test.
        order = ("fewshot_split", "training_split", "validation_split", "test_split")
        needed += [splits[key] for key in order if key in splits][:1]
    return needed


def _file(folder: Path, split: str) -> Path | None:
    return next((file for suffix in _BUILDERS if (file := folder / f"{split}{suffix}").is_file()), None)


def _own_files(path: Any, options: Mapping[str, Any]) -> list[Path]:
    """Return the local files that a task's `dataset_path` and `dataset_kwargs` name, sorted."""
    folder = Path(path) if isinstance(path, str) and Path(path).is_dir() else None
    base = Path(options["data_dir"]) if isinstance(options.get("data_dir"), str) else folder or Path()
    patterns = list(_strings(options.get("data_files")))
    if not patterns and base != Path():
        patterns = [str(base)]
    found: set[Path] = set()
    for pattern in patterns:
        if "://" not in pattern:
            matches = [Path(match) for match in glob.glob(str(base / pattern), recursive=True)]  # noqa: PTH207
            found.update(matches, *(match.rglob("*") for match in matches if match.is_dir()))
    return sorted(file.absolute() for file in found if file.is_file())


def _commit_of(repository: str, revision: str) -> str | None:
    """Return the commit of a task's data; None if it is not known. Its Python may read other repositories."""
    if _COMMIT.fullmatch(revision):
        return revision
    commits = (part.rpartition("@") for part in revision.split())
    return next((commit for name, _, commit in commits if name == repository and _COMMIT.fullmatch(commit)), None)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)


def _cache_folder(files: Iterable[Path]) -> str:
    import datasets

    digest = hashlib.sha256()
    for file in files:
        # With the change time, a file that is replaced after this and then restored with its times has another key.
        changed = file.stat().st_ctime_ns
        with file.open("rb") as stream:
            digest.update(f"{file.name} {changed} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "evolve" / digest.hexdigest()[:32])


def _json_rows(task: str, file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise TaskError(
                    f"evaluation: {file}, line {number}, data of task '{task}', is not JSON: {error}"
                ) from error
            if not isinstance(row, dict):
                raise TaskError(f"evaluation: {file}, line {number}, data of task '{task}', is not a JSON object")
            yield number, row


def _parquet_rows(task: str, file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise TaskError(f"evaluation: {file}, data of task '{task}', is not a Parquet file: {error}") from error
    if metadata.num_rows:
        # All rows of a Parquet file have the same fields.
        yield 1, dict.fromkeys(metadata.schema.to_arrow_schema().names)
