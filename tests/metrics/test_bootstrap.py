"""Bootstrap intervals: seeded, independent of the company a task is in, and as wide as they should be."""

import numpy as np
import pytest

from mmretrieval.metrics.bootstrap import Bootstrap
from mmretrieval.metrics.evaluation import interval_table


def test_the_interval_of_a_share_is_that_of_the_normal_approximation():
    values = np.zeros(400)
    values[:120] = 1
    bootstrap = Bootstrap(samples=4000)
    low, high = bootstrap.interval(bootstrap.means("task", {"hit@5": values})["hit@5"])
    half = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.005)


def test_draws_depend_on_seed_task_and_values_alone():
    values = {"a": np.arange(30.0), "b": np.arange(30.0) ** 2, "of_all": np.arange(40.0)}
    means = Bootstrap(100).means("task", values)
    assert list(means) == list(values)
    alone = Bootstrap(100).means("task", {"b": values["b"]})
    assert np.array_equal(means["b"], alone["b"])
    assert not np.array_equal(means["b"], Bootstrap(100, seed=1).means("task", values)["b"])
    assert not np.array_equal(means["b"], Bootstrap(100).means("other", values)["b"])


def test_means_are_those_of_an_independent_resampling():
    values = np.random.default_rng(0).random((50, 2))
    means = Bootstrap(200).means("task", {"a": values[:, 0], "b": values[:, 1]})
    # Shared draws: what a and b have in common stays in each sample.
    shifted = Bootstrap(200).means("task", {"a": values[:, 0], "b": values[:, 0] * 2 + 1})
    assert shifted["b"] == pytest.approx(2 * shifted["a"] + 1)
    assert means["a"].std() == pytest.approx(values[:, 0].std() / np.sqrt(50), rel=0.15)


def test_an_average_has_the_interval_of_its_tasks_drawn_apart():
    rng = np.random.default_rng(1)
    tasks = {name: {"mrr": rng.random(100), "hit@1": rng.random(100)} for name in "abcd"}
    del tasks["d"]["hit@1"]
    groups = {"average": tuple("abcd"), "average_single_modal": ("a", "b"), "average_composed": ()}
    table = interval_table(tasks, groups, Bootstrap(2000))
    assert set(table) == {*"abcd", "average", "average_single_modal"}

    def width(task, name):
        low, high = table[task][name]
        return high - low

    alone = np.mean([width(task, "mrr") for task in "abcd"])
    assert width("average", "mrr") == pytest.approx(alone / 2, rel=0.15)
    assert width("average", "hit@1") == pytest.approx(width("a", "hit@1") / np.sqrt(3), rel=0.2)
    assert width("average_single_modal", "mrr") == pytest.approx(alone / np.sqrt(2), rel=0.15)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"level": 1.0}, {"seed": -1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="samples must be at least 1"):
        Bootstrap(**wrong)
