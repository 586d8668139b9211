"""Starts a function on several gloo ranks."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ROOT = Path(__file__).resolve().parents[2]


def _start(rank, worker, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        torch.save(worker(rank, world), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture
def run_on_ranks(tmp_path, monkeypatch):
    """``run_on_ranks(worker, world)`` returns what ``worker(rank, world)`` returned on each rank."""
    # Spawned processes inherit sys.path; with the root on it they can import the test module of the worker.
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])

    def run(worker, world=2):
        mp.spawn(_start, (worker, world, tmp_path), nprocs=world)
        return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]

    return run
