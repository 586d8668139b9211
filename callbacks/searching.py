"""Search what was embedded, each rank its share of the queries, or of the pool."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from mmretrieval.distributed import all_gather, rank, rows_of_rank, world_size
from mmretrieval.index import EmbeddingStore, ExactIndex, VectorIndex
from mmretrieval.index.base import Vectors
from mmretrieval.index.filling import fill

Rows = NDArray[np.int64]

_QUERY_BLOCK = 4_096  # whose results of all ranks are in memory at once
_QUERY_BYTES = 2**29
"""Of queries in memory at once, as float32. An index may read the pool from disk for each block, so few and
large ones: 32,768 queries of 4,096 dimensions."""


def usual_index(device: torch.device) -> ExactIndex:
    """The index of mining and evaluation where none is given: exact, with the pool on disk.

    Args:
        device: Of this process; a GPU scores there, anything else on the CPU.
    """
    return ExactIndex(str(device) if device.type == "cuda" else "cpu")


def search(
    index: VectorIndex,
    store: EmbeddingStore,
    pool: Rows,
    queries: Vectors,
    k: int,
    device: torch.device,
) -> tuple[NDArray[np.float32], Rows]:
    """Search a pool, each rank its share of the queries, and gather the results on every rank.

    With an :class:`~mmretrieval.index.ExactIndex` of ``shard_pool``, each rank has all queries and its share
    of the pool instead; the results are the same. Either way queries are read in blocks of half a gigabyte,
    and the index is searched once for each: memory does not grow with their number, but for the results.
    These do not depend on the blocks, but for the rounding of FAISS' scores.

    Args:
        index: An empty index; a copy of it is filled, with modality codes as groups, and trained on a sample
            of the pool if it needs that.
        store: Embeddings of the pool, and perhaps of others.
        pool: Rows to find.
        queries: Float32 vectors to search with: an array, or :class:`~mmretrieval.index.StoredRows`, which
            are read block by block.
        k: How many to find for each query, at least 1.
        device: Where the process group can exchange tensors.

    Shape:
        - pool: ``(N,)``, queries: ``(Q, D)``, output: scores ``(Q, k)`` and rows of the pool ``(Q, k)``, as
          :meth:`mmretrieval.index.VectorIndex.search` returns them, equal scores by ascending row.

    Raises:
        ValueError: If the pool has fewer vectors than the index must be trained on.
    """
    filled = copy.deepcopy(index)
    if isinstance(filled, ExactIndex) and filled.shard_pool and world_size() > 1:
        return _search_shards(filled, store, pool, queries, k, device)
    fill(filled, store, pool, device)
    own = rows_of_rank(queries.shape[0], rank(), world_size())
    blocks = [filled.search(queries[block], k) for block in _blocks(own, queries.shape[1])]
    scores, found = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    if world_size() == 1:
        return scores, found
    gathered = (all_gather(torch.from_numpy(part).to(device)).cpu().numpy() for part in (scores, found))
    return next(gathered), next(gathered)


def _search_shards(
    index: ExactIndex,
    store: EmbeddingStore,
    pool: Rows,
    queries: Vectors,
    k: int,
    device: torch.device,
) -> tuple[NDArray[np.float32], Rows]:
    share = rows_of_rank(len(pool), rank(), world_size())
    fill(index, store, _in_storage(store, pool, device)[share.start : share.stop])
    merged = []
    for block in _blocks(range(queries.shape[0]), queries.shape[1]):
        scores, labels = index.best(queries[block], k)
        for start in range(0, max(1, len(scores)), _QUERY_BLOCK):
            part = slice(start, start + _QUERY_BLOCK)
            merged.append(_merged(scores[part], labels[part], device))
    with np.errstate(over="ignore"):
        every_score = np.concatenate([scores.astype(np.float32) for scores, _ in merged])
    return every_score, np.concatenate([labels for _, labels in merged])


def _blocks(queries: range, dim: int) -> Iterator[slice]:
    """Queries that are in memory together, in few blocks of like size.

    No last block of a few queries costs a whole reading of the pool, or takes FAISS' path for few queries. If
    there is no query there is one empty block, so that the result has a shape.
    """
    most = max(1, _QUERY_BYTES // (4 * max(1, dim)))
    count = max(1, -(-len(queries) // most))
    for number in range(count):
        own = rows_of_rank(len(queries), number, count)
        yield slice(queries.start + own.start, queries.start + own.stop)


def _in_storage(store: EmbeddingStore, pool: Rows, device: torch.device) -> Rows:
    """The rows of a pool in the order of files, as rank 0 sees them: so each rank reads few files."""
    rows = [part.rows for part in store.parts(pool)] if rank() == 0 else []
    ordered = np.concatenate([np.zeros(0, np.int64), *rows])
    return all_gather(torch.from_numpy(ordered).to(device)).cpu().numpy()


def _merged(
    scores: NDArray[np.float64], labels: Rows, device: torch.device
) -> tuple[NDArray[np.float64], Rows]:
    """The best of all ranks' results for the same queries, equal scores by ascending row, ``(Q, k)``."""
    shape = (world_size(), *scores.shape)
    parts = (all_gather(torch.from_numpy(own).to(device)).cpu().numpy() for own in (scores, labels))
    every_scores, every_label = (np.concatenate(list(part.reshape(shape)), axis=1) for part in parts)
    ties = np.where(every_label < 0, np.iinfo(np.int64).max, every_label)
    order = np.lexsort((ties, -every_scores), axis=1)[:, : scores.shape[1]]
    return np.take_along_axis(every_scores, order, axis=1), np.take_along_axis(every_label, order, axis=1)
