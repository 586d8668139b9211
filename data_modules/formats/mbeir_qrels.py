"""The qrels of the M-BEIR release layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_modules.formats.mbeir_rows import parse_judgement, text_lines
from data_modules.formats.records import DataError

Qrels = dict[str, dict[str, dict[str, int]]]
"""Task → query id → id of a positive → its grade, at least 1."""


def read_qrels(files: Mapping[str, Path]) -> Qrels:
    """Return the positives and grades of files by task.

    Args:
        files: Task → its file.

    Raises:
        DataError: If a line is not ``qid 0 did relevance task_id``, or a pair has two grades.
    """
    tables: Qrels = {}
    for task, path in files.items():
        table = tables.setdefault(task, {})
        for source, line in text_lines(path):
            query, candidate, grade = parse_judgement(source, line, task)
            positives = table.setdefault(query, {})
            if grade and positives.setdefault(candidate, grade) != grade:
                raise DataError(
                    f"{source}: {query!r} with {candidate!r} was judged {positives[candidate]} before; "
                    "keep one of the lines"
                )
    return tables
