"""Histograms of ranks and scores equal counts in plain Python."""

import math
import warnings

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from mmretrieval.mining import MinedNegatives, MiningHistograms, MiningPlan, TopK, mine


@pytest.mark.parametrize("seed", range(6))
def test_histograms_count_ranks_and_scores_of_both_sides(seed, scored_rankings):
    rankings, modalities, keys = scored_rankings(seed, queries=50)
    mined, _ = mine(rankings, modalities, keys, MiningPlan(10, 2, seed, TopK(sample=True)))
    found = MiningHistograms.of(mined, rankings, top_k=10, bins=5)
    ranks = [rank for of_query in mined.ranks.tolist() for rank in of_query if rank]
    assert found.ranks.counts.tolist() == [ranks.count(rank) for rank in range(1, 11)]
    negatives = [s for of_query in mined.scores.tolist() for s in of_query if math.isfinite(s)]
    positives = [s for s in rankings.scores_of_positives().tolist() if not math.isnan(s)]
    lowest, highest = min(negatives + positives), max(negatives + positives)
    for histogram, scores in ((found.negative_scores, negatives), (found.positive_scores, positives)):
        bins = [min(int((s - lowest) / (highest - lowest) * 5 + 1e-9), 4) for s in scores]
        assert histogram.counts.tolist() == [bins.count(b) for b in range(5)]
        assert (histogram.smallest, histogram.largest) == (min(scores), max(scores))
        assert histogram.sum == pytest.approx(sum(scores))
        assert histogram.sum_squares == pytest.approx(sum(s * s for s in scores))


def test_nothing_mined_is_a_histogram_of_nothing(scored_rankings):
    rankings = scored_rankings(0)[0].take(np.zeros(0, dtype=np.int64))
    found = MiningHistograms.of(MinedNegatives.empty(0, 2), rankings, top_k=10)
    for histogram in (found.ranks, found.negative_scores, found.positive_scores):
        assert histogram.counts.sum() == 0
        assert math.isnan(histogram.smallest)


def test_tensorboard_takes_them(tmp_path, scored_rankings):
    rankings, modalities, keys = scored_rankings(1, queries=50)
    mined, _ = mine(rankings, modalities, keys, MiningPlan(10, selection=TopK()))
    found = MiningHistograms.of(mined, rankings, top_k=10)
    with warnings.catch_warnings(), SummaryWriter(tmp_path) as writer:
        writer.add_histogram_raw("mining/ranks", global_step=1, **found.ranks.tensorboard())
    assert any(tmp_path.iterdir())
