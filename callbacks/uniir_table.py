"""The table that UniIR's evaluation writes, for comparisons with published ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_modules.query_set import QuerySet
from mmretrieval.content import MODALITIES
from mmretrieval.metrics.evaluation import GLOBAL, LOCAL, EvaluationRound

COLUMNS = (
    "TaskID",
    "Task",
    "Dataset",
    "Split",
    "Metric",
    "CandPool",
    "Value",
    "UnionPool",
    "UnionValue",
)
_ORDER = (
    "visualnews_task0", "mscoco_task0", "fashion200k_task0", "webqa_task1", "edis_task2", "webqa_task2",
    "visualnews_task3", "mscoco_task3", "fashion200k_task3", "nights_task4", "oven_task6", "infoseek_task6",
    "fashioniq_task7", "cirr_task7", "oven_task8", "infoseek_task8",
)  # fmt: skip


def write_uniir_table(path: Path, done: EvaluationRound, queries: QuerySet) -> None:
    """Write hit rates in UniIR's columns and order (Wei et al., 2023, https://arxiv.org/abs/2311.17136).

    UniIR calls them Recall, rounds to four digits, and divides by all queries: one none of whose positives
    is in the pool is a miss there, while ``metrics.json`` leaves it out as trec_eval does. A task without a
    local pool has its row with the union alone, which UniIR would not write.

    Args:
        path: Where to.
        done: The measures.
        queries: The queries that were evaluated.
    """
    rows = [COLUMNS, *_rows(done, queries)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")


def _rows(done: EvaluationRound, queries: QuerySet) -> Iterator[tuple[str, ...]]:
    for task in sorted(queries.tasks, key=_place):
        local, union = (_hits(done, kind, task) for kind in (LOCAL, GLOBAL))
        pool = (queries.local_pool(task) or "").removeprefix("local_") if local else ""
        for k in sorted({*local, *union}):
            fixed = (str(_number(task)), _direction(queries, task), task, queries.split, f"Recall@{k}")
            merged = ("union", union[k]) if k in union else ("", "")
            yield (*fixed, pool, local.get(k, ""), *merged)


def _hits(done: EvaluationRound, kind: str, task: str) -> Mapping[int, str]:
    """UniIR's value by rank."""
    values = done.metrics.get(kind, {}).get(task, {})
    asked = done.queries[task]
    judged = (asked - done.left_out.get(kind, {}).get(task, 0)) / asked
    hits = {name: value for name, value in values.items() if name.startswith("hit@")}
    return {int(name.removeprefix("hit@")): f"{value * judged:.4f}" for name, value in hits.items()}


def _place(task: str) -> tuple[int, int, str]:
    return _number(task), _ORDER.index(task.lower()) if task.lower() in _ORDER else len(_ORDER), task


def _number(task: str) -> int:
    found = re.search(r"_task(\d+)$", task)
    return int(found[1]) if found else -1


def _direction(queries: QuerySet, task: str) -> str:
    """As ``image,text -> text``, by the task's first query."""
    row = int((queries.task_of == queries.tasks.index(task)).argmax())
    asked, wanted = (MODALITIES[codes[row]] for codes in (queries.modalities, queries.target_modality))
    return f"{asked.value} -> {wanted.value}"
