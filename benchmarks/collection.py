"""What an index of one's own files costs beside the retriever: indexing, adding to it, and searching it.

    python benchmarks/collection.py --json FILE
    python benchmarks/collection.py --ways float32 binary:256 milvus        # PRECISION[:DIMENSIONS] or milvus
    python benchmarks/collection.py --ways milvus --milvus http://HOST:19530

Embeddings are drawn from each text around one of 2,000 centres in a subspace of 64 dimensions, with a mean
that is not zero, as a model's are. So all time is the index's own: reading the source, the catalogue, the
store of embeddings, and search. The source is a JSONL file of short texts; it is embedded once, and then
searched in each of the ways, after some more texts were added.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mmretrieval.collection.collection import Collection
from mmretrieval.collection.recall import recall
from mmretrieval.collection.searching import Searcher
from mmretrieval.collection.settings import Settings
from mmretrieval.content import Content, Query
from mmretrieval.retriever import Retriever

T = TypeVar("T")


class DrawnEmbeddings:
    """Stands for a retriever: the embedding of a text is drawn around a centre that its digest chooses.

    Args:
        dim: Dimension of the embeddings.
    """

    name, provenance = "drawn", None

    def __init__(self, dim: int) -> None:
        self.dim = dim
        rng = np.random.default_rng(0)
        self._centres = rng.standard_normal((2_000, 64), dtype=np.float32)
        self._spread = rng.standard_normal((64, dim), dtype=np.float32) / 8
        self._mean = rng.standard_normal(dim, dtype=np.float32) / 2

    def embedding_hash(self) -> str:
        """What tells it from others."""
        return f"drawn-{self.dim}"

    def encode_candidates(self, candidates: Sequence[Content]) -> NDArray[np.float32]:
        """Embeddings of N contents, ``(N, D)``."""
        digests = [blake2b((one.text or "").encode(), digest_size=8).digest() for one in candidates]
        seeds = [int.from_bytes(digest, "little") for digest in digests]
        noise = np.stack(
            [np.random.default_rng(seed).standard_normal(64 + self.dim, dtype=np.float32) for seed in seeds]
        )
        near = self._centres[[seed % 2_000 for seed in seeds]] + 0.7 * noise[:, :64]
        drawn = near @ self._spread + 0.3 * noise[:, 64:] + self._mean
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    def encode_queries(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """Embeddings of N queries, ``(N, D)``."""
        return self.encode_candidates([query.content for query in queries])


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(Path(folder), arguments)
    table = Table("what", *(way["way"] for way in figures["ways"]))
    for name in figures["ways"][0]:
        table.add_row(name, *(shown(way[name]) for way in figures["ways"]))
    facts = {name: value for name, value in figures.items() if name != "ways"}
    Console().print(*(f"{name}: {shown(value)}" for name, value in facts.items()), table, sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def shown(value: float | str) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def read_arguments() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--added", type=int, default=1_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--ways", nargs="+", default=["float32", "int8", "binary", "float32:128"])
    parser.add_argument("--milvus", default="milvus.db", help="a file in the index's folder, or an address")
    parser.add_argument("--checked", type=int, default=200, help="queries whose recall is measured")
    parser.add_argument("--folder", type=Path, help="where to write; by default the temporary folder")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    retriever: Any = DrawnEmbeddings(arguments.dim)
    source, index = folder / "items.jsonl", folder / "index"
    plain = Settings(str(source), "drawn", retriever.embedding_hash(), 100, "float32", None, None)
    write(source, range(arguments.items))
    with Collection.create_or_open(index, plain) as collection:
        first, whole = timed(lambda: collection.update(retriever, batch_size=256))
        _, again = timed(lambda: collection.update(retriever, batch_size=256))
    assert first.embedded == arguments.items
    size = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    ways = []
    for number, way in enumerate(arguments.ways, start=1):
        settings = replace(plain, **chosen(way, arguments.milvus))
        with Collection.create_or_open(index, settings) as collection:
            _, changing = timed(lambda c=collection: c.update(retriever, batch_size=256))
            write(source, range(arguments.items + number * arguments.added))
            added, adding = timed(lambda c=collection: c.update(retriever, batch_size=256))
        costs = {
            "way": way,
            "changing to it, s": changing,
            f"adding {arguments.added:,}, s": adding,
            "embedded then": added.embedded,
            "sent to Milvus then": added.placed,
        }
        ways.append(costs | searching(index, retriever, arguments))
    return {
        "items": arguments.items,
        "dimensions": arguments.dim,
        "indexing, s": whole,
        "nothing new, s": again,
        "bytes on disk an item": size / arguments.items,
        "ways": ways,
    }


def chosen(way: str, milvus: str) -> dict[str, Any]:
    name, _, dims = way.partition(":")
    to = {"precision": "float32", "milvus": milvus} if name == "milvus" else {"precision": name}
    return {**to, "dims": int(dims) if dims else None}


def searching(index: Path, retriever: Retriever, arguments: argparse.Namespace) -> dict[str, Any]:
    with Collection.open(index) as collection:
        searcher, opening = timed(lambda: Searcher(collection, retriever))
        measured = recall(collection, arguments.checked)
        times = [
            timed(lambda n=n: searcher.search(Content(f"query {n}"), 10))[1] for n in range(arguments.queries)
        ]
    assert measured is not None
    return {
        "opening to search, s": opening,
        "recall@10": measured.share,
        "search p50, ms": 1e3 * statistics.median(times),
        "search p95, ms": 1e3 * sorted(times)[int(0.95 * len(times))],
    }


def write(path: Path, numbers: range) -> None:
    with path.open("w") as lines:
        lines.writelines(json.dumps({"id": n, "text": f"item number {n}"}) + "\n" for n in numbers)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


if __name__ == "__main__":
    main()
