"""Rankings of a pool for the training queries: what mining starts from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from callbacks.searching import search
from data_modules.encoding import EncodingTable
from data_modules.formats.records import id_key
from data_modules.guards import guarded_rows
from data_modules.query_set import QuerySet
from mmretrieval.distributed import all_gather, rows_of_rank, world_size
from mmretrieval.distributed import rank as this_rank
from mmretrieval.index import EmbeddingStore, StoredRows, VectorIndex
from mmretrieval.metrics.ranked import Positives
from mmretrieval.mining import Rankings

Rows = NDArray[np.int64]
Embed = Callable[[EncodingTable, Rows], EmbeddingStore]
"""Embeds rows of a table, all ranks together."""

_QUERY_BLOCK = 4_096


def rank(
    embed: Embed,
    candidates: EncodingTable,
    queries: EncodingTable,
    query_set: QuerySet,
    pool: Rows,
    rows: Rows,
    index: VectorIndex,
    k: int,
    device: torch.device,
) -> Rankings:
    """Embed and search; all ranks call it together and get the same.

    Args:
        embed: Embeds rows of ``candidates`` and ``queries``.
        candidates: Contents of the candidates.
        queries: Contents of ``query_set``.
        query_set: The queries, with their positives and what else is never a negative of theirs.
        pool: Candidate rows to search.
        rows: Query rows to search for.
        index: An empty index.
        k: How many candidates to find.
        device: Where the process group can exchange tensors.
    """
    store = embed(candidates, pool)
    asked = StoredRows(embed(queries, rows), rows)  # of all queries, the vectors may not fit into memory
    scores, found = search(index, store, pool, asked, k, device)
    guarded = guarded_rows(query_set, rows)
    known = Positives.of(guarded)
    labelled = np.array([own[0] for own in guarded], dtype=np.int64)
    return Rankings(
        rows=found,
        scores=scores,
        target_modality=query_set.target_modality[rows],
        labelled_row=labelled,
        known_rows=known.rows,
        known_offsets=known.offsets,
        query_keys=np.array([id_key(id_) for id_ in query_set.ids[rows].tolist()], dtype=np.int64),
        positive_scores=_scores(store, labelled, asked, device),
    )


def _scores(
    store: EmbeddingStore, rows: Rows, queries: StoredRows, device: torch.device
) -> NDArray[np.float32]:
    """Each query's score of its own row; NaN where that was not embedded. Each rank reads its share."""
    own = rows_of_rank(len(rows), this_rank(), world_size())
    scores = np.full(len(own), np.nan, dtype=np.float32)
    for start in range(0, len(own), _QUERY_BLOCK):  # never all vectors at once
        block = np.arange(own.start + start, min(own.stop, own.start + start + _QUERY_BLOCK))
        block = block[store.present(rows[block])]
        distinct, places = np.unique(rows[block], return_inverse=True)
        asking = queries.store.vectors_of(queries.rows[block])
        products = store.vectors_of(distinct)[places].astype(np.float64) * asking
        scores[block - own.start] = products.sum(axis=1)
    return all_gather(torch.from_numpy(scores).to(device)).cpu().numpy()
