"""Metrics of ranked lists agree with trec_eval and with plain NumPy."""

import numpy as np
import pytest
import pytrec_eval
import torch

from mmretrieval.metrics.functional import (
    average_precision_at_k,
    hit_rate_at_k,
    modality_accuracy_at_1,
    ndcg_at_k,
    recall_at_k,
    reciprocal_rank,
)

QUERIES, POOL, DEPTH = 300, 40, 20


@pytest.fixture(scope="module")
def runs():
    """Random qrels with one to six positives, and scores on a coarse grid, so that ties are common."""
    rng = np.random.default_rng(0)
    positives = [set(rng.choice(POOL, rng.integers(1, 7), replace=False).tolist()) for _ in range(QUERIES)]
    scores = rng.integers(0, 15, (QUERIES, POOL)) / 4
    # trec_eval breaks ties by descending document id.
    ranked = [sorted(range(POOL), key=lambda d, q=q: (-scores[q, d], -d))[:DEPTH] for q in range(QUERIES)]
    relevant = torch.tensor([[d in positives[q] for d in ranked[q]] for q in range(QUERIES)])
    total = torch.tensor([len(p) for p in positives])
    qrel = {f"q{q}": {f"d{d:03}": 1 for d in positives[q]} for q in range(QUERIES)}
    run = {f"q{q}": {f"d{d:03}": float(scores[q, d]) for d in ranked[q]} for q in range(QUERIES)}
    return relevant, total, qrel, run


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_measures_equal_trec_eval(runs, k):
    relevant, total, qrel, run = runs
    ours = {
        f"success_{k}": hit_rate_at_k(relevant, k),
        f"recall_{k}": recall_at_k(relevant, total, k),
        f"ndcg_cut_{k}": ndcg_at_k(relevant, total, k),
        f"map_cut_{k}": average_precision_at_k(relevant, total, k),
        "recip_rank": reciprocal_rank(relevant),
    }
    names = {f"{n}.{k}" for n in ("success", "recall", "ndcg_cut", "map_cut")} | {"recip_rank"}
    reference = pytrec_eval.RelevanceEvaluator(qrel, names).evaluate(run)
    for name, values in ours.items():
        expected = [reference[f"q{q}"][name] for q in range(QUERIES)]
        assert 0 < np.mean(expected) < 1
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-6, err_msg=name)


def test_capped_average_precision_is_that_of_circo(runs):
    relevant, total, _, _ = runs
    expected = []
    for flags, count in zip(relevant.numpy(), total.numpy(), strict=True):
        hits = np.flatnonzero(flags[:3])
        precisions = [(np.searchsorted(hits, h) + 1) / (h + 1) for h in hits]
        expected.append(sum(precisions) / min(3, count))
    found = average_precision_at_k(relevant, total, 3, capped=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_reciprocal_rank_ignores_what_is_below_the_cut_off():
    relevant = torch.tensor([[False, False, True], [False, True, True]])
    assert reciprocal_rank(relevant, 2).tolist() == [0.0, 0.5]


def test_a_list_shorter_than_the_cut_off_counts_as_padded():
    relevant, total = torch.tensor([[False, True]]), torch.tensor([2])
    padded = torch.tensor([[False, True, False, False, False]])
    for measure in (recall_at_k, ndcg_at_k, average_precision_at_k):
        assert torch.equal(measure(relevant, total, 5), measure(padded, total, 5))
    assert hit_rate_at_k(relevant, 5).item() == 1


def test_modality_accuracy_counts_an_empty_list_as_wrong():
    assert modality_accuracy_at_1(torch.tensor([1, 2, -1]), torch.tensor([1, 0, 0])).tolist() == [1, 0, 0]


def test_nothing_to_rank_is_no_hit():
    empty = torch.zeros(2, 0, dtype=torch.bool)
    assert reciprocal_rank(empty).tolist() == hit_rate_at_k(empty, 5).tolist() == [0, 0]
    assert ndcg_at_k(empty, torch.tensor([1, 1]), 5).tolist() == [0, 0]


def test_a_query_without_relevant_items_is_refused_with_its_position():
    with pytest.raises(ValueError, match=r"1 queries have no relevant item .* position 1"):
        ndcg_at_k(torch.tensor([[True], [False]]), torch.tensor([1, 0]), 1)


def test_more_relevant_items_in_the_list_than_exist_are_refused():
    with pytest.raises(ValueError, match=r"position 0 .* shows more"):
        recall_at_k(torch.tensor([[True, True]]), torch.tensor([1]), 1)


@pytest.mark.parametrize(
    ("relevant", "total", "k", "message"),
    [
        (torch.ones(2, 3), torch.ones(2), 1, "boolean"),
        (torch.ones(2, dtype=torch.bool), torch.ones(2), 1, "boolean"),
        (torch.ones(2, 3, dtype=torch.bool), torch.ones(3), 1, "one number for each of 2"),
        (torch.ones(2, 3, dtype=torch.bool), torch.full((2,), 3), 0, "at least 1, found 0"),
    ],
)
def test_malformed_input_is_refused(relevant, total, k, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(relevant, total, k)
