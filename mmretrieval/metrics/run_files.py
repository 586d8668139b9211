"""Where the run files and qrels of an evaluation are, and the measures of their queries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmretrieval.errors import UserError
from mmretrieval.metrics.per_query import Measure
from mmretrieval.metrics.trec import Order, Qrels, read_qrels, read_run

FOLDERS = ("runs", "runs_test", "runs_validate")
"""Where a fit, a test and a validation write run files; the first folder that is there counts."""
_POOL = re.compile(r"(?:global|local)_(?=.)")


class Measured(NamedTuple):
    """The queries of a run file.

    Args:
        values: Query id → measure, for the queries that have a relevant candidate.
        unjudged: How many queries of the run have none and are left out, as by trec_eval.
    """

    values: dict[str, float]
    unjudged: int


def run_files(path: Path) -> dict[str, Path]:
    """Return the run files of a run by task; a single file stands for the task of its name.

    Args:
        path: A ``.trec`` file, a folder of them, or the folder of an evaluated run.

    Raises:
        UserError: If there are none.
    """
    if path.is_file():
        return {path.stem: path}
    for folder in (path, *(path / name for name in FOLDERS)):
        if found := sorted(folder.glob("*.trec")):
            return {file.stem: file for file in found}
    raise UserError(
        f"{path}: holds no run file; give a .trec file, a folder of them, or a run with {', '.join(FOLDERS)}"
    )


def qrels_file(task: str, run: Path, given: Path | None) -> Path | None:
    """Return the qrels of a task: those given, a file or one in a folder, else those beside the run file.

    Args:
        task: Name of the task, as ``global_mscoco_task0``.
        run: The run file.
        given: A file for all tasks, or a folder with ``<task>.qrels`` or M-BEIR's
            ``mbeir_<dataset>_task<t>_<split>_qrels.txt``.

    Raises:
        UserError: If what was given has not exactly one file for the task.
    """
    if given is None:
        beside = run.with_suffix(".qrels")
        return beside if beside.is_file() else None
    if not given.is_dir():
        return given
    plain = _POOL.sub("", task)
    for pattern in (f"{task}.qrels", f"{plain}.qrels", f"mbeir_{plain}_*_qrels.txt"):
        wanted = re.compile(re.escape(pattern).replace(r"\*", "(?:train|val|test)"), re.IGNORECASE)
        found = sorted(file for file in given.iterdir() if wanted.fullmatch(file.name))
        if len(found) > 1:
            raise UserError(f"{given}: has {len(found)} qrels of {plain}; give the folder of one split")
        if found:
            return found[0]
    raise UserError(f"{given}: has no qrels of {task}; add {task}.qrels or mbeir_{plain}_<split>_qrels.txt")


def shared_qrels(task: str, runs: tuple[Path, Path], given: Path | None) -> Qrels:
    """Read the qrels that two run files of a task are both measured by.

    Raises:
        UserError: If there are none, or the two runs have different ones.
    """
    files = [path for path in (qrels_file(task, run, given) for run in runs) if path is not None]
    if not files:
        raise UserError(
            f"{runs[0]}: has no qrels beside it ({runs[0].with_suffix('.qrels').name}); give --qrels"
        )
    qrels = read_qrels(files[0])
    if files[-1] != files[0] and read_qrels(files[-1]) != qrels:
        raise UserError(f"{files[0]} and {files[-1]} judge differently; say with --qrels which are right")
    return qrels


def measure(path: Path, qrels: Mapping[str, Mapping[str, int]], what: Measure, order: Order) -> Measured:
    """Measure every query of a run file.

    Raises:
        UserError: If the file cannot be used, or none of its queries has a relevant candidate.
    """
    values: dict[str, float] = {}
    unjudged = 0
    for query, ranked, _ in read_run(path, order):
        judged = qrels.get(query, {})
        if any(relevance > 0 for relevance in judged.values()):
            values[query] = what.of(ranked, judged)
        else:
            unjudged += 1
    if not values:
        raise UserError(f"{path}: the qrels have no relevant candidate for any of its {unjudged} queries")
    return Measured(values, unjudged)
