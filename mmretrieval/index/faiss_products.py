"""FAISS' brute force, in its fast form for any number of queries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss as faiss_module
import numpy as np
from numpy.typing import NDArray

faiss: Any = faiss_module  # its types say that it takes less than it does

_BLAS_FROM = 20


def largest_products(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The ``k`` largest inner products of each query and the rows they are of, in float32.

    Products are formed block by block and never held all at once.

    Args:
        vectors: To compare with, finite.
        queries: To compare, finite.
        k: How many, from 1 to N.

    Shape:
        - vectors: ``(N, D)``, queries: ``(Q, D)``, outputs: ``(Q, k)``, largest first.
    """
    with blas_for_few_queries():
        products, rows = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    return products, rows


@contextmanager
def blas_for_few_queries() -> Iterator[None]:
    """Let small batches of queries use matrix products, too.

    From 1.15 on FAISS compares queries x dimension, not queries, with a threshold of 128,000, and takes a
    path that is about 12 times slower below it.
    """
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
