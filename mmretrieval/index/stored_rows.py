"""Embeddings of chosen rows in a chosen order, read from a store slice by slice."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmretrieval.index.embeddings import EmbeddingStore


class StoredRows:
    """A matrix of which only what is sliced is in memory, as an index or a search takes it.

    Args:
        store: What has the embeddings.
        rows: Which of them, possibly repeated, ``(N,)``.

    Shape:
        - each slice of n rows: ``(n, D)``, float32.

    Raises:
        ValueError: When sliced, if a row is not in the store.
    """

    ndim = 2
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, store: EmbeddingStore, rows: NDArray[np.int64]) -> None:
        self.store, self.rows = store, rows

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows, and the dimension of the store."""
        return len(self.rows), self.store.dim or 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]:
        return self.store.vectors_of(self.rows[rows])
