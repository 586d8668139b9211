"""A run that was stopped anywhere and resumed equals one that never stopped: same samples, same weights."""

import os
import random

import pytest
from training_runs import EPOCHS, STEPS, fit

SEEDS = int(os.environ.get("RESUME_SEEDS", "3"))
"""How many runs with random points of death; ``RESUME_SEEDS=20 pytest tests/resume`` for the whole matrix."""


@pytest.fixture(scope="module")
def whole(embedded_home, tiny_mllm, tmp_path_factory):
    run = fit(tiny_mllm, tmp_path_factory.mktemp("whole"))
    assert len(run.stream) == STEPS * EPOCHS
    sizes = [len(keys) for _, keys in run.stream.values()]
    assert sizes[0] < sizes[-1]  # mined negatives are in the batches, so that mining matters
    return run.stream, run.module.weights_hash()


def points(seed):
    """Where a run is killed, and where its continuation is."""
    draw = random.Random(seed)
    places = ("step starts", "between backward and update", "step ended", "mining starts", "mining ended")
    chosen = []
    for _ in range(2):
        place = draw.choice(places)
        chosen.append((place, draw.randrange(2) if place.startswith("mining") else draw.randrange(1, 18)))
    return chosen


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.filterwarnings("ignore:.*last checkpoint available")
def test_a_run_killed_anywhere_goes_on_as_if_never_stopped(tiny_mllm, whole, tmp_path, seed):
    expected, weights = whole
    for number, point in enumerate([*points(seed), None]):
        run = fit(tiny_mllm, tmp_path, point, resume=number > 0, every_n_steps=4 + seed % 3)
        assert [step for step, seen in run.stream.items() if seen != expected[step]] == [], point
        if run.finished:
            break
    assert run.module.weights_hash() == weights
    assert max(run.stream) == max(expected)
