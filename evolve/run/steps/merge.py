"""The merge step: recipe and parents to a verified checkpoint in place."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from evolve.engines import merging
from evolve.engines.checkpoints import read_layout
from evolve.engines.protocols import MergeJob, MergeResult
from evolve.errors import DiskError, ModelError
from evolve.lineage import CheckpointRemade, Event, MergeStep, Model, ModelMerged
from evolve.run.checkpoints import Manifest
from evolve.run.durable import publish, remove, replace_text
from evolve.run.executors import Call
from evolve.run.steps.base import Begun, Task, Workshop

__all__ = ["Repair", "begin_merge", "find_repair", "restore_recipe"]

_LOG = logging.getLogger("evolve.run")
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SPARE = 64 * 2**20


def begin_merge(shop: Workshop, step: MergeStep) -> Begun:
    """Merge a planned child, or adopt its checkpoint where an interrupted run left it whole."""
    model = shop.tree.model(step.model)
    repair = find_repair(shop, model.parents)
    if repair is not None:
        return repair.begin(shop)
    identity = _identity(shop, model)
    final = shop.folder.checkpoint(model.name)
    if final.exists() and shop.guard.damage(final, identity) is None:
        manifest = Manifest.read(final, identity)
        if manifest is not None:
            restore_recipe(shop, model)
            return (_merged(shop, model, manifest),)

    def finish(result: MergeResult) -> tuple[Event, ...]:
        return (_merged(shop, model, _put_in_place(shop, model, identity, result)),)

    return Task(_call(shop, model, "merge"), finish, model.name, "merge", makes=model.name)


@dataclass(frozen=True)
class Repair:
    """A checkpoint that has to be made again before a step that needs it."""

    model: Model
    damage: str

    def begin(self, shop: Workshop) -> Begun:
        """Make it again, unless that is under way."""
        return None if self.model.name in shop.making else _begin_remake(shop, self.model, self.damage)


def find_repair(shop: Workshop, names: tuple[str, ...]) -> Repair | None:
    """The first damaged checkpoint of these models, an ancestor's before its child's; None where all are whole.

    Only ancestors that a repair needs are looked at.
    """
    for name in names:
        model = shop.tree.model(name)
        if model.kind == "foundation" or model.identity is None or model.checkpoint is None:
            continue
        damage = shop.guard.damage(shop.folder.locate(model), model.identity)
        if damage is not None:
            return find_repair(shop, model.parents) or Repair(model, damage)
    return None


def _begin_remake(shop: Workshop, model: Model, damage: str) -> Begun:
    """Make a child's checkpoint again from its recipe and its parents, which are whole."""
    identity = model.identity or ""

    def finish(result: MergeResult) -> tuple[Event, ...]:
        manifest = _put_in_place(shop, model, identity, result)
        return (
            CheckpointRemade(
                model=model.name, reason=damage, identity=identity, bytes=manifest.bytes, seconds=manifest.seconds
            ),
        )

    return Task(_call(shop, model, "remake"), finish, model.name, "merge", makes=model.name)


def restore_recipe(shop: Workshop, model: Model) -> None:
    """Write the recipe of a child again where it was deleted, or where the run or its models have moved since.

    It waits where a parent has to be made again first.
    """
    path = shop.folder.recipe(model.name)
    try:
        text = _recipe(shop, model)
    except ModelError as error:
        _LOG.info("the recipe of %s is not written yet: %s", model.name, error)
    else:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            replace_text(path, text)


def _merged(shop: Workshop, model: Model, manifest: Manifest) -> ModelMerged:
    return ModelMerged(
        model=model.name,
        identity=manifest.identity,
        checkpoint=shop.folder.relative(shop.folder.checkpoint(model.name)),
        recipe=shop.folder.relative(shop.folder.recipe(model.name)),
        bytes=manifest.bytes,
        seconds=manifest.seconds,
    )


def _put_in_place(shop: Workshop, model: Model, identity: str, result: MergeResult) -> Manifest:
    manifest = Manifest.of(model.name, identity, result)
    staged = _staging(shop, model)
    manifest.write(staged)
    final = shop.folder.checkpoint(model.name)
    publish(staged, final)
    shop.guard.trust(final, manifest)
    return manifest


def _call(shop: Workshop, model: Model, verb: str) -> Call:
    """Write the recipe, make room, and ask for the merge."""
    _check_space(shop, model)
    text = _recipe(shop, model)
    replace_text(shop.folder.recipe(model.name), text)
    if shop.folder.checkpoint(model.name).exists():
        remove(shop.folder.checkpoint(model.name))
    job = MergeJob(
        recipe=text,
        parents=tuple(_paths(shop, model)),
        output=shop.folder.staged(_purpose(model)),
        device=shop.tree.config.device,
        trust_remote_code=shop.tree.config.trust_remote_code,
    )
    return Call(f"{verb} {model.name}", shop.engines.merge, job)


def _purpose(model: Model) -> str:
    return f"merge-{model.name}"


def _staging(shop: Workshop, model: Model) -> Path:
    return shop.folder.staging / _purpose(model)


def _paths(shop: Workshop, model: Model) -> list[Path]:
    return [shop.folder.locate(shop.tree.model(parent)) for parent in model.parents]


def _base(shop: Workshop) -> Path:
    return Path(shop.tree.origin.base.path)


def _template(shop: Workshop, model: Model) -> merging.Template:
    name = model.recipe_name or ""
    return merging.parse_template(name, shop.tree.origin.recipes[name])


def _tokenizer(shop: Workshop, model: Model) -> merging.Source | None:
    models = _paths(shop, model)
    if _template(shop, model).uses_base:
        models.append(_base(shop))
    return merging.resolve_tokenizer(shop.tree.config.merge.tokenizer, models, base=_base(shop))


def _recipe(shop: Workshop, model: Model) -> str:
    first, second = _paths(shop, model)
    return merging.render(
        _template(shop, model),
        parents=(first, second),
        base=_base(shop),
        num_layers=int(read_layout(first).setting("num_hidden_layers")),
        dtype=shop.tree.config.merge.dtype,
        tokenizer=_tokenizer(shop, model),
    )


def _identity(shop: Workshop, model: Model) -> str:
    """A child is identified by its recipe and its parents' identities; None of it depends on where things lie."""
    parents = [shop.tree.model(parent).identity or "" for parent in model.parents]
    return merging.identity(
        _template(shop, model),
        parents,
        shop.tree.origin.base.identity,
        shop.tree.config.merge.dtype,
        _tokenizer(shop, model),
    )


def _check_space(shop: Workshop, model: Model) -> None:
    """A child is as large as its larger parent, in the configured type; DiskError where that does not fit."""
    size = _ITEM_BYTES[shop.tree.config.merge.dtype]
    layouts = [read_layout(path) for path in _paths(shop, model)]
    needed = max(sum(info.elements for info in layout.tensors.values()) for layout in layouts) * size + _SPARE
    free = shutil.disk_usage(shop.folder.root).free
    if free < needed:
        raise DiskError(
            f"{shop.folder.root}: {model.name} needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; make "
            f"room, then go on with `evolve resume {shop.folder.root}`"
        )
