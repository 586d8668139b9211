"""Mining as a composition: rankings → hits → filters → guard of known positives → draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.chances import Chances
from mmretrieval.mining.data_sets import DataSets
from mmretrieval.mining.filters import apply_filters
from mmretrieval.mining.hits import Hits
from mmretrieval.mining.mined import MinedNegatives, NegativeKind
from mmretrieval.mining.plan import MiningPlan, Recipe
from mmretrieval.mining.rankings import Rankings
from mmretrieval.mining.report import FilteredMiningReport

_QUERY_BLOCK = 65_536


def mine(
    rankings: Rankings,
    candidate_modalities: NDArray[np.integer],
    candidate_keys: NDArray[np.int64],
    plan: MiningPlan,
    data_sets: DataSets | None = None,
    round_: int = 0,
) -> tuple[MinedNegatives, FilteredMiningReport]:
    """Draw hard negatives for each query from its best candidates.

    What has the row or the content of a known positive, or the content of an earlier draw for the query, is
    never drawn, whatever the plan. Each query's negatives depend on nothing but its own ranking, positives,
    key and data set, and on the round.

    Args:
        rankings: Search results and known positives.
        candidate_modalities: Modality code of each candidate.
        candidate_keys: Content key of each candidate; equal exactly when contents are, across data sets, too.
        plan: How to mine.
        data_sets: Where each query belongs; needed if the plan treats some data sets otherwise.
        round_: Number of the mining, from 0; each has draws of its own.

    Returns:
        The negatives, and what there is to report about them.

    Shape:
        - candidate_modalities, candidate_keys: ``(N,)``.

    Raises:
        ValueError: If a row is not below N, ``round_`` is negative, or ``data_sets`` and the plan's do not
            fit.
    """
    if round_ < 0:
        raise ValueError(f"round_ must be at least 0, found {round_}.")
    rankings.check_rows(candidate_keys.size)
    contents = np.unique(candidate_keys, return_inverse=True)[1].astype(np.int64)
    mined = MinedNegatives.empty(len(rankings), plan.negatives_per_query)
    report = FilteredMiningReport()
    for recipe, queries in plan.groups(data_sets, len(rankings)):
        for start in range(0, queries.size, _QUERY_BLOCK):  # bounds the memory of the (Q, K) intermediates
            block = queries[start : start + _QUERY_BLOCK]
            hits = Hits.of(rankings.take(block), candidate_modalities, contents, plan.top_k)
            drawn = _Drawn.of(hits, recipe, plan, round_)
            mined.put(block, drawn.negatives)
            report += drawn.report
    return mined, report


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The negatives of a block of queries, and the counts of how they came about."""

    negatives: MinedNegatives
    report: FilteredMiningReport

    @classmethod
    def of(cls, hits: Hits, recipe: Recipe, plan: MiningPlan, round_: int) -> _Drawn:
        allowed, dropped = apply_filters(recipe.filters, hits)
        kinds = recipe.selection.kinds(hits, allowed)
        negatives = MinedNegatives.empty(len(hits), plan.negatives_per_query)
        left = np.where(hits.known, 0, kinds).astype(np.uint8)
        skipped = _draw(negatives, hits, left, recipe, plan, round_)
        return cls(negatives, _report(hits, kinds, negatives, skipped, dropped))


def _draw(
    negatives: MinedNegatives,
    hits: Hits,
    left: NDArray[np.uint8],
    recipe: Recipe,
    plan: MiningPlan,
    round_: int,
) -> NDArray[np.int64]:
    """Fill ``negatives`` and empty ``left``; returns how many draws of each query took nothing by chance."""
    counts, skipped = (np.zeros(len(hits), dtype=np.int64) for _ in range(2))
    for draw in range(plan.negatives_per_query):
        columns_q = recipe.selection.pick(left, Chances.of(hits.query_keys, plan.seed, draw, round_))
        skipped += (columns_q < 0) & left.any(axis=1)
        got = np.flatnonzero(columns_q >= 0)
        columns, place = columns_q[got], (got, counts[got])
        negatives.rows[place] = hits.rows[got, columns]
        negatives.kinds[place] = left[got, columns]
        negatives.ranks[place] = hits.ranks[got, columns]
        negatives.scores[place] = hits.scores[got, columns]
        counts[got] += 1
        left[got] = np.where(hits.contents[got] == hits.contents[got, columns][:, None], 0, left[got])
    return skipped


def _report(
    hits: Hits,
    kinds: NDArray[np.uint8],
    negatives: MinedNegatives,
    skipped: NDArray[np.int64],
    dropped: dict[str, int],
) -> FilteredMiningReport:
    """Count what was drawn, and why nothing was; ``kinds`` still has the known positives."""
    counts = (negatives.kinds > 0).sum(axis=1)
    without, retrieved, any_kind = counts == 0, hits.there.any(axis=1), (kinds > 0).any(axis=1)
    of_kind = np.bincount(negatives.kinds.ravel(), minlength=len(NegativeKind))
    return FilteredMiningReport(
        queries=len(hits),
        wrong_modality=int(of_kind[NegativeKind.WRONG_MODALITY]),
        unsatisfactory=int(of_kind[NegativeKind.UNSATISFACTORY]),
        ranked=int(of_kind[NegativeKind.RANKED]),
        incomplete=int((~without & (counts + skipped < negatives.kinds.shape[1])).sum()),
        skipped=int(skipped.sum()),
        without_retrieved=int((~retrieved).sum()),
        without_kind=int((retrieved & ~any_kind).sum()),
        without_known=int((any_kind & without & (skipped == 0)).sum()),
        without_chance=int((without & (skipped > 0)).sum()),
        guarded=int((hits.known & (kinds > 0)).sum()),
        positives_missed=int((~hits.positive_found).sum()),
        positives_unscored=int(np.isnan(hits.positive_score).sum()),
        positive_rank_sum=int(hits.positive_rank.sum()),
        top_wrong_modality=int((hits.there & ~hits.right)[:, :1].sum()),
        dropped=dropped,
    )
