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
        rows: Candidate rows, one query after the other, each once a query.
        offsets: Where each query begins, and the end.

    Shape:
        - offsets: ``(Q + 1,)``.
    """

    rows: Rows
    offsets: Rows

    @classmethod
    def of(cls, positives: Iterable[NDArray[np.integer]]) -> Self:
        """Build the table from each query's candidate rows; rows that are there twice count once."""
        parts = [np.unique(rows).astype(np.int64) for rows in positives]
        offsets = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, np.int64), *parts]), offsets)

    def part(self, queries: Rows) -> Positives:
        """The positives of some queries, in their order."""
        return type(self).of(self.rows[self.offsets[q] : self.offsets[q + 1]] for q in queries.tolist())

    def relevant(self, ranked: Rows) -> NDArray[np.bool_]:
        """Whether the candidate at each rank is a known positive of its query.

        Shape:
            - ranked: ``(Q, K)`` candidate rows or -1, output: ``(Q, K)``.
        """
        # One integer for (query, candidate), so that a single membership test serves all queries.
        stride = int(max(ranked.max(initial=0), self.rows.max(initial=0))) + 1
        queries = np.arange(self.offsets.size - 1, dtype=np.int64)
        known = np.repeat(queries, np.diff(self.offsets)) * stride + self.rows
        found: NDArray[np.bool_] = np.isin(queries[:, None] * stride + ranked, known) & (ranked >= 0)
        return found

    def count_in(self, pool: Rows) -> Rows:
        """How many positives of each query a pool holds.

        Shape:
            - pool: candidate rows, output: ``(Q,)``.
        """
        inside = np.concatenate([[0], np.cumsum(np.isin(self.rows, pool))])
        counts: Rows = inside[self.offsets[1:]] - inside[self.offsets[:-1]]
        return counts
