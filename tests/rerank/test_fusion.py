"""New orders: by the reranker, by both, and what was not scored stays behind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmretrieval.rerank.fusion import Ranked, fused

NUMBERS = st.floats(-1, 1, width=32)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12), st.integers(0, 12), st.floats(0, 1))
def test_the_order_is_that_of_the_weighted_scores(pairs, scored, weight):
    found = sorted((Ranked(f"c{n}", own) for n, (own, _) in enumerate(pairs)), key=lambda one: -one.score)
    scores = {one.candidate: pairs[int(one.candidate[1:])][1] for one in found[:scored]}
    new = fused(found, scores, weight)
    assert sorted(one.candidate for one in new) == sorted(one.candidate for one in found)
    top = found[:scored]
    sums = np.array([weight * scores[one.candidate] + (1 - weight) * one.score for one in top])
    expected = [top[n].candidate for n in np.argsort(-sums, kind="stable")]
    assert [one.candidate for one in new] == expected + [one.candidate for one in found[scored:]]
    values = [one.score for one in new]
    assert values == sorted(values, reverse=True)
    if 0 < scored < len(found):
        assert new[scored].score <= new[scored - 1].score - 1 + 1e-9


def test_weight_zero_keeps_the_retrievers_order_and_scores():
    found = [Ranked("a", 0.9), Ranked("b", 0.5), Ranked("c", 0.5)]
    assert fused(found, {"a": 0.0, "b": 0.1, "c": 0.9}, 0.0) == found
    assert [one.candidate for one in fused(found, {"a": 0.0, "b": 0.1, "c": 0.9}, 1.0)] == ["c", "b", "a"]
    assert fused(found, {}, 1.0) == found
    assert fused([], {}, 1.0) == []
    assert fused(found, {"b": 0.2, "a": 0.2}, 1.0)[0] == pytest.approx(("a", 0.2))
