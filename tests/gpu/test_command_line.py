"""Trainings from the command line on a GPU: they mine, evaluate, and go on elsewhere."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmretrieval.cli import main

STAGE1 = Path(__file__).parents[2] / "configs/stage1.yaml"
SMALL = [
    "--data.init_args.size=64",
    "--data.init_args.batch_size=8",
    "--data.init_args.encoding_batch_size=64",
    "--trainer.limit_train_batches=3",
]
PICTURES = ("NegativesGallery", "RetrievalGallery", "EmbeddingProjector")
INDEXES = {
    "exact": {"class_path": "mmretrieval.index.ExactIndex", "init_args": {"precision": "bfloat16"}},
    "faiss": {"class_path": "mmretrieval.index.FaissIndex"},
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # of drivers, of torch's builds, and of small runs
]


@pytest.fixture(params=INDEXES)
def config(request, device, tmp_path, monkeypatch):
    """Stage 1 with an index, and without its pictures, which take time."""
    monkeypatch.setenv("MMRETRIEVAL_HOME", str(tmp_path / "home"))
    found = yaml.safe_load(STAGE1.read_text())
    index = dict(INDEXES[request.param])
    if request.param == "exact":
        index["init_args"] = {**index["init_args"], "device": device.type}
    callbacks = [c for c in found["trainer"]["callbacks"] if not c["class_path"].endswith(PICTURES)]
    for callback in callbacks:
        if callback["class_path"].endswith(("HardNegativeMining", "RetrievalEvaluation")):
            callback["init_args"]["index"] = index
    found["trainer"]["callbacks"] = callbacks
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def test_a_training_mines_and_evaluates_and_goes_on_on_a_cpu(config, tmp_path, device):
    out = tmp_path / "out"
    run = ["fit", "-c", str(config), f"--trainer.default_root_dir={out}", *SMALL]
    where = ["gpu", "bf16-mixed"] if device.type == "cuda" else ["cpu", "32-true"]
    options = [f"--trainer.accelerator={where[0]}", f"--trainer.precision={where[1]}"]
    main([*run, *options, "--trainer.max_epochs=2"])
    measured = json.loads((out / "metrics.json").read_text())
    assert len(measured["global"]) == 17  # 16 dataset-tasks and their average
    assert all(0 <= values["hit@5"] <= 1 for values in measured["global"].values())
    assert list((out / "negatives").iterdir())
    weights = adapter(out)
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    elsewhere = [
        "--trainer.accelerator=cpu",
        "--trainer.precision=32-true",
        f"--ckpt_path={out}/checkpoints/last.ckpt",
    ]
    settings = yaml.safe_load(config.read_text())
    for callback in settings["trainer"]["callbacks"]:
        callback.get("init_args", {}).pop("index", None)
    config.write_text(yaml.safe_dump(settings))
    main([*run, *elsewhere, "--trainer.max_epochs=3"])
    again = adapter(out)
    assert weights.keys() == again.keys()
    assert any(not torch.equal(weights[name], again[name]) for name in weights)
    assert json.loads((out / "metrics.json").read_text())["epochs"][-1]["epoch"] == 3


def adapter(out):
    (path,) = out.glob("*/adapter.safetensors")
    return load_file(path)
