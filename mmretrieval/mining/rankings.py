"""What mining starts from: rankings of the pool with what is known about the queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rankings:
    """What a search of the global pool returned for each query, and what the queries ask for.

    Any scorer may have made them, a retriever or a reranker, as long as a higher score is better.

    Args:
        rows: Candidate row at each rank, best first, -1 where there is none.
        scores: The score of each of ``rows``.
        target_modality: Modality code that each query asks for.
        labelled_row: Candidate row of each query's labelled positive.
        known_rows: Candidate rows of all known positives, and of what else is never to be drawn, one query
            after the other.
        known_offsets: Query q's are ``known_rows[known_offsets[q]:known_offsets[q + 1]]``.
        query_keys: A number for each query that stays the same in every call, such as its row or a hash of
            its id.
        positive_scores: The labelled positive's score by the same scorer, also where it is not among
            ``rows``. NaN, or ``None`` for all, where it is to be taken from ``scores``.

    Shape:
        - rows, scores: ``(Q, K)``; target_modality, labelled_row, query_keys, positive_scores: ``(Q,)``;
          known_offsets: ``(Q + 1,)``.

    Raises:
        ValueError: If the shapes do not fit each other.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    target_modality: NDArray[np.integer]
    labelled_row: NDArray[np.integer]
    known_rows: NDArray[np.integer]
    known_offsets: NDArray[np.integer]
    query_keys: NDArray[np.integer]
    positive_scores: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        queries = self.rows.shape[0]
        shapes = [a.shape for a in (self.target_modality, self.labelled_row, self.query_keys)]
        if (
            self.rows.ndim != 2
            or not self.rows.shape[1]
            or self.scores.shape != self.rows.shape
            or shapes != [(queries,)] * 3
        ):
            raise ValueError(
                f"Rankings of {queries} queries need rows and scores of one shape, at least one rank deep, "
                "and one target_modality, labelled_row and query_key a query; found "
                f"{self.rows.shape}, {self.scores.shape}, {shapes}."
            )
        if self.known_offsets.shape != (queries + 1,) or self.known_offsets[-1] != self.known_rows.size:
            raise ValueError(
                f"known_offsets must hold {queries + 1} numbers that end with {self.known_rows.size}."
            )
        if self.positive_scores is not None and self.positive_scores.shape != (queries,):
            raise ValueError(f"positive_scores need {queries} numbers, found {self.positive_scores.shape}.")

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def take(self, queries: NDArray[np.integer]) -> Rankings:
        """The rankings of some queries, in the order asked for.

        Args:
            queries: Their rows here.

        Shape:
            - queries: ``(P,)``.
        """
        starts, counts = self.known_offsets[queries], np.diff(self.known_offsets)[queries]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], counts)
        return Rankings(
            rows=self.rows[queries],
            scores=self.scores[queries],
            target_modality=self.target_modality[queries],
            labelled_row=self.labelled_row[queries],
            known_rows=self.known_rows[entries],
            known_offsets=offsets,
            query_keys=self.query_keys[queries],
            positive_scores=None if self.positive_scores is None else self.positive_scores[queries],
        )

    @classmethod
    def concatenated(cls, parts: Sequence[Rankings]) -> Rankings:
        """The rankings of several parts' queries, one part after the other.

        Args:
            parts: At least one, all equally deep.
        """
        names = ("rows", "scores", "target_modality", "labelled_row", "known_rows", "query_keys")
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        counts = np.concatenate([np.diff(part.known_offsets) for part in parts])
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        given = [part.positive_scores for part in parts]
        positive_scores = np.concatenate(
            [
                np.full(len(part), np.nan, np.float32) if scores is None else scores
                for part, scores in zip(parts, given, strict=True)
            ]
        )
        return cls(**columns, known_offsets=offsets, positive_scores=positive_scores)

    def part(self, start: int, stop: int) -> Rankings:
        """The rankings of the queries from ``start`` up to ``stop``."""
        return self.take(np.arange(*slice(start, stop).indices(len(self)), dtype=np.int64))

    def scores_of_positives(self) -> NDArray[np.float64]:
        """The score of each query's labelled positive; NaN where it is neither given nor found.

        Shape:
            - output: ``(Q,)``.
        """
        is_labelled = (self.rows >= 0) & (self.rows == self.labelled_row[:, None])
        found = np.flatnonzero(is_labelled.any(axis=1))
        scores = np.full(len(self), np.nan, dtype=np.float64)
        scores[found] = self.scores[found, is_labelled[found].argmax(axis=1)]
        if self.positive_scores is None:
            return scores
        return np.where(np.isnan(self.positive_scores), scores, self.positive_scores)

    def check_rows(self, candidates: int) -> None:
        """Refuse rows that are no candidates.

        Args:
            candidates: How many candidates there are.

        Raises:
            ValueError: If a row is not below ``candidates``; names the first array with such a row.
        """
        for name in ("rows", "labelled_row", "known_rows"):
            rows, lowest = getattr(self, name), -1 if name == "rows" else 0
            if rows.size and not (lowest <= rows.min() and rows.max() < candidates):
                raise ValueError(
                    f"{name} must be rows of the {candidates} candidates, "
                    f"found values from {rows.min()} to {rows.max()}."
                )
