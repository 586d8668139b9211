"""Filters by score: what scores close to the labelled positive, or above it, is often an unlabelled positive.

Two of them need the labelled positive's score. Where it is unknown (not given, and the positive was not
retrieved) they keep nothing: after an exact search such a positive scores no higher than any hit, so its true
score would let none pass either, ties aside. Reports count these queries as ``positives_unscored``. The
comparisons are in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.filters import Filter
from mmretrieval.mining.hits import Hits


@dataclass(frozen=True)
class MaxScore(Filter):
    """Only scores up to an absolute limit (NV-Retriever's TopK-Abs, https://arxiv.org/abs/2407.15831).

    Both NV-Retriever and U-MARVEL (https://arxiv.org/abs/2507.14902) drop cosines above 0.7.

    Args:
        value: The highest score that is kept, in the scorer's unit; finite.

    Raises:
        ValueError: If ``value`` is not finite.
    """

    value: float
    name: ClassVar[str] = "max_score"

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"The highest score must be finite, found {self.value}.")

    def keeps(self, hits: Hits) -> NDArray[np.bool_]:
        """Which candidates score at most ``value``."""
        return hits.scores <= np.float64(self.value)  # a Python float would be rounded to float32


@dataclass(frozen=True)
class MarginToPositive(Filter):
    """Only scores well below the positive's (NV-Retriever's TopK-MarginPos, https://arxiv.org/abs/2407.15831).

    It is ``absolute_margin`` of sentence-transformers.

    Args:
        margin: Smallest distance to the labelled positive's score, in the scorer's unit, at least 0; with 0,
            what scores as the positive is kept.

    Raises:
        ValueError: If ``margin`` is negative or not finite.
    """

    margin: float = 0.05
    name: ClassVar[str] = "margin_to_positive"

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"margin must be at least 0, found {self.margin}.")

    def keeps(self, hits: Hits) -> NDArray[np.bool_]:
        """Which candidates score low enough; none where the positive's score is unknown."""
        return hits.scores <= (hits.positive_score - self.margin)[:, None]


@dataclass(frozen=True)
class PercentOfPositive(Filter):
    """Only scores up to a share of the positive's (NV-Retriever's best, https://arxiv.org/abs/2407.15831).

    The paper calls it TopK-PercPos. A share of a negative score would lie above it. There the limit is as far
    below the positive's score as it is for a positive score, ``score - (1 - percent) * |score|``: this is
    ``relative_margin`` of sentence-transformers.

    Args:
        percent: The share, above 0 and at most 1; with 1, what scores as the positive is kept.

    Raises:
        ValueError: If ``percent`` is out of range.
    """

    percent: float = 0.95
    name: ClassVar[str] = "percent_of_positive"

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 1:
            raise ValueError(f"percent must be above 0 and at most 1, found {self.percent}.")

    def keeps(self, hits: Hits) -> NDArray[np.bool_]:
        """Which candidates score low enough; none where the positive's score is unknown."""
        score = hits.positive_score
        limit = np.where(score < 0, 2 - self.percent, self.percent) * score
        return hits.scores <= limit[:, None]
