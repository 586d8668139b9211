"""Everything that is wrong with a folder in the BEIR layout (https://github.com/beir-cellar/beir).

``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``), ``qrels/<split>.tsv``
with the header ``query-id corpus-id score``. Read line by line, apart from the strict reader.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_modules.doctor import checks
from data_modules.doctor.estimate import packed_bytes
from data_modules.doctor.findings import Check, Findings
from data_modules.doctor.keys import Keys, KeyTable, Rows, joined, key_of, repeats
from data_modules.doctor.leaks import Asked, check_leaks
from data_modules.doctor.lines import LineReader, Row
from data_modules.doctor.places import Places
from data_modules.formats.records import SPLITS, Source

HEADER = ["query-id", "corpus-id", "score"]
SPLIT_NAMES = (*SPLITS, "dev")


class _Texts:
    """Ids and texts of the rows of a file, as keys."""

    def __init__(self) -> None:
        self.places = Places()
        self._ids, self._texts, self._sizes = array("q"), array("q"), array("q")

    def add(self, source: Source, id_: str, text: str) -> None:
        self.places.add(source)
        self._ids.append(key_of(id_))
        self._texts.append(key_of(text))
        self._sizes.append(packed_bytes(id_, text, None))

    @property
    def ids(self) -> Keys:
        return np.array(self._ids, np.int64)

    @property
    def texts(self) -> Keys:
        return np.array(self._texts, np.int64)

    @property
    def sizes(self) -> Keys:
        return np.array(self._sizes, np.int64)

    def rows(self) -> KeyTable:
        """Id → first row."""
        ids, first = np.unique(self.ids, return_index=True)
        table = KeyTable()
        table.add(ids, first)
        return table

    def report(self, findings: Findings, check: Check, later: Rows, first: Rows) -> None:
        earlier = dict(zip(later.tolist(), first.tolist(), strict=True))
        findings.add_rows(
            check, later, lambda row: f"{self.places[row]}: as at line {self.places[earlier[row]].line}"
        )


class _Judged(NamedTuple):
    """Relevant pairs of one split by row of query and passage."""

    queries: Rows
    passages: Rows


class BEIRChecks:
    """Examines a folder.

    Args:
        root: The folder.
        reader: Reads its files.
    """

    def __init__(self, root: Path, reader: LineReader) -> None:
        self._root, self._reader, self._findings = root, reader, reader.findings
        self._corpus, self._queries = _Texts(), _Texts()
        self.query_bytes: dict[str, Keys] = {}

    @property
    def candidate_bytes(self) -> Keys:
        """Packed size of each passage."""
        return self._corpus.sizes

    def files(self) -> Iterator[Path]:
        """Yield everything that will be read."""
        yield from (
            path for name in ("corpus", "queries") if (path := self._root / f"{name}.jsonl").is_file()
        )
        yield from sorted((self._root / "qrels").glob("*.tsv"))

    def run(self) -> None:
        """Read everything and report what is wrong."""
        for name, table, what in (("corpus", self._corpus, True), ("queries", self._queries, False)):
            self._read(self._root / f"{name}.jsonl", table, passages=what)
        later, first = repeats(self._corpus.texts)
        fresh = ~np.isin(later, repeats(self._corpus.ids)[0]) & (self._corpus.texts[later] != 0)
        self._corpus.report(self._findings, checks.REPEATED_PASSAGE, later[fresh], first[fresh])
        self._check_qrels()

    def _read(self, path: Path, table: _Texts, *, passages: bool) -> None:
        if not path.is_file():
            self._findings.add(checks.MISSING_FILE, path.name, "is not there")
            return
        for source, row in self._reader.objects(path):
            id_ = self._string(source, row, "_id")
            text = self._string(source, row, "text")
            title = self._string(source, row, "title") if passages and "title" in row else ""
            if text is not None:
                self._check_empty(source, title or "", text, passages=passages)
            if id_ == "":
                self._findings.add(checks.MALFORMED_ID, source, "_id is empty")
            elif id_ is not None:
                table.add(source, id_, f"{title}\0{text}" if title and text else text or title or "")
        table.report(self._findings, checks.DUPLICATE_ID, *repeats(table.ids))

    def _string(self, source: Source, row: Row, name: str) -> str | None:
        if name not in row:
            self._findings.add(checks.MISSING_KEY, source, f"{name!r} is missing")
            return None
        value = row[name]
        if not isinstance(value, str):
            self._findings.add(
                checks.WRONG_TYPE, source, f"{name} is {value!r:.60} of type {type(value).__name__}"
            )
            return None
        return value

    def _check_empty(self, source: Source, title: str, text: str, *, passages: bool) -> None:
        if text.strip():
            return
        if not passages:
            self._findings.add(checks.EMPTY_QUERY, source, "text is empty")
        elif title.strip():
            self._findings.add(checks.TITLE_ONLY, source, "text is empty, title is not")
        else:
            self._findings.add(checks.EMPTY_PASSAGE, source, "title and text are empty")

    def _check_qrels(self) -> None:
        paths = sorted((self._root / "qrels").glob("*.tsv"))
        if not paths:
            self._findings.add(checks.MISSING_FILE, "qrels", "holds no .tsv file")
            return
        queries, passages = self._queries.rows(), self._corpus.rows()
        judged = {path.stem: self._read_qrels(path, queries, passages) for path in paths}
        used = np.concatenate([pairs.queries for pairs in judged.values()])
        self._findings.add_rows(
            checks.UNUSED_QUERY, np.setdiff1d(np.arange(len(self._queries.places)), used), self._name
        )
        self.query_bytes = {split: self._queries.sizes[np.unique(p.queries)] for split, p in judged.items()}
        for split, pairs in judged.items():
            if split != "train" and "train" in judged:
                check_leaks(self._findings, self._asked(judged["train"]), self._asked(pairs))

    def _read_qrels(self, path: Path, queries: KeyTable, passages: KeyTable) -> _Judged:
        places, columns, scores = Places(), (array("q"), array("q")), array("q")
        lines = self._reader.lines(path)
        source, header = next(lines, (path.name, ""))
        if header.split("\t") != HEADER:
            self._findings.add(
                checks.MALFORMED_LINE, source, f"the header is not {' '.join(HEADER)} between tabs"
            )
        for source, line in lines:
            parts = line.split("\t")
            if len(parts) != len(HEADER):
                self._findings.add(
                    checks.MALFORMED_LINE, source, f"has {len(parts)} columns instead of {len(HEADER)}"
                )
            elif not re.fullmatch("-?[0-9]{1,9}", parts[2]):
                self._findings.add(checks.WRONG_SCORE, source, f"score is {parts[2]!r:.40}, no integer")
            else:
                places.add(source)
                scores.append(int(parts[2]))
                for column, id_ in zip(columns, parts, strict=False):
                    column.append(key_of(id_))
        asked, found = (np.array(column, np.int64) for column in columns)
        return self._pairs(
            places, asked, found, np.array(scores, np.int64), (queries.find(asked), passages.find(found))
        )

    def _pairs(
        self, places: Places, asked: Keys, found: Keys, scores: Keys, rows: tuple[Rows, Rows]
    ) -> _Judged:
        findings = self._findings
        unknown = [np.flatnonzero(part < 0) for part in rows]
        findings.add_rows(
            checks.DANGLING_QUERY, unknown[0], lambda row: f"{places[row]}: queries.jsonl lacks the query"
        )
        findings.add_rows(
            checks.DANGLING_CANDIDATE,
            unknown[1],
            lambda row: f"{places[row]}: corpus.jsonl lacks the passage",
        )
        again = repeats(joined(asked, found))[0]
        findings.add_rows(checks.DUPLICATE_JUDGEMENT, again, lambda row: f"{places[row]}: occurs before")
        good = (rows[0] >= 0) & (rows[1] >= 0) & (scores > 0)
        return _Judged(rows[0][good], rows[1][good])

    def _asked(self, pairs: _Judged) -> Asked:
        rows, inverse = np.unique(pairs.queries, return_inverse=True)
        answers = self._corpus.texts[pairs.passages]
        return Asked(self._queries.texts[rows], inverse, answers, lambda row: self._name(int(rows[row])))

    def _name(self, row: int) -> str:
        return f"{self._queries.places[row]}: the query"
