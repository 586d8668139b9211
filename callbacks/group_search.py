"""Ranked lists within small groups of candidates that the data give for each query, as CIRR's subsets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from data_modules.query_set import QuerySet
from mmretrieval.index import EmbeddingStore
from mmretrieval.metrics.ranked import Ranking, Rows

_QUERIES = 1024  # whose groups are in memory at a time


def search_groups(
    candidates: EmbeddingStore,
    asked_of: EmbeddingStore,
    by_task: Mapping[str, Rows],
    queries: QuerySet,
) -> dict[str, Ranking]:
    """Rank each query's group by inner product, equal ones by row; tasks without groups are not there.

    Args:
        candidates: Embeddings of the groups' members; those that it lacks, as in a dry run, are left out.
        asked_of: Embeddings of the queries.
        by_task: Task → its query rows.
        queries: The queries of the split.
    """
    if not queries.lists("group"):
        return {}
    found: dict[str, Ranking] = {}
    for task, asked in by_task.items():
        groups = [np.sort(queries.listed("group", row)) for row in asked.tolist()]
        empty = sum(not group.size for group in groups)
        if empty == len(groups):
            continue
        if empty:
            rank_zero_warn(
                f"{empty} of {len(groups)} queries of {task} have no group, so its subset measures are left "
                "out; complete groups.jsonl and pack the data again."
            )
            continue
        width = max(group.size for group in groups)
        members = np.stack([np.pad(group, (0, width - group.size), constant_values=-1) for group in groups])
        members = np.where(candidates.present(members.ravel()).reshape(members.shape), members, -1)
        found[task] = _ranked(candidates, asked_of, asked, members)
    return found


def group_members(queries: QuerySet, asked: Rows) -> Rows:
    """All members of the groups of some queries."""
    groups = [queries.listed("group", row) for row in asked.tolist()]
    return np.unique(np.concatenate([np.empty(0, np.int64), *groups]))


def _ranked(candidates: EmbeddingStore, asked_of: EmbeddingStore, asked: Rows, members: Rows) -> Ranking:
    scores = np.full(members.shape, -np.inf)
    for start in range(0, len(asked), _QUERIES):
        part = slice(start, start + _QUERIES)
        there = members[part] >= 0
        vectors = candidates.vectors_of(members[part][there])
        asking = asked_of.vectors_of(asked[part])[np.nonzero(there)[0]]
        # In float64 no order of adding up shows in the scores.
        scores[part][there] = np.einsum("nd,nd->n", asking.astype(np.float64), vectors.astype(np.float64))
    order = np.argsort(-scores, axis=1, kind="stable")  # groups are in the order of rows
    rows, scores = (np.take_along_axis(table, order, axis=1) for table in (members, scores))
    return Ranking(asked, rows, scores.astype(np.float32))
