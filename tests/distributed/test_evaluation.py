"""The results of `lightning test` are the same bytes on any number of ranks, workers and contents a batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIGHTNING = str(Path(sys.executable).with_name("lightning"))
RANKS = ["--trainer.devices=2", "--trainer.strategy=ddp"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def results(out, environment, *options):
    words = [LIGHTNING, "test", "-c", "configs/evaluate.yaml", "--trainer.accelerator=cpu"]
    words += [f"--trainer.default_root_dir={out}", "--data.init_args.size=64", *options]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        str(path.relative_to(out)): path.read_bytes()
        for pattern in ("*_test.json", "report_test.md", "uniir_test.tsv", "runs_test/*")
        for path in sorted(out.glob(pattern))
        if not path.name.startswith("environment")  # the one file with times and machine
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    return {**os.environ, "MMRETRIEVAL_HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def usual(environment, tmp_path_factory):
    return results(tmp_path_factory.mktemp("usual"), environment, "--data.init_args.encoding_batch_size=64")


@pytest.mark.parametrize(
    "options",
    [
        [*RANKS, "--data.init_args.encoding_batch_size=64"],
        ["--data.init_args.num_workers=3", "--data.init_args.encoding_batch_size=64"],
        ["--data.init_args.encoding_batch_size=1"],
        [
            "--data.init_args.encoding_batch_size=48",
            "--model.init_args.encoder.init_args.chunks.tokens=900",
        ],
    ],
    ids=["two ranks", "three workers", "one content a batch", "a budget of tokens"],
)
def test_an_evaluation_is_the_same_bytes(usual, environment, tmp_path, options):
    found = results(tmp_path, environment, *options)
    assert {"metrics_test.json", "report_test.md", "uniir_test.tsv"} < usual.keys()
    assert len([name for name in usual if name.endswith(".trec")]) == 32
    assert found.keys() == usual.keys()
    assert [name for name in usual if found[name] != usual[name]] == []
