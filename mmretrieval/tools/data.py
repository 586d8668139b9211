"""``mmretrieval data``: make, pack, check and count data sets."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from data_modules import packing
from data_modules import verify as verification
from data_modules.atomic import staged_file
from mmretrieval.content import MODALITIES
from mmretrieval.errors import UserError


def pack(root: Path, out: Path, max_shard_bytes: int = 512 * 2**20, progress: bool = True) -> None:
    """Pack a data set in the M-BEIR layout into checksummed WebDataset shards.

    Args:
        root: Folder of the data set.
        out: Folder to create.
        max_shard_bytes: Size at which a new shard begins.
        progress: Whether to show a progress bar.
    """
    summary = packing.pack(root, out, max_shard_bytes=max_shard_bytes, progress=progress)
    queries = sum(sum(tasks.values()) for tasks in summary.queries.values())
    print(
        f"{out}: {queries} queries, {summary.distinct_candidates} candidates, {summary.images} images, "
        f"{decimal(summary.bytes)}"
    )


def verify(packed: Path, json: Path | None = None) -> None:
    """Check every byte of a packed folder; exit with status 1 if anything is damaged.

    Args:
        packed: Folder made by 'mmretrieval data pack'.
        json: File for the report.
    """
    report = verification.verify(packed)
    columns = ("rows", "flipped", "headers", "truncated", "duplicated", "unreadable")
    table = Table(Column("file", overflow="fold"), *columns, "notes", title=str(packed))
    for shard in report.shards:
        counts = (str(getattr(shard, column)) for column in columns)
        table.add_row(shard.name, *counts, "; ".join(shard.notes), style=None if shard.ok else "red")
    Console().print(table)
    _write_json(
        json, {"ok": report.ok, "damaged": report.damaged, "shards": [asdict(s) for s in report.shards]}
    )
    bad = sum(not shard.ok for shard in report.shards)
    print("no damage" if report.ok else f"damage in {bad} of {len(report.shards)} files; pack the data again")
    if not report.ok:
        raise SystemExit(1)


def stats(root: Path, json: Path | None = None) -> None:
    """Count queries, candidates and images of a data set, packed or not.

    Args:
        root: Folder in the M-BEIR layout, or made by 'mmretrieval data pack'.
        json: File for the counts.
    """
    counts = verification.stats(root)
    tasks = sorted({task for split in counts.queries.values() for task in split})
    queries = Table("queries", *counts.queries, title=str(root))
    for task in tasks:
        queries.add_row(task, *(str(split.get(task, 0)) for split in counts.queries.values()))
    candidates = Table("candidates", *(modality.value for modality in MODALITIES))
    for pool, numbers in counts.candidates.items():
        candidates.add_row(pool, *(str(numbers.get(modality.value, 0)) for modality in MODALITIES))
    console = Console()
    console.print(queries, candidates)
    print(f"{counts.images} images of {decimal(counts.image_bytes)}; {decimal(counts.bytes)} in all")
    _write_json(json, asdict(counts))


def synthetic(out: Path, seed: int = 0, size: int | None = None, progress: bool = True) -> None:
    """Write the embedded benchmark in the M-BEIR layout.

    Args:
        out: Folder to create.
        seed: The same seed gives the same files.
        size: About how many training queries to write; the benchmark's own default if not given.
        progress: Whether to show a progress bar.
    """
    from data_modules.synthetic.benchmark import write_benchmark  # draws pictures: not needed by the others

    sizes = {} if size is None else {"size": size}
    write_benchmark(out, seed=seed, progress=progress, **sizes)


def album(out: Path, seed: int = 0, size: int = 120, progress: bool = True) -> None:
    """Draw a folder of pictures, captions and notes, to try 'mmretrieval index' on.

    Args:
        out: Folder to create.
        seed: The same seed gives the same files.
        size: How many pictures to draw.
        progress: Whether to show a progress bar.
    """
    from data_modules.synthetic.album import write_album  # draws pictures: not needed by the others

    if size < 1:
        raise UserError(f"--size {size}: must be at least 1")
    write_album(out, seed=seed, size=size, progress=progress)


def _write_json(path: Path | None, values: Mapping[str, Any]) -> None:
    if path is not None:
        with staged_file(path) as stage:
            stage.write_text(json_module.dumps(values, indent=1) + "\n")
