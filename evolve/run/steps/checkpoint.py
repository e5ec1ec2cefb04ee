"""The checkpoint of a child: the common part of the merge step and the repair step."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from evolve.engines import merging
from evolve.engines.checkpoints import read_layout
from evolve.engines.protocols import MergeJob, MergeResult
from evolve.errors import DiskError, ModelError
from evolve.files import MOST_TEXT, read_text
from evolve.lineage import Model
from evolve.run.checkpoints import Manifest
from evolve.run.child import Child, choose_tokenizer, size_of
from evolve.run.durable import publish, remove, replace_text
from evolve.run.executors import Call
from evolve.run.steps.base import RunContext

__all__ = ["CheckpointWork"]

_LOG = logging.getLogger("evolve.run")
_SPARE = 64 * 2**20


@dataclass(frozen=True)
class CheckpointWork:
    """The work on one child's checkpoint, from the recipe to the published folder."""

    context: RunContext
    model: Model

    @cached_property
    def child(self) -> Child:
        """The child to merge; its tokenizer is the recorded one if it was merged before.

        Raises:
            ModelError: Files of a parent are needed but missing or damaged.
        """
        context, model = self.context, self.model
        tree, folder = context.tree, context.folder
        name = model.recipe_name or ""
        template = merging.parse_template(name, tree.origin.recipes[name])
        first, second = (folder.checkpoint_of(tree.model(parent), tree.root) for parent in model.parents)
        base = folder.relocated(tree.base_path, tree.root)
        layers = tree.origin.layers
        if layers is None and template.uses_layers:  # a journal of schema 1 does not record it
            layers = int(read_layout(first).setting("num_hidden_layers"))
        child = Child(template, (first, second), base, layers, tree.config.merge.dtype, None)
        return replace(child, tokenizer=self._tokenizer(child))

    @property
    def identity(self) -> str:
        """Identity of the child, from its recipe and its parents' identities."""
        return self._identity(self.child)

    def _identity(self, child: Child) -> str:
        tree = self.context.tree
        parents = [tree.model(parent).identity or "" for parent in self.model.parents]
        return child.identity(parents, tree.origin.base.identity, tree.origin.recipe_models)

    def _tokenizer(self, child: Child) -> merging.TokenizerSource | None:
        """Return the recorded tokenizer of the child, or choose one for a new child.

        A journal of schema 1 does not record it. It is the one that gives the child its identity.
        """
        recorded, identity = self.model.tokenizer, self.model.identity
        if recorded is not None:
            return None if recorded == "plain" else recorded
        if identity is not None:
            sources: tuple[merging.TokenizerSource | None, ...] = (None, "union", "base", "first")
            for source in sources:
                if self._identity(replace(child, tokenizer=source)) == identity:
                    return source
        return choose_tokenizer(self.context.tree.config.merge.tokenizer, child.template, child.parents, child.base)

    @property
    def final(self) -> Path:
        """Final folder of the checkpoint."""
        return self.context.folder.checkpoint(self.model.name)

    def call(self, verb: str) -> Call:
        """Write the recipe, remove a damaged checkpoint, and return the call that merges.

        Raises:
            DiskError: The checkpoint does not fit the disk.
        """
        self._check_space()
        folder, recipe = self.context.folder, self.child.recipe()
        replace_text(folder.recipe(self.model.name), recipe)
        remove(self.final)
        job = MergeJob(
            recipe=recipe,
            parents=self.child.parents,
            output=folder.staged(self._purpose),
            trust_remote_code=self.context.tree.config.trust_remote_code,
        )
        return Call(f"{verb} {self.model.name}", self.context.engines.merge, job, gpus=1)

    def put_in_place(self, identity: str, result: MergeResult) -> Manifest:
        """Publish the merged checkpoint with its manifest."""
        manifest = Manifest.of(self.model.name, identity, result)
        staged = self.context.folder.staging / self._purpose
        manifest.write(staged)
        publish(staged, self.final)
        self.context.guard.trust(self.final, manifest)
        return manifest

    def restore_recipe(self) -> None:
        """Rewrite the recipe if it was deleted, or if the run or its models have moved.

        If a parent must be merged again first, the recipe is written later.
        """
        if not self.has_current_recipe():
            replace_text(self.context.folder.recipe(self.model.name), self.child.recipe())

    def has_current_recipe(self) -> bool:
        """Return whether the recipe exists with the present paths, or cannot be written yet."""
        try:
            recipe = self.child.recipe()
        except ModelError as error:
            _LOG.info("the recipe of %s is not written yet: %s", self.model.name, error)
            return True
        try:
            return read_text(self.context.folder.recipe(self.model.name), MOST_TEXT) == recipe
        except OSError:
            return False

    @property
    def _purpose(self) -> str:
        return f"merge-{self.model.name}"

    def _check_space(self) -> None:
        """Raise DiskError if the checkpoint does not fit the disks of `models` and `staging`."""
        folder = self.context.folder
        size = size_of(map(read_layout, self.child.parents), self.context.tree.config.merge.dtype)
        needed, free = size + _SPARE, min(shutil.disk_usage(place).free for place in (folder.models, folder.staging))
        if free < needed:
            raise DiskError(
                f"{folder.root}: {self.model.name} needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; make "
                f"room, then run `evolve resume {folder.root}`"
            )
