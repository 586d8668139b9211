"""Bootstrap intervals of means over queries, the same on every machine and for any order of the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_CHUNK = 2**22  # random numbers that are in memory at a time
_DIGITS = 9  # sums of another order, as with other threads, differ far behind


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals from queries drawn with replacement (Efron, 1979, https://doi.org/10.1214/aos/1176344552).

    Args:
        samples: How many times all queries are drawn, at least 1.
        level: Share of the samples' means within the interval, between 0 and 1.
        seed: Of the draws, at least 0.

    Raises:
        ValueError: If a value is out of range.
    """

    samples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.seed < 0 or not 0 < self.level < 1:
            raise ValueError(
                "samples must be at least 1, level between 0 and 1, and seed at least 0, "
                f"found {self.samples}, {self.level} and {self.seed}."
            )

    def means(self, task: str, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """The mean of each measure in each sample; measures of the same queries share their draws.

        Args:
            task: Its name; the draws depend on it and on the seed alone.
            values: Name of the measure → its value for each query, at least one.

        Shape:
            - values: ``(Q,)`` each, output: ``(samples,)`` each.
        """
        found: dict[str, Floats] = {}
        for size in dict.fromkeys(len(column) for column in values.values()):
            names = [name for name, column in values.items() if len(column) == size]
            columns = self._means(task, np.stack([values[name] for name in names], axis=1))
            found |= dict(zip(names, columns.T, strict=True))
        return {name: found[name] for name in values}

    def interval(self, means: Floats) -> Interval:
        """The interval of a measure.

        Args:
            means: Its mean in each sample, from :meth:`means`, or what was made of several.
        """
        low, high = percentile_interval(means, self.level)
        return Interval(round(low, _DIGITS), round(high, _DIGITS))

    def _means(self, task: str, values_qm: Floats) -> Floats:
        size = len(values_qm)
        digest = blake2b(f"{self.seed}\0{task}\0{size}".encode(), digest_size=16).digest()
        draws = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
        means = np.empty((self.samples, values_qm.shape[1]))
        for sample in range(self.samples):
            counts = np.bincount(draws.integers(size, size=size), minlength=size)
            means[sample] = counts @ values_qm
        return means / size


def mean_of(means: Sequence[Floats]) -> Floats:
    """The mean over tasks in each sample, each task with the same weight.

    Args:
        means: Of each task, at least one, ``(samples,)`` each.
    """
    mean: Floats = np.mean(np.stack(means), axis=0)
    return mean


def bootstrap_means(differences: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means of queries drawn with replacement.

    Args:
        differences: ``(Q,)``, at least one.
        resamples: How many means to draw.
        rng: Where randomness comes from.

    Shape:
        - output: ``(resamples,)``.
    """
    values, counts = np.unique(differences, return_counts=True)
    size = differences.size
    if values.size <= size // 8:  # then drawing how often each value occurs is the cheaper way
        drawn = [
            rng.multinomial(size, counts / size, part) @ values for part in _parts(resamples, values.size)
        ]
    else:
        drawn = [
            differences[rng.integers(size, size=(part, size))].sum(axis=1) for part in _parts(resamples, size)
        ]
    means: Floats = np.concatenate(drawn) / size
    return means


def percentile_interval(means: Floats, level: float = 0.95) -> Interval:
    """The central part of drawn means.

    Raises:
        ValueError: If the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval must be between 0 and 1, found {level}.")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _parts(total: int, width: int) -> list[int]:
    """Numbers of resamples that fit into a chunk, and sum up to the total."""
    step = max(1, _CHUNK // width)
    return [min(step, total - start) for start in range(0, total, step)]
