"""Which vectors can be among the best, judged by approximate scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_LARGEST_GROUP = 32
_PORTION = 2**20


class Candidates(NamedTuple):
    """Pairs of a vector and a query.

    Args:
        rows: Rows of the tile, ``(M,)``.
        queries: Queries of the block, ``(M,)``.
    """

    rows: Tensor
    queries: Tensor


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
    """

    def __init__(self, rows: int, queries: int, k: int, device: torch.device) -> None:
        # Several times as many groups as are searched for, so that the best are seldom in the same one.
        self._group = _LARGEST_GROUP
        while self._group > 1 and rows < 4 * k * self._group:
            self._group //= 2
        groups = -(-rows // self._group)
        self._table = torch.empty(groups, self._group, queries, device=device)
        self._k = k
        flat = self._table.view(-1, queries)
        flat[rows:] = -torch.inf
        self.scores = flat[:rows]
        """What the matrix product writes, ``(N, Q)``."""

    def candidates(self, known: Tensor, slack: Tensor) -> Iterator[Candidates]:
        """All pairs that can be among the best ``k``, in portions of bounded size, by ascending rows.

        Args:
            known: The best exact scores so far, best first, ``-inf`` where there are none, ``(Q, k)``.
            slack: How far approximate scores can be from exact ones, ``(Q,)`` float64.
        """
        maxima = self._table.amax(dim=1)
        reached = rounded_down(known[:, -1] - slack)
        passing = maxima >= reached
        if int(passing.sum()) > self._k * len(known) // 2:
            reached = torch.maximum(reached, self._raised(maxima, known, slack))
            passing = maxima >= reached
        groups, queries = passing.nonzero(as_tuple=True)
        for part in _portions(len(groups), _PORTION // self._group):
            yield self._looked_into(groups[part], queries[part], reached)

    def _raised(self, maxima: Tensor, known: Tensor, slack: Tensor) -> Tensor:
        """The approximate score that a vector needs, as each group has one of at least its maximum."""
        at_least = torch.cat([maxima.T.double() - slack[:, None], known], dim=1)
        kth = at_least.topk(self._k, dim=1, sorted=False).values.amin(dim=1)
        return rounded_down(kth - slack)

    def _looked_into(self, groups: Tensor, queries: Tensor, reached: Tensor) -> Candidates:
        members = torch.arange(self._group, device=groups.device)
        rows = groups[:, None] * self._group + members
        count = self._table.shape[2]
        values = self._table.view(-1).take(rows * count + queries[:, None])
        passing = (values >= reached[queries][:, None]) & (rows < len(self.scores))
        pairs, member = passing.nonzero(as_tuple=True)
        return Candidates(groups[pairs] * self._group + member, queries[pairs])


def _portions(count: int, size: int) -> Iterator[slice]:
    for first in range(0, count, size):
        yield slice(first, first + size)


def rounded_down(numbers: Tensor) -> Tensor:
    """The nearest float32 numbers that are not above float64 ones."""
    rounded = numbers.float()
    return torch.where(
        rounded.double() > numbers, torch.nextafter(rounded, rounded.new_tensor(-torch.inf)), rounded
    )
