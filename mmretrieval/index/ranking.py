"""The best vectors found so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mmretrieval.index.labels import LABEL_LIMIT

_LEAST_WIDTH = 64


@dataclass(frozen=True)
class Ranking:
    """The best vectors of each query, best first, equal scores by ascending label.

    Args:
        scores: Exact scores, ``(Q, k)`` float64; ``-inf`` where nothing was found yet.
        labels: Their labels, ``(Q, k)`` int64.
    """

    scores: Tensor
    labels: Tensor

    @classmethod
    def empty(cls, queries: int, k: int, device: torch.device) -> Self:
        """Nothing found yet."""
        return cls(
            torch.full((queries, k), -torch.inf, dtype=torch.float64, device=device),
            torch.full((queries, k), LABEL_LIMIT, dtype=torch.int64, device=device),
        )

    def __getitem__(self, queries: slice) -> Ranking:
        return Ranking(self.scores[queries], self.labels[queries])

    @property
    def reached(self) -> Tensor:
        """The score of the last one of each query, ``(Q,)``."""
        return self.scores[:, -1]

    def merge(self, queries: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Take what is better, in place.

        Args:
            queries: Query of each score, ``(M,)``.
            scores: Exact scores, ``(M,)`` float64.
            labels: Label of each score, ``(M,)``.
        """
        useful = (scores >= self.reached[queries]).nonzero()[:, 0]
        order = useful[queries[useful].argsort(stable=True)]
        queries, scores, labels = queries[order], scores[order], labels[order]
        counts = torch.bincount(queries, minlength=len(self.scores))
        places = torch.arange(len(queries), device=queries.device) - (counts.cumsum(0) - counts)[queries]
        # A query with very many candidates takes several rounds, so that the others' padding stays small.
        width = max(self.scores.shape[1], _LEAST_WIDTH)
        for first in range(0, int(counts.max()) if len(queries) else 0, width):
            now = (
                slice(None)
                if int(counts.max()) <= width
                else (places // width == first // width).nonzero()[:, 0]
            )
            self._merge_padded(queries[now], places[now] - first, scores[now], labels[now])

    def _merge_padded(self, queries: Tensor, places: Tensor, scores: Tensor, labels: Tensor) -> None:
        rows, slots = torch.unique_consecutive(queries, return_inverse=True)
        width = int(places.max()) + 1
        more = Ranking.empty(len(rows), width, queries.device)
        more.scores[slots, places] = scores
        more.labels[slots, places] = labels
        kept = self.scores.shape[1]
        both = _ordered(
            torch.cat([self.scores[rows], more.scores], dim=1),
            torch.cat([self.labels[rows], more.labels], dim=1),
        )
        self.scores[rows], self.labels[rows] = both[0][:, :kept], both[1][:, :kept]


def _ordered(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each row by descending score, then by ascending label."""
    ordered, order = scores.sort(dim=1, descending=True)
    if bool(((ordered[:, 1:] == ordered[:, :-1]) & ordered[:, 1:].isfinite()).any()):
        labels, by_label = labels.sort(dim=1)
        ordered, order = scores.gather(1, by_label).sort(dim=1, descending=True, stable=True)
    return ordered, labels.gather(1, order)
