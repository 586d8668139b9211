"""How mined negatives are distributed: by rank, and by score beside the positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.mined import MinedNegatives
from mmretrieval.mining.rankings import Rankings


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values in bins.

    Args:
        counts: How many values each bin has.
        edges: Bin b is from ``edges[b]`` up to ``edges[b + 1]``, which belongs to the last bin only.
        smallest: Of the values; NaN without any, as is ``largest``.
        largest: Of the values.
        sum: Of the values.
        sum_squares: Of the values' squares.

    Shape:
        - counts: ``(B,)`` int64, edges: ``(B + 1,)`` float64.
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    smallest: float
    largest: float
    sum: float
    sum_squares: float

    @classmethod
    def of(cls, values: NDArray[np.floating[Any] | np.integer], edges: NDArray[np.float64]) -> Self:
        """Count values; none may be outside of the edges.

        Args:
            values: Any number of them.
            edges: Of the bins, ascending.
        """
        exact = values.astype(np.float64)
        return cls(
            counts=np.histogram(exact, edges)[0].astype(np.int64),
            edges=edges,
            smallest=float(exact.min()) if exact.size else float("nan"),
            largest=float(exact.max()) if exact.size else float("nan"),
            sum=float(exact.sum()),
            sum_squares=float(np.square(exact).sum()),
        )

    def tensorboard(self) -> dict[str, Any]:
        """Arguments of ``SummaryWriter.add_histogram_raw``; write only where there are counts."""
        return {
            "min": self.smallest,
            "max": self.largest,
            "num": int(self.counts.sum()),
            "sum": self.sum,
            "sum_squares": self.sum_squares,
            "bucket_limits": self.edges[1:].tolist(),
            "bucket_counts": self.counts.tolist(),
        }


@dataclass(frozen=True, slots=True)
class MiningHistograms:
    """Where the negatives of a mining come from.

    Args:
        ranks: Ranks of the drawn negatives, one bin for each of 1 to K.
        negative_scores: Scores of the drawn negatives.
        positive_scores: Known scores of the labelled positives, in the same bins.
    """

    ranks: Histogram
    negative_scores: Histogram
    positive_scores: Histogram

    @classmethod
    def of(cls, mined: MinedNegatives, rankings: Rankings, top_k: int, bins: int = 64) -> Self:
        """Count ranks and scores.

        Args:
            mined: What was mined from ``rankings``.
            rankings: The search results.
            top_k: How many of the best candidates were looked at.
            bins: Of the scores, at least 1; from the lowest to the highest score of both sides.
        """
        there, positives = mined.rows >= 0, rankings.scores_of_positives()
        negatives, positives = mined.scores[there], positives[np.isfinite(positives)]
        both = np.concatenate([negatives, positives]).astype(np.float64)
        edges = np.histogram_bin_edges(both, bins).astype(np.float64)
        return cls(
            ranks=Histogram.of(mined.ranks[there], np.linspace(0.5, top_k + 0.5, top_k + 1)),
            negative_scores=Histogram.of(negatives, edges),
            positive_scores=Histogram.of(positives, edges),
        )
