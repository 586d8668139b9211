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
    """

    exponent: int
    largest: float
    norm: float
    error: float


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
    norms, errors = zip(
        *(_norms(part, exponent, precision) for part in torch.split(stored, ROWS)), strict=True
    )
    # What is multiplied is longer than what is stored by at most what rounding changed.
    error = max(errors)
    return Measures(exponent, max(1.0, largest * 2.0**-exponent), max(norms) + error, error)


def _norms(stored: Tensor, exponent: int, precision: Precision) -> tuple[float, float]:
    """The largest norm of a scaled vector, and of what rounding takes from one."""
    exact = _scaled(stored, exponent) if exponent else stored
    norm = _largest_norm(exact)
    if precision == "float32" and exact.dtype != torch.float64:
        return norm, 0.0
    # A difference in the wider type of the two, of which float32 holds all digits, too.
    wide = exact if exact.dtype == torch.float64 else exact.float()
    return norm, _largest_norm(wide - _rounded(exact, precision))


def _largest_norm(vectors: Tensor) -> float:
    # Converted first: a norm that converts by itself takes twice as long.
    return float(torch.linalg.vector_norm(vectors.double(), dim=1).max())


def operand(stored: Tensor, exponent: int, precision: Precision) -> Tensor:
    """A tile as it is multiplied, ``(N, D)``."""
    return _rounded(_scaled(stored, exponent) if exponent else stored, precision)


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
    return (product + factors) * _SLACK + 4 * dim * _SMALLEST * tile.largest + lost


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
    return times_power(stored.double(), torch.tensor(-exponent, device=stored.device))


def _rounded(matrix: Tensor, precision: Precision) -> Tensor:
    return matrix.to(torch.float32 if precision == "float32" else torch.bfloat16)
