"""Which setting MKL gets, and that rows of products then do not depend on the others."""

import os
import subprocess
import sys

import pytest

from mmretrieval.reproducible_products import ask_for_reproducible_products, strict_mode

AVX512 = "fpu sse2 avx avx2 avx512f avx512dq avx512cd avx512bw avx512vl"
PRODUCTS = """
import torch, mmretrieval
torch.manual_seed(0)
torch.set_num_threads(1)
for inner, outer in ((64, 64), (192, 192), (192, 768), (768, 192)):
    rows, weights = torch.randn(1024, inner), torch.randn(outer, inner)
    whole = torch.nn.functional.linear(rows, weights)
    for count in (16, 48, 64, 80, 256, 1000):
        part = torch.nn.functional.linear(rows[:count], weights)
        assert torch.equal(part, whole[:count]), (inner, outer, count)
"""


def cpuinfo(vendor, flags):
    processor = f"processor\t: {{}}\nvendor_id\t: {vendor}\nmodel name\t: Some: CPU\nflags\t\t: {flags}\n"
    return processor.format(0) + "\n" + processor.format(1) + "\n"


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (cpuinfo("GenuineIntel", AVX512), "AVX512,STRICT"),
        (cpuinfo("GenuineIntel", AVX512.replace("avx512bw", "")), "AVX2,STRICT"),
        (cpuinfo("GenuineIntel", "fpu sse2 avx"), None),
        (cpuinfo("AuthenticAMD", AVX512), None),
        ("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n", None),
        ("", None),
    ],
)
def test_only_intel_processors_get_a_strict_mode(text, mode, monkeypatch, tmp_path):
    assert strict_mode(text) == mode
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.delenv("MKL_CBWR", raising=False)
    ask_for_reproducible_products(tmp_path / "cpuinfo")
    assert os.environ.get("MKL_CBWR") == mode


def test_a_setting_of_ones_own_is_kept_and_a_missing_file_sets_nothing(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(cpuinfo("GenuineIntel", AVX512))
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    ask_for_reproducible_products(tmp_path / "cpuinfo")
    assert os.environ["MKL_CBWR"] == "AVX2"
    monkeypatch.delenv("MKL_CBWR")
    ask_for_reproducible_products(tmp_path / "none")
    assert "MKL_CBWR" not in os.environ


def test_rows_of_a_product_do_not_depend_on_how_many_there_are():
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    run = subprocess.run([sys.executable, "-c", PRODUCTS], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
