"""The fast matrix products of exact search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mmretrieval.index.measures import Measures
from mmretrieval.index.operands import ROWS, Precision, operand


def product(vectors: Tensor, asked: Tensor, out: Tensor) -> None:
    """Write scores into ``out``, ``(N, Q)``: on a CPU this order is up to 1.7 times as fast as the other."""
    with _full_accumulation():
        if vectors.dtype == torch.float32:
            torch.mm(vectors, asked.T, out=out)
        else:
            out.copy_(torch.mm(vectors, asked.T, out_dtype=torch.float32))


def rounded_product(stored: Tensor, tile: Measures, asked: Tensor, out: Tensor) -> None:
    """Write scores on a CPU into ``out``, ``(N, Q)`` bfloat16: sums in float32, rounded to nearest.

    Args:
        stored: A tile as stored, ``(N, D)``; a few vectors at a time are converted, as all would take as long
            as the products with few queries.
        tile: Its measures for bfloat16.
        asked: Queries as multiplied, ``(Q, D)`` bfloat16.
        out: Where to write.
    """
    with _full_accumulation():
        for vectors, scores in zip(torch.split(stored, ROWS), torch.split(out, ROWS), strict=True):
            torch.mm(operand(vectors, tile.exponent, "bfloat16", tile.centre), asked.T, out=scores)


def fastest(asked_for: Precision, device: torch.device) -> Precision:
    """The type of factors that a device shall multiply.

    Args:
        asked_for: What a GPU multiplies. A CPU takes bfloat16 if it has instructions for it, which are twice
            as fast as those of float32; without them it is many times slower.
        device: Where products are formed.
    """
    if device.type != "cpu":
        return asked_for
    can = torch.cpu.get_capabilities()
    native = can.get("avx512_bf16", False) or can.get("amx_bf16", False)
    has_kernels = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return "bfloat16" if native and has_kernels else "float32"


@contextmanager
def _full_accumulation() -> Iterator[None]:
    """Suspend the reduced precision of products that training may have asked for, and autocast."""
    precision = torch.get_float32_matmul_precision()
    reduced = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = reduced
