"""What has to be read, for which pairs: the pieces of a measurement.

A piece is a run of rows of one tensor that the base and some of the models share. All rows of an ordinary tensor are
one piece; an embedding falls into as many pieces as there are sets of models that share some of its tokens, so that
every row of every model is read once, whatever the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evolve.engines.checkpoints import ITEM_BYTES, TORCH_NAMES, Layout, TensorInfo, read_layout
from evolve.engines.kinship.vocabulary import Vocabulary
from evolve.engines.protocols import KinshipJob
from evolve.errors import KinshipError, ModelError

__all__ = ["LeftOut", "Pair", "Piece", "Place", "Plan", "make_plan"]

Pair = tuple[str, str]
LeftOut = tuple[str, int, float]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """Where one model keeps the rows of a piece.

    Attributes:
        path: File.
        dtype: safetensors' word for the type.
        offset: Position in the file of row 0, in bytes.
        rows: Numbers of the rows; None: all, one after another.
    """

    path: Path
    dtype: str
    offset: int
    rows: Rows | None = None


@dataclass(frozen=True)
class Piece:
    """Rows of one tensor that the base and all models of `pairs` share.

    Attributes:
        tensor: Name of the tensor.
        count: Number of rows. An ordinary tensor counts as so many rows of one element, to be cut anywhere.
        width: Elements in a row.
        base: Where the base keeps the rows.
        models: Where the models keep them, by name; row i of each belongs to row i of the base.
        pairs: The pairs to compare.
    """

    tensor: str
    count: int
    width: int
    base: Place
    models: Mapping[str, Place]
    pairs: tuple[Pair, ...]

    @property
    def bytes(self) -> int:
        """Number of bytes to be read for it."""
        row = sum(ITEM_BYTES[place.dtype] for place in (self.base, *self.models.values())) * self.width
        return self.count * row


@dataclass(frozen=True)
class Plan:
    """All pieces in the order of the base's files, and what each pair cannot compare."""

    pieces: tuple[Piece, ...]
    left_out: Mapping[Pair, tuple[LeftOut, ...]]


def make_plan(job: KinshipJob) -> Plan:
    """Plans a measurement; reads the headers and tokenizers of the models that occur in a pair.

    Pairs are taken as sorted by name, for a kinship has no direction.

    Raises:
        KinshipError: A pair names an unknown model, or shares no parameter.
        ModelError: A checkpoint is unusable, or its tensors are not those of the base's architecture.
    """
    pairs = tuple(sorted({_sorted(pair) for pair in job.pairs}))
    names = sorted({name for pair in pairs for name in pair})
    if unknown := [name for name in names if name not in job.models]:
        raise KinshipError(f"a kinship of {unknown[0]} is asked for, but the job knows only {sorted(job.models)}")
    base = _Model(job.base, None)
    models = {name: _Model(job.models[name], base) for name in names}
    pieces = [
        piece for info in base.parameters.values() for piece in _pieces(base, info, _holders(base, info, models), pairs)
    ]
    left_out = {}
    for a, b in pairs:
        if not any((a, b) in piece.pairs for piece in pieces):
            raise KinshipError(f"{a} and {b} share no parameter with {job.base}: are they fine-tunings of it?")
        left_out[a, b] = tuple(_left_out(base, models[a], models[b]))
    return Plan(tuple(pieces), left_out)


class _Model:
    """A checkpoint, its parameters, and which of its rows belong to the rows of the base's embeddings."""

    def __init__(self, folder: Path, base: _Model | None) -> None:
        self.layout: Layout = read_layout(folder)
        self.parameters: dict[str, TensorInfo] = self.layout.parameters()
        _check_types(self.layout, self.parameters)
        self.vocabulary = Vocabulary(self.layout)
        self.rows_of: Mapping[int, int] | None = None
        if base:
            if self.layout.tied != base.layout.tied:
                tied, untied = (self, base) if self.layout.tied else (base, self)
                raise ModelError(
                    f"{tied.layout.folder} ties its output embeddings to its input embeddings, {untied.layout.folder} "
                    "does not: save both in the same way before they are compared"
                )
            self.rows_of = self.vocabulary.rows_of(base.vocabulary)

    def rows(self, base: _Model, info: TensorInfo) -> Rows | None:
        """Own rows by those of a tensor of the base, -1 for those not shared; None where all rows agree.

        Raises:
            ModelError: The tensors have different shapes, apart from the number of tokens.
        """
        own = self.parameters[info.name]
        vocabulary = base.layout.is_vocabulary(info) and self.layout.is_vocabulary(own)
        if len(own.shape) != len(info.shape) or own.shape[vocabulary:] != info.shape[vocabulary:]:
            raise ModelError(
                f"{info.name} has the shape {list(own.shape)} in {self.layout.folder} and {list(info.shape)} in "
                f"{base.layout.folder}: these models have no common base"
            )
        if not vocabulary or self.rows_of is None:
            return None
        rows = np.full(info.rows, -1, dtype=np.int64)
        for row, own_row in self.rows_of.items():
            if row < info.rows and own_row < own.rows:
                rows[row] = own_row
        return rows

    def place(self, info: TensorInfo, rows: Rows | None) -> Place:
        own = self.parameters[info.name]
        return Place(self.layout.folder / own.file, own.dtype, own.offset, rows)


def _sorted(pair: Pair) -> Pair:
    a, b = sorted(pair)
    return a, b


def _check_types(layout: Layout, parameters: Mapping[str, TensorInfo]) -> None:
    mend = "give a model whose weights are bfloat16, float16 or float32"
    if layout.config.get("quantization_config"):
        raise ModelError(f"{layout.folder} is quantized, and has no plain weights to compare: {mend}")
    for info in parameters.values():
        if info.dtype not in TORCH_NAMES:
            raise ModelError(f"{info.name} in {layout.folder} is of type {info.dtype}: {mend}")


def _holders(base: _Model, info: TensorInfo, models: Mapping[str, _Model]) -> dict[str, tuple[_Model, Rows | None]]:
    """The models that hold a tensor of the base, with their rows of it."""
    return {name: (model, model.rows(base, info)) for name, model in models.items() if info.name in model.parameters}


def _pieces(
    base: _Model, info: TensorInfo, holders: Mapping[str, tuple[_Model, Rows | None]], pairs: Sequence[Pair]
) -> Iterator[Piece]:
    """Cuts a tensor of the base into the sets of rows that the same models share."""
    if all(rows is None for _, rows in holders.values()):
        if (chosen := _complete(pairs, holders)) and info.elements:
            places = {name: holders[name][0].place(info, None) for name in _members(chosen)}
            yield Piece(info.name, info.elements, 1, base.place(info, None), places, chosen)
        return
    every = np.arange(info.rows)
    own = {name: every if rows is None else rows for name, (_, rows) in holders.items()}
    present = np.stack([rows >= 0 for rows in own.values()], axis=1)
    sets, which = np.unique(present, axis=0, return_inverse=True)
    for number, members in enumerate(sets):
        names = [name for name, there in zip(own, members, strict=True) if there]
        if chosen := _complete(pairs, names):
            rows = np.flatnonzero(which.reshape(-1) == number)
            places = {name: holders[name][0].place(info, own[name][rows]) for name in _members(chosen)}
            yield Piece(info.name, len(rows), prod(info.shape[1:]), base.place(info, rows), places, chosen)


def _complete(pairs: Sequence[Pair], names: Mapping[str, object] | Sequence[str]) -> tuple[Pair, ...]:
    """The pairs of which both models are among `names`."""
    return tuple((a, b) for a, b in pairs if a in names and b in names)


def _members(pairs: Sequence[Pair]) -> list[str]:
    return sorted({name for pair in pairs for name in pair})


def _left_out(base: _Model, a: _Model, b: _Model) -> Iterator[LeftOut]:
    """The rows that are in some of base, `a` and `b`, but not in all; sorted by tensor."""
    total = sum(info.elements for info in base.parameters.values())
    for name in sorted({*base.parameters, *a.parameters, *b.parameters}):
        infos = [model.parameters[name] for model in (base, a, b) if name in model.parameters]
        shared = 0
        if len(infos) == 3:
            both = [rows for rows in (a.rows(base, infos[0]), b.rows(base, infos[0])) if rows is not None]
            shared = int(np.logical_and.reduce([rows >= 0 for rows in both]).sum()) if both else infos[0].rows
        rows = max(info.rows for info in infos) - shared
        if rows:
            yield name, rows, rows * (infos[0].elements // max(1, infos[0].rows)) / total
