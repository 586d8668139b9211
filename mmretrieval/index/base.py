"""What every index over candidate vectors offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.floating[Any]]


class VectorIndex(ABC):
    """Finds the stored vectors with the largest inner product; knows rows and vectors only.

    Rows are numbered from 0 in the order in which vectors were added.
    """

    def __init__(self) -> None:
        self._dim: int | None = None
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, vectors: FloatMatrix) -> None:
        """Store vectors behind those already there.

        Args:
            vectors: Finite float16, float32 or float64 numbers, possibly memory-mapped. An index may keep a
                reference and no copy: do not change them afterwards.

        Shape:
            - vectors: ``(N, D)``.

        Raises:
            ValueError: If the shape or type does not fit.
        """
        self._check(vectors, "vectors")
        if self._dim is None:
            self._dim = vectors.shape[1]
        if vectors.shape[0]:
            self._append(vectors)
            self._rows += vectors.shape[0]

    def search(self, queries: FloatMatrix, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the ``k`` best rows of each query with their scores.

        Args:
            queries: Finite float16, float32 or float64 numbers.
            k: How many rows to return, at least 1.

        Returns:
            Scores and rows, best first, equal scores by ascending row. Where the index holds fewer than ``k``
            vectors, the rest is score ``-inf`` and row -1.

        Shape:
            - queries: ``(Q, D)``, output: ``(Q, k)`` float32 and ``(Q, k)`` int64.

        Raises:
            ValueError: If ``k`` is not positive, shapes do not fit, or a score is not a number.
        """
        self._check(queries, "queries")
        if k < 1:
            raise ValueError(f"k must be at least 1, found {k}.")
        scores = np.full((queries.shape[0], k), -np.inf, dtype=np.float32)
        rows = np.full((queries.shape[0], k), -1, dtype=np.int64)
        found = min(k, self._rows)
        if found and queries.shape[0]:
            scores[:, :found], rows[:, :found] = self._search(queries, found)
        return scores, rows

    @abstractmethod
    def _append(self, vectors: FloatMatrix) -> None:
        """Store at least one checked vector."""

    @abstractmethod
    def _search(self, queries: FloatMatrix, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search at least one checked query for ``1 <= k <= len(self)`` rows."""

    def _check(self, matrix: FloatMatrix, name: str) -> None:
        if matrix.ndim != 2 or matrix.dtype not in (np.float16, np.float32, np.float64):
            raise ValueError(
                f"{name} must be a (count, dimension) matrix of float16, float32 or float64, "
                f"found {matrix.dtype} of shape {matrix.shape}."
            )
        if self._dim is not None and matrix.shape[1] != self._dim:
            raise ValueError(f"The index holds {self._dim}-d vectors, {name} are {matrix.shape[1]}-d.")
