"""Recipe, identity and size of a child, for every module that merges or checks one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve.engines import merging
from evolve.engines.checkpoints import Layout, item_bytes
from evolve.errors import RecipeError

__all__ = ["Child", "choose_tokenizer", "load_template", "recipe_models", "size_of"]

_COMMIT = re.compile(r"@[0-9a-f]{40}$")


@dataclass(frozen=True)
class Child:
    """One merge of two checkpoints by one template.

    Attributes:
        template: The recipe without its models.
        parents: Checkpoint folders of the parents; the first is mergekit's `base_model` in SLERP.
        base: Checkpoint folder of the base model.
        layers: Number of layers of the models; None if unknown.
        dtype: torch's name of the type of the child's weights.
        tokenizer: Source of the child's tokens; None if the tokenizer of a parent is copied.
    """

    template: merging.Template
    parents: tuple[Path, Path]
    base: Path
    layers: int | None
    dtype: str
    tokenizer: merging.TokenizerSource | None

    def recipe(self) -> str:
        """Return the complete mergekit YAML; raise RecipeError if the template cannot be filled in."""
        return merging.render(
            self.template,
            parents=self.parents,
            base=self.base,
            num_layers=self.layers,
            dtype=self.dtype,
            tokenizer=self.tokenizer,
        )

    def identity(self, parents: Sequence[str], base: str, named: Mapping[str, str]) -> str:
        """Return the identity of the child from the identities of its parents, the base, and the models of the recipe.

        Paths do not affect it.
        """
        return merging.identity(self.template, parents, base, self.dtype, self.tokenizer, named=named)


def choose_tokenizer(
    setting: merging.TokenizerSetting, template: merging.Template, parents: Sequence[Path], base: Path
) -> merging.TokenizerSource | None:
    """Choose the source of a child's tokens from the tokenizers of the models whose weights are merged."""
    models = [*parents, base] if template.uses_base else list(parents)
    return merging.resolve_tokenizer(setting, models, base=base)


def recipe_models(templates: Iterable[merging.Template]) -> tuple[list[str], list[str]]:
    """Return the models that templates name beside parents and base: paths, and Hub ids without a commit.

    Raises:
        RecipeError: A path is relative, or a template cannot be filled in.
    """
    paths, loose = [], []
    for template in templates:
        try:
            names = merging.named_models(template)
        except RecipeError as error:
            raise _with_key(template.name, error) from None
        for name in names:
            if name.startswith("/"):
                paths.append(name)
            elif name.startswith((".", "~")) or Path(name).exists():
                raise RecipeError(
                    f"merge.recipe = {template.name}: {name} in it is a relative path; give an absolute one"
                )
            elif not _COMMIT.search(name):
                loose.append(name)
    return sorted(set(paths)), sorted(set(loose))


def size_of(parents: Iterable[Layout], dtype: str) -> int:
    """Return the expected size of a child in bytes: the size of its largest parent in the configured type."""
    elements = (sum(info.elements for info in layout.tensors.values()) for layout in parents)
    return max(elements, default=0) * item_bytes(dtype)


def load_template(name: str) -> merging.Template:
    """Read a template named in the configuration; raise RecipeError with the key if it is invalid."""
    try:
        return merging.load_template(name)
    except RecipeError as error:
        raise _with_key(name, error) from None


def _with_key(name: str, error: RecipeError) -> RecipeError:
    return RecipeError(f"merge.recipe = {name}: {' '.join(str(error).split())}")
