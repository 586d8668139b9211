"""From ranked lists to the tables of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.pool_search import Found, Pool
from data_modules.query_set import QuerySet
from mmretrieval.content import Modality
from mmretrieval.metrics.evaluation import (
    AVERAGE,
    COMPOSED,
    GLOBAL,
    LOCAL,
    SINGLE_MODAL,
    Intervals,
    TaskTable,
    interval_table,
    with_average,
)
from mmretrieval.metrics.measures import Floats, means, modality_measures, query_measures, subset_measures
from mmretrieval.metrics.protocol import HEADLINE, Protocol
from mmretrieval.metrics.ranked import Positives, Ranking


@dataclass(frozen=True, slots=True)
class ShortMeasures:
    """What is measured in a fit.

    Args:
        ks: Cut-off ranks of the hit rates.
        ndcg_k: Cut-off rank of nDCG.
    """

    ks: tuple[int, ...]
    ndcg_k: int


@dataclass(slots=True)
class Tables:
    """The measures of an evaluation, by kind of pool and task.

    Args:
        values: Name of the measure → its value for each query, the mean over instructions.
        spread: Name → standard deviation of the task's value over instructions, if there are several.
        left_out: How many queries have no positive in the pool.
    """

    values: dict[str, dict[str, dict[str, Floats]]] = field(default_factory=dict)
    spread: dict[str, TaskTable] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)

    def metrics(self, groups: Mapping[str, Sequence[str]]) -> dict[str, TaskTable]:
        """The mean of each measure, with averages over tasks and over groups of tasks."""
        return {
            kind: with_average({task: means(values) for task, values in table.items()}, groups)
            for kind, table in self.values.items()
        }

    def intervals(self, groups: Mapping[str, Sequence[str]], protocol: Protocol) -> dict[str, Intervals]:
        """The intervals of all that :meth:`metrics` has, if there shall be any."""
        if protocol.bootstrap is None:
            return {}
        return {
            kind: interval_table(table, {AVERAGE: tuple(table), **groups}, protocol.bootstrap)
            for kind, table in self.values.items()
        }


def tables_of(
    rounds: Sequence[Found],
    pools: Sequence[Pool],
    queries: QuerySet,
    positives: Positives,
    asked: Protocol | ShortMeasures,
) -> Tables:
    """Measure what was found.

    Args:
        rounds: What was found for each instruction; a task that has fewer instructions is not in the last
            ones.
        pools: What was searched.
        queries: The queries of the split.
        positives: Of all of them.
        asked: What to measure.
    """
    tables = Tables()
    for pool in pools:
        for task in pool.tasks:
            own = [
                (found.rankings[pool.kind][task], found.groups.get(task))
                for found in rounds
                if task in found.rankings.get(pool.kind, {})
            ]
            known = positives.part(own[0][0].queries)
            measured = [
                _measured(task, pool, ranking, group, known, queries, asked) for ranking, group in own
            ]
            values, left_out = measured[0]
            tables.left_out.setdefault(pool.kind, {})[task] = left_out
            if left_out:
                rank_zero_warn(
                    f"{left_out} of {own[0][0].queries.size} queries of {task} are left out of the "
                    f"{pool.kind} measures: none of their positives is in the pool."
                )
            if not values:
                continue
            each = [parts for parts, _ in measured]
            mean = {name: np.mean([parts[name] for parts in each], axis=0) for name in values}
            tables.values.setdefault(pool.kind, {})[task] = mean
            if len(rounds) > 1:
                task_means = [means(parts) for parts in each]
                tables.spread.setdefault(pool.kind, {})[task] = {
                    name: float(np.std([parts[name] for parts in task_means])) for name in values
                }
    return tables


def groups_of(queries: QuerySet) -> dict[str, tuple[str, ...]]:
    """The tasks whose queries have one modality, and those with queries of picture and text together.

    What is looked for does not matter: MM-Embed's two averages split M-BEIR's 16 tasks into 10 and 6 by the
    query's modality alone (https://arxiv.org/abs/2411.02571, table 1).
    """
    composed = queries.task_of[queries.modalities == Modality.IMAGE_TEXT.code]
    names = {queries.tasks[number] for number in np.unique(composed).tolist()}
    return {
        SINGLE_MODAL: tuple(task for task in queries.tasks if task not in names),
        COMPOSED: tuple(task for task in queries.tasks if task in names),
    }


def _measured(
    task: str,
    pool: Pool,
    ranking: Ranking,
    group: Ranking | None,
    known: Positives,
    queries: QuerySet,
    asked: Protocol | ShortMeasures,
) -> tuple[dict[str, Floats], int]:
    """The measures of each query, and how many queries are left out."""
    full = isinstance(asked, Protocol)
    ks = asked.of(task).ks if isinstance(asked, Protocol) else asked.ks
    found = query_measures(
        ranking,
        known,
        pool.rows,
        ks=ks,
        ndcg_k=asked.ndcg_k,
        recall_ks=ks if full else (),
        map_ks=asked.map_ks if isinstance(asked, Protocol) else (),
    )
    values = found.values
    if values and isinstance(asked, Protocol):
        values = {HEADLINE: values[f"hit@{asked.of(task).headline}"], **values}
    if values and pool.kind == GLOBAL:
        modalities = queries.corpus.candidate_modalities
        values |= modality_measures(ranking, queries.target_modality, modalities, ks if full else ())
    if values and group is not None and pool.kind == LOCAL:
        values |= subset_measures(group.part(found.judged), known.part(np.flatnonzero(found.judged)))
    return values, found.left_out
