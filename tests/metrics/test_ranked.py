"""Tables of positives are what sets and dictionaries say."""

import numpy as np
import pytest
import torch

from mmretrieval.metrics.functional import graded_ndcg_at_k, ndcg_at_k
from mmretrieval.metrics.ranked import Positives


def _random(rng, queries=9, candidates=25):
    positives = [rng.choice(candidates, int(rng.integers(0, 6)), replace=False) for _ in range(queries)]
    return positives, [rng.integers(1, 5, len(rows)) for rows in positives]


def test_parts_grades_and_ideal_lists_are_those_of_dictionaries():
    rng = np.random.default_rng(0)
    for _ in range(300):
        positives, grades = _random(rng)
        table = Positives.of(positives, grades)
        asked = rng.integers(0, len(positives), int(rng.integers(0, 12)))  # repeated, or none
        part = table.part(asked)
        known = [dict(zip(positives[q].tolist(), grades[q].tolist(), strict=True)) for q in asked]
        ranked = np.array([rng.permutation(25)[:7] for _ in asked], np.int64).reshape(len(asked), 7)
        ranked[rng.random(ranked.shape) < 0.2] = -1
        pairs = zip(known, ranked.tolist(), strict=True)
        expected = [[own.get(row, 0) for row in rows] for own, rows in pairs]
        assert part.grade(ranked).tolist() == expected
        assert part.relevant(ranked).tolist() == [[grade > 0 for grade in rows] for rows in expected]
        pool = np.sort(rng.choice(25, 12, replace=False))
        inside = [sorted((g for row, g in own.items() if row in pool), reverse=True) for own in known]
        assert part.ideal(pool, 3).tolist() == [[*own, 0, 0, 0][:3] for own in inside]
        assert part.count_in(pool).tolist() == [len(own) for own in inside]


def test_equal_grades_make_the_graded_measure_the_binary_one():
    rng = np.random.default_rng(1)
    relevant = torch.from_numpy(rng.random((50, 20)) < 0.2)
    total = relevant.sum(dim=1) + torch.from_numpy(rng.integers(1, 4, 50))
    ideal = (torch.arange(10) < total[:, None]).long()
    ours = graded_ndcg_at_k(relevant.long() * 3, ideal * 3, 10)
    assert torch.allclose(ours, ndcg_at_k(relevant, total, 10), atol=1e-6)


def test_impossible_lists_are_refused():
    one = torch.ones(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="rank each item once"):
        graded_ndcg_at_k(one, torch.tensor([[1, 0]]), 2)
    with pytest.raises(ValueError, match="no relevant item"):
        graded_ndcg_at_k(one * 0, one * 0, 2)
    with pytest.raises(ValueError, match="need ideal ones of shape"):
        graded_ndcg_at_k(one, one, 3)
