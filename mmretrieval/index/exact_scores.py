"""Inner products in float64 that do not depend on what else is computed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

_NUMBERS_OF_A_BUFFER = 2**15
"""Two buffers of float64 fit the cache of a core."""
_PAIRS_IN_A_TASK = 2_048
_WIDTH = 4_096
"""NumPy sums more than 8,192 products in an order that depends on how many sums there are."""
_NUMBERS_AT_ONCE = 2**25
"""On a GPU."""


def exact_scores(vectors: Tensor, queries: Tensor, rows: Tensor, asked: Tensor) -> Tensor:
    """Inner products in float64 of pairs of vectors and queries, ``(M,)``.

    Each is a sum of products along the vector, in an order that depends on nothing but its length: equal
    vectors have equal scores wherever they are stored, which a matrix product does not promise.

    Args:
        vectors: Stored vectors, ``(N, D)``.
        queries: Queries, ``(Q, D)`` float64.
        rows: Vector of each pair, best in ascending order, which is several times as fast, ``(M,)``.
        asked: Query of each pair, ``(M,)``.
    """
    scores = torch.zeros(len(rows), dtype=torch.float64, device=vectors.device)
    if vectors.is_cuda:
        step = max(1, _NUMBERS_AT_ONCE // vectors.shape[1])
        for part in _parts(0, len(rows), step):
            scores[part] = _scores_on_gpu(vectors, queries, rows[part], asked[part])
    else:
        _fill_on_cpu(scores, vectors, queries, rows, asked)
    return scores.add_(0.0)  # both zeros are equal as scores


def _fill_on_cpu(scores: Tensor, vectors: Tensor, queries: Tensor, rows: Tensor, asked: Tensor) -> None:
    # NumPy's sums of products take a quarter of the time of torch's operations in threads.
    filled, stored, wanted = scores.numpy(), vectors.numpy(), queries.numpy()
    chosen, askers = rows.numpy(), asked.numpy()

    def fill(task: slice) -> None:
        # Buffers, as fresh memory for each part would take longer than the products.
        dim = stored.shape[1]
        pairs = max(1, _NUMBERS_OF_A_BUFFER // dim)
        first, second = np.empty((pairs, dim)), np.empty((pairs, dim))
        for part in _parts(task.start, task.stop, pairs):
            count = part.stop - part.start
            first[:count] = stored[chosen[part]]
            np.take(wanted, askers[part], axis=0, out=second[:count], mode="clip")
            for columns in _parts(0, dim, _WIDTH):
                filled[part] += np.einsum("md,md->m", first[:count, columns], second[:count, columns])

    tasks = _parts(0, len(filled), _PAIRS_IN_A_TASK)
    threads = min(len(tasks), torch.get_num_threads())
    if threads < 2:
        for task in tasks:
            fill(task)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, tasks))


def _scores_on_gpu(vectors: Tensor, queries: Tensor, rows: Tensor, asked: Tensor) -> Tensor:
    products = vectors.index_select(0, rows).double()
    products.mul_(queries.index_select(0, asked))
    width = products.shape[1]
    while width > 1:  # a GPU's own sum depends on how many rows there are
        half = (width + 1) // 2
        products[:, : width - half] += products[:, half:width]
        width = half
    return products[:, 0]


def _parts(first: int, last: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, last)) for start in range(first, last, size)]
