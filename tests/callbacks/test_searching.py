"""Queries are read and searched block by block, and what is found does not depend on the blocks."""

import numpy as np
import pytest
import torch

from callbacks import rankings, searching
from callbacks.searching import search
from mmretrieval.index import EmbeddingStore, ExactIndex, FaissIndex, StoredRows

CPU = torch.device("cpu")
DIM, POOL, QUERIES = 24, 500, 330


def filled(folder, vectors, rows=None, modalities=None):
    """A store whose files hold rows in no order."""
    rows = np.arange(len(vectors)) if rows is None else rows
    modalities = rows % 3 if modalities is None else modalities
    store = EmbeddingStore.create_or_open(folder, {"made": folder.name})
    order = np.random.default_rng(8).permutation(len(rows))
    for number, part in enumerate(np.array_split(order, 4)):
        ids = [f"id{row}" for row in rows[part]]
        store.write(f"{number}", rows[part], ids, modalities[part], vectors[part])
    return store


@pytest.fixture
def stores(tmp_path):
    """Candidates and queries of small integers: float32 scores are exact in any order, and many are equal."""
    rng = np.random.default_rng(2)
    pool = rng.integers(-2, 3, size=(POOL, DIM)).astype(np.float32)
    pool[::5] = pool[0]
    asked = rng.integers(-2, 3, size=(QUERIES, DIM)).astype(np.float32)
    return filled(tmp_path / "candidates", pool), filled(tmp_path / "queries", asked)


@pytest.fixture
def small_blocks(monkeypatch):
    """Seven queries fit into a block; the list says how many rows each reading of a store asked for."""
    reads, vectors_of = [], EmbeddingStore.vectors_of
    monkeypatch.setattr(searching, "_QUERY_BYTES", 7 * 4 * DIM + 3)
    monkeypatch.setattr(rankings, "_QUERY_BLOCK", 7)
    monkeypatch.setattr(
        EmbeddingStore, "vectors_of", lambda self, rows: (reads.append(len(rows)), vectors_of(self, rows))[1]
    )
    return reads


@pytest.mark.parametrize("index", [ExactIndex(), ExactIndex(query_block=3), FaissIndex(device="cpu")])
def test_blocks_of_queries_find_the_same_bits_and_one_is_read_at_a_time(stores, index, request):
    candidates, queries = stores
    rows = np.random.default_rng(1).permutation(QUERIES)
    pool = np.arange(3, POOL)
    expected = search(index, candidates, pool, queries.vectors_of(rows), 40, CPU)
    reads = request.getfixturevalue("small_blocks")
    scores, found = search(index, candidates, pool, StoredRows(queries, rows), 40, CPU)
    assert (scores.dtype, found.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(found, expected[1])
    np.testing.assert_array_equal(scores, expected[0])
    assert sum(reads) == QUERIES
    assert set(reads) == {6, 7}


def test_scores_that_float32_cannot_tell_apart_do_not_depend_on_blocks(stores, tmp_path, request):
    near = 1 + 1e-6 * np.random.default_rng(3).normal(size=(60, DIM))
    candidates, queries = stores[0], filled(tmp_path / "near", near.astype(np.float32))
    rows = np.arange(60)
    expected = search(ExactIndex(), candidates, np.arange(POOL), queries.vectors_of(rows), 40, CPU)
    request.getfixturevalue("small_blocks")
    blocks = search(ExactIndex(), candidates, np.arange(POOL), StoredRows(queries, rows), 40, CPU)
    np.testing.assert_array_equal(blocks[1], expected[1])
    np.testing.assert_array_equal(blocks[0], expected[0])


def test_no_query_finds_nothing_in_the_right_shape(stores):
    scores, found = search(ExactIndex(), stores[0], np.arange(9), StoredRows(stores[1], np.arange(0)), 3, CPU)
    assert scores.shape == found.shape == (0, 3)


def test_stored_rows_are_read_slice_by_slice_in_the_order_asked_for(stores):
    rows = np.array([5, 300, 5, 17])
    view, expected = StoredRows(stores[1], rows), stores[1].vectors_of(rows)
    assert (view.shape, len(view), view.ndim) == (expected.shape, 4, 2)
    np.testing.assert_array_equal(view[1:3], expected[1:3])
    with pytest.raises(ValueError, match="has no embeddings of the rows 999"):
        StoredRows(stores[1], np.array([999]))[:]


def test_mining_never_reads_more_than_a_block_of_queries(stores, packed, request):
    from data_modules.corpus import PackedCorpus

    queries = PackedCorpus(packed).queries("train")
    rows = np.arange(len(queries))
    assert len(rows) > 14, "one block holds all queries"

    def ranked():
        return rankings.rank(
            lambda table, _: stores[table], 0, 1, queries,
            np.arange(len(queries.corpus)), rows, ExactIndex(), 20, CPU,
        )  # fmt: skip

    whole = ranked()
    reads = request.getfixturevalue("small_blocks")
    blocks = ranked()
    assert max(reads) == 7
    for name in ("rows", "scores", "positive_scores"):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name))
    assert np.isfinite(blocks.positive_scores).any()
