"""What every index over candidate vectors offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mmretrieval.index.files import sync, write_manifest
from mmretrieval.index.labels import LABEL_LIMIT, LabelSet

FloatMatrix = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
Scores = NDArray[np.float32]
Groups = frozenset[int] | None
"""Which groups to search in; ``None`` for all."""

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
NO_LABEL = -1
EXHAUSTIVE = "exhaustive"
FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


class Vectors(Protocol):
    """A matrix of which only slices of rows are read: an array, a memory-mapped file, a stored shard."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what slices yield."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


class Searchable(Protocol):
    """Finds labels of vectors, wherever these are; every :class:`VectorIndex` does."""

    def search(
        self, queries: FloatMatrix, k: int, groups: Iterable[int] | None = None
    ) -> tuple[Scores, Labels]:
        """Return what :meth:`VectorIndex.search` does."""


class VectorIndex(ABC):
    """Finds the stored vectors with the largest inner product; knows labels, groups and vectors only.

    A label names a vector in results and decides between equal scores, the smaller one first. A group, for us
    the modality, is what a search can be restricted to.
    """

    settings: ClassVar[tuple[str, ...]]
    """Attributes that are arguments of the constructor, all but those that say where and by whom is searched;
    saved with the index."""
    device: Any

    def __init__(self) -> None:
        self._dim: int | None = None
        self._labels = LabelSet()
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; ``None`` before the first call of :meth:`add`."""
        return self._dim

    @property
    @abstractmethod
    def method(self) -> str:
        """How vectors are found, for stamps of results: the same for indexes that find the same ones.

        :data:`EXHAUSTIVE` for those that score all vectors, whatever scores that differ by the rounding of
        float32 may change.
        """

    @property
    def counts(self) -> Mapping[int, int]:
        """How many vectors each group has."""
        return dict(self._counts)

    def add(self, vectors: Vectors, labels: NDArray[np.integer[Any]] | None = None, group: int = 0) -> None:
        """Store vectors of one group beside those already there.

        Args:
            vectors: Finite float16, float32 or float64 numbers: an array, possibly memory-mapped, or anything
                else with ``ndim``, ``shape``, ``dtype`` and slices of rows. An index may keep a reference and
                read slices when it searches: do not change them afterwards.
            labels: What :meth:`search` returns for each vector, from 0 to 2**31 - 1, different from each
                other and from all labels that the index has; by default positions in the order of adding.
            group: The vectors' group, at least 0.

        Shape:
            - vectors: ``(N, D)``, labels: ``(N,)``.

        Raises:
            ValueError: If a shape, a type, a label or the group does not fit.
        """
        self._check(vectors, "vectors")
        if group < 0:
            raise ValueError(f"group must not be negative, found {group}.")
        count = vectors.shape[0]
        own = self._own_labels(labels, count)
        self._labels.add(own)
        if self._dim is None:
            self._dim = vectors.shape[1]
        if count:
            self._append(vectors, own, int(group))
            self._counts[int(group)] = self._counts.get(int(group), 0) + count

    def search(
        self, queries: FloatMatrix, k: int, groups: Iterable[int] | None = None
    ) -> tuple[Scores, Labels]:
        """Return the labels of the ``k`` best vectors of each query with their scores.

        Args:
            queries: Finite float16, float32 or float64 numbers.
            k: How many vectors to return, at least 1.
            groups: Groups to search in, one or more of them possibly without vectors; all by default.

        Returns:
            Scores and labels, best first, equal scores by ascending label. Where these groups hold fewer than
            ``k`` vectors, the rest is score ``-inf`` and label -1.

        Shape:
            - queries: ``(Q, D)``, output: ``(Q, k)`` float32 and ``(Q, k)`` int64.

        Raises:
            ValueError: If ``k`` is not positive, shapes do not fit, or a number is not finite.
        """
        self._check(queries, "queries")
        if k < 1:
            raise ValueError(f"k must be at least 1, found {k}.")
        scores = np.full((queries.shape[0], k), -np.inf, dtype=np.float32)
        labels = np.full((queries.shape[0], k), NO_LABEL, dtype=np.int64)
        asked = None if groups is None else frozenset(int(group) for group in groups)
        there = sum(count for group, count in self._counts.items() if asked is None or group in asked)
        found = min(k, there)
        if found and queries.shape[0]:
            scores[:, :found], labels[:, :found] = self._search(queries, found, asked)
        return scores, labels

    def save(self, folder: Path) -> None:
        """Write the index into a folder, which is there completely or not at all.

        :func:`~mmretrieval.index.loading.load_index` reads it.

        Args:
            folder: Where to write; it must not exist.

        Raises:
            FileExistsError: If the folder exists.
        """
        if folder.exists():
            raise FileExistsError(f"{folder} exists: choose another place, or remove it first.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent) as staged:
            place = Path(staged) / folder.name
            place.mkdir()
            self._write(place)
            write_manifest(place / MANIFEST, self._facts())
            place.rename(folder)
        sync(folder.parent)

    def _facts(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "class": type(self).__name__,
            "settings": {name: getattr(self, name) for name in self.settings},
            "dim": self._dim,
            "counts": {str(group): count for group, count in self._counts.items()},
        }

    @abstractmethod
    def _append(self, vectors: Vectors, labels: Labels, group: int) -> None:
        """Store at least one vector; shapes, types and labels are checked."""

    @abstractmethod
    def _search(self, queries: FloatMatrix, k: int, groups: Groups) -> tuple[Scores, Labels]:
        """Search at least one checked query for at least one and at most all vectors of the groups."""

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Write what was added into an empty folder."""

    @abstractmethod
    def _read(self, folder: Path, dim: int, counts: Mapping[int, int]) -> None:
        """Take what :meth:`_write` wrote into this empty index; ``ValueError`` if it does not fit."""

    def _own_labels(self, labels: NDArray[np.integer[Any]] | None, count: int) -> Labels:
        if labels is None:
            return np.arange(len(self), len(self) + count, dtype=np.int64)
        given = np.asarray(labels)
        if given.shape != (count,) or given.dtype.kind not in "iu":
            raise ValueError(
                f"labels must be {count} integers, one per vector, "
                f"found {given.dtype} of shape {given.shape}."
            )
        if given.dtype.kind == "u" and count and int(given.max()) >= LABEL_LIMIT:
            raise ValueError(f"Labels must be from 0 to {LABEL_LIMIT - 1}, found {given.max()}.")
        return given.astype(np.int64)  # a copy: the caller may change the array

    def _check(self, matrix: Vectors, name: str) -> None:
        if matrix.ndim != 2 or not matrix.shape[1] or matrix.dtype not in FLOATS:
            raise ValueError(
                f"{name} must be a (count, dimension) matrix of float16, float32 or float64, "
                f"found {matrix.dtype} of shape {matrix.shape}."
            )
        if self._dim is not None and matrix.shape[1] != self._dim:
            raise ValueError(f"The index holds {self._dim}-d vectors, {name} are {matrix.shape[1]}-d.")
