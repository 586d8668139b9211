"""Where the vectors of a collection are searched."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from mmretrieval.collection.catalogue import Catalogue
from mmretrieval.collection.settings import Settings
from mmretrieval.index.base import Searchable
from mmretrieval.index.embeddings import EmbeddingStore


class Refreshed(NamedTuple):
    """What bringing a backend up to date did.

    Args:
        added: Vectors that were put into it.
        removed: Vectors that were taken out of it.
    """

    added: int = 0
    removed: int = 0


class Backend(Protocol):
    """Searches the embeddings of a collection; the store beside the catalogue keeps them whatever it is."""

    def check(self) -> None:
        """Make sure that it can be used, before anything is embedded.

        Raises:
            UserError: If it cannot.
        """

    def refresh(self) -> Refreshed:
        """Give it the embeddings of all contents that documents have, and no others.

        A killed refresh goes on where it was.
        """

    def searchable(self) -> Searchable:
        """What searches; labels are rows of contents, groups modality codes."""

    def close(self) -> None:
        """Let go of files and connections."""


def backend_of(settings: Settings, folder: Path, catalogue: Catalogue, store: EmbeddingStore) -> Backend:
    """The backend that the settings name.

    Args:
        settings: How the collection is searched.
        folder: The collection's folder.
        catalogue: Which contents there are.
        store: Their embeddings.
    """
    # Each one's libraries take a second, which the other need not wait for.
    if settings.milvus is None:
        from mmretrieval.collection.in_memory import InMemory

        return InMemory(settings, catalogue, store)
    from mmretrieval.collection.in_milvus import InMilvus

    return InMilvus(settings, folder, catalogue, store)
