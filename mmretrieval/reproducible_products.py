"""Matrix products on Intel processors whose rows have the same bits in products of any size."""

from __future__ import annotations

import os
from pathlib import Path

_VARIABLE = "MKL_CBWR"
_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


def ask_for_reproducible_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Tell MKL, which torch multiplies with, to sum in one order whatever the size of a product.

    By itself MKL chooses on Intel processors how to multiply by the number of rows, so that an embedding has
    other last bits in a small batch than in a large one. Its strict mode does not, and costs no time that
    shows. It reads the environment at its first product, which must be yet to come; a setting that is there
    is left alone. Elsewhere nothing is set: on other makers' processors it would turn to a slow path.

    Args:
        cpuinfo: What Linux tells of the processors; without such a file nothing is set.
    """
    if _VARIABLE in os.environ or not cpuinfo.is_file():
        return
    if mode := strict_mode(cpuinfo.read_text(encoding="utf-8", errors="replace")):
        os.environ[_VARIABLE] = mode


def strict_mode(cpuinfo: str) -> str | None:
    """MKL's strict mode for a processor; ``None`` if it has none.

    Args:
        cpuinfo: Lines ``name : value``, an empty one after each processor. The first one counts.
    """
    lines = (line.partition(":") for line in cpuinfo.split("\n\n", 1)[0].splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    if facts.get("vendor_id") != "GenuineIntel":
        return None
    flags = set(facts.get("flags", "").split())
    if flags >= _AVX512:
        return "AVX512,STRICT"
    return "AVX2,STRICT" if "avx2" in flags else None
