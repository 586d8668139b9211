"""Search with FAISS (https://github.com/facebookresearch/faiss), on a CPU or a GPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mmretrieval.index.base import FloatMatrix, VectorIndex

_log = logging.getLogger(__name__)
_GPU_MAX_K = 2_047  # FAISS' limit of 2048, less the one that shows whether a tie goes on
_BLAS_FROM = 20
_ADD_ROWS = 65_536
_TRAIN_ROWS = 262_144


class FaissIndex(VectorIndex):
    """An inner-product index from FAISS' factory.

    FAISS returns equal scores in no promised order. Here they come by ascending row: search looks
    ``tie_window`` rows beyond ``k`` for queries whose k-th score goes on. If the run of equal scores is
    longer still, which of them are in the list is FAISS' choice; that is logged as a warning.
    :class:`~mmretrieval.index.exact.ExactIndex` has no limit.

    Args:
        factory: FAISS' factory string: "Flat" is exhaustive, "IVF1024,Flat", "HNSW32", … are approximate. An
            index that needs training is trained on the first 262,144 vectors of the first call of ``add``.
        device: "cpu", "cuda", or "auto" for "cuda" where FAISS sees a GPU and "cpu" elsewhere.
        tie_window: How far beyond ``k`` to look for equal scores, at least 1. A GPU looks at 2048 rows in
            all.

    Raises:
        ValueError: If ``device`` is unknown, or "cuda" and FAISS sees no GPU, or ``tie_window`` is not
        positive; from
            ``add``, if FAISS does not know the factory string or vectors are not finite; from ``search`` on a
            GPU, if ``k`` is above 2047.
    """

    def __init__(self, factory: str = "Flat", device: str = "auto", tie_window: int = 1_024) -> None:
        super().__init__()
        if tie_window < 1:
            raise ValueError(f"tie_window must be at least 1, found {tie_window}.")
        self.factory = factory
        self.device = _resolved(device)
        self.tie_window = tie_window
        self._index: Any = None

    def _append(self, vectors: FloatMatrix) -> None:
        if self._index is None:
            self._index = self._create(vectors.shape[1])
        if not self._index.is_trained:
            self._index.train(_contiguous(vectors[:_TRAIN_ROWS], "vectors"))
        for first in range(0, vectors.shape[0], _ADD_ROWS):  # a memory-mapped pool is never in memory twice
            self._index.add(_contiguous(vectors[first : first + _ADD_ROWS], "vectors", first))

    def _create(self, dim: int) -> Any:  # noqa: ANN401 - faiss ships no types
        try:
            index = faiss.index_factory(dim, self.factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot build the index {self.factory!r} for {dim}-d vectors; "
                'take a factory string of its wiki, for example "Flat" or "IVF256,Flat".'
            ) from error
        return faiss.index_cpu_to_all_gpus(index, ngpu=1) if self.device == "cuda" else index

    def _search(self, queries: FloatMatrix, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        limit = min(len(self), _GPU_MAX_K + 1) if self.device == "cuda" else len(self)
        if k >= limit < len(self):
            raise ValueError(f'A GPU returns at most {_GPU_MAX_K} rows, k is {k}: use device="cpu".')
        block = _contiguous(queries, "queries")
        with _blas_for_few_queries():
            scores, rows = self._fetch(block, min(k + 1, limit))
            undecided = np.flatnonzero(_goes_on(scores, k))
            scores, rows = scores[:, :k], rows[:, :k]
            if undecided.size and k + 1 < len(self):
                more_scores, more_rows = self._fetch(block[undecided], min(k + self.tie_window, limit))
                scores[undecided], rows[undecided] = more_scores[:, :k], more_rows[:, :k]
                self._report(_goes_on(more_scores, k), more_rows.shape[1])
        return scores, rows

    def _fetch(
        self, queries: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """FAISS' best rows, sorted by score and then by row; missing ones last, as -inf and -1."""
        scores, rows = self._index.search(queries, count)
        # Adding 0 turns negative zeros into zeros.
        scores = np.where(rows < 0, np.float32(-np.inf), scores + np.float32(0.0))
        order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), -scores), axis=1)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _report(self, undecided: NDArray[np.bool_], fetched: int) -> None:
        if undecided.any() and fetched < len(self):
            _log.warning(
                "%d queries have more equal scores at the end of the list than tie_window=%d: "
                "which of them are in it is FAISS' choice. Have the embeddings collapsed?",
                int(undecided.sum()),
                self.tie_window,
            )


def _goes_on(scores: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """Whether the k-th score is also that of the last row fetched, so that equal ones may be missing."""
    found: NDArray[np.bool_] = (scores[:, -1] == scores[:, k - 1]) & np.isfinite(scores[:, -1])
    return found


def _resolved(device: str) -> str:
    gpus = faiss.get_num_gpus()
    if device == "auto":
        return "cuda" if gpus else "cpu"
    if device not in ("cpu", "cuda"):
        raise ValueError(f'device must be "cpu", "cuda" or "auto", found {device!r}.')
    if device == "cuda" and not gpus:
        raise ValueError('FAISS sees no GPU: use device="auto" or "cpu", or install faiss-gpu.')
    return device


def _contiguous(matrix: FloatMatrix, name: str, first: int = 0) -> NDArray[np.float32]:
    block = np.ascontiguousarray(matrix, dtype=np.float32)
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():  # FAISS drops such rows without a word
        raise ValueError(f"{name} row {first + int(finite.argmin())} holds NaN or infinite values.")
    return block


@contextmanager
def _blas_for_few_queries() -> Iterator[None]:
    """Let small batches of queries use matrix products, too.

    From 1.15 on FAISS compares queries x dimension, not queries, with a threshold of 128,000, and takes a
    path that is about 12 times slower below it.
    """
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
