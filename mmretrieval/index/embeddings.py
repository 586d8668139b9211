"""Embeddings of a table in a folder, written shard by shard by any number of processes."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmretrieval.errors import UserError
from mmretrieval.index.files import StoredVectors, read_manifest, write_manifest
from mmretrieval.index.shards import (
    FORMAT_VERSION,
    STORED,
    DamagedEmbeddingsError,
    Rows,
    Shard,
    read_shard,
    write_shard,
)

__all__ = ["DamagedEmbeddingsError", "EmbeddingStore", "StaleEmbeddingsError", "StoredPart"]

MANIFEST = "manifest.json"
_SUFFIX = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ABANDONED_AFTER = 3600.0  # seconds; writing a shard takes much less
_NAMED = 5


class StaleEmbeddingsError(UserError):
    """Embeddings belong to other weights or another table, or are kept in another way."""


class StoredPart(NamedTuple):
    """Embeddings of one modality in one shard, as :meth:`VectorIndex.add` takes them.

    Args:
        vectors: The embeddings, read when sliced, ``(n, D)``.
        rows: Row of each in its table, ``(n,)``.
        modality: Their modality code.
    """

    vectors: StoredVectors
    rows: Rows
    modality: int


class _Catalogue:
    """Where each row is."""

    def __init__(self, shards: list[Shard]) -> None:
        self.shards = shards
        rows = np.concatenate([np.zeros(0, np.int64), *(shard.rows for shard in shards)])
        numbers = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
        places = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(shard)) for shard in shards)])
        # Where two shards have a row, the first one's is taken.
        self.rows, first = np.unique(rows, return_index=True)
        self.numbers, self.places = numbers[first].astype(np.int32), places[first]

    def find(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The entry of each row, and whether it is there."""
        if not self.rows.size:
            return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
        entries = np.minimum(np.searchsorted(self.rows, rows), self.rows.size - 1)
        return entries, self.rows[entries] == rows


class EmbeddingStore:
    """A folder of embeddings with a stamp that says what they were made of.

    Each shard is a safetensors file with ``vectors``, ``rows``, ``modalities`` and ``ids``; it is there
    completely or not at all. Other processes may add shards at any time: each method sees what was complete
    when it was called. A row that two shards have counts once; the shard that comes first by name has it.

    Made by :meth:`create_or_open` or :meth:`open`.

    Args:
        folder: The folder.
        stamp: What the embeddings were made of.
        dtype: How they are kept: ``float16``, ``bfloat16`` or ``float32``.
        dim: Their dimension, ``None`` if nobody knows yet.
    """

    def __init__(self, folder: Path, stamp: Mapping[str, str], dtype: str, dim: int | None) -> None:
        self.folder, self.stamp, self.dtype, self._dim = folder, dict(stamp), dtype, dim
        self._seal = json.dumps(self.stamp, sort_keys=True)
        self._shards: dict[str, Shard] = {}
        self._known: _Catalogue | None = None

    @classmethod
    def create_or_open(
        cls, folder: Path, stamp: Mapping[str, str], dtype: str = "float32", dim: int | None = None
    ) -> Self:
        """Open a store, or create it if there is none; what killed processes left behind is removed.

        Args:
            folder: The store's folder.
            stamp: What the embeddings are made of, as hashes of weights and contents.
            dtype: How to keep them: ``float16``, ``bfloat16`` or ``float32``.
            dim: Their dimension; by default that of the first shard.

        Raises:
            ValueError: If ``dtype`` is unknown.
            StaleEmbeddingsError: If the folder has embeddings of something else; all differences are named.
            DamagedEmbeddingsError: If the manifest is not readable.
        """
        if dtype not in STORED:
            raise ValueError(f"dtype must be one of {', '.join(STORED)}, found {dtype!r}.")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MANIFEST).exists():
            facts = {"format_version": FORMAT_VERSION, "stamp": dict(stamp), "dtype": dtype, "dim": dim}
            write_manifest(folder / MANIFEST, facts)
        _remove_abandoned(folder)
        store = cls.open(folder, stamp)
        expected = {"dtype": dtype, "dim": store._dim if dim is None else dim}
        _compare({"dtype": store.dtype, "dim": store._dim}, expected, folder)
        return store

    @classmethod
    def open(cls, folder: Path, stamp: Mapping[str, str] | None = None) -> Self:
        """Open a store.

        Args:
            folder: The store's folder.
            stamp: What its embeddings must have been made of; anything by default.

        Raises:
            FileNotFoundError: If there is no store.
            StaleEmbeddingsError: If it is of something else; all differences are named.
            DamagedEmbeddingsError: If the manifest is not readable.
        """
        facts = _manifest(folder / MANIFEST)
        if stamp is not None:
            _compare(facts["stamp"], stamp, folder)
        return cls(folder, facts["stamp"], facts["dtype"], facts["dim"])

    def __len__(self) -> int:
        return len(self._catalogue().rows)

    @property
    def dim(self) -> int | None:
        """Dimension of the embeddings, ``None`` if there is none yet."""
        self._refresh()
        return self._dim

    def write(
        self,
        name: str,
        rows: Rows,
        ids: list[str] | NDArray[np.bytes_],
        modalities: NDArray[np.integer[Any]],
        vectors: Tensor | NDArray[np.floating[Any]],
    ) -> None:
        """Add a shard; if one of this name is there already, it stays as it is.

        Args:
            name: The shard's name: letters, digits, ``.``, ``_`` and ``-``, the first one a letter or digit.
            rows: Row of each embedding in its table, different from each other.
            ids: Id of each one's content, without NUL characters.
            modalities: Modality code of each, from 0 to 255.
            vectors: The embeddings, finite numbers.

        Shape:
            - rows, modalities: ``(n,)``, ids: ``n`` of them, vectors: ``(n, D)``.

        Raises:
            ValueError: If the name or a shape does not fit, or an embedding is not finite as it is kept.
            DamagedEmbeddingsError: If there is a shard of this name that is not whole.
        """
        if not _NAME.fullmatch(name) or len(name) > 200:
            raise ValueError(f"{name!r} is no name for a shard: use letters, digits, '.', '_' and '-'.")
        path = self.folder / f"{name}{_SUFFIX}"
        if path.exists():
            self._checked(read_shard(path))
            return
        kept = torch.as_tensor(vectors).detach().cpu().to(STORED[self.dtype])
        if kept.ndim != 2 or self._dim not in (None, kept.shape[1]):
            raise ValueError(
                f"{self.folder} keeps {self._dim}-d vectors, found the shape {tuple(kept.shape)}."
            )
        finite = kept.isfinite().all(dim=1)
        if not bool(finite.all()):
            row = rows[int(finite.long().argmin())]
            raise ValueError(f"The embedding of row {row} is not finite as {self.dtype}.")
        write_shard(path, self._seal, rows, ids, modalities, kept)

    def shards(self) -> list[Shard]:
        """All shards that are complete now, by name.

        Raises:
            DamagedEmbeddingsError: If a file is not whole, or its vectors are of another type or dimension.
            StaleEmbeddingsError: If a file was made of something else.
        """
        self._refresh()
        return [self._shards[name] for name in sorted(self._shards)]

    def present(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows are there, ``(N,)``."""
        return self._catalogue().find(rows)[1]

    def vectors_of(self, rows: Rows) -> NDArray[np.float32]:
        """The embeddings of rows, in the order asked for.

        Args:
            rows: Rows of the table, possibly repeated, ``(N,)``.

        Returns:
            ``(N, D)``.

        Raises:
            ValueError: If a row is not there.
        """
        catalogue = self._catalogue()
        entries, numbers = self._entries(catalogue, rows), catalogue.numbers
        vectors = np.empty((len(rows), self._dim or 0), np.float32)
        order = np.lexsort((catalogue.places[entries], numbers[entries]))
        for number, asked in _runs(numbers[entries][order]):
            own = order[asked]
            vectors[own] = catalogue.shards[number].vectors_at(catalogue.places[entries[own]])[:]
        return vectors

    def parts(self, rows: Rows | None = None) -> Iterator[StoredPart]:
        """Embeddings in parts of one modality each, for an index.

        Args:
            rows: Which rows, different from each other; all by default.

        Raises:
            ValueError: If a row is not there, or there twice.
        """
        catalogue = self._catalogue()
        entries = np.arange(len(catalogue.rows)) if rows is None else np.sort(self._entries(catalogue, rows))
        if (entries[1:] == entries[:-1]).any():
            raise ValueError(
                f"Row {catalogue.rows[entries[1:][entries[1:] == entries[:-1]][0]]} is asked for twice."
            )
        entries = entries[np.lexsort((catalogue.places[entries], catalogue.numbers[entries]))]
        for number, own in _runs(catalogue.numbers[entries]):
            shard, places = catalogue.shards[number], catalogue.places[entries[own]]
            modalities = shard.modalities[places]
            for modality in np.unique(modalities):
                chosen = places[modalities == modality]
                yield StoredPart(shard.vectors_at(chosen), shard.rows[chosen], int(modality))

    def discard(self, shards: Iterable[Shard]) -> None:
        """Remove shards; rows that no other shard has are gone then."""
        for shard in shards:
            shard.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the store; if that is interrupted, what is left is a smaller store or none."""
        for path in self.folder.glob(f"*{_SUFFIX}"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._shards, self._known = {}, None

    def _entries(self, catalogue: _Catalogue, rows: Rows) -> NDArray[np.int64]:
        entries, there = catalogue.find(rows)
        if not there.all():
            missing = rows[~there]
            named = ", ".join(map(str, missing[:_NAMED].tolist()))
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            raise ValueError(f"{self.folder} has no embeddings of the rows {named}{more}.")
        return entries

    def _catalogue(self) -> _Catalogue:
        if self._refresh() or self._known is None:
            self._known = _Catalogue([self._shards[name] for name in sorted(self._shards)])
        return self._known

    def _refresh(self) -> bool:
        """Look for new shards; whether there are others than before."""
        names = {path.name for path in self.folder.glob(f"*{_SUFFIX}") if not path.name.startswith(".")}
        if names == self._shards.keys():
            return False
        known = {name: shard for name, shard in self._shards.items() if name in names}
        for name in sorted(names - known.keys()):
            known[name] = self._checked(read_shard(self.folder / name))
        self._shards, self._known = known, None
        return True

    def _checked(self, shard: Shard) -> Shard:
        if shard.stamp != self._seal:
            raise StaleEmbeddingsError(
                f"{shard.path} was made of {shard.stamp}, the store is of {self._seal}."
            )
        if shard.dtype != self.dtype or self._dim not in (None, shard.dim):
            raise DamagedEmbeddingsError(
                f"{shard.path} holds {shard.dim}-d {shard.dtype} vectors, "
                f"the store {self._dim}-d {self.dtype}."
            )
        self._dim = shard.dim
        return shard


def _runs(numbers: NDArray[np.integer[Any]]) -> Iterator[tuple[int, slice]]:
    """Each value of a sorted array with its places."""
    values, starts = np.unique(numbers, return_index=True)
    for value, start, stop in zip(values, starts, [*starts[1:], len(numbers)], strict=False):
        yield int(value), slice(int(start), int(stop))


def _manifest(path: Path) -> dict[str, Any]:
    try:
        facts = read_manifest(path)
    except ValueError as error:
        raise DamagedEmbeddingsError(
            f"{error} Remove the folder, and its embeddings are made again."
        ) from error
    version, stamp, dim = facts.get("format_version"), facts.get("stamp"), facts.get("dim")
    if version != FORMAT_VERSION:
        raise DamagedEmbeddingsError(f"{path} has the format version {version!r}, not {FORMAT_VERSION!r}.")
    texts = isinstance(stamp, dict) and all(isinstance(value, str) for value in stamp.values())
    sizes = dim is None or (isinstance(dim, int) and not isinstance(dim, bool) and dim > 0)
    if not texts or not sizes or facts.get("dtype") not in STORED:
        raise DamagedEmbeddingsError(f"{path} has no readable stamp, dtype or dim.")
    return {"stamp": stamp, "dtype": facts["dtype"], "dim": dim}


def _compare(found: Mapping[str, object], expected: Mapping[str, object], folder: Path) -> None:
    differing = [
        f"{name}: found {found.get(name)!r}, expected {expected.get(name)!r}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    if differing:
        raise StaleEmbeddingsError(
            f"The embeddings in {folder} are of something else. {'; '.join(differing)}. "
            "Remove the folder, or point to the one that belongs to these weights and this data."
        )


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed had not finished."""
    for path in folder.glob(".*.partial"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                path.unlink()
        except FileNotFoundError:
            continue  # finished, or removed by another process
