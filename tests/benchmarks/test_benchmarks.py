"""The benchmarks run, in the smallest size."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from data_modules.synthetic.benchmark import write_benchmark
from data_modules.synthetic.text_benchmark import write_text_benchmark

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(monkeypatch, name, *options):
    monkeypatch.syspath_prepend(BENCHMARKS)  # as for a script
    monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


def test_encoder_speed_counts_time_and_work(monkeypatch, tmp_path):
    out = tmp_path / "speed.json"
    options = ["--shape", "tiny", "--rows", 4, "--text-tokens", 8, "--repeats", 1, "--json", out]
    run(monkeypatch, "encoder_speed.py", *options)
    encode, train = json.loads(out.read_text())["results"]
    assert (encode["work"], train["work"]) == ("encode", "train")
    work = [result["tflops"] * result["seconds"] for result in (encode, train)]
    assert work[1] > 1.4 * work[0]  # forward and backward, the vision tower aside, and the adapters
    assert encode["tokens_per_second"] == pytest.approx((4 * 8 + 2 * 16) / encode["seconds"])


@pytest.mark.slow
def test_kinds_of_negatives_are_compared(monkeypatch, tmp_path):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    out = tmp_path / "ablation.json"
    options = ["--variants", "in_batch", "percent_filter", "restart", "--seeds", 0, "--size", 64, "--jobs", 2]
    run(monkeypatch, "ablation.py", *options, "--out", tmp_path / "runs", "--json", out)
    runs = json.loads(out.read_text())["runs"]
    assert list(runs) == ["in_batch", "percent_filter", "restart"]
    assert (tmp_path / "runs/in_batch_0_2_64/negatives/round_0.npz").is_file()
    assert "PercentOfPositive" in (tmp_path / "runs/percent_filter_0_2_64/config.yaml").read_text()
    assert "start: " in (tmp_path / "runs/restart_0_2_64/config.yaml").read_text()
    assert all(0 <= value <= 1 for (measures,) in runs.values() for value in measures.values())


def test_training_at_once_differs_from_the_stages_in_the_order_alone(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    known = runpy.run_path(str(BENCHMARKS / "continual.py"), run_name="continual")
    stage1, stage2 = (known["read"](name) for name in ("stage1", "continual_text"))
    share = stage2["data"]["init_args"]["text_share"]
    together = known["at_once"](stage1, stage2, [75, 150], [50, 100])
    trainer, data = together["trainer"], together["data"]["init_args"]
    assert trainer["max_steps"] == trainer["max_epochs"] * data["batches_per_epoch"] == 250
    assert data["text_share"] * 250 == pytest.approx(share * 100), "as many text samples"
    of_class = {c["class_path"].split(".")[-1]: c.get("init_args", {}) for c in trainer["callbacks"]}
    mining = of_class["HardNegativeMining"]
    (staged,) = (c for c in stage2["trainer"]["callbacks"] if "HardNegativeMining" in c["class_path"])
    assert mining["plan"] == staged["init_args"]["plan"]
    assert "text:*" in mining["plan"]["data_sets"]
    assert mining["schedule"]["at_steps"] == [75, 150, 200], "after stage 1's first, before and in stage 2"
    assert all(step % data["batches_per_epoch"] == 0 for step in mining["schedule"]["at_steps"])
    assert of_class["TextEvaluation"]["every_n_epochs"] == trainer["max_epochs"]
    assert together["model"] == known["read"]("stage1")["model"]


@pytest.mark.slow
def test_orders_of_training_are_compared(monkeypatch, tmp_path):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    out = tmp_path / "continual.json"
    options = ["--seeds", 0, "--size", 64, "--epochs", 1, "--steps", 2, "--jobs", 2]
    run(monkeypatch, "continual.py", *options, "--out", tmp_path / "runs", "--json", out)
    runs = json.loads(out.read_text())["runs"]
    assert list(runs) == ["stage1", "continual", "at_once"]
    assert all(0 <= value <= 1 for (measures,) in runs.values() for value in measures.values())
    (folder,) = (tmp_path / "runs").glob("continual_0_*_64")
    start = json.loads((folder / "metrics.json").read_text())["start"]["global"]["average"]
    assert start["hit@5"] == runs["stage1"][0]["global hit@5"], "stage 2 begins where stage 1 ended"
    epochs = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["max_epochs"]
    together = yaml.safe_load((tmp_path / "runs/at_once.yaml").read_text())
    assert together["trainer"]["max_steps"] == 2 * (1 + epochs)
    (run_together,) = (tmp_path / "runs").glob("at_once_0_*_64")
    assert json.loads((run_together / "metrics.json").read_text())["epochs"][-1]["step"] == 2 * (1 + epochs)
    assert len([*run_together.glob("negatives/round_*.npz")]) == epochs


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_text_of_ones_own_is_measured_before_and_after_stage_2(monkeypatch, tmp_path):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    write_benchmark(tmp_path / "own", size=32, progress=False)
    write_text_benchmark(tmp_path / "texts", size=50)
    out = tmp_path / "unfamiliar.json"
    options = ["--seeds", 0, "--size", 64, "--epochs", 1, "--steps", 2, "--out", tmp_path / "runs"]
    options += ["--root", tmp_path / "own", "--text-root", tmp_path / "texts"]
    run(monkeypatch, "unfamiliar_text.py", *options, "--json", out)
    runs = json.loads(out.read_text())["runs"]
    assert list(runs) == ["start", "unfamiliar", "as_it_is"]
    names = ("ndcg@10", "mrr", "hit@10", "hit@100")
    for variant, epochs in (("unfamiliar", 3), ("as_it_is", 2)):
        text = json.loads((tmp_path / f"runs/{variant}_0_{epochs}_default/metrics_text.json").read_text())
        assert text["epochs"][-1]["step"] == 2 * epochs
        for values, part in ((runs["start"], text["start"]), (runs[variant], text)):
            assert values == [{name: part["local"]["average"][name] for name in names}]
    config = yaml.safe_load((tmp_path / "runs/unfamiliar_0_3_default/config.yaml").read_text())
    assert config["model"]["init_args"]["init_from"] == str(tmp_path / "runs/stage1_0_1_64")


@pytest.mark.slow
def test_poolings_are_compared_over_seeds(monkeypatch, tmp_path):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    out = tmp_path / "pooling.json"
    options = ["--variants", "mean_bidirectional", "--seeds", 0, "--epochs", 1, "--size", 64]
    run(monkeypatch, "pooling.py", *options, "--out", tmp_path / "runs", "--json", out)
    (measures,) = json.loads(out.read_text())["runs"]["mean_bidirectional"]
    assert 0 <= measures["hit@1"] <= measures["hit@5"] <= 1


@pytest.mark.slow
def test_gains_and_losses_of_reranking_are_tabulated(monkeypatch, tmp_path):
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    out = tmp_path / "gain.json"
    options = ["--seeds", 0, "--epochs", 1, "--size", 64, "--out", tmp_path / "runs", "--json", out]
    run(monkeypatch, "reranking_gain.py", *options)
    found = json.loads(out.read_text())
    (seed,) = found["runs"]
    assert 0 <= seed["weight"] <= 1
    assert len(seed["tasks"]) == 16
    composed = [orders["retriever"] for task, orders in seed["tasks"].items() if task[-1] in "678"]
    assert len(composed) == 6
    row = next(row for row in found["table"] if row[0].startswith("composed"))
    assert row[1] == f"{100 * sum(composed) / 6:.1f} ± 0.0"


def test_reranking_is_timed_beside_what_is_common(monkeypatch, tmp_path):
    out = tmp_path / "rerank.json"
    options = ["--shape", "tiny", "--query-tokens", 40, "--candidate-tokens", 8, "--count", 3, "--repeats", 1]
    run(monkeypatch, "rerank.py", *options, "--json", out)
    (result,) = json.loads(out.read_text())["results"]
    assert result["bound"] == pytest.approx(3 * 48 / (40 + 3 * 8))
    assert set(result["seconds"]) == {"shared prefix", "nothing shared", "a pass a pair", "generate"}
    assert max(result["distance"].values()) < 1e-5
