"""Measures of thousands of random runs are trec_eval's and an independent NumPy's."""

import numpy as np
import pytest
import pytrec_eval

from callbacks.run_files import strictly_falling
from mmretrieval.metrics.measures import means, modality_measures, query_measures
from mmretrieval.metrics.protocol import CutOffs, Protocol, data_set_of
from mmretrieval.metrics.ranked import Positives, Ranking

KS, MAP_KS = (1, 5, 10), (5, 10)
TREC = {
    **{f"hit@{k}": f"success_{k}" for k in KS},
    **{f"recall@{k}": f"recall_{k}" for k in KS},
    "ndcg@10": "ndcg_cut_10",
    "mrr": "recip_rank",
}


def _run(rng):
    """Scores with many ties, several positives, some outside the pool, and queries that found nothing."""
    candidates, depth = int(rng.integers(3, 40)), int(rng.integers(1, 25))
    pool = np.sort(rng.choice(candidates, int(rng.integers(1, candidates + 1)), replace=False))
    lists, scores = [], []
    for _ in range(8):
        raw = rng.integers(0, 4, len(pool)).astype(np.float32) / 4
        order = np.lexsort((pool, -raw))[:depth]  # ties by row, as the index ranks them
        count = 0 if rng.random() < 0.1 else len(order)
        gap = depth - count
        lists.append(np.concatenate([pool[order][:count], np.full(gap, -1)]))
        scores.append(np.concatenate([raw[order][:count], np.full(gap, -np.inf)]))
    positives = [
        rng.choice(candidates, int(rng.integers(1, min(6, candidates) + 1)), replace=False) for _ in range(8)
    ]
    top = int(rng.integers(1, 4))  # in a third of the runs, all positives are equally relevant
    grades = [rng.integers(1, top + 1, len(known)) for known in positives]
    return Ranking(np.arange(8), np.array(lists), np.array(scores, np.float32)), positives, grades, pool


def _numpy(ranking, positives, grades, pool):
    """The definitions, query by query, without anything of ours."""
    found = {}
    for q, known in enumerate(positives):
        inside = set(known.tolist()) & set(pool.tolist())
        if not inside:
            continue
        ranked = [row for row in ranking.rows[q].tolist() if row >= 0]
        places = [place for place, row in enumerate(ranked, 1) if row in inside]
        values = {f"hit@{k}": float(any(p <= k for p in places)) for k in KS}
        values |= {f"recall@{k}": sum(p <= k for p in places) / len(inside) for k in KS}
        grade_of = {row: grade for row, grade in zip(known.tolist(), grades[q], strict=True) if row in inside}
        best = sorted(grade_of.values(), reverse=True)[:10]
        ideal = sum(grade / np.log2(p + 1) for p, grade in enumerate(best, 1))
        values["ndcg@10"] = sum(grade_of[ranked[p - 1]] / np.log2(p + 1) for p in places if p <= 10) / ideal
        values["mrr"] = 1 / places[0] if places else 0.0
        for k in MAP_KS:  # CIRCO divides by min(k, number of positives)
            hits = [p for p in places if p <= k]
            values[f"map@{k}"] = sum(n / p for n, p in enumerate(hits, 1)) / min(k, len(inside))
        found[q] = values
    return found


def _trec_eval(ranking, positives, grades, pool):
    falling = strictly_falling(ranking.scores)
    # Ids that trec_eval would put in the opposite order where scores are equal.
    run = {
        str(q): {f"{row:03}": float(score) for row, score in zip(rows, scores, strict=True) if row >= 0}
        for q, (rows, scores) in enumerate(zip(ranking.rows, falling, strict=True))
    }
    qrels = {
        str(q): {f"{row:03}": int(g) for row, g in zip(known.tolist(), own, strict=True) if row in pool}
        for q, (known, own) in enumerate(zip(positives, grades, strict=True))
    }
    qrels = {q: known for q, known in qrels.items() if known}
    measures = {"success", "recall_1,5,10", "ndcg_cut_10", "recip_rank"}
    return pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run) if qrels else {}


def test_measures_of_a_thousand_random_runs_equal_trec_evals_and_numpys():
    rng, judged, tied, missing = np.random.default_rng(0), 0, 0, 0
    for _ in range(1000):
        ranking, positives, grades, pool = _run(rng)
        known = Positives.of(positives, grades)
        values, mask = query_measures(ranking, known, pool, ks=KS, recall_ks=KS, map_ks=MAP_KS)
        expected, trec = (of(ranking, positives, grades, pool) for of in (_numpy, _trec_eval))
        assert np.flatnonzero(mask).tolist() == list(expected)
        for place, (q, theirs) in enumerate(expected.items()):
            ours = {name: column[place] for name, column in values.items()}
            assert ours == pytest.approx(theirs, abs=1e-6)
            if (ranking.rows[q] >= 0).any():
                named = {name: trec[str(q)][key] for name, key in TREC.items()}
                assert {name: ours[name] for name in TREC} == pytest.approx(named, abs=1e-6)
            else:  # releases of pytrec_eval differ here; trec_eval -c counts such queries as 0
                missing += 1
                assert set(ours.values()) == {0.0}
        judged += len(expected)
        same = ranking.scores[:, 1:] == ranking.scores[:, :-1]
        tied += int((same & np.isfinite(ranking.scores[:, 1:])).any())
    assert judged > 5000
    assert tied > 500
    assert missing > 100


def test_written_scores_fall_strictly_and_hardly_move():
    scores = np.array([[0.5, 0.5, 0.5, 0.25, 0.25, -np.inf], [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]], np.float32)
    falling = strictly_falling(scores)
    assert (np.diff(falling[0, :5]) < 0).all()
    assert falling[0, :5] == pytest.approx(scores[0, :5], abs=2e-7)
    assert np.array_equal(falling[1], scores[1])


def test_hit_rates_over_foreign_positives_equal_an_oracle_by_mbeirs_rules():
    """Positives of another data set are in the qrels, and in the global pool but not in the local one."""
    own, foreign = np.arange(0, 20), np.arange(20, 30)
    positives = [np.array([3, 21]), np.array([22]), np.array([5, 6]), np.array([29, 19])]
    rows = np.array([[1, 3, 2], [4, 5, 6], [6, 5, 0], [0, 1, 2]])
    qrels = {q: set(known.tolist()) for q, known in enumerate(positives)}
    for k in (1, 2, 3):
        oracle = [float(bool(qrels[q] & set(rows[q, :k].tolist()))) for q in range(4)]
        ranking = Ranking(np.arange(4), rows, np.zeros((4, 3), np.float32))
        values, judged = query_measures(ranking, Positives.of(positives), own, ks=(k,))
        assert judged.tolist() == [True, False, True, True]
        # trec_eval's mean is over judged queries, M-BEIR's over all: UniIR's table scales by their share.
        assert means(values)[f"hit@{k}"] * 3 / 4 == np.mean(oracle)
        union, everyone = query_measures(
            ranking, Positives.of(positives), np.concatenate([own, foreign]), ks=(k,)
        )
        assert everyone.all()
        assert union[f"hit@{k}"].tolist() == oracle


def test_the_rate_of_wrong_modalities_is_the_share_among_what_was_found():
    ranking = Ranking(np.array([1, 0]), np.array([[0, 1, 2], [3, -1, -1]]), np.zeros((2, 3), np.float32))
    values = modality_measures(ranking, np.array([2, 0]), np.array([0, 1, 0, 2]), (1, 3))
    assert values["modality_accuracy@1"].tolist() == [1.0, 1.0]
    assert values["wrong_modality@1"].tolist() == [0.0, 0.0]
    assert values["wrong_modality@3"] == pytest.approx([1 / 3, 0.0])


def test_a_mean_does_not_depend_on_the_order_of_adding_up():
    values = np.random.default_rng(0).random(10_001) * np.logspace(-12, 3, 10_001)
    assert means({"a": values}) == means({"a": values[::-1]})


def test_the_protocol_has_mbeirs_exceptions_and_takes_others():
    protocol = Protocol()
    assert protocol.of("FashionIQ_task7") == protocol.of("fashion200k_task3") == CutOffs((10, 20, 50), 10)
    assert protocol.of("cirr_task7") == CutOffs((1, 5, 10), 5)
    assert protocol.depth == 50
    assert Protocol(data_sets={"cirr": CutOffs((2,), 2)}).of("cirr_task7").headline == 2
    assert data_set_of("my_task3_task10") == "my_task3"
    with pytest.raises(ValueError, match="headline one of them"):
        CutOffs((1, 5), 10)
    with pytest.raises(ValueError, match="ndcg_k and map_ks"):
        Protocol(map_ks=(0,))
