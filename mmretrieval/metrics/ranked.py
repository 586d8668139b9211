"""The ranked lists of queries, and their known positives, as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranked lists of some queries.

    Args:
        queries: Row of each query in its split.
        rows: Candidate row at each rank, best first, -1 where there is none.
        scores: The score of each of ``rows``.

    Shape:
        - queries: ``(Q,)``; rows, scores: ``(Q, K)``.
    """

    queries: Rows
    rows: Rows
    scores: NDArray[np.float32]

    def part(self, places: NDArray[np.integer] | NDArray[np.bool_]) -> Ranking:
        """The lists at some places, not at query rows."""
        return Ranking(self.queries[places], self.rows[places], self.scores[places])


@dataclass(frozen=True, slots=True)
class Positives:
    """The known positives of some queries: those of query q are ``rows[offsets[q]:offsets[q + 1]]``.

    Args:
        rows: Candidate rows, one query after the other, ascending within a query.
        offsets: Where each query begins, and the end.
        grades: How relevant each of ``rows`` is, at least 1.

    Shape:
        - offsets: ``(Q + 1,)``; grades: like ``rows``.
    """

    rows: Rows
    offsets: Rows
    grades: Rows

    @classmethod
    def of(
        cls, positives: Iterable[NDArray[np.integer]], grades: Iterable[NDArray[np.integer]] | None = None
    ) -> Self:
        """Build the table; rows that a query has twice count once.

        Args:
            positives: Candidate rows of each query.
            grades: How relevant each of them is; 1 by default.
        """
        found = [np.unique(np.asarray(rows, np.int64), return_index=True) for rows in positives]
        rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in found)])
        offsets = np.cumsum([0, *(len(rows) for rows, _ in found)], dtype=np.int64)
        if grades is None:
            return cls(rows, offsets, np.ones_like(rows))
        kept = [np.asarray(own, np.int64)[first] for own, (_, first) in zip(grades, found, strict=True)]
        return cls(rows, offsets, np.concatenate([np.empty(0, np.int64), *kept]))

    def part(self, queries: Rows) -> Positives:
        """The positives of some queries, in their order."""
        sizes = np.diff(self.offsets)[queries]
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        places = np.repeat(self.offsets[:-1][queries] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return type(self)(self.rows[places], offsets, self.grades[places])

    def relevant(self, ranked: Rows) -> NDArray[np.bool_]:
        """Whether the candidate at each rank is a known positive of its query.

        Shape:
            - ranked: ``(Q, K)`` candidate rows or -1, output: ``(Q, K)``.
        """
        known, asked = self._pairs(ranked)
        found: NDArray[np.bool_] = np.isin(asked, known) & (ranked >= 0)
        return found

    def grade(self, ranked: Rows) -> Rows:
        """How relevant the candidate at each rank is, 0 where it is no known positive of its query.

        Shape:
            - ranked: ``(Q, K)`` candidate rows or -1, output: the same.
        """
        known, asked = self._pairs(ranked)
        if not known.size:
            return np.zeros(ranked.shape, np.int64)
        places = np.minimum(np.searchsorted(known, asked), known.size - 1)
        found = (known[places] == asked) & (ranked >= 0)
        return np.where(found, self.grades[places], 0)

    def ideal(self, pool: Rows, k: int) -> Rows:
        """The grades of the best list that a pool allows, falling, 0 where it has no more positives.

        Shape:
            - pool: candidate rows, output: ``(Q, k)``.
        """
        count = self.offsets.size - 1
        queries = np.repeat(np.arange(count), np.diff(self.offsets))
        grades = np.where(np.isin(self.rows, pool), self.grades, 0)
        ranks = np.arange(self.rows.size) - self.offsets[:-1][queries]
        falling = grades[np.lexsort((-grades, queries))]  # queries stay where they are
        best = np.zeros((count, k), np.int64)
        best[queries[ranks < k], ranks[ranks < k]] = falling[ranks < k]
        return best

    def count_in(self, pool: Rows) -> Rows:
        """How many positives of each query a pool holds.

        Shape:
            - pool: candidate rows, output: ``(Q,)``.
        """
        inside = np.concatenate([[0], np.cumsum(np.isin(self.rows, pool))])
        counts: Rows = inside[self.offsets[1:]] - inside[self.offsets[:-1]]
        return counts

    def _pairs(self, ranked: Rows) -> tuple[Rows, Rows]:
        """One integer for (query, candidate), of positives and of ranks, so that one search serves all."""
        stride = int(max(ranked.max(initial=0), self.rows.max(initial=0))) + 1
        queries = np.arange(self.offsets.size - 1, dtype=np.int64)
        known = np.repeat(queries, np.diff(self.offsets)) * stride + self.rows
        return known, queries[:, None] * stride + ranked
