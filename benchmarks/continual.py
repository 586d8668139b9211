"""Whether text is better learnt after multimodal retrieval or together with it; several seeds, and a table.

    python benchmarks/continual.py --jobs 2 --json continual.json

stage1       configs/stage1.yaml: multimodal data alone
continual    configs/continual_text.yaml, which goes on from there
at_once      from the backbone, both kinds of data blended: exactly as many steps as both stages together, as
             many samples of each kind, and negatives mined by the plan of stage 2 after the same steps. What
             differs is the order and what comes with it: the learning rate falls once and not twice, and
             there are no earlier embeddings to stay near, as the distillation of stage 2 does

Neither uses negatives that data sets give (data.given_negatives is null, as in stage 1).

Text is measured on the test queries of the embedded text benchmark, multimodal retrieval as in stage 1. Runs
that finished in the output folder are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import yaml
from seeded_runs import ROOT, Measure, folder, parser, report, run_all

MULTIMODAL = (
    Measure("global hit@5", "global", "hit@5"),
    Measure("modality accuracy@1", "global", "modality_accuracy@1"),
    Measure("local hit@5", "local", "hit@5"),
)
TEXT = "text nDCG@10"
MEASURES = (*MULTIMODAL, Measure(TEXT, "local", "ndcg@10", "metrics_text.json"))
AT_START = Measure(TEXT, "local", "ndcg@10", "metrics_text.json", "start")


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
    continual.append("--data.init_args.given_negatives=null")  # nor does stage 1 use them
    later = argparse.Namespace(**{**vars(arguments), "epochs": stage2["trainer"]["max_epochs"]})
    results |= run_all({"continual": continual}, MEASURES, later)
    for seed, found in zip(arguments.seeds, results["stage1"], strict=True):
        found[TEXT] = AT_START.of(folder("continual", seed, later))
    made = [
        ends_of_epochs(folder(name, arguments.seeds[0], given))
        for name, given in (("stage1", arguments), ("continual", later))
    ]
    config = at_once(stage1, stage2, *made)
    path = arguments.out.resolve() / "at_once.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    together = argparse.Namespace(**{**vars(arguments), "epochs": config["trainer"]["max_epochs"]})
    results |= run_all({"at_once": ["-c", str(path)]}, MEASURES, together)
    report("order", results, MEASURES, arguments)


def ends_of_epochs(run: Path) -> list[int]:
    """After how many steps each epoch of a finished run ended."""
    rounds = json.loads((run / "metrics_val.json").read_text())["epochs"]  # the test split only at the end
    return [done["step"] for done in rounds if done["epoch"]]


def at_once(
    stage1: dict[str, Any], stage2: dict[str, Any], first: list[int], second: list[int]
) -> dict[str, Any]:
    """The configuration that trains on both kinds of data from the backbone.

    Args:
        stage1: Configuration of stage 1.
        stage2: Configuration of stage 2.
        first: After how many steps each epoch of stage 1 ended.
        second: The same of stage 2, from its own start.
    """
    ends = first + [first[-1] + step for step in second]
    length = math.gcd(*ends)  # mining and evaluation are at ends of epochs
    values = stage2["data"]["init_args"]
    data = {
        **values,
        "text_share": values["text_share"] * second[-1] / ends[-1],
        "batches_per_epoch": length,
        "given_negatives": None,
    }
    trainer = {**stage1["trainer"], "max_steps": ends[-1], "max_epochs": ends[-1] // length}
    mining = of_class(stage2, "HardNegativeMining")["init_args"]
    mining = {**mining, "schedule": {"every_n_epochs": None, "at_steps": ends[:-1]}}
    trainer["callbacks"] = [
        {**callback, "init_args": mining}
        if callback["class_path"].endswith(".HardNegativeMining")
        else callback
        for callback in [*stage1["trainer"]["callbacks"], of_class(stage2, "TextEvaluation")]
    ]
    for evaluation in ("RetrievalEvaluation", "TextEvaluation"):
        found = of_class({"trainer": trainer}, evaluation)
        found["init_args"] = {**found.get("init_args", {}), "every_n_epochs": trainer["max_epochs"]}
    return {**stage1, "trainer": trainer, "data": {**stage2["data"], "init_args": data}}


def of_class(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A callback of a configuration."""
    found: dict[str, Any] = next(
        callback
        for callback in config["trainer"]["callbacks"]
        if callback["class_path"] == f"callbacks.{name}"
    )
    return found


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(Path(ROOT, f"configs/{name}.yaml").read_text())
    return config


if __name__ == "__main__":
    main()
