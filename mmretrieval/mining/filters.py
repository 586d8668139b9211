"""Filters: which retrieved candidates may be negatives, each a pure function of the hits.

Known positives need no filter: they are never drawn, whatever filters there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.hits import Hits


class Filter(ABC):
    """One condition on candidates. Subclasses are frozen dataclasses whose fields JSON can hold.

    They have no slots: ``dataclass`` makes a second class for these, and YAML would find both by name.
    """

    name: ClassVar[str]
    """What reports call it; filters of one name are counted together."""

    @abstractmethod
    def keeps(self, hits: Hits) -> NDArray[np.bool_]:
        """Which candidates may be negatives; anything where there is no candidate.

        Args:
            hits: The retrieved candidates.

        Shape:
            - output: ``(Q, K)``.
        """

    @property
    def needed_depth(self) -> int:
        """How many of the best candidates must be looked at for the condition to make sense."""
        return 1


@dataclass(frozen=True)
class RankRange(Filter):
    """Only a range of ranks (``range_min`` and ``range_max`` of sentence-transformers' mining).

    See https://sbert.net/docs/package_reference/util.html#sentence_transformers.util.mine_hard_negatives.

    Args:
        first: The first rank that is kept, counted from 1.
        last: The last rank that is kept; ``None`` for no limit.

    Raises:
        ValueError: If ``first`` is below 1 or above ``last``.
    """

    first: int = 1
    last: int | None = None
    name: ClassVar[str] = "rank_range"

    def __post_init__(self) -> None:
        if self.first < 1 or (self.last is not None and self.last < self.first):
            raise ValueError(f"Ranks go from 1 up, found {self.first} to {self.last}.")

    def keeps(self, hits: Hits) -> NDArray[np.bool_]:
        """Which candidates are of these ranks."""
        last = hits.ranks.shape[1] if self.last is None else self.last
        return (hits.ranks >= self.first) & (hits.ranks <= last)

    @property
    def needed_depth(self) -> int:
        """The first rank that is kept."""
        return self.first


@dataclass(frozen=True)
class SameModality(Filter):
    """Only candidates of the asked modality (UNITE for in-batch negatives, https://arxiv.org/abs/2505.19650)."""

    name: ClassVar[str] = "same_modality"

    def keeps(self, hits: Hits) -> NDArray[np.bool_]:
        """Which candidates are of the asked modality."""
        return hits.right


@dataclass(frozen=True)
class WrongModalityAbovePositive(Filter):
    """Only C1, the wrong modality above the positive (MM-Embed, https://arxiv.org/abs/2411.02571).

    A labelled positive that is not found has the last rank.
    """

    name: ClassVar[str] = "wrong_modality_above_positive"

    def keeps(self, hits: Hits) -> NDArray[np.bool_]:
        """Which candidates are C1."""
        return hits.there & ~hits.right & (hits.ranks < hits.positive_rank[:, None])


@dataclass(frozen=True)
class RightModalityBelow(Filter):
    """Only C2, the right modality below rank k' (MM-Embed, https://arxiv.org/abs/2411.02571).

    So far down, a candidate is probably no unlabelled positive.

    Args:
        k_prime: The paper's k'; ranks from k' + 1 are kept, at least 0.

    Raises:
        ValueError: If ``k_prime`` is negative.
    """

    k_prime: int = 45
    name: ClassVar[str] = "right_modality_below"

    def __post_init__(self) -> None:
        if self.k_prime < 0:
            raise ValueError(f"k_prime must be at least 0, found {self.k_prime}.")

    def keeps(self, hits: Hits) -> NDArray[np.bool_]:
        """Which candidates are C2."""
        return hits.right & (hits.ranks > self.k_prime)

    @property
    def needed_depth(self) -> int:
        """The paper's k'."""
        return max(self.k_prime, 1)


def apply_filters(filters: Sequence[Filter], hits: Hits) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which candidates pass all filters, and how many each one drops of those that reach it.

    Args:
        filters: In the order of application; an empty sequence keeps every candidate.
        hits: The retrieved candidates.

    Returns:
        What is kept, and the counts by filter name. Known positives are not counted: they are no negatives
        with or without filters.

    Shape:
        - output: ``(Q, K)``.
    """
    kept, dropped = hits.there, {part.name: 0 for part in filters}
    for part in filters:
        passed = kept & part.keeps(hits)
        dropped[part.name] += int((kept & ~passed & ~hits.known).sum())
        kept = passed
    return kept, dropped
