"""From the measures of queries to one table per pool, with averages over tasks and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmretrieval.metrics.bootstrap import Bootstrap, mean_of
from mmretrieval.metrics.measures import MODALITY_ACCURACY, Floats

__all__ = [
    "AVERAGE",
    "COMPOSED",
    "GLOBAL",
    "LOCAL",
    "MODALITY_ACCURACY",
    "SINGLE_MODAL",
    "EvaluationRound",
    "Intervals",
    "TaskTable",
    "interval_table",
    "is_average",
    "metrics_document",
    "with_average",
]
TaskTable = dict[str, dict[str, float]]
"""Task → name of the measure → value; the mean over tasks under :data:`AVERAGE`."""
Intervals = dict[str, dict[str, list[float]]]
"""Task, or average → name of the measure → lower and upper bound."""
GLOBAL, LOCAL = "global", "local"
AVERAGE = "average"
SINGLE_MODAL, COMPOSED = "average_single_modal", "average_composed"
"""Averages over the tasks whose queries have one modality, or picture and text together; full evaluations."""


def with_average(
    tasks: Mapping[str, dict[str, float]], groups: Mapping[str, Sequence[str]] | None = None
) -> TaskTable:
    """The table and its means over tasks, each task with the same weight.

    A measure is averaged over the tasks that have it; a group without any task is left out.

    Args:
        tasks: Task → name of the measure → value.
        groups: Name of a further average → its tasks.
    """
    members = {AVERAGE: tuple(tasks), **(groups or {})}
    averages = {
        name: _average([tasks[task] for task in own if task in tasks]) for name, own in members.items()
    }
    return {**tasks, **{name: values for name, values in averages.items() if values or name == AVERAGE}}


def _average(tasks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for values in tasks for name in values)
    columns = {name: [values[name] for values in tasks if name in values] for name in names}
    return {name: float(np.mean(column)) for name, column in columns.items()}


def interval_table(
    tasks: Mapping[str, Mapping[str, Floats]], groups: Mapping[str, Sequence[str]], bootstrap: Bootstrap
) -> Intervals:
    """The interval of each measure of each task, and of each average.

    In each sample, an average is the mean over its tasks of their means, so that its interval is that of
    other queries of the same tasks, not of other tasks.

    Args:
        tasks: Task → name of the measure → its value for each query.
        groups: Name of an average → its tasks.
        bootstrap: How to draw.
    """
    drawn = {task: bootstrap.means(task, values) for task, values in tasks.items()}
    for name, own in groups.items():
        members = [drawn[task] for task in own if task in tasks]
        names = dict.fromkeys(measure for values in members for measure in values)
        drawn[name] = {m: mean_of([values[m] for values in members if m in values]) for m in names}
    return {
        task: {name: list(bootstrap.interval(column)) for name, column in values.items()}
        for task, values in drawn.items()
        if values
    }


def is_average(task: str) -> bool:
    """Whether a row of a table is an average."""
    return task in (AVERAGE, SINGLE_MODAL, COMPOSED)


@dataclass(frozen=True, slots=True)
class EvaluationRound:
    """One evaluation.

    Args:
        epoch: How many epochs were finished, 0 before training.
        step: How many optimizer steps were done.
        seconds: How long it took.
        metrics: "global" and "local" → task, and "average" → name of the measure → value. A pool that the
            data does not have is not there.
        intervals: The same → lower and upper bound, where they were asked for.
        spread: The same, tasks alone → standard deviation over instructions, where there were several.
        left_out: "global" and "local" → task → queries without a positive in the pool.
        queries: Task → number of its queries.
    """

    epoch: int
    step: int
    seconds: float
    metrics: dict[str, TaskTable]
    intervals: dict[str, Intervals] = field(default_factory=dict)
    spread: dict[str, TaskTable] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    queries: dict[str, int] = field(default_factory=dict)

    @property
    def at_start(self) -> bool:
        """Whether it was before the first optimizer step."""
        return self.step == 0

    def value(self, pool: str, task: str, name: str) -> float | None:
        """A measure, or ``None`` if there is none, for want of a pool."""
        return self.metrics.get(pool, {}).get(task, {}).get(name)

    def pool_table(self) -> TaskTable:
        """The table of the global pool, or of local pools where the data has no global one."""
        return self.metrics[GLOBAL if GLOBAL in self.metrics else LOCAL]

    def scalars(self) -> dict[str, float]:
        """All measures for a logger, as ``global/<task>/hit@5``."""
        return {
            f"{pool}/{task}/{name}": value
            for pool, table in self.metrics.items()
            for task, values in table.items()
            for name, value in values.items()
        }

    def document(self) -> dict[str, Any]:
        """What ``metrics.json`` holds of a single evaluation: nothing that differs between machines."""
        more = {"intervals": self.intervals, "instruction_spread": self.spread}
        counts = {"queries": self.queries, "without_positive_in_pool": self.left_out}
        return {**self.metrics, **{name: part for name, part in more.items() if part}, **counts}


def metrics_document(rounds: Sequence[EvaluationRound]) -> dict[str, Any]:
    """What ``metrics.json`` of a fit holds: the last round's measures, those at the start, and all rounds.

    Args:
        rounds: At least one, in the order of time; one at step 0 is of the weights that training starts from.
    """
    first = rounds[0]
    start = {"start": first.metrics} if first.at_start else {}
    epochs = [
        {"epoch": done.epoch, "step": done.step, "seconds": round(done.seconds, 3), **done.metrics}
        for done in rounds
    ]
    return {**rounds[-1].metrics, **start, "epochs": epochs}
