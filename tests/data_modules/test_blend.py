"""Shares of tasks and of sources, and the stream that follows them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_modules.blend import blend_of, tempered, unit_shares
from data_modules.corpus import PackedCorpus
from data_modules.formats.records import DataError
from data_modules.mixture import MixtureBatchSampler
from data_modules.mixture_settings import MixtureSettings

COUNTS = np.array([3, 1])


def test_weights_must_fit_the_tasks():
    assert unit_shares("ab", COUNTS, None, "task").tolist() == [0.75, 0.25]
    assert unit_shares("ab", COUNTS, {"b": 3, "a": 0}, "task").tolist() == [0, 1]
    for weights, message in (
        ({"a": 1, "b": 1, "c": 1}, "unknown task c; the data has a, b"),
        ({"a": 1}, "leave out b; give each task"),
        ({"a": 1, "b": -1}, "not negative"),
        ({"a": 0, "b": 0}, "not all 0"),
        ({"a": float("nan"), "b": 1}, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            unit_shares("ab", COUNTS, weights, "task")


def test_tasks_of_a_source_share_its_weight_in_proportion_to_their_queries():
    sources = {"pictures": ["a", "c"], "texts": ["b"]}
    blend = blend_of("abc", np.array([30, 50, 10]), {"pictures": 1, "texts": 3}, sources)
    assert blend.names == ("pictures", "texts")
    assert blend.unit_of.tolist() == [0, 1, 0]
    assert blend.task_shares == pytest.approx({"a": 0.1875, "c": 0.0625, "b": 0.75})
    skipped = blend_of("abc", np.array([30, 50, 10]), {"pictures": 0, "texts": 1}, sources)
    assert skipped.task_shares == {"b": 1.0}


def test_sources_must_list_each_task_once():
    for sources in ({"x": ["a"]}, {"x": ["a", "b"], "y": ["b"]}, {"x": ["a", "b", "c"]}):
        with pytest.raises(ValueError, match="list each task once"):
            blend_of("ab", COUNTS, None, sources)
    with pytest.raises(ValueError, match="unknown source z"):
        blend_of("ab", COUNTS, {"x": 1, "z": 1}, {"x": "ab"})


def test_a_weighted_unit_without_queries_is_refused():
    with pytest.raises(DataError, match="b has a weight but no queries; set its weight to 0"):
        blend_of("ab", np.array([4, 0]), {"a": 1, "b": 1}, None)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=9), st.floats(1, 50), st.floats(0, 1))
def test_temperature_flattens_and_keeps_the_order(counts, temperature, share):
    named = {str(number): count for number, count in enumerate(counts)}
    cold, warm = tempered(named, 1, share), tempered(named, temperature, share)
    assert sum(warm.values()) == pytest.approx(share)
    assert cold == pytest.approx({name: share * count / sum(counts) for name, count in named.items()})
    assert max(warm.values()) <= max(cold.values()) + 1e-12
    values = [warm[name] for name in sorted(named, key=lambda name: named[name])]
    assert values == pytest.approx(sorted(values))


def test_wrong_temperatures_are_refused():
    for temperature, share in ((0.5, 0.5), (float("nan"), 0.5), (1, 1.5)):
        with pytest.raises(ValueError, match="temperature must be at least 1"):
            tempered({"a": 1}, temperature, share)


@pytest.fixture
def queries(packed):
    return PackedCorpus(packed).queries("train")


@pytest.mark.parametrize("homogeneous", [False, True])
def test_each_query_of_a_source_comes_once_in_a_pass(queries, homogeneous):
    first, *others = queries.tasks
    sources, weights = {"one": [first], "rest": others}, {"one": 1, "rest": 3}
    settings = MixtureSettings(
        4, weights=weights, sources=sources, homogeneous=homogeneous, batches_per_epoch=8
    )
    sampler = MixtureBatchSampler(queries, settings)
    batches = [[item.query for item in sampler.batch(epoch, n)] for epoch in range(12) for n in range(8)]
    units = np.where(queries.task_of == 0, 0, 1)
    drawn = [[int(units[row]) for row in batch] for batch in batches]
    assert np.mean(np.concatenate(drawn)) == pytest.approx(0.75, abs=0.011), "the asked share"
    assert all(len({*batch}) == 1 for batch in drawn) or not homogeneous
    for unit in (0, 1):
        members = np.flatnonzero(units == unit)
        order = [row for batch in batches for row in batch if units[row] == unit]
        whole = len(order) // len(members)
        assert whole >= 2
        for number in range(whole):
            part = order[number * len(members) : (number + 1) * len(members)]
            assert sorted(part) == members.tolist()
    tasks = Counter(queries.tasks[queries.task_of[row]] for batch in batches for row in batch)
    total = sum(tasks.values())
    for task, share in sampler.shares.items():
        assert tasks[task] / total == pytest.approx(share, abs=0.03)
