"""What the arrays beside a packed split's shards hold: tasks, positives, copies and lists of single queries.

::

    positives.npy, positive_starts.npy    candidate rows; those of query q are rows[starts[q]:starts[q + 1]]
    grades.npy                            of each positive; only where some are more relevant than others
    group.npy, group_starts.npy           what a subset measure ranks among; only where there is one
    excluded.npy, excluded_starts.npy     what is left out of rankings; only where there is anything
    copies.npy                            how often each query stands in the source
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from data_modules.formats.records import DataError, QueryRecord, Source, id_key


class CandidateLists:
    """Lists of candidate rows, one for each query."""

    def __init__(self) -> None:
        self.rows, self.starts = array("q"), array("q", [0])

    def add(self, rows: list[int]) -> None:
        """Append the list of the next query."""
        self.rows.extend(rows)
        self.starts.append(len(self.rows))


class PackedQueries:
    """Collects a split's arrays, query by query.

    Args:
        candidate_rows: :func:`~data_modules.formats.records.id_key` of a candidate → its row.
    """

    def __init__(self, candidate_rows: Mapping[int, int]) -> None:
        self._candidate_rows = candidate_rows
        self.tasks: dict[str, int] = {}
        self.counts: Counter[str] = Counter()
        self._positives, self._group, self._excluded = CandidateLists(), CandidateLists(), CandidateLists()
        self._grades, self._copies = array("i"), array("i")
        self._seen: dict[int, tuple[int, int]] = {}  # id key → row, hash of the content

    def is_copy(self, source: Source, record: QueryRecord, data: bytes) -> bool:
        """Whether a query was seen before, as in an up-sampled mixture; counts it.

        Raises:
            DataError: If another query has the same id.
        """
        row, mark = self._seen.setdefault(id_key(record.id), (len(self._copies), hash(data)))
        if mark != hash(data):
            raise DataError(
                f"{source}: query {record.id!r} occurs earlier with another content; "
                "give different queries different ids"
            )
        if row < len(self._copies):
            self._copies[row] += 1
            return True
        self._copies.append(1)
        return False

    def add(self, record: QueryRecord) -> tuple[int, int]:
        """Append a query that is no copy; return the number of its task, and its first positive's row."""
        positives = self._rows(record.positives)
        self._positives.add(positives)
        self._grades.extend(record.grades or [1] * len(positives))
        self._group.add(self._rows(record.group))
        self._excluded.add(self._rows(record.excluded))
        self.counts[record.task] += 1
        return self.tasks.setdefault(record.task, len(self.tasks)), positives[0]

    def has(self, id_: str) -> bool:
        """Whether a query was added."""
        return id_key(id_) in self._seen

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name; those that would say nothing are not there."""
        found = _lists("positive", self._positives, "positives")
        found["copies"] = np.array(self._copies, np.int32)
        grades = np.array(self._grades, np.int32)
        if (grades != 1).any():
            found["grades"] = grades
        for name, lists in (("group", self._group), ("excluded", self._excluded)):
            if lists.rows:
                found |= _lists(name, lists, name)
        return found

    def _rows(self, ids: tuple[str, ...]) -> list[int]:
        return [self._candidate_rows[id_key(id_)] for id_ in ids]


def _lists(name: str, lists: CandidateLists, rows: str) -> dict[str, npt.NDArray[Any]]:
    return {rows: np.array(lists.rows, np.int64), f"{name}_starts": np.array(lists.starts, np.int64)}
