"""Safetensors files that are there completely or not at all, and are read in slices."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_FACTS = "mmretrieval"
_MANIFEST_BYTES = 2**20
_GAP = 32  # rows; reading over a smaller gap is faster than another slice
DTYPES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "U8": "uint8",
}
"""Names that safetensors and torch have for the types in our files."""


class Layout(NamedTuple):
    """What the head of a file says.

    Args:
        facts: What :func:`write_tensors` was given.
        dtypes: Type of each tensor, by torch's names.
        shapes: Shape of each tensor.
    """

    facts: dict[str, str]
    dtypes: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


class StoredVectors:
    """Rows of a matrix in a file, of which each slice is read when it is asked for, as NumPy floats.

    Nothing stays open between slices. Types that NumPy does not have, and float16, become float32 exactly.

    Args:
        path: The file.
        name: The matrix's name in it.
        dtype: Its type, by torch's name.
        dim: Its number of columns.
        rows: Which of its rows these are, ascending.
    """

    ndim = 2

    def __init__(self, path: Path, name: str, dtype: str, dim: int, rows: NDArray[np.int64]) -> None:
        self.path, self.name, self.rows = path, name, rows
        self.shape = (len(rows), dim)
        self.dtype: np.dtype[Any] = np.dtype(np.float64 if dtype == "float64" else np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        wanted = self.rows[rows]
        out = np.empty((len(wanted), self.shape[1]), self.dtype)
        if wanted.size:
            with safe_open(self.path, framework="pt") as file:
                stored, filled = file.get_slice(self.name), torch.from_numpy(out)
                for run in _runs(wanted):
                    own = wanted[run]
                    low, high = int(own[0]), int(own[-1]) + 1
                    block = stored[low:high]
                    if high - low != len(own) or (np.diff(own) != 1).any():
                        block = block[torch.from_numpy(own - low)]
                    filled[run].copy_(block)
        return out


def _runs(rows: NDArray[np.int64]) -> Iterator[slice]:
    """Parts of ascending rows without wide gaps, so that little is read that is not wanted."""
    ends = np.flatnonzero(np.diff(rows) > _GAP) + 1
    for first, stop in zip([0, *ends.tolist()], [*ends.tolist(), len(rows)], strict=True):
        yield slice(first, stop)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write a file of tensors; the same input gives the same bytes.

    Args:
        path: Where to write; an existing file is replaced.
        tensors: What to write, of the types in ``DTYPES``.
        facts: What to write beside them.
    """
    with staged(path) as place:
        # One entry: safetensors does not promise the order of several.
        save_file(dict(tensors), place, {_FACTS: json.dumps(dict(facts), sort_keys=True)})


def read_layout(path: Path) -> Layout:
    """Read the head of a file, without its tensors.

    Raises:
        ValueError: If it is truncated or was not written by :func:`write_tensors`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_FACTS])
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it has no iterator
            dtypes = {name: DTYPES[part.get_dtype()] for name, part in slices.items()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no complete file of this package: {error}.") from error
    if not _is_text(facts):
        raise ValueError(f"{path} has no readable facts.")
    return Layout(facts, dtypes, shapes)


def read_tensor(path: Path, name: str) -> Tensor:
    """Read one tensor completely."""
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor.clone()  # the file shall not stay mapped


def write_manifest(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as JSON."""
    with staged(path) as place:
        place.write_text(json.dumps(dict(facts), sort_keys=True, indent=1) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read what :func:`write_manifest` wrote.

    Raises:
        ValueError: If it is too large, or no JSON object.
    """
    size = path.stat().st_size
    if size > _MANIFEST_BYTES:
        raise ValueError(f"{path} has {size} bytes, a manifest has at most {_MANIFEST_BYTES}.")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object.")
    return found


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A hidden place beside ``path``; what was written there takes its name when the block ends well.

    The place is different for each process and call, so several may write the same file at once.
    """
    place = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield place
        sync(place)
        place.replace(path)
        sync(path.parent)
    finally:
        place.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file or the names in a folder survive a power failure, where the system can."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_text(facts: object) -> bool:
    return isinstance(facts, dict) and all(isinstance(item, str) for pair in facts.items() for item in pair)
