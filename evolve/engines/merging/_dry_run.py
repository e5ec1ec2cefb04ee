"""A merge without weights: mergekit's plan, carried out on tensors that have a shape and no data.

mergekit's own tasks run, apart from the arithmetic and the alignment of rows: only the shape of their outcome is
needed. Then transformers loads the outcome, which shows whether the child would be complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mergekit.merge
import mergekit.merge_methods.base
import torch
import transformers
from mergekit.architecture.conversion import convert_checkpoint_tensors
from mergekit.common import ModelReference, dtype_from_name, get_auto_cls
from mergekit.io.tasks import GatherTensors, LoaderCache, LoadTensor, SaveTensor
from mergekit.merge_methods.task_adapter import ExecuteMergeMethodTask
from mergekit.tokenizer import BuildTokenizer, PermutedVocabulary
from mergekit.tokenizer.build import TokenizerInfo

from evolve.engines.checkpoints import read_layout
from evolve.engines.merging._filters import FilterCount
from evolve.engines.merging._mergekit import Configuration, plan
from evolve.engines.protocols import FilterMatch
from evolve.errors import MergeError

__all__ = ["dry_run"]

_LAYER = re.compile(r"\.(\d+)\.")
_SIZES = ("num_hidden_layers", "hidden_size")

Tensors = dict[str, torch.Tensor]


def dry_run(configuration: Configuration, *, trust_remote_code: bool) -> tuple[FilterMatch, ...]:
    """Carry out a merge on shapes and load its outcome; return how many tensors each filter applies to.

    Exceptions of mergekit and transformers pass through.

    Args:
        configuration: The recipe; mergekit changes it.
        trust_remote_code: Whether the models' own code may run.

    Raises:
        MergeError: The merge would fail, or the child would not be a complete model of the size of the first model.
    """
    models = {model: _Model(model, trust_remote_code=trust_remote_code) for model in configuration.referenced_models()}
    first = next(iter(models.values()))
    filters = FilterCount()
    with filters.recording(), plan(configuration, trust_remote_code=trust_remote_code) as planned:
        builders = [task for task in planned.tasks if isinstance(task, BuildTokenizer)]
        tokens = _Tokens(builders[0].execute()) if builders else None
        if tokens is not None:
            multiple = configuration.tokenizer and configuration.tokenizer.pad_to_multiple_of
            mergekit.merge._update_config_vocab(  # noqa: SLF001
                planned.config, planned.architecture, tokens.info.tokenizer, pad_to_multiple_of=multiple
            )
        _check_size(planned.config, first)
        child: Tensors = {}
        with _no_arithmetic():
            for task in planned.tasks:
                if isinstance(task, SaveTensor):
                    tensor = _outcome(task.tensor_task, models, tokens)
                    if tensor is not None:
                        child[task.tensor_name] = tensor
    _check_loads(planned.config, child, trust_remote_code=trust_remote_code)
    return filters.matches()


class _Model:
    """A model of the merge: its configuration, and its tensors as shapes on torch's meta device."""

    def __init__(self, reference: ModelReference, *, trust_remote_code: bool) -> None:
        self.folder = Path(reference.model.path)
        self.config = reference.config(trust_remote_code=trust_remote_code)
        if not self.config.architectures:
            raise MergeError(f'{self.folder}/config.json names no architecture: add "architectures": ["<class>"]')
        if getattr(self.config, "quantization_config", None) is not None:
            raise MergeError(f"{self.folder} is quantized: merge the unquantized model, or dequantize it first")
        # Only whether a type is floating matters: mergekit converts floats, and the shape is all that is looked at
        self.tensors = {
            name: torch.empty(info.shape, dtype=torch.float32 if "F" in info.dtype else torch.uint8, device="meta")
            for name, info in read_layout(self.folder).tensors.items()
        }

    @property
    def architecture(self) -> str:
        """Name of transformers' class."""
        return str(self.config.architectures[0])

    def load(self, task: LoadTensor) -> torch.Tensor | None:
        """Return what mergekit would load; raise MergeError where it would find nothing."""
        name = task._resolve_name(LoaderCache().get(task.model))  # noqa: SLF001
        tensor = self.tensors[name] if name else self._converted(task)
        if tensor is None:
            if task.optional:
                return None
            raise MergeError(
                f"{self.folder} has no tensor {task.tensor}, which mergekit's definition of {self.architecture} "
                "requires: mergekit cannot read this variant of the architecture"
            )
        dtype: torch.dtype | None = dtype_from_name(task.dtype)
        return tensor if dtype is None else tensor.to(dtype)

    def _converted(self, task: LoadTensor) -> torch.Tensor | None:
        """Return a tensor that transformers composes of several, such as fused experts.

        Only tensors of the same layer are offered, since mergekit's search takes seconds for thousands of experts.
        """
        layer = _LAYER.search(task.tensor)
        sources = {
            name: tensor
            for name, tensor in self.tensors.items()
            if layer is None or (found := _LAYER.search(name)) is None or found[1] == layer[1]
        }
        for target in (task.tensor, *(task.aliases or ())):
            tensor: torch.Tensor | None = convert_checkpoint_tensors(self.config.model_type, sources, target)
            if tensor is not None:
                return tensor
        return None


class _Tokens:
    """The child's tokens, and the row that each has in each model."""

    def __init__(self, info: TokenizerInfo) -> None:
        self.info = info
        self.ids: dict[str, int] = info.tokenizer.get_vocab()

    def without_row(self, model: ModelReference, rows: int) -> tuple[str, int] | None:
        """Return the first token of a model whose id is beyond the rows of its embeddings, with that id."""
        places = self.info.permutations[model]  # -1 where the model has no such token
        own = self.info.original_vocabs[model]  # in an order that differs between processes
        lacking = [token for token, number in self.ids.items() if (row := places.get(number)) is None or row >= rows]
        return min(((token, own[token]) for token in lacking), key=lambda found: found[1], default=None)


def _outcome(
    task: ExecuteMergeMethodTask, models: Mapping[ModelReference, _Model], tokens: _Tokens | None
) -> torch.Tensor | None:
    """Return a tensor of the child; None if mergekit leaves an optional one out."""
    inputs = task.gather_tensors
    gather: GatherTensors = inputs.gather_tensors if isinstance(inputs, PermutedVocabulary) else inputs
    loaded = {key: models[load.model].load(load) for key, load in gather.arguments().items()}
    tensors = gather.execute(**loaded)
    if isinstance(inputs, PermutedVocabulary) and tokens is not None:
        tensors = _aligned(inputs, tensors, models, tokens)
    result: torch.Tensor | None = next(iter(tensors.values()), None)
    if all(tensor.is_floating_point() for tensor in tensors.values()):
        result = task.execute(tensors)
    return result  # mergekit copies other types where the models agree, which headers do not tell


def _aligned(
    task: PermutedVocabulary,
    tensors: Mapping[ModelReference, torch.Tensor],
    models: Mapping[ModelReference, _Model],
    tokens: _Tokens,
) -> dict[ModelReference, torch.Tensor]:
    """Return the embeddings as `PermutedVocabulary` shapes them, after checking that each token has its row."""
    axis = task.vocabulary_axis
    for model, tensor in tensors.items():
        if (bad := tokens.without_row(model, tensor.shape[axis])) is not None:
            raise MergeError(
                f"{models[model].folder}: its tokenizer gives the token {bad[0]!r} the id {bad[1]}, but its embeddings "
                f"have only {tensor.shape[axis]} rows: resize the embeddings, or remove the token from the tokenizer"
            )
    size = len(tokens.ids)
    if task.pad_to_multiple_of:
        size += -size % task.pad_to_multiple_of
    if task.tokens:  # rows that the recipe chooses itself: mergekit checks them, here on embeddings of one column
        task.execute(tokens.info, {model: torch.zeros(tensor.shape[axis], 1) for model, tensor in tensors.items()})
    return {
        model: torch.empty((*tensor.shape[:axis], size, *tensor.shape[axis + 1 :]), dtype=tensor.dtype, device="meta")
        for model, tensor in tensors.items()
    }


@contextmanager
def _no_arithmetic() -> Iterator[None]:
    """Let merge methods check their inputs and return the first tensor of each group."""
    method = mergekit.merge_methods.base.MergeMethod
    original = method._execute_resolved  # noqa: SLF001

    def first(_: Any, groups: Any, *_args: Any, **_options: Any) -> tuple[torch.Tensor, ...]:
        return tuple(group.tensors[0] for group in groups)

    method._execute_resolved = first  # noqa: SLF001
    try:
        yield
    finally:
        method._execute_resolved = original  # noqa: SLF001


def _check_size(config: Any, first: _Model) -> None:
    """Refuse a child that kinship and later merges could not compare with its parents."""
    for key in _SIZES:
        ours, theirs = (getattr(one.get_text_config(), key, None) for one in (config, first.config))
        if ours != theirs:
            raise MergeError(f"the child would have {key} {ours}, but {first.folder} has {theirs}: change the slices")


def _check_loads(config: Any, tensors: Tensors, *, trust_remote_code: bool) -> None:
    """Let transformers load the tensors as a checkpoint of the configuration."""
    kind = _model_class(config, trust_remote_code=trust_remote_code)
    options = {"config": config, "state_dict": tensors, "device_map": "meta", "ignore_mismatched_sizes": True}
    _, info = kind.from_pretrained(None, output_loading_info=True, **options)
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(str(name) for name in info[problem]):
            raise MergeError(
                f"{config.architectures[0]} would not load the child, by mergekit's definition of it: "
                f"{problem.replace('_', ' ')} {', '.join(names[:3])}"
            )


def _model_class(config: Any, *, trust_remote_code: bool) -> Any:
    """Return the class that loads a model of a configuration."""
    known = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) in known:
        return known[type(config)]
    with torch.device("meta"):  # another head, or code of the model
        return type(get_auto_cls(config.architectures[0]).from_config(config, trust_remote_code=trust_remote_code))
