"""The index that searches a collection."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmretrieval.collection.settings import Settings
from mmretrieval.index.base import VectorIndex
from mmretrieval.index.embeddings import EmbeddingStore
from mmretrieval.index.faiss_index import FaissIndex


def searchable(settings: Settings) -> VectorIndex:
    """An index as the settings say, without vectors but those of a database."""
    return FaissIndex("Flat")


def fill(index: VectorIndex, store: EmbeddingStore, rows: NDArray[np.int64]) -> VectorIndex:
    """Put embeddings into an index.

    Args:
        index: An index without vectors.
        store: What has the embeddings.
        rows: Which of them, ``(N,)``; they become the labels, modality codes the groups.
    """
    for part in store.parts(rows):
        index.add(part.vectors, part.rows, part.modality)
    return index
