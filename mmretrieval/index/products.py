"""Matrix products of search: in full precision whatever training uses, by the fastest library there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor

_ROWS, _QUERIES, _DIM = 8_192, 128, 256  # of the trial: large enough for all threads, done in milliseconds
_TRIALS = 3

CPUProduct = Callable[[Tensor, Tensor, Tensor], None]
"""Writes scores of float32 vectors and queries into its third argument, as :func:`product`."""


def product(vectors: Tensor, asked: Tensor, out: Tensor) -> None:
    """Write scores into ``out``, ``(N, Q)``: on a CPU this order is up to 1.7 times as fast as the other.

    Args:
        vectors: Float32 or bfloat16, ``(N, D)``.
        asked: Queries of the same type, ``(Q, D)``.
        out: Float32, ``(N, Q)``.
    """
    with _full_accumulation():
        if vectors.is_cuda and vectors.dtype != torch.float32:
            out.copy_(torch.mm(vectors, asked.T, out_dtype=torch.float32))
        elif vectors.is_cuda:
            torch.mm(vectors, asked.T, out=out)
        else:  # a CPU would round the product of bfloat16 numbers to bfloat16, too
            cpu_product()(vectors.float(), asked.float(), out)


@cache
def cpu_product() -> CPUProduct:
    """The faster of torch's and NumPy's float32 product, tried once a process.

    They bring different libraries (MKL and OpenBLAS in the usual wheels), of which either can be several
    times slower than the other on a processor that it does not know. The scores' last bits are another
    library's then, which the bound on rounding covers.
    """
    vectors, asked = torch.ones(_ROWS, _DIM), torch.ones(_QUERIES, _DIM)
    out = torch.empty(_ROWS, _QUERIES)
    return min((by_torch, by_numpy), key=lambda library: _seconds(library, vectors, asked, out))


def by_torch(vectors: Tensor, asked: Tensor, out: Tensor) -> None:
    """The product by torch."""
    torch.mm(vectors, asked.T, out=out)


def by_numpy(vectors: Tensor, asked: Tensor, out: Tensor) -> None:
    """The product by NumPy."""
    np.matmul(vectors.numpy(), asked.numpy().T, out=out.numpy())


def _seconds(library: CPUProduct, vectors: Tensor, asked: Tensor, out: Tensor) -> float:
    """The best time of a few; the first call, which starts threads, does not count."""
    library(vectors, asked, out)
    times = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        library(vectors, asked, out)
        times.append(time.perf_counter() - started)
    return min(times)


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
