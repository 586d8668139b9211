"""Converts text data sets in the BEIR layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from data_modules.conversion.prompts import TEXT_SEARCH, Prompts
from data_modules.conversion.target import (
    ConversionSummary,
    ConversionTarget,
    check_dataset,
    conversion_target,
    target_splits,
)
from data_modules.formats.beir import RELEASED_SPLITS, BEIRReader, Judgement, TextRow
from data_modules.formats.records import CandidateRecord, DataError, InstructionRecord, QueryRecord
from data_modules.formats.side_files import EXCLUDED, Kind, query_list_row
from data_modules.progress import progress_bar
from mmretrieval.content import Modality

_TEXT = Modality.TEXT
_TASK = 1
EMPTY_DOCUMENTS = "documents without title and text"
EMPTY_QUERIES = "queries without text"
UNKNOWN = "judgements of queries or documents that are not there, or were left out"
UNANSWERED = "queries of a split without a relevant document"
OWN_DOCUMENTS = "queries with the id of a document, which is left out of their rankings as by BEIR"


def convert_beir(
    source: Path,
    out: Path,
    *,
    name: str,
    dataset_id: int,
    splits: Sequence[str] | None = None,
    into: str | None = None,
    prompts: Prompts = TEXT_SEARCH,
    allow_empty: bool = False,
    allow_dangling: bool = False,
    progress: bool = True,
) -> ConversionSummary:
    """Write a text data set in the M-BEIR layout, as task 1 (text → text).

    The corpus becomes the local pool and the global pool of each split. Grades above 0 are positives, the
    best first, and keep their value in the qrels; documents judged not relevant stand there with 0 and become
    the query's negatives. All ids are kept in memory: about 1 GB for nine million documents.

    Args:
        source: Folder in the BEIR layout.
        out: The folder to create.
        name: Lower-case name of the data set.
        dataset_id: Its number, from 0; M-BEIR's own use 0 to 9.
        splits: Which qrels files to convert, as ``test``; all if ``None``. ``dev`` becomes ``val``.
        into: The split to write instead, if one is converted.
        prompts: Instructions.
        allow_empty: Leave out texts that are empty, and count them.
        allow_dangling: Leave out judgements of what is not there, and count them.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If anything in the data cannot be used, or ``out`` is occupied.
    """
    check_dataset(name, dataset_id)
    reader = BEIRReader(source)
    released = _released_splits(reader, splits)
    written = target_splits(list(released), into)
    with (
        conversion_target(out) as target,
        progress_bar(disable=not progress) as bar,
    ):
        job = _TextConversion(reader, target, name, dataset_id, allow_empty, allow_dangling, bar)
        target.writer.write_instructions([InstructionRecord(name, dataset_id, _TEXT, _TEXT, prompts)])
        job.write_corpus(list(written.values()))
        job.read_queries()
        for split, into_split in written.items():
            job.write_split(released[split], into_split)
        return target.summary(out, source)


def _released_splits(reader: BEIRReader, wanted: Sequence[str] | None) -> dict[str, str]:
    """M-BEIR's name → the release's name of each split to convert."""
    names = wanted or reader.splits
    released: dict[str, str] = {}
    for name in names:
        if name not in RELEASED_SPLITS:
            known = ", ".join(RELEASED_SPLITS)
            raise DataError(
                f"{reader.root / 'qrels' / name}.tsv: {name!r} is none of {known}; rename it or say which "
                "splits to convert"
            )
        if (split := RELEASED_SPLITS[name]) in released:
            raise DataError(
                f"{name!r} and {released[split]!r} are both the split {split!r}; convert one of them"
            )
        released[split] = name
    return released


class _TextConversion:
    """Holds what is known about texts already read."""

    def __init__(
        self,
        reader: BEIRReader,
        target: ConversionTarget,
        name: str,
        dataset_id: int,
        allow_empty: bool,
        allow_dangling: bool,
        bar: Progress,
    ) -> None:
        self.reader, self.target, self.name, self.dataset_id, self.bar = reader, target, name, dataset_id, bar
        self.allow_empty, self.allow_dangling = allow_empty, allow_dangling
        self.texts: dict[str, str] = {}  # id in the release → text of the query
        self.excluding: set[str] = set()  # queries whose own document is left out
        self.empty: dict[Kind, set[str]] = {"query": set(), "candidate": set()}

    def write_corpus(self, splits: list[str]) -> None:
        """Write every document to the local pool and the global pools."""
        pools = [f"local_{self.name}_task{_TASK}", *(f"global_{split}" for split in splits)]
        for row in self.bar.track(self.reader.documents(), description="documents"):
            if self._is_empty(row, "candidate", EMPTY_DOCUMENTS):
                continue
            id_ = self.target.new_id("candidate", self.dataset_id, row.id)
            record = CandidateRecord(id_, row.text, None, _TEXT)
            for pool in pools:
                self.target.writer.write_pool(pool, [record])
                self.target.candidates[pool] += 1

    def read_queries(self) -> None:
        """Give ids to all queries, whatever their split."""
        for row in self.bar.track(self.reader.queries(), description="queries"):
            if not self._is_empty(row, "query", EMPTY_QUERIES):
                self.target.new_id("query", self.dataset_id, row.id)
                self.texts[row.id] = row.text

    def write_split(self, released: str, split: str) -> None:
        """Write the queries that a qrels file judges, and its judgements."""
        grades: dict[str, dict[str, int]] = {}
        for judgement in self.bar.track(
            self.reader.judgements(released), description=f"judgements, {released}"
        ):
            table = grades.setdefault(judgement.query, {})
            if (document := self._document(judgement)) is not None:
                table[document] = judgement.grade
        for query, table in grades.items():
            if query not in self.texts:
                continue  # its judgements are counted
            if not any(table.values()):
                self.target.left_out[UNANSWERED] += 1
                continue
            ranked = dict(sorted(table.items(), key=lambda item: -item[1]))
            record = self._record(query, ranked)
            self.target.writer.write_queries(split, [record], qrels=False)
            self.target.writer.write_judgements(split, record, ranked)
            self.target.count_query(split, record.task)
            if (own := self.target.id_of("candidate", query)) is not None and query not in self.excluding:
                self.excluding.add(query)  # a query may be in several splits
                self.target.notes[OWN_DOCUMENTS] += 1
                self.target.writer.write_beside(EXCLUDED, query_list_row(record.id, [own]))

    def _record(self, query: str, grades: dict[str, int]) -> QueryRecord:
        id_ = self.target.id_of("query", query)
        assert id_ is not None
        positives = tuple(document for document, grade in grades.items() if grade)
        negatives = tuple(document for document, grade in grades.items() if not grade)
        return QueryRecord(
            id_, self.texts[query], None, _TEXT, positives, negatives, self.name, _TASK, instructions=()
        )

    def _document(self, judgement: Judgement) -> str | None:
        document = self.target.id_of("candidate", judgement.document)
        if document is None or judgement.query not in self.texts:
            known = judgement.query in self.texts or judgement.query in self.empty["query"]
            known &= document is not None or judgement.document in self.empty["candidate"]
            if not self.allow_dangling and not known:
                what = f"document {judgement.document!r:.80}"
                what = what if document is None else f"query {judgement.query!r:.80}"
                raise DataError(
                    f"{judgement.source}: judges {what}, which is not there; add it, remove the line, or "
                    "allow dangling judgements, which are then left out and counted"
                )
            self.target.left_out[UNKNOWN] += 1
            return None
        return document

    def _is_empty(self, row: TextRow, kind: Kind, what: str) -> bool:
        if row.text:
            return False
        if not self.allow_empty:
            raise DataError(
                f"{row.source}: has no text; add one, remove the row, or allow empty texts, which are then "
                "left out and counted"
            )
        self.empty[kind].add(row.id)
        self.target.left_out[what] += 1
        return True
