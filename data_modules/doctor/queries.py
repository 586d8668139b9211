"""Queries of the M-BEIR layout as columns, and what is wrong with them beside the pools."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from data_modules.doctor import checks
from data_modules.doctor.estimate import packed_bytes
from data_modules.doctor.findings import Findings
from data_modules.doctor.images import ImageChecker
from data_modules.doctor.keys import Keys, Rows, joined, key_of, repeats
from data_modules.doctor.lines import LineReader
from data_modules.doctor.places import Places
from data_modules.doctor.pools import Candidates
from data_modules.doctor.rows import TASKS, UNKNOWN, QueryFields, query_fields
from data_modules.formats.records import Source, id_key, key_id
from mmretrieval.content import MODALITIES, Modality

InstructionKey = tuple[int, Modality, Modality]
_ID_BITS = 40
_TARGETS = np.array([target.code for _, target in TASKS])


class QueryTable:
    """The queries of some files of one split; their texts are not kept."""

    def __init__(self) -> None:
        self.places = Places()
        self._columns = {name: array("q") for name in ("id", "text", "image", "task", "modality", "bytes")}
        self._spans: list[tuple[str | None, int, int]] = []
        self._lists = {name: (array("q"), array("q", [0])) for name in ("positive", "negative")}

    def __len__(self) -> int:
        return len(self.places)

    def read(
        self, reader: LineReader, images: ImageChecker, path: Path, dataset: str | None, task: int | None
    ) -> None:
        """Read a file, and report what its rows alone show to be wrong.

        Args:
            reader: Reads the file.
            images: Checks the images.
            path: The file.
            dataset: The data set that the file's name says, ``None`` for a mixture.
            task: The task that the file's name says, if it does.
        """
        start = len(self)
        for source, row in reader.objects(path):
            fields = query_fields(reader.findings, source, row, task)
            image = images.want(source, fields.content.image)
            if fields.id is not None:
                self._add(source, fields.id, fields, image)
        self._spans.append((dataset, start, len(self)))

    def rows_of(self, dataset: str, numbers: set[int], task: int) -> Rows:
        """Return the rows of a task: by their files, or by the data set's numbers in a mixture."""
        mine = np.zeros(len(self), bool)
        for name, start, stop in self._spans:
            part = slice(start, stop)
            mine[part] = (
                np.isin(self.ids[part] >> _ID_BITS, list(numbers)) if name is None else name == dataset
            )
        return np.flatnonzero(mine & (self.column("task") == task))

    def column(self, name: str) -> Keys:
        """Return a column: id, text, image, task, modality, bytes."""
        return np.array(self._columns[name], np.int64)

    def pairs(self, name: str = "positive") -> tuple[Rows, Keys]:
        """Return row and candidate id of each entry of the rows' lists: positive, negative."""
        entries, starts = (np.array(column, np.int64) for column in self._lists[name])
        return np.repeat(np.arange(starts.size - 1), np.diff(starts)), entries

    @cached_property
    def ids(self) -> Keys:
        """Keys of the queries' ids."""
        return self.column("id")

    def contents(self, images: ImageChecker) -> Keys:
        """What stands for each query's text and image bytes."""
        return joined(self.column("text"), images.contents(self.column("image")))

    def name(self, row: int) -> str:
        """Where a row stands and which query it is."""
        return f"{self.places[row]}: query {key_id(int(self.ids[row]))!r}"

    def _add(self, source: Source, id_: str, fields: QueryFields, image: int) -> None:
        content = fields.content
        values = (
            id_key(id_),
            key_of(content.text),
            image,
            fields.task,
            content.modality,
            packed_bytes(id_, content.text, content.image) + 12 * len(fields.positives + fields.negatives),
        )
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        for name, entries in (("positive", fields.positives), ("negative", fields.negatives)):
            self._lists[name][0].extend(entries)
            self._lists[name][1].append(len(self._lists[name][0]))
        self.places.add(source)


class Answers:
    """The positives of a table's queries, from their rows, and from qrels where a row has none.

    Args:
        rows: Row of a query, ascending.
        candidates: Key of a candidate's id.
        table: The queries.
        known: The candidates of all pools.
    """

    def __init__(self, table: QueryTable, rows: Rows, candidates: Keys, known: Candidates) -> None:
        self.table, self.known = table, known
        self.rows, self.candidates = rows, candidates
        self.places = known.rows.find(candidates)
        self.found = self.places >= 0

    @cached_property
    def first(self) -> tuple[Rows, Rows]:
        """Queries whose first positive is known, and its place among the candidates."""
        rows, first = np.unique(self.rows, return_index=True)
        known = self.found[first]
        return rows[known], self.places[first[known]]


def check_ids(findings: Findings, table: QueryTable, union: QueryTable, images: ImageChecker) -> None:
    """Report ids that occur twice in a split's files, and rows of the mixture that differ from them."""
    later, first = repeats(table.ids)
    earlier = dict(zip(later.tolist(), first.tolist(), strict=True))
    findings.add_rows(
        checks.DUPLICATE_ID, later, lambda row: f"{table.name(row)} stands at {table.places[earlier[row]]}"
    )
    contents = np.concatenate([joined(t.contents(images), t.column("task")) for t in (table, union)])
    later, first = repeats(np.concatenate([table.ids, union.ids]))
    other = later[(contents[later] != contents[first]) & (later >= len(table))] - len(table)
    findings.add_rows(
        checks.ID_CONFLICT, other, lambda row: f"{union.name(row)} has another content or task elsewhere"
    )


def check_answers(findings: Findings, answers: Answers) -> None:
    """Report queries without positives, unknown positives, and positives of another modality."""
    table, rows = answers.table, answers.rows
    every = np.arange(len(table))
    findings.add_rows(
        checks.NO_POSITIVE, np.setdiff1d(every, rows), lambda row: f"{table.name(row)} has no positive"
    )
    listed = np.union1d(table.pairs()[0], np.setdiff1d(every, rows))
    findings.add_rows(
        checks.EMPTY_LIST,
        np.setdiff1d(every, listed),
        lambda row: f"{table.name(row)} has positives in qrels alone",
    )
    _check_known(findings, table, rows, answers.candidates, answers.known, positive=True)
    _check_known(findings, table, *table.pairs("negative"), answers.known, positive=False)
    task = table.column("task")[rows]
    wanted = np.where(task >= 0, _TARGETS[task], UNKNOWN)
    has = np.append(answers.known.modalities, UNKNOWN)[answers.places]
    wrong = np.flatnonzero(answers.found & (wanted != UNKNOWN) & (has != UNKNOWN) & (wanted != has))
    findings.add_rows(
        checks.WRONG_TASK,
        wrong,
        lambda pair: (
            f"{table.name(int(rows[pair]))}: task {task[pair]} finds {MODALITIES[wanted[pair]].value!r}, "
            f"positive {key_id(int(answers.candidates[pair]))!r} has {MODALITIES[has[pair]].value!r}"
        ),
    )


def check_reach(findings: Findings, answers: Answers, rows: Rows, pool: str, members: Keys) -> None:
    """Report queries among some rows none of whose known positives is in a pool.

    Some positives may be missing: in M-BEIR, OVEN's and INFOSEEK's queries list each other's passages.
    """
    table = answers.table
    wanted = np.intersect1d(rows, answers.rows[answers.found])
    inside = answers.rows[answers.found & np.isin(answers.candidates, members)]
    findings.add_rows(
        checks.UNREACHABLE,
        np.setdiff1d(wanted, inside),
        lambda row: f"{table.name(row)} has no positive in {pool}",
    )


def check_instructions(findings: Findings, answers: Answers, known: set[InstructionKey]) -> None:
    """Report the combinations of data set and modalities for which there is no instruction, once each."""
    table = answers.table
    rows, places = answers.first
    sources, targets = table.column("modality")[rows], answers.known.modalities[places]
    usable = (sources != UNKNOWN) & (targets != UNKNOWN)
    codes = (table.ids[rows] >> _ID_BITS) * 9 + sources * 3 + targets
    distinct, first, counts = np.unique(codes[usable], return_index=True, return_counts=True)
    for code, place, count in zip(distinct.tolist(), first, counts, strict=True):
        key = (code // 9, MODALITIES[code // 3 % 3], MODALITIES[code % 3])
        if key not in known:
            where = table.name(int(rows[usable][place]))
            said = f"data set {key[0]}, {key[1].value!r} to {key[2].value!r}, needed by {count} queries"
            findings.add(checks.NO_INSTRUCTION, where, said)


def _check_known(
    findings: Findings, table: QueryTable, rows: Rows, candidates: Keys, known: Candidates, *, positive: bool
) -> None:
    describe: Callable[[int], str] = lambda pair: (  # noqa: E731
        f"{table.name(int(rows[pair]))} lists {key_id(int(candidates[pair]))!r}"
    )
    check = checks.UNKNOWN_POSITIVE if positive else checks.UNKNOWN_NEGATIVE
    findings.add_rows(check, np.flatnonzero(known.rows.find(candidates) < 0), describe)
