"""Which vectors can be among the best, judged by approximate scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_LARGEST_GROUP = 32
_PORTION = 2**20
_UNIT = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}
"""Largest relative error of rounding float32 to the type of a table."""


class Candidates(NamedTuple):
    """Pairs of a vector and a query.

    Args:
        rows: Rows of the tile, ``(M,)``.
        queries: Queries of the block, ``(M,)``.
    """

    rows: Tensor
    queries: Tensor


class Listed(NamedTuple):
    """What was found in a tile.

    Args:
        candidates: All pairs that can be among the best, of the queries that are decided.
        undecided: Queries that more precise scores are worthwhile for, ``(U,)``.
    """

    candidates: Iterable[Candidates]
    undecided: Tensor


class ScoreTable:
    """Approximate scores of a tile, and which of them reach a threshold.

    ``torch.topk`` on all scores would take half as long as the matrix product. Maxima of groups of
    neighbouring rows are cheap: the k-th largest of them is at most the k-th best score, and a group whose
    maximum is below a threshold need not be looked into.

    Args:
        rows: Vectors in the tile, N.
        queries: Queries in the block, Q.
        k: How many vectors are searched for.
        device: Where the scores are.
        dtype: Type of the scores; they are rounded to it, to nearest.
    """

    def __init__(
        self, rows: int, queries: int, k: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        # Several times as many groups as are searched for, so that the best are seldom in the same one.
        self._group = _LARGEST_GROUP
        while self._group > 1 and rows < 4 * k * self._group:
            self._group //= 2
        groups = -(-rows // self._group)
        self._table = _fresh((groups, self._group, queries), dtype, device)
        self._k = k
        flat = self._table.view(-1, queries)
        flat[rows:] = -torch.inf
        self.scores = flat[:rows]
        """What the matrix product writes, ``(N, Q)``."""

    def listed(self, known: Tensor, slack: Tensor, most: int | None = None) -> Listed:
        """All pairs that can be among the best ``k``, in portions of bounded size, by ascending rows.

        Args:
            known: The best exact scores so far, best first, ``-inf`` where there are none, ``(Q, k)``.
            slack: How far approximate scores, before they were rounded to the table's type, can be from exact
                ones, ``(Q,)`` float64.
            most: Queries with candidates in more groups than this are left undecided; by default none.
        """
        maxima = self._table.amax(dim=1)
        reached = self._reached(known[:, -1] - slack)
        passing = maxima >= reached
        if int(passing.sum()) > self._k * len(known) // 2:
            reached = torch.maximum(reached, self._raised(maxima, known, slack))
            passing = maxima >= reached
        undecided = torch.zeros_like(passing[0])
        if most is not None:
            undecided = passing.sum(dim=0) > most
            passing &= ~undecided
        return Listed(self._passing(passing, reached), undecided.nonzero()[:, 0])

    def _raised(self, maxima: Tensor, known: Tensor, slack: Tensor) -> Tensor:
        """The approximate score that a vector needs, as each group has one of at least its maximum."""
        best = maxima.T.topk(min(self._k, len(maxima)), dim=1, sorted=False).values.double()
        unit = _UNIT[maxima.dtype]
        least = torch.minimum(best * (1 - unit), best * (1 + unit))
        at_least = torch.cat([least - slack[:, None], known], dim=1)
        kth = at_least.topk(self._k, dim=1, sorted=False).values.amin(dim=1)
        return self._reached(kth - slack)

    def _reached(self, score: Tensor) -> Tensor:
        # What is at least this much still is when both are rounded.
        return rounded_down(score, self.scores.dtype)

    def _passing(self, passing: Tensor, reached: Tensor) -> Iterator[Candidates]:
        groups, queries = passing.nonzero(as_tuple=True)
        for part in _portions(len(groups), _PORTION // self._group):
            yield self._looked_into(groups[part], queries[part], reached)

    def _looked_into(self, groups: Tensor, queries: Tensor, reached: Tensor) -> Candidates:
        values = self._table.transpose(1, 2)[groups, queries]
        pairs, member = (values >= reached[queries, None]).nonzero(as_tuple=True)
        rows, asked = groups[pairs] * self._group + member, queries[pairs]
        there = rows < len(self.scores)
        return Candidates(rows[there], asked[there])


def _fresh(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    # NumPy asks for huge pages, and torch does not: with small ones this takes a fifth of the product's time.
    memory = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(memory).view(dtype).view(shape)


def _portions(count: int, size: int) -> Iterator[slice]:
    for first in range(0, count, size):
        yield slice(first, first + size)


def rounded_down(numbers: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest numbers of another type that are not above float64 ones."""
    rounded = numbers.to(dtype)
    return torch.where(
        rounded.double() > numbers, torch.nextafter(rounded, rounded.new_tensor(-torch.inf)), rounded
    )
