"""Exact search returns the labels that brute force in float64 returns, whatever the path, tiles and data."""

import os
from dataclasses import dataclass
from unittest.mock import patch

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.index import ExactIndex, FaissIndex
from mmretrieval.index.products import fastest
from mmretrieval.index.shortlist import shortlist

EXAMPLES = int(os.environ.get("MMRETRIEVAL_EXAMPLES", "400"))
KINDS = (
    "random",
    "duplicates",
    "grid",
    "collapsed",
    "nearly collapsed",
    "sorted",
    "close",
    "misleading",
    "norms",
    "far from zero",
)
FACTORS = ["float32", *({fastest("float32", torch.device("cpu"))} - {"float32"})]
"""What this processor can multiply fast."""


def multiplying(precision):
    return patch("mmretrieval.index.exact.fastest", lambda asked_for, device: precision)


@dataclass
class Case:
    pool: np.ndarray
    queries: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    k: int


def brute_force(case, groups=None):
    """Products and sums in float64 over the pool of these groups, sorted by (-score, label), padded."""
    chosen = np.ones(len(case.pool), bool) if groups is None else np.isin(case.groups, list(groups))
    pool, labels = case.pool[chosen].astype(np.float64), case.labels[chosen]
    scores = np.stack([(pool * query).sum(axis=1) for query in case.queries.astype(np.float64)])
    order = np.lexsort((np.broadcast_to(labels, scores.shape), -scores), axis=1)[:, : case.k]
    missing = ((0, 0), (0, case.k - order.shape[1]))
    with np.errstate(over="ignore"):
        best = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    return (
        np.pad(best, missing, constant_values=-np.inf),
        np.pad(labels[order], missing, constant_values=-1),
    )


def vectors(rng, kind, count, dim):
    if kind == "grid":  # sums of small integers are exact in any order
        return rng.integers(-2, 3, (count, dim)).astype(np.float64)
    drawn = rng.normal(size=(count, dim))
    if kind == "duplicates":
        return drawn[rng.integers(0, max(1, count // 3), count)]
    if kind == "collapsed":
        return np.repeat(drawn[:1], count, axis=0)
    if kind == "nearly collapsed":
        return drawn[:1] + 1e-7 * drawn
    if kind == "close":  # for bfloat16 they are the same but for a few digits
        return drawn[:1] + 2.0**-9 * drawn
    if kind == "misleading":  # rounding to bfloat16 takes from the best and adds to the others
        others = np.where(np.arange(dim) % 2, 2.0**-8 + 2.0**-12, 2.0**-9)
        above = np.where(rng.random((count, 1)) < 0.1, 2.0**-8 - 2.0**-12, others)
        return 1 + above + 2.0**-20 * rng.integers(-3, 4, (count, 1))
    if kind == "norms":
        return drawn * 2.0 ** rng.integers(-30, 5, (count, 1))
    if kind == "far from zero":
        return 10 ** rng.uniform(-1, 2) * rng.normal(size=(1, dim)) + drawn
    if kind == "sorted":  # the best of a query are neighbours
        return drawn[np.argsort(drawn[:, 0])]
    return drawn


def make_case(seed, kind, count, dim, queries, k, dtype, exponent=0):
    rng = np.random.default_rng(seed)
    scale = 2.0**exponent if dtype != np.float16 else 1.0
    pool = (vectors(rng, kind, count, dim) * scale).astype(dtype)
    asked = (vectors(rng, kind if kind in ("grid", "misleading") else "random", queries, dim) / scale).astype(
        np.float32
    )
    # 0 and 1 are used, 2 only sometimes.
    groups = np.sort(rng.integers(0, rng.integers(2, 4), count))
    return Case(pool, asked, rng.permutation(3 * count)[:count], groups, k)


def fill(index, case):
    """Each group in two parts."""
    for group in np.unique(case.groups):
        for rows in np.array_split(np.flatnonzero(case.groups == group), 2):
            index.add(case.pool[rows], labels=case.labels[rows], group=int(group))
    return index


def assert_exact(index, case, groups=None):
    scores, labels = index.search(case.queries, case.k, groups=groups)
    expected_scores, expected_labels = brute_force(case, groups)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6, atol=1e-30)


cases = st.builds(
    make_case,
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    count=st.integers(1, 150),
    dim=st.sampled_from([8, 9, 31, 64, 100, 257, 1024]),
    queries=st.integers(1, 6),
    k=st.sampled_from([1, 2, 5, 17, 60, 200]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    exponent=st.sampled_from([-100, -50, -20, 0, 20, 50, 100]),
)


@settings(max_examples=EXAMPLES)
@given(
    case=cases,
    precision=st.sampled_from(FACTORS),
    pool_block=st.sampled_from([1, 7, 33, 64, 1000]),
    query_block=st.sampled_from([1, 2, 4, 64]),
    groups=st.sampled_from([None, [0], [1], [0, 2], [2], [7], []]),
)
def test_labels_are_those_of_brute_force(case, precision, pool_block, query_block, groups):
    with multiplying(precision):
        assert_exact(fill(ExactIndex("cpu", pool_block, query_block), case), case, groups)


@pytest.mark.parametrize("precision", FACTORS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 10, 300])
def test_groups_of_rows_hide_nothing(kind, precision, k):
    # Large enough for maxima of 32 rows, and tiles that do not divide the pool.
    case = make_case(0, kind, 3_000, 16, 12, k, np.float32)
    with multiplying(precision):
        assert_exact(fill(ExactIndex("cpu", 1_499, 7), case), case)
        assert_exact(fill(ExactIndex("cpu", 1_499, 7), case), case, [1])


@pytest.mark.parametrize("more", [None, 0, 1, 16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lists_and_tables_of_scores_find_the_same(monkeypatch, kind, more, dtype):
    if more is None:  # tables only
        monkeypatch.setattr("mmretrieval.index.scored_tile.is_worthwhile", lambda rows, k: False)
    else:
        monkeypatch.setattr("mmretrieval.index.shortlist._MORE", more)
    for exponent in (0, 70):
        case = make_case(2, kind, 900, 31, 20, 5, dtype, exponent)
        with multiplying("float32"):
            assert_exact(fill(ExactIndex(pool_block=400), case), case)


@pytest.mark.skipif("bfloat16" not in FACTORS, reason="needs a processor that multiplies bfloat16")
@pytest.mark.parametrize("rows_per_candidate", [-1, 100, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_queries_that_bfloat16_leaves_undecided_find_the_same(monkeypatch, kind, rows_per_candidate, dtype):
    monkeypatch.setattr("mmretrieval.index.scored_tile._ROWS_PER_CANDIDATE", rows_per_candidate)
    for exponent in (0, -70):
        case = make_case(3, kind, 900, 31, 20, 5, dtype, exponent)
        assert_exact(fill(ExactIndex(pool_block=400), case), case)


def test_a_list_says_for_which_queries_it_is_too_short():
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(400, 8)).astype(np.float32)
    pool[:100] = 3 * pool[0]  # more equal scores than are listed
    queries = np.stack([pool[0], -pool[0], *rng.normal(size=(6, 8))]).astype(np.float32)
    known, slack = torch.full((8, 3), -torch.inf, dtype=torch.float64), torch.full((8,), 1e-5).double()
    found = shortlist(torch.from_numpy(pool), torch.from_numpy(queries), known, slack)
    scores = queries.astype(np.float64) @ pool.T.astype(np.float64)
    best = np.sort(scores, axis=1)[:, -3]
    can_be = scores >= best[:, None]
    assert 0 in found.undecided.tolist()
    assert 1 not in found.undecided.tolist()
    (candidates,) = found.candidates
    listed = set(zip(*(array.tolist() for array in reversed(candidates)), strict=True))
    for query in set(range(8)) - set(found.undecided.tolist()):
        assert {(query, row) for row in np.flatnonzero(can_be[query]).tolist()} <= listed
    assert not {query for query, _ in listed} & set(found.undecided.tolist())


def test_candidates_come_in_portions(monkeypatch):
    monkeypatch.setattr("mmretrieval.index.scored_tile.is_worthwhile", lambda rows, k: False)
    monkeypatch.setattr("mmretrieval.index.candidates._PORTION", 100)
    monkeypatch.setattr("mmretrieval.index.ranking._LEAST_WIDTH", 3)
    for kind in KINDS:
        case = make_case(1, kind, 700, 12, 9, 5, np.float32)
        for precision in FACTORS:
            with multiplying(precision):
                assert_exact(fill(ExactIndex(pool_block=300), case), case)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dim", [8, 100, 513, 1024])
def test_equal_vectors_have_equal_scores_wherever_they_are(dim, threads):
    rng = np.random.default_rng(0)
    one, query = rng.normal(size=(1, dim)).astype(np.float32), rng.normal(size=(3, dim)).astype(np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for count in (1, 2, 33, 1_000):
            index = ExactIndex(pool_block=77)
            index.add(np.repeat(one, count, axis=0), labels=np.arange(count)[::-1])
            assert index.search(query, 20)[1].tolist() == [[*range(min(20, count)), *[-1] * (20 - count)]] * 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_search_works_in_each_mode_of_autograd(mode):
    case = make_case(0, "random", 3_000, 257, 200, 60, np.float32)  # enough for several threads
    with mode():
        assert_exact(fill(ExactIndex(), case), case)


def test_one_query_with_many_candidates_among_others():
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(3_000, 8)).astype(np.float32)
    queries = rng.normal(size=(5, 8)).astype(np.float32)
    queries[3] = 0  # all scores are 0
    case = Case(pool, queries, rng.permutation(3_000), np.zeros(3_000, np.int64), 70)
    assert_exact(fill(ExactIndex(), case), case)


def test_numbers_beyond_float32_are_ranked():
    rng = np.random.default_rng(0)
    for scale in (1e150, 1e-150, 1e-200):  # at 1e-200 the products of float64 are all 0
        pool, queries = rng.normal(size=(200, 8)) * scale, rng.normal(size=(4, 8)) * scale
        case = Case(pool, queries, rng.permutation(200), np.zeros(200, np.int64), 10)
        assert_exact(fill(ExactIndex(), case), case)
    index = ExactIndex()
    index.add(np.full((2, 3), 1e200))
    with pytest.raises(ValueError, match="too large for float64"):
        index.search(np.full((1, 3), 1e200), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(value):
    pool = np.ones((5, 2), np.float32)
    index = ExactIndex(pool_block=2)
    index.add(pool)
    queries = np.ones((3, 2), np.float32)
    queries[1, 0] = value
    with pytest.raises(ValueError, match="queries row 1"):
        index.search(queries, 1)
    pool[3, 1] = value
    with pytest.raises(ValueError, match="label 3 "):
        index.search(queries[:1], 1)


def test_a_precision_must_be_known():
    with pytest.raises(ValueError, match="found 'int8'"):
        ExactIndex(precision="int8")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_gpu_ranks_exactly(kind, precision, dtype):
    case = make_case(0, kind, 20_000, 128, 300, 50, dtype)
    index = fill(ExactIndex("cuda", 7_777, 128, precision), case)
    assert_exact(index, case)
    assert_exact(index, case, [1])


@pytest.mark.gpu
@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="needs a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:all"])
def test_faiss_on_gpus_keeps_labels_and_groups(device, tmp_path):
    case = make_case(0, "grid", 3_000, 8, 20, 10, np.float32)
    index = fill(FaissIndex(device=device), case)
    assert_exact(index, case)
    assert_exact(index, case, [1])
    index.save(tmp_path / "index")
