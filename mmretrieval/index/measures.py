"""How far the results of a fast matrix product can be from the exact ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmretrieval.index.base import Labels
from mmretrieval.index.operands import ROWS, Precision, Queries, largest_of, operand, scaled_by, times_power

_UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-22}
"""Largest relative error of an addition; tensor cores truncate, some a bit earlier than float32 does."""
_UNIT_DOUBLE = 2.0**-53
_FAR = 0.4
"""Centres nearer to zero than this share of a norm are not worth a subtraction."""
_SMALLEST = 2.0**-126
"""Normal float32 numbers begin here; what is smaller may be lost, at once or in a sum."""
_SMALLEST_DOUBLE = 2.0**-1074
"""The smallest float64 number: what products of tiny float64 numbers may lose each."""
_SAFE_EXPONENT = 40
"""Vectors up to 2 to this power, or down to its inverse, are multiplied without being scaled."""
_SLACK = 1.0001
"""Norms and bounds are rounded, too."""


@dataclass(frozen=True)
class Measures:
    """What the bound needs to know of a tile.

    Args:
        exponent: The power of two by which it is divided.
        largest: Its largest number then, or 1 if that is larger.
        norm: The largest norm of a vector as multiplied.
        error: The largest norm of what rounding took from a vector.
        centre: What is subtracted from each vector before it is rounded, ``(D,)`` float64, or nothing. It
            changes all scores of a query by the same, and what is left is nearer to zero.
    """

    exponent: int
    largest: float
    norm: float
    error: float
    centre: Tensor | None = None


def measure(stored: Tensor, precision: Precision, labels: Labels) -> Measures:
    """Measure a tile.

    Args:
        stored: Float16, float32 or float64 numbers, ``(N, D)``.
        precision: Type of the product's factors.
        labels: Label of each vector, to name one that is not finite.

    Raises:
        ValueError: If a number is not finite.
    """
    largest = float(largest_of(stored))
    if not largest < float("inf"):
        row = int(largest_of(stored, dim=1).isfinite().long().argmin())
        raise ValueError(
            f"The vector of label {labels[row]} holds NaN or infinite values, which are not numbers."
        )
    exponent = int(torch.frexp(torch.tensor(largest, dtype=torch.float64))[1])
    if abs(exponent) <= _SAFE_EXPONENT:
        exponent = 0
    centre = _centre(stored, exponent) if precision == "bfloat16" and not stored.is_cuda else None
    parts = torch.split(stored, ROWS)
    norms, errors = zip(*(_norms(part, exponent, precision, centre) for part in parts), strict=True)
    # What is multiplied is longer than what is stored by at most what rounding changed.
    error = max(errors)
    return Measures(exponent, max(1.0, largest * 2.0**-exponent), max(norms) + error, error, centre)


def _centre(stored: Tensor, exponent: int) -> Tensor | None:
    """The mean vector, if without it vectors are much shorter."""
    parts = [scaled_by(part, exponent).sum(dim=0) for part in torch.split(stored, ROWS)]
    mean = torch.stack(parts).sum(dim=0) / len(stored)
    centre = mean.float().double()
    return centre if bool(centre.norm() > _FAR * _largest_norm(scaled_by(stored[:ROWS], exponent))) else None


def _norms(stored: Tensor, exponent: int, precision: Precision, centre: Tensor | None) -> tuple[float, float]:
    """The largest norm of a scaled and centred vector, and of what rounding takes from one."""
    if centre is None and not exponent and stored.dtype != torch.float64:
        if precision == "float32":
            return _largest_norm(stored), 0.0
        exact = stored.float()  # holds all digits of what is lost between it and bfloat16
    else:
        exact = scaled_by(stored, exponent) - (0.0 if centre is None else centre)
    lost = exact - operand(stored, exponent, precision, centre).to(exact.dtype)
    return _largest_norm(exact), _largest_norm(lost)


def _largest_norm(vectors: Tensor) -> float:
    # Converted first: a norm that converts by itself takes twice as long.
    return float(torch.linalg.vector_norm(vectors.double(), dim=1).max())


def shift(asked: Queries, tile: Measures) -> Tensor | float:
    """By how much more exact scores of scaled factors are than what the product approximates, ``(Q, 1)``."""
    if tile.centre is None:
        return 0.0
    return times_power(asked.stored.double(), -asked.exponents) @ tile.centre[:, None]


def error_bound(asked: Queries, tile: Measures) -> Tensor:
    """How far each query's approximate scores of a tile can be from the exact ones, ``(Q,)`` float64.

    Rounded sums of D products, in any order, are off by gamma_D = D·u / (1 - D·u) times the norms (Higham,
    2002, Accuracy and Stability of Numerical Algorithms, section 3.1). By Cauchy-Schwarz, rounding the
    factors costs the norm of what it took away times the norm of the other factor. A few sums in float64,
    of a centre's scores and of the exact ones, are off likewise.
    """
    dim = asked.values.shape[1]
    rounding = dim * _UNIT[asked.precision]
    gamma = rounding / (1 - rounding)
    product = gamma * asked.norms * tile.norm
    factors = asked.errors * tile.norm + (asked.norms + asked.errors) * tile.error
    lost = times_power(
        torch.full_like(asked.norms, dim * _SMALLEST_DOUBLE), -asked.exponents[:, 0] - tile.exponent
    )
    far = 0.0 if tile.centre is None else float(tile.centre.norm())
    in_double = 4 * dim * _UNIT_DOUBLE * (asked.norms + asked.errors) * (far + tile.norm)
    return (product + factors + in_double) * _SLACK + 8 * dim * _SMALLEST * tile.largest + lost
