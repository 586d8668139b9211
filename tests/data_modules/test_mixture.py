from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_modules.collate import TrainingDataset
from data_modules.corpus import PackedCorpus
from data_modules.formats.records import DataError
from data_modules.mixture import MixtureBatchSampler
from data_modules.mixture_settings import MixtureSettings
from data_modules.mixture_stream import MixtureStream, apportion
from mmretrieval.mining import NegativeTable, Stamp


def stream(sizes=(40, 9, 1), *, batch=8, copies=None, shares=None, **fields):
    task_of = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
    copies = np.ones(len(task_of), np.int32) if copies is None else np.asarray(copies, np.int32)
    counts = np.bincount(task_of, weights=copies)
    shares = counts / counts.sum() if shares is None else np.asarray(shares, np.float64)
    return MixtureStream(task_of, copies, shares, batch, MixtureSettings(batch, **fields)), task_of


def rows(stream, epochs):
    return np.concatenate([stream.batch(e, p) for e in range(epochs) for p in range(len(stream))])


@pytest.fixture
def queries(packed):
    return PackedCorpus(packed).queries("train")


def negatives(queries, *, each=2):
    ids = [str(id_) for id_ in queries.ids[:20]]
    corpus = queries.corpus
    mined = [corpus.candidate_id((7 * n + k) % len(corpus)) for n in range(20) for k in range(each)]
    counts, ones = np.full(20, each), np.ones(20 * each)
    stamp = Stamp("w", 1, "p", "q", 0)
    return NegativeTable(stamp, ids, counts, mined, ones.astype(int), ones.astype(int), ones)


# --- how many of each task

parts = st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any)


@given(parts, st.integers(0, 10_000))
def test_apportioned_parts_sum_up_stay_near_their_share_and_never_shrink(weights, total):
    shares = np.array(weights) / sum(weights)
    counts, more = apportion(total, shares), apportion(total + 1, shares)
    assert counts.sum() == total
    assert more.sum() == total + 1
    assert (more >= counts).all()
    assert (counts[shares == 0] == 0).all()
    assert np.abs(counts - total * shares).max() <= max(1, len(weights))


def test_by_default_an_epoch_shows_every_query_as_often_as_it_has_copies():
    copies = np.random.default_rng(1).integers(1, 4, 50)
    batches = int(copies.sum()) // 7
    mixture, _ = stream(copies=copies, batch=7)
    assert len(mixture) == batches
    missing = copies - np.bincount(rows(mixture, 1), minlength=50)
    assert (missing >= 0).all()
    assert missing.sum() == copies.sum() - 7 * batches  # the rest of a batch begins the next epoch


def test_what_one_epoch_leaves_over_comes_in_the_next():
    mixture, _ = stream((50,), batch=8)
    drawn = rows(mixture, 25)  # 25 epochs of 48 are 24 passes of 50
    assert (np.bincount(drawn, minlength=50) == 24).all()
    for start in range(0, len(drawn), 50):
        assert len(set(drawn[start : start + 50])) == 50
    assert not np.array_equal(drawn[:50], drawn[50:100])


@pytest.mark.parametrize("homogeneous", [False, True])
def test_weights_are_the_shares_of_samples(homogeneous):
    mixture, task_of = stream(
        shares=(0.2, 0.3, 0.5), batch=4, batches_per_epoch=10, seed=3, homogeneous=homogeneous
    )
    for epochs in (1, 3):
        counts = np.bincount(task_of[rows(mixture, epochs)], minlength=3)
        assert counts.tolist() == [8 * epochs, 12 * epochs, 20 * epochs]


def test_a_tiny_task_is_not_rounded_away():
    mixture, task_of = stream((999, 1), batch=10, batches_per_epoch=1)
    assert 9 <= np.count_nonzero(task_of[rows(mixture, 1000)] == 1) <= 11


def test_no_query_of_a_task_comes_twice_before_all_came_once():
    mixture, task_of = stream((40, 9, 1), shares=(0.2, 0.7, 0.1), batch=8, batches_per_epoch=13)
    drawn = rows(mixture, 4)
    for task, size in ((0, 40), (1, 9)):
        mine = drawn[task_of[drawn] == task]
        assert len(mine) > size
        for start in range(0, len(mine), size):
            assert len(set(mine[start : start + size])) == len(mine[start : start + size])


# --- within a batch


def test_homogeneous_batches_hold_one_task_and_all_tasks_come():
    mixture, task_of = stream((40, 20, 12), batch=4, homogeneous=True)
    tasks = [set(task_of[mixture.batch(0, p)]) for p in range(len(mixture))]
    assert all(len(found) == 1 for found in tasks)
    assert set.union(*tasks) == {0, 1, 2}
    mixed, task_of = stream((40, 20, 12), batch=4)
    assert any(len(set(task_of[mixed.batch(0, p)])) > 1 for p in range(len(mixed)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.booleans(), st.integers(24, 60))
def test_a_batch_holds_no_query_twice_even_where_passes_meet(seed, homogeneous, size):
    mixture, _ = stream((size, 30), batch=8, seed=seed, homogeneous=homogeneous)
    for epoch in range(4):
        for position in range(len(mixture)):
            assert len(set(mixture.batch(epoch, position))) == 8


def test_copies_of_a_query_lie_apart():
    copies = np.where(np.arange(200) < 20, 5, 1)
    mixture, _ = stream((200,), copies=copies, batch=28)
    for position in range(len(mixture)):
        assert len(set(mixture.batch(0, position))) == 28


# --- a pure function


@pytest.mark.parametrize("homogeneous", [False, True])
def test_batches_do_not_depend_on_what_was_asked_before(homogeneous):
    fields = {"seed": 5, "homogeneous": homogeneous, "batches_per_epoch": 9}
    inorder, _ = stream((40, 9, 1), **fields)
    expected = {(e, p): inorder.batch(e, p) for e in range(4) for p in range(9)}
    jumping, _ = stream((40, 9, 1), **fields)
    for place in np.random.default_rng(0).permutation([*expected]).tolist():
        assert jumping.batch(*place).tolist() == expected[*place].tolist()


def test_seed_and_epoch_change_the_stream():
    drawn = [rows(stream(seed=seed)[0], 2) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0][:48], drawn[0][48:])


def test_over_a_million_queries_take_a_second_not_minutes():
    sizes = np.full(16, 83_000)
    mixture = MixtureStream(
        np.repeat(np.arange(16, dtype=np.int32), sizes), np.ones(sizes.sum(), np.int32),
        sizes / sizes.sum(), 1024, MixtureSettings(1024),
    )  # fmt: skip
    batches = [mixture.batch(0, p) for p in range(50)]
    assert len(set(np.concatenate(batches).tolist())) == 50 * 1024
    assert len(mixture) == sizes.sum() // 1024


# --- ranks, workers, resume


@pytest.mark.parametrize("homogeneous", [False, True])
def test_two_ranks_share_the_global_batch_of_one(queries, homogeneous):
    def sampler(batch, rank=0, world=1):
        found = MixtureBatchSampler(queries, MixtureSettings(batch, homogeneous=homogeneous), rank, world)
        found.negatives = negatives(queries)
        return found

    one, two = sampler(6), [sampler(3, rank, 2) for rank in range(2)]
    assert len(one) == len(two[0]) == len(two[1]) == 8
    for epoch in range(2):
        for each in (one, *two):
            each.set_epoch(epoch)
        for whole, left, right in zip(one, *two, strict=True):
            assert whole == left + right
            assert len(left) == len(right) == 3
        assert one.state_dict() == two[0].state_dict() == one.state_at(epoch + 1, 0)


def test_iteration_goes_on_where_the_state_was_taken(queries):
    settings = MixtureSettings(5, seed=1)
    first = MixtureBatchSampler(queries, settings)
    expected = [first.batch(epoch, position) for epoch in range(2) for position in range(len(first))]
    assert list(first) == list(first) == expected[: len(first)]
    second = MixtureBatchSampler(queries, settings)
    found = [batch for batch, _ in zip(second, range(4), strict=False)]
    state = second.state_dict()
    assert (state["epoch"], state["samples"]) == (0, 5 * 5)  # zip asks for one more than it yields
    third = MixtureBatchSampler(queries, settings)
    third.load_state_dict(state)
    third.set_epoch(0)  # as Lightning does, after loading
    assert len(list(third)) == len(third) - 5  # an abandoned iterator changes nothing
    found += [expected[4], *third]
    third.set_epoch(1)
    assert found + list(third) == expected


def test_a_state_between_ranks_and_epochs(queries):
    one = MixtureBatchSampler(queries, MixtureSettings(6))
    two = MixtureBatchSampler(queries, MixtureSettings(3), 1, 2)
    two.load_state_dict(one.state_at(2, 3))
    assert (two.epoch, two.position) == (2, 3)
    assert one.state_at(2, len(one))["epoch"] == 3
    assert one.state_at(2, len(one))["samples"] == 0
    other = MixtureBatchSampler(queries, MixtureSettings(6, seed=1))
    with pytest.raises(ValueError, match="18 samples into epoch 2 of another stream"):
        other.load_state_dict(one.state_at(2, 3))
    other.load_state_dict(one.state_at(2, 0))
    assert (other.epoch, other.position) == (2, 0)


# --- instructions and negatives


def test_instructions_vary_over_epochs_and_queries_but_not_over_ranks(queries):
    sampler = MixtureBatchSampler(queries, MixtureSettings(48))
    drawn = {epoch: {item.query: item.instruction for item in sampler.batch(epoch, 0)} for epoch in range(8)}
    assert set(drawn[0].values()) == {0, 1}
    assert drawn[0] != drawn[1]
    counts = Counter(instruction for items in drawn.values() for instruction in items.values())
    assert abs(counts[0] - counts[1]) < 5 * np.sqrt(48 * 8)


def test_samples_use_mined_negatives_of_their_own_query(queries):
    sampler = MixtureBatchSampler(queries, MixtureSettings(48))
    assert all(item.negatives == () for item in sampler.batch(0, 0))
    table = sampler.negatives = negatives(queries)
    seen = {}
    for epoch in range(10):
        for item in sampler.batch(epoch, 0):
            id_ = str(queries.ids[item.query])
            mined = [queries.corpus.candidate_row(c) for c in table.negatives_of(id_)] if id_ in table else []
            assert len(item.negatives) == bool(mined)
            assert set(item.negatives) <= set(mined)
            seen.setdefault(id_, set()).update(item.negatives)
    assert Counter(len(found) for found in seen.values()) == {2: 20, 0: 28}  # each was used in some epoch


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (2, 2), (5, 3)])
def test_as_many_negatives_as_asked_for_and_all_different(queries, asked, given):
    sampler = MixtureBatchSampler(queries, MixtureSettings(48, negatives_per_query=asked))
    sampler.negatives = negatives(queries, each=3)
    found = [
        item.negatives for item in sampler.batch(0, 0) if str(queries.ids[item.query]) in sampler.negatives
    ]
    assert len(found) == 20
    assert all(len(set(rows)) == len(rows) == given for rows in found)


def test_each_positive_of_a_query_is_seen_where_they_are_drawn_and_none_is_a_negative(queries):
    first = MixtureBatchSampler(queries, MixtureSettings(48))
    assert {item.positive for item in first.batch(0, 0)} == {0}
    drawn = MixtureBatchSampler(queries, MixtureSettings(48, positive="drawn"))
    seen = {}
    for epoch in range(20):
        for item in drawn.batch(epoch, 0):
            seen.setdefault(item.query, set()).add(item.positive)
    counts = {row: len(queries.positives(row)) for row in range(48)}
    assert max(counts.values()) > 1
    assert seen == {row: {*range(count)} for row, count in counts.items()}
    (item,) = [item for item in drawn.batch(3, 0) if counts[item.query] > 1 and item.positive][:1]
    sample = TrainingDataset(queries)[item]
    row = int(queries.positives(item.query)[item.positive])
    assert sample.candidate_keys[0] == queries.corpus.candidate_keys[row]
    assert {int(queries.corpus.candidate_keys[p]) for p in queries.positives(item.query)} <= {
        *sample.positive_keys
    }
    with pytest.raises(ValueError, match=r"positive must be one of .* found 'last'"):
        MixtureSettings(48, positive="last")


# --- mistakes


@pytest.mark.parametrize(
    "fields",
    [
        {"batch_size": 0},
        {"global_batch_size": 0},
        {"seed": -1},
        {"batches_per_epoch": 0},
        {"negatives_per_query": -1},
    ],
)
def test_numbers_out_of_range_are_named(fields):
    with pytest.raises(ValueError, match=rf"{next(iter(fields))} must be at least"):
        MixtureSettings(**({"batch_size": 1} | fields))


def test_too_few_queries_for_a_batch_are_refused_unless_they_may_repeat(queries):
    message = "48 training queries do not fill one global batch of 49; lower batch_size, or global_batch_size"
    for asked in (MixtureSettings(49), MixtureSettings(1, global_batch_size=49)):
        with pytest.raises(DataError, match=message):
            MixtureBatchSampler(queries, asked)
    sampler = MixtureBatchSampler(queries, MixtureSettings(49, batches_per_epoch=2))
    assert [len(batch) for batch in sampler] == [49, 49]
    with pytest.raises(ValueError, match="rank=2, world=2"):
        MixtureBatchSampler(queries, MixtureSettings(4), 2, 2)
