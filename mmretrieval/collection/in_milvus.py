"""Search a collection in a Milvus database."""

from __future__ import annotations

import logging
from hashlib import blake2b
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from mmretrieval.collection.backends import Refreshed
from mmretrieval.collection.catalogue import Catalogue
from mmretrieval.collection.in_memory import check_dims, rescored
from mmretrieval.collection.placed import Placed
from mmretrieval.collection.settings import Settings
from mmretrieval.errors import UserError
from mmretrieval.index.base import Searchable
from mmretrieval.index.embeddings import EmbeddingStore
from mmretrieval.index.faiss_index import FaissIndex
from mmretrieval.index.milvus_table import DEFAULT_FILE, MilvusTable, check_place, is_address
from mmretrieval.index.rescored import cut

BATCH_BYTES = 2**22
"""Of vectors that are sent at a time; Milvus takes 64 MiB."""
_DELETED_AT_ONCE = 4_096
_log = logging.getLogger(__name__)


class InMilvus:
    """Milvus has a copy of the vectors, possibly cut, and searches it; the store keeps the originals.

    The database's collection is named after this one and its retriever, so that several share a database.

    Args:
        settings: How the collection is searched.
        folder: The collection's folder.
        catalogue: Which contents there are.
        store: Their embeddings.
    """

    def __init__(self, settings: Settings, folder: Path, catalogue: Catalogue, store: EmbeddingStore) -> None:
        self.settings, self.folder, self.catalogue, self.store = settings, folder, catalogue, store
        self.placed = Placed(catalogue)
        place = settings.milvus or DEFAULT_FILE
        check_place(place)
        name = f"mmretrieval_{self.placed.owner()}_{_stamp(settings)}"
        self.table = MilvusTable(place if is_address(place) else str(folder / place), name)

    def check(self) -> None:
        """Connect, and refuse what Milvus would not do as asked."""
        if self.settings.precision != "float32":
            raise UserError(
                f"--precision {self.settings.precision}: is of the backend faiss; Milvus keeps vectors in "
                "full (--precision float32), and --dim makes them shorter"
            )
        check_dims(self.settings, self.store)
        self.table.connect()

    def refresh(self) -> Refreshed:
        """Send what is new, remove what is gone; by what is written down, and compared with Milvus' count."""
        self.check()
        if self.store.dim is None:
            return Refreshed()
        self._begin(self.settings.dims or self.store.dim)
        removed = 0
        for rows in self.placed.gone(_DELETED_AT_ONCE):
            self.table.delete(rows)
            self.placed.forget(rows)
            removed += len(rows)
        added = self._send()
        if added or removed:
            self.table.flush()
        return Refreshed(added, removed)

    def searchable(self) -> Searchable:
        """The collection of the database.

        Raises:
            UserError: If the database has lost it.
        """
        self.check()
        if self.store.dim is None:
            return FaissIndex("Flat", device="cpu")
        if self.table.dim() is None:
            raise UserError(
                f"{self.table.place}: has no collection {self.table.name} for {self.folder}; bring it up to "
                f"date with 'mmretrieval index {self.settings.source} --out {self.folder}'"
            )
        if self.placed.pending():
            _log.warning("%s was not brought up to date to its end: index again.", self.folder)
        self.table.load()
        return self.table if self.settings.dims is None else rescored(self.table, self.settings, self.store)

    def close(self) -> None:
        """Disconnect."""
        self.table.close()

    def _begin(self, dim: int) -> None:
        """Make the database's collection, or see whether it has what is written down."""
        # As the settings name it, not where it is now: a folder that was moved keeps its file.
        before = self.placed.begin(self.settings.milvus or DEFAULT_FILE, self.table.name)
        if before is not None:
            self.table.drop(before)
        found = self.table.dim()
        if found is None:
            self.placed.forget_all()
            self.table.create(dim)
            return
        if found != dim:
            raise UserError(
                f"{self.table.place}: the Milvus collection {self.table.name} has {found}-d vectors, "
                f"those of {self.folder} are {dim}-d; it is of another index, remove it"
            )
        self.table.load()
        if self.table.count() != self.placed.count():
            self._compare()

    def _compare(self) -> None:
        """Bring what is written down and what Milvus has together, after a kill or a loss."""
        there, noted = self.table.labels(), self.placed.rows()
        self.placed.forget(np.setdiff1d(noted, there))
        extra = np.setdiff1d(there, noted)
        for first in range(0, len(extra), _DELETED_AT_ONCE):
            self.table.delete(extra[first : first + _DELETED_AT_ONCE])

    def _send(self) -> int:
        size = max(1, min(4_096, BATCH_BYTES // (4 * (self.settings.dims or self.store.dim or 1))))
        added = 0
        with tqdm(desc="Milvus", unit="vector", disable=None) as progress:
            for portion in self.placed.missing(size):
                vectors = cut(self.store.vectors_of(portion.rows), self.settings.dims)
                self.table.put(portion.rows, portion.modalities, vectors)
                self.placed.note(portion)
                added += len(portion.rows)
                progress.update(len(portion.rows))
        return added


def _stamp(settings: Settings) -> str:
    """What tells vectors of this retriever and length from others."""
    said = f"{settings.embedding_hash} {settings.dims}"
    return blake2b(said.encode(), digest_size=6).hexdigest()
