"""Joins data sets in the M-BEIR layout into one, so that all are searched in one pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from rich.progress import Progress

from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.mbeir_layout import UNION_FILES
from data_modules.formats.mbeir_rows import json_rows
from data_modules.formats.mbeir_writer import MBEIRWriter
from data_modules.formats.records import SPLITS, DataError, dataset_id
from data_modules.formats.side_files import SIDE_FILES
from data_modules.progress import progress_bar


@dataclass
class MergeSummary:
    """What a merged folder holds.

    Args:
        out: The folder.
        datasets: Name → number.
        queries: Split → task → number of queries.
        candidates: Global pool → number of candidates.
        images: Number of image files.
        notes: What people should know: splits that only some of the folders have, mixtures left out.
    """

    out: Path
    datasets: dict[str, int] = field(default_factory=dict)
    queries: dict[str, Counter[str]] = field(default_factory=dict)
    candidates: Counter[str] = field(default_factory=Counter)
    images: int = 0
    notes: list[str] = field(default_factory=list)


def merge(
    roots: Sequence[Path], out: Path, *, copy_images: bool = False, progress: bool = True
) -> MergeSummary:
    """Join folders in the M-BEIR layout; ``out`` appears only when all of it is written.

    Ids, files and images keep their names, so the data sets need different numbers and names. Global pools
    are united. Every row is checked on the way, as by :class:`MBEIRReader`.

    Args:
        roots: Two folders or more.
        out: The folder to create.
        copy_images: Copy image files, instead of hard links.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If names or numbers clash, anything cannot be used, or ``out`` is occupied.
    """
    if len(roots) < 2:
        raise DataError(f"{len(roots)} folders to merge: give two or more")
    readers = [MBEIRReader(root) for root in roots]
    summary = MergeSummary(out, _datasets(readers))
    with MBEIRWriter(out) as writer, progress_bar(disable=not progress) as bar:
        job = _Merge(readers, writer, summary, bar)
        instructions = chain.from_iterable(reader.instructions.values() for reader in readers)
        writer.write_instructions(instructions)
        for split in SPLITS:
            job.write_split(split)
        job.copy_local_pools()
        job.place_images(copy=copy_images)
        job.join_side_files()
    return summary


def _datasets(readers: list[MBEIRReader]) -> dict[str, int]:
    """Name → number of all data sets, each of one folder."""
    owners: dict[str | int, Path] = {}
    for reader in readers:
        for name, number in reader.datasets.items():
            for key in (name, number):
                if owners.setdefault(key, reader.root) != reader.root:
                    raise DataError(
                        f"{reader.root}: data set {key!r} is in {owners[key]} too; convert one of them again "
                        "with another name and number"
                    )
    return {name: number for reader in readers for name, number in reader.datasets.items()}


class _Merge:
    """Holds whose ids are whose."""

    def __init__(
        self, readers: list[MBEIRReader], writer: MBEIRWriter, summary: MergeSummary, bar: Progress
    ) -> None:
        self.readers, self.writer, self.summary, self.bar = readers, writer, summary, bar
        self.owners = {number: reader.root for reader in readers for number in reader.datasets.values()}

    def write_split(self, split: str) -> None:
        """Write queries, judgements and the united pool of a split."""
        having = [reader for reader in self.readers if split in reader.splits]
        if 0 < len(having) < len(self.readers):
            lacking = ", ".join(str(reader.root) for reader in self.readers if reader not in having)
            self.summary.notes.append(f"{split}: {lacking} has no such split")
        for reader in having:
            self._copy_queries(reader, split)
        self._join_unions(split, having)
        pool = f"global_{split}"
        for reader in (reader for reader in self.readers if pool in reader.pools):
            rows = self.bar.track(reader.located_candidates(pool), description=f"{pool}, {reader.root.name}")
            for source, record in rows:
                self._check_owner(source, record.id, reader)
                self.writer.write_pool(pool, [record])
                self.summary.candidates[pool] += 1

    def copy_local_pools(self) -> None:
        """Copy the local pools, whose candidates are checked."""
        for reader in self.readers:
            for pool, files in reader.pools.items():
                if pool.startswith("local_"):
                    for source, record in reader.located_candidates(pool):
                        self._check_owner(source, record.id, reader)
                    self._copy(reader, files[0])

    def place_images(self, *, copy: bool) -> None:
        """Link or copy the images to the same places."""
        for reader in self.readers:
            files = self.bar.track(reader.image_files(), description=f"images, {reader.root.name}")
            for file in files:
                path = file.relative_to(reader.root).as_posix()
                try:
                    self.writer.place_image(path, file, copy=copy)
                except DataError:
                    raise DataError(
                        f"{file}: another of the folders has an image {path!r}; rename its folder of images "
                        "in one of them"
                    ) from None
                self.summary.images += 1

    def join_side_files(self) -> None:
        """Write the rows of the files beside the layout one after another."""
        for name in SIDE_FILES:
            for reader in self.readers:
                if (reader.root / name).is_file():
                    for _, row in json_rows(reader.root / name):
                        self.writer.write_beside(name, row)

    def _copy_queries(self, reader: MBEIRReader, split: str) -> None:
        files = reader.query_files(split)
        if UNION_FILES.get(split) in {file.relative_to(reader.root).as_posix() for file in files}:
            raise DataError(
                f"{files[0]}: the {split} split has no other file; merging needs one file per data set"
            )
        counts = self.summary.queries.setdefault(split, Counter())
        for source, record in self.bar.track(
            reader.located_queries(split), description=f"{split} queries, {reader.root.name}"
        ):
            self._check_owner(source, record.id, reader)
            counts[record.task] += 1
        for file in (*files, *sorted((reader.root / "qrels" / split).glob("*.txt"))):
            self._copy(reader, file)

    def _join_unions(self, split: str, having: list[MBEIRReader]) -> None:
        """Write the up-sampled mixture, if every folder has one."""
        with_union = [reader for reader in having if (reader.root / UNION_FILES.get(split, "")).is_file()]
        if with_union and len(with_union) < len(having):
            self.summary.notes.append(f"{split}: the mixture of only some folders is left out")
            return
        for reader in with_union:
            self.writer.write_queries(split, reader.queries(split, mixture="union"), union=True)

    def _copy(self, reader: MBEIRReader, file: Path) -> None:
        self.writer.place_file(file.relative_to(reader.root).as_posix(), file)

    def _check_owner(self, source: object, id_: str, reader: MBEIRReader) -> None:
        number = dataset_id(id_)
        if self.owners.setdefault(number, reader.root) != reader.root:
            raise DataError(
                f"{source}: {id_!r} is an id of {self.owners[number]}; convert one of the folders again with "
                "another data set number"
            )
