"""What stage 2 learns of one's own text that the small model has hardly read; several seeds, and a table.

    python benchmarks/unfamiliar_text.py --root MBEIR --text-root TEXTS --jobs 2 --json unfamiliar.json

start        configs/stage1.yaml: trained on the embedded multimodal data alone
unfamiliar   configs/continual_text.yaml with configs/continual/unfamiliar.yaml, from there, on one's own data
as_it_is     configs/continual_text.yaml alone, from there, on the same data

Measured on the test queries of the text data sets, which are folders in the BEIR layout. Runs that finished
in the output folder are not repeated; those of stage 1 are shared with benchmarks/continual.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from seeded_runs import ROOT, Measure, Results, chosen, folder, parser, report, run_all

NAMES = ("ndcg@10", "mrr", "hit@10", "hit@100")
FILE = "metrics_text.json"
MEASURES = tuple(Measure(name, "local", name, FILE) for name in NAMES)
AT_START = tuple(Measure(name, "local", name, FILE, "start") for name in NAMES)
STAGE_2, OVERLAY = "configs/continual_text.yaml", "configs/continual/unfamiliar.yaml"


def main() -> None:
    options = parser(__doc__, "benchmark_continual")
    options.add_argument("--root", type=Path, required=True, help="multimodal data: data.root")
    options.add_argument("--text-root", type=Path, required=True, help="text data: data.text_root")
    options.add_argument("--steps", type=int, help="steps of an epoch of each stage, to try it out")
    arguments = options.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    known = configurations(arguments)
    variants = {name: known[name] for name in chosen([*known], arguments)}
    run_all({"stage1": ["-c", "configs/stage1.yaml", *shorter(arguments)]}, (), arguments)
    results: Results = {}
    for name, files in variants.items():
        later = argparse.Namespace(**{**vars(arguments), "epochs": epochs(files), "size": None})
        found = run_all({name: words(files, arguments)}, MEASURES, later)
        runs = [folder(name, seed, later) for seed in arguments.seeds]
        results.setdefault("start", [{m.heading: m.of(run) for m in AT_START} for run in runs])
        results |= found
    report("after", results, MEASURES, arguments)


def configurations(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Configuration files of the variants, by name."""
    plain: dict[str, Any] = yaml.safe_load(Path(ROOT, STAGE_2).read_text())
    for callback in plain["trainer"]["callbacks"]:
        if callback["class_path"] == "callbacks.TextEvaluation":
            callback["init_args"]["ks"] = [1, 5, 10, 100]  # as the overlay's
    path = arguments.out.resolve() / "as_it_is.yaml"
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    return {"unfamiliar": [STAGE_2, OVERLAY], "as_it_is": [str(path)]}


def words(files: list[str], arguments: argparse.Namespace) -> list[str]:
    """What ``lightning fit`` is told; ``{seed}`` stands for the seed."""
    start = str(folder("stage1", 0, arguments)).replace("stage1_0_", "stage1_{seed}_")
    said = [word for path in files for word in ("-c", path)]
    said += [f"--data.root={arguments.root.resolve()}", f"--data.text_root={arguments.text_root.resolve()}"]
    return [*said, f"--model.init_args.init_from={start}", *shorter(arguments)]


def shorter(arguments: argparse.Namespace) -> list[str]:
    return [f"--data.init_args.batches_per_epoch={arguments.steps}"] if arguments.steps else []


def epochs(files: list[str]) -> int:
    """How many epochs the last of some configurations that says so has."""
    found = [yaml.safe_load(Path(ROOT, path).read_text())["trainer"].get("max_epochs") for path in files]
    return next(number for number in reversed(found) if number is not None)


if __name__ == "__main__":
    main()
