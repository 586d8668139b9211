"""Trains variants of a configuration with several seeds, some at once, and tabulates mean and deviation."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).parents[1]
Results = dict[str, list[dict[str, float]]]
"""The measures of each seed, by variant."""


@dataclass(frozen=True)
class Measure:
    """A number of a run.

    Args:
        heading: What the table calls it.
        pool: ``global`` or ``local``.
        name: Of the average's measure.
        file: Where it stands.
        part: ``start`` for the weights that training started from; the last ones otherwise.
    """

    heading: str
    pool: str
    name: str
    file: str = "metrics.json"
    part: str | None = None

    def of(self, run: Path) -> float:
        """Read it from a run's folder."""
        metrics: dict[str, Any] = json.loads((run / self.file).read_text())
        value: float = (metrics[self.part] if self.part else metrics)[self.pool]["average"][self.name]
        return value


def parser(description: str | None, out: str) -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=description, formatter_class=layout)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--variants", nargs="+", help="names of the variants; all by default")
    made.add_argument("--epochs", type=int, default=2)
    made.add_argument("--size", type=int, help="of the embedded benchmark; its default if left out")
    made.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores")
    made.add_argument("--out", type=Path, default=Path("outputs") / out, help="finished runs are kept here")
    made.add_argument("--json", type=Path)
    return made


def chosen(known: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """The variants asked for.

    Raises:
        SystemExit: If one is unknown.
    """
    names = arguments.variants or list(known)
    if unknown := sorted({*names} - {*known}):
        raise SystemExit(f"unknown variant {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def run_all(
    variants: Mapping[str, Sequence[str]], measures: Sequence[Measure], arguments: argparse.Namespace
) -> Results:
    """Train each variant with each seed.

    Args:
        variants: Words that follow ``lightning fit``, by name; ``{seed}`` in them stands for the seed.
        measures: What to read of each run.
        arguments: As :func:`parser` reads them.
    """
    work = [(name, seed) for seed in arguments.seeds for name in variants]
    with Progress(console=Console(stderr=True)) as progress, ThreadPoolExecutor(arguments.jobs) as pool:
        task = progress.add_task("runs", total=len(work))

        def one(item: tuple[str, int]) -> dict[str, float]:
            found = train(item[0], variants[item[0]], item[1], measures, arguments)
            progress.advance(task)
            return found

        found = list(pool.map(one, work))
    results: Results = {name: [] for name in variants}
    for (name, _), measured in zip(work, found, strict=True):
        results[name].append(measured)
    return results


def train(
    name: str, words: Sequence[str], seed: int, measures: Sequence[Measure], arguments: argparse.Namespace
) -> dict[str, float]:
    """One run, unless it has finished before; its measures."""
    out = folder(name, seed, arguments)
    finished = out / "finished"  # metrics.json is there from the first evaluation on
    if not finished.exists():
        command = [str(Path(sys.executable).with_name("lightning")), "fit"]
        command += [
            *(word.format(seed=seed) for word in words),
            f"--seed_everything={seed}",
            f"--data.init_args.seed={seed}",
        ]
        command += [f"--trainer.max_epochs={arguments.epochs}", f"--trainer.default_root_dir={out}"]
        if arguments.size:
            command.append(f"--data.init_args.size={arguments.size}")
        print(f"{name}, seed {seed}: lightning {' '.join(command[1:])}", flush=True)
        out.mkdir(parents=True, exist_ok=True)
        threads = str(max(1, (os.cpu_count() or 1) // arguments.jobs))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        with (out / "log").open("w") as log:
            run = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)
        if run.returncode:
            raise SystemExit(f"{name}, seed {seed} failed; the end of {out / 'log'}:\n{tail(out / 'log')}")
        finished.touch()
    return {measure.heading: measure.of(out) for measure in measures}


def folder(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Where a run writes."""
    return Path(arguments.out.resolve(), f"{name}_{seed}_{arguments.epochs}_{arguments.size or 'default'}")


def tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def report(title: str, results: Results, measures: Sequence[Measure], arguments: argparse.Namespace) -> None:
    """Print the table, and write ``--json``."""
    headings = [measure.heading for measure in measures]
    table = Table(title, *headings, title=f"mean ± deviation, percent, seeds {arguments.seeds}")
    for name, runs in results.items():
        table.add_row(name, *(spread([100 * run[heading] for run in runs]) for heading in headings))
    Console().print(table)
    if arguments.json:
        found = {"seeds": arguments.seeds, "epochs": arguments.epochs, "runs": results}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"
