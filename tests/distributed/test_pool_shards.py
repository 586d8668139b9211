"""Two ranks that each search half of a pool find what one process finds, ties and short pools included."""

from functools import partial

import numpy as np
import pytest
import torch
from training_runs import as_rank

ROWS, DIM = 300, 12
CPU = torch.device("cpu")


def _filled(folder):
    """A store whose files hold rows in no order; many vectors are equal, or differ beyond float32."""
    from mmretrieval.index import EmbeddingStore

    rng = np.random.default_rng(3)
    vectors = rng.integers(-1, 2, (ROWS, DIM)).astype(np.float32)
    vectors[::7] = vectors[0]
    store = EmbeddingStore.create_or_open(folder, {"made": "here"}, "float32")
    rows = rng.permutation(ROWS)
    for number, part in enumerate(np.array_split(rows, 5)):
        store.write(
            f"{number}", part, [f"id{row}" for row in part], part % 3, torch.from_numpy(vectors[part])
        )
    # Sums of these are told apart by float64 alone.
    queries = np.concatenate([rng.integers(-2, 3, (9, DIM)), 1 + 1e-6 * rng.normal(size=(9, DIM))])
    return store, queries.astype(np.float32)


def _cases():
    rng = np.random.default_rng(4)
    for count, k in ((ROWS, 5), (200, 250), (3, 2), (1, 4)):
        yield rng.permutation(ROWS)[:count], k


def _searched(folder, shard_pool):
    from callbacks import searching
    from mmretrieval.index import EmbeddingStore, ExactIndex

    searching._QUERY_BLOCK = 7
    searching._QUERY_BYTES = 4 * DIM * (10 if shard_pool else 1_000)  # several blocks, or one
    store, found = EmbeddingStore.open(folder), {}
    _, queries = _filled(folder)
    for number, (pool, k) in enumerate(_cases()):
        index = ExactIndex(pool_block=64, shard_pool=shard_pool)
        scores, rows = searching.search(index, store, pool, queries, k, CPU)
        assert len(index) == 0
        found[f"scores {number}"], found[f"rows {number}"] = torch.from_numpy(scores), torch.from_numpy(rows)
    _, none = searching.search(index, store, pool, queries[:0], 3, CPU)
    found["no query"] = torch.from_numpy(none)
    return found


def _worker(folder, rank, world):
    # Only the spawned processes have the repository's root on their path.
    from lightning.pytorch.strategies import DDPStrategy

    from mmretrieval.index import ExactIndex
    from tests.callbacks import conftest as fakes

    as_rank(rank, world)
    trainer = fakes.make_trainer(folder.parent, devices=world, strategy=DDPStrategy())
    trainer.strategy.setup_environment()
    sizes, add = [], ExactIndex.add

    def counted(self, vectors, labels=None, group=0):
        sizes.append(vectors.shape[0])
        add(self, vectors, labels, group)

    ExactIndex.add = counted
    return {**_searched(folder, True), "searched": sum(sizes)}


@pytest.mark.slow
def test_ranks_with_parts_of_the_pool_find_what_one_finds(run_on_ranks, tmp_path):
    _filled(tmp_path / "store")
    expected = _searched(tmp_path / "store", False)
    assert (expected["scores 0"][:, 1:] == expected["scores 0"][:, :-1]).any(), "there are no ties"
    ranks = run_on_ranks(partial(_worker, tmp_path / "store"))
    searched = [found.pop("searched") for found in ranks]
    assert searched == [150 + 100 + 2 + 1 + 1, 150 + 100 + 1 + 0 + 0]
    for found in ranks:
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert torch.equal(found[name], values), name
