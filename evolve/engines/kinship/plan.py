"""The plan of a measurement: which parts of which tensors to read, and for which pairs.

A piece is a set of rows of one tensor that the base and some of the models share. An ordinary tensor is one piece. An
embedding is cut into one piece for each set of models that share tokens, so that every row of every model is read once,
however many pairs there are.
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
    """The location of a piece's rows in one model.

    Attributes:
        path: File.
        dtype: safetensors' name of the type.
        offset: Position in the file of row 0, in bytes.
        rows: Numbers of the rows; None: all, in order.
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
        count: Number of rows. An ordinary tensor has one element in each row, so that it can be cut anywhere.
        width: Elements in a row.
        base: Where the base stores the rows.
        models: Where the models store them, by name; row i of each corresponds to row i of the base.
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
        """Number of bytes to read for it."""
        row = sum(ITEM_BYTES[place.dtype] for place in (self.base, *self.models.values())) * self.width
        return self.count * row


@dataclass(frozen=True)
class Plan:
    """All pieces in the order of the base's files, and the rows that are left out of each pair."""

    pieces: tuple[Piece, ...]
    left_out: Mapping[Pair, tuple[LeftOut, ...]]


def make_plan(job: KinshipJob) -> Plan:
    """Plan a measurement; read the headers and tokenizers of the models that occur in a pair.

    Pairs are sorted by name, because a kinship has no direction.

    Raises:
        KinshipError: A pair names an unknown model, or shares no parameter.
        ModelError: A checkpoint is damaged or quantized, or is not of the base's architecture.
    """
    pairs = tuple(sorted({_sorted(pair) for pair in job.pairs}))
    names = sorted({name for pair in pairs for name in pair})
    if unknown := [name for name in names if name not in job.models]:
        raise KinshipError(
            f"a pair names {unknown[0]}, which is not among the models of the job: {', '.join(sorted(job.models))}"
        )
    base = _Model(job.base, None)
    models = {name: _Model(job.models[name], base) for name in names}
    pieces = [
        piece for info in base.parameters.values() for piece in _pieces(base, info, _holders(base, info, models), pairs)
    ]
    left_out = {}
    for a, b in pairs:
        if not any((a, b) in piece.pairs for piece in pieces):
            raise KinshipError(
                f"{a} and {b} share no parameter with {job.base}: give models that were fine-tuned from it"
            )
        left_out[a, b] = tuple(_left_out(base, models[a], models[b]))
    return Plan(tuple(pieces), left_out)


class _Model:
    """A checkpoint, its parameters, and which of its rows correspond to the rows of the base's embeddings."""

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
                    "does not: save both in the same form before comparing them"
                )
            self.rows_of = self.vocabulary.rows_of(base.vocabulary)

    def rows(self, base: _Model, info: TensorInfo) -> Rows | None:
        """Return the own row for each row of a tensor of the base, -1 where there is none; None if all are equal.

        Raises:
            ModelError: The shapes differ in more than the number of tokens.
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
        """Return where rows of a tensor of the base are stored here."""
        own = self.parameters[info.name]
        return Place(self.layout.folder / own.file, own.dtype, own.offset, rows)


def _sorted(pair: Pair) -> Pair:
    a, b = sorted(pair)
    return a, b


def _check_types(layout: Layout, parameters: Mapping[str, TensorInfo]) -> None:
    fix = "give a model whose weights are bfloat16, float16 or float32"
    if layout.config.get("quantization_config"):
        raise ModelError(f"{layout.folder} is quantized, and has no plain weights to compare: {fix}")
    for info in parameters.values():
        if info.dtype not in TORCH_NAMES:
            raise ModelError(f"{info.name} in {layout.folder} is of type {info.dtype}: {fix}")


def _holders(base: _Model, info: TensorInfo, models: Mapping[str, _Model]) -> dict[str, tuple[_Model, Rows | None]]:
    """Return the models that have a tensor of the base, with their rows of it."""
    return {name: (model, model.rows(base, info)) for name, model in models.items() if info.name in model.parameters}


def _pieces(
    base: _Model, info: TensorInfo, holders: Mapping[str, tuple[_Model, Rows | None]], pairs: Sequence[Pair]
) -> Iterator[Piece]:
    """Cut a tensor of the base into the sets of rows that the same models share."""
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
    """Return the pairs whose models are both among `names`."""
    return tuple((a, b) for a, b in pairs if a in names and b in names)


def _members(pairs: Sequence[Pair]) -> list[str]:
    return sorted({name for pair in pairs for name in pair})


def _left_out(base: _Model, a: _Model, b: _Model) -> Iterator[LeftOut]:
    """Yield the rows that some of the base, `a` and `b` have, but not all; sorted by tensor."""
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
