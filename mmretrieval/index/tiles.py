"""The stored vectors in pieces of equal size, read when they are needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmretrieval.index.base import FloatMatrix, Labels, Vectors


@dataclass(frozen=True)
class Part:
    """What one call of ``add`` stored.

    Args:
        vectors: Their vectors, ``(N, D)``, kept by reference.
        labels: Their labels, ``(N,)``.
        group: Their group.
    """

    vectors: Vectors
    labels: Labels
    group: int


@dataclass(frozen=True)
class Tile:
    """Vectors of one group that are scored together.

    Args:
        pieces: Slices of parts, in this order.
        labels: Label of each vector, ``(N,)``.
        group: Their group.
    """

    pieces: Sequence[tuple[Vectors, slice]]
    labels: Labels
    group: int

    def read(self) -> Tensor:
        """Return the vectors in the type that they are stored in, ``(N, D)``, sharing memory if possible."""
        blocks = [vectors[rows] for vectors, rows in self.pieces]
        return as_tensor(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))


def tiles(parts: Iterable[Part], rows: int) -> list[Tile]:
    """Cut parts into tiles, each group by itself.

    Small parts share a tile: scoring many small ones would take several times as long.

    Args:
        parts: What was stored.
        rows: Vectors in a tile, at most.
    """
    by_group = defaultdict(list)
    for part in parts:
        by_group[part.group].append(part)
    return [tile for group, own in sorted(by_group.items()) for tile in _tiles_of(own, group, rows)]


def _tiles_of(parts: Sequence[Part], group: int, rows: int) -> Iterator[Tile]:
    pieces: list[tuple[Vectors, slice]] = []
    labels: list[Labels] = []
    room = rows
    for part in parts:
        first, count = 0, len(part.labels)
        while first < count:
            stop = min(count, first + room)
            pieces.append((part.vectors, slice(first, stop)))
            labels.append(part.labels[first:stop])
            room -= stop - first
            first = stop
            if not room:
                yield Tile(pieces, np.concatenate(labels), group)
                pieces, labels, room = [], [], rows
    if pieces:
        yield Tile(pieces, np.concatenate(labels), group)


def as_tensor(matrix: FloatMatrix) -> Tensor:
    """An array as a tensor; what is read-only, as a memory-mapped file is, or of odd strides is copied."""
    array = np.asarray(matrix)
    shareable = array.flags.writeable and array.flags.c_contiguous and array.dtype.isnative
    return torch.from_numpy(array if shareable else np.array(array, array.dtype.newbyteorder("="), order="C"))
