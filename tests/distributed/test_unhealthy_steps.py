"""A rank whose numbers are not finite: the step counts for no rank, and many in a row end all by name."""

import time
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from training_runs import EPOCHS, STEPS, as_rank, fit

from mmretrieval.errors import UserError

pytestmark = pytest.mark.slow


class Poison(Callback):
    """Makes the pictures of rank 1 not a number in some steps."""

    def __init__(self, steps):
        self.steps, self.began = steps, 0.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step in self.steps:
            self.began = self.began or time.monotonic()
            if trainer.global_rank == 1:
                assert batch.inputs.pictures.pixels.numel()
                batch.inputs.pictures.pixels.fill_(torch.nan)


def _finite(tensors):
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors if tensor.is_floating_point())


def _worker(base, folder, rank, world):
    as_rank(rank, world)
    run = fit(base, folder / "some", batch=9, world=world, dropout=0.0, callbacks=[Poison({2, 7, 8})])
    saved = torch.load(folder / "some/checkpoints/last.ckpt", weights_only=True)
    results = {
        "skipped": run.module.health.skipped,
        "weights": run.module.weights_hash(),
        "finite": _finite(run.module.state_dict().values()) and _finite(saved["state_dict"].values()),
        "steps": sorted(run.stream),
        "shares": {len(queries) for queries, _ in run.stream.values()},
    }
    poison = Poison(set(range(3, 99)))
    try:
        fit(base, folder / "all", batch=9, world=world, callbacks=[poison], max_skipped_steps=2)
    except UserError as error:
        results["error"] = str(error)
        results["seconds"] = time.monotonic() - poison.began
    return results


def test_a_rank_with_nan_skips_the_step_everywhere_or_ends_the_run(
    embedded_home, run_on_ranks, tiny_mllm, tmp_path
):
    ranks = run_on_ranks(partial(_worker, tiny_mllm, tmp_path))
    for result, share in zip(ranks, (5, 4), strict=True):
        assert result["skipped"] == 3
        assert result["finite"]
        assert result["steps"] == list(range(STEPS * EPOCHS))
        assert result["shares"] == {share}
        assert result["error"].startswith("2 steps in a row had a loss or a gradient that is not finite")
        assert len(result["error"].split("last batch: ")[1].split(", ")) == share  # the ids of its queries
        assert result["seconds"] < 30
    assert ranks[0]["weights"] == ranks[1]["weights"]
