"""Search, side by side: our indexes, faiss as it comes and tuned, and sentence-transformers.

    python benchmarks/search.py --json search.json
    python benchmarks/search.py --device cuda --candidates 500000 --dims 1536 --queries 1024 --json s.json
    python benchmarks/search.py --coretype SkylakeX --candidates 200000 --dims 512 1024 --queries 64 1024

All variants search the same unit vectors in one process, one after the other in each round, in an order that
is drawn anew each time and with a pause before each: a library's threads wait actively for a while after its
work, and would slow down whatever is always next. Times are medians over rounds. "equal" is the share of
labels, place by place, that are those of float64 brute force for some of the queries. A modality filter is
measured beside a search of only that modality's vectors. faiss' OpenBLAS chooses its kernels when the process
starts: --coretype starts it again with that setting. ``--device cuda`` measures searches on a GPU, of the
whole pool; the reference then is a plain product in torch, whose pool the GPU holds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from search_variants import (
    ASKED,
    MODALITIES,
    REFERENCE,
    Floats,
    Labels,
    Search,
    filtered,
    on_a_gpu,
    unfiltered,
)

CORETYPE = "OPENBLAS_CORETYPE"
PAUSE = 0.3
"""Seconds."""
CHECKED = 64
"""Queries that are compared with brute force."""


@dataclass(frozen=True)
class Result:
    """What was measured of one variant on one size.

    Args:
        variant: Its name.
        dim: Dimension of the vectors.
        queries: How many queries were asked at once.
        vectors: How many vectors they were compared with.
        all_seconds: Time of each round.
        seconds: Their median.
        gflops: Billions of operations a second, of those that a plain matrix product has.
        speed: Speed relative to the reference, from the ratios of each round; the median.
        equal: Share of labels equal to those of brute force in float64.
    """

    variant: str
    dim: int
    queries: int
    vectors: int
    all_seconds: tuple[float, ...]
    seconds: float
    gflops: float
    speed: float
    equal: float


def main() -> None:
    arguments = parse()
    restart_with(arguments.coretype)
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    facts = machine(arguments)
    Console().print(facts)
    results = [result for dim in arguments.dims for result in measure(dim, arguments)]
    show(results)
    if arguments.json:
        found = {**facts, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def parse() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[512])
    parser.add_argument("--queries", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--coretype", help=f"{CORETYPE}, as SkylakeX, Zen or Haswell")
    parser.add_argument("--skip", nargs="*", default=[], help="variants to leave out")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def restart_with(coretype: str | None) -> None:
    """Start this process again if OpenBLAS has to be told something else."""
    if coretype and os.environ.get(CORETYPE) != coretype:
        os.environ[CORETYPE] = coretype
        os.execv(sys.executable, [sys.executable, *sys.argv])


def measure(dim: int, arguments: argparse.Namespace) -> list[Result]:
    pool = unit_vectors(arguments.candidates, dim, seed=0)
    asked = unit_vectors(max(arguments.queries), dim, seed=1)
    third = len(pool) // MODALITIES
    part = slice(ASKED * third, (ASKED + 1) * third)
    results = []
    whole = slice(0, len(pool))
    on_gpu = arguments.device == "cuda"
    for chosen, make in [(whole, on_a_gpu)] if on_gpu else [(whole, unfiltered), (part, filtered)]:
        variants = {name: search for name, search in make(pool).items() if name not in arguments.skip}
        best = brute_force(pool[chosen], asked[:CHECKED], arguments.k) + chosen.start
        for count in arguments.queries:
            size = (dim, count, chosen.stop - chosen.start)
            results += compare(variants, asked[:count], best, size, arguments)
    return results


def compare(
    variants: Mapping[str, Search],
    queries: Floats,
    best: Labels,
    size: tuple[int, int, int],
    arguments: argparse.Namespace,
) -> list[Result]:
    equal = {}
    for name, search in variants.items():  # the first time of each is not measured
        found = search(queries, arguments.k)[:CHECKED]
        equal[name] = float((found == best[: len(found)]).mean())
    times: dict[str, list[float]] = {name: [] for name in variants}
    order = random.Random(0)
    for _ in range(arguments.repeats):
        for name in order.sample(list(variants), len(variants)):
            time.sleep(PAUSE)
            start = time.perf_counter()
            variants[name](queries, arguments.k)
            times[name].append(time.perf_counter() - start)
    reference = times[REFERENCE if REFERENCE in times else list(times)[-1]]
    work = 2e-9 * size[0] * size[1] * size[2]
    return [
        Result(
            name,
            *size,
            tuple(own),
            seconds := statistics.median(own),
            work / seconds,
            statistics.median(other / mine for other, mine in zip(reference, own, strict=True)),
            equal[name],
        )
        for name, own in times.items()
    ]


def unit_vectors(count: int, dim: int, seed: int) -> Floats:
    drawn = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    vectors: Floats = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return vectors


def brute_force(pool: Floats, queries: Floats, k: int) -> Labels:
    """The best of each query by scores in float64; random vectors have no equal scores."""
    blocks = range(0, len(pool), 65_536)
    asked = queries.astype(np.float64)
    parts = [asked @ pool[start : start + 65_536].astype(np.float64).T for start in blocks]
    scores: NDArray[np.float64] = np.concatenate(parts, axis=1)
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "cpu": cpu_name(),
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "load": os.getloadavg(),
        "threads": arguments.threads,
        CORETYPE: os.environ.get(CORETYPE, "its own detection"),
        "faiss options": faiss.get_compile_options().strip(),
        "torch cpu capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {name: installed(name) for name in ("torch", "faiss", "sentence-transformers", "numpy")},
        "candidates": arguments.candidates,
        "k": arguments.k,
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def installed(name: str) -> str:
    try:
        return str(faiss.__version__) if name == "faiss" else version(name)
    except PackageNotFoundError:
        return "not installed"


def show(results: list[Result]) -> None:
    table = Table(title=f"Speed is relative to {REFERENCE}, or to the last variant where it is missing")
    for column in ("variant", "dim", "queries", "vectors", "seconds", "GFLOP/s", "speed", "equal"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for result in results:
        table.add_row(
            result.variant,
            str(result.dim),
            str(result.queries),
            str(result.vectors),
            f"{result.seconds:.3f}",
            f"{result.gflops:.0f}",
            f"{result.speed:.2f}",
            f"{result.equal:.5f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
