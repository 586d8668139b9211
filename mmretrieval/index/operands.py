"""Factors of a fast matrix product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16"]

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


def prepared(stored: Tensor, precision: Precision) -> Queries:
    """Prepare queries for products with many tiles.

    Args:
        stored: Float16, float32 or float64 numbers, ``(Q, D)``.
        precision: Type of the product's factors.

    Raises:
        ValueError: If a number is not finite.
    """
    largest = largest_of(stored, dim=1)
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


def operand(stored: Tensor, exponent: int, precision: Precision, centre: Tensor | None = None) -> Tensor:
    """A tile as it is multiplied, ``(N, D)``."""
    scaled = scaled_by(stored, exponent) if exponent else stored
    if centre is not None:
        scaled = scaled - (centre if scaled.dtype == torch.float64 else centre.float())
    return _rounded(scaled, precision)


def times_power(numbers: Tensor, exponents: Tensor) -> Tensor:
    """Multiply float64 numbers by powers of two, which by themselves may be out of range."""
    third = exponents // 3
    step = torch.exp2(third.double())
    return numbers * step * step * torch.exp2((exponents - 2 * third).double())


def largest_of(matrix: Tensor, dim: int | None = None) -> Tensor:
    """The largest magnitude, NaN if there is one, of all or of each row."""
    if dim is None:
        low, high = torch.aminmax(matrix)
    else:
        low, high = torch.aminmax(matrix, dim=dim)
    return torch.maximum(-low, high)


def scaled_by(stored: Tensor, exponent: int) -> Tensor:
    """A tile divided by a power of two, in float64."""
    if not exponent:
        return stored.double()
    return times_power(stored.double(), torch.tensor(-exponent, device=stored.device))


def _rounded(matrix: Tensor, precision: Precision) -> Tensor:
    return matrix.to(torch.float32 if precision == "float32" else torch.bfloat16)
