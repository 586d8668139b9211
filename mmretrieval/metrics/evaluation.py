"""From ranked lists and known positives to one table of measures per task; pure functions of arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mmretrieval.metrics.functional import (
    hit_rate_at_k,
    modality_accuracy_at_1,
    ndcg_at_k,
    reciprocal_rank,
)

Rows = NDArray[np.int64]
TaskTable = dict[str, dict[str, float]]
"""Task → name of the measure → value; the mean over tasks under :data:`AVERAGE`."""
GLOBAL, LOCAL = "global", "local"
AVERAGE = "average"
MODALITY_ACCURACY = "modality_accuracy@1"


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranked lists of some queries.

    Args:
        queries: Row of each query in its split.
        rows: Candidate row at each rank, best first, -1 where there is none.
        scores: The score of each of ``rows``.

    Shape:
        - queries: ``(Q,)``; rows, scores: ``(Q, K)``.
    """

    queries: Rows
    rows: Rows
    scores: NDArray[np.float32]

    def part(self, places: NDArray[np.integer] | NDArray[np.bool_]) -> Ranking:
        """The lists at some places, not at query rows."""
        return Ranking(self.queries[places], self.rows[places], self.scores[places])


@dataclass(frozen=True, slots=True)
class Positives:
    """The known positives of some queries: those of query q are ``rows[offsets[q]:offsets[q + 1]]``.

    Args:
        rows: Candidate rows, one query after the other, each once a query.
        offsets: Where each query begins, and the end.

    Shape:
        - offsets: ``(Q + 1,)``.
    """

    rows: Rows
    offsets: Rows

    @classmethod
    def of(cls, positives: Iterable[NDArray[np.integer]]) -> Self:
        """Build the table from each query's candidate rows; rows that are there twice count once."""
        parts = [np.unique(rows).astype(np.int64) for rows in positives]
        offsets = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
        return cls(np.concatenate([np.empty(0, np.int64), *parts]), offsets)

    def part(self, queries: Rows) -> Positives:
        """The positives of some queries, in their order."""
        return type(self).of(self.rows[self.offsets[q] : self.offsets[q + 1]] for q in queries.tolist())

    def relevant(self, ranked: Rows) -> NDArray[np.bool_]:
        """Whether the candidate at each rank is a known positive of its query.

        Shape:
            - ranked: ``(Q, K)`` candidate rows or -1, output: ``(Q, K)``.
        """
        # One integer for (query, candidate), so that a single membership test serves all queries.
        stride = int(max(ranked.max(initial=0), self.rows.max(initial=0))) + 1
        queries = np.arange(self.offsets.size - 1, dtype=np.int64)
        known = np.repeat(queries, np.diff(self.offsets)) * stride + self.rows
        found: NDArray[np.bool_] = np.isin(queries[:, None] * stride + ranked, known) & (ranked >= 0)
        return found

    def count_in(self, pool: Rows) -> Rows:
        """How many positives of each query a pool holds.

        Shape:
            - pool: candidate rows, output: ``(Q,)``.
        """
        inside = np.concatenate([[0], np.cumsum(np.isin(self.rows, pool))])
        counts: Rows = inside[self.offsets[1:]] - inside[self.offsets[:-1]]
        return counts


class TaskMetrics(NamedTuple):
    """The measures of one task in one pool.

    Args:
        values: Name → mean over queries; empty if no query could be judged.
        left_out: Queries without any positive in the pool, which are not judged, as in trec_eval.
    """

    values: dict[str, float]
    left_out: int


def task_metrics(
    ranking: Ranking, positives: Positives, pool: Rows, *, ks: Sequence[int] = (1, 5, 10), ndcg_k: int = 10
) -> TaskMetrics:
    """``hit@k``, ``ndcg@k`` and ``mrr`` of some queries in one pool.

    Only ranks matter. Positives that are not in the pool do not count, neither as relevant nor in the ideal
    list of nDCG. The reciprocal rank is 0 where the list ends before the first positive.

    Args:
        ranking: What was retrieved from the pool.
        positives: The known positives of the same queries, in the same order.
        pool: Candidate rows of the pool.
        ks: Cut-off ranks of the hit rates, each at least 1.
        ndcg_k: Cut-off rank of nDCG, at least 1.

    Raises:
        ValueError: If a cut-off is not positive, or the pool does not hold what was retrieved from it.
    """
    totals = positives.count_in(pool)
    judged = totals > 0
    left_out = int((~judged).sum())
    if not judged.any():
        return TaskMetrics({}, left_out)
    relevant = torch.from_numpy(positives.relevant(ranking.rows)[judged])
    total = torch.from_numpy(totals[judged])
    values = {f"hit@{k}": hit_rate_at_k(relevant, k) for k in ks}
    values[f"ndcg@{ndcg_k}"] = ndcg_at_k(relevant, total, ndcg_k)
    values["mrr"] = reciprocal_rank(relevant)
    return TaskMetrics({name: float(value.double().mean()) for name, value in values.items()}, left_out)


def modality_accuracy(
    ranking: Ranking, target_modality: NDArray[np.integer], candidate_modalities: NDArray[np.integer]
) -> float:
    """Share of queries whose top hit has the modality that was asked for.

    Args:
        ranking: What was retrieved, for at least one query.
        target_modality: Modality code that each query of the split asks for.
        candidate_modalities: Modality code of each candidate.
    """
    top = ranking.rows[:, 0]
    found = np.where(top >= 0, candidate_modalities[top].astype(np.int64), -1)
    target = target_modality[ranking.queries].astype(np.int64)
    correct = modality_accuracy_at_1(torch.from_numpy(found), torch.from_numpy(target))
    return float(correct.double().mean())


def with_average(tasks: Mapping[str, dict[str, float]]) -> TaskTable:
    """The table and its mean over tasks, each task with the same weight.

    A measure is averaged over the tasks that have it.

    Args:
        tasks: Task → name of the measure → value.
    """
    names = dict.fromkeys(name for values in tasks.values() for name in values)
    columns = {name: [values[name] for values in tasks.values() if name in values] for name in names}
    return {**tasks, AVERAGE: {name: float(np.mean(column)) for name, column in columns.items()}}


@dataclass(frozen=True, slots=True)
class EvaluationRound:
    """One evaluation.

    Args:
        epoch: How many epochs were finished, 0 before training.
        step: How many optimizer steps were done.
        seconds: How long it took.
        metrics: "global" and "local" → task, and "average" → name of the measure → value. A pool that the
            data does not have is not there.
    """

    epoch: int
    step: int
    seconds: float
    metrics: dict[str, TaskTable]

    @property
    def untrained(self) -> bool:
        """Whether it was before the first optimizer step."""
        return self.step == 0

    def value(self, pool: str, task: str, name: str) -> float | None:
        """A measure, or ``None`` if there is none, for want of a pool."""
        return self.metrics.get(pool, {}).get(task, {}).get(name)

    def scalars(self) -> dict[str, float]:
        """All measures for a logger, as ``global/<task>/hit@5``."""
        return {
            f"{pool}/{task}/{name}": value
            for pool, table in self.metrics.items()
            for task, values in table.items()
            for name, value in values.items()
        }


def metrics_document(rounds: Sequence[EvaluationRound], *, with_untrained: bool = True) -> dict[str, Any]:
    """What ``metrics.json`` holds: the last round's measures, the untrained ones, and all rounds.

    Args:
        rounds: At least one, in the order of time.
        with_untrained: Whether a round at step 0 is one of untrained weights, as it is in a fit.
    """
    first = rounds[0]
    untrained = {"untrained": first.metrics} if with_untrained and first.untrained else {}
    epochs = [
        {"epoch": done.epoch, "step": done.step, "seconds": round(done.seconds, 3), **done.metrics}
        for done in rounds
    ]
    return {**rounds[-1].metrics, **untrained, "epochs": epochs}
