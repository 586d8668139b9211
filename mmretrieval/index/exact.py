"""Exhaustive search with the ranking of float64: the oracle for every other index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmretrieval.index.base import (
    EXHAUSTIVE,
    NO_LABEL,
    FloatMatrix,
    Groups,
    Labels,
    Scores,
    VectorIndex,
    Vectors,
)
from mmretrieval.index.measures import Measures, measure
from mmretrieval.index.operands import Precision, Queries, prepared
from mmretrieval.index.products import fastest
from mmretrieval.index.ranking import Ranking
from mmretrieval.index.scored_tile import ScoredTile
from mmretrieval.index.stored import read_parts, write_parts
from mmretrieval.index.tiles import Part, Tile, as_tensor, tiles


class ExactIndex(VectorIndex):
    """Scores every stored vector and ranks as float64 does, whatever the matmul precision of training is.

    A fast matrix product finds all vectors that can be among the best, given how far its results can be off;
    these are scored again in float64. The product is torch's, in bfloat16 on a CPU that has instructions for
    it; or FAISS', on other CPUs and for queries whose best bfloat16 cannot tell from others. So the result is
    the same for all settings and on all devices; only scores that are equal but for the rounding of float64
    may change places between a CPU and a GPU. Scores are returned as float32, after ranking.

    Vectors are kept by reference and read one block at a time, so a memory-mapped pool stays on disk. If
    embeddings have collapsed, so that all scores are nearly equal, all are computed in float64: in bounded
    memory, but about 50 times more slowly.

    Args:
        device: Where to score: "cpu", "cuda", "cuda:1", …
        pool_block: How many stored vectors are scored at once, at least 1.
        query_block: How many queries are scored at once, at least 1.
        precision: Type of the fast product's factors on a GPU, "float32" or "bfloat16", several times as
            fast. A CPU takes what it multiplies faster.
        shard_pool: Whether each process that takes part in mining or evaluation searches a part of the pool
            for all queries, in place of all of it for a part of them; results are the same.

    Raises:
        ValueError: If a block size is not positive, or the precision is unknown; from ``search``, if a stored
            vector is not finite.
    """

    settings: ClassVar[tuple[str, ...]] = ("pool_block", "query_block", "precision")

    def __init__(
        self,
        device: str = "cpu",
        pool_block: int = 65_536,
        query_block: int = 1_024,
        precision: Precision = "float32",
        shard_pool: bool = False,
    ) -> None:
        super().__init__()
        if pool_block < 1 or query_block < 1:
            raise ValueError(f"Block sizes must be positive, found {pool_block} and {query_block}.")
        if precision not in get_args(Precision):
            raise ValueError(f'precision must be "float32" or "bfloat16", found {precision!r}.')
        self.device = torch.device(device)
        self.pool_block = pool_block
        self.query_block = query_block
        self.precision = precision
        self.shard_pool = shard_pool
        self._parts: list[Part] = []
        self._tiles: list[Tile] | None = None
        self._measures: dict[tuple[int, Precision], Measures] = {}

    @property
    def method(self) -> str:
        """Exhaustive, whatever the settings."""
        return EXHAUSTIVE

    def best(self, queries: FloatMatrix, k: int) -> tuple[NDArray[np.float64], Labels]:
        """Search as :meth:`search` does, and return the scores that the ranking is by.

        With them, results of parts of a pool can be merged into that of the whole.

        Args:
            queries: As of :meth:`search`.
            k: How many vectors to return, at least 1.

        Shape:
            - queries: ``(Q, D)``, output: ``(Q, k)`` float64 and ``(Q, k)`` int64.

        Raises:
            ValueError: As :meth:`search`.
        """
        self._check(queries, "queries")
        if k < 1:
            raise ValueError(f"k must be at least 1, found {k}.")
        scores = np.full((queries.shape[0], k), -np.inf)
        labels = np.full((queries.shape[0], k), NO_LABEL, dtype=np.int64)
        found = min(k, len(self))
        if found and queries.shape[0]:
            ranking = self._ranked(queries, found, None)
            scores[:, :found], labels[:, :found] = ranking.scores.cpu().numpy(), ranking.labels.cpu().numpy()
        return scores, labels

    def _append(self, vectors: Vectors, labels: Labels, group: int) -> None:
        self._parts.append(Part(vectors, labels, group))
        self._tiles = None
        self._measures = {}

    def _search(self, queries: FloatMatrix, k: int, groups: Groups) -> tuple[Scores, Labels]:
        best = self._ranked(queries, k, groups)
        with np.errstate(over="ignore"):  # float64 scores may be beyond float32
            scores = best.scores.cpu().numpy().astype(np.float32)
        return scores, best.labels.cpu().numpy()

    def _ranked(self, queries: FloatMatrix, k: int, groups: Groups) -> Ranking:
        best = Ranking.empty(queries.shape[0], k, self.device)
        blocks = self._query_blocks(queries)
        if self._tiles is None:
            self._tiles = tiles(self._parts, self.pool_block)
        for number, tile in enumerate(self._tiles):
            if groups is None or tile.group in groups:
                self._search_tile(number, tile, blocks, best)
        return best

    def _query_blocks(self, queries: FloatMatrix) -> list[tuple[slice, Queries]]:
        starts = range(0, queries.shape[0], self.query_block)
        parts = [slice(start, start + self.query_block) for start in starts]
        precision = fastest(self.precision, self.device)
        return [(part, prepared(self._on_device(as_tensor(queries[part])), precision)) for part in parts]

    def _search_tile(
        self, number: int, tile: Tile, blocks: list[tuple[slice, Queries]], best: Ranking
    ) -> None:
        stored = self._on_device(tile.read())

        def measured(precision: Precision) -> Measures:
            if (number, precision) not in self._measures:
                self._measures[number, precision] = measure(stored, precision, tile.labels)
            return self._measures[number, precision]

        labels = self._on_device(torch.from_numpy(tile.labels))
        scored = ScoredTile(stored, labels, measured, self.precision)
        for place, (part, block) in enumerate(blocks):
            blocks[place] = part, scored.take_best(best[part], block)

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    def _write(self, folder: Path) -> None:
        write_parts(folder, self._parts)

    def _read(self, folder: Path, dim: int, counts: Mapping[int, int]) -> None:
        self._dim = dim
        for part in read_parts(folder):
            self.add(part.vectors, part.labels, part.group)
