"""Random access to a packed data set: candidates, queries, pools, and their images.

A packed folder (see :mod:`data_modules.packing`) is opened in no time and read through memory maps, so that
each data-loading worker can have its own :class:`PackedCorpus` and millions of rows cost a few arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_modules.formats.records import CandidateRecord, DataError, QueryRecord, dataset_id, id_key, key_id
from data_modules.shards import Column, Ints, ShardTable
from mmretrieval.content import MODALITIES, Candidate, Content, Modality, Query
from mmretrieval.image_bytes import decode_image

MANIFEST = "manifest.json"
FORMAT, VERSION = "mmretrieval-packed", 2

Codes = npt.NDArray[np.uint8]


def content_key(text: str | None, image_digest: str | None) -> int:
    """Return a positive 63-bit integer that two contents share iff text and image bytes are equal."""
    parts = f"{image_digest or ''}\0{text or ''}".encode()
    return int.from_bytes(blake2b(parts, digest_size=8).digest(), "little") >> 1 or 1


def read_manifest(root: Path) -> dict[str, Any]:
    """Return the manifest of a packed folder.

    Raises:
        DataError: If ``root`` is no packed folder, or of another version.
    """
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{root}: is not a packed folder, {MANIFEST} is missing; make one with 'mmretrieval data pack'"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); pack the data again") from None
    found = (manifest.get("format"), manifest.get("version")) if isinstance(manifest, dict) else None
    if found != (FORMAT, VERSION):
        raise DataError(f"{path}: format {found} instead of {(FORMAT, VERSION)}; pack the data again")
    return dict(manifest)


class PackedCorpus:
    """A packed data set. Copies sent to other processes open the files anew there.

    Args:
        root: The packed folder.
        max_text_tokens: Where texts are cut; the encoder's own limit by default.

    Raises:
        DataError: If ``root`` is no packed folder.
        ValueError: If the limit is below 1.
    """

    _latest: tuple[int, Image.Image] | None = None  # neighbours in a batch often show the same picture

    def __init__(self, root: Path, max_text_tokens: int | None = None) -> None:
        if max_text_tokens is not None and max_text_tokens < 1:
            raise ValueError(f"max_text_tokens must be at least 1, found {max_text_tokens}.")
        self.root, self.max_text_tokens = root, max_text_tokens
        self.manifest = read_manifest(root)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "max_text_tokens": self.max_text_tokens}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.root, self.max_text_tokens = state["root"], state["max_text_tokens"]
        self.manifest = read_manifest(self.root)

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self._candidates)

    @property
    def text_limits(self) -> str | None:
        """Where texts are cut, in words; ``None`` where the encoder decides."""
        return None if self.max_text_tokens is None else str(self.max_text_tokens)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have queries."""
        return tuple(self.manifest["tasks"])

    @cached_property
    def candidate_ids(self) -> npt.NDArray[np.bytes_]:
        """Ids of all candidates as ASCII bytes, ``(N,)``; see also :meth:`candidate_id`."""
        return self._candidates.ids

    @cached_property
    def candidate_modalities(self) -> Codes:
        """Modality codes of all candidates, ``(N,)``."""
        return self._candidates.column("modality", np.uint8)

    @cached_property
    def candidate_keys(self) -> Ints:
        """Content keys of all candidates, ``(N,)``: equal iff text and image bytes are; never 0."""
        return self._candidates.column("key", np.int64)

    @property
    def candidate_sizes(self) -> Ints:
        """Bytes of all candidates' records, ``(N,)``: how long their texts are, without reading them."""
        return _sizes(self._candidates)

    @cached_property
    def prompts(self) -> Mapping[tuple[int | str, ...], tuple[str, ...]]:
        """Instructions by data set number, query modality and target modality."""
        names = "dataset_id", "query_modality", "candidate_modality"
        return {tuple(e[n] for n in names): tuple(e["prompts"]) for e in self.manifest["instructions"]}

    @cached_property
    def pools(self) -> Mapping[str, Ints]:
        """Rows of each pool's candidates, in the order of its file."""
        return {name: self.array(f"pools/{name}.npy") for name in self.manifest["counts"]["candidates"]}

    def pool_digest(self, name: str) -> str:
        """Return a hex digest of a pool's rows, to recognise files computed from it.

        Raises:
            DataError: If there is no such pool.
        """
        entry = self.manifest["arrays"].get(f"pools/{name}.npy")
        if entry is None:
            raise DataError(f"{self.root}: has no pool {name!r}; there are {', '.join(self.pools)}")
        tables = [shard["index"] for shard in self.manifest["shards"]["candidates"]]
        return blake2b("\n".join([entry["digest"], *tables]).encode(), digest_size=16).hexdigest()

    def candidate_id(self, row: int) -> str:
        """Return the id of the candidate at ``row``."""
        return key_id(int(self._numbers[row]))

    def candidate_row(self, id_: str) -> int:
        """Return the row of a candidate.

        Raises:
            DataError: If there is no such candidate.
        """
        if not self.has_candidate(id_):
            raise DataError(f"{self.root}: has no candidate {id_!r}; pack the data set that has it")
        ids, rows = self._lookup
        return int(rows[np.searchsorted(ids, id_key(id_))])

    def has_candidate(self, id_: str) -> bool:
        """Return whether there is a candidate of an id."""
        ids, _ = self._lookup
        place = int(np.searchsorted(ids, key := id_key(id_)))
        return place < len(ids) and bool(ids[place] == key)

    def candidate(self, row: int) -> Candidate:
        """Read a candidate and decode its image.

        Raises:
            DataError: If a shard is damaged.
        """
        text = self.candidate_record(row).text
        image = self.image(int(self.candidate_images[row]))
        return Candidate(Content(text, image, self.max_text_tokens))

    def candidate_record(self, row: int) -> CandidateRecord:
        """Read a candidate without its image.

        Raises:
            DataError: If a shard is damaged.
        """
        fields = json.loads(self._candidates.read(row))
        return CandidateRecord(fields["id"], fields["text"], fields["image"], Modality(fields["modality"]))

    def image(self, row: int) -> Image.Image | None:
        """Decode the image at a row of the image table; ``None`` for row -1.

        Raises:
            DataError: If a shard is damaged.
        """
        if row < 0:
            return None
        latest = self._latest
        if latest is None or latest[0] != row:
            latest = self._latest = (row, decode_image(self._images.read(row)))
        return latest[1].copy()  # the caller may change it

    def queries(self, split: str) -> QuerySet:
        """Return the queries of a split.

        Raises:
            DataError: If the split has none.
        """
        return QuerySet(self, split)

    def table(self, name: str) -> ShardTable:
        """Open the shards under ``candidates``, ``images`` or ``queries/<split>``."""
        return ShardTable(self.root / name, [shard["name"] for shard in self.manifest["shards"][name]])

    def array(self, name: str) -> Column:
        """Map an array file of the packed folder.

        Raises:
            DataError: If the file is missing or damaged.
        """
        path = self.root / name
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read ({error}); pack the data again") from None

    @cached_property
    def _candidates(self) -> ShardTable:
        return self.table("candidates")

    @cached_property
    def _images(self) -> ShardTable:
        return self.table("images")

    @cached_property
    def _numbers(self) -> Ints:
        return self._candidates.column("id", np.int64)

    @cached_property
    def candidate_images(self) -> Ints:
        """Row of each candidate's picture, the same iff their bytes are equal; -1 without one, ``(N,)``."""
        return self._candidates.column("image", np.int64)

    @cached_property
    def _lookup(self) -> tuple[Ints, Ints]:
        rows = np.argsort(self._numbers, kind="stable")
        return self._numbers[rows], rows


class QuerySet:
    """The queries of one split, by row.

    Args:
        corpus: The packed data set.
        split: One of its splits.

    Raises:
        DataError: If the split has no queries.
    """

    def __init__(self, corpus: PackedCorpus, split: str) -> None:
        if split not in corpus.splits:
            raise DataError(
                f"{corpus.root}: has no queries of split {split!r}; there are {', '.join(corpus.splits)}"
            )
        self.corpus = corpus
        self.split = split
        self.tasks: tuple[str, ...] = tuple(corpus.manifest["tasks"][split])

    def __getstate__(self) -> dict[str, Any]:
        return {"corpus": self.corpus, "split": self.split, "tasks": self.tasks}

    def __len__(self) -> int:
        return len(self._table)

    @cached_property
    def ids(self) -> npt.NDArray[np.str_]:
        """Ids of all queries, ``(N,)``."""
        return self._table.ids.astype(str)

    @cached_property
    def task_of(self) -> npt.NDArray[np.int32]:
        """Position in :attr:`tasks` of each query's task, ``(N,)``."""
        return self._table.column("task", np.int32)

    @property
    def task_sources(self) -> tuple[str, ...]:
        """What each of :attr:`tasks` is from, as "text", where kinds of data are joined; else empty."""
        return ("",) * len(self.tasks)

    @cached_property
    def modalities(self) -> Codes:
        """Modality codes of the queries, ``(N,)``."""
        return self._table.column("modality", np.uint8)

    @cached_property
    def target_modality(self) -> Codes:
        """Modality code of each query's first positive, ``(N,)``."""
        return self._table.column("target", np.uint8)

    @cached_property
    def keys(self) -> Ints:
        """Content keys of the queries, ``(N,)``, comparable with the candidates' keys."""
        return self._table.column("key", np.int64)

    @cached_property
    def own_text_keys(self) -> Ints:
        """Content key of each query that is text, asks for text and is a candidate too, else 0, ``(N,)``."""
        text = Modality.TEXT.code
        asks_for_text = (self.modalities == text) & (self.target_modality == text)
        there = asks_for_text & np.isin(self.keys, self.corpus.candidate_keys)
        return np.where(there, self.keys, 0)

    @cached_property
    def copies(self) -> npt.NDArray[np.int32]:
        """How often each query stands in the source, ``(N,)``: once except in an up-sampled mixture."""
        return self._array("copies")

    @property
    def sizes(self) -> Ints:
        """Bytes of the queries' records, ``(N,)``: how long their texts are, without reading them."""
        return _sizes(self._table)

    def instructions(self, row: int) -> tuple[str, ...]:
        """Return the instructions that a query can be asked with, without reading its record."""
        modality, target = MODALITIES[self.modalities[row]], MODALITIES[self.target_modality[row]]
        return self.corpus.prompts[dataset_id(str(self.ids[row])), modality, target]

    def positives(self, row: int) -> Ints:
        """Return the candidate rows of a query's known positives."""
        return self._positives[self._starts[row] : self._starts[row + 1]]

    def negatives(self, row: int) -> Ints:
        """Return the candidate rows that the data set itself gives as a query's negatives.

        Raises:
            DataError: If a shard is damaged.
        """
        given = json.loads(self._table.read(row))["negatives"]
        return np.array([self.corpus.candidate_row(id_) for id_ in given], np.int64)

    def grades(self, row: int) -> Ints:
        """Return how relevant each of :meth:`positives` is, at least 1."""
        place = slice(int(self._starts[row]), int(self._starts[row + 1]))
        if self._grades is None:
            return np.ones(place.stop - place.start, np.int64)
        return self._grades[place].astype(np.int64)

    def listed(self, name: Literal["group", "excluded"], row: int) -> Ints:
        """Return the candidate rows of a query's group, or of what is left out of its ranking.

        Args:
            name: ``group``: what a subset measure ranks among; ``excluded``: what the benchmark's own
                evaluation leaves out.
            row: Of the query.
        """
        if not self.lists(name):
            return np.empty(0, np.int64)
        rows, starts = self._listed[name]
        return rows[starts[row] : starts[row + 1]]

    def lists(self, name: Literal["group", "excluded"]) -> bool:
        """Whether any query of the split has such a list."""
        return self._has(name)

    def record(self, row: int) -> QueryRecord:
        """Read a query without its image.

        Raises:
            DataError: If a shard is damaged.
        """
        fields = json.loads(self._table.read(row))
        return QueryRecord(
            id=fields["id"],
            text=fields["text"],
            image=fields["image"],
            modality=Modality(fields["modality"]),
            positives=tuple(fields["positives"]),
            negatives=tuple(fields["negatives"]),
            dataset=fields["dataset"],
            task_id=fields["task_id"],
            instructions=tuple(self.corpus.manifest["instructions"][fields["instruction"]]["prompts"]),
            grades=self._uneven_grades(row),
            group=tuple(self.corpus.candidate_id(int(member)) for member in self.listed("group", row)),
            excluded=tuple(self.corpus.candidate_id(int(other)) for other in self.listed("excluded", row)),
        )

    def content(self, row: int) -> Content:
        """Read a query's text and decode its image.

        Raises:
            DataError: If a shard is damaged.
        """
        return self._content(row, json.loads(self._table.read(row)))

    def query(self, row: int, instruction: str | None) -> Query:
        """Read a query, to be asked with ``instruction``.

        Raises:
            DataError: If a shard is damaged.
        """
        return Query(self.content(row), instruction)

    def asked(self, row: int, instruction: int) -> Query:
        """Read a query, to be asked with the instruction at a position in :meth:`instructions`.

        Raises:
            DataError: If a shard is damaged.
        """
        fields = json.loads(self._table.read(row))
        prompts = self.corpus.manifest["instructions"][fields["instruction"]]["prompts"]
        return Query(self._content(row, fields), prompts[instruction])

    def local_pool(self, task: str) -> str | None:
        """Return the name of a task's own pool, or ``None`` if the data set has none for it."""
        names = (f"local_{task}_{self.split}", f"local_{task}")
        return next((name for name in names if name in self.corpus.pools), None)

    @cached_property
    def _table(self) -> ShardTable:
        return self.corpus.table(f"queries/{self.split}")

    @cached_property
    def images(self) -> Ints:
        """Row of each query's picture, as :attr:`PackedCorpus.candidate_images`, ``(N,)``."""
        return self._table.column("image", np.int64)

    @cached_property
    def _starts(self) -> Ints:
        return self._array("positive_starts")

    @cached_property
    def _positives(self) -> Ints:
        return self._array("positives")

    def _content(self, row: int, fields: Mapping[str, Any]) -> Content:
        image = self.corpus.image(int(self.images[row]))
        return Content(fields["text"], image, self.corpus.max_text_tokens)

    def _uneven_grades(self, row: int) -> tuple[int, ...]:
        grades = tuple(self.grades(row).tolist())
        return grades if {*grades} != {1} else ()

    @cached_property
    def _grades(self) -> Column | None:
        return self._array("grades") if self._has("grades") else None

    @cached_property
    def _listed(self) -> dict[str, tuple[Ints, Ints]]:
        there = [name for name in ("group", "excluded") if self._has(name)]
        return {name: (self._array(name), self._array(f"{name}_starts")) for name in there}

    def _has(self, name: str) -> bool:
        return f"queries/{self.split}/{name}.npy" in self.corpus.manifest["arrays"]

    def _array(self, name: str) -> Column:
        return self.corpus.array(f"queries/{self.split}/{name}.npy")


def _sizes(table: ShardTable) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *(shard.index.sizes for shard in table.shards)])
