"""The files of an evaluation: measures, run files with their qrels, UniIR's table, and where it ran."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbacks.pool_search import Pool, Rankings
from callbacks.run_files import write_qrels, write_run
from data_modules.atomic import staged_file
from data_modules.query_set import QuerySet


def write_json(target: Path, document: dict[str, Any]) -> None:
    """Write a document complete or not at all; numbers that are not finite are an error."""
    with staged_file(target) as path:
        path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")


def write_rankings(
    folder: Path, rounds: Sequence[Rankings], pools: Sequence[Pool], queries: QuerySet, name: str
) -> None:
    """Write ``<pool>_<task>.trec`` and its ``.qrels``; other instructions than the first as ``…_prompt2``.

    Args:
        folder: Where to.
        rounds: Ranked lists for each instruction.
        pools: What was searched.
        queries: The queries of the split.
        name: What trec_eval shows as the run's name, without blanks.
    """
    for pool in pools:
        for task in pool.tasks:
            for number, rankings in enumerate(rounds, start=1):
                ranking = rankings.get(pool.kind, {}).get(task)
                if ranking is None:
                    continue
                prompt = "" if number == 1 else f"_prompt{number}"
                target = folder / f"{pool.kind}_{task}{prompt}.trec"
                with staged_file(target) as path:
                    write_run(path, ranking, queries, name)
                with staged_file(target.with_suffix(".qrels")) as path:
                    write_qrels(path, ranking.queries, pool.rows, queries)
