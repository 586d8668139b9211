"""What a run ran on: versions and machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch
from lightning.pytorch import Trainer

_PACKAGES = (
    "mmretrieval",
    "torch",
    "lightning",
    "transformers",
    "peft",
    "torchmetrics",
    "faiss-gpu",
    "faiss-cpu",
    "numpy",
)


def environment(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Name and value of each fact."""
    yield "python", platform.python_version()
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue  # one of the two FAISS packages, or a source tree that is not installed
    yield "system", platform.platform()
    yield "processors", str(os.cpu_count())
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    yield "device", f"{trainer.world_size} x {name}"
