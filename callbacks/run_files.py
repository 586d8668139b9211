"""Run files and qrels as trec_eval reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_modules.query_set import QuerySet
from mmretrieval.metrics.ranked import Ranking, Rows


def write_run(path: Path, ranking: Ranking, queries: QuerySet, name: str) -> None:
    """Write a TREC run file; missing ranks are left out.

    trec_eval orders by score, and equal scores by id, not by the rank that is written. So that it sees our
    order, a score that is not below the one before is written one float32 step below it.

    Args:
        path: Where to.
        ranking: Ranked lists.
        queries: The queries of the ranking's split.
        name: What trec_eval shows as the run's name, without blanks.
    """
    ids, falling = queries.corpus.candidate_ids, strictly_falling(ranking.scores)
    with path.open("w", encoding="ascii") as file:
        for query, rows, scores in zip(ranking.queries, ranking.rows, falling, strict=True):
            found = rows >= 0
            lines = zip(ids[rows[found]].astype(str), scores[found], strict=True)
            qid = queries.ids[query]
            file.writelines(
                f"{qid} Q0 {did} {place} {score:.9g} {name}\n" for place, (did, score) in enumerate(lines, 1)
            )


def write_qrels(path: Path, asked: Rows, pool: Rows, queries: QuerySet) -> None:
    """Write the known positives that a pool holds, with their grades; queries without any have no line.

    Args:
        path: Where to.
        asked: Rows of the queries.
        pool: Candidate rows of the pool, ascending.
        queries: The queries of the split.
    """
    ids = queries.corpus.candidate_ids
    with path.open("w", encoding="ascii") as file:
        for query in asked.tolist():
            rows, first = np.unique(queries.positives(query), return_index=True)
            inside = np.isin(rows, pool)
            known = zip(ids[rows[inside]].astype(str), queries.grades(query)[first][inside], strict=True)
            file.writelines(f"{queries.ids[query]} 0 {did} {grade}\n" for did, grade in known)


def write_qrels_of(path: Path, judged: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements.

    Args:
        path: Where to.
        judged: Query id → candidate id → relevance.
    """
    with path.open("w", encoding="utf-8") as file:
        for query, grades in judged.items():
            file.writelines(f"{query} 0 {candidate} {grade}\n" for candidate, grade in grades.items())


def strictly_falling(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Lower each score as little as needed to be below the one before it.

    Shape:
        - scores: ``(Q, K)``, output: the same.
    """
    falling = scores.copy()
    for rank in range(1, scores.shape[1]):
        below = np.nextafter(falling[:, rank - 1], np.float32(-np.inf))
        falling[:, rank] = np.minimum(scores[:, rank], below)
    return falling
