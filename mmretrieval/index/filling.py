"""Embeddings of a store in an index, which is trained on all kinds of them first."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mmretrieval.distributed import all_gather, rank
from mmretrieval.index.base import VectorIndex
from mmretrieval.index.embeddings import EmbeddingStore
from mmretrieval.index.faiss_index import TRAIN_ROWS, FaissIndex

Index = TypeVar("Index", bound=VectorIndex)

_SEED = 0


def fill(
    index: Index,
    store: EmbeddingStore,
    rows: NDArray[np.int64],
    device: torch.device | None = None,
) -> Index:
    """Put embeddings into an index; if ranks work together, all call it together with the same rows.

    An index of FAISS that needs training is trained on a sample of at most 262,144 of the rows, drawn over
    all modalities and shards with a fixed seed. Rank 0 does so and the others take over what it learned:
    k-means on another machine may end at other centroids, and so find others.

    Args:
        index: An index without vectors.
        store: What has the embeddings.
        rows: Which of them, ``(N,)``; they become the labels, modality codes the groups.
        device: Where the process group can exchange tensors; the CPU by default.

    Raises:
        ValueError: If a row is not in the store or there twice, or there are too few to train on.
    """
    dim = store.dim
    if isinstance(index, FaissIndex) and dim is not None and len(rows) and not index.is_trained(dim):
        _train(index, store, rows, device if device is not None else torch.device("cpu"))
    for part in store.parts(rows):
        index.add(part.vectors, part.rows, part.modality)
    return index


def _train(index: FaissIndex, store: EmbeddingStore, rows: NDArray[np.int64], device: torch.device) -> None:
    learned, failure = np.zeros(0, np.uint8), None
    if rank() == 0:
        try:
            index.train(store.vectors_of(_sample(rows)))
            learned = index.learned()
        except ValueError as error:
            failure = error  # raised when the others know: they wait for what was learned
    everywhere = all_gather(torch.from_numpy(learned).to(device)).cpu().numpy()
    if failure is not None:
        raise failure
    if not len(everywhere):
        raise ValueError(f"Rank 0 could not train {index.factory!r} on {len(rows)} rows: see its error.")
    if rank() > 0:
        index.take(everywhere)


def _sample(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(rows) <= TRAIN_ROWS:
        return rows
    return np.sort(np.random.default_rng(_SEED).choice(rows, TRAIN_ROWS, replace=False))
