"""Rounds come when they are due, and their subsets cover everything in turn."""

import numpy as np
import pytest

from callbacks.mining_schedule import MiningSchedule, RoundSubset


def steps_of(schedule, epochs=6, length=10):
    """The steps at which a run of equal epochs mines."""
    mined = []
    for step in range(1, epochs * length + 1):
        last = step == epochs * length
        left = schedule.steps_left(step, mined[-1] if mined else None)
        if left is not None and left <= 0 and not last:
            mined.append(step)
        if step % length == 0 and schedule.is_due(
            step // length, step, mined[-1] if mined else None, last=last
        ):
            mined.append(step)
    return mined


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, [10, 20, 30, 40, 50]),
        ({"every_n_epochs": 2}, [20, 40]),
        ({"every_n_steps": 25}, [25, 50]),
        ({"every_n_steps": 20, "every_n_epochs": None}, [20, 40]),
        ({"first_step": 25}, [30, 40, 50]),
        ({"first_step": 25, "every_n_steps": 20}, [25, 45]),
        ({"every_n_steps": 30, "after_training": True}, [30, 60]),
        ({"every_n_epochs": None, "after_training": True}, [60]),
    ],
)
def test_rounds_come_when_they_are_due(settings, steps):
    assert steps_of(MiningSchedule(**settings)) == steps


def test_epochs_and_steps_are_not_both_given():
    with pytest.raises(ValueError, match="every_n_steps is 5 and every_n_epochs 2: give one of them"):
        MiningSchedule(every_n_epochs=2, every_n_steps=5)


@pytest.mark.parametrize("settings", [{"every_n_epochs": 0}, {"every_n_steps": 0}, {"first_step": -1}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        MiningSchedule(**settings)
    with pytest.raises(ValueError, match="queries of a round must be at least 1, found 0"):
        RoundSubset(queries=0)


def test_each_query_has_its_turn_before_any_has_its_second():
    subset = RoundSubset(queries=4, seed=1)
    rounds = [subset.queries_of(number, 10) for number in range(5)]
    assert all(len(rows) == 4 and (np.diff(rows) > 0).all() for rows in rounds)
    counts = np.bincount(np.concatenate(rounds), minlength=10)
    assert counts.tolist() == [2] * 10
    assert RoundSubset(queries=99).queries_of(3, 10).tolist() == list(range(10))
    assert RoundSubset().queries_of(3, 10).tolist() == list(range(10))


def test_candidates_are_drawn_anew_and_positives_of_the_pool_are_there():
    pool, positives = np.arange(100, 200), np.array([5, 150, 151])
    subset = RoundSubset(candidates=20)
    first, second = (subset.candidates_of(number, pool, positives) for number in range(2))
    for rows in (first, second):
        assert {150, 151} <= {*rows.tolist()} <= {*pool.tolist()}
        assert 20 <= len(rows) <= 22
        assert (np.diff(rows) > 0).all()
    assert first.tolist() != second.tolist()
    assert first.tolist() == subset.candidates_of(0, pool, positives).tolist()
    assert RoundSubset().candidates_of(0, pool[::-1], positives).tolist() == pool.tolist()


def test_rounds_may_come_after_given_steps_alone():
    assert steps_of(MiningSchedule(at_steps=[20, 60])) == [20, 60]
    assert steps_of(MiningSchedule(every_n_epochs=1, at_steps=[])) == []
    assert steps_of(MiningSchedule(at_steps=[20, 55, 7])) == [7, 20, 55], "wherever in an epoch"


def test_given_steps_count_alone_whatever_the_rest_says():
    rest = {"every_n_steps": 5, "first_step": 30, "after_training": True, "before_training": True}
    schedule = MiningSchedule(at_steps=[10, 27], **rest)
    assert steps_of(schedule) == [10, 27]
    assert not schedule.begins
    assert MiningSchedule(at_steps=[0, 9]).begins
    assert schedule.steps_left(27, 27) is None, "no round is to come"


def test_given_steps_without_a_round_are_named():
    schedule = MiningSchedule(at_steps=[30, 10, 20])
    assert schedule.missed([10]) == [20, 30]
    assert schedule.missed([10, 20, 30]) == []
    assert MiningSchedule().missed([]) == []
    with pytest.raises(ValueError, match=r"at_steps must be at least 0 each, found \[3, -1\]"):
        MiningSchedule(at_steps=[3, -1])
