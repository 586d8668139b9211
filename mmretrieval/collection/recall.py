"""How much of what an exact search finds a collection's own search finds too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmretrieval.collection.collection import Collection
from mmretrieval.index.exact import ExactIndex
from mmretrieval.index.filling import fill

_EQUAL = 1e-5  # of cosines in float32


class Recall(NamedTuple):
    """What was measured.

    Args:
        share: Of the best k that were found, from 0 to 1.
        k: How many were searched for.
        queries: With how many queries.
    """

    share: float
    k: int
    queries: int


def recall(collection: Collection, queries: int, k: int = 10) -> Recall | None:
    """Search with some of the collection's own embeddings, by its backend and exhaustively.

    An embedding does not count as its own neighbour, and one of an equal score is as good as another. The
    exact search reads all embeddings from disk once.

    Args:
        collection: An up-to-date collection.
        queries: How many embeddings to search with, at least 1; they are evenly spaced.
        k: How many neighbours of each.

    Returns:
        The share, or ``None`` of a collection with fewer than two contents.
    """
    rows = collection.catalogue.contents().rows
    if len(rows) < 2:
        return None
    asked = rows[np.linspace(0, len(rows) - 1, min(queries, len(rows))).astype(np.int64)]
    vectors, wanted = collection.store.vectors_of(asked), min(k, len(rows) - 1)
    exact, _ = fill(ExactIndex(), collection.store, rows).search(vectors, wanted + 1)
    scores, labels = collection.index().search(vectors, wanted + 1)
    # The embedding itself is one of those above the threshold, or others have the same score.
    own = labels == asked[:, None]
    reached = (scores >= exact[:, -1:] - _EQUAL) & (labels >= 0) & ~own
    found = np.minimum(reached.sum(axis=1), wanted)
    return Recall(float(found.mean() / wanted), wanted, len(asked))
