"""Every index returns what brute force in float64 returns, ties by row."""

import logging

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmretrieval.index.exact import ExactIndex
from mmretrieval.index.faiss_index import FaissIndex

INDEXES = {
    "exact": lambda: ExactIndex(),
    "exact-small-blocks": lambda: ExactIndex(pool_block=3, query_block=2),
    "faiss-flat": lambda: FaissIndex("Flat", device="cpu"),
}


@pytest.fixture(params=INDEXES)
def index(request):
    return INDEXES[request.param]()


def brute_force(pool, queries, k):
    """All scores in float64, sorted by (-score, row), padded with -inf and -1."""
    scores = queries.astype(np.float64) @ pool.astype(np.float64).T
    order = np.lexsort((np.broadcast_to(np.arange(len(pool)), scores.shape), -scores), axis=1)[:, :k]
    found = np.take_along_axis(scores, order, axis=1)
    missing = ((0, 0), (0, k - order.shape[1]))
    return (
        np.pad(found, missing, constant_values=-np.inf).astype(np.float32),
        np.pad(order, missing, constant_values=-1),
    )


def assert_brute_force(index, pool, queries, k):
    scores, rows = index.search(queries, k)
    expected_scores, expected_rows = brute_force(pool, queries, k)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)


def test_indexes_have_one_method_iff_they_find_the_same_vectors():
    exhaustive = {make().method for make in INDEXES.values()}
    exhaustive |= {ExactIndex(precision="bfloat16").method, FaissIndex(device="cpu", tie_window=3).method}
    assert exhaustive == {"exhaustive"}
    settings_ = [("IVF4,Flat", ""), ("IVF4,Flat", "nprobe=2"), ("HNSW8", "")]
    others = [FaissIndex(factory, "cpu", parameters=parameters).method for factory, parameters in settings_]
    assert others == ["IVF4,Flat", "IVF4,Flat nprobe=2", "HNSW8"]


@pytest.mark.parametrize(("queries", "k"), [(1, 1), (1, 10), (40, 10), (40, 150), (3, 400)])
def test_random_vectors_are_ranked_as_by_brute_force(index, queries, k):
    rng = np.random.default_rng(0)
    pool, asked = rng.normal(size=(300, 16)).astype(np.float32), rng.normal(size=(queries, 16))
    for part in np.array_split(pool, 3):
        index.add(part)
    assert len(index) == 300
    assert_brute_force(index, pool, asked.astype(np.float32), k)


@pytest.mark.parametrize("name", INDEXES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_ties_come_by_row(name, data):
    # Small integers are exact in float32, zeros of both signs included, and most scores occur several times.
    dim = data.draw(st.integers(1, 3))
    small = st.integers(-1, 1).map(float)
    pool = data.draw(arrays(np.float32, st.tuples(st.integers(1, 12), st.just(dim)), elements=small))
    queries = data.draw(arrays(np.float32, st.tuples(st.integers(1, 4), st.just(dim)), elements=small))
    index = INDEXES[name]()
    index.add(pool)
    assert_brute_force(index, pool, queries, data.draw(st.integers(1, 15)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_memory_mapped_pool_of_any_float_type_is_searched(index, dtype, tmp_path):
    pool = np.random.default_rng(1).integers(-3, 4, (20, 4)).astype(dtype)
    np.save(tmp_path / "pool.npy", pool)
    index.add(np.load(tmp_path / "pool.npy", mmap_mode="r"))
    assert_brute_force(index, pool, pool[:5], 6)


def test_nothing_stored_and_nothing_asked(index):
    assert index.search(np.ones((2, 3), np.float32), 2)[1].tolist() == [[-1, -1], [-1, -1]]
    index.add(np.ones((0, 3), np.float32))
    index.add(np.ones((2, 3), np.float32))
    assert index.search(np.ones((0, 3), np.float32), 2)[0].shape == (0, 2)


def test_nan_is_refused_and_not_ranked(index):
    pool = np.ones((5, 2), np.float32)
    pool[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"row 3 holds NaN|not numbers"):
        _ = index.add(pool), index.search(pool[:1], 2)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones(3, np.float32), "matrix"),
        (np.ones((1, 2), np.int64), "int64"),
        (np.ones((1, 5)), "holds 3-d"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(index, matrix, message):
    index.add(np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match=message):
        index.add(matrix)
    with pytest.raises(ValueError, match=message):
        index.search(matrix, 1)


def test_k_must_be_positive(index):
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search(np.ones((1, 3), np.float32), 0)


def test_exact_search_keeps_float32_while_training_uses_less():
    rng = np.random.default_rng(0)
    pool, queries = (
        rng.normal(size=(500, 64)).astype(np.float32),
        rng.normal(size=(40, 64)).astype(np.float32),
    )
    index = ExactIndex()
    index.add(pool)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_brute_force(index, pool, queries, 50)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_block_sizes_must_be_positive():
    with pytest.raises(ValueError, match="must be positive, found 0"):
        ExactIndex(pool_block=0)


def test_faiss_threshold_is_low_during_search_and_restored(monkeypatch):
    index = FaissIndex(device="cpu")
    index.add(np.eye(3, dtype=np.float32))
    seen, fetch = [], index._fetch
    monkeypatch.setattr(
        index,
        "_fetch",
        lambda *a: (seen.append(faiss.cvar.distance_compute_blas_threshold), fetch(*a))[1],
    )
    before = faiss.cvar.distance_compute_blas_threshold
    index.search(np.eye(3, dtype=np.float32), 1)
    assert seen == [20]
    assert faiss.cvar.distance_compute_blas_threshold == before != 20


def test_faiss_reports_ties_beyond_its_window(caplog):
    index = FaissIndex(device="cpu", tie_window=4)
    index.add(np.ones((50, 2), np.float32))
    with caplog.at_level(logging.WARNING):
        scores, _ = index.search(np.ones((3, 2), np.float32), 5)
    assert (scores == 2).all()
    assert "3 queries have more equal scores" in caplog.text
    caplog.clear()
    wide = FaissIndex(device="cpu", tie_window=50)
    wide.add(np.ones((50, 2), np.float32))
    assert wide.search(np.ones((1, 2), np.float32), 5)[1].tolist() == [[0, 1, 2, 3, 4]]
    assert caplog.text == ""


def test_an_approximate_index_is_trained_and_pads_what_it_cannot_reach():
    pool = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    index = FaissIndex("IVF8,Flat", device="cpu")
    index.add(pool)
    scores, rows = index.search(pool[:5], 300)
    assert rows[:, 0].tolist() == [0, 1, 2, 3, 4] or (rows[:, 0] >= 0).all()
    assert (rows[:, -1] == -1).all()
    assert np.isneginf(scores[:, -1]).all()
    reached = (rows >= 0).sum(axis=1)
    assert all((rows[q, : reached[q]] >= 0).all() for q in range(5))


def test_unusable_faiss_arguments_are_refused():
    with pytest.raises(ValueError, match="found 'tpu'"):
        FaissIndex(device="tpu")
    with pytest.raises(ValueError, match="tie_window must be at least 1"):
        FaissIndex(tie_window=0)
    with pytest.raises(ValueError, match="cannot build the index 'Nonsense'"):
        FaissIndex("Nonsense", device="cpu").add(np.ones((1, 2), np.float32))


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="needs a machine without a GPU")
def test_a_missing_gpu_is_named_and_auto_does_without():
    assert FaissIndex(device="auto").device == "cpu"
    with pytest.raises(ValueError, match="FAISS sees no GPU"):
        FaissIndex(device="cuda")


@pytest.mark.parametrize(
    ("device", "gpus"),
    [("auto", [2]), ("cuda", [2]), ("cuda:0", [0]), ("cuda:3", [3]), ("cuda:all", [0, 1, 2, 3])],
)
def test_each_process_puts_its_vectors_on_its_own_gpu(monkeypatch, device, gpus):
    """With DDP, torch's current device is another on each rank; it is set after the index was made."""
    placed = []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 4)
    monkeypatch.setattr(
        faiss, "index_cpu_to_gpus_list", lambda index, co, gpus: (placed.append(gpus), index)[1]
    )
    index = FaissIndex(device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    pool = np.random.default_rng(0).integers(-2, 3, (60, 6)).astype(np.float32)
    index.add(pool)
    assert placed == [gpus]
    assert_brute_force(index, pool, pool[:5], 9)


@pytest.mark.parametrize(
    ("device", "message"), [("cuda:4", "sees 4 GPUs, numbered from 0"), ("cuda:x", '"cuda:1"')]
)
def test_a_gpu_that_is_not_there_is_named(monkeypatch, device, message):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 4)
    with pytest.raises(ValueError, match=message):
        FaissIndex(device=device)


@pytest.mark.gpu
@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="needs a GPU")
@pytest.mark.parametrize("make", [lambda: FaissIndex(device="cuda"), lambda: ExactIndex("cuda")])
def test_a_gpu_ranks_as_brute_force_does(make):
    pool = np.random.default_rng(0).integers(-2, 3, (3000, 6)).astype(np.float32)
    index = make()
    index.add(pool)
    assert_brute_force(index, pool, pool[:50], 50)
