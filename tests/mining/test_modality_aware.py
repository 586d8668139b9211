"""Mined negatives are those of a slow, literal reading of the paper."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.mining import (
    MinedNegatives,
    MiningReport,
    MiningSettings,
    NegativeKind,
    Rankings,
    mine_modality_aware,
)


def oracle(rankings, modalities, keys, s, chance):
    """Query by query and candidate by candidate; returns (row, kind, rank, score) lists and the report."""
    picked, report = [], Counter()
    for q, ranking in enumerate(rankings.rows.tolist()):
        known = rankings.known_rows[rankings.known_offsets[q] : rankings.known_offsets[q + 1]].tolist()
        labelled, target = int(rankings.labelled_row[q]), int(rankings.target_modality[q])
        ranking = ranking[: s.top_k]
        positive_rank = ranking.index(labelled) + 1 if labelled in ranking else s.top_k
        sets, guarded = {1: [], 2: []}, 0
        for rank, row in enumerate(ranking, start=1):
            if row == -1:
                continue
            if modalities[row] != target and rank < positive_rank:
                kind = 1
            elif modalities[row] == target and rank > s.k_prime:
                kind = 2
            else:
                continue
            if row in [*known, labelled] or keys[row] in [keys[p] for p in [*known, labelled]]:
                guarded += 1
            else:
                sets[kind].append((row, rank))
        draws = []
        for draw in range(s.negatives_per_query):
            if not sets[1] and not sets[2]:
                break
            kind = 1 if chance(s.seed, int(rankings.query_keys[q]), draw, 0) < s.probability_c1 else 2
            kind = kind if sets[kind] else 3 - kind
            members = sets[kind]
            row, rank = members[int(chance(s.seed, int(rankings.query_keys[q]), draw, 1) * len(members))]
            draws.append((row, kind, rank, float(rankings.scores[q, rank - 1])))
            sets = {c: [m for m in ms if keys[m[0]] != keys[row]] for c, ms in sets.items()}
        picked.append(draws)
        kinds = Counter(kind for _, kind, _, _ in draws)
        report.update(
            queries=1,
            wrong_modality=kinds[1],
            unsatisfactory=kinds[2],
            incomplete=0 < len(draws) < s.negatives_per_query,
            guarded=guarded,
            positives_missed=labelled not in ranking,
            positives_unscored=labelled not in rankings.rows[q].tolist(),
            positive_rank_sum=positive_rank,
            top_wrong_modality=ranking[0] >= 0 and bool(modalities[ranking[0]] != target),
        )
        if not draws:
            retrieved = any(row >= 0 for row in ranking)
            report[
                "without_retrieved" if not retrieved else "without_known" if guarded else "without_kind"
            ] += 1
    return picked, MiningReport(**report)


@pytest.mark.parametrize("negatives", [1, 4])
def test_the_papers_settings_equal_the_oracle_on_a_random_pool(negatives, random_rankings, as_lists, chance):
    rankings, modalities, keys = random_rankings(0, 250, 120, 60, 90)
    s = MiningSettings(negatives_per_query=negatives, seed=5)
    assert (s.top_k, s.k_prime, s.probability_c1) == (50, 45, 0.5)
    mined, report = mine_modality_aware(rankings, modalities, keys, s)
    picked, expected_report = oracle(rankings, modalities, keys, s, chance)
    assert as_lists(mined) == picked
    assert report == expected_report
    assert min(report.wrong_modality, report.unsatisfactory, report.guarded, report.positives_missed) > 0


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    candidates=st.integers(1, 14),
    depth=st.integers(1, 12),
    distinct=st.integers(1, 14),
    top_k=st.integers(1, 12),
    share=st.floats(0, 1),
    probability=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    negatives=st.integers(1, 5),
)
def test_any_settings_equal_the_oracle(
    seed, candidates, depth, distinct, top_k, share, probability, negatives, random_rankings, as_lists, chance
):
    rankings, modalities, keys = random_rankings(seed, 7, candidates, depth, distinct, modalities=2)
    s = MiningSettings(top_k, int(share * top_k), probability, negatives, seed - 2**31)
    mined, report = mine_modality_aware(rankings, modalities, keys, s)
    picked, expected_report = oracle(rankings, modalities, keys, s, chance)
    assert as_lists(mined) == picked
    assert report == expected_report
    empty = mined.rows < 0
    assert (mined.kinds[empty] == 0).all()
    assert (mined.ranks[empty] == 0).all()
    assert np.isneginf(mined.scores[empty]).all()
    assert not (empty[:, :-1] & ~empty[:, 1:]).any()


def one_query(modalities, *, labelled, target=1, known=(), keys=None, rows=None):
    """A query whose ranking is 0, 1, 2, …, so that a candidate's rank is its row + 1."""
    rows = np.arange(len(modalities)) if rows is None else np.array(rows)
    rankings = Rankings(
        rows=rows[None],
        scores=np.linspace(1, 0, len(rows), dtype=np.float32)[None],
        target_modality=np.array([target]),
        labelled_row=np.array([labelled]),
        known_rows=np.array(known, dtype=np.int64),
        known_offsets=np.array([0, len(known)]),
        query_keys=np.array([1]),
    )
    return (
        rankings,
        np.array(modalities),
        np.arange(1, len(modalities) + 1) if keys is None else np.array(keys),
    )


def drawable(query, **changes):
    """All rows that any of many seeds draws, by kind."""
    found = {1: set(), 2: set()}
    for seed in range(300):
        mined, _ = mine_modality_aware(*query, MiningSettings(seed=seed, **changes))
        if mined.kinds[0, 0]:
            found[int(mined.kinds[0, 0])].add(int(mined.ranks[0, 0]))
    return found


def test_c2_is_ranks_46_to_50_and_c1_what_is_above_the_positive():
    modalities = [0, 1, 2, 1, 0] + [1] * 46  # the positive has rank 4; rank 5 is wrong but below it
    assert drawable(one_query(modalities, labelled=3)) == {1: {1, 3}, 2: {46, 47, 48, 49, 50}}


def test_k_prime_44_is_the_reading_that_includes_rank_45():
    found = drawable(one_query([1] * 51, labelled=0), k_prime=44)
    assert found == {1: set(), 2: {45, 46, 47, 48, 49, 50}}


def test_a_positive_beyond_the_top_50_has_rank_50():
    # Ranks 49 and 50 are of the wrong modality; only 49 is above rank 50.
    query = one_query([1] * 48 + [0, 0] + [1], labelled=50)
    assert drawable(query)[1] == {49}
    assert mine_modality_aware(*query, MiningSettings())[1].mean_positive_rank == 50


def test_copies_of_known_positives_are_never_drawn():
    modalities = [0] * 10 + [1] * 41
    keys = list(range(1, 52))
    keys[0] = keys[20]  # the copy of a known positive by content
    keys[47] = keys[30]  # the copy of the labelled one
    query = one_query(modalities, labelled=30, known=[20, 48, 3], keys=keys)
    assert drawable(query) == {1: {2, 3, 5, 6, 7, 8, 9, 10}, 2: {46, 47, 50}}


def test_both_kinds_are_drawn_equally_often_though_one_is_larger():
    rankings, modalities, keys = one_query([0] * 40 + [1] * 10, labelled=40)
    many = 4000
    repeated = Rankings(
        *(np.repeat(getattr(rankings, n), many, axis=0) for n in ("rows", "scores", "target_modality")),
        np.repeat(rankings.labelled_row, many),
        rankings.known_rows,
        np.zeros(many + 1, dtype=np.int64),
        np.arange(many),
    )
    mined, report = mine_modality_aware(repeated, modalities, keys, MiningSettings())
    assert abs(report.wrong_modality / many - 0.5) < 0.03  # 4 standard deviations
    counts = np.bincount(mined.ranks[mined.kinds == NegativeKind.WRONG_MODALITY], minlength=41)[1:]
    assert counts.sum() / 40 * 0.4 < counts.min()
    assert counts.max() < counts.sum() / 40 * 1.8


def test_a_subset_of_queries_gets_the_same_negatives(random_rankings):
    rankings, modalities, keys = random_rankings(3, 60, 80, 50, 70)
    whole, report = mine_modality_aware(rankings, modalities, keys, MiningSettings(negatives_per_query=2))
    parts, total = [], MiningReport()
    for start, stop in ((0, 17), (17, 18), (18, 60)):
        mined, partial = mine_modality_aware(
            rankings.part(start, stop), modalities, keys, MiningSettings(negatives_per_query=2)
        )
        parts.append(mined)
        total += partial
    for field in dataclasses.fields(MinedNegatives):
        joined = np.concatenate([getattr(part, field.name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, field.name))
    assert total == report


def test_query_blocks_do_not_show(monkeypatch, random_rankings, as_lists):
    case = random_rankings(4, 50, 80, 50, 70)
    whole = mine_modality_aware(*case, MiningSettings())
    monkeypatch.setattr("mmretrieval.mining.miner._QUERY_BLOCK", 7)
    blocks = mine_modality_aware(*case, MiningSettings())
    assert as_lists(blocks[0]) == as_lists(whole[0])
    assert blocks[1] == whole[1]


def test_the_report_says_why_a_query_has_no_negative():
    cases = {
        "without_retrieved": one_query([1], labelled=0, rows=[-1]),
        "without_kind": one_query([1, 0], labelled=0),
        "without_known": one_query([0, 1], labelled=1, known=[0]),
    }
    for reason, query in cases.items():
        report = mine_modality_aware(*query, MiningSettings())[1]
        assert getattr(report, reason) == report.without == report.queries == 1
    assert report.top_wrong_modality_share == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 0}, "top_k and negatives_per_query must be at least 1"),
        ({"negatives_per_query": 0}, "must be at least 1, found 50 and 0"),
        ({"k_prime": 51}, "k_prime must be from 0 to top_k=50"),
        ({"probability_c1": 1.5}, "from 0 to 1, found 1.5"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MiningSettings(**changes)


def test_rows_outside_of_the_pool_are_refused():
    rankings, modalities, keys = one_query([1, 0], labelled=0, rows=[0, 2])
    with pytest.raises(ValueError, match="rows must be rows of the 2 candidates, found values from 0 to 2"):
        mine_modality_aware(rankings, modalities, keys, MiningSettings())


def test_rankings_whose_shapes_differ_are_refused():
    rankings = one_query([1, 0], labelled=0)[0]
    with pytest.raises(ValueError, match="one shape"):
        dataclasses.replace(rankings, scores=rankings.scores[:, :1])
    with pytest.raises(ValueError, match="known_offsets"):
        dataclasses.replace(rankings, known_offsets=np.array([0, 3]))
