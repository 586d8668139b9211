"""What hard negatives do on the embedded benchmark: trains with each kind, several seeds, and prints a table.

    python benchmarks/ablation.py --jobs 2 --json ablation.json

All variants are configs/stage1.yaml with other mining; they make the same number of steps and see the same
queries in the same order. Runs that finished in the output folder are not repeated.

in_batch            no mined negatives: the paper's M^rand, which mines at its end for ``restart``
modality_unaware    after the first epoch, any of the top 50 that is no known positive
percent_filter      of these, what scores at most 95 % of the positive (NV-Retriever)
modality_aware      the paper's two kinds, C1 and C2: configs/stage1.yaml itself
restart             the paper's M^hard: from the backbone again, all epochs with the negatives of ``in_batch``
one_task            in_batch, each batch of one task, so that in-batch negatives are of the right modality
one_task_unaware    the same with modality_unaware's negatives after the first epoch
one_task_aware      the same with the paper's two kinds after the first epoch
one_task_restart    restart, with the negatives of one_task and batches of one task
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from seeded_runs import ROOT, Measure, chosen, folder, parser, report, run_all

MEASURES = (
    Measure("hit@5", "global", "hit@5"),
    Measure("modality accuracy@1", "global", "modality_accuracy@1"),
    Measure("local hit@5", "local", "hit@5"),
)
ANY_OF_TOP = {"class_path": "mmretrieval.mining.TopK", "init_args": {"sample": True}}
PERCENT = {"class_path": "mmretrieval.mining.PercentOfPositive", "init_args": {"percent": 0.95}}
NEVER = {"every_n_epochs": None}
AT_END = {**NEVER, "after_training": True}
MINING: dict[str, dict[str, Any]] = {
    "in_batch": {"schedule": AT_END},
    "one_task": {"schedule": AT_END},
    "modality_unaware": {"plan": {"top_k": 50, "selection": ANY_OF_TOP}},
    "percent_filter": {"plan": {"top_k": 50, "selection": ANY_OF_TOP, "filters": [PERCENT]}},
    "modality_aware": {},
    "restart": {"schedule": NEVER},
    "one_task_unaware": {"plan": {"top_k": 50, "selection": ANY_OF_TOP}},
    "one_task_aware": {},
    "one_task_restart": {"schedule": NEVER},
}
"""Arguments of the mining callback that differ from those of stage 1, by variant."""
RESTARTS = {"restart": "in_batch", "one_task_restart": "one_task"}
"""Variants that begin with what another one has mined at its end."""


def main() -> None:
    arguments = parser(__doc__, "benchmark_ablation").parse_args()
    names = chosen(list(MINING), arguments)
    later = [name for name in names if name in RESTARTS]
    if missing := [name for name in later if RESTARTS[name] not in names]:
        raise SystemExit(
            f"ablation.py: {missing[0]} needs the negatives of {RESTARTS[missing[0]]}; name both"
        )
    results = run_all(words([name for name in names if name not in later], arguments), MEASURES, arguments)
    results |= run_all(words(later, arguments), MEASURES, arguments)
    report("negatives", {name: results[name] for name in names}, MEASURES, arguments)


def words(names: list[str], arguments: argparse.Namespace) -> dict[str, list[str]]:
    """What ``lightning fit`` is told, by variant; each variant and seed has a configuration of its own."""
    stage1 = yaml.safe_load((ROOT / "configs/stage1.yaml").read_text())
    arguments.out.mkdir(parents=True, exist_ok=True)
    variants = {}
    for name in names:
        for seed in arguments.seeds:
            changes = dict(MINING[name])
            if name in RESTARTS:
                first = folder(RESTARTS[name], seed, arguments)
                changes["start"] = str(first / "negatives/round_0.npz")
            write(arguments.out / f"{name}_{seed}.yaml", stage1, changes)
        variants[name] = ["-c", str(arguments.out.resolve() / f"{name}_{{seed}}.yaml")]
        if name.startswith("one_task"):
            variants[name].append("--data.init_args.homogeneous=true")
    return variants


def write(path: Path, stage1: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Write stage 1 with other arguments of its mining callback."""
    config = copy.deepcopy(dict(stage1))
    found = [c for c in config["trainer"]["callbacks"] if c["class_path"].endswith("HardNegativeMining")]
    if len(found) != 1:
        raise SystemExit(f"ablation.py: configs/stage1.yaml has {len(found)} mining callbacks instead of one")
    found[0]["init_args"] |= changes
    path.write_text(yaml.safe_dump(config, sort_keys=False))


if __name__ == "__main__":
    main()
