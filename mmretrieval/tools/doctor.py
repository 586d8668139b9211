"""``mmretrieval data doctor``: what is wrong with a data set, and what it will cost."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Column, Table

from data_modules.atomic import staged_file
from data_modules.doctor import Assumed, Estimate, Examination, Severity, examine
from mmretrieval.errors import UserError

_WIDTH = 200  # columns where the output is no terminal, so that most places stay whole
_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def doctor(
    root: Path,
    json: Path | None = None,
    images: Literal["decode", "exists"] = "decode",
    threads: int | None = None,
    examples: int = 3,
    contents_per_second: float | None = None,
    dimension: int | None = None,
    progress: bool = True,
) -> None:
    """Find everything that is wrong with a data set; exit with status 1 if there is an error or a warning.

    Args:
        root: Folder in the M-BEIR or the BEIR layout.
        json: File for the report.
        images: Decode every image, or only ask whether it exists.
        threads: How many images to decode at a time.
        examples: How many places to name of each kind of finding.
        contents_per_second: How many contents your model embeds a second, for an estimate of hours.
        dimension: Length of its embeddings, for an estimate of disk.
        progress: Whether to show a progress bar.
    """
    for name, value in (("contents_per_second", contents_per_second), ("dimension", dimension)):
        if value is not None and not value > 0:
            raise UserError(f"{name} is {value}; give a positive number")
    found = examine(
        root,
        images=images,
        threads=threads,
        examples=examples,
        assumed=Assumed(contents_per_second, dimension),
        progress=progress,
    )
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if found.findings.all:
        console.print(_table(found))
    for line in _cost(found.estimate):
        console.print(line, highlight=False, markup=False)
    if images == "exists":
        console.print(
            "Images were not opened: equal pictures and leaks are found by path alone.", highlight=False
        )
    numbers = {severity: found.findings.count(severity) for severity in Severity}
    said = ", ".join(f"{count} {severity.value}s" for severity, count in numbers.items())
    console.print(
        f"{root}: {'no problem' if found.findings.clean else 'problems'} ({said})",
        highlight=False,
        markup=False,
    )
    if json is not None:
        with staged_file(json) as stage:
            stage.write_text(json_module.dumps(report(found), indent=1, allow_nan=False) + "\n", "utf-8")
    if not found.findings.clean:
        raise SystemExit(1)


def report(found: Examination) -> dict[str, Any]:
    """What the JSON file holds."""
    findings = [
        {
            "check": one.check.name,
            "severity": one.check.severity.value,
            "meaning": one.check.meaning,
            "count": one.count,
            "examples": one.examples,
        }
        for one in found.findings.all
    ]
    estimate = asdict(found.estimate) | {"decoded": found.estimate.decoded._asdict()}
    return {
        "root": str(found.root),
        "layout": found.layout,
        "clean": found.findings.clean,
        "findings": findings,
        "estimate": estimate,
    }


def _table(found: Examination) -> Table:
    table = Table(
        "check", "severity", Column("count", justify="right"), Column("first places", overflow="fold"),
        title=f"{found.root} ({found.layout} layout)", show_lines=True,
    )  # fmt: skip
    for one in found.findings.all:
        places = "\n".join([one.check.meaning, *one.examples])
        row = (one.check.name, one.check.severity.value, f"{one.count:,}", escape(places))
        table.add_row(*row, style=_STYLES[one.check.severity])
    return table


def _cost(figures: Estimate) -> list[str]:
    queries = ", ".join(f"{count:,} {split}" for split, count in figures.queries.items())
    lines = [
        f"counted: {figures.candidates:,} distinct candidates; queries: {queries or 'none'}; "
        f"{figures.images:,} distinct images of {decimal(figures.image_bytes)}",
        f"estimated: about {decimal(figures.packed_bytes)} when packed",
    ]
    seen, rate, speed = figures.decoded, figures.images_per_second, figures.contents_per_second
    if rate is not None and figures.decode_hours is not None:
        lines += [
            f"measured: {seen.images:,} images read and decoded in {seen.seconds:.1f} s "
            f"with {seen.threads} threads, {rate:,.0f} a second",
            f"extrapolated: {figures.decode_hours:.2g} h to decode each distinct image once more here, "
            "without the model",
        ]
    if figures.embedding_hours is not None:
        lines.append(
            f"extrapolated: {figures.embedding_hours:.2g} h to embed all candidates and the queries of val "
            f"and test once, at the given {speed:,g} contents a second"
        )
    if figures.embedding_bytes is not None:
        lines.append(
            f"calculated: {decimal(figures.embedding_bytes)} for the candidates' {figures.dimension}-d "
            f"embeddings in float32, {decimal(figures.embedding_bytes // 2)} in float16"
        )
    return lines
