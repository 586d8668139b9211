"""The pools that a split's queries search, and what they find there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from callbacks.searching import search
from data_modules.corpus import QuerySet
from mmretrieval.index import EmbeddingStore, VectorIndex
from mmretrieval.metrics.evaluation import GLOBAL, LOCAL
from mmretrieval.metrics.protocol import data_set_of
from mmretrieval.metrics.ranked import Positives, Ranking, Rows

Rankings = dict[str, dict[str, Ranking]]
"""Kind of pool → task → ranked lists."""
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


def rows_by_task(queries: QuerySet, rows: Rows) -> dict[str, Rows]:
    """The rows of each task, ascending if ``rows`` is."""
    tasks: NDArray[np.int32] = queries.task_of[rows]
    return {task: rows[tasks == number] for number, task in enumerate(queries.tasks)}


class OwnImages:
    """Takes candidates that show a query's own picture out of its ranked list, as CIRR and CIRCO do.

    Pictures are the same if their files have the same bytes. Known positives stay in any case.

    Args:
        queries: The queries of the split.
        positives: Of all of them.
        data_sets: Names of the data sets that do so.
    """

    def __init__(self, queries: QuerySet, positives: Positives, data_sets: Collection[str]) -> None:
        self._queries, self._positives = queries, positives
        self.tasks = tuple(task for task in queries.tasks if data_set_of(task) in data_sets)
        """The tasks that this concerns."""

    def most(self, asked: Rows, pool: Rows) -> int:
        """How many candidates of a pool can be taken out of one list."""
        own = self._images(asked)
        shown = self._queries.corpus.candidate_images[pool]
        counts = np.bincount(shown[shown >= 0], minlength=1)
        inside = own[(own >= 0) & (own < len(counts))]
        return int(counts[inside].max(initial=0))

    def removed(self, ranking: Ranking, depth: int) -> Ranking:
        """Lists of a depth without these candidates, of lists that are deeper by :meth:`most`."""
        rows, scores = ranking.rows, ranking.scores
        own = self._images(ranking.queries)[:, None]
        shown = np.where(rows >= 0, self._queries.corpus.candidate_images[rows], -1)
        out = (own >= 0) & (shown == own) & ~self._positives.part(ranking.queries).relevant(rows)
        kept = np.argsort(out, axis=1, kind="stable")[:, :depth]
        gone = np.take_along_axis(out, kept, axis=1)
        rows = np.where(gone, -1, np.take_along_axis(rows, kept, axis=1))
        scores = np.where(gone, np.float32(-np.inf), np.take_along_axis(scores, kept, axis=1))
        return Ranking(ranking.queries, rows, scores)

    def _images(self, asked: Rows) -> Rows:
        """Each query's picture; -1 without one, or where the task takes nothing out."""
        numbers = [self._queries.tasks.index(task) for task in self.tasks]
        concerned = np.isin(self._queries.task_of[asked], numbers)
        return np.where(concerned, self._queries.images[asked], -1)


def search_pools(
    index: VectorIndex,
    candidates: EmbeddingStore,
    asked_of: EmbeddingStore,
    by_task: Mapping[str, Rows],
    pools: list[Pool],
    depth: int,
    own: OwnImages,
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
        own: What is taken out of them.
        device: Where the process group can exchange tensors.
    """
    rankings: Rankings = {}
    for pool in pools:
        tasks = [task for task in pool.tasks if task in by_task]
        if not tasks:
            continue
        asked = np.concatenate([by_task[task] for task in tasks])
        deeper = depth + own.most(asked, pool.rows)
        scores, found = search(index, candidates, pool.rows, asked_of.vectors_of(asked), deeper, device)
        ranking = own.removed(Ranking(asked, found, scores), depth)
        for task in tasks:
            rankings.setdefault(pool.kind, {})[task] = ranking.part(np.isin(asked, by_task[task]))
    return rankings
