"""A run that is killed and resumed on other numbers of ranks sees the samples of one that never changed."""

import os
import random
from functools import partial

import pytest
import torch
from training_runs import EPOCHS, STEPS, as_rank, fit

SEEDS = int(os.environ.get("RESUME_SEEDS", "1"))
BATCH = 9  # shared by two ranks as 5 and 4

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*last checkpoint available")]


def points(seed):
    """Steps at which the run on one rank is killed, and then that on two."""
    draw = random.Random(seed)
    first = draw.randrange(2, STEPS * EPOCHS - 4)
    return first, draw.randrange(first + 2, STEPS * EPOCHS - 1)


def _on_two_ranks(base, folder, seeds, rank, world):
    as_rank(rank, world)
    streams = []
    for seed in range(seeds):
        kill_at = ("step starts", points(seed)[1])
        run = fit(base, folder / str(seed), kill_at, True, 2, BATCH, dropout=0.0, world=world)
        assert not run.finished
        streams.append(run.stream)
    return streams


def _on_three_ranks(base, folder, rank, world):
    as_rank(rank, world)
    run = fit(base, folder, None, True, 2, BATCH, dropout=0.0, world=world)
    return {"stream": run.stream, "weights": run.module.weights_hash()}


def test_what_two_ranks_saved_goes_on_with_three(embedded_home, run_on_ranks, tiny_mllm, tmp_path):
    whole = fit(tiny_mllm, tmp_path / "whole", batch=BATCH, dropout=0.0)
    fit(tiny_mllm, tmp_path / "0", ("step starts", points(0)[0]), every_n_steps=2, batch=BATCH, dropout=0.0)
    run_on_ranks(partial(_on_two_ranks, tiny_mllm, tmp_path, 1), 2)
    parts = run_on_ranks(partial(_on_three_ranks, tiny_mllm, tmp_path / "0"), 3)
    assert len({part["weights"] for part in parts}) == 1
    streams = [part["stream"] for part in parts]
    assert points(0)[1] in streams[0]  # what two ranks did not do
    for step in streams[0]:
        shares = [stream[step][0] for stream in streams]
        assert [len(share) for share in shares] == [3, 3, 3]
        assert [query for share in shares for query in share] == whole.stream[step][0]


@pytest.mark.timeout(1800)
def test_one_two_and_one_ranks_share_one_stream(embedded_home, run_on_ranks, tiny_mllm, tmp_path):
    settings = {"every_n_steps": 2, "batch": BATCH, "dropout": 0.0}
    whole = fit(tiny_mllm, tmp_path / "whole", **settings)
    expected = {step: queries for step, (queries, _) in whole.stream.items()}
    firsts = []
    for seed in range(SEEDS):
        kill_at = ("between backward and update", points(seed)[0])
        firsts.append(fit(tiny_mllm, tmp_path / str(seed), kill_at, **settings))
    parts = run_on_ranks(partial(_on_two_ranks, tiny_mllm, tmp_path, SEEDS), 2)
    for seed in range(SEEDS):
        last = fit(tiny_mllm, tmp_path / str(seed), resume=True, workers=1, **settings)
        seen = {step: queries for step, (queries, _) in firsts[seed].stream.items()}
        low, high = (part[seed] for part in parts)
        assert low.keys() == high.keys()
        assert {len(low[step][0]) for step in low} == {5}
        seen |= {step: low[step][0] + high[step][0] for step in low}
        seen |= {step: queries for step, (queries, _) in last.stream.items()}
        assert seen == expected
        assert points(seed)[0] in low  # the step that was killed was done by two ranks
        assert points(seed)[1] in last.stream
        _close(last.module, whole.module)


def _close(module, expected):
    """Ranks add up gradients in another order, so weights are close and not equal."""
    trained = {name: p for name, p in expected.named_parameters() if p.requires_grad}
    found = dict(module.named_parameters())
    assert trained
    for name, parameter in trained.items():
        torch.testing.assert_close(found[name], parameter, rtol=1e-2, atol=1e-3)
