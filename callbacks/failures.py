"""Of what kind the failures of an evaluation are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.corpus import PackedCorpus
from data_modules.query_set import QuerySet
from mmretrieval.index import EmbeddingStore, StaleEmbeddingsError
from mmretrieval.metrics.ranked import Ranking

WRONG_MODALITY, NEAR_DUPLICATE, OTHER = "wrong modality", "near duplicate", "other"
KINDS = (WRONG_MODALITY, NEAR_DUPLICATE, OTHER)
NEAR = 0.95
"""Cosine similarity to a positive from which on a candidate counts as its near duplicate."""


class Failure(NamedTuple):
    """A query whose first candidate is not among its known positives.

    Args:
        place: Where the query is in its ranking.
        kind: ``wrong modality``: the first one has not the modality that was asked for; ``near duplicate``:
            it has, and it shows the same picture or says the same text as a positive, or lies as near to one
            as :data:`NEAR`; ``other``.
        positive: Candidate row of the positive that is nearest to the first one.
    """

    place: int
    kind: str
    positive: int


def failures_of(queries: QuerySet, ranking: Ranking, embeddings: EmbeddingStore) -> list[Failure]:
    """The failures among some queries, in their order.

    Positives that were not embedded, since no pool has them, do not count; a query without any other is no
    failure, as it is not judged.

    Args:
        queries: The queries of the ranking's split.
        ranking: Ranked lists of one task.
        embeddings: Of all candidates that were searched.

    Raises:
        DataError: If a shard is damaged.
        StaleEmbeddingsError: If candidates that were found are not among the embeddings.
    """
    asked = ranking.queries.tolist()
    known = {row for query in asked for row in queries.positives(query).tolist()}
    rows = np.array(sorted(known), np.int64)
    there = rows[embeddings.present(rows)]
    first = ranking.rows[:, 0]
    shown = np.unique(first[first >= 0])
    if gone := int((~embeddings.present(shown)).sum()):
        raise StaleEmbeddingsError(
            f"{embeddings.folder}: the embeddings of {gone} of {len(shown)} candidates that were found first "
            "are gone, so failures cannot be told apart. Evaluate again, with a folder for embeddings that "
            "nothing else removes from."
        )
    looked_at = np.union1d(there, shown)
    vectors = embeddings.vectors_of(looked_at)
    found = []
    for place, query in enumerate(asked):
        top, positives = int(first[place]), np.intersect1d(queries.positives(query), there)
        if top >= 0 and positives.size and top not in positives:
            own, *others = vectors[np.searchsorted(looked_at, [top, *positives.tolist()])]
            similar = np.array([float(np.sum(own * other)) for other in others])
            kind = _kind(queries, query, top, positives, float(similar.max()))
            found.append(Failure(place, kind, int(positives[int(similar.argmax())])))
    return found


def _kind(queries: QuerySet, query: int, first: int, positives: NDArray[np.int64], similarity: float) -> str:
    corpus = queries.corpus
    if corpus.candidate_modalities[first] != queries.target_modality[query]:
        return WRONG_MODALITY
    same = any(_same_content(corpus, first, row) for row in positives.tolist())
    return NEAR_DUPLICATE if same or similarity >= NEAR else OTHER


def _same_content(corpus: PackedCorpus, one: int, other: int) -> bool:
    """Whether two candidates show the same picture, or say the same text."""
    images = corpus.candidate_images
    if images[one] >= 0 and images[one] == images[other]:
        return True
    text = corpus.candidate_record(one).text
    return bool(text) and text == corpus.candidate_record(other).text
