"""Run files are read as trec_eval reads them, and measured as it measures."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from mmretrieval.errors import UserError
from mmretrieval.metrics import trec
from mmretrieval.metrics.per_query import Measure
from mmretrieval.metrics.trec import read_qrels, read_run

MEASURES = {
    "hit@1": "success_1",
    "hit@5": "success_5",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "ndcg@10": "ndcg_cut_10",
    "map@5": "map_cut_5",
    "mrr": "recip_rank",
}
IDS = st.text("019:abZä", min_size=1, max_size=4)
SCORES = st.sampled_from([1.0, 0.5, -0.25, 0.0, 1.0 + 1e-9, 0.1, 3e38, 1e-30])


def expected(wanted, ours, judged):
    """trec_eval's value; its map_cut divides by all that is relevant, ours by 5 at most."""
    relevant = sum(relevance > 0 for relevance in judged.values())
    return wanted[MEASURES[ours]] * (relevant / min(relevant, 5) if ours == "map@5" else 1)


def write_run(path, rows, name="r"):
    path.write_text("".join(f"{q} Q0 {d} {rank} {score!r} {name}\n" for q, d, rank, score in rows), "utf-8")
    return path


@given(
    st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=15), min_size=1, max_size=5),
    st.dictionaries(
        IDS, st.dictionaries(IDS, st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=5
    ),
)
def test_measures_of_arbitrary_files_are_trec_evals(tmp_path_factory, run, qrels):
    folder = tmp_path_factory.mktemp("run")
    rows = [(q, d, 1, s) for q, found in run.items() for d, s in found.items()]
    lines = [f"{q} 0 {d} {r} 3\n" for q, judged in qrels.items() for d, r in judged.items()]
    (folder / "q.qrels").write_text("".join(lines), "utf-8")
    judged = read_qrels(folder / "q.qrels")
    assert judged == qrels
    theirs = pytrec_eval.RelevanceEvaluator(qrels, {"success", "recall", "ndcg_cut", "map_cut", "recip_rank"})
    wanted = theirs.evaluate(run)
    for ranked in read_run(write_run(folder / "r.trec", rows)):
        known = judged.get(ranked.query, {})
        if any(known.values()):
            for ours in MEASURES:
                found = Measure.named(ours).of(ranked.candidates, known)
                value = expected(wanted[ranked.query], ours, known)
                assert found == pytest.approx(value, abs=1e-6), (ours, ranked)


@pytest.mark.parametrize("seed", range(3))
def test_measures_of_random_runs_with_ties_are_trec_evals(tmp_path, seed):
    r = np.random.default_rng(seed)
    run, qrels = {}, {}
    for q in range(300):
        found = r.choice(200, r.integers(1, 60), replace=False)
        run[f"3:{q}"] = {
            f"3:{d}": float(s) for d, s in zip(found, r.integers(0, 8, found.size) / 8, strict=True)
        }
        qrels[f"3:{q}"] = {
            f"3:{d}": int(r.integers(1, 3)) for d in r.choice(200, r.integers(1, 40), replace=False)
        }
    rows = [(q, d, 1, s) for q, found in run.items() for d, s in found.items()]
    evaluator = pytrec_eval.RelevanceEvaluator(
        qrels, {"success", "recall", "ndcg_cut", "map_cut", "recip_rank"}
    )
    wanted = evaluator.evaluate(run)
    lists = list(read_run(write_run(tmp_path / "r.trec", rows)))
    assert len(lists) == len(wanted) == 300
    for ranked in lists:
        for ours in MEASURES:
            value = Measure.named(ours).of(ranked.candidates, qrels[ranked.query])
            theirs = expected(wanted[ranked.query], ours, qrels[ranked.query])
            assert value == pytest.approx(theirs, abs=1e-6)


def test_equal_scores_are_ranked_by_id_or_by_rank(tmp_path):
    rows = [("q", "a", 1, 0.5), ("q", "c", 2, 0.5), ("q", "b", 3, 0.5), ("q", "z", 4, 0.25)]
    path = write_run(tmp_path / "r.trec", rows)
    assert next(read_run(path)).candidates == ["c", "b", "a", "z"]
    assert next(read_run(path, "rank")).candidates == ["a", "c", "b", "z"]


def test_scores_are_compared_in_single_precision(tmp_path):
    path = write_run(tmp_path / "r.trec", [("q", "a", 1, 1 + 1e-9), ("q", "b", 2, 1.0)])
    assert next(read_run(path)).candidates == ["b", "a"]


def test_a_run_with_m_beirs_task_column_is_read(tmp_path):
    (tmp_path / "r.trec").write_text("3:1 Q0 3:7 1 0.5 x 6\n\n3:2 Q0 3:8 1 0.5 x 6\n")
    assert [ranked.query for ranked in read_run(tmp_path / "r.trec")] == ["3:1", "3:2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 0.5\n", r":1: has 5 columns"),
        ("q Q0 d 1 0.5 x\nq Q0 e 2 high x\n", r":2: score is 'high'"),
        ("q Q0 d 1 nan x\n", r":1: score is 'nan'"),
        ("q Q0 d first 1 x\n", r":1: rank is 'first'"),
        ("q Q0 d 1 1 x\nq Q0 d 2 1 x\n", r":2: 'd' was listed before"),
        ("q Q0 d 1 1 x\np Q0 d 1 1 x\nq Q0 e 2 1 x\n", r":3: query 'q' occurs again"),
        ("", "holds no ranked list"),
        ("q Q0 " + "d" * 5000 + " 1 1 x\n", r":1: has more than"),
        ("q Q0 d\udcff 1 1 x\n", r":1: not UTF-8"),
    ],
)
def test_a_bad_run_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "r.trec").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        list(read_run(tmp_path / "r.trec"))


def test_too_deep_lists_and_equal_ranks_are_refused(tmp_path, monkeypatch):
    path = write_run(tmp_path / "r.trec", [("q", f"d{n}", n // 2, 1.0) for n in range(6)])
    with pytest.raises(UserError, match=r":2: rank 0 was taken before"):
        list(read_run(path, "rank"))
    monkeypatch.setattr(trec, "MAX_DEPTH", 5)
    with pytest.raises(UserError, match=r":6: .* more than 5 candidates"):
        list(read_run(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q 0 d\n", r":1: has 3 columns"),
        ("q 0 d yes\n", r":1: relevance is 'yes'"),
        ("q 0 d 1\nq 0 d 0\n", r":2: .* judged otherwise"),
        ("\n", "holds no judgement"),
    ],
)
def test_bad_qrels_are_named_with_their_line(tmp_path, text, message):
    (tmp_path / "q").write_text(text)
    with pytest.raises(UserError, match=message):
        read_qrels(tmp_path / "q")


def test_a_missing_file_is_one_message(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_qrels(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["hit", "hit@0", "mrr@x", "p@5", "HIT@5", "ndcg@"])
def test_an_unknown_measure_is_refused(name):
    with pytest.raises(UserError, match="write hit@k"):
        Measure.named(name)


@pytest.mark.parametrize("name", ["hit@5", "mrr", "mrr@10", "ndcg@10"])
def test_measures_print_as_they_are_written(name):
    assert str(Measure.named(name)) == name
