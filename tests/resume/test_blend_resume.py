"""A blend that is killed and resumed keeps its samples and its shares, over ranks and workers."""

import json
from functools import partial

import pytest
from training_runs import EPOCHS, STEPS, TEXT_SHARE, as_rank, fit

from callbacks import BlendShares

BATCH = 10
KILLED_AT = ("step starts", 9)  # within the second epoch, after a round of mining
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*last checkpoint available"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes"),  # two cores will do
    pytest.mark.filterwarnings("ignore:Mining found no negative"),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two text data sets of different sizes."""
    root = tmp_path_factory.mktemp("texts")
    for name, count in (("large", 48), ("small", 16)):
        rows = (json.dumps([f"{name} question {n}", f"{name} answer {n}"]) + "\n" for n in range(count))
        (root / f"{name}.jsonl").write_text("".join(rows))
    return root


def counted(base, folder, texts, world=1, workers=0, kill_at=None, resume=False):
    shares = BlendShares()
    settings = {"world": world, "workers": workers, "batch": BATCH, "dropout": 0.0, "text_root": texts}
    run = fit(base, folder, kill_at, resume, every_n_steps=4, callbacks=[shares], **settings)
    return {step: queries for step, (queries, _) in run.stream.items()}, shares.counts


def killed_and_resumed(base, folder, texts, world=1, workers=0):
    before, _ = counted(base, folder, texts, world, workers, KILLED_AT)
    after, counts = counted(base, folder, texts, world, workers, resume=True)
    assert min(after) < max(before), "some steps are done again"
    return before | after, counts


@pytest.fixture(scope="module")
def whole(embedded_home, tiny_mllm, texts, tmp_path_factory):
    return counted(tiny_mllm, tmp_path_factory.mktemp("whole"), texts)


def test_the_shares_of_a_whole_run_are_those_asked_for(whole):
    _, counts = whole
    total = STEPS * EPOCHS * BATCH
    asked = {"multimodal": 1 - TEXT_SHARE, "large_task1": 0.75 * TEXT_SHARE, "small_task1": 0.25 * TEXT_SHARE}
    assert sum(counts.values()) == total
    assert counts.keys() == asked.keys()
    for source, share in asked.items():
        assert abs(counts[source] - share * total) <= 1, "rounding alone, as shares are apportioned"


@pytest.mark.parametrize("workers", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_run_keeps_samples_and_shares(tiny_mllm, texts, whole, tmp_path, workers):
    assert killed_and_resumed(tiny_mllm, tmp_path, texts, workers=workers) == whole


def _on_two_ranks(base, folder, texts, workers, rank, world):
    as_rank(rank, world)
    stream, counts = killed_and_resumed(base, folder, texts, world, workers)
    return {"stream": stream, "counts": counts}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [0, 3])
def test_two_ranks_share_the_samples_of_one_and_its_shares(
    run_on_ranks, tiny_mllm, texts, whole, tmp_path, workers
):
    parts = run_on_ranks(partial(_on_two_ranks, tiny_mllm, tmp_path / "run", texts, workers), 2)
    stream, counts = whole
    assert [part["counts"] for part in parts] == [counts] * 2
    for step, queries in stream.items():
        assert [query for part in parts for query in part["stream"][step]] == queries
