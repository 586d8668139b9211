"""WebDataset shards with a checksummed offset index: write, stream, and read one sample by row.

A shard is an ordinary tar that webdataset reads, with one member per sample. Beside ``000000.tar`` lies
``000000.index.npz``: for each sample its key, the offset and size of its bytes, and a checksum; and columns
of facts that are wanted for all samples at once. webdataset loses samples of a damaged tar without a word;
here every read is checked against the index.
"""

from __future__ import annotations

import mmap
import re
import zipfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from data_modules.formats.records import DataError

BLOCK = 512
"""Bytes of a tar header; members start at multiples of it."""

Ints = npt.NDArray[np.int64]
Column = npt.NDArray[Any]
Codes = npt.NDArray[np.uint8]
"""Of modalities."""

_KEY = re.compile(r"[A-Za-z0-9:_-]{1,80}")  # no dot: webdataset cuts the key at the first one
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_COLUMN = "column."
_ARRAYS = ("ids", "offsets", "sizes", "checksums")


class UnsafeShardError(DataError):
    """A shard name that is a command or an address instead of a file."""


def checksum(data: bytes | memoryview) -> int:
    """Return the 64-bit BLAKE2b digest of ``data`` as an unsigned integer."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def file_digest(path: Path) -> str:
    """Return the 128-bit BLAKE2b digest of a file, in hex."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def local_shard(name: str | Path) -> Path:
    """Return ``name`` as a path if it names a local tar file.

    Raises:
        UnsafeShardError: For ``pipe:`` and other URLs, which webdataset hands to a shell or a downloader.
    """
    if _URL.match(str(name)):
        raise UnsafeShardError(
            f"shard {str(name)!r}: only local files are read, since webdataset runs 'pipe:' and other URLs "
            "as shell commands; copy the shard to a folder and give its path"
        )
    return Path(name)


def index_path(shard: Path) -> Path:
    """Return the path of a shard's index: ``000000.tar`` → ``000000.index.npz``."""
    return shard.with_suffix(".index.npz")


@dataclass(frozen=True)
class ShardIndex:
    """What is in a shard, by row.

    Args:
        ids: ``(N,)`` bytes, the samples' keys.
        offsets: ``(N,)`` where each member's bytes begin in the tar.
        sizes: ``(N,)`` how many bytes it has.
        checksums: ``(N,)`` uint64, see :func:`checksum`.
        tar_size: Bytes of the whole tar.
        columns: Further arrays of length N.
    """

    ids: npt.NDArray[np.bytes_]
    offsets: Ints
    sizes: Ints
    checksums: npt.NDArray[np.uint64]
    tar_size: int
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write the index as an ``.npz`` file whose bytes depend on its content only."""
        columns: dict[str, Any] = {_COLUMN + name: values for name, values in self.columns.items()}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in (*_ARRAYS, "tar_size")}
        with path.open("wb") as stream:
            np.savez(stream, **arrays, **columns)

    @classmethod
    def load(cls, path: Path) -> ShardIndex:
        """Read an index.

        Raises:
            DataError: If the file is missing, damaged, or not an index.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                columns = {n.removeprefix(_COLUMN): arrays[n] for n in arrays if n.startswith(_COLUMN)}
                facts = {name: arrays[name] for name in _ARRAYS}
                index = cls(**facts, tar_size=int(arrays["tar_size"]), columns=columns)
        except FileNotFoundError:
            raise DataError(f"{path}: the shard's index is missing; pack the data again") from None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: the shard's index is damaged ({error}); pack the data again") from None
        lengths = {len(values) for values in (index.offsets, index.sizes, index.checksums, *columns.values())}
        if lengths != {len(index)}:
            raise DataError(f"{path}: the index's columns differ in length; pack the data again")
        return index


class Shard:
    """One tar and its index; the tar is mapped into memory on first use, in each process on its own.

    Args:
        path: The tar; its index lies beside it.

    Raises:
        UnsafeShardError: If ``path`` is a ``pipe:`` or other URL.
        DataError: If the index is missing or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = local_shard(path)
        self.index = ShardIndex.load(index_path(self.path))
        self._bytes: mmap.mmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self.index = ShardIndex.load(index_path(self.path))
        self._bytes = None

    def __len__(self) -> int:
        return len(self.index)

    def key(self, row: int) -> str:
        """Return the key of the sample at ``row``."""
        return bytes(self.index.ids[row]).decode()

    def read(self, row: int) -> bytes:
        """Return the bytes of the sample at ``row``.

        Raises:
            DataError: If the tar is missing or truncated, or the bytes are not those that were written.
        """
        start = int(self.index.offsets[row])
        data = self._map()[start : start + int(self.index.sizes[row])]
        if checksum(data) != int(self.index.checksums[row]):
            raise DataError(
                f"{self.path}: sample {self.key(row)!r} is damaged (checksum differs); "
                "run 'mmretrieval data verify' on the packed folder, then pack it again"
            )
        return data

    def stream(self) -> Iterator[tuple[str, bytes]]:
        """Yield key and bytes of all samples in stored order, each one checked."""
        for row in range(len(self)):
            yield self.key(row), self.read(row)

    def _map(self) -> mmap.mmap:
        if self._bytes is None:
            try:
                with self.path.open("rb") as stream:
                    self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{self.path}: cannot open the shard ({error}); pack the data again"
                ) from None
            if len(self._bytes) != self.index.tar_size:  # reading beyond the end would kill the process
                found, self._bytes = len(self._bytes), None
                raise DataError(
                    f"{self.path}: has {found} bytes instead of {self.index.tar_size}; "
                    "run 'mmretrieval data verify' on the packed folder, then pack it again"
                )
        return self._bytes


class ShardTable:
    """The shards of a folder as one table; rows count through all of them.

    Args:
        folder: Where the shards lie.
        names: Their file names, in order.

    Raises:
        UnsafeShardError: If a name is a URL or leads out of the folder.
        DataError: If an index is missing or damaged.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        for name in names:
            if Path(local_shard(name)).name != name:
                raise UnsafeShardError(f"shard {name!r}: must be a file name inside {folder}")
        self.shards = [Shard(local_shard(folder) / name) for name in names]
        self._starts = np.cumsum([0, *(len(shard) for shard in self.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def ids(self) -> npt.NDArray[np.bytes_]:
        """Keys of all rows, ``(N,)`` bytes."""
        return np.concatenate([np.empty(0, "S1"), *(shard.index.ids for shard in self.shards)])

    @property
    def sizes(self) -> Ints:
        """Bytes of all rows, ``(N,)``."""
        return np.concatenate([np.empty(0, np.int64), *(shard.index.sizes for shard in self.shards)])

    def column(self, name: str, dtype: npt.DTypeLike) -> Column:
        """Return a column of all rows, ``(N,)``.

        Raises:
            DataError: If a shard lacks the column.
        """
        parts = [np.empty(0, dtype)]
        for shard in self.shards:
            if name not in shard.index.columns:
                raise DataError(f"{index_path(shard.path)}: has no column {name!r}; pack the data again")
            parts.append(shard.index.columns[name])
        return np.concatenate(parts).astype(dtype, copy=False)

    def read(self, row: int) -> bytes:
        """Return the checked bytes at ``row``.

        Raises:
            IndexError: If there is no such row.
            DataError: If the shard is damaged.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.shards[number].read(row - int(self._starts[number]))


class ShardWriter:
    """Writes numbered shards and their indexes into a folder; the same samples give the same bytes.

    Args:
        folder: Where to write; created if needed.
        columns: Names and dtypes of the index's further columns.
        max_shard_bytes: A new shard begins once this many bytes are in one.
    """

    def __init__(self, folder: Path, columns: Mapping[str, str], *, max_shard_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.names: list[str] = []
        self._dtypes = dict(columns)
        self._max_bytes = max_shard_bytes
        self._stream: BinaryIO | None = None
        self._rows = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        elif self._stream is not None:
            self._tar.close()
            self._stream.close()

    def write(self, key: str, extension: str, data: bytes, columns: Mapping[str, int]) -> int:
        """Append a sample of one member ``<key>.<extension>`` and return its row in the table.

        Raises:
            DataError: If the key could not be read back by webdataset.
            ValueError: If the columns are not those announced.
        """
        if not _KEY.fullmatch(key):
            raise DataError(
                f"{self.folder}: key {key!r} cannot name a sample; use letters, digits, ':', '_', '-'"
            )
        if columns.keys() != self._dtypes.keys():
            raise ValueError(f"columns {sorted(columns)} given, {sorted(self._dtypes)} announced")
        if self._stream is None or self._offset >= self._max_bytes:
            self._finish()
            self._begin()
        self._tar.write({"__key__": key, extension: data})
        self._keys.append(key)
        self._facts.extend((self._offset + BLOCK, len(data)))
        self._checksums.append(checksum(data))
        for name, value in columns.items():
            self._columns[name].append(value)
        self._offset += BLOCK + -(-len(data) // BLOCK) * BLOCK
        self._rows += 1
        return self._rows - 1

    def _begin(self) -> None:
        import webdataset  # imports torch: only writing needs it

        self.names.append(f"{len(self.names):06d}.tar")
        self._stream = (self.folder / self.names[-1]).open("wb")
        # A fixed time, owner and format make the bytes depend on the samples only.
        self._tar = webdataset.TarWriter(self._stream, encoder=False, mtime=0, user="", group="", mode=0o644)
        self._offset = 0
        self._keys: list[str] = []
        self._facts = array("q")
        self._checksums = array("Q")
        self._columns = {name: array("q") for name in self._dtypes}

    def _finish(self) -> None:
        if self._stream is None:
            return
        self._tar.close()
        size = self._stream.tell()
        self._stream.close()
        self._stream = None
        facts = np.array(self._facts, np.int64).reshape(-1, 2)
        columns = {n: np.array(v, np.int64).astype(self._dtypes[n]) for n, v in self._columns.items()}
        index = ShardIndex(
            ids=np.array(self._keys, "S"),
            offsets=facts[:, 0].copy(),
            sizes=facts[:, 1].copy(),
            checksums=np.array(self._checksums, np.uint64),
            tar_size=size,
            columns=columns,
        )
        index.save(index_path(self.folder / self.names[-1]))
