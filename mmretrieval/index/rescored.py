"""A fast first stage over short vectors or codes, and exact scores of what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from mmretrieval.index.base import NO_LABEL, FloatMatrix, Labels, Scores, Searchable

_QUERIES = 64
"""Queries whose originals are in memory at a time."""


class Rescored:
    """Searches codes, and scores ``oversampling * k`` candidates by their original vectors.

    Scores are those of an exact search; only which candidates get one is the first stage's choice.

    Args:
        first: Searches the codes, or vectors cut to ``dim``.
        originals: Reads the vectors of labels, ``(N,)`` to ``(N, D)``.
        oversampling: How many times ``k`` candidates the first stage finds, at least 1.
        dim: To how many dimensions queries are cut for the first stage; ``None`` for all.

    Raises:
        ValueError: If ``oversampling`` or ``dim`` is not positive.
    """

    def __init__(
        self,
        first: Searchable,
        originals: Callable[[Labels], NDArray[np.float32]],
        oversampling: int,
        dim: int | None = None,
    ) -> None:
        if oversampling < 1 or (dim is not None and dim < 1):
            raise ValueError(f"oversampling and dim must be at least 1, found {oversampling} and {dim}.")
        self.first, self.originals, self.oversampling, self.dim = first, originals, oversampling, dim

    def search(
        self, queries: FloatMatrix, k: int, groups: Iterable[int] | None = None
    ) -> tuple[Scores, Labels]:
        """Return the labels of the ``k`` best of the candidates, as an index does.

        Args:
            queries: ``(Q, D)``.
            k: How many, at least 1.
            groups: Groups to search in; all by default.

        Returns:
            ``(Q, k)`` scores and labels, best first, equal scores by ascending label.
        """
        _, candidates = self.first.search(cut(queries, self.dim), k * self.oversampling, groups)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        labels = np.full((len(queries), k), NO_LABEL, np.int64)
        for start in range(0, len(queries), _QUERIES):
            block = slice(start, start + _QUERIES)
            scores[block], labels[block] = self._rescore(queries[block], candidates[block], k)
        return scores, labels

    def _rescore(self, queries: FloatMatrix, candidates: Labels, k: int) -> tuple[Scores, Labels]:
        scores = np.full(candidates.shape, -np.inf)
        there = candidates != NO_LABEL
        known, places = np.unique(candidates[there], return_inverse=True)
        if len(known):
            vectors = self.originals(known)
            askers = there.nonzero()[0]
            for number, query in enumerate(queries.astype(np.float64)):
                scores[number, there[number]] = vectors[places[askers == number]].astype(np.float64) @ query
        order = np.lexsort((np.where(there, candidates, np.iinfo(np.int64).max), -scores), axis=1)[:, :k]
        best = np.take_along_axis(scores, order, axis=1).astype(np.float32)
        return best, np.take_along_axis(candidates, order, axis=1)


def cut(vectors: FloatMatrix, dim: int | None) -> FloatMatrix:
    """The first dimensions of vectors, normalised again (Kusupati et al., 2022, https://arxiv.org/abs/2205.13147).

    Args:
        vectors: ``(N, D)``.
        dim: How many to keep; ``None`` keeps the vectors as they are.
    """
    if dim is None:
        return vectors
    short = np.asarray(vectors[:, :dim])
    norms = np.linalg.norm(short, axis=1, keepdims=True)
    kept: FloatMatrix = short / np.where(norms > 0, norms, 1)
    return kept
