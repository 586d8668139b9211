"""Is one run better than another? Paired tests over queries; pure functions of NumPy arrays.

The randomisation test makes no assumption about how differences are distributed, which suits
measures that are mostly 0 or 1 (Smucker, Allan and Carterette, CIKM 2007, https://doi.org/10.1145/1321440.1321528).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_CHUNK = 2**22  # random numbers that are in memory at a time
_TOLERANCE = 1e-12  # what rounding can make of equal sums, relative to the sum of all differences


def sign_flip_means(differences: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means of the differences with random signs: what to expect if the two runs were interchangeable.

    Equal sizes are drawn together from a binomial distribution, so hit rates of many queries cost little.

    Args:
        differences: ``(Q,)``.
        resamples: How many means to draw.
        rng: Where randomness comes from.

    Shape:
        - output: ``(resamples,)``.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    sums = np.zeros(resamples)
    for size, count in zip(sizes[counts > 1], counts[counts > 1], strict=True):
        sums += size * (2.0 * rng.binomial(count, 0.5, resamples) - count)
    single = sizes[counts == 1]
    step = max(1, _CHUNK // resamples)
    for start in range(0, single.size, step):
        part = single[start : start + step]
        bits = np.unpackbits(np.frombuffer(rng.bytes((part.size * resamples + 7) // 8), np.uint8))
        signs = bits[: part.size * resamples].reshape(part.size, resamples)
        sums += 2.0 * (part @ signs) - part.sum()
    means: Floats = sums / differences.size
    return means


def permutation_test(differences: ArrayLike, *, resamples: int = 10_000, rng: np.random.Generator) -> float:
    """Two-sided p-value of the paired randomisation test of the mean difference.

    All assignments of signs are enumerated where they are no more than ``resamples``; otherwise so many are
    drawn, and the p-value counts the observed one among them: it is never 0.

    Args:
        differences: Measure of one run less that of the other, query by query, ``(Q,)``.
        resamples: How many assignments to draw, at least 1.
        rng: Where randomness comes from.

    Raises:
        ValueError: If there is no difference, one is not finite, or ``resamples`` is not positive.
    """
    values = _checked(differences, resamples)
    moved = values[values != 0]
    if moved.size < resamples.bit_length():  # 2 to the power of their number is at most resamples
        sums = np.zeros(1)
        for value in moved:
            sums = np.concatenate([sums - value, sums + value])
        return float(np.mean(_extreme(sums, moved)))
    drawn = sign_flip_means(values, resamples, rng) * values.size
    return (float(_extreme(drawn, moved).sum()) + 1) / (resamples + 1)


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values of several tests so that the chance of any false finding keeps its bound (Holm, 1979).

    Shape:
        - p_values, output: ``(T,)``.

    Raises:
        ValueError: If a value is not between 0 and 1.
    """
    values = np.asarray(p_values, np.float64)
    if values.ndim != 1 or not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"p-values must be a list of numbers from 0 to 1, found {values}.")
    order = np.argsort(values, kind="stable")
    factors = values.size - np.arange(values.size)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return adjusted


def _extreme(sums: Floats, moved: Floats) -> NDArray[np.bool_]:
    slack = _TOLERANCE * float(np.abs(moved).sum())
    extreme: NDArray[np.bool_] = np.abs(sums) >= abs(float(moved.sum())) - slack
    return extreme


def _checked(differences: ArrayLike, resamples: int) -> Floats:
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError("Differences must be a list of finite numbers, at least one.")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, found {resamples}.")
    return values
