"""Making the checkpoint of a child: what the merge step and the repair step have in common."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evolve.engines import merging
from evolve.engines.checkpoints import read_layout
from evolve.engines.protocols import MergeJob, MergeResult
from evolve.errors import DiskError, ModelError
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
    """The work on one child's checkpoint, from its recipe to its place in the run folder."""

    context: RunContext
    model: Model

    @cached_property
    def child(self) -> Child:
        """What the child is; the tokenizer is the recorded one where it was merged before.

        Raises:
            ModelError: A parent's files are needed, and are missing or damaged.
        """
        context, model = self.context, self.model
        tree, folder = context.tree, context.folder
        name = model.recipe_name or ""
        template = merging.parse_template(name, tree.origin.recipes[name])
        first, second = (folder.checkpoint_of(tree.model(parent)) for parent in model.parents)
        base = folder.locate(tree.base_path)
        tokenizer: merging.TokenizerSource | None
        if model.tokenizer is None:
            tokenizer = choose_tokenizer(tree.config.merge.tokenizer, template, (first, second), base)
        else:
            tokenizer = None if model.tokenizer == "plain" else model.tokenizer
        layers = tree.origin.layers
        if layers is None and template.uses_layers:  # a journal of schema 1 does not say
            layers = int(read_layout(first).setting("num_hidden_layers"))
        return Child(template, (first, second), base, layers, tree.config.merge.dtype, tokenizer)

    @property
    def identity(self) -> str:
        """Identity of the child; it follows from its recipe and its parents' identities."""
        tree = self.context.tree
        parents = [tree.model(parent).identity or "" for parent in self.model.parents]
        return self.child.identity(parents, tree.origin.base.identity)

    @property
    def final(self) -> Path:
        """Where the checkpoint belongs."""
        return self.context.folder.checkpoint(self.model.name)

    def call(self, verb: str) -> Call:
        """Write the recipe, make room, and return the call that merges.

        Raises:
            DiskError: The checkpoint does not fit the disk.
        """
        self._check_space()
        folder, text = self.context.folder, self.child.recipe()
        replace_text(folder.recipe(self.model.name), text)
        if self.final.exists():
            remove(self.final)
        job = MergeJob(
            recipe=text,
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
        """Write the recipe again where it was deleted, or where the run or its models have moved since.

        It waits where a parent has to be made again first.
        """
        path = self.context.folder.recipe(self.model.name)
        try:
            text = self.child.recipe()
        except ModelError as error:
            _LOG.info("the recipe of %s is not written yet: %s", self.model.name, error)
        else:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                replace_text(path, text)

    @property
    def _purpose(self) -> str:
        return f"merge-{self.model.name}"

    def _check_space(self) -> None:
        """Refuse a merge that does not fit; where staging is another file system, it needs the room there too."""
        folder = self.context.folder
        size = size_of(map(read_layout, self.child.parents), self.context.tree.config.merge.dtype)
        needed, free = size + _SPARE, min(shutil.disk_usage(place).free for place in (folder.models, folder.staging))
        if free < needed:
            raise DiskError(
                f"{folder.root}: {self.model.name} needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; make "
                f"room, then run `evolve resume {folder.root}`"
            )
