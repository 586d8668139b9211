"""Compares poolings on the embedded benchmark: trains each with several seeds and prints a table.

    python benchmarks/pooling.py --jobs 2 --json pooling.json

Each run is ``lightning fit -c configs/stage1.yaml -c configs/pooling/NAME.yaml`` with a seed for the weights
and the order of the data. Runs that finished in the output folder are not repeated.
"""

from __future__ import annotations

from seeded_runs import ROOT, Measure, chosen, parser, report, run_all

MEASURES = (
    Measure("hit@1", "global", "hit@1"),
    Measure("hit@5", "global", "hit@5"),
    Measure("modality accuracy@1", "global", "modality_accuracy@1"),
    Measure("local hit@5", "local", "hit@5"),
)


def main() -> None:
    arguments = parser(__doc__, "benchmark_pooling").parse_args()
    known = sorted(path.stem for path in (ROOT / "configs/pooling").glob("*.yaml"))
    stage1 = ["-c", "configs/stage1.yaml"]
    variants = {name: [*stage1, "-c", f"configs/pooling/{name}.yaml"] for name in chosen(known, arguments)}
    report("pooling", run_all(variants, MEASURES, arguments), MEASURES, arguments)


if __name__ == "__main__":
    main()
