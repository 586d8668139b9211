"""The benchmark of searches runs in the smallest size, and all that is exact finds the same."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import faiss
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = ["--candidates", "900", "--dims", "16", "--queries", "3", "--k", "5", "--repeats", "1"]


@pytest.fixture
def threads():
    """The benchmark sets how many threads there are, for all that comes after it."""
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    yield 1
    torch.set_num_threads(before[0])
    faiss.omp_set_num_threads(before[1])


def test_all_variants_find_the_same(monkeypatch, tmp_path, threads):
    out = tmp_path / "search.json"
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["search.py", *SMALL, "--threads", str(threads), "--json", str(out)])
    runpy.run_path(str(BENCHMARKS / "search.py"), run_name="__main__")
    found = json.loads(out.read_text())
    results = {result["variant"]: result for result in found["results"]}
    assert len(results) == 9
    assert all(result["equal"] == 1 for result in results.values())
    assert results["ours, ExactIndex, groups=[1]"]["vectors"] == 300
    assert results["faiss, tuned"]["speed"] == 1
    assert found["versions"]["faiss"] != "not installed"


@pytest.mark.slow
def test_a_core_type_is_set_before_the_process_starts(tmp_path):
    out = tmp_path / "search.json"
    command = [sys.executable, str(BENCHMARKS / "search.py"), *SMALL, "--coretype", "Haswell", "--json", out]
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    subprocess.run([*map(str, command)], check=True, capture_output=True, env=environment, timeout=200)
    assert json.loads(out.read_text())["OPENBLAS_CORETYPE"] == "Haswell"
