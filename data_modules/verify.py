"""Finds and counts damage in a packed folder, and counts what a data set holds."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.records import DataError
from data_modules.manifest import MANIFEST, read_manifest
from data_modules.shards import BLOCK, ShardIndex, checksum, file_digest, index_path, local_shard


@dataclass
class ShardReport:
    """The state of one file of a packed folder; all counts are of samples.

    Args:
        name: Path relative to the folder.
        rows: Samples the manifest promises.
        flipped: Samples whose bytes differ from those written.
        headers: Samples whose tar header is damaged or names another sample.
        truncated: Samples that lie beyond the end of the tar.
        duplicated: Samples whose key occurred before in the same table.
        unreadable: Samples that cannot be checked: the tar, its index or the array is missing or unusable.
        notes: Explanations for people.
    """

    name: str
    rows: int
    flipped: int = 0
    headers: int = 0
    truncated: int = 0
    duplicated: int = 0
    unreadable: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def damaged(self) -> int:
        """Number of findings; a sample can have several."""
        return self.flipped + self.headers + self.truncated + self.duplicated + self.unreadable

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.damaged == 0 and not self.notes


@dataclass(frozen=True)
class VerifyReport:
    """The state of a packed folder, file by file."""

    shards: list[ShardReport]

    @property
    def ok(self) -> bool:
        """Whether nothing was found anywhere."""
        return all(shard.ok for shard in self.shards)

    @property
    def damaged(self) -> int:
        """Number of findings in all files."""
        return sum(shard.damaged for shard in self.shards)


@dataclass(frozen=True)
class Stats:
    """What a data set holds.

    Args:
        queries: Split → task → number of queries.
        candidates: Pool → modality → number of candidates.
        images: Number of distinct images (packed) or image files (not packed).
        image_bytes: Their size.
        bytes: Size of all files.
    """

    queries: dict[str, dict[str, int]]
    candidates: dict[str, dict[str, int]]
    images: int
    image_bytes: int
    bytes: int


def verify(packed: Path) -> VerifyReport:
    """Read every byte of a packed folder and compare it with indexes and manifest.

    Raises:
        DataError: If ``packed`` is no packed folder, or its manifest is damaged.
    """
    manifest = read_manifest(packed)
    try:
        tables = {
            name: [(str(s["name"]), int(s["rows"]), str(s["index"])) for s in shards]
            for name, shards in manifest["shards"].items()
        }
        arrays = [(n, int(a["rows"]), str(a["digest"])) for n, a in manifest["arrays"].items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{packed / MANIFEST}: is damaged ({error!r}); pack the data again") from None
    reports = []
    for table, shards in tables.items():
        keys: set[bytes] = set()
        for name, rows, digest in shards:
            local_shard(name)
            reports.append(_check_shard(packed, f"{table}/{name}", rows, digest, keys))
        reports.extend(_strangers(packed, table, {name for name, _, _ in shards}))
    return VerifyReport(reports + [_check_array(packed, *entry) for entry in arrays])


def stats(path: Path) -> Stats:
    """Count what a packed folder or a folder in the M-BEIR layout holds; the latter is read completely.

    Raises:
        DataError: If ``path`` is neither, or a row cannot be used.
    """
    if (path / MANIFEST).is_file():
        try:
            counts = read_manifest(path)["counts"]
            rows = counts["queries"], counts["candidates"]
            pictures = counts["images"], counts["image_bytes"]
        except (KeyError, TypeError) as error:
            raise DataError(f"{path / MANIFEST}: is damaged ({error!r}); pack the data again") from None
        return Stats(*rows, *pictures, _size(path.rglob("*")))
    reader = MBEIRReader(path)
    candidates: dict[str, dict[str, int]] = {}
    for pool in reader.pools:
        candidates[pool] = dict(Counter(record.modality.value for record in reader.candidates(pool)))
    queries = {split: dict(Counter(q.task for q in reader.queries(split))) for split in reader.splits}
    images = list(reader.image_files())
    image_bytes = _size(images)
    return Stats(queries, candidates, len(images), image_bytes, image_bytes + _size(reader.source_files()))


def _check_shard(packed: Path, name: str, rows: int, digest: str, keys: set[bytes]) -> ShardReport:
    report = ShardReport(name, rows)
    path = packed / name
    try:
        index = ShardIndex.load(index_path(path))
        if file_digest(index_path(path)) != digest or len(index) != rows:
            report.notes.append("the index is not the one that was written")
        with path.open("rb") as stream:
            size = path.stat().st_size
            if size != index.tar_size:
                report.notes.append(f"has {size} bytes instead of {index.tar_size}")
            for row in range(len(index)):
                key = bytes(index.ids[row])
                offset, length = int(index.offsets[row]), int(index.sizes[row])
                stream.seek(max(offset - BLOCK, 0))
                header, data = stream.read(BLOCK), stream.read(length)
                if len(header) < BLOCK or len(data) < length:
                    report.truncated += 1
                else:
                    report.headers += not _header_fits(header, key, length)
                    report.flipped += checksum(data) != int(index.checksums[row])
                report.duplicated += key in keys
                keys.add(key)
    except (DataError, OSError) as error:
        report.unreadable = max(rows, 1)
        report.notes.append(str(error))
    return report


def _header_fits(header: bytes, key: bytes, size: int) -> bool:
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError):
        return False
    return info.isreg() and info.name.partition(".")[0].encode() == key and info.size == size


def _strangers(packed: Path, table: str, known: set[str]) -> list[ShardReport]:
    found = sorted(path.name for path in (packed / table).glob("*.tar") if path.name not in known)
    return [ShardReport(f"{table}/{name}", 0, notes=["is not in the manifest"]) for name in found]


def _check_array(packed: Path, name: str, rows: int, digest: str) -> ShardReport:
    report = ShardReport(name, rows)
    path = packed / name
    try:
        if file_digest(path) != digest:
            report.flipped = max(rows, 1)
            report.notes.append("the file is not the one that was written")
        elif len(np.load(path, mmap_mode="r", allow_pickle=False)) != rows:
            report.notes.append(f"does not hold {rows} rows")
    except (OSError, ValueError) as error:
        report.unreadable = max(rows, 1)
        report.notes.append(str(error))
    return report


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())
