"""Two runs over the same queries, task by task: means, difference, significance."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mmretrieval.metrics.bootstrap import Interval, bootstrap_means, percentile_interval
from mmretrieval.metrics.significance import Floats, holm, permutation_test, sign_flip_means


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """One task, or an average over tasks.

    Args:
        queries: How many queries were compared.
        mean_a: Mean of the first run.
        mean_b: Mean of the second run.
        interval: Bootstrap interval of the mean of B less A.
        p_value: Of the two-sided paired randomisation test.
        p_holm: The same, corrected for the number of tasks; averages are not corrected.
    """

    queries: int
    mean_a: float
    mean_b: float
    interval: Interval
    p_value: float
    p_holm: float

    @property
    def difference(self) -> float:
        """Mean of B less A."""
        return self.mean_b - self.mean_a


@dataclass(frozen=True, slots=True)
class Resampling:
    """How differences are tested.

    Args:
        resamples: Permutations and bootstrap samples of each task, at least 1.
        seed: The same seed gives the same numbers, whatever other tasks there are.
        level: Coverage of the intervals.
    """

    resamples: int = 10_000
    seed: int = 0
    level: float = 0.95


def compare_tasks(
    a: Mapping[str, Floats], b: Mapping[str, Floats], how: Resampling
) -> dict[str, TaskComparison]:
    """Compare two runs in the tasks that ``a`` has; p-values are corrected over these tasks.

    Args:
        a: Task → measure of each query in the first run, ``(Q,)``.
        b: The same of the second run, in the same order of queries.
        how: How to test.

    Raises:
        ValueError: If a task has other numbers of queries, or none.
    """
    compared = {}
    for task in a:
        differences = _differences(task, a[task], b[task])
        rng = _rng(task, how)
        p_value = permutation_test(differences, resamples=how.resamples, rng=rng)
        interval = percentile_interval(bootstrap_means(differences, how.resamples, rng), how.level)
        means = float(a[task].mean()), float(b[task].mean())
        compared[task] = TaskComparison(differences.size, *means, interval, p_value, p_value)
    corrected = holm([one.p_value for one in compared.values()]).tolist()
    return {
        task: replace(one, p_holm=p_holm)
        for (task, one), p_holm in zip(compared.items(), corrected, strict=True)
    }


def compare_average(a: Mapping[str, Floats], b: Mapping[str, Floats], how: Resampling) -> TaskComparison:
    """Compare the means over tasks, each with the same weight; queries are resampled within their tasks.

    Raises:
        ValueError: As :func:`compare_tasks`.
    """
    tasks = {task: _differences(task, a[task], b[task]) for task in a}
    rng = _rng("average", how)
    flipped, drawn = np.zeros(how.resamples), np.zeros(how.resamples)
    for differences in tasks.values():
        flipped += sign_flip_means(differences, how.resamples, rng)
        drawn += bootstrap_means(differences, how.resamples, rng)
    observed = sum(float(differences.mean()) for differences in tasks.values())
    p_value = (float(np.sum(np.abs(flipped) >= abs(observed) - 1e-12)) + 1) / (how.resamples + 1)
    mean_a, mean_b = (float(np.mean([values[task].mean() for task in tasks])) for values in (a, b))
    queries = sum(differences.size for differences in tasks.values())
    interval = percentile_interval(drawn / len(tasks), how.level)
    return TaskComparison(queries, mean_a, mean_b, interval, p_value, p_value)


def _differences(task: str, a: Floats, b: Floats) -> Floats:
    if a.shape != b.shape or not a.size:
        raise ValueError(f"{task}: the runs have {a.shape} and {b.shape} queries; compare the same ones.")
    return b - a


def _rng(task: str, how: Resampling) -> np.random.Generator:
    return np.random.default_rng([how.seed, zlib.crc32(task.encode())])
