"""Converts pictures with captions: each finds the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from rich.progress import Progress

from data_modules.conversion.prompts import CAPTION_TO_PICTURE, PICTURE_TO_CAPTION
from data_modules.conversion.target import (
    ConversionSummary,
    ConversionTarget,
    check_dataset,
    conversion_target,
)
from data_modules.formats.records import CandidateRecord, DataError, InstructionRecord, QueryRecord
from data_modules.progress import progress_bar
from mmretrieval.content import Modality

_TO_PICTURE, _TO_CAPTION = 0, 3
_TEXT, _IMAGE = Modality.TEXT, Modality.IMAGE


class Captioned(NamedTuple):
    """A picture and one of its captions.

    Args:
        image: The picture's file.
        caption: What it shows.
    """

    image: Path
    caption: str


class _Group(NamedTuple):
    """Pairs that share pictures or captions, directly or through others."""

    split: str
    pairs: tuple[Captioned, ...]


def convert_captions(
    pairs: Sequence[Captioned],
    out: Path,
    *,
    name: str,
    dataset_id: int = 100,
    held_out: float = 0.1,
    copy_images: bool = False,
    progress: bool = True,
) -> ConversionSummary:
    """Write captioned pictures in the M-BEIR layout, as tasks 0 (text → image) and 3 (image → text).

    The splits are drawn by content, so that more pairs leave those that are there in their splits. What
    shares a picture or a caption is in one split.

    Args:
        pairs: Pictures with captions; a picture may have several, and a caption may have several pictures.
        out: The folder to create.
        name: Lower-case name of the data set.
        dataset_id: Its number, from 0; M-BEIR's own use 0 to 9.
        held_out: Share of the pairs in ``test``, and as many in ``val``, from 0 to 0.5.
        copy_images: Copy image files, instead of hard links where the disk allows them.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If there is no pair, or ``out`` is occupied.
    """
    check_dataset(name, dataset_id)
    if not 0 <= held_out < 0.5:
        raise DataError(f"held_out {held_out}: use a share from 0 to below 0.5")
    if not pairs:
        raise DataError(f"{out}: there is no picture with a caption to write")
    with (
        conversion_target(out, copy_images=copy_images) as target,
        progress_bar(disable=not progress) as bar,
    ):
        target.writer.write_instructions(
            [
                InstructionRecord(name, dataset_id, _TEXT, _IMAGE, CAPTION_TO_PICTURE),
                InstructionRecord(name, dataset_id, _IMAGE, _TEXT, PICTURE_TO_CAPTION),
            ]
        )
        job = _CaptionsConversion(target, name, dataset_id)
        job.write(_groups(pairs, held_out), bar, len(pairs))
        return target.summary(out)


class _CaptionsConversion:
    def __init__(self, target: ConversionTarget, name: str, dataset_id: int) -> None:
        self.target, self.name, self.dataset_id = target, name, dataset_id
        self.ids: dict[Path | str, str] = {}
        self.paths: dict[Path, str] = {}

    def write(self, groups: Iterator[_Group], bar: Progress, total: int) -> None:
        """Write the candidates and the queries of all groups."""
        task = bar.add_task(f"pairs, {self.name}", total=total)
        for group in groups:
            for image in dict.fromkeys(pair.image for pair in group.pairs):
                self.paths[image] = self.target.place_image(self.name, image)
                record = self._candidate(image, None, self.paths[image])
                self._pool(record, _TO_PICTURE, group.split)
            for caption in dict.fromkeys(pair.caption for pair in group.pairs):
                self._pool(self._candidate(caption, caption, None), _TO_CAPTION, group.split)
            self._write_queries(group)
            bar.advance(task, len(group.pairs))

    def _write_queries(self, group: _Group) -> None:
        by_caption: dict[str, list[Path]] = {}
        by_image: dict[Path, list[str]] = {}
        for image, caption in dict.fromkeys(group.pairs):
            by_caption.setdefault(caption, []).append(image)
            by_image.setdefault(image, []).append(caption)
        for caption, images in by_caption.items():
            self._query(caption, None, [self.ids[image] for image in images], _TO_PICTURE, group.split)
        for image, captions in by_image.items():
            path = self.paths[image]
            self._query(None, path, [self.ids[caption] for caption in captions], _TO_CAPTION, group.split)

    def _candidate(self, key: Path | str, text: str | None, image: str | None) -> CandidateRecord:
        self.ids[key] = self.target.new_id("candidate", self.dataset_id, str(key))
        return CandidateRecord(self.ids[key], text, image, _TEXT if image is None else _IMAGE)

    def _pool(self, record: CandidateRecord, task: int, split: str) -> None:
        for pool in (f"local_{self.name}_task{task}_{split}", f"global_{split}"):
            self.target.writer.write_pool(pool, [record])
            self.target.candidates[pool] += 1

    def _query(
        self, text: str | None, image: str | None, positives: list[str], task: int, split: str
    ) -> None:
        modality = _TEXT if image is None else _IMAGE
        id_ = self.target.new_id("query", self.dataset_id, text or str(image))
        record = QueryRecord(id_, text, image, modality, tuple(positives), (), self.name, task, ())
        self.target.writer.write_queries(split, [record])
        self.target.count_query(split, record.task)


def _groups(pairs: Sequence[Captioned], held_out: float) -> Iterator[_Group]:
    """Pairs by what they share, in the order of their first ones."""
    first: dict[Path | str, int] = {}  # picture or caption → number of a pair that has it
    leader = list(range(len(pairs)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for number, pair in enumerate(pairs):
        for key in pair:
            leader[find(number)] = find(first.setdefault(key, number))
    members: dict[int, list[Captioned]] = {}
    for number, pair in enumerate(pairs):
        members.setdefault(find(number), []).append(pair)
    for group in members.values():
        yield _Group(_split(min(pair.caption for pair in group), held_out), tuple(group))


def _split(caption: str, held_out: float) -> str:
    draw = int.from_bytes(blake2b(caption.encode(), digest_size=8).digest(), "little") / 2**64
    return "test" if draw < held_out else "val" if draw < 2 * held_out else "train"
