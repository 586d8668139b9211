"""Compares poolings on the embedded benchmark: trains each with several seeds and prints a table.

    python benchmarks/pooling.py --json pooling.json

Each run is ``lightning fit -c configs/stage1.yaml -c configs/pooling/NAME.yaml`` with a seed for the weights
and the order of the data. Runs that finished in the output folder are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
MEASURES = ("hit@1", "hit@5", "modality_accuracy@1")


def main() -> None:
    arguments = parse()
    names = arguments.variants or sorted(path.stem for path in (ROOT / "configs/pooling").glob("*.yaml"))
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in arguments.seeds:
        for name in names:
            results[name].append(train(name, seed, arguments))
    show(results)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seeds": arguments.seeds, "runs": results}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", help="names in configs/pooling; all by default")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--size", type=int, help="of the embedded benchmark; its default if left out")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark_pooling"))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def train(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    out = arguments.out / f"{name}_{seed}_{arguments.epochs}_{arguments.size or 'default'}"
    finished = out / "finished"  # metrics.json is there from the first evaluation on
    if not finished.exists():
        command = [str(Path(sys.executable).with_name("lightning")), "fit", "-c", "configs/stage1.yaml"]
        command += ["-c", f"configs/pooling/{name}.yaml", f"--seed_everything={seed}"]
        command += [f"--data.init_args.seed={seed}", f"--trainer.max_epochs={arguments.epochs}"]
        command += [f"--trainer.default_root_dir={out.resolve()}"]
        if arguments.size:
            command.append(f"--data.init_args.size={arguments.size}")
        print(f"{name}, seed {seed}: lightning {' '.join(command[1:])}", flush=True)
        out.mkdir(parents=True, exist_ok=True)
        with (out / "log").open("w") as log:
            run = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        if run.returncode:
            raise SystemExit(f"pooling.py: that run failed; the end of {out / 'log'}:\n{tail(out / 'log')}")
        finished.touch()
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return {measure: metrics["global"]["average"][measure] for measure in MEASURES}


def tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def show(results: dict[str, list[dict[str, float]]]) -> None:
    columns = (f"global {measure}" for measure in MEASURES)
    table = Table("pooling", *columns, title="mean ± deviation, percent")
    for name, runs in results.items():
        table.add_row(name, *(spread([100 * run[measure] for run in runs]) for measure in MEASURES))
    Console().print(table)


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    main()
