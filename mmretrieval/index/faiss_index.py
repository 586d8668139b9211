"""Search with FAISS (https://github.com/facebookresearch/faiss), on a CPU or on GPUs."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import faiss as faiss_module
import numpy as np
import torch
from numpy.typing import NDArray

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
from mmretrieval.index.faiss_part import FaissPart, read_part
from mmretrieval.index.faiss_products import blas_for_few_queries
from mmretrieval.index.faiss_training import train

faiss: Any = faiss_module  # its types say that it takes less than it does

_log = logging.getLogger(__name__)
_GPU_MAX_K = 2_047  # FAISS' limit of 2048, less the one that shows whether a tie goes on
_ADD_ROWS = 65_536
TRAIN_ROWS = 262_144
"""The most vectors that an index is trained on: FAISS' 256 a cluster for 1,024 clusters."""
_LAST = np.iinfo(np.int64).max


class FaissIndex(VectorIndex):
    """An inner-product index from FAISS' factory.

    Vectors are ranked by FAISS' float32 scores: what differs by less than their rounding may change places,
    where :class:`~mmretrieval.index.exact.ExactIndex` ranks as float64 does. FAISS returns equal scores in no
    promised order. Here they come by ascending label: search looks ``tie_window`` vectors beyond ``k`` for
    queries whose k-th score goes on. If the run of equal scores is longer still, which of them are in the
    list is FAISS' choice; that is logged as a warning.

    "Flat" keeps an index per group, so searching some groups costs no more than they hold. Others keep one
    for all and let FAISS skip the other groups' vectors while it looks where it would look anyway: that is
    not faster, and may find fewer than ``k``. FAISS can do so in IVF, HNSW and SQ indexes, not in PQ alone.

    Args:
        factory: FAISS' factory string: "Flat" is exhaustive, "IVF1024,Flat", "HNSW32", … are approximate. An
            index that needs training is trained by :meth:`train`, which mining and evaluation call with a
            sample of the whole pool; else on the first 262,144 vectors of the first call of ``add``.
        device: "cpu", "cuda" for this process' own GPU, torch's current one, so that each rank has its own,
            "cuda:1" for a certain one, "cuda:all" for all of them, each with a part of the vectors, for a
            single process, or "auto" for "cuda" where FAISS sees a GPU and "cpu" elsewhere.
        tie_window: How far beyond ``k`` to look for equal scores, at least 1. A GPU looks at 2048 vectors in
            all.
        parameters: FAISS' parameters of the search, as "nprobe=16" or "efSearch=64".

    Raises:
        ValueError: If ``device`` is unknown, or a GPU is asked for that FAISS does not see, or ``tie_window``
            is not positive; from ``add``, if FAISS does not know the factory string or parameters, vectors
            are not finite, or there are too few to train on; from ``search``, if ``k`` is above 2047 on a
            GPU, or groups are asked for and FAISS cannot skip vectors of such an index.
    """

    settings: ClassVar[tuple[str, ...]] = ("factory", "tie_window", "parameters")

    def __init__(
        self, factory: str = "Flat", device: str = "auto", tie_window: int = 1_024, parameters: str = ""
    ) -> None:
        super().__init__()
        if tie_window < 1:
            raise ValueError(f"tie_window must be at least 1, found {tie_window}.")
        self.factory = factory
        self.device = _resolved(device)
        self.tie_window = tie_window
        self.parameters = parameters
        self._found: dict[int, FaissPart] = {}

    @property
    def exhaustive(self) -> bool:
        """Whether each group has an index of its own."""
        return self.factory == "Flat"

    @property
    def method(self) -> str:
        """Exhaustive for "Flat", else the factory string and the parameters."""
        return EXHAUSTIVE if self.exhaustive else " ".join(filter(None, [self.factory, self.parameters]))

    def train(self, sample: FloatMatrix) -> None:
        """Train on vectors of all kinds that will be added, and not on the first of them only.

        Args:
            sample: Some of the vectors, ``(N, D)``.

        Raises:
            ValueError: If the index has vectors, the shape or a number does not fit, or the sample is
                smaller than the factory needs.
        """
        self._check(sample, "sample")
        if len(self):
            raise ValueError(f"The index was trained before its {len(self)} vectors were added.")
        if not self.exhaustive:
            train(self._part(0, sample.shape[1]).index, _contiguous(sample, "sample"), self.factory)

    def is_trained(self, dim: int) -> bool:
        """Whether vectors of a dimension can be added without training."""
        return self.exhaustive or bool(self._part(0, dim).index.is_trained)

    def learned(self) -> NDArray[np.uint8]:
        """What :meth:`train` learned, for :meth:`take` of an index that other processes fill, ``(N,)``."""
        state: NDArray[np.uint8] = faiss.serialize_index(self._found[0].on_cpu())
        return state

    def take(self, learned: NDArray[np.uint8]) -> None:
        """Take over what another process' index of the same factory learned, in place of training.

        Args:
            learned: What its :meth:`learned` says, from a process of this job: FAISS trusts what it reads.
        """
        self._found[0] = FaissPart(self._placed(faiss.deserialize_index(learned)))

    def _append(self, vectors: Vectors, labels: Labels, group: int) -> None:
        part = self._part(group, vectors.shape[1])
        if not part.index.is_trained:
            train(part.index, _contiguous(vectors[:TRAIN_ROWS], "vectors"), self.factory)
        for first in range(0, vectors.shape[0], _ADD_ROWS):  # a memory-mapped pool is never in memory twice
            rows = slice(first, first + _ADD_ROWS)
            part.add(_contiguous(vectors[rows], "vectors", first), labels[rows], group)

    def _part(self, group: int, dim: int) -> FaissPart:
        key = group if self.exhaustive else 0
        if key not in self._found:
            self._found[key] = FaissPart(self._placed(self._create(dim)))
        return self._found[key]

    def _create(self, dim: int) -> Any:  # noqa: ANN401 - faiss ships no types
        try:
            index = faiss.index_factory(dim, self.factory, faiss.METRIC_INNER_PRODUCT)
            if self.parameters:
                faiss.ParameterSpace().set_index_parameters(index, self.parameters)
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot build the index {self.factory!r} with parameters {self.parameters!r} "
                f"for {dim}-d vectors; "
                'take a factory string of its wiki, for example "Flat" or "IVF256,Flat".'
            ) from error
        return index

    def _placed(self, index: Any) -> Any:  # noqa: ANN401 - faiss ships no types
        if self.device == "cpu":
            return index
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        return faiss.index_cpu_to_gpus_list(index, co=options, gpus=self._gpus())

    def _gpus(self) -> list[int]:
        """Numbers of the GPUs to use, asked for late: by then a strategy has given each rank one."""
        if self.device == "cuda:all":
            return list(range(faiss.get_num_gpus()))
        if self.device == "cuda":
            return [torch.cuda.current_device() if torch.cuda.is_available() else 0]
        return [int(self.device.removeprefix("cuda:"))]

    def _search(self, queries: FloatMatrix, k: int, groups: Groups) -> tuple[Scores, Labels]:
        block = _contiguous(queries, "queries")
        with blas_for_few_queries():
            found = [self._search_part(part, block, k, groups) for part in self._asked(groups)]
        if len(found) == 1:
            return found[0]
        scores, labels = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        scores, labels = _ordered(scores, labels)
        return scores[:, :k], labels[:, :k]

    def _asked(self, groups: Groups) -> list[FaissPart]:
        return [
            part
            for key, part in self._found.items()
            if not self.exhaustive or groups is None or key in groups
        ]

    def _search_part(
        self, part: FaissPart, queries: NDArray[np.float32], k: int, groups: Groups
    ) -> tuple[Scores, Labels]:
        limit = len(part) if self.device == "cpu" else min(len(part), _GPU_MAX_K + 1)
        if k >= limit < len(part):
            raise ValueError(f'A GPU returns at most {_GPU_MAX_K} vectors, k is {k}: use device="cpu".')
        chosen = None if self.exhaustive or groups is None else part.selected(groups)
        scores, labels = self._fetch(part, queries, min(k + 1, limit), chosen)
        undecided = np.flatnonzero(_goes_on(scores, k))
        scores, labels = _padded(scores[:, :k], labels[:, :k], k)
        if undecided.size and k + 1 < len(part):
            more_scores, more_labels = self._fetch(
                part, queries[undecided], min(k + self.tie_window, limit), chosen
            )
            scores[undecided], labels[undecided] = more_scores[:, :k], more_labels[:, :k]
            self._report(_goes_on(more_scores, k), more_labels.shape[1], len(part))
        return scores, labels

    def _fetch(
        self,
        part: FaissPart,
        queries: NDArray[np.float32],
        count: int,
        chosen: Any = None,  # noqa: ANN401 - faiss ships no types
    ) -> tuple[Scores, Labels]:
        """FAISS' best vectors, sorted by score and then by label; missing ones last, as -inf and -1."""
        scores, labels = part.search(queries, count, chosen)
        # Adding 0 turns negative zeros into zeros.
        return _ordered(np.where(labels < 0, np.float32(-np.inf), scores + np.float32(0.0)), labels)

    def _report(self, undecided: NDArray[np.bool_], fetched: int, stored: int) -> None:
        if undecided.any() and fetched < stored:
            _log.warning(
                "%d queries have more equal scores at the end of the list than tie_window=%d: "
                "which of them are in it is FAISS' choice. Have the embeddings collapsed?",
                int(undecided.sum()),
                self.tie_window,
            )

    def _write(self, folder: Path) -> None:
        for key, part in self._found.items():
            part.write(folder, key)

    def _read(self, folder: Path, dim: int, counts: Mapping[int, int]) -> None:
        for key in counts if self.exhaustive else [0] if counts else []:
            part = read_part(folder, key, dim, self._placed)
            self._labels.add(part.labels)
            for group, count in zip(*np.unique(part.groups, return_counts=True), strict=True):
                self._counts[int(group)] = self._counts.get(int(group), 0) + int(count)
            self._found[key] = part
        self._dim = dim


def _ordered(scores: Scores, labels: Labels) -> tuple[Scores, Labels]:
    order = np.lexsort((np.where(labels < 0, _LAST, labels), -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(labels, order, axis=1)


def _padded(scores: Scores, labels: Labels, k: int) -> tuple[Scores, Labels]:
    missing = ((0, 0), (0, k - scores.shape[1]))
    return (
        np.pad(scores, missing, constant_values=-np.inf),
        np.pad(labels, missing, constant_values=NO_LABEL),
    )


def _goes_on(scores: Scores, k: int) -> NDArray[np.bool_]:
    """Whether the k-th score is also that of the last one fetched, so that equal ones may be missing."""
    if scores.shape[1] < k:
        return np.zeros(len(scores), np.bool_)
    found: NDArray[np.bool_] = (scores[:, -1] == scores[:, k - 1]) & np.isfinite(scores[:, -1])
    return found


def _resolved(device: str) -> str:
    gpus = faiss.get_num_gpus()
    if device == "auto":
        return "cuda" if gpus else "cpu"
    numbered = re.fullmatch(r"cuda:(\d+)", device)
    if device not in ("cpu", "cuda", "cuda:all") and numbered is None:
        raise ValueError(f'device must be "cpu", "cuda", "cuda:1", "cuda:all" or "auto", found {device!r}.')
    if device != "cpu" and not gpus:
        raise ValueError('FAISS sees no GPU: use device="auto" or "cpu", or install faiss-gpu.')
    if numbered is not None and int(numbered[1]) >= gpus:
        raise ValueError(f'FAISS sees {gpus} GPUs, numbered from 0, found device="{device}": use "cuda".')
    return device


def _contiguous(matrix: FloatMatrix, name: str, first: int = 0) -> NDArray[np.float32]:
    block = np.ascontiguousarray(matrix, dtype=np.float32)
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():  # FAISS drops such rows without a word
        raise ValueError(f"{name} row {first + int(finite.argmin())} holds NaN or infinite values.")
    return block
