"""``mmretrieval compare``: is one evaluated run better than another?"""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table

from data_modules.atomic import staged_file
from mmretrieval.errors import UserError
from mmretrieval.metrics.comparison import Resampling, TaskComparison, compare_average, compare_tasks
from mmretrieval.metrics.per_query import Measure
from mmretrieval.metrics.run_files import measure, run_files, shared_qrels
from mmretrieval.metrics.significance import Floats

_SIGNIFICANT = 0.05
_PLOT_WIDTH, _ROW_HEIGHT = 8.0, 0.3  # inches
_WIDTH = 160  # columns where the output is no terminal, so that no cell is broken
_POOLS = ("global", "local")


@dataclass
class _Measured:
    """Measures of both runs, query by query in the same order, and what was left out."""

    a: dict[str, Floats] = field(default_factory=dict)
    b: dict[str, Floats] = field(default_factory=dict)
    unjudged: dict[str, int] = field(default_factory=dict)
    not_shared: dict[str, int] = field(default_factory=dict)
    in_neither: dict[str, int] = field(default_factory=dict)
    tasks_not_shared: list[str] = field(default_factory=list)


def compare(
    a: Path,
    b: Path,
    metric: str = "hit@5",
    qrels: Path | None = None,
    out: Path | None = None,
    json: Path | None = None,
    intersect: bool = False,
    order: Literal["score", "rank"] = "score",
    resamples: int = 10_000,
    seed: int = 0,
) -> None:
    """Compare two evaluated runs, task by task: means, difference with its 95 % interval, p-value.

    Args:
        a: Folder of an evaluated run, a folder of .trec files, or one of them.
        b: The same of the run to compare with; differences are B less A.
        metric: hit@k, recall@k, ndcg@k, map@k, mrr or mrr@k.
        qrels: A file of qrels, or a folder with one for each task; those beside the run files by default.
        out: Folder for a plot and the numbers, comparison.png and comparison.json.
        json: File for the numbers.
        intersect: Compare the tasks and queries that both runs have, instead of refusing others.
        order: Rank by 'score' and then id, as trec_eval does, or by the files' own 'rank'.
        resamples: Permutations and bootstrap samples of each task.
        seed: The same seed gives the same numbers.
    """
    if resamples < 1 or seed < 0:
        raise UserError(f"resamples is {resamples}, seed {seed}; give at least 1 and 0")
    what, how = Measure.named(metric), Resampling(resamples, seed)
    measured = _measure(run_files(a), run_files(b), what, qrels, order, intersect=intersect)
    tasks = compare_tasks(measured.a, measured.b, how)
    averages = _averages(measured, how)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(_table(a, b, what, tasks, averages))
    for line in _left_out(measured):
        console.print(line, highlight=False, markup=False)
    document = _document(a, b, what, how, order, measured, tasks, averages)
    for path in (json, out / "comparison.json" if out is not None else None):
        if path is not None:
            with staged_file(path) as stage:
                stage.write_text(json_module.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")
    if out is not None:
        with staged_file(out / "comparison.png") as stage:
            plot(a, b, what, tasks | averages).savefig(stage, format="png", dpi=150)


def plot(a: Path, b: Path, what: Measure, rows: dict[str, TaskComparison]) -> Figure:
    """Draw the differences with their intervals, one row a task; filled points are significant."""
    figure = Figure(figsize=(_PLOT_WIDTH, 1.2 + _ROW_HEIGHT * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(rows.values()):
        color = "tab:gray" if one.p_holm > _SIGNIFICANT else "tab:green" if one.difference > 0 else "tab:red"
        axes.plot(one.interval, [place, place], color=color)
        axes.plot([one.difference], [place], "o", color=color, fillstyle="full")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"{what} of {b.name} less {a.name}, with 95 % interval")
    axes.set_title("colour: p < 0.05 after Holm's correction", fontsize="small")
    return figure


def _measure(
    a: dict[str, Path],
    b: dict[str, Path],
    what: Measure,
    qrels: Path | None,
    order: Literal["score", "rank"],
    *,
    intersect: bool,
) -> _Measured:
    if len(a) == len(b) == 1:  # single files are meant to be compared whatever they are called
        b = dict(zip(a, b.values(), strict=True))
    found = _Measured(tasks_not_shared=sorted(a.keys() ^ b.keys()))
    shared = sorted(a.keys() & b.keys())
    if not shared or (found.tasks_not_shared and not intersect):
        raise UserError(
            f"only one of the runs has {', '.join(found.tasks_not_shared[:5])} "
            f"({len(found.tasks_not_shared)} tasks), both have {len(shared)}; --intersect=true compares what "
            "both have"
        )
    for task in shared:
        files = a[task], b[task]
        judged = shared_qrels(task, files, qrels)
        values = [measure(path, judged, what, order) for path in files]
        queries = _queries(task, files, values[0].values, values[1].values, intersect=intersect)
        found.a[task], found.b[task] = (np.array([v.values[q] for q in queries]) for v in values)
        found.unjudged[task] = max(v.unjudged for v in values)
        found.not_shared[task] = len(values[0].values.keys() ^ values[1].values.keys())
        answered = {query for query, judgements in judged.items() if max(judgements.values()) > 0}
        found.in_neither[task] = len(answered - values[0].values.keys() - values[1].values.keys())
    return found


def _queries(
    task: str, files: tuple[Path, Path], a: dict[str, float], b: dict[str, float], *, intersect: bool
) -> list[str]:
    """The queries to compare, sorted, so that the order of lines does not matter."""
    other = sorted(a.keys() ^ b.keys())
    if other and not intersect:
        only_a, only_b = len(a.keys() - b.keys()), len(b.keys() - a.keys())
        raise UserError(
            f"{task}: {files[0]} and {files[1]} have different queries: {only_a} only in the first, {only_b} "
            f"only in the second, as {other[0]!r}; --intersect=true compares those of both"
        )
    shared = sorted(a.keys() & b.keys())
    if not shared:
        raise UserError(f"{task}: {files[0]} and {files[1]} have no query in common")
    return shared


def _averages(measured: _Measured, how: Resampling) -> dict[str, TaskComparison]:
    averages = {}
    for pool in _POOLS:
        tasks = [task for task in measured.a if task.startswith(f"{pool}_")]
        if len(tasks) > 1:
            a, b = ({task: run[task] for task in tasks} for run in (measured.a, measured.b))
            averages[f"{pool} average"] = compare_average(a, b, how)
    return averages


def _table(
    a: Path, b: Path, what: Measure, tasks: dict[str, TaskComparison], averages: dict[str, TaskComparison]
) -> Table:
    numbers = ("queries", "A", "B", "B less A", "95 % interval", "p", "p (Holm)")
    columns = (Column(name, justify="right") for name in numbers)
    table = Table(Column("task", overflow="fold"), *columns, title=f"{what}; A: {a}; B: {b}")
    for name, one in (tasks | averages).items():
        corrected = f"{one.p_holm:.4f}" if name in tasks else ""
        style = None
        if one.p_holm < _SIGNIFICANT:
            style = "green" if one.difference > 0 else "red"
        means = (f"{value:.4f}" for value in (one.mean_a, one.mean_b))
        interval = f"{one.interval.low:+.4f} … {one.interval.high:+.4f}"
        cells = (
            f"{one.queries:,}",
            *means,
            f"{one.difference:+.4f}",
            interval,
            f"{one.p_value:.4f}",
            corrected,
        )
        table.add_row(name, *cells, style=style)
    return table


def _left_out(measured: _Measured) -> list[str]:
    lines = []
    if count := sum(measured.unjudged.values()):
        lines.append(f"{count:,} queries are left out: the qrels have nothing relevant for them")
    if count := sum(measured.not_shared.values()):
        lines.append(f"{count:,} queries are left out: only one of the runs has them")
    if count := sum(measured.in_neither.values()):
        lines.append(f"{count:,} queries of the qrels are in neither run and do not count")
    if names := measured.tasks_not_shared:
        lines.append(f"{len(names)} tasks are left out, only one of the runs has them: {', '.join(names)}")
    return lines


def _document(
    a: Path,
    b: Path,
    what: Measure,
    how: Resampling,
    order: str,
    measured: _Measured,
    tasks: dict[str, TaskComparison],
    averages: dict[str, TaskComparison],
) -> dict[str, Any]:
    rows = {
        name: {**asdict(one), "interval": list(one.interval), "difference": one.difference}
        for name, one in (tasks | averages).items()
    }
    for name in tasks:
        rows[name] |= {"unjudged": measured.unjudged[name], "not_shared": measured.not_shared[name]}
        rows[name]["in_neither"] = measured.in_neither[name]
    for name in averages:
        rows[name].pop("p_holm")
    return {
        "a": str(a),
        "b": str(b),
        "metric": str(what),
        "order": order,
        **asdict(how),
        "tasks_not_shared": measured.tasks_not_shared,
        "tasks": {name: rows[name] for name in tasks},
        "averages": {name: rows[name] for name in averages},
    }
