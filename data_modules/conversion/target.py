"""What every conversion writes to: an M-BEIR layout with ids of its own, and what maps them back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_modules.formats.mbeir_layout import DATASET_NAME
from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import SPLITS, DataError
from data_modules.formats.side_files import ORIGINAL_IDS, Kind, original_id_row

_MAX_DATASET_ID = 10**6 - 1
_FOLDER_SIZE = 1000  # images in one folder


@dataclass(frozen=True)
class ConversionSummary:
    """What a conversion wrote.

    Args:
        out: The folder.
        queries: Split → task → number of queries.
        candidates: Pool → number of candidates.
        images: Number of image files.
        linked: How many images are hard links.
        left_out: What was left out → how often; empty if all was converted.
        notes: What else whoever evaluates should know → how often.
    """

    out: Path
    queries: dict[str, Counter[str]]
    candidates: Counter[str]
    images: int
    linked: int
    left_out: Counter[str]
    notes: Counter[str]


@dataclass
class ConversionTarget:
    """Numbers queries and candidates in the order of their coming, places images, and counts.

    Args:
        writer: Writes the layout.
        copy_images: Copy image files, instead of hard links.
    """

    writer: MBEIRWriter
    copy_images: bool = False
    queries: dict[str, Counter[str]] = field(default_factory=dict)
    candidates: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    images: int = 0
    linked: int = 0

    def __post_init__(self) -> None:
        self._numbers: Counter[str] = Counter()
        self._ids: dict[Kind, dict[str, str]] = {"query": {}, "candidate": {}}

    def id_of(self, kind: Kind, original: str) -> str | None:
        """Return the id that was given for an id of the release, if it was."""
        return self._ids[kind].get(original)

    def new_id(self, kind: Kind, dataset_id: int, original: str) -> str:
        """Give an id ``"<dataset id>:<number>"``, from 1, and write down what it stands for."""
        name = f"{kind} {dataset_id}"
        self._numbers[name] += 1
        id_ = self._ids[kind][original] = f"{dataset_id}:{self._numbers[name]}"
        self.writer.write_beside(ORIGINAL_IDS, original_id_row(kind, id_, original))
        return id_

    def place_image(self, folder: str, source: Path) -> str:
        """Bring an image into the root and return its path there, of plain letters and a number."""
        self.images += 1
        stem = re.sub("[^A-Za-z0-9_-]+", "_", source.stem)[:80]
        suffix = re.sub("[^a-z0-9.]", "", source.suffix.lower())
        place = PurePosixPath("mbeir_images", folder, f"{self.images // _FOLDER_SIZE:03d}")
        path = str(place / f"{self.images:07d}_{stem}{suffix}")
        self.linked += self.writer.place_image(path, source, copy=self.copy_images)
        return path

    def count_query(self, split: str, task: str) -> None:
        """Count a query that was written."""
        self.queries.setdefault(split, Counter())[task] += 1

    def summary(self, out: Path, source: Path | None = None) -> ConversionSummary:
        """Return the counts.

        Args:
            out: The folder that was written.
            source: What an error names instead.

        Raises:
            DataError: If no query was written.
        """
        if not self.queries:
            counts = "; ".join(f"{number} {what}" for what, number in self.left_out.items())
            raise DataError(f"{source or out}: no query is left to write ({counts}); complete the source")
        return ConversionSummary(
            out, self.queries, self.candidates, self.images, self.linked, +self.left_out, +self.notes
        )


@contextmanager
def conversion_target(out: Path, *, copy_images: bool = False) -> Iterator[ConversionTarget]:
    """Open a target; ``out`` appears when the block ends without an error."""
    with MBEIRWriter(out) as writer:
        yield ConversionTarget(writer, copy_images)


def check_dataset(name: str, dataset_id: int) -> None:
    """Refuse a name or number that the layout cannot hold.

    Raises:
        DataError: If it cannot.
    """
    if not DATASET_NAME.fullmatch(name):
        raise DataError(f"data set name {name!r}: use lower-case letters, digits, '_', '-', '.'")
    if not 0 <= dataset_id <= _MAX_DATASET_ID:
        raise DataError(f"data set id {dataset_id}: use a number from 0 to {_MAX_DATASET_ID}")


def target_splits(splits: Sequence[str], into: str | None) -> dict[str, str]:
    """Return the split to read → the split to write.

    Args:
        splits: M-BEIR's names of the splits to read.
        into: What to call the one split; its own name if ``None``.

    Raises:
        DataError: If a name is unknown or given twice, or ``into`` is for several.
    """
    if not splits or len({*splits}) < len(splits):
        raise DataError(f"splits {', '.join(splits)!r}: name each split once")
    if into is None:
        return {split: split for split in splits}
    if into not in SPLITS or len(splits) > 1:
        raise DataError(f"into {into!r}: give one of {', '.join(SPLITS)}, for one split")
    return {splits[0]: into}
