"""The `lightning` command on several processes, and what it does when it is asked to end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
LIGHTNING, TORCHRUN = (str(Path(sys.executable).with_name(name)) for name in ("lightning", "torchrun"))
SMALL = [
    "--data.init_args.size=64",
    "--data.init_args.global_batch_size=16",
    "--model.init_args.encoder.init_args.chunks.kept=0.5",
]

pytestmark = pytest.mark.slow


def command(out, *options, overlay=None):
    words = [LIGHTNING, "fit", "-c", "configs/stage1.yaml"]
    if overlay is not None:
        words += ["-c", f"configs/hardware/{overlay}.yaml", "--trainer.precision=32-true"]
    words += ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={out}"]
    return [*words, *SMALL, *options]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return {**os.environ, "MMRETRIEVAL_HOME": str(home), "OMP_NUM_THREADS": "1"}


def run(words, environment):
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def results(out):
    metrics = json.loads((out / "metrics.json").read_text())
    checkpoint = torch.load(out / "checkpoints/last.ckpt", weights_only=True)
    return metrics["global"]["average"], checkpoint


@pytest.fixture(scope="module")
def single(environment, tmp_path_factory):
    out = tmp_path_factory.mktemp("single")
    run(command(out, "--trainer.max_epochs=2"), environment)
    return results(out)


@pytest.mark.parametrize(
    ("overlay", "launcher"),
    [("ddp", [TORCHRUN, "--standalone", "--nproc_per_node=2", "--no-python"]), ("fsdp_8gpu", [])],
    ids=["ddp-torchrun", "fsdp-lightning"],
)
def test_two_processes_train_mine_and_evaluate_as_one(single, environment, tmp_path, overlay, launcher):
    words = command(tmp_path, "--trainer.devices=2", "--trainer.max_epochs=2", overlay=overlay)
    run([*launcher, *words], environment)
    (expected, one), (found, two) = single, results(tmp_path)
    assert two["global_step"] == one["global_step"] > 0
    assert two["state_dict"].keys() == one["state_dict"].keys()
    assert not any("vision_tower" in name for name in two["state_dict"])
    for name, tensor in one["state_dict"].items():
        assert type(two["state_dict"][name]) is torch.Tensor  # no shard
        torch.testing.assert_close(two["state_dict"][name], tensor, rtol=0.02, atol=0.02)
    assert found["hit@5"] == pytest.approx(expected["hit@5"], abs=0.05)


def test_sigterm_saves_ends_with_its_status_and_resumes_to_the_same_weights(single, environment, tmp_path):
    words = command(tmp_path, "--trainer.max_epochs=2")
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    saved = tmp_path / "checkpoints/last.ckpt"
    deadline = time.monotonic() + 200
    while not saved.exists() and time.monotonic() < deadline and started.poll() is None:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    assert started.wait(100) == 143, (tmp_path / "log").read_text()[-3000:]
    assert torch.load(saved, weights_only=True)["global_step"] < single[1]["global_step"]
    run([*words, "--ckpt_path=last"], environment)
    (expected, one), (found, two) = single, results(tmp_path)
    assert found == expected
    for name, tensor in one["state_dict"].items():
        assert torch.equal(two["state_dict"][name], tensor)


def test_two_processes_rerank_as_one(environment, single, tmp_path_factory, tmp_path):
    # The fixture's run is one of the small benchmark; its files are what is reranked.
    found = next(Path(tmp_path_factory.getbasetemp()).glob("single*/runs"))
    words = [
        LIGHTNING,
        "predict",
        "-c",
        "configs/rerank.yaml",
        f"--data.runs={found}",
        "--data.init_args.size=64",
    ]
    words += ["--data.init_args.files=[global_*]", "--trainer.accelerator=cpu"]
    run([*words, f"--trainer.default_root_dir={tmp_path / 'one'}"], environment)
    more = ["--trainer.devices=2", "--trainer.strategy=ddp", f"--trainer.default_root_dir={tmp_path / 'two'}"]
    run([*words, *more], environment)
    one, two = (json.loads((tmp_path / f"{name}/metrics_rerank.json").read_text()) for name in ("one", "two"))
    assert one["after"] == two["after"]
    assert len(list((tmp_path / "two/scores").iterdir())) == 2
    for file in (tmp_path / "one/runs_rerank").iterdir():
        assert file.read_bytes() == (tmp_path / "two/runs_rerank" / file.name).read_bytes()
