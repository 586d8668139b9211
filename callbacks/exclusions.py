"""Candidates that a benchmark's own evaluation leaves out of a query's ranked list."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from data_modules.query_set import QuerySet
from mmretrieval.metrics.protocol import data_set_of
from mmretrieval.metrics.ranked import Positives, Ranking, Rows


class Exclusions:
    """Takes candidates out of ranked lists.

    Those that the data name, as BEIR's evaluation does with the document that has the query's id, and CIRR's
    with the query's own picture; and, for some data sets, all that show that picture. CIRCO's and FashionIQ's
    own evaluations leave nothing out. Pictures are the same if their files have the same bytes; known
    positives with the query's picture stay.

    Args:
        queries: The queries of the split.
        positives: Of all of them.
        own_images: Names of the data sets whose own pictures are taken out.
    """

    def __init__(self, queries: QuerySet, positives: Positives, own_images: Collection[str]) -> None:
        self._queries, self._positives = queries, positives
        self._own_image_tasks = [
            number for number, task in enumerate(queries.tasks) if data_set_of(task) in own_images
        ]
        self._named = (
            Positives.of(queries.listed("excluded", row) for row in range(len(queries)))
            if queries.lists("excluded")
            else None
        )

    def most(self, asked: Rows, pool: Rows) -> int:
        """How many candidates of a pool can be taken out of one list."""
        own = self._images(asked)
        shown = self._queries.corpus.candidate_images[pool]
        counts = np.bincount(shown[shown >= 0], minlength=1)
        inside = own[(own >= 0) & (own < len(counts))]
        named = 0 if self._named is None else self._named.part(asked).count_in(pool).max(initial=0)
        return int(counts[inside].max(initial=0)) + int(named)

    def removed(self, ranking: Ranking, depth: int) -> Ranking:
        """Lists of a depth without these candidates, of lists that are deeper by :meth:`most`."""
        rows, scores = ranking.rows, ranking.scores
        out = self._shows_own(ranking)
        if self._named is not None:
            out |= self._named.part(ranking.queries).relevant(rows)
        kept = np.argsort(out, axis=1, kind="stable")[:, :depth]
        gone = np.take_along_axis(out, kept, axis=1)
        rows = np.where(gone, -1, np.take_along_axis(rows, kept, axis=1))
        scores = np.where(gone, np.float32(-np.inf), np.take_along_axis(scores, kept, axis=1))
        return Ranking(ranking.queries, rows, scores)

    def _shows_own(self, ranking: Ranking) -> NDArray[np.bool_]:
        own = self._images(ranking.queries)[:, None]
        there = ranking.rows >= 0
        shown = np.where(there, self._queries.corpus.candidate_images[ranking.rows], -1)
        positive = self._positives.part(ranking.queries).relevant(ranking.rows)
        found: NDArray[np.bool_] = (own >= 0) & (shown == own) & ~positive
        return found

    def _images(self, asked: Rows) -> Rows:
        """Each query's picture; -1 without one, or where the task takes none out."""
        concerned = np.isin(self._queries.task_of[asked], self._own_image_tasks)
        return np.where(concerned, self._queries.images[asked], -1)
