"""What a child is: its recipe, its identity and its size, for all who make or check one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evolve.engines import merging
from evolve.engines.checkpoints import Layout, item_bytes
from evolve.errors import RecipeError

__all__ = ["Child", "choose_tokenizer", "load_template", "size_of"]


@dataclass(frozen=True)
class Child:
    """One merge of two checkpoints by one template.

    Attributes:
        template: The recipe without its models.
        parents: Checkpoint folders of the parents; the first is mergekit's `base_model` in SLERP.
        base: Checkpoint folder of the base model.
        layers: Number of layers of the models; None where it is not known.
        dtype: torch's name of the type of the child's weights.
        tokenizer: Whose tokens the child has; None where the parents' tokenizer is copied as it is.
    """

    template: merging.Template
    parents: tuple[Path, Path]
    base: Path
    layers: int | None
    dtype: str
    tokenizer: merging.TokenizerSource | None

    def recipe(self) -> str:
        """Return the complete mergekit YAML; raises RecipeError where the template cannot be filled in."""
        return merging.render(
            self.template,
            parents=self.parents,
            base=self.base,
            num_layers=self.layers,
            dtype=self.dtype,
            tokenizer=self.tokenizer,
        )

    def identity(self, parents: Sequence[str], base: str) -> str:
        """Return the child's identity, given its parents' and the base's; it does not depend on where things lie."""
        return merging.identity(self.template, parents, base, self.dtype, self.tokenizer)


def choose_tokenizer(
    setting: merging.TokenizerSetting, template: merging.Template, parents: Sequence[Path], base: Path
) -> merging.TokenizerSource | None:
    """Return whose tokens a child of these parents has, from the tokenizers of the models whose weights take part."""
    models = [*parents, base] if template.uses_base else list(parents)
    return merging.resolve_tokenizer(setting, models, base=base)


def size_of(parents: Iterable[Layout], dtype: str) -> int:
    """Return the expected size of a child in bytes: that of its largest parent, in the configured type."""
    elements = (sum(info.elements for info in layout.tensors.values()) for layout in parents)
    return max(elements, default=0) * item_bytes(dtype)


def load_template(name: str) -> merging.Template:
    """Read a template that the configuration names; a RecipeError names the key."""
    try:
        return merging.load_template(name)
    except RecipeError as error:
        raise RecipeError(f"merge.recipe = {name}: {' '.join(str(error).split())}") from None
