"""Two ranks embed and search what one process does, each taking work as it is free or all in step."""

import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import as_rank


def _worker(folder, rank, world):
    # Only the spawned processes have the repository's root on their path.
    from lightning.pytorch.strategies import DDPStrategy

    from callbacks import embedding
    from callbacks.searching import search
    from mmretrieval.index import EmbeddingStore, ExactIndex
    from tests.callbacks import conftest as fakes

    as_rank(rank, world)
    trainer = fakes.make_trainer(folder, devices=world, strategy=DDPStrategy())
    trainer.strategy.setup_environment()
    module, data = fakes.FakeModule(), fakes.FakeData.__new__(fakes.FakeData)
    data.batch, data.embedded, data.source, data.version = 4, [], "data", ""
    data.tokens = {"candidates": np.random.default_rng(5).integers(0, fakes.VOCABULARY, (90, fakes.TOKENS))}
    columns = fakes.Columns(np.arange(90).astype(np.bytes_), np.arange(90, dtype=np.uint8) % 3, np.arange(90))
    table = data._table("candidates", "candidates", columns)
    forward = module.encoder.forward
    found = {}

    def slowly(inputs):
        time.sleep(0.1 * rank)
        return forward(inputs)

    module.encoder.forward = slowly
    expected = data.vectors(module, "candidates")
    for name, rows in {"free": np.arange(90)[::-1][:71].copy(), "single": np.array([80])}.items():
        store = embedding.embed(trainer, module, table, rows, folder / name)
        found[name] = float(np.abs(store.vectors_of(rows) - expected[rows]).max())
        found[f"{name} share"] = len(data.embedded[-1][1])
    embedding.DDPStrategy = type(module)  # as for a strategy whose ranks need each other
    module.encoder.forward = forward
    for name, rows in {"in step": np.arange(71), "one in step": np.array([3])}.items():
        calls = len(module.encoder.seen_training)
        store = embedding.embed(trainer, module, table, rows, folder / name)
        found[name] = float(np.abs(store.vectors_of(rows) - expected[rows]).max())
        found[f"{name} share"] = len(module.encoder.seen_training) - calls
    present, looked = EmbeddingStore.present, []

    def raced(self, rows):
        """Another job completes the store after rank 0 has looked and before rank 1 does."""
        looked.append(rows)
        return present(self, rows) | (rank == 1 and len(looked) == 1)

    EmbeddingStore.present = raced
    rows = np.arange(20)
    store = embedding.embed(trainer, module, table, rows, folder / "raced")
    found["raced"] = float(np.abs(store.vectors_of(rows) - expected[rows]).max())
    EmbeddingStore.present = present
    pool = np.arange(5, 60)
    _, rows = search(ExactIndex(), store, np.array([3]), expected[:5], 2, torch.device("cpu"))
    found["short"] = torch.from_numpy(rows)
    store = embedding.embed(trainer, module, table, np.arange(90), folder / "in step")
    _, rows = search(ExactIndex(), store, pool, expected[:5], 3, torch.device("cpu"))
    found["rows"] = torch.from_numpy(rows)
    found["oracle"] = torch.from_numpy(pool[np.argsort(-(expected[:5] @ expected[pool].T), axis=1)[:, :3]])
    found["left"] = [str(path) for path in Path(folder).rglob(".claims*")]
    found["pid"] = os.getpid()
    return found


@pytest.mark.slow
def test_two_ranks_embed_and_search_as_one(run_on_ranks, tmp_path):
    first, second = run_on_ranks(partial(_worker, tmp_path / "store"))
    for found in (first, second):
        for name in ("free", "single", "in step", "one in step", "raced"):
            assert found[name] < 1e-6
        assert torch.equal(found["rows"], found["oracle"])
        assert found["short"].tolist() == [[3, -1]] * 5
        assert found["left"] == []
    assert first["free share"] + second["free share"] == 71
    assert first["free share"] > second["free share"] > 0  # the slow rank did less
    assert first["single share"] + second["single share"] == 1
    # In step, both make as many forward passes, some for nothing.
    assert first["in step share"] == second["in step share"] >= 9
    assert first["one in step share"] == second["one in step share"] == 1
