"""Search what was embedded, each rank its share of the queries."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from mmretrieval.distributed import all_gather, rank, rows_of_rank, world_size
from mmretrieval.index import EmbeddingStore, VectorIndex

Rows = NDArray[np.int64]


def search(
    index: VectorIndex,
    store: EmbeddingStore,
    pool: Rows,
    queries: NDArray[np.float32],
    k: int,
    device: torch.device,
) -> tuple[NDArray[np.float32], Rows]:
    """Search a pool, each rank its share of the queries, and gather the results on every rank.

    Args:
        index: An empty index; a copy of it is filled, with modality codes as groups.
        store: Embeddings of the pool, and perhaps of others.
        pool: Rows to find.
        queries: Vectors to search with.
        k: How many to find for each query, at least 1.
        device: Where the process group can exchange tensors.

    Shape:
        - pool: ``(N,)``, queries: ``(Q, D)``, output: scores ``(Q, k)`` and rows of the pool ``(Q, k)``, as
          :meth:`mmretrieval.index.VectorIndex.search` returns them, equal scores by ascending row.
    """
    filled = copy.deepcopy(index)
    for vectors, rows, modality in store.parts(pool):
        filled.add(vectors, labels=rows, group=modality)
    own = rows_of_rank(len(queries), rank(), world_size())
    scores, found = filled.search(queries[own.start : own.stop], k)
    if world_size() == 1:
        return scores, found
    gathered = (all_gather(torch.from_numpy(part).to(device)).cpu().numpy() for part in (scores, found))
    return next(gathered), next(gathered)
