"""The stamped file of mined negatives: what training reads after a mining round."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmretrieval.mining.mined import MinedNegatives, NegativeKind
from mmretrieval.mining.stamp import DamagedNegativesError, ExpectedStamp, Stamp, parsed_stamp, stamp_array

_DTYPES = {
    "query_ids": "S",
    "offsets": "i",
    "candidate_ids": "S",
    "kinds": "u",
    "ranks": "i",
    "scores": "f",
    "stamp": "U",
}


@dataclass(frozen=True, slots=True)
class MinedNegative:
    """One mined negative of a query.

    Args:
        candidate_id: The candidate's id.
        kind: Why it was taken.
        rank: Its rank in the search that found it, from 1.
        score: Its score there.
    """

    candidate_id: str
    kind: NegativeKind
    rank: int
    score: float


class NegativeTable:
    """Mined negatives by query id, held as a few arrays, so that it is cheap to copy into workers.

    Args:
        stamp: What the negatives were mined from.
        query_ids: Ids of all queries that were mined for, unique, without NUL characters.
        counts: How many negatives each query has; 0 is allowed.
        candidate_ids: Ids of the negatives, one query after the other, without NUL characters.
        kinds: :class:`~mmretrieval.mining.mined.NegativeKind` code of each negative.
        ranks: Rank of each negative, from 1.
        scores: Search score of each negative.

    Shape:
        - query_ids, counts: ``Q`` entries; candidate_ids, kinds, ranks, scores: as many as ``counts`` sums
          to.

    Raises:
        ValueError: If lengths do not fit, an id is there twice or holds a NUL character, or a kind is
        unknown.
    """

    def __init__(
        self,
        stamp: Stamp,
        query_ids: Sequence[str],
        counts: NDArray[np.integer],
        candidate_ids: Sequence[str],
        kinds: NDArray[np.integer],
        ranks: NDArray[np.integer],
        scores: NDArray[np.floating[Any]],
    ) -> None:
        if len(counts) != len(query_ids):
            raise ValueError(f"{len(query_ids)} query ids need as many counts, found {len(counts)}.")
        ids = _encoded(query_ids, "query")
        order = np.argsort(ids, kind="stable")
        starts = np.cumsum(counts) - counts
        entries = _ranges(starts[order], np.asarray(counts)[order])
        lengths = {len(candidate_ids), len(kinds), len(ranks), len(scores)}
        if lengths != {entries.size}:
            raise ValueError(f"The counts sum to {entries.size} negatives, found {sorted(lengths)} of them.")
        self.stamp = stamp
        self._arrays: dict[str, NDArray[Any]] = {
            "query_ids": ids[order],
            "offsets": np.concatenate([[0], np.cumsum(np.asarray(counts)[order])]).astype(np.int64),
            "candidate_ids": _encoded(candidate_ids, "candidate")[entries],
            "kinds": np.asarray(kinds, dtype=np.uint8)[entries],
            "ranks": np.asarray(ranks, dtype=np.int32)[entries],
            "scores": np.asarray(scores, dtype=np.float32)[entries],
        }
        _check_arrays(self._arrays)

    @classmethod
    def from_mined(
        cls, stamp: Stamp, query_ids: Sequence[str], mined: MinedNegatives, candidate_id: Callable[[int], str]
    ) -> Self:
        """Build the table from what mining returned.

        Args:
            stamp: What the negatives were mined from.
            query_ids: The id of each row of ``mined``.
            mined: The negatives.
            candidate_id: Gives a candidate row's id.
        """
        there = mined.rows >= 0
        return cls(
            stamp,
            query_ids,
            there.sum(axis=1),
            [candidate_id(int(row)) for row in mined.rows[there]],
            mined.kinds[there],
            mined.ranks[there],
            mined.scores[there],
        )

    def __len__(self) -> int:
        return int(self._arrays["query_ids"].size)

    def __contains__(self, query_id: object) -> bool:
        return isinstance(query_id, str) and self._position(query_id) is not None

    def negatives_of(self, query_id: str) -> tuple[str, ...]:
        """Candidate ids of a query's negatives in the order of the draws, often one, possibly none.

        Raises:
            KeyError: If the query was not mined for.
        """
        return tuple(
            identifier.decode() for identifier in self._arrays["candidate_ids"][self._span(query_id)]
        )

    def entries_of(self, query_id: str) -> tuple[MinedNegative, ...]:
        """A query's negatives with kind, rank and score, in the order of the draws.

        Raises:
            KeyError: If the query was not mined for.
        """
        span = self._span(query_id)
        columns = (self._arrays[name][span] for name in ("candidate_ids", "kinds", "ranks", "scores"))
        return tuple(
            MinedNegative(identifier.decode(), NegativeKind(kind), int(rank), float(score))
            for identifier, kind, rank, score in zip(*columns, strict=True)
        )

    def kind_counts(self) -> dict[NegativeKind, int]:
        """How many negatives of each kind there are."""
        kinds = self._arrays["kinds"]
        return {kind: int((kinds == kind).sum()) for kind in NegativeKind if kind != NegativeKind.NONE}

    def save(self, path: Path) -> str:
        """Write the file so that it is there completely or not at all.

        Args:
            path: Where to write; an existing file is replaced.

        Returns:
            The file's BLAKE2b hash, for the checkpoint of the run that uses it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with staged.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, stamp=stamp_array(self.stamp), **self._arrays)
                file.flush()
                os.fsync(file.fileno())
            digest = file_hash(staged)
            staged.replace(path)
            _sync_folder(path.parent)
        finally:
            staged.unlink(missing_ok=True)
        return digest

    @classmethod
    def load(cls, path: Path, expected: ExpectedStamp) -> Self:
        """Read a file and make sure that it belongs to what is trained.

        Args:
            path: A file that :meth:`save` wrote.
            expected: What the negatives must have been mined from.

        Raises:
            FileNotFoundError: If there is no such file.
            StaleNegativesError: If the negatives were mined from something else.
            DamagedNegativesError: If the file is truncated, changed, or of another format.
        """
        arrays = _read(path)
        stamp = parsed_stamp(arrays.pop("stamp"), path)
        expected.check(stamp, path)
        try:
            _check_arrays(arrays)
        except ValueError as error:
            raise DamagedNegativesError(f"{path} contradicts itself: {error} Mine again.") from error
        return cls._of(stamp, arrays)

    @property
    def query_ids(self) -> NDArray[np.bytes_]:
        """UTF-8 ids of all queries that were mined for, sorted, ``(Q,)``."""
        return self._arrays["query_ids"]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many negatives each of :attr:`query_ids` has, ``(Q,)``."""
        return np.diff(self._arrays["offsets"])

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """``candidate_ids`` (UTF-8), ``kinds``, ``ranks`` and ``scores``, one query after the other."""
        return {name: self._arrays[name] for name in ("candidate_ids", "kinds", "ranks", "scores")}

    def with_columns(
        self, stamp: Stamp, counts: NDArray[np.integer], columns: Mapping[str, NDArray[Any]]
    ) -> Self:
        """A table of the same queries with other negatives.

        Args:
            stamp: What these were mined from.
            counts: As :attr:`counts`.
            columns: As :attr:`columns`.

        Raises:
            ValueError: If lengths do not fit or a kind is unknown.
        """
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        arrays = {"query_ids": self.query_ids, "offsets": offsets, **columns}
        _check_arrays(arrays)
        return self._of(stamp, arrays)

    @classmethod
    def _of(cls, stamp: Stamp, arrays: dict[str, NDArray[Any]]) -> Self:
        """The table of arrays that were checked."""
        table = cls.__new__(cls)
        table.stamp, table._arrays = stamp, arrays
        return table

    def _span(self, query_id: str) -> slice:
        position = self._position(query_id)
        if position is None:
            raise KeyError(f"Query {query_id!r} is not among the {len(self)} that were mined for.")
        return slice(*self._arrays["offsets"][position : position + 2].tolist())

    def _position(self, query_id: str) -> int | None:
        wanted, ids = query_id.encode(), self._arrays["query_ids"]
        # A longer key would make numpy widen, so copy, the whole array; NUL bytes at its end would be lost.
        if len(wanted) > ids.itemsize or b"\0" in wanted:
            return None
        position = int(np.searchsorted(ids, np.bytes_(wanted)))
        return position if position < ids.size and ids[position] == wanted else None


def file_hash(path: Path) -> str:
    """The BLAKE2b hash of a file's bytes, 32 hexadecimal digits.

    Args:
        path: Any file.
    """
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _encoded(ids: Sequence[str], what: str) -> NDArray[np.bytes_]:
    """UTF-8 bytes of fixed width; numpy drops NUL bytes at the end, so none may be there."""
    for identifier in ids:
        if "\0" in identifier:
            raise ValueError(f"The {what} id {identifier!r} holds a NUL character: rename it.")
    return np.array([identifier.encode() for identifier in ids], dtype=np.bytes_)


def _ranges(starts: NDArray[np.integer], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """The concatenation of ``range(start, start + count)``."""
    shifts = starts - (np.cumsum(counts) - counts)
    entries: NDArray[np.int64] = np.arange(int(counts.sum()), dtype=np.int64) + np.repeat(shifts, counts)
    return entries


def _check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays on which a look-up could go wrong."""
    ids, offsets, kinds = arrays["query_ids"], arrays["offsets"], arrays["kinds"]
    if any(array.ndim != 1 for array in arrays.values()):
        raise ValueError("An array is not one-dimensional.")
    repeated = np.flatnonzero(ids[1:] <= ids[:-1])
    if repeated.size:
        raise ValueError(f"Query id {ids[repeated[0] + 1].decode(errors='replace')!r} is there twice.")
    entries = {arrays[name].size for name in ("candidate_ids", "kinds", "ranks", "scores")}
    steps_back = offsets.size != ids.size + 1 or bool((np.diff(offsets) < 0).any())
    if steps_back or offsets[0] != 0 or entries != {int(offsets[-1])}:
        raise ValueError("Offsets do not fit the ids.")
    if not np.isin(kinds, [kind for kind in NegativeKind if kind != NegativeKind.NONE]).all():
        raise ValueError("A negative is of unknown kind.")


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of the file, each read to its end, where the zip reader compares its CRC."""
    advice = "It was not written completely or was changed since: mine again."
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        arrays = {
            name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(member), allow_pickle=False)
            for name, member in members.items()
        }
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise DamagedNegativesError(f"{path} cannot be read: {error}. {advice}") from error
    if arrays.keys() != _DTYPES.keys():
        raise DamagedNegativesError(f"{path} holds {sorted(arrays)}, no mined negatives. {advice}")
    wrong = [name for name, kind in _DTYPES.items() if arrays[name].dtype.kind != kind]
    if wrong:
        raise DamagedNegativesError(f"{path}: {', '.join(wrong)} hold values of another type. {advice}")
    return arrays


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
