"""What mining returns: negatives by query, each with why it was taken."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray


class NegativeKind(IntEnum):
    """Why a candidate was taken as a negative; the numbers are those of mined-negatives files."""

    NONE = 0
    WRONG_MODALITY = 1
    """C1: above the labelled positive, of another modality than the instruction asks for."""
    UNSATISFACTORY = 2
    """C2: of the asked modality, ranked below k'."""
    RANKED = 3
    """Neither: ranked high, and left by the filters."""


@dataclass(frozen=True, slots=True)
class MinedNegatives:
    """The negatives of each query in the order of the draws; empty places come last.

    Args:
        rows: Candidate rows, -1 in empty places.
        kinds: :class:`NegativeKind` codes, 0 in empty places.
        ranks: Ranks counted from 1, 0 in empty places.
        scores: Search scores, ``-inf`` in empty places.

    Shape:
        - all ``(Q, n)``: int64, uint8, int32, float32.
    """

    rows: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    ranks: NDArray[np.int32]
    scores: NDArray[np.float32]

    @classmethod
    def empty(cls, queries: int, negatives: int) -> Self:
        """No negative for any query.

        Args:
            queries: Their number Q.
            negatives: Places n of each query.
        """
        shape = (queries, negatives)
        return cls(
            rows=np.full(shape, -1, dtype=np.int64),
            kinds=np.zeros(shape, dtype=np.uint8),
            ranks=np.zeros(shape, dtype=np.int32),
            scores=np.full(shape, -np.inf, dtype=np.float32),
        )

    def put(self, queries: NDArray[np.integer], part: MinedNegatives) -> None:
        """Write the negatives of some queries into their places.

        Args:
            queries: Row here of each row of ``part``.
            part: The negatives of these queries.
        """
        for field in fields(self):
            getattr(self, field.name)[queries] = getattr(part, field.name)
