"""Modality-aware hard negatives (MM-Embed, https://arxiv.org/abs/2411.02571), the default of mining.

A retriever that has seen only in-batch negatives ranks candidates of the wrong modality too high. So two
kinds of negatives are mined from the best candidates of the global pool: those of the wrong modality above
the positive (C1), and those of the right modality so far down that they are probably no unlabelled positives
(C2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.mined import MinedNegatives
from mmretrieval.mining.miner import mine
from mmretrieval.mining.plan import MiningPlan
from mmretrieval.mining.rankings import Rankings
from mmretrieval.mining.report import MiningReport
from mmretrieval.mining.selection import ModalityAware


@dataclass(frozen=True, slots=True)
class MiningSettings:
    """How to mine as the paper does.

    Args:
        top_k: How many of the best candidates are looked at; a positive beyond has rank ``top_k``, at least
            1.
        k_prime: The paper's k'. "Ranked below k' = 45" is read as: ranks 46 to 50, counted from 1. For the
            reading that includes rank 45 take 44. From 0 to ``top_k``.
        probability_c1: Chance of the kind C1 in a draw where both kinds are there, from 0 to 1.
        negatives_per_query: How many negatives to draw, at least 1.
        seed: Of the draws. The same seed and query key give the same draws, whatever other queries there are.

    Raises:
        ValueError: If a value is out of range.
    """

    top_k: int = 50
    k_prime: int = 45
    probability_c1: float = 0.5
    negatives_per_query: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.k_prime > self.top_k >= 1:
            raise ValueError(f"k_prime must be from 0 to top_k={self.top_k}, found {self.k_prime}.")
        self.plan()

    def plan(self) -> MiningPlan:
        """The general plan that mines so."""
        selection = ModalityAware(self.k_prime, self.probability_c1)
        return MiningPlan(self.top_k, self.negatives_per_query, self.seed, selection)


def mine_modality_aware(
    rankings: Rankings,
    candidate_modalities: NDArray[np.integer],
    candidate_keys: NDArray[np.int64],
    settings: MiningSettings,
) -> tuple[MinedNegatives, MiningReport]:
    """Draw hard negatives as the paper does: :func:`~mmretrieval.mining.miner.mine` without filters.

    Args:
        rankings: Search results and known positives.
        candidate_modalities: Modality code of each candidate.
        candidate_keys: Content key of each candidate; equal exactly when contents are.
        settings: How to mine.

    Returns:
        The negatives, and what there is to report about them.

    Shape:
        - candidate_modalities, candidate_keys: ``(N,)``.

    Raises:
        ValueError: If a row is not below N.
    """
    mined, report = mine(rankings, candidate_modalities, candidate_keys, settings.plan())
    return mined, report.totals()
