"""Two ranks embed and search what one process does, with uneven shares and with a rank without rows."""

import numpy as np
import pytest
import torch


def _worker(rank, world):
    # Only the spawned processes have the repository's root on their path.
    from callbacks.embedding import embed, search
    from mmretrieval.index import ExactIndex
    from tests.callbacks import conftest as fakes

    trainer = fakes.make_trainer(".")
    module, data = fakes.FakeModule(), fakes.FakeData.__new__(fakes.FakeData)
    data.batch, data.embedded = 4, []
    data.tokens = {"candidates": np.random.default_rng(5).integers(0, fakes.VOCABULARY, (40, fakes.TOKENS))}
    # 17 rows are 9 and 8, which are three and two batches of four.
    found = {}
    for name, rows in {"uneven": np.arange(40)[::-1][:17].copy(), "single": np.array([3])}.items():
        calls = len(module.encoder.seen_training)
        vectors = embed(trainer, module, data.candidate_loader, rows, "candidates")
        expected = data.vectors(module, "candidates")[rows]
        found[name] = float(np.abs(vectors - expected).max())
        found[f"{name} steps"] = len(module.encoder.seen_training) - calls
    pool = data.vectors(module, "candidates")
    _, rows = search(ExactIndex(), pool, pool[:5], 3, torch.device("cpu"))
    found["rows"] = torch.from_numpy(rows)
    found["oracle"] = torch.from_numpy(np.argsort(-(pool[:5] @ pool.T), axis=1)[:, :3].copy())
    found["shares"] = [len(rows) for _, rows in data.embedded]
    return found


@pytest.mark.slow
def test_two_ranks_gather_rows_in_order_and_take_the_same_number_of_steps(run_on_ranks):
    first, second = run_on_ranks(_worker)
    for found in (first, second):
        assert found["uneven"] < 1e-6
        assert found["single"] < 1e-6
        assert (found["uneven steps"], found["single steps"]) == (3, 1)
        assert torch.equal(found["rows"], found["oracle"])
    assert (first["shares"], second["shares"]) == ([9, 1], [8, 1])
