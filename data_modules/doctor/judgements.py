"""Qrels of the M-BEIR layout, and whether they say what the queries' own lists say."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from data_modules.doctor import checks
from data_modules.doctor.keys import Keys, Rows, joined, repeats
from data_modules.doctor.lines import LineReader
from data_modules.doctor.places import Places
from data_modules.doctor.pools import Candidates
from data_modules.doctor.queries import QueryTable
from data_modules.doctor.rows import judgement
from data_modules.formats.records import key_id


class Judgements:
    """The lines of one qrels file.

    Args:
        reader: Reads the file.
        path: The file.
        task: The task's number in the file's name.
    """

    def __init__(self, reader: LineReader, path: Path, task: int) -> None:
        self.places, self.path = Places(), path
        queries, candidates, relevant = array("q"), array("q"), array("b")
        for source, line in reader.lines(path):
            found = judgement(reader.findings, source, line, task)
            if found is not None:
                self.places.add(source)
                queries.append(found.query)
                candidates.append(found.candidate)
                relevant.append(found.relevant)
        self.queries, self.candidates = np.array(queries, np.int64), np.array(candidates, np.int64)
        self.relevant = np.array(relevant, bool)
        self._findings = reader.findings

    def check(self, table: QueryTable, own: Rows, known: Candidates) -> None:
        """Compare with queries and candidates, and report what differs.

        Args:
            table: The split's queries.
            own: The rows of the task's.
            known: The candidates of all pools.
        """
        self._check_dangling(table.ids[own], known)
        pairs = joined(self.queries, self.candidates)
        self._findings.add_rows(checks.DUPLICATE_JUDGEMENT, repeats(pairs)[0], self._describe)
        self._findings.add_rows(
            checks.UNJUDGED,
            own[~np.isin(table.ids[own], self.queries)],
            lambda row: f"{table.name(row)} is not in {self.path.name}",
        )
        self._check_lists(table, own, pairs)

    def positives(self, table: QueryTable) -> tuple[Rows, Keys]:
        """Return row in the table and candidate id of each relevant pair of a known query."""
        order = np.argsort(table.ids, kind="stable")
        ids = table.ids[order]
        if not ids.size:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        places = np.minimum(np.searchsorted(ids, self.queries), ids.size - 1)
        usable = self.relevant & (ids[places] == self.queries)
        return order[places[usable]], self.candidates[usable]

    def _check_dangling(self, known_queries: Keys, known: Candidates) -> None:
        unknown = np.flatnonzero(~np.isin(self.queries, known_queries))
        self._findings.add_rows(checks.DANGLING_QUERY, unknown, self._describe)
        missing = np.flatnonzero(known.rows.find(self.candidates) < 0)
        self._findings.add_rows(checks.DANGLING_CANDIDATE, missing, self._describe)

    def _check_lists(self, table: QueryTable, own: Rows, pairs: Keys) -> None:
        """Both ways, for the queries that have a list and judgements."""
        rows, candidates = table.pairs()
        mine = np.isin(rows, own) & np.isin(table.ids[rows], self.queries)
        rows, candidates = rows[mine], candidates[mine]
        listed = joined(table.ids[rows], candidates)
        extra = self.relevant & np.isin(self.queries, table.ids[rows]) & ~np.isin(pairs, listed)
        self._findings.add_rows(
            checks.QRELS_CONTRADICT,
            np.flatnonzero(extra),
            lambda row: f"{self._describe(row)} is not in the query's pos_cand_list",
        )
        self._findings.add_rows(
            checks.QRELS_CONTRADICT,
            np.flatnonzero(~np.isin(listed, pairs[self.relevant])),
            lambda pair: (
                f"{table.name(int(rows[pair]))} lists {key_id(int(candidates[pair]))!r}, "
                f"{self.path.name} does not"
            ),
        )

    def _describe(self, row: int) -> str:
        query, candidate = key_id(int(self.queries[row])), key_id(int(self.candidates[row]))
        return f"{self.places[row]}: {query!r} with {candidate!r}"
