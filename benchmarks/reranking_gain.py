"""What zero-shot reranking by the shipped MLLM does to stage 1's best candidates; several seeds, and a table.

    python benchmarks/reranking_gain.py --json reranking_gain.json

For each seed: configs/stage1.yaml is trained, unless ``--runs`` names finished runs; its validation and test
queries are searched in the global pool, and the best ``--top-k`` candidates are reordered by the unchanged
MLLM. ``reranker alone`` is the order of its scores; ``both`` mixes them with the retriever's, with the weight
that is best on the validation split. What has finished in the output folder is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from seeded_runs import ROOT, folder, parser, spread, tail, train

MEASURE = "hit@1"
POOL = "global_"
COMPOSED = ("task6", "task7", "task8")
ORDERS = ("retriever", "reranker alone", "both")
Values = dict[str, dict[str, float]]
"""Task → order → share of queries."""


def main() -> None:
    arguments = parse()
    found = [of_seed(seed, arguments) for seed in arguments.seeds]
    rows = table(found)
    show(rows, arguments)
    if arguments.json:
        document = {"seeds": arguments.seeds, "top_k": arguments.top_k, "runs": found, "table": rows}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


def parse() -> argparse.Namespace:
    known = parser(__doc__, "benchmark_reranking")
    known.add_argument("--top-k", type=int, default=10)
    known.add_argument("--base", default="embedded", help="the reranking MLLM, a folder or a name")
    known.add_argument("--runs", help="finished runs of stage 1, with {seed} for the seed")
    arguments = known.parse_args()
    if arguments.variants or arguments.jobs != 1:
        raise SystemExit("reranking_gain.py: has no variants, and one job at a time; leave both options out")
    return arguments


def of_seed(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The measures of one seed, and the weight that was chosen for it."""
    if arguments.runs:
        run = Path(arguments.runs.format(seed=seed)).resolve()
    else:
        train("stage1", ["-c", "configs/stage1.yaml"], seed, (), arguments)
        run = folder("stage1", seed, arguments)
    out = Path(arguments.out.resolve(), f"reranked_{seed}")
    lists = {split: searched(run, split, seed, out, arguments) for split in ("val", "test")}
    tuned = reranked(lists["val"], "val", 1.0, out / "val_reranked", arguments)
    curve = tuned["fusion"]
    weight = max(curve, key=lambda step: (step[MEASURE], -step["weight"]))["weight"]
    alone = reranked(lists["test"], "test", 1.0, out / "test_alone", arguments)
    both = reranked(lists["test"], "test", weight, out / "test_both", arguments)
    values: Values = {}
    for name in alone["after"]:
        if name.startswith(POOL):
            orders = (alone["before"][name], alone["after"][name], both["after"][name])
            values[name.removeprefix(POOL)] = {
                order: own[MEASURE] for order, own in zip(ORDERS, orders, strict=True)
            }
    return {"seed": seed, "weight": weight, "tasks": values, "curve": curve}


def searched(run: Path, split: str, seed: int, out: Path, arguments: argparse.Namespace) -> Path:
    """Search a split's queries; returns the folder of run files of the global pool."""
    place = out / split
    config = read("evaluate", place)
    one(config, "RetrievalEvaluation")["split"] = split
    config["model"]["init_args"] |= {"init_from": str(run), "encoder": None}
    command = "test" if split == "test" else "validate"
    words = [command, "-c", written(config, place, "evaluate"), *data_words(arguments)]
    run_once(words, place)
    found = place / f"runs_{command}"
    for path in found.glob("*"):
        if not path.name.startswith(POOL):
            path.unlink()
    return found


def reranked(
    runs: Path, split: str, weight: float, place: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Reorder run files; returns what was measured."""
    config = read("rerank", place)
    one(config, "RerankWriter").update(
        weight=weight, scores=str(place.parent / f"scores_{split}"), measures=[MEASURE, "hit@5", "mrr"]
    )
    config["model"]["init_args"]["reranker"]["init_args"]["base"] = arguments.base
    config["data"]["init_args"] |= {"runs": str(runs), "split": split, "top_k": arguments.top_k}
    run_once(["predict", "-c", written(config, place, "rerank"), *data_words(arguments)], place)
    found: dict[str, Any] = json.loads((place / "metrics_rerank.json").read_text())
    return found


def read(name: str, place: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())
    config["trainer"]["default_root_dir"] = str(place)
    return config


def one(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments of a configuration's callback."""
    (found,) = [c for c in config["trainer"]["callbacks"] if c["class_path"].endswith(name)]
    arguments: dict[str, Any] = found["init_args"]
    return arguments


def written(config: dict[str, Any], place: Path, name: str) -> str:
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{name}_words.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(path)


def data_words(arguments: argparse.Namespace) -> list[str]:
    return [f"--data.init_args.size={arguments.size}"] if arguments.size else []


def run_once(words: list[str], place: Path) -> None:
    """Run ``lightning``, unless it has finished there with the same configuration."""
    finished, facts = place / "finished", Path(words[2]).read_text()
    if finished.exists() and finished.read_text() == facts:
        return
    print(f"lightning {' '.join(words)}", flush=True)
    command = [str(Path(sys.executable).with_name("lightning")), *words]
    with (place / "log").open("w") as log:
        run = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=os.environ)
    if run.returncode:
        raise SystemExit(f"lightning {words[0]} failed; the end of {place / 'log'}:\n{tail(place / 'log')}")
    finished.write_text(facts)


def table(found: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each task and for averages: every order's mean ± deviation, and those of the changes."""
    tasks = list(found[0]["tasks"])
    groups = {
        "average": tasks,
        "composed queries (tasks 6 to 8)": [task for task in tasks if task.endswith(COMPOSED)],
        "other queries": [task for task in tasks if not task.endswith(COMPOSED)],
        **{task: [task] for task in tasks},
    }
    return [[name, *cells(found, chosen)] for name, chosen in groups.items()]


def cells(found: list[dict[str, Any]], tasks: list[str]) -> list[str]:
    means = [
        {order: 100 * statistics.mean(seed["tasks"][task][order] for task in tasks) for order in ORDERS}
        for seed in found
    ]
    values = [spread([own[order] for own in means]) for order in ORDERS]
    changes = [spread([own[order] - own[ORDERS[0]] for own in means]) for order in ORDERS[1:]]
    return [values[0], values[1], changes[0], values[2], changes[1]]


def show(rows: list[list[str]], arguments: argparse.Namespace) -> None:
    title = f"{MEASURE}, percent, mean ± deviation, seeds {arguments.seeds}, best {arguments.top_k} reordered"
    shown = Table("queries", ORDERS[0], ORDERS[1], "change", ORDERS[2], "change", title=title)
    for row in rows:
        shown.add_row(*row)
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
