"""Whichever library multiplies, scores are products, and ranks those of float64."""

import numpy as np
import pytest
import torch

from mmretrieval.index import ExactIndex, products


@pytest.mark.parametrize("library", [products.by_torch, products.by_numpy])
@pytest.mark.parametrize(("rows", "queries", "dim"), [(1, 1, 1), (300, 1, 17), (513, 65, 64)])
def test_both_libraries_multiply_into_a_part_of_a_buffer(library, rows, queries, dim):
    rng = np.random.default_rng(rows)
    vectors, asked = (rng.normal(size=(count, dim)).astype(np.float32) for count in (rows, queries))
    out = torch.full((rows + 3, queries), torch.nan)
    library(torch.from_numpy(vectors), torch.from_numpy(asked), out[:rows])
    np.testing.assert_allclose(out[:rows], vectors @ asked.T, rtol=1e-4, atol=1e-4)
    assert out[rows:].isnan().all()


@pytest.mark.parametrize("library", [products.by_torch, products.by_numpy])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ranks_do_not_depend_on_the_library(monkeypatch, library, precision):
    monkeypatch.setattr(products, "cpu_product", lambda: library)
    rng = np.random.default_rng(0)
    pool, asked = rng.normal(size=(700, 32)).astype(np.float32), rng.normal(size=(9, 32)).astype(np.float32)
    index = ExactIndex(pool_block=256, precision=precision)
    index.add(pool)
    exact = np.argsort(-(asked.astype(np.float64) @ pool.astype(np.float64).T), axis=1, kind="stable")
    assert np.array_equal(index.search(asked, 20)[1], exact[:, :20])


def test_the_faster_library_is_taken_and_kept(monkeypatch):
    times = {products.by_torch: 2.0, products.by_numpy: 1.0}
    monkeypatch.setattr(products, "_seconds", lambda library, *_: times[library])
    products.cpu_product.cache_clear()
    try:
        assert products.cpu_product() is products.by_numpy
        times[products.by_numpy] = 3.0
        assert products.cpu_product() is products.by_numpy
    finally:
        products.cpu_product.cache_clear()
