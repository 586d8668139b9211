"""The search of one tile: approximate scores, and exact ones of what can be among the best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mmretrieval.index.candidates import Listed, ScoreTable
from mmretrieval.index.exact_scores import exact_scores
from mmretrieval.index.measures import Measures, error_bound, shift
from mmretrieval.index.operands import Precision, Queries, operand, prepared, times_power
from mmretrieval.index.products import product, rounded_product
from mmretrieval.index.ranking import Ranking
from mmretrieval.index.shortlist import is_worthwhile, shortlist

_ROWS_PER_CANDIDATE = 256
"""An exact score takes as long as products with so many rows take longer in float32 than in bfloat16."""
_Way = Callable[[Tensor, Tensor, Tensor], Listed]


@dataclass(frozen=True)
class ScoredTile:
    """Vectors that are scored together.

    Args:
        stored: As stored, ``(N, D)``.
        labels: Their labels, ``(N,)``.
        measured: Measures of the tile for a type of factors.
        precision: Type of a GPU's factors.
    """

    stored: Tensor
    labels: Tensor
    measured: Callable[[Precision], Measures]
    precision: Precision

    def take_best(self, best: Ranking, block: Queries) -> Queries:
        """Merge what is among the best of some queries, ranked by exact scores, into ``best``.

        Args:
            best: Of these queries.
            block: Queries, prepared for any precision.

        Returns:
            The queries to search the next tile with: in float32 if bfloat16 left most of them undecided.

        Raises:
            ValueError: If a score is beyond float64.
        """
        left, asked, following = torch.arange(len(best.scores), device=best.scores.device), block, block
        for find, precision in self._ways(block.precision, best.scores.shape[1]):
            if asked.precision != precision:
                asked = prepared(asked.stored, precision)
            undecided = self._merge(find, asked, left, best)
            if precision == "bfloat16" and len(undecided) > len(left) // 2:
                following = prepared(block.stored, "float32")
            left, asked = left[undecided], asked[undecided]
            if not len(left):
                break
        return following

    def _merge(self, find: _Way, asked: Queries, places: Tensor, best: Ranking) -> Tensor:
        """Merge what a way finds for the queries of these places in ``best``; return which are undecided."""
        tile = self.measured(asked.precision)
        # Approximate scores are of scaled and centred factors.
        known = times_power(best.scores[places], -(asked.exponents + tile.exponent)) - shift(asked, tile)
        listed = find(asked.values, known, error_bound(asked, tile))
        wide = asked.stored.double()
        for rows, queries in listed.candidates:
            scores = exact_scores(self.stored, wide, rows, queries)
            if not bool(scores.isfinite().all()):
                raise ValueError("Scores are not numbers: vectors and queries are too large for float64.")
            best.merge(places[queries], scores, self.labels[rows])
        return listed.undecided

    def _ways(self, first: Precision, k: int) -> Iterator[tuple[_Way, Precision]]:
        """From the fastest, which leaves some queries undecided, to one that decides all."""
        if self.stored.is_cuda:
            yield self._table, first
            return
        if first == "bfloat16":
            yield self._rounded_table, "bfloat16"
        if is_worthwhile(len(self.stored), k):
            yield self._shortlist, "float32"
        yield self._table, "float32"

    def _rounded_table(self, asked: Tensor, known: Tensor, slack: Tensor) -> Listed:
        k = known.shape[1]
        table = ScoreTable(len(self.stored), len(asked), k, self.stored.device, torch.bfloat16)
        rounded_product(self.stored, self.measured("bfloat16"), asked, table.scores)
        return table.listed(known, slack, most=k + len(self.stored) // _ROWS_PER_CANDIDATE)

    def _shortlist(self, asked: Tensor, known: Tensor, slack: Tensor) -> Listed:
        return shortlist(self._values, asked, known, slack)

    def _table(self, asked: Tensor, known: Tensor, slack: Tensor) -> Listed:
        table = ScoreTable(len(self.stored), len(asked), known.shape[1], self.stored.device)
        product(self._values, asked, table.scores)
        return table.listed(known, slack)

    @cached_property
    def _values(self) -> Tensor:
        """As multiplied by all but the rounded table, ``(N, D)``."""
        precision: Precision = self.precision if self.stored.is_cuda else "float32"
        return operand(self.stored, self.measured(precision).exponent, precision)
