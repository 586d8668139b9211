"""What a pass needs at least, counted by hand, and the peak that it is compared with."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest
import torch
from encoders import make
from tiny_families import make_tiny

from mmretrieval.content import Candidate, Content

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WIDTH, INNER, LAYERS, KEYS, RANK = 64, 128, 2, 32, 2
MATRICES = LAYERS * (2 * WIDTH * WIDTH + 2 * WIDTH * KEYS + 3 * WIDTH * INNER)
NORMS = WIDTH * (2 * LAYERS + 1)
ADAPTERS = LAYERS * RANK * (2 * 2 * WIDTH + 2 * (WIDTH + KEYS) + 3 * (WIDTH + INNER))


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # as for a script
    return importlib.import_module


@pytest.mark.parametrize("bidirectional", [False, True])
def test_texts_need_what_the_formulas_say(benchmark, tmp_path, bidirectional):
    encoder = make(make_tiny("llava", tmp_path), bidirectional=bidirectional)
    pool = [Candidate(Content(text)) for text in ("a red star", "b")]
    inputs = encoder.input_processor.candidates(pool)
    lengths = inputs.attention_mask.sum(dim=1).tolist()
    assert lengths[0] > lengths[1]
    tokens, squares = sum(lengths), sum(length**2 for length in lengths)
    pairs = (4 if bidirectional else 2) * LAYERS * WIDTH * squares
    products = 2 * (MATRICES + NORMS) * tokens
    flops = benchmark("flops").Flops(encoder, inputs)
    assert flops.vision == 0
    assert flops.encode == products + pairs
    assert flops.train == 2 * products + 3 * pairs + 6 * ADAPTERS * tokens


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H20", None),
        ("NVIDIA GH200 480GB", None),
        ("Tesla T4", None),
    ],
)
def test_a_card_has_its_own_peak_and_an_unknown_one_has_none(benchmark, monkeypatch, name, peak):
    peaks = benchmark("peaks")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    device = torch.device("cuda")
    found = peaks.peak_of(device, None)
    assert found == (None if peak is None else peak * 1e12)
    title = peaks.heading(device, found)
    assert title == ("unknown card: no MFU (give --peak)" if peak is None else f"MFU of {peak} TFLOP/s")
    assert peaks.peak_of(device, 500.0) == 500e12
    assert peaks.peak_of(torch.device("cpu"), 500.0) is None


def test_a_peak_is_a_positive_number(benchmark):
    peaks = benchmark("peaks")
    assert peaks.positive("1.5") == 1.5
    for text in ("0", "-1", "inf", "nan"):
        with pytest.raises(argparse.ArgumentTypeError):
            peaks.positive(text)
