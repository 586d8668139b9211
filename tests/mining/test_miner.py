"""Any plan mines what a slow loop over queries and candidates does, and counts it alike."""

import dataclasses
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmretrieval.mining import (
    FilteredMiningReport,
    MarginToPositive,
    MaxScore,
    MinedNegatives,
    MiningPlan,
    MiningReport,
    MiningSettings,
    ModalityAware,
    NegativeKind,
    Rankings,
    RankRange,
    SameModality,
    TopK,
    mine,
    mine_modality_aware,
)


def positive_score(rankings, q):
    given_ = np.nan if rankings.positive_scores is None else float(rankings.positive_scores[q])
    whole, labelled = rankings.rows[q].tolist(), rankings.labelled_row[q]
    if np.isnan(given_) and labelled in whole:
        return float(rankings.scores[q, whole.index(labelled)])
    return given_


def passes(part, rank, score, right, of_positive):
    if isinstance(part, RankRange):
        return part.first <= rank <= (part.last or rank)
    if isinstance(part, MaxScore):
        return score <= part.value
    if isinstance(part, MarginToPositive):
        return score <= of_positive - part.margin
    assert isinstance(part, SameModality)
    return right


def kind_of(selection, rank, right, positive_rank):
    c1 = not right and rank < positive_rank
    if isinstance(selection, TopK):
        return 1 if c1 else 3
    return 1 if c1 else 2 if right and rank > selection.k_prime else 0


def chosen(selection, pool, kind_chance, member_chance):
    """The entry of ``pool`` (row, kind, rank) that a draw takes; None for nothing."""
    if isinstance(selection, TopK):
        return pool[int(member_chance * len(pool)) if selection.sample else 0]
    if kind_chance < selection.probability_none:
        return None
    # The rest of the unit interval is shared out between C1 and C2.
    share = selection.probability_none + (1 - selection.probability_none) * selection.probability_c1
    kind = 1 if kind_chance < share else 2
    members = [entry for entry in pool if entry[1] == kind] or pool
    return members[int(member_chance * len(members))]


def oracle(rankings, modalities, keys, plan, chance, round_=0):
    picked, report, dropped = [], Counter(), dict.fromkeys((part.name for part in plan.filters), 0)
    for q, whole in enumerate(rankings.rows.tolist()):
        ranking, labelled = whole[: plan.top_k], int(rankings.labelled_row[q])
        known = rankings.known_rows[rankings.known_offsets[q] : rankings.known_offsets[q + 1]].tolist()
        positive_keys = {keys[row] for row in [*known, labelled]}
        positive_rank = ranking.index(labelled) + 1 if labelled in ranking else plan.top_k
        of_positive, query_key = positive_score(rankings, q), int(rankings.query_keys[q])
        pool, guarded, unguarded = [], 0, 0
        for rank, row in enumerate(ranking, start=1):
            if row < 0:
                continue
            right, score = modalities[row] == rankings.target_modality[q], float(rankings.scores[q, rank - 1])
            is_known = keys[row] in positive_keys
            for part in plan.filters:
                if not passes(part, rank, score, right, of_positive):
                    dropped[part.name] += not is_known
                    break
            else:
                kind = kind_of(plan.selection, rank, right, positive_rank)
                in_k = getattr(plan.selection, "k", None) is None or unguarded < plan.selection.k
                if is_known:  # takes no place among the best k
                    guarded += bool(kind) and in_k
                elif kind and in_k:
                    pool.append((row, kind, rank))
                unguarded += not is_known
        could = bool(pool or guarded)
        draws, skipped = [], 0
        for draw in range(plan.negatives_per_query):
            if not pool:
                break
            chances = (chance(plan.seed, query_key, draw, part, round_) for part in (0, 1))
            taken = chosen(plan.selection, pool, *chances)
            if taken is None:
                skipped += 1
                continue
            row, kind, rank = taken
            draws.append((row, kind, rank, float(rankings.scores[q, rank - 1])))
            pool = [entry for entry in pool if keys[entry[0]] != keys[row]]
        picked.append(draws)
        kinds = Counter(kind for _, kind, _, _ in draws)
        report.update(
            queries=1,
            wrong_modality=kinds[1],
            unsatisfactory=kinds[2],
            ranked=kinds[3],
            skipped=skipped,
            incomplete=0 < len(draws) < plan.negatives_per_query - skipped,
            guarded=guarded,
            positives_missed=labelled not in ranking,
            positives_unscored=math.isnan(of_positive),
            positive_rank_sum=positive_rank,
            top_wrong_modality=ranking[0] >= 0
            and bool(modalities[ranking[0]] != rankings.target_modality[q]),
        )
        if not draws:
            retrieved = any(row >= 0 for row in ranking)
            reason = "chance" if skipped else "known" if could else "kind" if retrieved else "retrieved"
            report[f"without_{reason}"] += 1
    return picked, FilteredMiningReport(**{k: int(v) for k, v in report.items()}, dropped=dropped)


eighths = st.integers(-8, 8).map(lambda number: number / 8)
parts = st.one_of(
    st.builds(RankRange, st.integers(1, 4), st.none() | st.integers(4, 10)),
    st.builds(MaxScore, eighths),
    st.builds(MarginToPositive, st.sampled_from([0.0, 0.125, 0.5])),
    st.just(SameModality()),
)
shares = st.sampled_from([0.0, 0.25, 0.5, 1.0])
selections = st.one_of(
    st.builds(ModalityAware, st.integers(0, 4), shares, shares),
    st.builds(TopK, st.none() | st.integers(1, 6), st.booleans()),
)
plans = st.builds(
    MiningPlan,
    top_k=st.integers(4, 10),
    negatives_per_query=st.integers(1, 4),
    seed=st.integers(-5, 5),
    selection=selections,
    filters=st.lists(parts, max_size=2),
)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), plan=plans, round_=st.integers(0, 3))
def test_any_plan_equals_the_oracle(seed, plan, round_, scored_rankings, as_lists, chance):
    case = scored_rankings(seed)
    mined, report = mine(*case, plan, round_=round_)
    picked, expected = oracle(*case, plan, chance, round_)
    assert as_lists(mined) == picked
    assert report == expected
    empty = mined.rows < 0
    assert (mined.kinds[empty] == 0).all()
    assert not (empty[:, :-1] & ~empty[:, 1:]).any()


@pytest.mark.parametrize("negatives", [1, 4])
def test_the_default_plan_is_the_papers(negatives, random_rankings):
    case = random_rankings(0, 250, 120, 60, 90)
    general, report = mine(*case, MiningPlan(negatives_per_query=negatives, seed=3))
    papers, same = mine_modality_aware(*case, MiningSettings(negatives_per_query=negatives, seed=3))
    for field in dataclasses.fields(MinedNegatives):
        np.testing.assert_array_equal(getattr(general, field.name), getattr(papers, field.name))
    assert report.totals() == same
    assert report.dropped == {}
    assert min(same.wrong_modality, same.unsatisfactory) > 0


@pytest.mark.parametrize(
    "selection", [ModalityAware(probability_none=0.3), TopK(), TopK(k=10, sample=True)], ids=repr
)
def test_a_subset_of_queries_gets_the_same_negatives_and_reports_add_up(selection, random_rankings):
    rankings, modalities, keys = random_rankings(3, 60, 80, 50, 70)
    plan = MiningPlan(selection=selection, filters=[MarginToPositive(0.01)], negatives_per_query=2)
    whole, report = mine(rankings, modalities, keys, plan)
    order = np.random.default_rng(0).permutation(60)
    total = FilteredMiningReport()
    for queries in np.split(order, [7, 8, 40]):
        part, partial = mine(rankings.take(queries), modalities, keys, plan)
        total += partial
        for field in dataclasses.fields(MinedNegatives):
            np.testing.assert_array_equal(getattr(part, field.name), getattr(whole, field.name)[queries])
    assert total == report
    assert report.dropped["margin_to_positive"] > 0


def repeated_query(modalities, times, labelled):
    """One ranking 0, 1, 2, … of candidates that all differ, for many queries of different keys."""
    depth = len(modalities)
    rankings = Rankings(
        rows=np.tile(np.arange(depth), (times, 1)),
        scores=np.tile(np.linspace(1, 0, depth, dtype=np.float32), (times, 1)),
        target_modality=np.ones(times, dtype=np.int64),
        labelled_row=np.full(times, labelled),
        known_rows=np.zeros(0, dtype=np.int64),
        known_offsets=np.zeros(times + 1, dtype=np.int64),
        query_keys=np.arange(times),
    )
    return rankings, np.array(modalities), np.arange(1, depth + 1)


def test_c1_c2_and_in_batch_only_have_their_shares():
    # C1 : C2 : in-batch only of 3 : 1 : 4
    selection = ModalityAware(probability_c1=0.75, probability_none=0.5)
    report = mine(*repeated_query([0] * 40 + [1] * 10, 4000, 40), MiningPlan(selection=selection))[1]
    assert report.wrong_modality + report.unsatisfactory + report.skipped == 4000
    assert report.without_chance == report.without == report.skipped
    assert abs(report.skipped / 4000 - 0.5) < 0.04  # 5 standard deviations
    assert abs(report.wrong_modality / 4000 - 0.375) < 0.04


def test_rounds_draw_independently_of_each_other():
    """Over the rounds every query gets its turn, and both kinds, whatever its first round has drawn."""
    selection = ModalityAware(probability_c1=0.5, probability_none=1 / 3)
    query = repeated_query([0] * 40 + [1] * 10, 4000, 40)
    kinds = np.stack([mine(*query, MiningPlan(selection=selection), round_=n)[0].kinds[:, 0] for n in (0, 1)])
    for first in (NegativeKind.NONE, NegativeKind.WRONG_MODALITY, NegativeKind.UNSATISFACTORY):
        of_second = np.bincount(kinds[1, kinds[0] == first], minlength=3) / (kinds[0] == first).sum()
        assert (abs(of_second - 1 / 3) < 0.065).all()  # 5 standard deviations
    with pytest.raises(ValueError, match="round_ must be at least 0, found -1"):
        mine(*query, MiningPlan(), round_=-1)


def test_the_first_round_draws_what_published_results_were_trained_with():
    """Kinds and ranks written down before rounds had draws of their own."""
    query = repeated_query([0] * 40 + [1] * 10, 12, 40)
    plan = MiningPlan(seed=3, selection=ModalityAware(probability_none=0.25))
    mined = mine(*query, plan)[0]
    assert mined.kinds[:, 0].tolist() == [1, 1, 0, 0, 1, 1, 0, 2, 0, 0, 2, 2]
    assert mined.ranks[:, 0].tolist() == [28, 34, 0, 0, 24, 23, 0, 46, 0, 0, 48, 48]


def test_top_k_takes_the_best_first_and_names_them_by_modality():
    query = repeated_query([1, 0, 1, 0, 1, 0], 1, labelled=2)
    mined, report = mine(*query, MiningPlan(6, 4, selection=TopK()))
    assert mined.ranks.tolist() == [[1, 2, 4, 5]]
    assert [NegativeKind(kind).name for kind in mined.kinds[0]] == [
        "RANKED",  # of the asked modality, above the positive
        "WRONG_MODALITY",
        "RANKED",  # of the wrong one, below it
        "RANKED",
    ]
    assert report.by_kind == {
        NegativeKind.WRONG_MODALITY: 1,
        NegativeKind.UNSATISFACTORY: 0,
        NegativeKind.RANKED: 3,
    }


def test_four_of_the_top_ten_are_sampled_uniformly_behind_filters_and_guard():
    query = repeated_query([1] * 30, 3000, labelled=4)
    plan = MiningPlan(30, 4, selection=TopK(k=10, sample=True), filters=[RankRange(first=3)])
    mined, report = mine(*query, plan)
    counts = np.bincount(mined.ranks.ravel(), minlength=31)
    drawable = [3, 4, *range(6, 14)]  # rank 5 is the positive
    assert counts[drawable].sum() == counts.sum() == 4 * 3000
    assert (abs(counts[drawable] / 3000 - 0.4) < 0.045).all()  # 5 standard deviations
    assert all(len(set(ranks)) == 4 for ranks in mined.ranks.tolist())
    assert (report.guarded, report.dropped) == (3000, {"rank_range": 6000})


def test_query_blocks_do_not_show(monkeypatch, scored_rankings):
    case = scored_rankings(4, queries=50)
    plan = MiningPlan(10, 2, selection=TopK(sample=True), filters=[MaxScore(0.5)])
    whole, report = mine(*case, plan)
    monkeypatch.setattr("mmretrieval.mining.miner._QUERY_BLOCK", 7)
    blocks, same = mine(*case, plan)
    for field in dataclasses.fields(MinedNegatives):
        np.testing.assert_array_equal(getattr(blocks, field.name), getattr(whole, field.name))
    assert report == same


def test_a_report_survives_a_checkpoint(scored_rankings):
    plan = MiningPlan(10, filters=[MaxScore(0.5), SameModality()], selection=ModalityAware(4))
    report = mine(*scored_rankings(4, queries=50), plan)[1]
    assert min(report.dropped["max_score"], report.dropped["same_modality"], report.queries) > 0
    for written in (report, report.totals()):
        state = json.loads(json.dumps(dataclasses.asdict(written)))
        assert type(written)(**state) == written


def test_reports_add_up_by_filter_and_old_ones_are_read():
    one = FilteredMiningReport(queries=2, skipped=1, dropped={"max_score": 3, "rank_range": 0})
    other = FilteredMiningReport(queries=3, dropped={"max_score": 1, "same_modality": 2})
    both = one + other
    assert (both.queries, both.skipped) == (5, 1)
    assert both.dropped == {"max_score": 4, "rank_range": 0, "same_modality": 2}
    assert one.dropped == {"max_score": 3, "rank_range": 0}
    assert MiningReport(queries=1) + MiningReport(queries=1) == MiningReport(queries=2)
    before = {"queries": 4, "wrong_modality": 1, "without_kind": 3}
    assert MiningReport(**before).without == FilteredMiningReport(**before).without == 3
