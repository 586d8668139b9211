"""A run that was stopped anywhere and resumed equals one that never stopped: same samples, same weights."""

import os
import random

import pytest
from training_runs import EPOCHS, STEPS, fit

from callbacks import MiningSchedule

SEEDS = int(os.environ.get("RESUME_SEEDS", "3"))
"""How many runs with random points of death; ``RESUME_SEEDS=20 pytest tests/resume`` for the whole matrix."""


@pytest.fixture(scope="module")
def whole(embedded_home, tiny_mllm, tmp_path_factory):
    run = fit(tiny_mllm, tmp_path_factory.mktemp("whole"))
    assert len(run.stream) == STEPS * EPOCHS
    sizes = [len(keys) for _, keys in run.stream.values()]
    assert sizes[0] < sizes[-1]  # mined negatives are in the batches, so that mining matters
    return run.stream, run.module.weights_hash()


WITHIN = MiningSchedule(at_steps=[4, 6, 15])


@pytest.fixture(scope="module")
def within_epochs(embedded_home, tiny_mllm, tmp_path_factory):
    run = fit(tiny_mllm, tmp_path_factory.mktemp("within"), rounds=WITHIN)
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


def test_given_steps_at_ends_of_epochs_train_as_rounds_after_epochs(tiny_mllm, whole, tmp_path):
    rounds = MiningSchedule(every_n_epochs=None, at_steps=[STEPS, 2 * STEPS])
    run = fit(tiny_mllm, tmp_path, rounds=rounds)
    assert (run.stream, run.module.weights_hash()) == whole


@pytest.mark.filterwarnings(
    "ignore:.*last checkpoint available", "ignore:This DataLoader will create 2 worker"
)
@pytest.mark.parametrize("point", [("mining starts", 0), ("mining ended", 1), ("step ended", 4)])
def test_rounds_at_given_steps_within_epochs_reach_the_next_batch_and_are_resumed(
    tiny_mllm, tmp_path, within_epochs, point
):
    """Whatever workers read ahead, and wherever the run was killed."""
    expected, weights = within_epochs
    fit(tiny_mllm, tmp_path, point, rounds=WITHIN)
    run = fit(tiny_mllm, tmp_path, resume=True, workers=2, rounds=WITHIN)
    assert [step for step, seen in run.stream.items() if seen != expected[step]] == []
    assert run.module.weights_hash() == weights
    sizes = {step: len(keys) for step, (_, keys) in expected.items()}
    assert max(sizes[step] for step in range(4)) < min(sizes[step] for step in range(4, STEPS * EPOCHS))
