"""How the tasks of training queries are asked."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from data_modules.query_set import QuerySet
from mmretrieval.content import MODALITIES
from mmretrieval.encoder.provenance import Asked


def questions_of(queries: QuerySet, tasks: Iterable[str]) -> dict[str, Asked]:
    """Return how each of some tasks is asked, as its first query shows.

    Args:
        queries: The training queries.
        tasks: Those that are trained on.
    """
    numbers, rows = np.unique(queries.task_of, return_index=True)
    first = {queries.tasks[task]: int(row) for task, row in zip(numbers, rows, strict=True)}
    return {
        task: Asked(
            MODALITIES[queries.modalities[first[task]]],
            MODALITIES[queries.target_modality[first[task]]],
            queries.instructions(first[task]),
        )
        for task in tasks
    }
