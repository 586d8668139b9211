"""Measures of each query of a task in one pool; pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmretrieval.metrics.functional import (
    average_precision_at_k,
    graded_ndcg_at_k,
    hit_rate_at_k,
    modality_accuracy_at_1,
    recall_at_k,
    reciprocal_rank,
)
from mmretrieval.metrics.ranked import Positives, Ranking, Rows

Floats = NDArray[np.float64]
MODALITY_ACCURACY = "modality_accuracy@1"
SUBSET_KS = (1, 2, 3)
"""Cut-off ranks of the hit rates within groups, as CIRR reports them."""


class QueryMeasures(NamedTuple):
    """The measures of one task's queries in one pool.

    Args:
        values: Name → value of each judged query.
        judged: Which queries have a positive in the pool; the others are left out, as in trec_eval.
    """

    values: dict[str, Floats]
    judged: NDArray[np.bool_]

    @property
    def left_out(self) -> int:
        """How many queries are not judged."""
        return int((~self.judged).sum())


def query_measures(
    ranking: Ranking,
    positives: Positives,
    pool: Rows,
    *,
    ks: Sequence[int] = (1, 5, 10),
    ndcg_k: int = 10,
    recall_ks: Sequence[int] = (),
    map_ks: Sequence[int] = (),
) -> QueryMeasures:
    """``hit@k``, ``recall@k``, ``ndcg@k``, ``mrr`` and ``map@k`` of each query in one pool.

    Only ranks matter, and, for nDCG, the grades of the positives. Positives that are not in the pool do not
    count, neither as relevant nor in divisors. The reciprocal rank is 0 where the list ends before the first
    positive. ``map@k`` divides by at most k, as CIRCO does.

    Args:
        ranking: What was retrieved from the pool.
        positives: The known positives of the same queries, in the same order.
        pool: Candidate rows of the pool.
        ks: Cut-off ranks of the hit rates, each at least 1.
        ndcg_k: Cut-off rank of nDCG, at least 1.
        recall_ks: Cut-off ranks of recall, each at least 1.
        map_ks: Cut-off ranks of mean average precision, each at least 1.

    Raises:
        ValueError: If a cut-off is not positive, or the pool does not hold what was retrieved from it.
    """
    totals = positives.count_in(pool)
    judged = totals > 0
    if not judged.any():
        return QueryMeasures({}, judged)
    relevant = torch.from_numpy(positives.relevant(ranking.rows)[judged])
    total = torch.from_numpy(totals[judged])
    values = {f"hit@{k}": hit_rate_at_k(relevant, k) for k in ks}
    values |= {f"recall@{k}": recall_at_k(relevant, total, k) for k in recall_ks}
    values[f"ndcg@{ndcg_k}"] = _ndcg(ranking, positives, pool, judged, ndcg_k)
    values["mrr"] = reciprocal_rank(relevant)
    values |= {f"map@{k}": average_precision_at_k(relevant, total, k, capped=True) for k in map_ks}
    return QueryMeasures({name: value.double().numpy() for name, value in values.items()}, judged)


def _ndcg(
    ranking: Ranking, positives: Positives, pool: Rows, judged: NDArray[np.bool_], k: int
) -> torch.Tensor:
    grades = torch.from_numpy(positives.grade(ranking.rows)[judged])
    return graded_ndcg_at_k(grades, torch.from_numpy(positives.ideal(pool, k)[judged]), k)


def modality_measures(
    ranking: Ranking,
    target_modality: NDArray[np.integer],
    candidate_modalities: NDArray[np.integer],
    ks: Sequence[int] = (),
) -> dict[str, Floats]:
    """Whether what was found has the modality that was asked for, for each query.

    ``modality_accuracy@1`` is 1 where the first one has it. ``wrong_modality@k`` is the share of the first k
    that have another one; of those that were found, where there are fewer.

    Args:
        ranking: What was retrieved, for at least one query.
        target_modality: Modality code that each query of the split asks for.
        candidate_modalities: Modality code of each candidate.
        ks: Cut-off ranks of the rate of wrong modalities, each at least 1.

    Returns:
        Name → value of each query, ``(Q,)``.
    """
    there = ranking.rows >= 0
    found = np.where(there, candidate_modalities[ranking.rows].astype(np.int64), -1)
    target = target_modality[ranking.queries].astype(np.int64)
    correct = modality_accuracy_at_1(torch.from_numpy(found[:, 0].copy()), torch.from_numpy(target))
    values = {MODALITY_ACCURACY: correct.double().numpy()}
    wrong = there & (found != target[:, None])
    for k in ks:
        values[f"wrong_modality@{k}"] = wrong[:, :k].sum(axis=1) / np.maximum(there[:, :k].sum(axis=1), 1)
    return values


def subset_measures(group: Ranking, positives: Positives) -> dict[str, Floats]:
    """``subset_hit@1``, ``@2`` and ``@3`` of each query: CIRR's Recall_subset (https://arxiv.org/abs/2108.04024).

    Args:
        group: The ranked groups of some queries.
        positives: Their known positives.

    Returns:
        Name → value of each query, ``(Q,)``.
    """
    relevant = torch.from_numpy(positives.relevant(group.rows))
    return {f"subset_hit@{k}": hit_rate_at_k(relevant, k).double().numpy() for k in SUBSET_KS}


def means(values: Mapping[str, Floats]) -> dict[str, float]:
    """The mean of each measure, exactly rounded, so that no order of adding up shows."""
    return {name: math.fsum(column.tolist()) / len(column) for name, column in values.items()}
