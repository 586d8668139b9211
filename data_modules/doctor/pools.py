"""Candidate pools of the M-BEIR layout: what each holds, and what all hold together."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_modules.doctor import checks
from data_modules.doctor.estimate import packed_bytes
from data_modules.doctor.findings import Check, Findings
from data_modules.doctor.images import ImageChecker
from data_modules.doctor.keys import Keys, KeyTable, joined, key_of, repeats
from data_modules.doctor.lines import LineReader
from data_modules.doctor.places import Places
from data_modules.doctor.rows import UNKNOWN, ContentFields, candidate_fields
from data_modules.formats.records import Source, id_key, key_id

_ID_BITS = 40


class PoolFile:
    """The candidates of one file as columns; its texts are not kept."""

    def __init__(self) -> None:
        self.places = Places()
        self._ids, self._texts, self._images = array("q"), array("q"), array("q")
        self._modalities, self._bytes = array("B"), array("q")

    def add(self, source: Source, id_: str, content: ContentFields, image: int) -> None:
        """Add a candidate, given the key of its image's path."""
        text = content.text or ""
        self.places.add(source)
        self._ids.append(id_key(id_))
        self._texts.append(key_of(text))
        self._images.append(image)
        self._modalities.append(content.modality)
        self._bytes.append(packed_bytes(id_, text, content.image))

    @cached_property
    def ids(self) -> Keys:
        """Keys of the candidates' ids."""
        return np.array(self._ids, np.int64)

    @cached_property
    def texts(self) -> Keys:
        """Keys of the texts, 0 for none."""
        return np.array(self._texts, np.int64)

    @cached_property
    def images(self) -> Keys:
        """Keys of the images' paths, 0 for none."""
        return np.array(self._images, np.int64)

    @cached_property
    def modalities(self) -> NDArray[np.uint8]:
        """Codes of the modalities that the rows have."""
        return np.array(self._modalities, np.uint8)

    @cached_property
    def bytes(self) -> NDArray[np.int64]:
        """Size of each row when packed."""
        return np.array(self._bytes, np.int64)


@dataclass
class Candidates:
    """All candidates of all pools, each id once.

    Args:
        rows: Key of an id → its row in the columns.
        contents: What stands for text and image bytes.
        modalities: Codes of the modalities.
        bytes: Sizes when packed.
    """

    rows: KeyTable
    contents: Keys
    modalities: NDArray[np.uint8]
    bytes: NDArray[np.int64]

    @classmethod
    def none(cls) -> Candidates:
        """No candidates yet."""
        empty = np.empty(0, np.int64)
        return cls(KeyTable(), empty, empty.astype(np.uint8), empty)

    def merge(self, file: PoolFile, contents: Keys) -> NDArray[np.int64]:
        """Add the candidates that are new; return the rows of the file whose id had another content."""
        known = self.rows.find(file.ids)
        old = np.flatnonzero(known >= 0)
        conflicts: NDArray[np.int64] = old[self.contents[known[old]] != contents[old]]
        _, first = np.unique(file.ids, return_index=True)
        new = first[known[first] < 0]
        start = self.contents.size
        self.rows.add(file.ids[new], np.arange(start, start + new.size, dtype=np.int64))
        self.contents = np.concatenate([self.contents, contents[new]])
        self.modalities = np.concatenate([self.modalities, file.modalities[new]])
        self.bytes = np.concatenate([self.bytes, file.bytes[new]])
        return conflicts


class PoolChecks:
    """Reads pools one after the other and reports what is wrong within and between them.

    Args:
        reader: Reads the files.
        images: Checks the images.
    """

    def __init__(self, reader: LineReader, images: ImageChecker) -> None:
        self._reader, self._images = reader, images
        self.candidates = Candidates.none()
        self.members: dict[str, Keys] = {}

    @property
    def _findings(self) -> Findings:
        return self._reader.findings

    def read(self, name: str, path: Path) -> None:
        """Read a pool and check it; global pools come before local ones."""
        file = PoolFile()
        for source, row in self._reader.objects(path):
            fields = candidate_fields(self._findings, source, row)
            image = self._images.want(source, fields.content.image)
            if fields.id is not None:
                file.add(source, fields.id, fields.content, image)
        contents = joined(file.texts, self._images.contents(file.images))
        self._report_repeats(file, contents)
        self._findings.add_rows(
            checks.ID_CONFLICT,
            self.candidates.merge(file, contents),
            lambda row: (
                f"{file.places[row]}: {key_id(int(file.ids[row]))!r} has another content in another pool"
            ),
        )
        self.members[name] = np.unique(file.ids)

    def compare(self, local: str, global_names: Sequence[str]) -> None:
        """Report candidates of a local pool that none of the global pools has."""
        every = [self.members[name] for name in global_names]
        if every:
            missing = np.setdiff1d(self.members[local], np.concatenate(every))
            self._findings.add_rows(
                checks.NOT_IN_GLOBAL,
                np.arange(missing.size),
                lambda row: f"{local}: {key_id(int(missing[row]))!r} is not in {' or '.join(global_names)}",
            )

    def _report_repeats(self, file: PoolFile, contents: Keys) -> None:
        ids, again = repeats(file.ids)
        self._report(checks.DUPLICATE_ID, file, ids, again)
        with_content = np.flatnonzero(file.modalities != UNKNOWN)
        distinct = np.setdiff1d(with_content, ids)
        data_sets = file.ids >> _ID_BITS
        by_path = joined(file.texts, file.images)
        reported: Keys = np.empty(0, np.int64)
        for check, keys in (
            (checks.DUPLICATE_CONTENT, joined(by_path, data_sets)),
            (checks.EQUAL_CONTENT, joined(contents, data_sets)),
            (checks.SHARED_CONTENT, contents),
        ):
            later, first = (distinct[rows] for rows in repeats(keys[distinct]))
            fresh = ~np.isin(later, reported)
            self._report(check, file, later[fresh], first[fresh])
            reported = np.union1d(reported, later)

    def _report(self, check: Check, file: PoolFile, later: Keys, first: Keys) -> None:
        earlier = dict(zip(later.tolist(), first.tolist(), strict=True))

        def describe(row: int) -> str:
            one, other = (key_id(int(file.ids[place])) for place in (row, earlier[row]))
            return f"{file.places[row]}: {one!r} as {other!r} at line {file.places[earlier[row]].line}"

        self._findings.add_rows(check, later, describe)
