"""Embeddings of a collection's contents, in the store beside its catalogue."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmretrieval.collection.catalogue import Catalogue
from mmretrieval.index.embeddings import EmbeddingStore
from mmretrieval.index.shards import Shard

SMALL_SHARD = 8_192
"""Shards with fewer rows are joined when there are many."""
_MANY = 64
_JOINED = 65_536


def recover(store: EmbeddingStore, catalogue: Catalogue) -> int:
    """Take over what a killed process had embedded but not written into the catalogue.

    Returns:
        How many contents that were.
    """
    known = set(catalogue.all_rows().tolist())
    found = 0
    for shard in store.shards():
        new = [place for place, row in enumerate(shard.rows.tolist()) if row not in known]
        if new:
            digests = [bytes.fromhex(identifier) for identifier in shard.ids()]
            there = catalogue.rows_of([digests[place] for place in new])
            rows = [
                (int(shard.rows[place]), digests[place], int(shard.modalities[place]))
                for place in new
                if digests[place] not in there
            ]
            with catalogue.transaction():
                catalogue.add_contents(rows)
            found += len(rows)
    return found


def compact(store: EmbeddingStore, catalogue: Catalogue) -> int:
    """Join small shards where there are many, and leave out what no document has any more.

    Shards of which documents still have the most are left as they are. A process that is killed in here
    loses nothing: a row that two shards have counts once.

    Returns:
        How many embeddings were left out.
    """
    live = catalogue.contents().rows
    worn = [shard for shard in store.shards() if _worn(shard, live)]
    small = [shard for shard in store.shards() if len(shard) < SMALL_SHARD]
    chosen = {shard.path: shard for shard in (*worn, *(small if len(small) > _MANY else ()))}
    if not chosen:
        return 0
    rows = np.concatenate([shard.rows for shard in chosen.values()])
    kept = np.unique(rows[np.isin(rows, live)])
    names = _join(store, catalogue, kept)
    with catalogue.transaction():
        catalogue.forget_unused(np.setdiff1d(rows, kept))
    store.discard([shard for shard in chosen.values() if shard.path.stem not in names])
    return len(np.unique(rows)) - len(kept)


def _worn(shard: Shard, live: NDArray[np.int64]) -> bool:
    return 2 * int(np.isin(shard.rows, live).sum()) < len(shard)


def _join(store: EmbeddingStore, catalogue: Catalogue, rows: NDArray[np.int64]) -> set[str]:
    """Write rows into large shards; returns the names of these."""
    names = set()
    for first in range(0, len(rows), _JOINED):
        part = rows[first : first + _JOINED]
        known = catalogue.digests_of(part)
        name = shard_name(part)
        store.write(
            name,
            part,
            [known[row][0].hex() for row in part.tolist()],
            np.array([known[row][1] for row in part.tolist()], np.uint8),
            store.vectors_of(part),
        )
        names.add(name)
    return names


def shard_name(rows: NDArray[np.int64]) -> str:
    """Name of the shard of some rows, another one for others."""
    return f"rows-{int(rows[0]):010d}-{blake2b(rows.tobytes(), digest_size=8).hexdigest()}"


def next_row(store: EmbeddingStore, catalogue: Catalogue) -> int:
    """The first row that neither the store nor the catalogue has."""
    tables = [catalogue.all_rows(), *(shard.rows for shard in store.shards())]
    return 1 + max((int(rows.max()) for rows in tables if len(rows)), default=-1)


def open_store(folder: Path, embedding_hash: str) -> EmbeddingStore:
    """Open a collection's store, or make it.

    Raises:
        UserError: If it belongs to another retriever, or is damaged.
    """
    return EmbeddingStore.create_or_open(folder / "embeddings", {"retriever": embedding_hash})
