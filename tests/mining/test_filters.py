"""Every filter equals its definition, candidate by candidate; a chain counts what each one drops."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.mining import (
    Filter,
    Hits,
    MarginToPositive,
    MaxScore,
    PercentOfPositive,
    RankRange,
    RightModalityBelow,
    SameModality,
    WrongModalityAbovePositive,
    apply_filters,
)


def hits_of(case, top_k=10):
    rankings, modalities, keys = case
    return Hits.of(rankings, modalities, np.unique(keys, return_inverse=True)[1], top_k)


def keeps(part, *, rank, score, right, positive_rank, positive_score):
    """The definitions, in words of Python, for one candidate."""
    match part:
        case RankRange(first=first, last=last):
            return first <= rank and (last is None or rank <= last)
        case MaxScore(value=value):
            return score <= value
        case MarginToPositive(margin=margin):
            return not math.isnan(positive_score) and score <= positive_score - margin
        case PercentOfPositive(percent=percent):
            if math.isnan(positive_score):
                return False
            return score <= positive_score - (1 - percent) * abs(positive_score)
        case SameModality():
            return right
        case WrongModalityAbovePositive():
            return not right and rank < positive_rank
        case RightModalityBelow(k_prime=k_prime):
            return right and rank > k_prime
    raise AssertionError(part)


def kept_by_loop(part, hits):
    return [
        [
            keeps(
                part,
                rank=column + 1,
                score=float(hits.scores[q, column]),
                right=bool(hits.right[q, column]),
                positive_rank=int(hits.positive_rank[q]),
                positive_score=float(hits.positive_score[q]),
            )
            for column in range(hits.rows.shape[1])
        ]
        for q in range(len(hits))
    ]


# Scores, margins and shares are dyadic, so that ties are exact and both ways of writing a limit agree.
filters = st.one_of(
    st.integers(1, 6).flatmap(
        lambda first: st.builds(RankRange, st.just(first), st.none() | st.integers(first, 12))
    ),
    st.builds(MaxScore, st.integers(-9, 9).map(lambda eighths: eighths / 8)),
    st.builds(MarginToPositive, st.integers(0, 8).map(lambda eighths: eighths / 8)),
    st.builds(PercentOfPositive, st.sampled_from([0.25, 0.5, 0.75, 0.875, 1.0])),
    st.just(SameModality()),
    st.just(WrongModalityAbovePositive()),
    st.builds(RightModalityBelow, st.integers(0, 10)),
)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), part=filters, top_k=st.integers(1, 10))
def test_a_filter_equals_its_definition(seed, part, top_k, scored_rankings):
    hits = hits_of(scored_rankings(seed), top_k)
    there = hits.there
    np.testing.assert_array_equal(part.keeps(hits)[there], np.array(kept_by_loop(part, hits))[there])


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), chain=st.lists(filters, max_size=4))
def test_a_chain_counts_what_reaches_each_filter_and_is_dropped_there(seed, chain, scored_rankings):
    hits = hits_of(scored_rankings(seed))
    dropped, kept = dict.fromkeys((part.name for part in chain), 0), hits.there.copy()
    by_part = [(part, kept_by_loop(part, hits)) for part in chain]
    for q in range(len(hits)):
        for column in range(hits.rows.shape[1]):
            for part, passing in by_part if kept[q, column] else ():
                if not passing[q][column]:
                    dropped[part.name] += not hits.known[q, column]
                    kept[q, column] = False
                    break
    found, counts = apply_filters(chain, hits)
    np.testing.assert_array_equal(found, kept)
    assert counts == dropped
    assert list(counts) == list(dict.fromkeys(part.name for part in chain))


def test_the_order_changes_the_counts_and_not_what_is_left(scored_rankings):
    hits = hits_of(scored_rankings(5, queries=40))
    first, second = MaxScore(0.0), SameModality()
    one, other = apply_filters([first, second], hits), apply_filters([second, first], hits)
    np.testing.assert_array_equal(one[0], other[0])
    assert one[0].any()
    assert sum(one[1].values()) == sum(other[1].values())
    assert one[1]["max_score"] > other[1]["max_score"] > 0


def hits_with(scores, positive_score):
    scores = np.array([scores], dtype=np.float32)
    shape, none = scores.shape, np.zeros(scores.shape, dtype=bool)
    return Hits(
        rows=np.arange(scores.size)[None],
        scores=scores,
        ranks=np.arange(1, scores.size + 1)[None],
        there=~none,
        right=~none,
        contents=np.arange(scores.size)[None],
        known=none,
        positive_rank=np.array([shape[1]]),
        positive_found=np.array([False]),
        positive_score=np.array([positive_score], dtype=np.float64),
        query_keys=np.array([0]),
    )


@pytest.mark.parametrize(
    ("part", "positive", "kept"),
    [
        (
            PercentOfPositive(0.75),
            0.5,
            [0.375, 0.25, 0.0, -0.375, -0.5, -0.625, -1.0],
        ),  # a tie with the limit is kept
        (PercentOfPositive(0.75), -0.5, [-0.625, -1.0]),  # not -0.375, which would be above the positive
        (PercentOfPositive(0.75), 0.0, [0.0, -0.375, -0.5, -0.625, -1.0]),
        (PercentOfPositive(1.0), -0.5, [-0.5, -0.625, -1.0]),
        (MarginToPositive(0.125), -0.5, [-0.625, -1.0]),
        (MarginToPositive(0.0), 0.375, [0.375, 0.25, 0.0, -0.375, -0.5, -0.625, -1.0]),
        (MarginToPositive(0.0), math.nan, []),
        (PercentOfPositive(1.0), math.nan, []),
    ],
)
def test_ties_negative_and_unknown_scores_of_the_positive(part, positive, kept):
    hits = hits_with([0.5, 0.4375, 0.375, 0.25, 0.0, -0.375, -0.5, -0.625, -1.0], positive)
    assert hits.scores[part.keeps(hits)].tolist() == kept


def test_a_limit_is_not_rounded_to_the_scores_precision():
    # float32(0.1) is above 0.1, and float32(0.7) is below 0.7.
    hits = hits_with([0.7, 0.1], 1.0)
    assert MaxScore(0.1).keeps(hits).tolist() == [[False, False]]
    assert MaxScore(0.7).keeps(hits).tolist() == [[True, True]]


@pytest.mark.parametrize("part", [MarginToPositive(0.0625), PercentOfPositive(0.95), PercentOfPositive(0.5)])
@pytest.mark.parametrize("seed", range(5))
def test_an_unknown_score_keeps_what_the_true_one_would(part, seed):
    # An exact search of 30 candidates, of which only ten are returned.
    rng = np.random.default_rng(seed)
    scores = -np.sort(-rng.normal(size=30))
    for beyond in scores[10:]:
        known, unknown = (part.keeps(hits_with(scores[:10], score)) for score in (beyond, math.nan))
        assert not known.any()
        np.testing.assert_array_equal(known, unknown)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RankRange(0), "Ranks go from 1 up, found 0 to None"),
        (lambda: RankRange(5, 4), "found 5 to 4"),
        (lambda: MaxScore(math.nan), "must be finite, found nan"),
        (lambda: MarginToPositive(-0.1), "margin must be at least 0, found -0.1"),
        (lambda: MarginToPositive(math.inf), "margin must be at least 0, found inf"),
        (lambda: PercentOfPositive(0.0), "above 0 and at most 1, found 0.0"),
        (lambda: PercentOfPositive(95), "above 0 and at most 1, found 95"),
        (lambda: RightModalityBelow(-1), "k_prime must be at least 0, found -1"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_each_filter_is_one_frozen_class_with_its_own_name():
    classes = [cls for cls in Filter.__subclasses__() if cls.__module__.startswith("mmretrieval")]
    assert len(classes) == len({cls.name for cls in classes}) == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        MaxScore(0.7).value = 1
