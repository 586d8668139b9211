"""Ranks search with the same trained index, and none is left waiting when it cannot be trained."""

from functools import partial

import faiss
import numpy as np
import pytest
import torch

ROWS, DIM = 400, 8


def _worker(folder, rank, world):
    # Only the spawned processes have the repository's root on their path.
    from callbacks.searching import search
    from mmretrieval.index import EmbeddingStore, FaissIndex, filling

    filling._SEED, filling.TRAIN_ROWS = rank, 100  # a rank that trained by itself would find other centroids
    store, cpu = EmbeddingStore.open(folder / "store"), torch.device("cpu")
    index = filling.fill(FaissIndex("IVF16,Flat", "cpu"), store, np.arange(ROWS), cpu)
    quantizer = faiss.extract_index_ivf(index._found[0].index).quantizer
    found = {"centroids": torch.from_numpy(quantizer.reconstruct_n(0, 16)), "vectors": len(index)}
    queries = store.vectors_of(np.arange(31))
    approximate = FaissIndex("IVF16,Flat", "cpu", parameters="nprobe=3")
    found["rows"] = torch.from_numpy(search(approximate, store, np.arange(ROWS), queries, 5, cpu)[1])
    found["own"] = torch.from_numpy(filling._sample(np.arange(ROWS)))
    try:
        search(FaissIndex("IVF64,Flat", "cpu"), store, np.arange(40), queries, 5, cpu)
    except ValueError as error:
        found["error"] = str(error)
    return found


@pytest.mark.slow
def test_both_ranks_have_the_centroids_of_rank_0_or_its_error(run_on_ranks, tmp_path):
    from mmretrieval.index import EmbeddingStore

    vectors = np.random.default_rng(1).normal(size=(ROWS, DIM)).astype(np.float32)
    store = EmbeddingStore.create_or_open(tmp_path / "store", {"made": "here"})
    for number, part in enumerate(np.split(np.arange(ROWS), 4)):
        store.write(f"{number}", part, [f"id{row}" for row in part], part % 3, vectors[part])
    first, second = run_on_ranks(partial(_worker, tmp_path))
    assert not torch.equal(first["own"], second["own"]), "both would train on the same sample anyway"
    assert torch.equal(first["centroids"], second["centroids"])
    assert torch.equal(first["rows"], second["rows"])
    assert first["vectors"] == second["vectors"] == ROWS
    assert "needs at least 64" in first["error"]
    assert "Rank 0 could not train 'IVF64,Flat' on 40 rows" in second["error"]
