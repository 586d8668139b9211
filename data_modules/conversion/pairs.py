"""Converts files of questions and answering texts."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from data_modules.conversion.prompts import TEXT_SEARCH, Prompts
from data_modules.conversion.target import (
    ConversionSummary,
    ConversionTarget,
    check_dataset,
    conversion_target,
)
from data_modules.formats.records import SPLITS, CandidateRecord, DataError, InstructionRecord, QueryRecord
from data_modules.formats.side_files import EXCLUDED, query_list_row
from data_modules.formats.text_pairs import TextPair, text_pairs
from data_modules.progress import progress_bar
from mmretrieval.content import Modality

_TEXT = Modality.TEXT
_TASK = 1
UNANSWERED = "queries that only their own text answers"
OWN_TEXTS = "queries whose own text is a candidate, which is left out of their rankings"


def convert_pairs(
    source: Path,
    out: Path,
    *,
    name: str,
    dataset_id: int,
    split: str = "train",
    symmetric: bool = False,
    prompts: Prompts = TEXT_SEARCH,
    progress: bool = True,
) -> ConversionSummary:
    """Write a file of pairs in the M-BEIR layout, as task 1 (text → text).

    Each distinct text is one candidate, each distinct query one query with all its positives. All texts are
    kept in memory as digests: about 200 MB for a million pairs. The file is read twice.

    Args:
        source: The file, see :mod:`data_modules.formats.text_pairs`.
        out: The folder to create.
        name: Lower-case name of the data set.
        dataset_id: Its number, from 0; M-BEIR's own use 0 to 9.
        split: What the pairs are.
        symmetric: Let each positive ask for its query as well, as in sets of duplicates and of NLI; where a
            line is a ``set`` of texts that say the same, for all others.
        prompts: Instructions.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If anything in the data cannot be used, or ``out`` is occupied.
    """
    check_dataset(name, dataset_id)
    if split not in SPLITS:
        raise DataError(f"split {split!r}: use one of {', '.join(SPLITS)}")
    with conversion_target(out) as target, progress_bar(disable=not progress) as bar:
        job = _PairsConversion(target, source, name, dataset_id, split, symmetric=symmetric)
        target.writer.write_instructions([InstructionRecord(name, dataset_id, _TEXT, _TEXT, prompts)])
        for pair in bar.track(job.pairs(count=True), description=f"texts, {name}"):
            job.collect(pair)
        for pair in bar.track(job.pairs(), description=f"queries, {name}"):
            job.write_query(pair)
        return target.summary(out, source)


class _PairsConversion:
    """Holds what is known about texts already read."""

    def __init__(
        self,
        target: ConversionTarget,
        source: Path,
        name: str,
        dataset_id: int,
        split: str,
        *,
        symmetric: bool,
    ) -> None:
        self.target, self.source, self.name, self.dataset_id = target, source, name, dataset_id
        self.split, self.symmetric = split, symmetric
        self.candidates: dict[bytes, int] = {}  # digest of the text → number
        self.positives: dict[bytes, array[int]] = {}  # digest of the query → numbers of candidates
        self.negatives: dict[bytes, array[int]] = {}
        self.written: set[bytes] = set()

    def pairs(self, *, count: bool = False) -> Iterator[TextPair]:
        """The pairs of the file, and those that ask the other way round."""
        for pair in text_pairs(self.source, self.target.left_out if count else None):
            yield pair
            if self.symmetric:
                yield from _reversed(pair)

    def collect(self, pair: TextPair) -> None:
        """Write new candidates, and remember what answers the query."""
        key = _digest(pair.query)
        self.positives.setdefault(key, array("q")).extend(self._number(text) for text in pair.positives)
        if pair.negatives:
            self.negatives.setdefault(key, array("q")).extend(self._number(text) for text in pair.negatives)

    def write_query(self, pair: TextPair) -> None:
        """Write a query when it comes first, with all that answers it anywhere in the file."""
        key = _digest(pair.query)
        own = self.candidates.get(key)
        positives = dict.fromkeys(number for number in self.positives[key] if number != own)
        if key in self.written:
            return
        self.written.add(key)
        if not positives:
            self.target.left_out[UNANSWERED] += 1
            return
        negatives = dict.fromkeys(self.negatives.get(key, ()))
        record = QueryRecord(
            f"{self.dataset_id}:{len(self.written)}",
            pair.query,
            None,
            _TEXT,
            tuple(map(self._id, positives)),
            tuple(self._id(number) for number in negatives if number not in positives and number != own),
            self.name,
            _TASK,
            instructions=(),
        )
        self.target.writer.write_queries(self.split, [record])
        self.target.count_query(self.split, record.task)
        if own is not None:
            self.target.notes[OWN_TEXTS] += 1
            self.target.writer.write_beside(EXCLUDED, query_list_row(record.id, [self._id(own)]))

    def _number(self, text: str) -> int:
        key = _digest(text)
        if key not in self.candidates:
            self.candidates[key] = len(self.candidates) + 1
            record = CandidateRecord(self._id(self.candidates[key]), text, None, _TEXT)
            for pool in (f"local_{self.name}_task{_TASK}", f"global_{self.split}"):
                self.target.writer.write_pool(pool, [record])
                self.target.candidates[pool] += 1
        return self.candidates[key]

    def _id(self, number: int) -> str:
        return f"{self.dataset_id}:{number}"


def _reversed(pair: TextPair) -> Iterator[TextPair]:
    """The pairs in which the positives ask.

    In a set each asks for all others. Elsewhere only for the query: two texts that follow from a third need
    not follow from each other.
    """
    for positive in pair.positives:
        others = (text for text in pair.positives if text != positive) if pair.same else ()
        yield TextPair(pair.source, positive, (pair.query, *others), ())


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
