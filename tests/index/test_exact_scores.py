"""Scores of pairs: those of float64, and the same for a pair wherever it stands and whatever is beside it."""

import numpy as np
import pytest
import torch

from mmretrieval.index.exact_scores import exact_scores


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8, 33, 512, 1024, 4096, 40_000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_score_of_a_pair_does_not_depend_on_its_place_or_on_other_pairs(dim, dtype):
    rng = np.random.default_rng(dim)
    vectors = rng.normal(size=(40, dim)).astype(dtype)
    vectors[[3, 17, 39]] = vectors[0]
    queries = rng.normal(size=(5, dim))
    queries[4] = queries[1]
    rows = np.sort(rng.integers(0, 40, 5_000 if dim < 5_000 else 50))
    asked = rng.integers(0, 5, len(rows))
    for count in {1, 2, 5, 129, len(rows)}:
        some = slice(0, count)
        scores = computed(vectors, queries, rows[some], asked[some])
        np.testing.assert_allclose(scores, reference(vectors, queries, rows[some], asked[some]), atol=1e-9)
        first = np.where(np.isin(rows[some], [3, 17, 39]), 0, rows[some])
        askers = np.where(asked[some] == 4, 1, asked[some])
        known = {}
        for pair, score in zip(zip(first, askers, strict=True), scores, strict=True):
            assert known.setdefault(pair, score) == score
        single = computed(vectors, queries, rows[:1], asked[:1])
        assert single[0] == scores[0]


def test_zeros_have_one_sign():
    vectors = np.array([[0.0, 0.0], [-0.0, -1.0]], np.float32)
    scores = computed(
        vectors, np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    )
    assert not np.signbit(scores).any()


def computed(vectors, queries, rows, asked):
    return exact_scores(*(torch.from_numpy(array) for array in (vectors, queries, rows, asked))).numpy()


def reference(vectors, queries, rows, asked):
    return np.array(
        [vectors[row].astype(np.float64) @ queries[query] for row, query in zip(rows, asked, strict=True)]
    )
