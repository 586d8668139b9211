"""A block of rankings as the matrices that filters and selections look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.rankings import Rankings


@dataclass(frozen=True, slots=True)
class Hits:
    """The best K candidates of some queries, seen from every side that a filter may ask about.

    Args:
        rows: Candidate rows, best first, -1 where there is none.
        scores: Their scores.
        ranks: Their ranks in the search, from 1; filters leave holes and never renumber.
        there: Whether there is a candidate.
        right: Whether it is of the modality that the query asks for; false where there is none.
        contents: A number that candidates share exactly when their contents are equal; -1 where there is
            none.
        known: Whether it is a known positive, by row or by content. Data sets list the same passage under
            different ids (OVEN and INFOSEEK in M-BEIR), so content decides.
        positive_rank: Rank of the labelled positive; the asked depth where it is not found.
        positive_found: Whether the labelled positive is among the K.
        positive_score: Score of the labelled positive, also outside of the K; NaN where it is unknown.
        query_keys: Of :class:`~mmretrieval.mining.rankings.Rankings`.

    Shape:
        - rows, scores, ranks, there, right, contents, known: ``(Q, K)``; the rest: ``(Q,)``.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    ranks: NDArray[np.int64]
    there: NDArray[np.bool_]
    right: NDArray[np.bool_]
    contents: NDArray[np.int64]
    known: NDArray[np.bool_]
    positive_rank: NDArray[np.int64]
    positive_found: NDArray[np.bool_]
    positive_score: NDArray[np.float64]
    query_keys: NDArray[np.integer]

    @classmethod
    def of(
        cls,
        rankings: Rankings,
        modalities: NDArray[np.integer],
        contents: NDArray[np.int64],
        top_k: int,
    ) -> Hits:
        """Look at the best candidates of each query.

        Args:
            rankings: Search results and known positives.
            modalities: Modality code of each candidate.
            contents: Number of each candidate's content, from 0, equal exactly when contents are.
            top_k: How many of the best candidates to look at.

        Shape:
            - modalities, contents: ``(N,)``.
        """
        rows = rankings.rows[:, :top_k]
        there = rows >= 0
        is_labelled = there & (rows == rankings.labelled_row[:, None])
        found = is_labelled.any(axis=1)
        contents_qk = np.where(there, contents[rows], -1)
        return cls(
            rows=rows,
            scores=rankings.scores[:, :top_k],
            ranks=np.broadcast_to(np.arange(1, rows.shape[1] + 1), rows.shape),
            there=there,
            right=there & (modalities[rows] == rankings.target_modality[:, None]),
            contents=contents_qk,
            known=there & _known(rankings, contents_qk, contents),
            positive_rank=np.where(found, is_labelled.argmax(axis=1) + 1, top_k),
            positive_found=found,
            positive_score=rankings.scores_of_positives(),
            query_keys=rankings.query_keys,
        )

    def __len__(self) -> int:
        return int(self.rows.shape[0])


def _known(
    rankings: Rankings, contents_qk: NDArray[np.int64], contents: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which retrieved candidates have the content of a known positive; the same row has the same content."""
    queries = np.arange(len(rankings), dtype=np.int64)
    known_of = np.repeat(queries, np.diff(rankings.known_offsets))
    # One integer for (query, content), so that a single membership test serves all queries.
    stride = np.int64(contents.max(initial=0) + 1)
    known_pairs = np.concatenate(
        [
            known_of * stride + contents[rankings.known_rows],
            queries * stride + contents[rankings.labelled_row],
        ]
    )
    return np.isin(queries[:, None] * stride + contents_qk, known_pairs)
