"""Selections: which of the candidates that filters left become a query's negatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.chances import Chances, nth_member
from mmretrieval.mining.filters import RightModalityBelow, WrongModalityAbovePositive
from mmretrieval.mining.hits import Hits
from mmretrieval.mining.mined import NegativeKind


class Selection(ABC):
    """How negatives are drawn. Subclasses are frozen dataclasses whose fields JSON can hold."""

    @abstractmethod
    def kinds(self, hits: Hits, allowed: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """As what each candidate may be drawn, 0 if not at all; known positives are left out afterwards.

        Args:
            hits: The retrieved candidates.
            allowed: Which of them the filters left.

        Returns:
            :class:`NegativeKind` codes.

        Shape:
            - allowed, output: ``(Q, K)``.
        """

    @abstractmethod
    def pick(self, left: NDArray[np.uint8], chances: Chances) -> NDArray[np.int64]:
        """Draw one candidate for each query.

        Args:
            left: Kinds of the candidates that can still be drawn, else 0.
            chances: Uniform numbers of the queries.

        Returns:
            The column of each query's candidate, -1 for none, which it must be where none is left.

        Shape:
            - left: ``(Q, K)``, output: ``(Q,)``.
        """

    @property
    def needed_depth(self) -> int:
        """How many of the best candidates must be looked at for the selection to make sense."""
        return 1


@dataclass(frozen=True)
class ModalityAware(Selection):
    """Draws from the paper's C1 and C2 (MM-Embed, https://arxiv.org/abs/2411.02571).

    A draw first takes the kind, C1 with ``probability_c1`` when both kinds are left, else the one that is;
    then one of its candidates, each with the same chance. With ``probability_none`` it takes nothing instead,
    so that the query trains with in-batch negatives only: C1 : C2 : in-batch of ``a : b : c`` is
    ``probability_c1 = a / (a + b)``, ``probability_none = c / (a + b + c)``.

    Args:
        k_prime: The paper's k'. "Ranked below k' = 45" is read as: ranks from 46, counted from 1. For the
            reading that includes rank 45 take 44. At least 0.
        probability_c1: Chance of the kind C1 in a draw that takes something and has both kinds, from 0 to 1.
        probability_none: Chance of a draw to take nothing, from 0 to 1.

    Raises:
        ValueError: If a value is out of range.
    """

    k_prime: int = 45
    probability_c1: float = 0.5
    probability_none: float = 0.0

    def __post_init__(self) -> None:
        RightModalityBelow(self.k_prime)
        for name in ("probability_c1", "probability_none"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, found {getattr(self, name)}.")

    @property
    def needed_depth(self) -> int:
        """The paper's k'."""
        return RightModalityBelow(self.k_prime).needed_depth

    def kinds(self, hits: Hits, allowed: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """C1, C2 or nothing."""
        c1 = allowed & WrongModalityAbovePositive().keeps(hits)
        c2 = allowed & RightModalityBelow(self.k_prime).keeps(hits)
        return (c1 * NegativeKind.WRONG_MODALITY + c2 * NegativeKind.UNSATISFACTORY).astype(np.uint8)

    def pick(self, left: NDArray[np.uint8], chances: Chances) -> NDArray[np.int64]:
        """One number decides between nothing, C1 and C2, the other between the candidates."""
        c1_until = self.probability_none + (1 - self.probability_none) * self.probability_c1
        kinds = _chosen_kinds(left, chances.kind < c1_until)
        got = np.flatnonzero((kinds > 0) & (chances.kind >= self.probability_none))
        columns = np.full(left.shape[0], -1, dtype=np.int64)
        columns[got] = nth_member(left[got] == kinds[got, None], chances.member[got])
        return columns


@dataclass(frozen=True)
class TopK(Selection):
    """Takes the best that filters left, or samples from them (NV-Retriever, https://arxiv.org/abs/2407.15831).

    NV-Retriever's "4 negatives out of the top 10" is ``TopK(k=10, sample=True)`` with four negatives a query.
    A negative counts as of the wrong modality where it is C1 (above the positive), else as ranked.

    Args:
        k: How many of the best that neither filters nor the guard of known positives took away are drawn
            from, at least 1; ``None`` for all.
        sample: Whether every one of them has the same chance; else the best come first.

    Raises:
        ValueError: If ``k`` is below 1.
    """

    k: int | None = None
    sample: bool = False

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k must be at least 1, found {self.k}.")

    def kinds(self, hits: Hits, allowed: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """C1 or ranked for the best k, nothing for the rest."""
        if self.k is not None:
            counted = allowed & ~hits.known
            allowed = allowed & (counted.cumsum(axis=1) - counted < self.k)  # as many before it
        c1 = WrongModalityAbovePositive().keeps(hits)
        kinds = np.where(c1, NegativeKind.WRONG_MODALITY, NegativeKind.RANKED)
        return np.where(allowed, kinds, NegativeKind.NONE).astype(np.uint8)

    def pick(self, left: NDArray[np.uint8], chances: Chances) -> NDArray[np.int64]:
        """Any candidate that is left, or the first."""
        got = np.flatnonzero(left.any(axis=1))
        columns = np.full(left.shape[0], -1, dtype=np.int64)
        chance = chances.member[got] if self.sample else np.zeros(got.size)
        columns[got] = nth_member(left[got] > 0, chance)
        return columns


def _chosen_kinds(left: NDArray[np.uint8], prefers_c1: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The preferred kind where it is left, else the other, else none."""
    has_c1 = (left == NegativeKind.WRONG_MODALITY).any(axis=1)
    has_c2 = (left == NegativeKind.UNSATISFACTORY).any(axis=1)
    takes_c1 = has_c1 & (prefers_c1 | ~has_c2)
    takes_c2 = has_c2 & ~takes_c1
    kinds = np.zeros(left.shape[0], dtype=np.uint8)
    kinds[takes_c1], kinds[takes_c2] = NegativeKind.WRONG_MODALITY, NegativeKind.UNSATISFACTORY
    return kinds
