import os
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import settings
from PIL import Image

from mmretrieval.encoder.small_mllm import SmallMLLM

settings.register_profile("default", deadline=None)  # a busy machine is no failure
settings.load_profile("default")

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each of the processes that share the cores
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

TINY = SmallMLLM(
    vocabulary=300,
    image_side=32,
    patch_side=16,
    vision_width=32,
    vision_layers=1,
    width=64,
    layers=2,
    mlp_width=128,
)
ROOT = Path(__file__).resolve().parents[1]
TEXTS = ("a red star on white paper", "Instruct: find a picture", "Query: two blue circles") * 5


@pytest.fixture(scope="session")
def tiny_mllm(tmp_path_factory):
    """Folder of a LLaVA-NeXT of a few thousand parameters, with its real processor and tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_mllm")
    tokenizer = TINY.tokenizer(TEXTS)
    TINY.model(tokenizer, seed=0).save_pretrained(folder)
    TINY.processor(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def picture():
    """A 40 × 24 picture of noise."""
    pixels = torch.randint(0, 256, (24, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def _start(rank, worker, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        torch.save(worker(rank, world), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture
def run_on_ranks(tmp_path, monkeypatch):
    """``run_on_ranks(worker, world)`` returns what ``worker(rank, world)`` returned on each gloo rank."""
    # Spawned processes inherit sys.path; with the root on it they can import the test module of the worker.
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])

    def run(worker, world=2):
        mp.spawn(_start, (worker, world, tmp_path), nprocs=world)
        return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]

    return run


@pytest.fixture(scope="module")
def embedded_home(tmp_path_factory):
    """A new place for what is made on first use, so that tests of one benchmark draw it once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMRETRIEVAL_HOME", str(tmp_path_factory.mktemp("home")))
        yield
