"""Ways to find the best vectors: ours and the peers', each with what it needs made beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import faiss as faiss_module
import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.util import semantic_search

from mmretrieval.index import ExactIndex, FaissIndex, VectorIndex
from mmretrieval.index.operands import Precision

faiss: Any = faiss_module  # its types say that it takes less than it does
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Search = Callable[[Floats, int], Labels]

REFERENCE = "faiss, tuned"
MODALITIES = 3
ASKED = 1
"""The modality that filtered searches ask for."""


def unfiltered(pool: Floats) -> dict[str, Search]:
    """Searches of the whole pool."""
    plain = _flat(pool)
    exact, flat = ExactIndex(), FaissIndex("Flat", device="cpu")
    exact.add(pool)
    flat.add(pool)
    return {
        "ours, ExactIndex": ours(exact),
        "ours, FaissIndex": ours(flat),
        REFERENCE: tuned(lambda queries, k: plain.search(queries, k)[1]),
        "faiss, default": lambda queries, k: plain.search(queries, k)[1],
        "sentence-transformers": peer(torch.from_numpy(pool)),
    }


def filtered(pool: Floats) -> dict[str, Search]:
    """Searches of a third of the pool, one of three modalities, and ours of as many vectors with no other."""
    third = len(pool) // MODALITIES
    codes = np.minimum(np.arange(len(pool)) // third, MODALITIES - 1)
    exact, flat = ExactIndex(), FaissIndex("Flat", device="cpu")
    for index in (exact, flat):
        for code in range(MODALITIES):
            index.add(pool[codes == code], np.flatnonzero(codes == code), code)
    alone = ExactIndex()
    alone.add(pool[codes == ASKED], np.flatnonzero(codes == ASKED))
    plain = _flat(pool)
    bits = np.packbits(codes == ASKED, bitorder="little")
    chosen = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
    return {
        "ours, ExactIndex, groups=[1]": ours(exact, [ASKED]),
        "ours, ExactIndex, that modality alone": ours(alone),
        "ours, FaissIndex, groups=[1]": ours(flat, [ASKED]),
        "faiss, tuned, IDSelectorBitmap": tuned(
            lambda queries, k: plain.search(queries, k, params=chosen)[1]
        ),
    }


def on_a_gpu(pool: Floats) -> dict[str, Search]:
    """Searches of the whole pool by a GPU: ours reads it from memory each time, as mining does."""
    exact = {precision: ExactIndex("cuda", precision=precision) for precision in get_args(Precision)}
    for index in exact.values():
        index.add(pool)
    variants = {f"ours, ExactIndex, {precision}": ours(index) for precision, index in exact.items()}
    if faiss.get_num_gpus():
        held = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, _flat(pool))
        variants["faiss on the GPU, pool held there"] = lambda queries, k: held.search(queries, k)[1]
    held_there = torch.from_numpy(pool).cuda()
    variants["torch, pool from memory"] = lambda queries, k: products(torch.from_numpy(pool).cuda())(
        queries, k
    )
    return {**variants, "torch, pool held there": products(held_there)}


def _flat(pool: Floats) -> Any:  # noqa: ANN401
    plain = faiss.IndexFlatIP(pool.shape[1])
    plain.add(pool)
    return plain


def products(pool: torch.Tensor) -> Search:
    """Scores of all vectors in single precision, and their best: what a GPU does with no index."""

    def search(queries: Floats, k: int) -> Labels:
        scores = torch.from_numpy(queries).to(pool.device) @ pool.T
        return scores.topk(k).indices.cpu().numpy()

    return search


def ours(index: VectorIndex, groups: list[int] | None = None) -> Search:
    """One of our indexes."""
    return lambda queries, k: index.search(queries, k, groups)[1]


def peer(pool: torch.Tensor) -> Search:
    """sentence-transformers' search, with scores that are no cosines as for the others."""

    def search(queries: Floats, k: int) -> Labels:
        found = semantic_search(
            torch.from_numpy(queries), pool, query_chunk_size=1_024, corpus_chunk_size=65_536, top_k=k,
            score_function=lambda first, second: first @ second.T,
        )  # fmt: skip
        return np.array([[hit["corpus_id"] for hit in hits] for hits in found])

    return search


def tuned(search: Search) -> Search:
    """FAISS with matrix products for few queries, too."""

    def run(queries: Floats, k: int) -> Labels:
        with _blas_from(20):
            return search(queries, k)

    return run


@contextmanager
def _blas_from(threshold: int) -> Iterator[None]:
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = threshold
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before
