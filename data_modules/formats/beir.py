"""The BEIR layout of text data sets (Thakur et al., 2021, https://arxiv.org/abs/2104.08663): reader.

::

    corpus.jsonl         _id, title, text; title may be missing or empty
    queries.jsonl        _id, text; of all splits
    qrels/{split}.tsv    header query-id, corpus-id, score; tabs

Ids are any texts without tabs. A score of 0 (or less, which some data sets use for spam) says that the
document was judged and is not relevant; larger ones are grades of relevance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_modules.formats.mbeir_rows import Row, check_unicode, checked_field, json_rows, text_lines
from data_modules.formats.records import DataError, Source

EXPECTED = "corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv"
HEADER = ["query-id", "corpus-id", "score"]
RELEASED_SPLITS = {"train": "train", "dev": "val", "val": "val", "validation": "val", "test": "test"}
"""Names of qrels files, and the split of M-BEIR's that each is."""


class TextRow(NamedTuple):
    """A document or a query: where it stands, its id in the release, and its text, which may be empty."""

    source: Source
    id: str
    text: str


class Judgement(NamedTuple):
    """One line of qrels; ``grade`` is 0 for documents that are not relevant."""

    source: Source
    query: str
    document: str
    grade: int


class BEIRReader:
    """Reads a folder in the BEIR layout row by row, and refuses what it cannot trust.

    Args:
        root: The folder that holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/``.

    Raises:
        DataError: If something of that is missing.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the folder that holds {EXPECTED}")
        there = {"corpus.jsonl", "queries.jsonl", "qrels"} & {path.name for path in root.iterdir()}
        if missing := sorted({"corpus.jsonl", "queries.jsonl", "qrels"} - there):
            raise DataError(
                f"{root}: is not in the BEIR layout, {' and '.join(missing)} missing; expected {EXPECTED}"
            )
        self.root = root

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the qrels files, without ``.tsv``, sorted.

        Raises:
            DataError: If there is none.
        """
        found = sorted(path.stem for path in (self.root / "qrels").glob("*.tsv") if path.name[0] != ".")
        if not found:
            raise DataError(f"{self.root / 'qrels'}: holds no qrels; expected {EXPECTED}")
        return tuple(found)

    def documents(self) -> Iterator[TextRow]:
        """Yield the corpus; a document's text is its title, a blank and its text, as BEIR and MTEB join them.

        Raises:
            DataError: If a row cannot be used or an id occurs twice.
        """
        for source, id_, row in self._rows("corpus.jsonl"):
            title = checked_field(source, {"title": "", **row}, "title", str, type(None)) or ""
            text = checked_field(source, row, "text", str, type(None)) or ""
            yield TextRow(source, id_, _checked(source, f"{title} {text}"))

    def queries(self) -> Iterator[TextRow]:
        """Yield the queries of all splits.

        Raises:
            DataError: If a row cannot be used or an id occurs twice.
        """
        for source, id_, row in self._rows("queries.jsonl"):
            yield TextRow(source, id_, _checked(source, checked_field(source, row, "text", str)))

    def judgements(self, split: str) -> Iterator[Judgement]:
        """Yield the lines of a qrels file.

        Raises:
            DataError: If the file is missing, a line cannot be used, or a pair is judged twice.
        """
        path = self.root / f"qrels/{split}.tsv"
        if "/" in split or not path.is_file():
            raise DataError(f"{path}: no such split; there are {', '.join(self.splits)}")
        lines = text_lines(path)
        source, header = next(lines)
        if header.rstrip("\r").split("\t") != HEADER:
            raise DataError(f"{source}: the header is {header!r:.80}; write {' '.join(HEADER)} with tabs")
        seen: dict[tuple[str, str], int] = {}
        for source, line in lines:
            judgement = _judgement(source, line)
            pair = (judgement.query, judgement.document)
            if seen.setdefault(pair, source.line) != source.line:
                raise DataError(
                    f"{source}: query {pair[0]!r} and document {pair[1]!r} are judged already at "
                    f"{path}:{seen[pair]}; remove one of the lines"
                )
            yield judgement
        if not seen:
            raise DataError(f"{path}: judges nothing; add lines or remove the file")

    def _rows(self, name: str) -> Iterator[tuple[Source, str, Row]]:
        lines: dict[str, int] = {}
        for source, row in json_rows(self.root / name):
            id_: str = checked_field(source, row, "_id", str)
            check_unicode(source, "_id", id_)
            if not id_.strip() or re.search(r"[\t\r\n]", id_):
                raise DataError(f"{source}: _id is {id_!r:.80}; write a text that is not empty, without tabs")
            if lines.setdefault(id_, source.line) != source.line:
                raise DataError(
                    f"{source}: _id {id_!r:.80} occurs already at {source.path}:{lines[id_]}; ids must be "
                    "unique, remove one of the rows"
                )
            yield source, id_, row


def _checked(source: Source, text: str) -> str:
    check_unicode(source, "text", text)
    return text.strip()


def _judgement(source: Source, line: str) -> Judgement:
    parts = line.rstrip("\r").split("\t")
    if len(parts) != 3 or not parts[0] or not parts[1] or not re.fullmatch("-?[0-9]{1,9}", parts[2]):
        raise DataError(
            f"{source}: {line!r:.80} is no judgement; write query-id, corpus-id and a whole score, with tabs"
        )
    return Judgement(source, parts[0], parts[1], max(0, int(parts[2])))
