"""The search of one tile: approximate scores, and exact ones of what can be among the best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmretrieval.index.candidates import Candidates, ScoreTable
from mmretrieval.index.exact_scores import exact_scores
from mmretrieval.index.operands import Measures, Precision, Queries, error_bound, product, times_power
from mmretrieval.index.ranking import Ranking
from mmretrieval.index.shortlist import is_worthwhile, shortlist


@dataclass(frozen=True)
class ScoredTile:
    """Vectors that are scored together.

    Args:
        stored: As stored, ``(N, D)``.
        values: As multiplied, ``(N, D)``.
        labels: Their labels, ``(N,)``.
        measures: Of the tile.
        precision: Type of the product's factors.
    """

    stored: Tensor
    values: Tensor
    labels: Tensor
    measures: Measures
    precision: Precision

    def take_best(self, best: Ranking, block: Queries) -> None:
        """Merge what is among the best of some queries, ranked by exact scores, into ``best``.

        Raises:
            ValueError: If a score is beyond float64.
        """
        slack = error_bound(block, self.measures, self.precision)
        # Approximate scores are of scaled factors.
        known = times_power(best.scores, -(block.exponents + self.measures.exponent))
        asked = block.stored.double()
        for rows, queries in self._candidates(block, known, slack):
            scores = exact_scores(self.stored, asked, rows, queries)
            if not bool(scores.isfinite().all()):
                raise ValueError("Scores are not numbers: vectors and queries are too large for float64.")
            best.merge(queries, scores, self.labels[rows])

    def _candidates(self, block: Queries, known: Tensor, slack: Tensor) -> Iterator[Candidates]:
        """All pairs that can be among the best."""
        left = torch.arange(len(known), device=known.device)
        if is_worthwhile(self.values, known.shape[1]):
            listed = shortlist(self.values, block.values, known, slack)
            yield listed.candidates
            left = listed.undecided
        if len(left):
            values = block.values[left] if len(left) < len(known) else block.values
            table = self._table(values, known.shape[1])
            for rows, queries in table.candidates(known[left], slack[left]):
                yield Candidates(rows, left[queries])

    def _table(self, asked: Tensor, k: int) -> ScoreTable:
        table = ScoreTable(len(self.values), len(asked), k, self.values.device)
        product(self.values, asked, table.scores)
        return table
