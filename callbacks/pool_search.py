"""The pools that a split's queries search, and what they find there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from callbacks.exclusions import Exclusions
from callbacks.searching import search
from data_modules.query_set import QuerySet
from mmretrieval.index import EmbeddingStore, StoredRows, VectorIndex
from mmretrieval.metrics.evaluation import GLOBAL, LOCAL
from mmretrieval.metrics.ranked import Positives, Ranking, Rows

Rankings = dict[str, dict[str, Ranking]]
"""Kind of pool → task → ranked lists."""


class Found(NamedTuple):
    """What the queries of a split find, asked in one way.

    Args:
        rankings: In the pools.
        groups: Task → ranked lists within each query's group, for the tasks that have groups.
    """

    rankings: Rankings
    groups: dict[str, Ranking]


DRY_QUERIES, DRY_CANDIDATES = 2, 64  # a task's queries and a pool's candidates under fast_dev_run


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool with the tasks whose queries search it.

    Args:
        kind: ``global`` or ``local``.
        rows: Candidate rows in ascending order, so that equal scores come by row.
        tasks: Names of the tasks.
    """

    kind: str
    rows: Rows
    tasks: tuple[str, ...]

    def shortened(self, known: Rows) -> Pool:
        """The known positives that are in the pool, and a few more of it."""
        kept: Rows = np.union1d(self.rows[:DRY_CANDIDATES], np.intersect1d(self.rows, known))
        return Pool(self.kind, kept, self.tasks)


def pools_of(queries: QuerySet) -> list[Pool]:
    """The global pool of a split, and each task's own; those that are missing are named in a warning.

    Raises:
        MisconfigurationException: If there is none.
    """
    available, name = queries.corpus.pools, f"{GLOBAL}_{queries.split}"
    missing = [] if name in available else [name]
    local: dict[str, tuple[str, ...]] = {}
    for task in queries.tasks:
        pool = queries.local_pool(task)
        if pool is None:
            missing.append(f"local_{task}")
        else:
            local[pool] = (*local.get(pool, ()), task)
    if missing:
        rank_zero_warn(
            f"Nothing can be measured in pools that {queries.corpus.root} does not have: "
            f"{', '.join(missing)}. Add their files under cand_pool and pack the data again."
        )
    found = [Pool(GLOBAL, np.sort(available[name]), queries.tasks)] if name in available else []
    found += [Pool(LOCAL, np.sort(available[pool]), tasks) for pool, tasks in local.items()]
    if not found:
        raise MisconfigurationException(
            f"{queries.corpus.root} has no pool for the queries of {queries.split!r}: leave the evaluation "
            "out, or evaluate another split."
        )
    return found


def positives_of(queries: QuerySet) -> Positives:
    """The known positives of all queries of a split, with their grades."""
    rows = range(len(queries))
    return Positives.of((queries.positives(row) for row in rows), (queries.grades(row) for row in rows))


def rows_by_task(queries: QuerySet, rows: Rows) -> dict[str, Rows]:
    """The rows of each task, ascending if ``rows`` is."""
    tasks: NDArray[np.int32] = queries.task_of[rows]
    return {task: rows[tasks == number] for number, task in enumerate(queries.tasks)}


def search_pools(
    index: VectorIndex,
    candidates: EmbeddingStore,
    asked_of: EmbeddingStore,
    by_task: Mapping[str, Rows],
    pools: list[Pool],
    depth: int,
    exclusions: Exclusions,
    device: torch.device,
) -> Rankings:
    """Search each pool with the queries of its tasks, all ranks together.

    Args:
        index: An empty index.
        candidates: Embeddings of all pools.
        asked_of: Embeddings of the queries.
        by_task: Task → its query rows; tasks that are not there are not searched for.
        pools: Where to search.
        depth: Length of the lists.
        exclusions: What is taken out of them.
        device: Where the process group can exchange tensors.
    """
    rankings: Rankings = {}
    for pool in pools:
        tasks = [task for task in pool.tasks if task in by_task]
        if not tasks:
            continue
        asked = np.concatenate([by_task[task] for task in tasks])
        deeper = depth + exclusions.most(asked, pool.rows)
        scores, found = search(index, candidates, pool.rows, StoredRows(asked_of, asked), deeper, device)
        ranking = exclusions.removed(Ranking(asked, found, scores), depth)
        for task in tasks:
            rankings.setdefault(pool.kind, {})[task] = ranking.part(np.isin(asked, by_task[task]))
    return rankings
