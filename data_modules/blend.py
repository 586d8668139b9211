"""What a training stream blends: single tasks, or sources of several tasks, each with its share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_modules.formats.records import DataError

Ints = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


class Blend(NamedTuple):
    """Units that have weights, and whose queries come once each in a pass.

    Args:
        names: Of the units.
        unit_of: Unit of each task, ``(T,)``.
        shares: Share of the samples that each unit gets, ``(U,)`` with sum 1.
        task_shares: Task → share of the samples, without tasks that get none: a unit's tasks share its
            samples in proportion to their numbers of queries.
    """

    names: tuple[str, ...]
    unit_of: Ints
    shares: Shares
    task_shares: dict[str, float]


def blend_of(
    tasks: Sequence[str],
    counts: Ints,
    weights: Mapping[str, float] | None,
    sources: Mapping[str, Sequence[str]] | None,
) -> Blend:
    """Return how tasks blend.

    Args:
        tasks: Names of the tasks.
        counts: How many queries each has.
        weights: Share of each unit, >= 0 and normalised; ``None``: in proportion to their queries.
        sources: Name of a source → its tasks; each task is in exactly one. ``None``: each task is a unit.

    Raises:
        ValueError: If weights or sources do not fit the tasks.
        DataError: If a unit with a weight has no queries.
    """
    names = tuple(tasks if sources is None else sources)
    unit_of = np.arange(len(tasks)) if sources is None else _units(tasks, sources)
    sizes = np.bincount(unit_of, weights=counts, minlength=len(names)).astype(np.int64)
    shares = unit_shares(names, sizes, weights, "task" if sources is None else "source")
    if (empty := np.flatnonzero((shares > 0) & (sizes == 0))).size:
        raise DataError(f"{names[empty[0]]} has a weight but no queries; set its weight to 0")
    own = shares[unit_of] * counts / np.maximum(sizes[unit_of], 1)
    return Blend(
        names,
        unit_of,
        shares,
        {task: float(share) for task, share in zip(tasks, own, strict=True) if share},
    )


def unit_shares(names: Sequence[str], counts: Ints, weights: Mapping[str, float] | None, kind: str) -> Shares:
    """Return the share of the samples that each unit gets; they sum to 1.

    Args:
        names: Of the units.
        counts: How many queries each has.
        weights: As for :func:`blend_of`.
        kind: What messages call a unit.

    Raises:
        ValueError: If weights name an unknown unit or leave one out, or are negative, infinite or all 0.
    """
    if weights is None:
        return np.asarray(counts / counts.sum(), np.float64)
    known = f"the data has {', '.join(names)}"
    if unknown := sorted(weights.keys() - set(names)):
        raise ValueError(f"weights name the unknown {kind} {', '.join(unknown)}; {known}.")
    if missing := [name for name in names if name not in weights]:
        raise ValueError(f"weights leave out {', '.join(missing)}; give each {kind} a weight, 0 to skip it.")
    values = np.array([weights[name] for name in names], np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise ValueError(f"weights must be finite, not negative and not all 0, found {dict(weights)}.")
    return np.asarray(values / values.sum(), np.float64)


def tempered(counts: Mapping[str, int], temperature: float, share: float) -> dict[str, float]:
    """Return shares in proportion to the counts to the power of 1 / temperature.

    Args:
        counts: Name → number of queries.
        temperature: 1 is in proportion, larger ones give small sets more; infinity gives all the same.
        share: Sum of the shares.

    Raises:
        ValueError: If the temperature is below 1, or the share is not between 0 and 1.
    """
    if not temperature >= 1 or not 0 <= share <= 1:
        raise ValueError(
            f"temperature must be at least 1 and share between 0 and 1, found {temperature} and {share}."
        )
    powers = {name: float(count) ** (1 / temperature) for name, count in counts.items()}
    total = sum(powers.values())
    return {name: share * power / total for name, power in powers.items()}


def _units(tasks: Sequence[str], sources: Mapping[str, Sequence[str]]) -> Ints:
    unit_of = {task: number for number, own in enumerate(sources.values()) for task in own}
    listed = [task for own in sources.values() for task in own]
    if len(listed) != len(unit_of) or unit_of.keys() != {*tasks}:
        raise ValueError(
            f"sources must list each task once, found {', '.join(sorted(listed))}; the data has "
            f"{', '.join(tasks)}."
        )
    return np.array([unit_of[task] for task in tasks], np.int64)
