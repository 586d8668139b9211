"""Packs a data set in the M-BEIR layout into checksummed WebDataset shards.

::

    manifest.json                          what is there, with digests; written last
    images/*.tar                           each distinct image once, keyed by its digest
    candidates/*.tar                       each candidate of any pool once, as JSON
    queries/<split>/*.tar                  as JSON; arrays beside them: :mod:`data_modules.packed_queries`
    pools/<pool>.npy                       the rows of each pool's candidates

Beside each tar lies its index (:mod:`data_modules.shards`). Every row and every image is checked on the way.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from data_modules.atomic import staged_directory
from data_modules.content_keys import content_key
from data_modules.formats.mbeir import MBEIRReader
from data_modules.formats.records import CandidateRecord, DataError, QueryRecord, Source, dataset_id, id_key
from data_modules.manifest import FORMAT, MANIFEST, VERSION
from data_modules.packed_queries import PackedQueries
from data_modules.progress import progress_bar
from data_modules.shards import ShardIndex, ShardWriter, file_digest, index_path
from mmretrieval.content import MODALITIES, Modality
from mmretrieval.image_bytes import IMAGE_FORMATS, ImageError, open_image, verify_image

_BATCH = 512  # rows whose images are checked in parallel
_CANDIDATE_COLUMNS = {"id": "i8", "modality": "u1", "key": "i8", "image": "i8"}
_QUERY_COLUMNS = {"task": "i4", "modality": "u1", "target": "u1", "key": "i8", "image": "i8"}
_IMAGE_COLUMNS = {"width": "i4", "height": "i4"}
T = TypeVar("T")


@dataclass(frozen=True)
class PackSummary:
    """What a packed folder holds.

    Args:
        out: The folder.
        queries: Split → task → number of distinct queries.
        candidates: Pool → modality → number of candidates.
        distinct_candidates: Number of candidates over all pools.
        images: Number of distinct images.
        bytes: Size of all files.
    """

    out: Path
    queries: dict[str, dict[str, int]]
    candidates: dict[str, dict[str, int]]
    distinct_candidates: int
    images: int
    bytes: int


def pack(root: Path, out: Path, *, max_shard_bytes: int = 512 * 2**20, progress: bool = True) -> PackSummary:
    """Pack a data set; ``out`` appears only when all of it is written.

    Args:
        root: A folder in the M-BEIR release layout.
        out: The folder to create.
        max_shard_bytes: Size at which a new shard begins, > 0.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If anything in the data cannot be used, or ``out`` is occupied.
    """
    if max_shard_bytes <= 0:
        raise DataError(f"max_shard_bytes is {max_shard_bytes}; give a positive number of bytes")
    reader = MBEIRReader(root)
    with staged_directory(out) as stage, ExitStack() as stack:
        bar = stack.enter_context(progress_bar(disable=not progress))
        job = bar.add_task("packing", total=_line_count(reader) if progress else None)
        packer = _Packer(reader, stage, max_shard_bytes, lambda rows: bar.advance(job, rows))
        manifest = packer.run()
        (stage / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1))
        size = sum(path.stat().st_size for path in stage.rglob("*") if path.is_file())
    counts = manifest["counts"]
    totals = (counts["distinct_candidates"], counts["images"])
    return PackSummary(out, counts["queries"], counts["candidates"], *totals, size)


def source_digest(reader: MBEIRReader) -> str:
    """Return the SHA-256 of names and sizes of a data set's files of rows: what a folder was packed from."""
    files = (
        (path.relative_to(reader.root).as_posix(), path.stat().st_size) for path in reader.source_files()
    )
    return sha256("\n".join(f"{size} {name}" for name, size in files).encode()).hexdigest()


class _Image(NamedTuple):
    data: bytes
    digest: str
    extension: str
    width: int
    height: int


class _ImageStore:
    """Checks images in parallel and stores each distinct one."""

    def __init__(self, root: Path, writer: ShardWriter, threads: ThreadPoolExecutor) -> None:
        self._root, self._writer, self._threads = root, writer, threads
        self._row_of_path: dict[str, int] = {}
        self._row_of_digest: dict[str, int] = {}
        self.digests: list[str] = []
        self.bytes = 0

    def add(self, wanted: Iterable[tuple[Source, str, str | None]]) -> None:
        """Store the new images among rows given as source, id and path."""
        new: dict[str, tuple[Source, str]] = {}
        for source, id_, path in wanted:
            if path is not None and path not in self._row_of_path:
                new.setdefault(path, (source, id_))
        jobs = ((*place, path) for path, place in new.items())
        for path, image in zip(new, self._threads.map(self._load, jobs), strict=True):
            if image.digest not in self._row_of_digest:
                size = {"width": image.width, "height": image.height}
                row = self._writer.write(image.digest, image.extension, image.data, size)
                self._row_of_digest[image.digest] = row
                self.digests.append(image.digest)
                self.bytes += len(image.data)
            self._row_of_path[path] = self._row_of_digest[image.digest]

    def find(self, path: str | None) -> tuple[int, str | None]:
        """Return row and digest of an image; -1 and ``None`` if ``path`` is ``None``."""
        if path is None:
            return -1, None
        row = self._row_of_path[path]
        return row, self.digests[row]

    def _load(self, job: tuple[Source, str, str]) -> _Image:
        source, id_, path = job
        try:
            data = (self._root / path).read_bytes()
            header = open_image(data)
            extension = IMAGE_FORMATS.get(
                str(header.format), "jpg"
            )  # MPO is a JPEG with more JPEGs behind it
            width, height = header.size
            verify_image(data)
        except OSError as error:
            raise DataError(
                f"{source}: image {path!r} of {id_!r} cannot be read ({error.strerror}); add the file or "
                "remove the row"
            ) from None
        except ImageError as error:
            raise DataError(
                f"{source}: image {path!r} of {id_!r}: {error}; replace the file or remove the row"
            ) from None
        return _Image(data, blake2b(data, digest_size=16).hexdigest(), extension, width, height)


class _Packer:
    """Holds what is known about rows already written while a data set is packed."""

    def __init__(
        self, reader: MBEIRReader, stage: Path, max_shard_bytes: int, advance: Callable[[int], None]
    ) -> None:
        self.reader, self.stage, self.max_shard_bytes, self.advance = reader, stage, max_shard_bytes, advance
        self.rows: dict[int, int] = {}  # id key → candidate row
        self.keys, self.modalities = array("q"), array("B")
        self.shards: dict[str, list[dict[str, Any]]] = {}
        self.arrays: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, list[str]] = {}
        self.queries: dict[str, dict[str, int]] = {}
        self.candidates: dict[str, dict[str, int]] = {}
        self.unlisted = {name: list(ids) for name, ids in reader.query_lists.items()}

    def run(self) -> dict[str, Any]:
        """Write all tables and return the manifest."""
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
            with self._writer("images", _IMAGE_COLUMNS) as writer:
                images = _ImageStore(self.reader.root, writer, threads)
                with self._writer("candidates", _CANDIDATE_COLUMNS) as table:
                    for pool in self.reader.pools:
                        self._pack_pool(pool, images, table)
                self._note("candidates", table)
                for split in self.reader.splits:
                    self._pack_split(split, images)
                self._check_lists()
            self._note("images", writer)
        prompts = [
            {
                "dataset_id": record.dataset_id,
                "query_modality": record.query_modality.value,
                "candidate_modality": record.candidate_modality.value,
                "prompts": list(record.prompts),
            }
            for record in self.reader.instructions.values()
        ]
        counts = {
            "queries": self.queries,
            "candidates": self.candidates,
            "distinct_candidates": len(self.rows),
            "images": len(images.digests),
            "image_bytes": images.bytes,
        }
        return {
            "format": FORMAT,
            "version": VERSION,
            "source": source_digest(self.reader),
            "shards": self.shards,
            "arrays": self.arrays,
            "instructions": prompts,
            "tasks": self.tasks,
            "counts": counts,
        }

    def _pack_pool(self, pool: str, images: _ImageStore, table: ShardWriter) -> None:
        rows = array("q")
        for batch in _batches(self.reader.located_candidates(pool)):
            images.add((source, record.id, record.image) for source, record in batch)
            rows.extend(self._pack_candidate(source, record, images, table) for source, record in batch)
            self.advance(len(batch))
        self._save(f"pools/{pool}.npy", np.array(rows, np.int64))
        codes = Counter(self.modalities[row] for row in rows)
        self.candidates[pool] = {m.value: codes[m.code] for m in MODALITIES if codes[m.code]}

    def _pack_candidate(
        self, source: Source, record: CandidateRecord, images: _ImageStore, table: ShardWriter
    ) -> int:
        image, digest = images.find(record.image)
        key = content_key(record.text, digest)
        number = id_key(record.id)
        row = self.rows.get(number)
        if row is None:
            columns = {"id": number, "modality": record.modality.code, "key": key, "image": image}
            row = table.write(record.id, "json", _json(_content_fields(record, digest)), columns)
            self.rows[number] = row
            self.keys.append(key)
            self.modalities.append(record.modality.code)
        elif self.keys[row] != key:
            raise DataError(
                f"{source}: candidate {record.id!r} has another content than in an earlier pool; "
                "give different candidates different ids"
            )
        return row

    def _pack_split(self, split: str, images: _ImageStore) -> None:
        name = f"queries/{split}"
        rows = PackedQueries(self.rows)
        with self._writer(name, _QUERY_COLUMNS) as table:
            for batch in _batches(self.reader.located_queries(split, modality_of=self._modality_of)):
                images.add((source, record.id, record.image) for source, record in batch)
                for source, record in batch:
                    image, digest = images.find(record.image)
                    data = _json(self._query_fields(record, digest))
                    if rows.is_copy(source, record, data):
                        continue
                    task, first_positive = rows.add(record)
                    columns = {
                        "task": task,
                        "modality": record.modality.code,
                        "target": self.modalities[first_positive],
                        "key": content_key(record.text, digest),
                        "image": image,
                    }
                    table.write(record.id, "json", data, columns)
                self.advance(len(batch))
        self._note(name, table)
        for array_name, values in rows.arrays().items():
            self._save(f"{name}/{array_name}.npy", values)
        for file, ids in self.unlisted.items():
            self.unlisted[file] = [id_ for id_ in ids if not rows.has(id_)]
        self.tasks[split] = list(rows.tasks)
        self.queries[split] = dict(rows.counts)

    def _check_lists(self) -> None:
        """Refuse lists of queries that no split has."""
        for name, ids in self.unlisted.items():
            if ids:
                raise DataError(
                    f"{self.reader.root / name}: has a line for query {ids[0]!r}, and {len(ids) - 1} more, "
                    "that no split has; remove the lines or add the queries"
                )

    def _query_fields(self, record: QueryRecord, image_key: str | None) -> dict[str, Any]:
        target = MODALITIES[self.modalities[self.rows[id_key(record.positives[0])]]]
        instruction = (dataset_id(record.id), record.modality, target)
        return _content_fields(record, image_key) | {
            "positives": record.positives,
            "negatives": record.negatives,
            "dataset": record.dataset,
            "task_id": record.task_id,
            "instruction": self._instruction_rows[instruction],
        }

    @cached_property
    def _instruction_rows(self) -> dict[tuple[int, Modality, Modality], int]:
        return {key: row for row, key in enumerate(self.reader.instructions)}

    def _modality_of(self, id_: str) -> Modality | None:
        row = self.rows.get(id_key(id_))
        return None if row is None else MODALITIES[self.modalities[row]]

    def _writer(self, name: str, columns: dict[str, str]) -> ShardWriter:
        return ShardWriter(self.stage / name, columns, max_shard_bytes=self.max_shard_bytes)

    def _note(self, name: str, writer: ShardWriter) -> None:
        indexes = [(shard, index_path(writer.folder / shard)) for shard in writer.names]
        self.shards[name] = [
            {"name": shard, "rows": len(ShardIndex.load(path)), "index": file_digest(path)}
            for shard, path in indexes
        ]

    def _save(self, name: str, values: npt.NDArray[Any]) -> None:
        path = self.stage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values, allow_pickle=False)
        self.arrays[name] = {"rows": len(values), "digest": file_digest(path)}


def _content_fields(record: QueryRecord | CandidateRecord, image_key: str | None) -> dict[str, Any]:
    return {
        "id": record.id,
        "text": record.text,
        "image": record.image,
        "image_key": image_key,
        "modality": record.modality.value,
    }


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def _batches(rows: Iterator[T]) -> Iterator[list[T]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _line_count(reader: MBEIRReader) -> int:
    files = [path for paths in reader.pools.values() for path in paths]
    files += [path for split in reader.splits for path in reader.query_files(split)]
    total = 0
    for path in files:
        with path.open("rb") as stream:
            while chunk := stream.read(2**20):
                total += chunk.count(b"\n")
    return total
