"""Memory of mining hard negatives from a pool on disk, beside sentence-transformers' miner, under one limit.

    uv run --group peers python benchmarks/mining_memory.py --json mining_memory.json

Each pool is an embedding store of float16 vectors. Ours reads it tile by tile; the peer is
sentence_transformers.util.mine_hard_negatives with a model that returns the same vectors. Both run in a
process of their own that may allocate no more than --limit GiB (RLIMIT_DATA, beyond what imports take), and
mine one negative a query from the top 50. Linux only.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mmretrieval.index import EmbeddingStore, ExactIndex
from mmretrieval.mining import MiningPlan, Rankings, TopK, mine

SHARD, TOP = 62_500, 50
MINERS = ("ours", "sentence-transformers")


def main() -> None:
    arguments = parse()
    if arguments.child:
        print(json.dumps(child(arguments)))
        return
    results = []
    with TemporaryDirectory(dir=arguments.folder) as folder:
        for size in arguments.sizes:
            write_pool(Path(folder, str(size)), size, arguments.dim)
            results += [measured(miner, Path(folder, str(size)), size, arguments) for miner in MINERS]
    show(results, arguments.limit)
    if arguments.json:
        arguments.json.write_text(json.dumps({"limit_gib": arguments.limit, "results": results}, indent=1))


def parse() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--sizes", type=int, nargs="+", default=[250_000, 500_000, 1_000_000, 2_000_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--limit", type=float, default=3.0, help="GiB that a process may allocate")
    parser.add_argument("--folder", type=Path, help="where pools are written; the system's by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=MINERS, help=argparse.SUPPRESS)
    parser.add_argument("--pool", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_pool(folder: Path, size: int, dim: int) -> None:
    """Random directions; each shard has those of the first in other columns, which is faster than drawing."""
    store = EmbeddingStore.create_or_open(folder, {}, "float16")
    block = torch.randn(SHARD, dim, generator=torch.Generator().manual_seed(0))
    block = torch.nn.functional.normalize(block, dim=1).half()
    for start in range(0, size, SHARD):
        count = min(SHARD, size - start)
        rows = np.arange(start, start + count)
        vectors = block[:count].roll(start // SHARD * 17, dims=1)
        store.write(f"{start:09d}", rows, [b""] * count, np.zeros(count, np.uint8), vectors)


def measured(miner: str, pool: Path, size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", miner, "--pool", str(pool)]
    command += ["--limit", str(arguments.limit), "--queries", str(arguments.queries)]
    done = subprocess.run(command, capture_output=True, text=True)
    result = {"miner": miner, "candidates": size, "dim": arguments.dim, "queries": arguments.queries}
    if done.returncode == 0:
        return result | json.loads(done.stdout.splitlines()[-1])
    last = (done.stderr.strip().splitlines() or ["killed"])[-1]
    if "memory" not in last.lower() and "killed" not in last:
        raise SystemExit(f"mining_memory.py: {miner} with {size} candidates failed: {last}")
    return result | {"failed": last}


def child(arguments: argparse.Namespace) -> dict[str, float]:
    mine_with = ours if arguments.child == "ours" else peer()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    limit = allocated() + int(arguments.limit * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    store = EmbeddingStore.open(arguments.pool)
    queries = np.random.default_rng(1).normal(size=(arguments.queries, store.dim)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    started = time.perf_counter()
    found = mine_with(store, queries)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak_bytes": peak - before, "negatives": found}


def allocated() -> int:
    """Bytes that count for RLIMIT_DATA by now: libraries and threads take gigabytes of address space."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def ours(store: EmbeddingStore, queries: np.ndarray) -> int:
    index = ExactIndex()
    for vectors, rows, modality in store.parts():
        index.add(vectors, labels=rows, group=modality)
    scores, rows = index.search(queries, TOP)
    everyone = np.arange(len(queries), dtype=np.int64)
    rankings = Rankings(
        rows=rows,
        scores=scores,
        target_modality=np.zeros(len(queries), np.uint8),
        labelled_row=everyone,  # query q belongs to candidate q
        known_rows=everyone,
        known_offsets=np.arange(len(queries) + 1),
        query_keys=everyone,
    )
    count = len(index)
    plan = MiningPlan(top_k=TOP, selection=TopK())
    mined, _ = mine(rankings, np.zeros(count, np.uint8), np.arange(count, dtype=np.int64), plan)
    return int((mined.rows >= 0).sum())


def peer() -> Callable[[EmbeddingStore, np.ndarray], int]:
    from datasets import Dataset
    from sentence_transformers.util import dot_score, mine_hard_negatives, pairwise_dot_score

    def mined(store: EmbeddingStore, queries: np.ndarray) -> int:
        def encoded(texts: list[str], **_: object) -> np.ndarray:
            if texts[0].startswith("q"):
                return queries
            vectors = np.empty((len(texts), store.dim), np.float32)  # what encode() makes
            for part, rows, _modality in store.parts():
                vectors[rows] = part[0 : len(rows)]
            return vectors

        model = SimpleNamespace(
            device=torch.device("cpu"),
            encode_document=encoded,
            encode_query=encoded,
            similarity=dot_score,
            similarity_pairwise=pairwise_dot_score,
        )
        corpus = [str(row) for row in range(len(store))]
        positives = corpus[: len(queries)]
        data = Dataset.from_dict({"query": [f"q{text}" for text in positives], "positive": positives})
        rest = corpus[len(queries) :]
        found = mine_hard_negatives(
            data, model, corpus=positives + rest, range_max=TOP, num_negatives=1, verbose=False
        )
        return len(found)

    return mined


def show(results: list[dict[str, Any]], limit: float) -> None:
    columns = ("candidates", "dim", "queries", "seconds", "GiB more at most", "negatives")
    table = Table("miner", *columns, title=f"at most {limit:g} GiB allocated")
    for result in results:
        sizes = [f"{result[name]:,}" for name in ("candidates", "dim", "queries")]
        if "failed" in result:
            cells = ["does not fit", "", ""]
        else:
            peak = result["peak_bytes"] / 2**30
            cells = [f"{result['seconds']:.1f}", f"{peak:.2f}", str(result["negatives"])]
        table.add_row(result["miner"], *sizes, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
