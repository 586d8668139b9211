"""Factors of a fast matrix product, and how far its results can be from the exact ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmretrieval.index.base import Labels

Precision = Literal["float32", "bfloat16"]

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
ROWS = 1_024
"""Vectors that are converted at a time: they fit a processor's cache."""


@dataclass(frozen=True)
class Queries:
    """A block of queries.

    Args:
        stored: As given, ``(Q, D)``.
        values: As multiplied: scaled by powers of two so that each row's largest number is near 1, and then
            rounded.
        exponents: The powers of two, ``(Q, 1)`` int32.
        norms: Norm of each row of ``values``, ``(Q,)`` float64.
        errors: Norm of what rounding took from each row, ``(Q,)`` float64.
        precision: Type of ``values``.
    """

    stored: Tensor
    values: Tensor
    exponents: Tensor
    norms: Tensor
    errors: Tensor
    precision: Precision

    def __getitem__(self, rows: Tensor) -> Queries:
        return Queries(
            self.stored[rows],
            self.values[rows],
            self.exponents[rows],
            self.norms[rows],
            self.errors[rows],
            self.precision,
        )


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


def prepared(stored: Tensor, precision: Precision) -> Queries:
    """Prepare queries for products with many tiles.

    Args:
        stored: Float16, float32 or float64 numbers, ``(Q, D)``.
        precision: Type of the product's factors.

    Raises:
        ValueError: If a number is not finite.
    """
    largest = _largest(stored, dim=1)
    if not bool(largest.isfinite().all()):
        raise ValueError(
            f"queries row {int(largest.isfinite().long().argmin())} holds NaN or infinite values."
        )
    exponents = torch.frexp(largest.double())[1][:, None]
    scaled = times_power(stored.double(), -exponents)
    values = _rounded(scaled, precision)
    errors = torch.linalg.vector_norm(scaled - values.double(), dim=1)
    norms = torch.linalg.vector_norm(values.double(), dim=1)
    return Queries(stored, values, exponents, norms, errors, precision)


def measure(stored: Tensor, precision: Precision, labels: Labels) -> Measures:
    """Measure a tile.

    Args:
        stored: Float16, float32 or float64 numbers, ``(N, D)``.
        precision: Type of the product's factors.
        labels: Label of each vector, to name one that is not finite.

    Raises:
        ValueError: If a number is not finite.
    """
    largest = float(_largest(stored))
    if not largest < float("inf"):
        row = int(_largest(stored, dim=1).isfinite().long().argmin())
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
    parts = [_scaled(part, exponent).sum(dim=0) for part in torch.split(stored, ROWS)]
    mean = torch.stack(parts).sum(dim=0) / len(stored)
    centre = mean.float().double()
    return centre if bool(centre.norm() > _FAR * _largest_norm(_scaled(stored[:ROWS], exponent))) else None


def _norms(stored: Tensor, exponent: int, precision: Precision, centre: Tensor | None) -> tuple[float, float]:
    """The largest norm of a scaled and centred vector, and of what rounding takes from one."""
    if centre is None and not exponent and stored.dtype != torch.float64:
        if precision == "float32":
            return _largest_norm(stored), 0.0
        exact = stored.float()  # holds all digits of what is lost between it and bfloat16
    else:
        exact = _scaled(stored, exponent) - (0.0 if centre is None else centre)
    lost = exact - operand(stored, exponent, precision, centre).to(exact.dtype)
    return _largest_norm(exact), _largest_norm(lost)


def _largest_norm(vectors: Tensor) -> float:
    # Converted first: a norm that converts by itself takes twice as long.
    return float(torch.linalg.vector_norm(vectors.double(), dim=1).max())


def operand(stored: Tensor, exponent: int, precision: Precision, centre: Tensor | None = None) -> Tensor:
    """A tile as it is multiplied, ``(N, D)``."""
    scaled = _scaled(stored, exponent) if exponent else stored
    if centre is not None:
        scaled = scaled - (centre if scaled.dtype == torch.float64 else centre.float())
    return _rounded(scaled, precision)


def shift(asked: Queries, tile: Measures) -> Tensor | float:
    """By how much more exact scores of scaled factors are than what the product approximates, ``(Q, 1)``."""
    if tile.centre is None:
        return 0.0
    return times_power(asked.stored.double(), -asked.exponents) @ tile.centre[:, None]


def error_bound(asked: Queries, tile: Measures) -> Tensor:
    """How far each query's approximate scores of a tile can be from the exact ones, ``(Q,)`` float64.

    Rounded sums of D products, in any order, are off by gamma_D = D·u / (1 - D·u) times the norms (Higham,
    2002, Accuracy and Stability of Numerical Algorithms, section 3.1). By Cauchy-Schwarz, rounding the
    factors costs the norm of what it took away times the norm of the other factor.
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


def times_power(numbers: Tensor, exponents: Tensor) -> Tensor:
    """Multiply float64 numbers by powers of two, which by themselves may be out of range."""
    third = exponents // 3
    step = torch.exp2(third.double())
    return numbers * step * step * torch.exp2((exponents - 2 * third).double())


def _largest(matrix: Tensor, dim: int | None = None) -> Tensor:
    """The largest magnitude, NaN if there is one, of all or of each row."""
    if dim is None:
        low, high = torch.aminmax(matrix)
    else:
        low, high = torch.aminmax(matrix, dim=dim)
    return torch.maximum(-low, high)


def _scaled(stored: Tensor, exponent: int) -> Tensor:
    if not exponent:
        return stored.double()
    return times_power(stored.double(), torch.tensor(-exponent, device=stored.device))


def _rounded(matrix: Tensor, precision: Precision) -> Tensor:
    return matrix.to(torch.float32 if precision == "float32" else torch.bfloat16)
