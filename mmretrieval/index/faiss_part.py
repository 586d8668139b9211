"""One index of FAISS with labels and groups of its vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import faiss as faiss_module
import numpy as np
import torch
from numpy.typing import NDArray

from mmretrieval.index.base import Labels, Scores
from mmretrieval.index.files import read_layout, read_tensor, staged, write_tensors

faiss: Any = faiss_module  # its types say that it takes less than it does


class FaissPart:
    """An index that numbers its vectors from 0, and what the numbers stand for.

    Args:
        index: The index, of any class of FAISS.
    """

    def __init__(self, index: Any) -> None:  # noqa: ANN401 - faiss ships no types
        self.index = index
        self._labels: list[Labels] = []
        self._groups: list[NDArray[np.int64]] = []

    def __len__(self) -> int:
        return sum(len(labels) for labels in self._labels)

    @property
    def labels(self) -> Labels:
        """Label of each vector, ``(N,)``."""
        return _joined(self._labels)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Group of each vector, ``(N,)``."""
        return _joined(self._groups)

    def add(self, vectors: NDArray[np.float32], labels: Labels, group: int) -> None:
        """Store vectors of one group."""
        self.index.add(vectors)
        self._labels.append(labels)
        self._groups.append(np.full(len(labels), group, np.int64))

    def search(
        self,
        queries: NDArray[np.float32],
        count: int,
        chosen: Any,  # noqa: ANN401 - faiss ships no types
    ) -> tuple[Scores, Labels]:
        """Scores and labels as FAISS returns them; a label is -1 where it found nothing.

        Raises:
            ValueError: If FAISS cannot restrict such an index.
        """
        try:
            scores, found = self.index.search(queries, count, **({"params": chosen} if chosen else {}))
        except RuntimeError as error:
            if chosen is None:
                raise
            raise ValueError(
                f"FAISS cannot search only some groups of a {type(self.index).__name__}: {error}. "
                'Take "Flat", or an index per group.'
            ) from error
        return scores, np.where(found < 0, -1, self.labels[found])

    def selected(self, groups: Iterable[int]) -> Any:  # noqa: ANN401 - faiss ships no types
        """Parameters of a search among some groups only."""
        bits = np.packbits(np.isin(self.groups, list(groups)), bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        return _parameters(faiss.downcast_index(self.index), selector)

    def on_cpu(self) -> Any:  # noqa: ANN401 - faiss ships no types
        """The index, or a copy of it if it is on a GPU."""
        return faiss.index_gpu_to_cpu(self.index) if _is_on_gpu(self.index) else self.index

    def write(self, folder: Path, key: int) -> None:
        """Write the part's files."""
        index = self.on_cpu()
        path = folder / f"index-{key}.faiss"
        with staged(path) as place:
            faiss.write_index(index, str(place))
        tensors = {"labels": torch.from_numpy(self.labels), "groups": torch.from_numpy(self.groups)}
        write_tensors(folder / f"labels-{key}.safetensors", tensors, {"index": _digest(path)})


def read_part(folder: Path, key: int, dim: int, placed: Callable[[Any], Any]) -> FaissPart:
    """Read what :meth:`FaissPart.write` wrote.

    Args:
        folder: Where it is.
        key: The part's number.
        dim: Dimension of its vectors.
        placed: Moves an index to where it shall be searched.

    Raises:
        ValueError: If a file is damaged.
    """
    path, beside = folder / f"index-{key}.faiss", folder / f"labels-{key}.safetensors"
    layout = read_layout(beside)
    count = layout.shapes.get("labels", (0,))
    integers = layout.dtypes == {"labels": "int64", "groups": "int64"}
    if not integers or layout.shapes != {"labels": count, "groups": count} or len(count) != 1:
        raise ValueError(f"{beside} holds {layout.dtypes} of shapes {layout.shapes}, no labels and groups.")
    if _digest(path) != layout.facts.get("index"):  # FAISS' own reader trusts what it reads
        raise ValueError(f"{path} was changed since it was written.")
    index = faiss.read_index(str(path))
    if (index.ntotal, index.d) != (*count, dim):
        raise ValueError(
            f"{path} has {index.ntotal} vectors of {index.d} dimensions, not {count[0]} of {dim}."
        )
    part = FaissPart(placed(index))
    part._labels = [read_tensor(beside, "labels").numpy()]
    part._groups = [read_tensor(beside, "groups").numpy()]
    return part


def _parameters(index: Any, selector: Any) -> Any:  # noqa: ANN401 - faiss ships no types
    """Parameters of the class that this class of index takes, with its own settings in them."""
    if isinstance(index, faiss.IndexPreTransform):
        inner = _parameters(faiss.downcast_index(index.index), selector)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = _parameters(faiss.downcast_index(index.base_index), selector)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe, max_codes=index.max_codes)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector)


def _joined(arrays: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    if len(arrays) > 1:
        arrays[:] = [np.concatenate(arrays)]  # once, and not in each search
    return arrays[0] if arrays else np.zeros(0, np.int64)


def _is_on_gpu(index: Any) -> bool:  # noqa: ANN401 - faiss ships no types
    on_gpu = (getattr(faiss, name, None) for name in ("GpuIndex", "IndexShards", "IndexReplicas"))
    return isinstance(index, tuple(kind for kind in on_gpu if kind is not None))


def _digest(path: Path) -> str:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
