"""The files of a task outside lm-eval's package, found in the text of its YAML files: nothing is imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from evolve.errors import TaskError
from evolve.files import MOST_RECORD, UnreadableFileError, read_bytes

__all__ = ["SourceFiles", "refuse_special_files", "refuse_untrusted_code"]

_PICKLED_DATA = "pandas"
"""The builder of `datasets` that unpickles its files, which may run any code."""


@dataclass(frozen=True)
class SourceFiles:
    """The files of a task outside lm-eval's package.

    Attributes:
        texts: Its YAML files and those that they include.
        code: What runs Python, with the YAML file that names it: `<file>` of a module, or a description.
        modules: The Python files that the YAML files name.
    """

    texts: tuple[Path, ...]
    code: tuple[tuple[Path, str], ...]
    modules: tuple[Path, ...]

    @classmethod
    def of(cls, files: Iterable[Path]) -> SourceFiles:
        """Read the YAML files of a task or of all tasks of a group; broken files are left to lm-eval.

        Raises:
            TaskError: A file is none that lm-eval can read to its end.
        """
        texts: dict[Path, None] = {}
        code: dict[tuple[Path, str], None] = {}
        modules: dict[Path, None] = {}
        for path, content, functions in _walk(files):
            texts[path] = None
            for function in functions:
                module = _module_file(path.resolve().parent, function)
                code[path, str(module or function)] = None
                if module is not None:
                    modules[module] = None
            if content.get("dataset_path") == _PICKLED_DATA:
                code[path, "its pickled data (dataset_path: pandas)"] = None
        return cls(tuple(texts), tuple(code), tuple(modules))


def refuse_special_files(files: Iterable[Path]) -> None:
    """Raise TaskError if YAML files, or those that they include, are pipes, devices or too long for lm-eval to read."""
    for _ in _walk(files):
        pass


def refuse_untrusted_code(task: str, files: SourceFiles, *, trusted: bool) -> None:
    """Raise TaskError if a task file outside lm-eval runs Python, unless that is trusted."""
    for text, code in files.code:
        if not trusted:
            raise TaskError(
                f"evaluation: the file {text} of task '{task}' runs the Python of {code} with your rights; read it, "
                "then set evaluation.trust_task_code to true"
            )


def _walk(files: Iterable[Path]) -> Iterator[tuple[Path, Mapping[str, Any], list[str]]]:
    """Yield YAML files outside lm-eval and those that they include, each once, with content and functions."""
    seen: set[Path] = set()
    waiting = list(files)
    while waiting:
        path = waiting.pop(0)
        if path in seen or _is_of_lm_eval(path):
            continue
        seen.add(path)
        content, functions = _read(path)
        yield path, content, functions
        included = content.get("include") or ()
        for name in [included] if isinstance(included, str) else included:
            place = path.resolve().parent / str(name)
            waiting.append(place.parent.resolve() / place.name)  # the last part may be a link


def _is_of_lm_eval(path: Path) -> bool:
    import lm_eval.tasks

    return path.resolve().is_relative_to(Path(lm_eval.tasks.__file__).resolve().parent)


def _read(path: Path) -> tuple[Mapping[str, Any], list[str]]:
    """Return the content of a YAML file without its includes, and its functions; nothing if it cannot be read.

    Raises:
        TaskError: It is not a regular file of a sensible size.
    """
    import yaml
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        data = read_bytes(path, MOST_RECORD)
        content: Mapping[str, Any] = load_yaml(path, resolve_func=False, recursive=False)
        root = yaml.compose(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except UnreadableFileError as error:
        raise TaskError(f"evaluation: the task file {path} {error.strerror}; remove it") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}, []
    return content, list(_functions(root))


def _functions(root: Any) -> Iterator[str]:
    """Yield the value of each `!function` at any depth, each node once: an alias may repeat it."""
    import yaml

    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.tag == "!function" and isinstance(node, yaml.ScalarNode):
            yield node.value
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]


def _module_file(folder: Path, function: str) -> Path | None:
    """Return the Python file of a function as lm-eval finds it: beside the YAML file, else on Python's path."""
    module = function.rpartition(".")[0]
    beside = folder / f"{module.replace('.', '/')}.py"
    if beside.exists():
        return beside
    found = PathFinder.find_spec(module.partition(".")[0]) if module else None
    return Path(found.origin) if found is not None and found.origin and Path(found.origin).is_file() else None
