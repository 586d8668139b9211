"""Rankings of some queries, and the view of them that filters look at, equal plain loops."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_modules.content_keys import content_key
from mmretrieval.mining import Hits, MiningPlan, Rankings, TopK, mine


def known_of(rankings, q):
    return rankings.known_rows[rankings.known_offsets[q] : rankings.known_offsets[q + 1]].tolist()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), chosen=st.lists(st.integers(0, 6), max_size=9))
def test_some_queries_are_taken_in_the_order_asked_for(seed, chosen, scored_rankings):
    rankings = scored_rankings(seed)[0]
    taken = rankings.take(np.array(chosen, dtype=np.int64))
    assert len(taken) == len(chosen)
    for place, q in enumerate(chosen):
        assert known_of(taken, place) == known_of(rankings, q)
        for name in ("rows", "scores", "target_modality", "labelled_row", "query_keys", "positive_scores"):
            if getattr(rankings, name) is not None:
                np.testing.assert_array_equal(getattr(taken, name)[place], getattr(rankings, name)[q])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), chosen=st.lists(st.booleans(), min_size=7, max_size=7))
def test_parts_that_are_put_together_are_the_whole(seed, chosen, scored_rankings):
    rankings = scored_rankings(seed)[0]
    chosen = np.array(chosen)[: len(rankings)]
    rows = [np.flatnonzero(chosen), np.flatnonzero(~chosen)]
    joined = Rankings.concatenated([rankings.take(part) for part in rows])
    again = joined.take(np.argsort(np.concatenate(rows)))
    for field in dataclasses.fields(rankings):
        expected = getattr(rankings, field.name)
        if expected is None:
            expected = np.full(len(rankings), np.nan)
        np.testing.assert_array_equal(getattr(again, field.name), expected)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), top_k=st.integers(1, 12))
def test_hits_equal_a_loop_over_candidates(seed, top_k, scored_rankings):
    rankings, modalities, keys = scored_rankings(seed)
    hits = Hits.of(rankings, modalities, np.unique(keys, return_inverse=True)[1], top_k)
    for q, whole in enumerate(rankings.rows.tolist()):
        ranking, labelled = whole[:top_k], int(rankings.labelled_row[q])
        positive_keys = {int(keys[row]) for row in [*known_of(rankings, q), labelled]}
        found = labelled in ranking
        assert hits.positive_found[q] == found
        assert hits.positive_rank[q] == (ranking.index(labelled) + 1 if found else top_k)
        expected = np.nan if rankings.positive_scores is None else rankings.positive_scores[q]
        if np.isnan(expected) and labelled in whole:
            expected = rankings.scores[q, whole.index(labelled)]
        np.testing.assert_equal(hits.positive_score[q], expected)
        for column, row in enumerate(ranking):
            assert hits.ranks[q, column] == column + 1
            assert hits.there[q, column] == (row >= 0)
            assert hits.right[q, column] == (row >= 0 and modalities[row] == rankings.target_modality[q])
            assert hits.known[q, column] == (row >= 0 and int(keys[row]) in positive_keys)
            assert [c == hits.contents[q, column] for c in hits.contents[q]] == [
                (other >= 0) == (row >= 0) and (row < 0 or keys[other] == keys[row]) for other in ranking
            ]


def test_a_passage_that_two_data_sets_share_is_one_positive():
    # M-BEIR: OVEN and INFOSEEK list the same passage under different ids.
    passages = {
        "5:17": ("Eiffel Tower.", "d1"),
        "6:4": ("Eiffel Tower.", "d1"),  # the same under the other data set's id
        "6:5": ("Eiffel Tower.", "d2"),  # another picture
        "6:6": ("Eiffel tower.", "d1"),  # another text
    }
    keys = np.array([content_key(*passage) for passage in passages.values()])
    rankings = Rankings(
        rows=np.array([[1, 2, 3, 0]]),
        scores=np.array([[0.9, 0.8, 0.7, 0.6]], dtype=np.float32),
        target_modality=np.array([1]),
        labelled_row=np.array([0]),
        known_rows=np.array([], dtype=np.int64),
        known_offsets=np.array([0, 0]),
        query_keys=np.array([3]),
    )
    plan = MiningPlan(top_k=4, negatives_per_query=4, selection=TopK())
    mined, report = mine(rankings, np.ones(4, dtype=np.uint8), keys, plan)
    assert mined.rows.tolist() == [[2, 3, -1, -1]]
    assert (report.guarded, report.ranked, report.incomplete) == (2, 2, 1)


def test_rankings_whose_shapes_differ_are_refused(scored_rankings):
    rankings = scored_rankings(1)[0]
    for changes, message in (
        ({"scores": rankings.scores[:, :1]}, "one shape"),
        ({"rows": rankings.rows[:, :0], "scores": rankings.scores[:, :0]}, "at least one rank"),
        ({"known_offsets": np.array([0, 3])}, "known_offsets"),
        ({"positive_scores": rankings.scores}, "positive_scores need 7 numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(rankings, **changes)
