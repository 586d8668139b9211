"""What an index of one's own files costs beside the retriever: indexing, adding to it, and searching.

    python benchmarks/collection.py --json FILE

Embeddings are drawn at random from each text, so that all time is the index's own: reading the source, the
catalogue, the store of embeddings, and search. The source is a JSONL file of short texts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mmretrieval.collection.collection import Collection
from mmretrieval.collection.searching import Searcher
from mmretrieval.collection.settings import Settings
from mmretrieval.content import Content, Query

T = TypeVar("T")


class DrawnEmbeddings:
    """Stands for a retriever: the embedding of a text is drawn from its digest.

    Args:
        dim: Dimension of the embeddings.
    """

    name, provenance = "drawn", None

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def embedding_hash(self) -> str:
        """What tells it from others."""
        return f"drawn-{self.dim}"

    def encode_candidates(self, candidates: Sequence[Content]) -> NDArray[np.float32]:
        """Embeddings of N contents, ``(N, D)``."""
        seeds = [blake2b((one.text or "").encode(), digest_size=8).digest() for one in candidates]
        rows = [np.random.default_rng(int.from_bytes(seed, "little")) for seed in seeds]
        drawn = np.stack([row.standard_normal(self.dim, dtype=np.float32) for row in rows])
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    def encode_queries(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """Embeddings of N queries, ``(N, D)``."""
        return self.encode_candidates([query.content for query in queries])


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(Path(folder), arguments)
    table = Table("what", "figure")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def read_arguments() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--added", type=int, default=1_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--folder", type=Path, help="where to write; by default the temporary folder")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    retriever: Any = DrawnEmbeddings(arguments.dim)
    source = folder / "items.jsonl"
    settings = Settings(
        str(source), "drawn", retriever.embedding_hash(), 100, arguments.precision, None, None
    )
    write(source, range(arguments.items))
    with Collection.create_or_open(folder / "index", settings) as collection:
        first, whole = timed(lambda: collection.update(retriever, batch_size=256))
        _, again = timed(lambda: collection.update(retriever, batch_size=256))
        write(source, range(arguments.items + arguments.added))
        added, adding = timed(lambda: collection.update(retriever, batch_size=256))
        size = sum(path.stat().st_size for path in (folder / "index").rglob("*") if path.is_file())
    with Collection.open(folder / "index") as collection:
        searcher, opening = timed(lambda: Searcher(collection, retriever))
        times = [
            timed(lambda n=n: searcher.search(Content(f"query {n}"), 10))[1] for n in range(arguments.queries)
        ]
    assert first.embedded == arguments.items
    return {
        "items": arguments.items,
        "dimensions": arguments.dim,
        "precision": arguments.precision,
        "indexing, s": whole,
        "nothing new, s": again,
        f"adding {arguments.added:,}, s": adding,
        "embedded then": added.embedded,
        "bytes on disk an item": size / (arguments.items + arguments.added),
        "opening to search, s": opening,
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
