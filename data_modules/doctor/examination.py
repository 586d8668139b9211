"""One examination of a folder, whichever of the layouts it has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from data_modules.doctor.beir import BEIRChecks
from data_modules.doctor.estimate import Assumed, Estimate, estimate
from data_modules.doctor.findings import Findings
from data_modules.doctor.images import ImageChecker, ImageMode, ImageRate
from data_modules.doctor.layout import Layout
from data_modules.doctor.lines import LineReader
from data_modules.doctor.mbeir import MBEIRChecks
from data_modules.formats.records import DataError


@dataclass(frozen=True)
class Examination:
    """What was found.

    Args:
        root: The folder.
        layout: ``M-BEIR`` or ``BEIR``.
        findings: What is wrong with it.
        estimate: What it will cost.
    """

    root: Path
    layout: str
    findings: Findings
    estimate: Estimate


def examine(
    root: Path,
    *,
    images: ImageMode = "decode",
    threads: int | None = None,
    examples: int = 3,
    assumed: Assumed | None = None,
    progress: bool = True,
) -> Examination:
    """Read a data set to its end and collect what is wrong with it.

    Memory is some tens of bytes a row: contents are compared by 64-bit keys.

    Args:
        root: A folder in the M-BEIR release layout or the BEIR layout.
        images: ``decode`` every distinct image once, or only ask whether it ``exists``; contents are then
            compared by path.
        threads: How many images to decode at a time; as many as processors, at most 16, by default.
        examples: How many places to name of each kind of finding, at least 1.
        assumed: What the user knows about the model, for estimates.
        progress: Whether to show a progress bar.

    Raises:
        DataError: If the folder is in neither layout, or a number is out of range.
    """
    threads = min(16, os.cpu_count() or 1) if threads is None else threads
    if min(threads, examples) < 1:
        raise DataError(f"threads is {threads}, examples {examples}; give at least 1")
    findings = Findings(examples)
    layout = _layout(root)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress, transient=True) as bar:
        job = bar.add_task("examining", total=None)
        reader = LineReader(root, findings, lambda count: bar.advance(job, count))

        def begin(files: Iterable[Path]) -> None:
            bar.update(job, total=sum(path.stat().st_size for path in files))

        if layout == "BEIR":
            result = _examine_beir(root, reader, begin, assumed or Assumed())
        else:
            result = _examine_mbeir(root, reader, begin, assumed or Assumed(), images, threads)
    return Examination(root, layout, findings, result)


def _layout(root: Path) -> str:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder of a data set")
    if any((root / name).is_dir() for name in ("query", "cand_pool")):
        return "M-BEIR"
    if any((root / name).is_file() for name in ("corpus.jsonl", "queries.jsonl")):
        return "BEIR"
    raise DataError(
        f"{root}: has neither query/ and cand_pool/, as M-BEIR's layout, nor corpus.jsonl and "
        "queries.jsonl, as BEIR's; give the folder that holds them"
    )


def _examine_mbeir(
    root: Path,
    reader: LineReader,
    begin: Callable[[Iterable[Path]], None],
    assumed: Assumed,
    mode: ImageMode,
    threads: int,
) -> Estimate:
    layout = Layout(root, reader.findings)
    begin(layout.files())
    images = ImageChecker(root, reader.findings, mode, threads)
    try:
        checks = MBEIRChecks(layout, reader, images)
        checks.run()
        return estimate(
            candidate_bytes=checks.candidate_bytes,
            query_bytes=checks.query_bytes,
            image_sizes=images.sizes(),
            decoded=images.rate,
            assumed=assumed,
        )
    finally:
        images.close()


def _examine_beir(
    root: Path, reader: LineReader, begin: Callable[[Iterable[Path]], None], assumed: Assumed
) -> Estimate:
    checks = BEIRChecks(root, reader)
    begin(checks.files())
    checks.run()
    return estimate(
        candidate_bytes=checks.candidate_bytes,
        query_bytes=checks.query_bytes,
        image_sizes=np.empty(0, np.int64),
        decoded=ImageRate(0, 0.0, 1),
        assumed=assumed,
    )
