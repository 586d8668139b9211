"""One file of embeddings: what is in it, and whether it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmretrieval.errors import UserError
from mmretrieval.index.files import StoredVectors, read_layout, read_tensor, write_tensors

Rows = NDArray[np.int64]
Codes = NDArray[np.uint8]
FORMAT_VERSION = "1"
STORED = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""How embeddings can be kept."""
_TYPES = {"rows": "int64", "modalities": "uint8", "ids": "uint8"}


class DamagedEmbeddingsError(UserError):
    """A file of embeddings is not whole, or of another format."""


@dataclass(frozen=True)
class Shard:
    """A complete file of embeddings; the vectors and ids stay in it until they are asked for.

    Args:
        path: The file.
        rows: Row of each embedding in its table, ``(n,)``.
        modalities: Modality code of each, ``(n,)``.
        dim: Dimension of the embeddings.
        dtype: How they are kept.
        stamp: What they were made of.
    """

    path: Path
    rows: Rows
    modalities: Codes
    dim: int
    dtype: str
    stamp: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def vectors(self) -> StoredVectors:
        """All embeddings as float32, ``(n, D)``."""
        return self.vectors_at(np.arange(len(self)))

    def vectors_at(self, positions: Rows) -> StoredVectors:
        """Some embeddings as float32.

        Args:
            positions: Their positions in the file, ``(m,)``.
        """
        return StoredVectors(self.path, "vectors", self.dtype, self.dim, positions)

    def ids(self) -> list[str]:
        """Id of each embedding's content.

        Raises:
            DamagedEmbeddingsError: If one is no UTF-8.
        """
        matrix = read_tensor(self.path, "ids").numpy()
        try:
            return [row.tobytes().rstrip(b"\0").decode() for row in matrix]
        except UnicodeDecodeError as error:
            raise DamagedEmbeddingsError(f"{self.path} has an id that is no UTF-8: {error}.") from error


def write_shard(
    path: Path,
    stamp: str,
    rows: Rows,
    ids: Sequence[str] | NDArray[np.bytes_],
    modalities: NDArray[np.integer],
    vectors: Tensor,
) -> None:
    """Write a shard; it is there completely or not at all.

    Args:
        path: Where to write.
        stamp: What the embeddings were made of.
        rows: Row of each embedding in its table, different from each other, ``(n,)``.
        ids: Id of each one's content, ``n``.
        modalities: Modality code of each, ``(n,)``.
        vectors: The embeddings, in the type to keep, ``(n, D)``.

    Raises:
        ValueError: If shapes do not fit, there is no embedding, or a row is there twice.
    """
    count = len(rows)
    if vectors.ndim != 2 or not vectors.numel() or {count, len(ids), len(modalities)} != {len(vectors)}:
        raise ValueError(
            f"A shard needs as many rows, ids and modalities as vectors, found {count}, {len(ids)} and "
            f"{len(modalities)} with vectors of shape {tuple(vectors.shape)}."
        )
    if not _distinct(rows) or np.min(modalities) < 0 or np.max(modalities) > 255:
        raise ValueError("Rows must be different and at least 0, and modality codes from 0 to 255.")
    tensors = {
        "vectors": vectors.contiguous(),
        "rows": torch.from_numpy(np.array(rows, np.int64)),
        "modalities": torch.from_numpy(np.array(modalities, np.uint8)),
        "ids": torch.from_numpy(_id_matrix(ids)),
    }
    write_tensors(path, tensors, {"format_version": FORMAT_VERSION, "stamp": stamp})


def read_shard(path: Path) -> Shard:
    """Read all of a shard but its vectors and ids.

    Raises:
        DamagedEmbeddingsError: If it is truncated, of another format, or contradicts itself.
    """
    try:
        layout = read_layout(path)
    except ValueError as error:
        raise DamagedEmbeddingsError(f"{error} Remove it, and its embeddings are made again.") from error
    version, shape = layout.facts.get("format_version"), layout.shapes.get("vectors", ())
    if version != FORMAT_VERSION or "stamp" not in layout.facts:
        raise DamagedEmbeddingsError(f"{path} has the format version {version!r}, not {FORMAT_VERSION!r}.")
    dtype, count = layout.dtypes.get("vectors", ""), shape[:1]
    width = layout.shapes.get("ids", (0, 0))[1:]
    shapes = {"vectors": shape, "rows": count, "modalities": count, "ids": (*count, *width)}
    fits = layout.dtypes == {"vectors": dtype, **_TYPES} and layout.shapes == shapes
    if not fits or dtype not in STORED or len(shape) != 2 or len(width) != 1 or not all(shape):
        raise DamagedEmbeddingsError(
            f"{path} holds {layout.dtypes} of shapes {layout.shapes}, no embeddings."
        )
    rows, modalities = read_tensor(path, "rows").numpy(), read_tensor(path, "modalities").numpy()
    if not _distinct(rows):
        raise DamagedEmbeddingsError(f"{path} has a row twice, or a negative one.")
    return Shard(path, rows, modalities, shape[1], dtype, layout.facts["stamp"])


def _distinct(rows: Rows) -> bool:
    ordered = np.sort(rows)
    return bool(ordered[0] >= 0 and (ordered[1:] > ordered[:-1]).all())


def _id_matrix(ids: Sequence[str] | NDArray[np.bytes_]) -> NDArray[np.uint8]:
    encoded = [
        identifier.encode() if isinstance(identifier, str) else bytes(identifier) for identifier in ids
    ]
    if any(b"\0" in identifier for identifier in encoded):
        raise ValueError("An id holds a NUL character: rename it.")
    width = max(1, *map(len, encoded)) if len(encoded) > 1 else max(1, len(encoded[0]))
    joined = b"".join(identifier.ljust(width, b"\0") for identifier in encoded)
    return np.frombuffer(joined, np.uint8).reshape(len(encoded), width).copy()
