"""Templates of recipes: find them by name, fill them in for one pair of parents, identify the children they make.

A template is mergekit YAML with placeholders, in the part of Jinja that `_jinja` allows:

| placeholder | becomes |
|---|---|
| `parent_1`, `parent_2` | the parents, the better-scored first |
| `base_model` | the pre-trained model |
| `num_layers` | the number of layers of parent 1 |
| `dtype` | the name of a torch floating type |

A placeholder of a model becomes mergekit's mapping form, `{model: {path: "..."}}`, because mergekit reads a plain
string `a+b` as model and LoRA, and `a@b` as path and revision. Write it unquoted where mergekit expects a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import evolve
from evolve.engines.merging._content import models_in, parse_recipe, paths_in, renamed
from evolve.engines.merging._jinja import fill, variables
from evolve.engines.merging.tokenizers import TokenizerSource
from evolve.errors import RecipeError, unreadable
from evolve.files import MOST_TEXT, read_text

__all__ = [
    "DTYPES",
    "Template",
    "identity",
    "load_template",
    "named_models",
    "parse_template",
    "render",
    "template_names",
]

DTYPES = ("bfloat16", "float16", "float32", "float64")
_PARENTS = ("parent_1", "parent_2")
_PLACEHOLDERS = (*_PARENTS, "base_model", "num_layers", "dtype")
_TOKENIZER_KEYS = ("tokenizer", "tokenizer_source")


@dataclass(frozen=True)
class Template:
    """A recipe with placeholders for its models.

    Attributes:
        name: The name or path by which it was loaded.
        text: Mergekit YAML with placeholders.
        placeholders: Names of the placeholders in the template.
    """

    name: str
    text: str
    placeholders: frozenset[str]

    @property
    def uses_base(self) -> bool:
        """Whether the weights of the base model take part."""
        return "base_model" in self.placeholders

    @property
    def uses_layers(self) -> bool:
        """Whether the number of layers is needed to fill it in."""
        return "num_layers" in self.placeholders


def template_names(search: Sequence[Path] | None = None) -> list[str]:
    """Return the names of the templates in some folders, by default those that come with evolve."""
    folders = [_own_folder()] if search is None else search
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def load_template(name_or_path: str, search: Sequence[Path] | None = None) -> Template:
    """Read a template.

    Args:
        name_or_path: A name such as `slerp-gradient`, or the path of a file, which has a folder or the suffix `.yaml`.
        search: Folders to look for names in, in this order; by default the templates of evolve.

    Raises:
        RecipeError: There is no such template, it is not a Jinja template, it does not use both parents, or it uses an
            unknown placeholder.
    """
    path = _find(name_or_path, [_own_folder()] if search is None else search)
    try:
        text = read_text(path, MOST_TEXT)
    except OSError as error:
        raise RecipeError(unreadable(error)) from None
    return parse_template(name_or_path, text)


def parse_template(name: str, text: str) -> Template:
    """Parse the content of a template file.

    Raises:
        RecipeError: As `load_template`.
    """
    return Template(name, text, _placeholders(text, name))


def render(
    template: Template,
    *,
    parents: tuple[Path, Path],
    base: Path,
    num_layers: int | None,
    dtype: str,
    tokenizer: TokenizerSource | None,
) -> str:
    """Fill in a template; return the complete recipe of one child. Equal arguments give equal recipes.

    Args:
        template: The template.
        parents: Absolute checkpoint folders of two different models; the first is the better-scored one.
        base: Absolute checkpoint folder of the pre-trained model.
        num_layers: Number of layers of parent 1; None if it is unknown.
        dtype: One of `DTYPES`.
        tokenizer: Whose tokenizer the child gets, from `resolve_tokenizer`; None copies that of mergekit's
            `base_model`. A template that names a tokenizer itself keeps it.

    Raises:
        RecipeError: The arguments do not fit, the template needs an unknown number of layers, or the outcome is not a
            recipe of both parents.
    """
    for path in (*parents, base):
        if not path.is_absolute():
            raise RecipeError(
                f"{path} is a relative path, which mergekit would look up on the Hub: give an absolute path"
            )
    if parents[0] == parents[1]:
        raise RecipeError(f"both parents are {parents[0]}: a merge needs two different models")
    models = {"parent_1": str(parents[0]), "parent_2": str(parents[1]), "base_model": str(base)}
    text, _ = _complete(template, models, num_layers=num_layers, dtype=dtype, tokenizer=tokenizer)
    return text


def identity(
    template: Template,
    parent_identities: Sequence[str],
    base_identity: str,
    dtype: str,
    tokenizer: TokenizerSource | None,
    *,
    named: Mapping[str, str] | None = None,
    mergekit_version: str | None = None,
) -> str:
    """Return the identity of the child that a template makes of two parents: a SHA-256 in hexadecimal.

    It covers the content of the recipe, with the parents' identities in place of their paths. So moved folders and
    edited comments do not change it, and any changed value does. The number of layers follows from the parents and is
    left out. The version of mergekit is included, because its methods change between releases (SLERP was rewritten in
    0.1.5): a child made by another version may differ.

    Args:
        template: The template.
        parent_identities: Identities of parent 1 and parent 2.
        base_identity: Identity of the base model; used only where the recipe refers to the base model.
        dtype: As for `render`.
        tokenizer: As for `render`.
        named: Identity of each model that the template names itself, from `named_models`; it replaces the name.
        mergekit_version: By default the installed version.

    Raises:
        RecipeError: As `render`.
    """
    first, second = parent_identities
    models = {"parent_1": first, "parent_2": second, "base_model": base_identity}
    _, content = _complete(template, models, num_layers=1, dtype=dtype, tokenizer=tokenizer)
    record = {"recipe": renamed(content, named or {}), "mergekit": mergekit_version or version("mergekit")}
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def named_models(template: Template) -> tuple[str, ...]:
    """Return the models that a template names itself, beside its placeholders: paths and Hub ids, sorted.

    Raises:
        RecipeError: As `render`.
    """
    models = {"parent_1": "/parent-1", "parent_2": "/parent-2", "base_model": "/base"}
    _, content = _complete(template, models, num_layers=1, dtype=DTYPES[0], tokenizer=None)
    return tuple(sorted(set(models_in(content)) - set(models.values())))


def _own_folder() -> Path:
    """Return the folder of evolve's templates: in the package in an installed wheel, beside it in a source checkout."""
    package = Path(evolve.__file__).parent
    installed = package / "_recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def _find(name_or_path: str, search: Sequence[Path]) -> Path:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if not path.is_file():
            raise RecipeError(f"there is no recipe file {path}")
        return path
    for folder in search:
        if (candidate := folder / f"{name_or_path}.yaml").is_file():
            return candidate
    names = template_names(search)
    near = get_close_matches(name_or_path, names, n=2, cutoff=0.5) or names
    raise RecipeError(
        f"there is no recipe {name_or_path!r}; known are {', '.join(near) or 'none'}, or the path of a file"
    )


def _placeholders(text: str, name: str) -> frozenset[str]:
    try:
        used = variables(text)
    except RecipeError as error:
        raise RecipeError(f"recipe {name}: {error}") from None
    for unknown in sorted(used - set(_PLACEHOLDERS)):
        near = get_close_matches(unknown, _PLACEHOLDERS, n=1, cutoff=0.5) or _PLACEHOLDERS
        raise RecipeError(f"recipe {name} uses the unknown placeholder {unknown!r}; did you mean {' or '.join(near)}?")
    for needed in _PARENTS:
        if needed not in used:
            raise RecipeError(f"recipe {name} does not use {{{{ {needed} }}}}: it would not be a merge of both parents")
    return frozenset(used)


def _complete(
    template: Template,
    models: Mapping[str, str],
    *,
    num_layers: int | None,
    dtype: str,
    tokenizer: TokenizerSource | None,
) -> tuple[str, Any]:
    """Return the filled-in text and its content, with any strings for the models."""
    if dtype not in DTYPES:
        raise RecipeError(f"unknown dtype {dtype!r}; known are {', '.join(DTYPES)}")
    if template.uses_layers and num_layers is None:
        raise RecipeError(
            f"recipe {template.name} uses {{{{ num_layers }}}}, but the configuration of parent 1 gives no number of "
            "layers: choose a recipe without that placeholder"
        )
    references = {name: _reference(path) for name, path in models.items()}
    text, content = _fill(template, references | {"num_layers": num_layers, "dtype": dtype})
    found = paths_in(content)
    for name in _PARENTS:
        if models[name] not in found:
            raise RecipeError(f"recipe {template.name} does not use {{{{ {name} }}}} as a model: write it unquoted")
    if tokenizer is not None and not any(key in content for key in _TOKENIZER_KEYS):
        source = {"union": "union", "first": references["parent_1"], "base": references["base_model"]}[tokenizer]
        text = f"{text.rstrip()}\ntokenizer:\n  source: {source}\n"
        content = parse_recipe(text)
    return text, content


def _fill(template: Template, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    try:
        text = fill(template.text, values)
    except RecipeError as error:
        raise RecipeError(f"recipe {template.name} cannot be filled in: {error}") from None
    try:
        content = parse_recipe(text)
    except RecipeError as error:
        raise RecipeError(f"recipe {template.name}, once filled in: {error}") from None
    return text, content


def _reference(path: str) -> str:
    """Return a model in mergekit's mapping form, as YAML on one line; the path may have any characters."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(f"the path {path!r} is not valid Unicode: rename the folder") from error
    quoted = yaml.safe_dump(path, default_style='"', allow_unicode=True, width=float("inf")).rstrip("\n")
    return f"{{model: {{path: {quoted}}}}}"
