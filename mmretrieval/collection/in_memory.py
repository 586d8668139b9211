"""Search a collection in this process's memory: by its vectors, or by their codes and the vectors on disk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmretrieval.collection.backends import Refreshed
from mmretrieval.collection.catalogue import Catalogue
from mmretrieval.collection.settings import Settings
from mmretrieval.errors import UserError
from mmretrieval.index.base import Searchable
from mmretrieval.index.embeddings import EmbeddingStore
from mmretrieval.index.faiss_index import FaissIndex
from mmretrieval.index.filling import fill
from mmretrieval.index.rescored import Rescored, cut

FACTORIES = {"float32": "Flat", "int8": "SQ8", "binary": "RaBitQ"}
"""FAISS' indexes, of floats, a byte a dimension between the ends of a sample, or a bit a dimension (RaBitQ,
https://arxiv.org/abs/2405.12497)."""
_OVERSAMPLING = {"float32": 1, "int8": 4, "binary": 8}
_OVERSAMPLING_OF_CUT = 8
_SAMPLE = 65_536
_AT_ONCE = 8_192


class InMemory:
    """The default backend: FAISS, filled from the store when it is opened.

    Args:
        settings: How the collection is searched.
        catalogue: Which contents there are.
        store: Their embeddings; what is rescored is read from it.
    """

    def __init__(self, settings: Settings, catalogue: Catalogue, store: EmbeddingStore) -> None:
        self.settings, self.catalogue, self.store = settings, catalogue, store

    def check(self) -> None:
        """Refuse a precision or dimensions that there are not."""
        if self.settings.precision not in FACTORIES:
            raise UserError(f"--precision {self.settings.precision}: must be one of {', '.join(FACTORIES)}")
        check_dims(self.settings, self.store)

    def refresh(self) -> Refreshed:
        """Nothing is kept beside the store."""
        self.check()
        return Refreshed()

    def searchable(self) -> Searchable:
        """Read the store into an index."""
        self.check()
        rows = self.catalogue.contents().rows
        factory = FACTORIES[self.settings.precision]
        if self.settings.exact:
            return fill(FaissIndex(factory), self.store, rows)
        index = FaissIndex(factory, device="cpu")  # a GPU has no such codes, and need not
        if len(rows):
            self._fill_with_codes(index, rows)
        return rescored(index, self.settings, self.store)

    def close(self) -> None:
        """Nothing stays open."""

    def _fill_with_codes(self, index: FaissIndex, rows: NDArray[np.int64]) -> None:
        sample = rows[:: -(-len(rows) // _SAMPLE)]
        index.train(cut(self.store.vectors_of(sample), self.settings.dims))
        for part in self.store.parts(rows):
            for first in range(0, len(part.rows), _AT_ONCE):
                own = slice(first, first + _AT_ONCE)
                index.add(cut(part.vectors[own], self.settings.dims), part.rows[own], part.modality)


def rescored(first: Searchable, settings: Settings, store: EmbeddingStore) -> Rescored:
    """A first stage as settings say, with exact scores from the store."""
    usual = max(_OVERSAMPLING[settings.precision], _OVERSAMPLING_OF_CUT if settings.dims else 1)
    return Rescored(first, store.vectors_of, settings.oversampling or usual, settings.dims)


def check_dims(settings: Settings, store: EmbeddingStore) -> None:
    """Refuse to cut embeddings to more dimensions than they have.

    Raises:
        UserError: If they have fewer.
    """
    if settings.dims is not None and store.dim is not None and settings.dims > store.dim:
        raise UserError(f"--dim {settings.dims}: the embeddings have {store.dim} dimensions; take fewer")
