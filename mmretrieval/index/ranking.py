"""Exact scores, and the best vectors found so far."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mmretrieval.index.labels import LABEL_LIMIT

_NUMBERS_AT_ONCE = {"cpu": 2**15, "cuda": 2**25}
"""So many torch computes in one thread of a CPU, without waiting for others, and they fit its cache."""
_STEPS_AT_ONCE = 16
_SPLIT_SUMS = 32_768
"""From here on torch may sum a single row in another order than many."""
_LEAST_WIDTH = 64


def exact_scores(vectors: Tensor, queries: Tensor, rows: Tensor, asked: Tensor) -> Tensor:
    """Inner products in float64 of pairs of vectors and queries, ``(M,)``.

    Each is a sum of products along the vector, in an order that depends on nothing but its length: equal
    vectors have equal scores wherever they are stored, which a matrix product does not promise.

    Args:
        vectors: Stored vectors, ``(N, D)``.
        queries: Queries, ``(Q, D)`` float64.
        rows: Vector of each pair, best in ascending order, which is several times as fast, ``(M,)``.
        asked: Query of each pair, ``(M,)``.
    """
    step = max(1, _NUMBERS_AT_ONCE[vectors.device.type] // vectors.shape[1])

    def score(first: int) -> Tensor:
        last = min(first + _STEPS_AT_ONCE * step, len(rows))
        parts = [slice(start, min(start + step, last)) for start in range(first, last, step)]
        return torch.cat([_scores(vectors, queries, rows[part], asked[part]) for part in parts])

    starts = range(0, len(rows), _STEPS_AT_ONCE * step)
    if vectors.is_cuda or len(starts) < 2:
        scores = [score(first) for first in starts]
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            scores = list(threads.map(score, starts))
    empty = torch.zeros(0, dtype=torch.float64, device=vectors.device)
    return torch.cat([empty, *scores]).add_(0.0)  # both zeros are equal as scores


def _scores(vectors: Tensor, queries: Tensor, rows: Tensor, asked: Tensor) -> Tensor:
    products = vectors.index_select(0, rows).double()
    return _sums(products.mul_(queries.index_select(0, asked)))


def _sums(products: Tensor) -> Tensor:
    if not products.is_cuda and products.shape[1] < _SPLIT_SUMS:
        return products.sum(dim=1)
    width = products.shape[1]
    while width > 1:  # a GPU's own sum depends on how many rows there are
        half = (width + 1) // 2
        products[:, : width - half] += products[:, half:width]
        width = half
    return products[:, 0]


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
