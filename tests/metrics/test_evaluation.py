"""Measures per task are trec_eval's, with one and with several positives, on ranks alone."""

import numpy as np
import pytest
import pytrec_eval

from mmretrieval.metrics.evaluation import with_average
from mmretrieval.metrics.measures import MODALITY_ACCURACY, means, modality_measures, query_measures
from mmretrieval.metrics.ranked import Positives, Ranking

MEASURES = {
    "hit@1": "success_1",
    "hit@5": "success_5",
    "hit@10": "success_10",
    "ndcg@10": "ndcg_cut_10",
    "mrr": "recip_rank",
}


def task_metrics(*arguments):
    measured = query_measures(*arguments)
    return means(measured.values), measured.left_out


def modality_accuracy(*arguments):
    return means(modality_measures(*arguments))[MODALITY_ACCURACY]


def _random(seed, most_positives, queries=40, candidates=60, depth=25, found_less=False):
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(candidates)[:depth] for _ in range(queries)])
    if found_less:
        rows[np.arange(depth) >= rng.integers(0, depth + 1, (queries, 1))] = -1
    # Scores that fall with the rank, different for every query, so that trec_eval sees no ties.
    scores = np.sort(rng.random((queries, depth)).astype(np.float32), axis=1)[:, ::-1]
    positives = [
        rng.choice(candidates, size=rng.integers(1, most_positives + 1), replace=False)
        for _ in range(queries)
    ]
    return Ranking(np.arange(queries), rows, scores), positives, np.arange(candidates)


def _trec_eval(ranking, positives, pool):
    run = {
        str(q): {str(d): float(s) for d, s in zip(rows, scores, strict=True) if d >= 0}
        for q, rows, scores in zip(ranking.queries, ranking.rows, ranking.scores, strict=True)
    }
    qrels = {str(q): {str(d): 1 for d in rows if d in pool} for q, rows in enumerate(positives)}
    judged = {q: relevant for q, relevant in qrels.items() if relevant}
    values = pytrec_eval.RelevanceEvaluator(judged, {"success", "ndcg_cut", "recip_rank"}).evaluate(run)
    # pytrec_eval leaves out queries for which nothing was retrieved; they count as 0.
    return {
        name: sum(values.get(q, {}).get(theirs, 0.0) for q in judged) / len(judged)
        for name, theirs in MEASURES.items()
    }


@pytest.mark.parametrize("most_positives", [1, 7, 30])
@pytest.mark.parametrize("found_less", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_measures_equal_trec_eval_on_random_runs(seed, most_positives, found_less):
    ranking, positives, pool = _random(seed, most_positives, found_less=found_less)
    values, left_out = task_metrics(ranking, Positives.of(positives), pool)
    assert values == pytest.approx(_trec_eval(ranking, positives, pool), abs=1e-6)
    assert 0 < values["hit@10"] <= 1
    assert left_out == 0


def test_positives_outside_the_pool_count_neither_as_found_nor_in_the_ideal_list():
    ranking, positives, _ = _random(9, 8)
    pool = np.arange(0, 60, 2)
    inside = Ranking(ranking.queries, np.where(ranking.rows % 2 == 0, ranking.rows, -1), ranking.scores)
    values, left_out = task_metrics(inside, Positives.of(positives), pool)
    without = sum(not any(row % 2 == 0 for row in rows) for rows in positives)
    # The gaps that -1 leaves are ranks without a relevant item; trec_eval closes them, so only check nDCG's
    # and the hit rates' bounds there, and the counts exactly.
    assert left_out == without > 0
    closed = np.stack([np.concatenate([r[r >= 0], r[r < 0]]) for r in inside.rows])
    compact = Ranking(ranking.queries, closed, ranking.scores)
    exact, _ = task_metrics(compact, Positives.of(positives), pool)
    assert exact == pytest.approx(_trec_eval(compact, positives, set(pool.tolist())), abs=1e-6)
    assert values["ndcg@10"] <= exact["ndcg@10"]


def test_only_ranks_matter():
    ranking, positives, pool = _random(3, 3)
    negative = Ranking(ranking.queries, ranking.rows, ranking.scores - 5)
    known = Positives.of(positives)
    assert task_metrics(ranking, known, pool) == task_metrics(negative, known, pool)


def test_a_task_without_any_judged_query_has_no_values():
    ranking, positives, _ = _random(0, 2)
    assert task_metrics(ranking, Positives.of(positives), np.array([99])) == ({}, 40)


def test_a_part_of_the_positives_is_that_of_its_queries():
    _, positives, pool = _random(4, 5)
    part = Positives.of(positives).part(np.array([7, 2]))
    assert [part.rows[a:b].tolist() for a, b in zip(part.offsets, part.offsets[1:], strict=False)] == [
        sorted(positives[7]),
        sorted(positives[2]),
    ]
    assert part.count_in(pool).tolist() == [len(positives[7]), len(positives[2])]


def test_a_positive_that_is_listed_twice_counts_once():
    once, twice = Positives.of([np.array([4, 9])]), Positives.of([np.array([9, 4, 9])])
    assert twice.rows.tolist() == once.rows.tolist()
    assert twice.count_in(np.arange(10)).tolist() == [2]


def test_missing_ranks_are_never_relevant():
    known = Positives.of([np.array([0]), np.array([1, 5]), np.array([5])])
    relevant = known.relevant(np.array([[-1, 0], [5, -1], [-1, -1]]))
    assert relevant.tolist() == [[False, True], [True, False], [False, False]]


def test_modality_accuracy_is_the_share_of_first_hits_of_the_asked_modality():
    ranking = Ranking(np.array([3, 0, 1]), np.array([[2, 0], [0, 1], [-1, -1]]), np.zeros((3, 2), np.float32))
    targets = np.array([0, 2, 2, 1], dtype=np.uint8)
    modalities = np.array([1, 0, 1], dtype=np.uint8)  # of the first hits: query 3 → 1, query 0 → 1
    assert modality_accuracy(ranking, targets, modalities) == pytest.approx(1 / 3)


def test_the_average_gives_each_task_the_same_weight():
    table = with_average({"a": {"hit@5": 0.2, "mrr": 0.1}, "b": {"hit@5": 0.6}})
    assert table["average"] == pytest.approx({"hit@5": 0.4, "mrr": 0.1})
    assert list(table) == ["a", "b", "average"]
