"""Vectors of an index in files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mmretrieval.index.files import StoredVectors, read_layout, read_tensor, write_tensors
from mmretrieval.index.tiles import Part, as_tensor

_ROWS = 65_536  # of a file, so that a pool larger than memory can be written
_PATTERN = "part-*.safetensors"


def write_parts(folder: Path, parts: Sequence[Part]) -> None:
    """Write parts into a folder, some rows to a file."""
    number = 0
    for part in parts:
        for first in range(0, len(part.labels), _ROWS):
            rows = slice(first, first + _ROWS)
            tensors = {
                "vectors": as_tensor(part.vectors[rows]).contiguous(),
                "labels": torch.from_numpy(part.labels[rows].copy()),
            }
            write_tensors(folder / f"part-{number:06d}.safetensors", tensors, {"group": str(part.group)})
            number += 1


def read_parts(folder: Path) -> Iterator[Part]:
    """Parts that :func:`write_parts` wrote; their vectors stay in the files.

    Raises:
        ValueError: If a file is damaged.
    """
    for path in sorted(folder.glob(_PATTERN)):
        layout = read_layout(path)
        shape = layout.shapes.get("vectors", ())
        fits = (
            len(shape) == 2
            and layout.shapes == {"vectors": shape, "labels": shape[:1]}
            and layout.dtypes["labels"] == "int64"
            and layout.dtypes["vectors"] in ("float16", "float32", "float64")
            and layout.facts.get("group", "").isdecimal()
        )
        if not fits:
            raise ValueError(
                f"{path} holds {layout.dtypes} of shapes {layout.shapes}, no vectors and labels."
            )
        vectors = StoredVectors(path, "vectors", layout.dtypes["vectors"], shape[1], np.arange(shape[0]))
        yield Part(vectors, read_tensor(path, "labels").numpy(), int(layout.facts["group"]))
