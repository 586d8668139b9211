"""Converts benchmarks of composed image retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from data_modules.conversion.prompts import Prompts
from data_modules.conversion.target import (
    ConversionSummary,
    ConversionTarget,
    check_dataset,
    conversion_target,
    target_splits,
)
from data_modules.formats.composed import ComposedQuery, ComposedReader, ComposedSet
from data_modules.formats.records import CandidateRecord, DataError, InstructionRecord, QueryRecord
from data_modules.formats.side_files import EXCLUDED, GROUPS, query_list_row
from data_modules.progress import progress_bar
from mmretrieval.content import Modality

_TASK = 7
MISSING_IMAGES = "images that are not on disk"
LOST_REFERENCES = "queries whose reference image is not on disk"
LOST_TARGETS = "targets whose image is not on disk"
UNANSWERED = "queries all of whose targets are not on disk"
EMPTY_TEXTS = "queries without text"
SHORT_GROUPS = "queries whose group lacks an image"
OWN_IMAGES = "queries whose own image is left out of their rankings, as by the benchmark"


@dataclass(frozen=True)
class ComposedOptions:
    """How to convert.

    Args:
        name: Lower-case name of the data set; a benchmark of several parts appends theirs.
        dataset_id: Its number, from 0; parts get this one and the next. M-BEIR's own use 0 to 9.
        prompts: Instructions.
        splits: M-BEIR's names of the splits to convert.
        into: The split to write instead, if one is converted.
        copy_images: Copy image files, instead of hard links.
        allow_missing_images: Leave out images that are not on disk with all that needs them, and count.
        allow_empty_texts: Leave out queries without a text, and count.
        progress: Whether to show a progress bar.
    """

    name: str
    dataset_id: int
    prompts: Prompts
    splits: Sequence[str] = ("val",)
    into: str | None = None
    copy_images: bool = False
    allow_missing_images: bool = False
    allow_empty_texts: bool = False
    progress: bool = True


def convert_composed(reader: ComposedReader, out: Path, options: ComposedOptions) -> ConversionSummary:
    """Write a benchmark in the M-BEIR layout, as task 7 (image and text → image).

    Each part has a local pool per split, ``local_<name>_task7_<split>``; the global pool of a split has every
    image once. An image has one id, whatever parts and splits it is in, of the part in which it came first.

    Args:
        reader: Reads the release.
        out: The folder to create.
        options: How.

    Raises:
        DataError: If anything in the data cannot be used, or ``out`` is occupied.
    """
    written = target_splits(options.splits, options.into)
    names = {part: f"{options.name}_{part}" if part else options.name for part in reader.parts}
    for number, name in enumerate(names.values(), options.dataset_id):
        check_dataset(name, number)
    with (
        conversion_target(out, copy_images=options.copy_images) as target,
        progress_bar(disable=not options.progress) as bar,
    ):
        target.writer.write_instructions(
            InstructionRecord(name, number, Modality.IMAGE_TEXT, Modality.IMAGE, options.prompts)
            for number, name in enumerate(names.values(), options.dataset_id)
        )
        job = _ComposedConversion(target, options, bar)
        for split, into in written.items():
            pooled: set[str] = set()
            for part in reader.read(split):
                number = options.dataset_id + reader.parts.index(part.part)
                job.write(part, names[part.part], number, into, pooled)
        return target.summary(out)


class _ComposedConversion:
    """Holds what is known about images already placed."""

    def __init__(self, target: ConversionTarget, options: ComposedOptions, bar: Progress) -> None:
        self.target, self.options, self.bar = target, options, bar
        self.paths: dict[str, str] = {}  # image name → path in the root
        self.missing: set[str] = set()

    def write(self, part: ComposedSet, name: str, number: int, split: str, pooled: set[str]) -> None:
        """Write a pool and its queries; ``pooled`` are the images in the split's global pool already."""
        self._find_missing(part)
        for image, file in self.bar.track(part.images.items(), description=f"images, {name} {split}"):
            if image not in self.missing:
                self._write_candidate(image, file, name, number, split, pooled)
        for query in self.bar.track(part.queries, description=f"queries, {name} {split}"):
            if (targets := self._targets(query)) is not None:
                self._write_query(query, targets, name, number, split)

    def _find_missing(self, part: ComposedSet) -> None:
        new = [image for image in part.images if image not in self.paths and image not in self.missing]
        missing = [image for image in new if not part.images[image].is_file()]
        if missing and not self.options.allow_missing_images:
            raise DataError(
                f"{part.images[missing[0]]}: image {missing[0]!r} of {part.listing} is not there, and "
                f"{len(missing) - 1} more of {len(part.images)}; add them, or allow missing images, which "
                "are then left out and counted"
            )
        self.missing.update(missing)
        if missing:
            self.target.left_out[MISSING_IMAGES] += len(missing)

    def _write_candidate(
        self, image: str, file: Path, name: str, number: int, split: str, pooled: set[str]
    ) -> None:
        if image not in self.paths:
            self.paths[image] = self.target.place_image(name, file)
            self.target.new_id("candidate", number, image)
        record = CandidateRecord(self._id(image), None, self.paths[image], Modality.IMAGE)
        pools = [f"local_{name}_task{_TASK}_{split}"]
        if image not in pooled:
            pooled.add(image)
            pools.append(f"global_{split}")
        for pool in pools:
            self.target.writer.write_pool(pool, [record])
            self.target.candidates[pool] += 1

    def _targets(self, query: ComposedQuery) -> tuple[str, ...] | None:
        """The targets that are there; ``None`` for a query to leave out."""
        left_out = self.target.left_out
        if not query.text:
            if not self.options.allow_empty_texts:
                raise DataError(
                    f"{query.source}: query {query.name!r} has no text; allow empty texts, which are "
                    "then left out and counted"
                )
            left_out[EMPTY_TEXTS] += 1
            return None
        if query.reference in self.missing:
            left_out[LOST_REFERENCES] += 1
            return None
        targets = tuple(target for target in query.targets if target not in self.missing)
        if len(targets) < len(query.targets):
            left_out[LOST_TARGETS] += len(query.targets) - len(targets)
        if not targets:
            left_out[UNANSWERED] += 1
            return None
        return targets

    def _write_query(
        self, query: ComposedQuery, targets: tuple[str, ...], name: str, number: int, split: str
    ) -> None:
        record = QueryRecord(
            self.target.new_id("query", number, query.name),
            query.text,
            self.paths[query.reference],
            Modality.IMAGE_TEXT,
            tuple(self._id(target) for target in targets),
            (),
            name,
            _TASK,
            instructions=(),
        )
        self.target.writer.write_queries(split, [record])
        self.target.count_query(split, record.task)
        group = [self._id(image) for image in query.group if image not in self.missing]
        if len(group) < len(query.group):
            self.target.left_out[SHORT_GROUPS] += 1
        if group:
            self.target.writer.write_beside(GROUPS, query_list_row(record.id, group))
        if query.excluded:
            excluded = [self._id(image) for image in query.excluded if image not in self.missing]
            self.target.notes[OWN_IMAGES] += 1
            self.target.writer.write_beside(EXCLUDED, query_list_row(record.id, excluded))

    def _id(self, image: str) -> str:
        id_ = self.target.id_of("candidate", image)
        assert id_ is not None, image
        return id_
