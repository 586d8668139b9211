"""Exhaustive search with reproducible ties: the oracle for every other index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmretrieval.index.base import FloatMatrix, VectorIndex

_ROW_BITS = 32


class ExactIndex(VectorIndex):
    """Scores every stored vector in float32, block by block, whatever the matmul precision of training is.

    Vectors are kept by reference and read one block at a time, so a memory-mapped pool stays on disk.

    Args:
        device: Where to score: "cpu", "cuda", "cuda:1", …
        pool_block: How many stored vectors are scored at once, at least 1.
        query_block: How many queries are scored at once, at least 1.

    Raises:
        ValueError: If a block size is not positive.
    """

    def __init__(self, device: str = "cpu", pool_block: int = 65_536, query_block: int = 1_024) -> None:
        super().__init__()
        if pool_block < 1 or query_block < 1:
            raise ValueError(f"Block sizes must be positive, found {pool_block} and {query_block}.")
        self.device = torch.device(device)
        self.pool_block = pool_block
        self.query_block = query_block
        self._parts: list[FloatMatrix] = []

    def _append(self, vectors: FloatMatrix) -> None:
        self._parts.append(vectors)

    def _search(self, queries: FloatMatrix, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        count = queries.shape[0]
        best_scores = np.empty((count, 0), dtype=np.float32)
        best_rows = np.empty((count, 0), dtype=np.int64)
        for start, block in self._blocks():
            width = min(k, best_scores.shape[1] + block.shape[0])
            scores, rows = np.empty((count, width), np.float32), np.empty((count, width), np.int64)
            for first in range(0, count, self.query_block):
                part = slice(first, first + self.query_block)
                found = self._search_block(self._to_device(queries[part]), start, block, k)
                known = (
                    self._to_device(best_scores[part]),
                    torch.from_numpy(best_rows[part]).to(self.device),
                )
                merged = _merge(known, found, k)
                scores[part], rows[part] = merged[0].cpu().numpy(), merged[1].cpu().numpy()
            best_scores, best_rows = scores, rows
        return best_scores, best_rows

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The stored vectors in pieces, each with its first row."""
        row = 0
        for part in self._parts:
            for first in range(0, part.shape[0], self.pool_block):
                block = self._to_device(part[first : first + self.pool_block])
                yield row, block
                row += block.shape[0]

    def _search_block(self, queries: Tensor, start: int, block: Tensor, k: int) -> tuple[Tensor, Tensor]:
        with _exact_float32():
            scores = queries @ block.T
        # Both zeros are equal as scores; adding 0 makes their bit patterns equal, too.
        values, columns = top_k_by_row(scores.add_(0.0), min(k, block.shape[0]))
        if bool(values.isnan().any()):
            raise ValueError(
                f"Scores of rows {start} to {start + block.shape[0] - 1} are not numbers: "
                "look for NaN or infinite values in these vectors or in the queries."
            )
        return values, columns + start

    def _to_device(self, matrix: FloatMatrix) -> Tensor:
        return torch.from_numpy(np.array(matrix, dtype=np.float32)).to(self.device)


def top_k_by_row(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest scores of each query, equal scores by ascending column.

    ``torch.topk`` alone leaves open which of equal scores it returns. Where that matters for what is in the
    list, the choice is repeated on keys that no two columns share.

    Args:
        scores: Float32, without negative zeros.
        k: How many to return, at most C.

    Shape:
        - scores: ``(Q, C)``, output: ``(Q, k)`` float32 and ``(Q, k)`` int64.
    """
    values, columns = scores.topk(k, dim=1)
    undecided = (scores >= values[:, -1:]).sum(dim=1) > k
    if bool(undecided.any()):
        keys = _keys(scores[undecided], torch.arange(scores.shape[1], device=scores.device))
        columns[undecided] = keys.topk(k, dim=1).indices
        values = scores.gather(1, columns)
    order = _keys(values, columns).argsort(dim=1, descending=True)
    return values.gather(1, order), columns.gather(1, order)


def _keys(scores: Tensor, rows: Tensor) -> Tensor:
    """Integers, different for different rows, that sort descending as (-score, row) sorts ascending."""
    bits = scores.view(torch.int32).long()
    # Floats below zero are ordered backwards when read as integers.
    ordered = torch.where(bits < 0, -(bits & 0x7FFF_FFFF), bits)
    return (ordered << _ROW_BITS) - rows


def _merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The best ``k`` of two lists."""
    scores, rows = torch.cat([first[0], second[0]], dim=1), torch.cat([first[1], second[1]], dim=1)
    order = _keys(scores, rows).argsort(dim=1, descending=True)[:, :k]
    return scores.gather(1, order), rows.gather(1, order)


@contextmanager
def _exact_float32() -> Iterator[None]:
    """Suspend the reduced matmul precision that training may have asked for, and autocast."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
