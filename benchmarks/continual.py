"""Whether text is better learnt after multimodal retrieval or together with it; several seeds, and a table.

    python benchmarks/continual.py --jobs 2 --json continual.json

stage1       configs/stage1.yaml: multimodal data alone
continual    configs/continual_text.yaml, which goes on from there
at_once      from the backbone, both kinds of data blended, as many steps as both stages together, and as many
             samples of each kind; mined negatives after each epoch but the last, as in stage 1

Text is measured on the test queries of the embedded text benchmark, multimodal retrieval as in stage 1. Runs
that finished in the output folder are not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from seeded_runs import ROOT, Measure, Results, folder, parser, report, run_all

MULTIMODAL = (
    Measure("global hit@5", "global", "hit@5"),
    Measure("modality accuracy@1", "global", "modality_accuracy@1"),
    Measure("local hit@5", "local", "hit@5"),
)
TEXT = "text nDCG@10"
MEASURES = (*MULTIMODAL, Measure(TEXT, "local", "ndcg@10", "metrics_text.json"))
AT_START = Measure(TEXT, "local", "ndcg@10", "metrics_text.json", "start")
STEPS = 100
"""Of an epoch of stage 1 with its own size and batches."""


def main() -> None:
    known = parser(__doc__, "benchmark_continual")
    known.add_argument("--steps", type=int, help="steps of an epoch of each stage, to try it out")
    arguments = known.parse_args()
    if arguments.variants:
        raise SystemExit("continual.py: its variants belong together; leave --variants out")
    arguments.out.mkdir(parents=True, exist_ok=True)
    stage1, stage2 = (read(name) for name in ("stage1", "continual_text"))
    if arguments.steps:
        stage2["data"]["init_args"]["batches_per_epoch"] = arguments.steps
    steps = [f"--data.init_args.batches_per_epoch={arguments.steps}"] if arguments.steps else []
    results = run_all({"stage1": ["-c", "configs/stage1.yaml", *steps]}, MULTIMODAL, arguments)
    start = str(folder("stage1", 0, arguments)).replace("stage1_0_", "stage1_{seed}_")
    continual = ["-c", "configs/continual_text.yaml", f"--model.init_args.init_from={start}", *steps]
    later = argparse.Namespace(**{**vars(arguments), "epochs": stage2["trainer"]["max_epochs"]})
    results |= run_all({"continual": continual}, MEASURES, later)
    for seed, found in zip(arguments.seeds, results["stage1"], strict=True):
        found[TEXT] = AT_START.of(folder("continual", seed, later))
    results |= at_once(stage1, stage2, arguments, later.epochs)
    report("order", results, MEASURES, arguments)


def at_once(
    stage1: dict[str, Any], stage2: dict[str, Any], arguments: argparse.Namespace, epochs: int
) -> Results:
    """Train on both kinds of data from the backbone, in epochs as long as those of stage 1."""
    values = stage2["data"]["init_args"]
    epoch = arguments.steps or STEPS
    later = epochs * values["batches_per_epoch"]
    steps = arguments.epochs * epoch + later
    config = dict(stage1)
    config["data"] = {
        "class_path": stage2["data"]["class_path"],
        "init_args": {
            **values,
            "text_share": values["text_share"] * later / steps,
            "batches_per_epoch": epoch,
        },
    }
    text = [c for c in stage2["trainer"]["callbacks"] if c["class_path"] == "callbacks.TextEvaluation"]
    config["trainer"]["callbacks"] += text
    config["trainer"]["max_steps"] = steps
    path = arguments.out.resolve() / "at_once.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    together = argparse.Namespace(**{**vars(arguments), "epochs": -(-steps // epoch)})
    return run_all({"at_once": ["-c", str(path)]}, MEASURES, together)


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(Path(ROOT, f"configs/{name}.yaml").read_text())
    return config


if __name__ == "__main__":
    main()
