"""The search of one tile: approximate scores, and exact ones of what can be among the best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mmretrieval.index.candidates import Candidates, Listed, ScoreTable
from mmretrieval.index.exact_scores import exact_scores
from mmretrieval.index.operands import (
    Measures,
    Precision,
    Queries,
    error_bound,
    operand,
    prepared,
    product,
    rounded_product,
    times_power,
)
from mmretrieval.index.ranking import Ranking
from mmretrieval.index.shortlist import is_worthwhile, shortlist

_CROWDED = 256
"""Scoring so many candidates of a query again takes longer than its products in float32."""


@dataclass(frozen=True)
class ScoredTile:
    """Vectors that are scored together.

    Args:
        stored: As stored, ``(N, D)``.
        labels: Their labels, ``(N,)``.
        measured: Measures of the tile for a type of factors.
        precision: Type of the first product's factors.
    """

    stored: Tensor
    labels: Tensor
    measured: Callable[[Precision], Measures]
    precision: Precision

    def take_best(self, best: Ranking, block: Queries) -> None:
        """Merge what is among the best of some queries, ranked by exact scores, into ``best``.

        Args:
            best: Of these queries.
            block: Queries, prepared for ``precision``.

        Raises:
            ValueError: If a score is beyond float64.
        """
        asked = block.stored.double()
        for rows, queries in self._candidates(block, best):
            scores = exact_scores(self.stored, asked, rows, queries)
            if not bool(scores.isfinite().all()):
                raise ValueError("Scores are not numbers: vectors and queries are too large for float64.")
            best.merge(queries, scores, self.labels[rows])

    def _candidates(self, block: Queries, best: Ranking) -> Iterator[Candidates]:
        """All pairs that can be among the best."""
        left = torch.arange(len(best.scores), device=best.scores.device)
        for find, precision in self._ways(best.scores.shape[1]):
            same = precision == self.precision and len(left) == len(best.scores)
            asked = block if same else prepared(block.stored[left], precision)
            tile = self.measured(precision)
            # Approximate scores are of scaled factors.
            known = times_power(best.scores[left], -(asked.exponents + tile.exponent))
            listed = find(asked.values, known, error_bound(asked, tile, precision))
            for rows, queries in listed.candidates:
                yield Candidates(rows, left[queries])
            left = left[listed.undecided]
            if not len(left):
                return

    def _ways(self, k: int) -> Iterator[tuple[Callable[[Tensor, Tensor, Tensor], Listed], Precision]]:
        """From the fastest, which leaves some queries undecided, to one that decides all."""
        if self.stored.is_cuda:
            yield self._table, self.precision
            return
        if self.precision == "bfloat16":
            yield self._rounded_table, "bfloat16"
        if is_worthwhile(len(self.stored), k):
            yield self._shortlist, "float32"
        yield self._table, "float32"

    def _rounded_table(self, asked: Tensor, known: Tensor, slack: Tensor) -> Listed:
        k, exponent = known.shape[1], self.measured("bfloat16").exponent
        table = ScoreTable(len(self.stored), len(asked), k, self.stored.device, torch.bfloat16)
        rounded_product(self.stored, exponent, asked, table.scores)
        return table.listed(known, slack, most=_CROWDED + 2 * k)

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
