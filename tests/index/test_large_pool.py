"""A pool of 2 GB on disk is searched in the memory of a few of its tiles."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmretrieval.index import EmbeddingStore

ROWS, DIM, SHARD = 2_000_000, 512, 125_000
SEARCH = Path(__file__).with_name("large_pool.py")


@pytest.mark.slow
def test_the_memory_of_a_search_does_not_grow_with_the_pool(tmp_path):
    store = EmbeddingStore.create_or_open(tmp_path / "store", {}, "float16")
    block = torch.randn(SHARD, DIM, generator=torch.Generator().manual_seed(0)).half()
    queries = np.random.default_rng(0).normal(size=(4, DIM)).astype(np.float32)
    best = [[] for _ in queries]
    for start in range(0, ROWS, SHARD):
        # Each shard has the same vectors in other columns, which is much faster than drawing new ones.
        vectors = block.roll(start // SHARD * 17, dims=1)
        rows = np.arange(start, start + SHARD)
        store.write(f"{start:08d}", rows, [b""] * SHARD, (rows * 2 >= ROWS).astype(np.uint8), vectors)
        scores = queries.astype(np.float64) @ vectors.double().numpy().T
        for query, found in enumerate(scores):
            top = np.argsort(-found)[:10]
            best[query] += [(-found[row], start + int(row)) for row in top]
    expected = [[row for _, row in sorted(found)[:10]] for found in best]
    np.save(tmp_path / "queries.npy", queries)
    try:
        command = [sys.executable, str(SEARCH), str(store.folder), str(tmp_path / "queries.npy")]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=250).stdout)
    finally:
        store.remove()
    assert found["labels"] == expected
    assert found["rows"] == ROWS
    assert found["peak"] < 3 * 2**30, f"{found['peak'] / 2**30:.2f} GiB"
    tile = 65_536 * DIM * 4
    assert found["peak"] - found["before"] < 5 * tile, f"{(found['peak'] - found['before']) / tile:.1f} tiles"
