"""All variants of the training step compute the same, in the smallest size."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(monkeypatch, *options):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["train_step.py", *map(str, options)])
    runpy.run_path(str(BENCHMARKS / "train_step.py"), run_name="__main__")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark") / "train_step.json"
    options = ["--queries", 4, "--rows", 2, "--kept", 0.5, 0, "--repeats", 1, "--double", "--json", out]
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, *options)
    return json.loads(out.read_text())


@pytest.fixture
def results(found):
    return {result["variant"]: result for result in found["results"]}


@pytest.mark.slow
def test_all_variants_have_the_loss_and_gradients_of_the_plain_step(results):
    assert len(results) == 6
    plain = results["plain, whole batch"]
    for result in results.values():
        assert result["loss"] == pytest.approx(plain["loss"], rel=1e-10)
        assert result["gradient_difference"] < 1e-10
        assert result["seconds"] > 0
    differences = [result["gradient_difference"] for result in results.values()]
    assert max(differences) > 0  # they did not all read the same gradients


@pytest.mark.slow
def test_our_tower_runs_once_per_picture_and_the_peers_twice(results):
    plain, ours = results["plain, whole batch"], results["ours, 0% kept"]
    peer = results["sentence-transformers"]
    assert (ours["tower_calls"], ours["pictures"]) == (1, plain["pictures"])
    assert peer["pictures"] == 2 * plain["pictures"] > 0
    assert peer["tower_calls"] > 1


@pytest.mark.slow
def test_tokens_are_counted_with_what_is_computed_again(results):
    once, half, twice = (
        results[name]["tokens"] for name in ("plain, sorted chunks", "ours, 50% kept", "ours, 0% kept")
    )
    assert once < half < twice == 2 * once
    efficiency = {name: result["padding_efficiency"] for name, result in results.items()}
    assert efficiency["plain, whole batch"] < efficiency["plain, sorted chunks"] <= 1


@pytest.mark.slow
def test_chunks_computed_again_take_less_memory(results):
    plain, kept, again = (
        results[name]["peak_bytes"]
        for name in ("plain, whole batch", "plain, sorted chunks", "ours, 0% kept")
    )
    assert 0 < again < 0.7 * kept < kept < plain


@pytest.mark.slow
def test_conditions_are_written_down(found):
    assert {"torch", "transformers", "sentence-transformers"} <= set(found["versions"])
    assert found["threads"] > 0
    assert found["dtype"] == "torch.float64"
    assert found["flops"] > 0
