"""What cards can do at most, to say what share of it a pass reached."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

import torch

BF16_TFLOPS: Mapping[str, float] = {
    r"H200": 989,
    r"H200 NVL": 835,
    r"H100 \d+GB HBM\w+": 989,  # SXM
    r"H100 NVL": 835,
    r"H100 PCIe": 756,
    r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe": 312,
    r"L40S": 362,
    r"GeForce RTX 4090": 165,
}
"""Dense bfloat16 TFLOP/s of the maker's data sheets, by patterns of the whole name that CUDA gives a card.

Slices (MIG), laptops' and other variants have other peaks, so that nothing may be left over of a name.
"""


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peak", type=positive, help="dense bfloat16 TFLOP/s of the card; known for common ones"
    )


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of TFLOP/s")
    return value


def peak_of(device: torch.device, given: float | None) -> float | None:
    """Return FLOP/s: what was given, else the data sheet's; ``None`` on a CPU and for an unknown card."""
    if device.type != "cuda":
        return None
    tflops = tflops_of(torch.cuda.get_device_name(device)) if given is None else given
    return None if tflops is None else tflops * 1e12


def tflops_of(name: str) -> float | None:
    """Return TFLOP/s of a card by the name that CUDA gives it; ``None`` where it is not known."""
    card = name.removeprefix("NVIDIA ")
    return next((peak for pattern, peak in BF16_TFLOPS.items() if re.fullmatch(pattern, card)), None)


def heading(device: torch.device, peak: float | None) -> str:
    """The title of the column with MFU."""
    if peak is not None:
        return f"MFU of {peak / 1e12:g} TFLOP/s"
    return "MFU" if device.type != "cuda" else "unknown card: no MFU (give --peak)"
